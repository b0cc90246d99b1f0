"""Makes synthetic interaction logs that behave like real logs, with a hundred to tens of millions of users."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from fedrec.data.arguments import check_arguments
from fedrec.data.catalog import Catalog
from fedrec.data.domains import DOMAIN
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions
from fedrec.errors import InputError
from fedrec.kernels import synthetic as draws

__all__ = ["GENRES", "synthetic"]

GENRES = [
    "Drama",
    "Comedy",
    "Thriller",
    "Action",
    "Romance",
    "Adventure",
    "Crime",
    "Fantasy",
    "Mystery",
    "Horror",
    "Family",
    "Animation",
    "History",
    "Music",
    "War",
    "Documentary",
    "Western",
    "Sport",
]
"""Genres of synthetic items, the most frequent first."""

_REGIONS = ["north", "coast", "valley", "capital", "lakes", "hills", "islands", "border"]
_AGES = ["under-18", "18-24", "25-34", "35-49", "50-64", "65-plus"]
_ADJECTIVES = (
    "Quiet Golden Broken Hidden Silent Crimson Distant Frozen Burning Wandering Forgotten Endless Bitter Gentle Hollow "
    "Scarlet Sleeping Stolen Sunken Velvet Wild Winter Ancient Borrowed Bright Careless Clever Cold Crooked Curious "
    "Daring Dark Early Electric Empty Faithful Final Flying Foolish Green Haunted Honest Humble Idle Invisible Iron "
    "Late Little Lonely Lucky Midnight Modern Painted Patient Perfect Proud Restless Royal Secret Seventh Silver "
    "Strange Tender Unknown"
)
_NOUNS = (
    "Harbour Garden River Mountain Letter Orchard Station Lantern Island Bridge Castle Compass Crossing Daughter "
    "Detective Dream Empire Engine Festival Forest Frontier Gambler Ghost Guest Highway Horizon House Journey Key "
    "King Kitchen Library Lighthouse Machine Market Mirror Moon Museum Neighbour Ocean Orchestra Painter Passenger "
    "Pilot Promise Queen Road Sailor Season Shadow Signal Sister Sky Song Stranger Street Summer Teacher Theatre "
    "Tower Traveller Valley Village Window"
)
_PLACES = (
    "Ash Glass Salt Stone Rain Snow Amber Dust Fire Gold Ice Ivory Jade Lead Light Marble Night Paper Pearl Sand "
    "Silk Smoke Steel Thorns Thunder Tin Tomorrow Twilight Water Wax Wind"
)

_RANK_SHIFT, _RANK_POWER = 0.01, 1.3  # popularity of rank r is (r + shift · items)^-power
_SECOND_CLUSTER, _SECOND_WEIGHT = 0.3, 0.5
_GROUP_TILT = 1.0
_ACTIVITY_SD = 0.75
_INTERESTS, _INTEREST_DECAY = 6, 0.5
_LOYALTY, _STAYING, _BREADTH, _DRIFT = 0.6, 0.6, 0.08, 0.7
_FEWEST = 5
_FIRST_PURPOSE = 16
_DOMAINS = "abcdefghijklmnopqrstuvwxyz"
_PURPOSES = (
    "popularity",
    "cluster genre",
    "cluster size",
    "cluster",
    "second cluster",
    "two clusters",
    "region",
    "age",
    "title",
    "generous user",
    "good item",
    "taste of user",
    "taste of item",
    "rating",
    "domain",
)


def synthetic(
    users: int = 2000,
    items: int = 1000,
    interactions_per_user: float = 40,
    seed: int = 0,
    *,
    timestamps: bool = True,
    ratings: bool = False,
    domains: int = 1,
) -> Interactions:
    """Make an interaction log: long-tailed popularity, tastes, visits and interests that change with time.

    Popularity follows the Zipf-Mandelbrot law. Items lie in clusters, clusters in genres; a user has a few clusters of
    interest, which depend on the region and age group, and takes items of them by popularity, none of them twice. User
    `u` has the same rows however many users there are, and the same bits for any number of threads; the catalog depends
    on `items` and `seed` only. Memory: 4 bytes per interaction, and 8 more for `timestamps`.

    Args:
        users: number of users, with ids 1 … users; 1 to 100,000,000.
        items: number of items, with ids 1 … items and features `title` and `genres`; 10 to 10,000,000.
        interactions_per_user: mean of the log-normal number of items per user, which is clipped at 5 and `items` / 2.
        seed: 0 to 2^63 − 1.
        timestamps: whether to make `times`: whole seconds that increase for each user.
        ratings: whether to make `values`: whole ratings from 1 to 5, which depend on how generous the user is, how good
            the item is, the taste of the user, and chance. Which items a user has does not depend on ratings.
        domains: number of domains, 1 to 26. With more than one, the catalog has a column `domain`: `a`, `b`, … drawn by
            item. Clusters span all domains, so that what users take of one says what they take of another.

    Returns:
        Interactions, without values unless `ratings`, and user features `region` and `age_group`.

    Raises:
        InputError: if an argument is outside its limits.

    Example:
        >>> data = synthetic(users=100, items=50, interactions_per_user=10, seed=1)
        >>> data.n_users, data.n_items, data.values is None
        (100, 50, True)
        >>> more = synthetic(users=200, items=50, interactions_per_user=10, seed=1)
        >>> bool((more.items[: len(data)] == data.items).all())
        True
    """
    check_arguments(synthetic, locals())
    _check("users", users, 1, 100_000_000)
    _check("items", items, 10, 10_000_000)
    _check("domains", domains, 1, len(_DOMAINS))
    _check("seed", seed, 0, 2**63 - 1)
    if not _FEWEST <= interactions_per_user <= items / 2:
        raise InputError(
            f"interactions_per_user is {interactions_per_user!r}; it must lie between {_FEWEST} and half of the "
            f"{items} items, {items / 2:g}"
        )
    catalog, market = _market(items, seed)
    if domains > 1:
        catalog = _with_domains(catalog, domains, seed)
    indptr = np.zeros(users + 1, dtype=np.int64)
    regions, ages = np.empty(users, dtype=np.uint8), np.empty(users, dtype=np.uint8)
    log_mean = math.log(interactions_per_user) - _ACTIVITY_SD**2 / 2
    draws.draw_profiles(np.uint64(seed), log_mean, _ACTIVITY_SD, _FEWEST, items // 2, indptr[1:], regions, ages)
    np.cumsum(indptr, out=indptr)
    taken = np.empty(int(indptr[-1]), dtype=np.int32)
    times = np.empty(len(taken) if timestamps else 0, dtype=np.float64)
    interest_weights = _INTEREST_DECAY ** np.arange(_INTERESTS)
    draws.draw_interactions(
        np.uint64(seed),
        items,
        indptr,
        regions,
        ages,
        market,
        interest_weights / interest_weights.sum(),
        np.array([_LOYALTY, _STAYING, _BREADTH, _DRIFT]),
        taken,
        times,
    )
    return Interactions(
        users=Identifiers(pl.Series("user_id", np.arange(1, users + 1))),
        catalog=catalog,
        indptr=indptr,
        items=taken,
        values=_ratings(indptr, taken, items, seed) if ratings else None,
        times=times if timestamps else None,
        user_features=pl.DataFrame({"region": _named(regions, _REGIONS), "age_group": _named(ages, _AGES)}),
    )


def _ratings(indptr: np.ndarray, taken: np.ndarray, items: int, seed: int) -> np.ndarray:
    """Whole ratings [interactions] float32 from 1 to 5, whose mean is about 3.5."""
    users = len(indptr) - 1
    owners = np.repeat(np.arange(users), np.diff(indptr))
    generous, good = _uniforms(seed, "generous user", users), _uniforms(seed, "good item", items)
    tastes = _uniforms(seed, "taste of user", users), _uniforms(seed, "taste of item", items)
    alike = (tastes[0][owners] - 0.5) * (tastes[1][taken] - 0.5)
    drawn = 1.5 * (generous[owners] - 0.5) + 2.0 * (good[taken] - 0.5) + 8.0 * alike
    drawn += 3.5 + 2.0 * (_uniforms(seed, "rating", len(taken)) - 0.5)
    return np.clip(np.rint(drawn), 1.0, 5.0).astype(np.float32)


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputError(f"{name} is {value!r}; it must be a whole number from {low:,} to {high:,}")


def _named(codes: np.ndarray, names: list[str]) -> pl.Series:
    """Codes as an enumeration: four bytes or fewer per user, not a text."""
    return pl.Series(names, dtype=pl.Enum(names)).gather(pl.Series(codes, dtype=pl.UInt32))


def _market(items: int, seed: int) -> tuple[Catalog, draws.Market]:
    """The catalog and the tables that items are drawn from: genres, clusters and items are laid out. Clusters without
    items are left out, so every table has an entry."""
    ranks = np.argsort(np.argsort(_uniforms(seed, "popularity", items), kind="stable"), kind="stable")
    popularity = (ranks + 1 + _RANK_SHIFT * items) ** -_RANK_POWER
    planned = max(2, min(items // 10, round(1.2 * math.sqrt(items))))
    genre_ends = np.cumsum(0.88 ** np.arange(len(GENRES)))
    genre_draws = np.sort(np.searchsorted(genre_ends, _uniforms(seed, "cluster genre", planned) * genre_ends[-1]))
    cluster_sizes = np.cumsum(np.exp(1.5 * _uniforms(seed, "cluster size", planned)))
    first = np.searchsorted(cluster_sizes, _uniforms(seed, "cluster", items) * cluster_sizes[-1], side="right")
    second = np.searchsorted(cluster_sizes, _uniforms(seed, "second cluster", items) * cluster_sizes[-1], side="right")
    both = np.flatnonzero((_uniforms(seed, "two clusters", items) < _SECOND_CLUSTER) & (second != first))
    has_second = np.zeros(items, dtype=np.bool_)
    has_second[both] = True

    members = np.concatenate([np.arange(items), both])
    places = np.concatenate([first, second[both]])
    weights = np.concatenate([popularity, popularity[both] * _SECOND_WEIGHT])
    order = np.argsort(places, kind="stable")
    used, sizes = np.unique(places, return_counts=True)
    cluster_genre = genre_draws[used].astype(np.int64)
    mass = np.bincount(places, weights=weights, minlength=planned)[used]

    table_items = np.concatenate([members[order], np.arange(items)]).astype(np.int32)
    table_weights = np.concatenate([weights[order], popularity])
    indptr = np.concatenate([[0], np.cumsum(sizes), [len(table_items)]]).astype(np.int64)
    keep, other = np.empty(len(table_items), dtype=np.float32), np.empty(len(table_items), dtype=np.int32)
    draws.alias_tables(indptr, table_items, table_weights, keep, other)

    groups = draws.REGIONS * draws.AGES
    region_taste = _uniforms(seed, "region", draws.REGIONS * len(GENRES)).reshape(draws.REGIONS, 1, -1)
    age_taste = _uniforms(seed, "age", draws.AGES * len(GENRES)).reshape(1, draws.AGES, -1)
    taste = np.exp(2 * _GROUP_TILT * (region_taste + age_taste - 1)).reshape(groups, -1)
    catalog = _catalog(items, seed, genre_draws[first], np.where(has_second, genre_draws[second], -1))
    return catalog, draws.Market(
        indptr=indptr,
        items=table_items,
        keep=keep,
        other=other,
        cluster_ends=np.cumsum(mass),
        cluster_genre=cluster_genre,
        genre_indptr=np.searchsorted(cluster_genre, np.arange(len(GENRES) + 1)).astype(np.int64),
        group_ends=np.ascontiguousarray(np.cumsum(taste[:, cluster_genre] * mass, axis=1)),
    )


def _catalog(items: int, seed: int, genre: np.ndarray, second_genre: np.ndarray) -> Catalog:
    """Name the items: "The Quiet Harbour", then "The Quiet Harbour of Ash", then "The Quiet Harbour of Ash, Part 2"."""
    adjectives, nouns, of_places = _ADJECTIVES.split(), _NOUNS.split(), ["", *(f" of {p}" for p in _PLACES.split())]
    titles = len(adjectives) * len(nouns)
    numbers = np.argsort(_uniforms(seed, "title", -(-items // titles) * titles), kind="stable")[:items]
    rest, adjective = np.divmod(numbers, len(adjectives))
    rest, noun = np.divmod(rest, len(nouns))
    part, place = np.divmod(rest, len(of_places))
    names = pl.Series(GENRES)
    table = pl.DataFrame(
        {
            "adjective": pl.Series(adjectives)[adjective],
            "noun": pl.Series(nouns)[noun],
            "place": pl.Series(of_places)[place],
            "part": part,
            "genre": names[genre],
            "second": names[np.maximum(second_genre, 0)],
            "one": (second_genre < 0) | (second_genre == genre),
        }
    )
    part_text = pl.when(pl.col("part") > 0).then(pl.format(", Part {}", pl.col("part") + 1)).otherwise(pl.lit(""))
    features = table.select(
        title=pl.format("The {} {}{}{}", "adjective", "noun", "place", part_text),
        genres=pl.when("one").then(pl.concat_list("genre")).otherwise(pl.concat_list("genre", "second")),
    )
    return Catalog(Identifiers(pl.Series("item_id", np.arange(1, items + 1))), features)


def _with_domains(catalog: Catalog, domains: int, seed: int) -> Catalog:
    """The catalog with a column `domain`."""
    assert catalog.features is not None
    drawn = (_uniforms(seed, "domain", len(catalog)) * domains).astype(np.int64)
    return Catalog(catalog.items, catalog.features.with_columns(pl.Series(DOMAIN, list(_DOMAINS))[drawn]))


def _uniforms(seed: int, purpose: str, count: int) -> np.ndarray:
    """Numbers in [0, 1) [count]: entry i depends on the seed, the purpose and i only."""
    out = np.empty(count)
    draws.uniforms(np.uint64(seed), np.uint64(_FIRST_PURPOSE + _PURPOSES.index(purpose)), out)
    return out
