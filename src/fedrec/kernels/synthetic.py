"""Draws of synthetic interaction logs: every number is a pure function of (seed, purpose, user or item).

A draw hashes a key and a counter (SplitMix64, Steele et al. 2014), so users can be made in any order by any thread.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fedrec.kernels.keyed import GOLDEN, mix
from fedrec.kernels.records import record, takes
from fedrec.kernels.threads import kernel, parallel_kernel

__all__ = ["AGES", "REGIONS", "Market", "alias_tables", "draw_interactions", "draw_profiles", "uniforms"]

REGIONS = 8
AGES = 6

_PROFILE, _ITEMS, _TIMES = np.uint64(1), np.uint64(2), np.uint64(3)
_ONE = np.uint64(1)
_ELEVEN = np.uint64(11)
_STEP = np.uint64(0xD1B54A32D192ED03)
_TASTE_TRIES, _ALL_TRIES = 8, 32
_FIRST_DAY, _DAYS, _DAY = 1_577_836_800.0, 1000.0, 86_400.0  # 2020-01-01
_WITHIN_VISIT, _BETWEEN_VISITS = 240.0, 1.5 * 86_400.0


@kernel("uint64(uint64, uint64, uint64)", inline=True)
def _key(seed, purpose, number):  # type: ignore[no-untyped-def]
    return mix(mix(seed + (purpose + _ONE) * GOLDEN) + (number + _ONE) * _STEP)


@kernel("float64(uint64, uint64)", inline=True)
def _uniform(key, counter):  # type: ignore[no-untyped-def]
    """A number in [0, 1) with 53 random bits."""
    return np.float64(mix(key + (counter + _ONE) * GOLDEN) >> _ELEVEN) * (1.0 / 9007199254740992.0)


@kernel("int64(float64[::1], int64, int64, float64)")
def _find(ends, low, high, point):  # type: ignore[no-untyped-def]
    """The first place in [low, high) whose end is above `point`; the last place if none is."""
    last = high - 1
    while low < last:
        middle = (low + last) // 2
        if ends[middle] > point:
            last = middle
        else:
            low = middle + 1
    return low


@kernel("void(uint64, uint64, float64[::1])")
def uniforms(seed: np.uint64, purpose: np.uint64, out: np.ndarray) -> None:
    """Fill `out` [n] with numbers in [0, 1): entry i depends on (seed, purpose, i) only."""
    for i in range(len(out)):
        out[i] = _uniform(_key(seed, purpose, np.uint64(i)), np.uint64(0))


@kernel("void(int64[::1], int32[::1], float64[::1], float32[::1], int32[::1])")
def alias_tables(
    indptr: np.ndarray, items: np.ndarray, weights: np.ndarray, keep: np.ndarray, other: np.ndarray
) -> None:
    """Make one alias table (Vose 1991) per row range: place e gives `items[e]` with chance `keep[e]`, else `other[e]`.

    Args:
        indptr: [tables + 1], no empty range.
        items: [entries].
        weights: [entries], positive.
        keep: [entries], written.
        other: [entries], written.
    """
    for table in range(len(indptr) - 1):
        first, size = indptr[table], indptr[table + 1] - indptr[table]
        scaled = weights[first : first + size] * (size / weights[first : first + size].sum())
        waiting = np.empty(size, dtype=np.int64)  # small entries from the left, large ones from the right
        small, large = 0, size
        for e in range(size):
            keep[first + e] = 1.0
            other[first + e] = items[first + e]
            if scaled[e] < 1.0:
                waiting[small] = e
                small += 1
            else:
                large -= 1
                waiting[large] = e
        while small > 0 and large < size:
            small -= 1
            poor, rich = waiting[small], waiting[large]
            keep[first + poor] = scaled[poor]
            other[first + poor] = items[first + rich]
            scaled[rich] -= 1.0 - scaled[poor]
            if scaled[rich] < 1.0:
                large += 1
                waiting[small] = rich
                small += 1


@parallel_kernel(
    "void(uint64, float64, float64, int64, int64, int64[::1], uint8[::1], uint8[::1])",
    over=lambda *arguments: len(arguments[5]),
)
def draw_profiles(
    begin: int,
    end: int,
    seed: np.uint64,
    log_mean: float,
    log_sd: float,
    fewest: int,
    most: int,
    lengths: np.ndarray,
    regions: np.ndarray,
    ages: np.ndarray,
) -> None:
    """Draw how many items each user takes (log-normal, rounded and clipped) and where the user belongs.

    Args:
        seed: the seed.
        log_mean: mean of the logarithm of the number of items.
        log_sd: its standard deviation.
        fewest: lower limit.
        most: upper limit.
        lengths: [users], written.
        regions: [users], written: 0 … REGIONS − 1.
        ages: [users], written: 0 … AGES − 1.
    """
    for user in range(begin, end):
        key = _key(seed, _PROFILE, np.uint64(user))
        radius = math.sqrt(-2.0 * math.log(1.0 - _uniform(key, np.uint64(0))))
        normal = radius * math.cos(2.0 * math.pi * _uniform(key, np.uint64(1)))
        wanted = math.exp(log_mean + log_sd * normal) + 0.5
        lengths[user] = most if wanted >= most else max(fewest, np.int64(wanted))
        share = _uniform(key, np.uint64(2))
        regions[user] = int(share * share * REGIONS)  # the first regions are the largest
        ages[user] = int(AGES * 0.5 * (_uniform(key, np.uint64(3)) + _uniform(key, np.uint64(4))))


class Market(NamedTuple):
    """The tables that items are drawn from.

    Args:
        indptr: [clusters + 2] int64 ranges of the alias tables; the last one holds the whole catalog.
        items: [entries] int32, see `alias_tables`.
        keep: [entries] float32.
        other: [entries] int32.
        cluster_ends: [clusters] float64, running sum of the popularity of clusters, which lie in order of genre.
        cluster_genre: [clusters] int64.
        genre_indptr: [genres + 1] int64, ranges of clusters.
        group_ends: [regions · ages, clusters] float64, running sums of how much each group likes each cluster.
    """

    indptr: np.ndarray
    items: np.ndarray
    keep: np.ndarray
    other: np.ndarray
    cluster_ends: np.ndarray
    cluster_genre: np.ndarray
    genre_indptr: np.ndarray
    group_ends: np.ndarray


_MARKET = record(
    Market,
    "int64[::1], int32[::1], float32[::1], int32[::1], float64[::1], int64[::1], int64[::1], float64[:, ::1]",
)


@parallel_kernel(
    takes(
        "uint64, int64, int64[::1], uint8[::1], uint8[::1]",
        _MARKET,
        "float64[::1], float64[::1], int32[::1], float64[::1]",
    ),
    over=lambda seed, n_items, indptr, *_: indptr,
)
def draw_interactions(
    begin: int,
    end: int,
    seed: np.uint64,
    n_items: int,
    indptr: np.ndarray,
    regions: np.ndarray,
    ages: np.ndarray,
    market: Market,
    interest_weights: np.ndarray,
    habits: np.ndarray,
    items: np.ndarray,
    times: np.ndarray,
) -> None:
    """Fill the rows of every user: items without repetition, oldest first.

    A user has a few interests, each a cluster of items. At every step the user stays with the current interest or turns
    to another one, by `interest_weights` or, so that interests come and go, the one whose turn it is; then takes an
    item of it by popularity, or any item by popularity.

    Args:
        seed: the seed.
        n_items: size of the catalog.
        indptr: [users + 1] row ranges; no user takes more than half of the catalog.
        regions: [users].
        ages: [users].
        market: the tables that items are drawn from.
        interest_weights: [interests], descending, sum 1.
        habits: [loyalty, staying, breadth, drift], chances: an interest has the genre of the first interest; the next
            step keeps the interest; an item is taken from the whole catalog; a new interest is the one whose turn it
            is, where interests have turns of equal length one after the other.
        items: [interactions], written.
        times: [interactions], written: whole seconds since 1970, increasing for each user; or [0], left alone.
    """
    table_indptr, table_items, table_keep, table_other, cluster_ends, cluster_genre, genre_indptr, group_ends = market
    clusters = len(cluster_ends)
    n_interests = len(interest_weights)
    loyalty, staying, breadth, drift = habits[0], habits[1], habits[2], habits[3]
    taken_by = np.full(n_items, -1, dtype=np.int32)
    interests = np.empty(n_interests, dtype=np.int64)
    for user in range(begin, end):
        key = _key(seed, _ITEMS, np.uint64(user))
        clock = _key(seed, _TIMES, np.uint64(user))
        group = group_ends[np.int64(regions[user]) * AGES + np.int64(ages[user])]
        draw = np.uint64(0)
        for j in range(n_interests):
            chance, point = _uniform(key, draw), _uniform(key, draw + _ONE)
            draw += np.uint64(2)
            if j > 0 and chance < loyalty:
                genre = cluster_genre[interests[0]]
                low, high = genre_indptr[genre], genre_indptr[genre + 1]
                before = cluster_ends[low - 1] if low > 0 else 0.0
                interests[j] = _find(cluster_ends, low, high, before + point * (cluster_ends[high - 1] - before))
            else:
                interests[j] = _find(group, 0, clusters, point * group[clusters - 1])
        first, length = indptr[user], indptr[user + 1] - indptr[user]
        now = _FIRST_DAY + math.floor(_uniform(clock, np.uint64(0)) * _DAYS * _DAY)
        current = 0
        for step in range(length):
            stays = step > 0 and _uniform(key, draw) < staying
            if not stays:
                point = _uniform(key, draw + _ONE) - drift
                current = step * n_interests // length
                if point >= 0.0:
                    current = 0
                    point -= (1.0 - drift) * interest_weights[0]
                    while point >= 0.0 and current < n_interests - 1:
                        current += 1
                        point -= (1.0 - drift) * interest_weights[current]
            draw += np.uint64(2)
            tries = 0
            while True:
                chance, point = _uniform(key, draw), _uniform(key, draw + _ONE)
                draw += np.uint64(2)
                if tries < _ALL_TRIES:
                    table = clusters if chance < breadth or tries >= _TASTE_TRIES else interests[current]
                    size = table_indptr[table + 1] - table_indptr[table]
                    place = point * size
                    whole = np.int64(min(place, size - 1.0))
                    entry = table_indptr[table] + whole
                    item = table_items[entry] if place - whole < table_keep[entry] else table_other[entry]
                else:
                    item = np.int32(min(point * n_items, n_items - 1.0))
                tries += 1
                if taken_by[item] != user:
                    break
            taken_by[item] = user
            items[first + step] = item
            if len(times):
                if step > 0:
                    wait = _WITHIN_VISIT if stays else _BETWEEN_VISITS
                    now += 1.0 + math.floor(-wait * math.log(1.0 - _uniform(clock, np.uint64(step))))
                times[first + step] = now
