import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedrec.data import synthetic as module
from fedrec.data.synthetic import GENRES, synthetic
from fedrec.errors import InputError
from fedrec.kernels import synthetic as kernels
from fedrec.kernels.threads import limit_threads

MASK = 2**64 - 1


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def stream(seed, purpose, number):
    """The draws of one (seed, purpose, number) as a function of the counter."""
    key = mix(mix((seed + (purpose + 1) * 0x9E3779B97F4A7C15) & MASK) + (number + 1) * 0xD1B54A32D192ED03 & MASK)
    return lambda counter: (mix((key + (counter + 1) * 0x9E3779B97F4A7C15) & MASK) >> 11) / 2**53


def rows_twin(seed, user, n_items, length, region, age, market):
    """The rows of one user in plain Python, from the description of the model."""
    u, clock = stream(seed, 2, user), stream(seed, 3, user)
    group = market.group_ends[region * kernels.AGES + age]
    weights = module._INTEREST_DECAY ** np.arange(module._INTERESTS)
    weights /= weights.sum()
    interests, draw = [], 0
    for j in range(len(weights)):
        chance, point = u(draw), u(draw + 1)
        draw += 2
        if j and chance < module._LOYALTY:
            members = np.flatnonzero(market.cluster_genre == market.cluster_genre[interests[0]])
            before = market.cluster_ends[members[0] - 1] if members[0] else 0.0
            point = before + point * (market.cluster_ends[members[-1]] - before)
            interests.append(int(min(np.searchsorted(market.cluster_ends, point, side="right"), members[-1])))
        else:
            interests.append(int(min(np.searchsorted(group, point * group[-1], side="right"), len(group) - 1)))
    now = 1_577_836_800 + math.floor(clock(0) * 1000.0 * 86_400.0)
    items, times, current = [], [], 0
    for step in range(length):
        stays = step > 0 and u(draw) < module._STAYING
        if not stays:
            point = u(draw + 1) - module._DRIFT
            current = step * len(weights) // length
            if point >= 0:
                for current in range(len(weights)):
                    point -= (1 - module._DRIFT) * weights[current]
                    if point < 0:
                        break
        draw += 2
        for tries in range(1_000_000):
            chance, point = u(draw), u(draw + 1)
            draw += 2
            item = int(point * n_items)
            if tries < 32:
                table = -2 if chance < module._BREADTH or tries >= 8 else interests[current]
                first, stop = market.indptr[table], market.indptr[table + 1]
                place = point * (stop - first)
                entry = first + int(place)
                item = int((market.items if place - int(place) < market.keep[entry] else market.other)[entry])
            if item not in items:
                break
        items.append(item)
        if step:
            now += 1 + math.floor(-(240.0 if stays else 129_600.0) * math.log(1 - clock(step)))
        times.append(now)
    return items, times


@pytest.mark.parametrize(("n_items", "mean"), [(10, 5), (60, 30), (3000, 40)])
def test_equals_a_plain_python_twin(n_items, mean):
    data = synthetic(users=40, items=n_items, interactions_per_user=mean, seed=9)
    _, market = module._market(n_items, 9)
    for user in range(40):
        u = stream(9, 1, user)
        normal = math.sqrt(-2 * math.log(1 - u(0))) * math.cos(2 * math.pi * u(1))
        wanted = round(mean * math.exp(0.75 * normal - 0.75**2 / 2))
        length = min(max(wanted, 5), n_items // 2)
        region, age = int(u(2) ** 2 * 8), int(3 * (u(3) + u(4)))
        assert data.lengths[user] == length
        assert data.user_features.row(user) == (module._REGIONS[region], module._AGES[age])
        rows = slice(data.indptr[user], data.indptr[user + 1])
        items, times = rows_twin(9, user, n_items, length, region, age, market)
        assert data.items[rows].tolist() == items
        assert data.times[rows].tolist() == times


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**32), st.integers(1, 50))
@settings(max_examples=30, deadline=None)
def test_named_uniforms_equal_their_twin(seed, purpose, count):
    out = np.empty(count)
    kernels.uniforms(np.uint64(seed), np.uint64(purpose), out)
    assert out.tolist() == [stream(seed, purpose, i)(0) for i in range(count)]


@given(st.lists(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_alias_tables_give_back_their_weights(tables):
    indptr = np.concatenate([[0], np.cumsum([len(t) for t in tables])]).astype(np.int64)
    items = np.concatenate([np.arange(len(t)) for t in tables]).astype(np.int32)
    keep, other = np.empty(len(items), dtype=np.float32), np.empty(len(items), dtype=np.int32)
    kernels.alias_tables(indptr, items, np.concatenate(tables), keep, other)
    for table, first, stop in zip(tables, indptr[:-1], indptr[1:], strict=True):
        chances = np.zeros(len(table))
        np.add.at(chances, items[first:stop], keep[first:stop])
        np.add.at(chances, other[first:stop], 1 - keep[first:stop])
        np.testing.assert_allclose(chances / len(table), np.array(table) / sum(table), atol=1e-6)


def test_same_bits_for_any_number_of_threads():
    made = []
    for threads in (1, 2):
        with limit_threads(threads):
            data = synthetic(users=500, items=300, seed=3)
        made.append((data.indptr.tobytes(), data.items.tobytes(), data.times.tobytes()))
    assert made[0] == made[1]


@given(st.integers(1, 150), st.integers(1, 150), st.integers(10, 80), st.integers(0, 2**63 - 1))
@settings(max_examples=25, deadline=None)
def test_more_users_change_nothing_for_the_first(few, more, n_items, seed):
    mean = min(n_items / 2, 12)
    small = synthetic(few, n_items, mean, seed)
    large = synthetic(few + more, n_items, mean, seed)
    rows = len(small)
    np.testing.assert_array_equal(large.indptr[: few + 1], small.indptr)
    np.testing.assert_array_equal(large.items[:rows], small.items)
    np.testing.assert_array_equal(large.times[:rows], small.times)
    assert large.user_features.head(few).equals(small.user_features)
    assert large.catalog.features.equals(small.catalog.features)
    # and every log is well formed: distinct items, increasing whole seconds, lengths within their limits
    for first, stop in zip(large.indptr[:-1], large.indptr[1:], strict=True):
        assert len(set(large.items[first:stop].tolist())) == stop - first
        assert (np.diff(large.times[first:stop]) >= 1).all()
    assert large.lengths.min() >= 5
    assert large.lengths.max() <= max(5, n_items // 2)
    assert large.items.min() >= 0
    assert large.items.max() < n_items
    assert (large.times == np.floor(large.times)).all()


def test_the_seed_changes_everything_and_timestamps_change_nothing_else():
    data, again = synthetic(100, 200, 20, seed=1), synthetic(100, 200, 20, seed=1, timestamps=False)
    np.testing.assert_array_equal(data.items, again.items)
    assert again.times is None
    other = synthetic(100, 200, 20, seed=2)
    assert not np.array_equal(data.lengths, other.lengths)
    assert data.catalog.features["title"].to_list() != other.catalog.features["title"].to_list()
    assert data.values is None
    assert list(data.users)[::99] == [1, 100]
    assert list(data.catalog.items)[::199] == [1, 200]


@pytest.mark.parametrize(("n_items", "mean"), [(1000, 40), (200, 60), (1000, 6)])
def test_mean_activity_is_that_of_a_clipped_log_normal(n_items, mean):
    lengths = synthetic(50_000, n_items, mean, timestamps=False).lengths
    levels = stats.lognorm(s=0.75, scale=mean * math.exp(-(0.75**2) / 2)).ppf((np.arange(200_000) + 0.5) / 200_000)
    wanted = np.clip(np.rint(levels), 5, n_items // 2)
    assert lengths.mean() == pytest.approx(wanted.mean(), abs=4 * wanted.std() / math.sqrt(50_000))


def test_items_have_distinct_titles_and_known_genres():
    catalog = module._market(200_000, 4)[0]
    assert catalog.features["title"].n_unique() == 200_000
    assert set(catalog.features["genres"].explode()) == set(GENRES)
    assert set(catalog.features["genres"].list.len()) == {1, 2}
    assert (catalog.features["genres"].list.n_unique() == catalog.features["genres"].list.len()).all()
    small = module._market(4096, 4)[0].features["title"]
    assert small.str.contains(r"^The \S+ \S+$").all()


def first_genre(data):
    """The first genre of every item, as its place in GENRES."""
    names = data.catalog.features["genres"].list.first()
    return names.replace_strict(GENRES, range(len(GENRES)), return_dtype=pl.Int64).to_numpy()


def test_regions_differ_in_taste_and_all_occur():
    data = synthetic(users=4000, items=500, interactions_per_user=20, seed=2, timestamps=False)
    first = first_genre(data)
    region = data.user_features["region"].to_physical().to_numpy()[data.rows_of_users()]
    assert data.user_features["region"].n_unique() == 8
    assert data.user_features["age_group"].n_unique() == 6
    table = np.zeros((8, len(GENRES)))
    np.add.at(table, (region, first[data.items]), 1)
    table = table[:, table.sum(axis=0) > 0]
    strength = stats.contingency.association(table.astype(int), method="cramer")
    shuffled = np.zeros((8, len(GENRES)))
    moved = np.random.default_rng(0).permutation(data.user_features["region"].to_physical().to_numpy())
    np.add.at(shuffled, (moved[data.rows_of_users()], first[data.items]), 1)
    chance = stats.contingency.association(shuffled[:, shuffled.sum(axis=0) > 0].astype(int), method="cramer")
    assert strength > 3 * chance


def test_time_order_tells_more_than_the_set_of_items():
    data = synthetic(seed=8)
    genres = first_genre(data)[data.items]
    users = data.rows_of_users()
    neighbours = users[1:] == users[:-1]
    in_order = (genres[1:] == genres[:-1])[neighbours].mean()
    order = np.lexsort((np.random.default_rng(0).random(len(data)), users))
    mixed = (genres[order][1:] == genres[order][:-1])[neighbours].mean()
    assert in_order > 1.25 * mixed
    # within a visit the interest stays: neighbours an hour apart or less are more alike than others
    same, gaps = (genres[1:] == genres[:-1])[neighbours], np.diff(data.times)[neighbours]
    assert same[gaps < 3600].mean() > 1.2 * same[gaps > 86_400].mean()
    # interests come and go: the nearer in time, the more alike
    place = np.arange(len(data)) - data.indptr[users]
    late = np.flatnonzero((data.lengths[users] >= 40) & (place >= 20))
    alike = [(genres[late] == genres[late - lag]).mean() for lag in (1, 5, 20)]
    assert alike[0] > 1.1 * alike[1] > 1.1 * 1.1 * alike[2]


def gini(counts):
    ordered = np.sort(counts).astype(float)
    n = len(ordered)
    return (2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum())


def hit_rate(scores, history, test):
    """Exact expectation of HR@10 with 99 negatives among the items a user never touched; ties count half."""
    rows = np.arange(len(test))
    target = scores[rows, test][:, None]
    rivals = history == 0
    rivals[rows, test] = False
    above = (rivals & (scores > target)).sum(axis=1) + (rivals & (scores == target)).sum(axis=1) / 2
    return stats.hypergeom.cdf(9, rivals.sum(axis=1), np.rint(above), 99).mean()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_behaves_like_a_real_log(seed):
    data = synthetic(users=2000, items=1000, seed=seed)
    counts = np.sort(np.bincount(data.items, minlength=1000))[::-1]
    assert 0.5 <= gini(counts) <= 0.9
    assert counts[:10].sum() > 0.08 * counts.sum()
    last = data.indptr[1:] - 1
    keep = np.ones(len(data), dtype=bool)
    keep[last] = False
    train = data.where(keep)
    history = np.zeros((2000, 1000))
    history[train.rows_of_users(), train.items] = 1
    inverse = np.linalg.inv(history.T @ history + 100 * np.eye(1000))
    ease = inverse / -np.diag(inverse)
    np.fill_diagonal(ease, 0)
    test = data.items[last]
    popular = hit_rate(np.tile(history.sum(axis=0), (2000, 1)), history, test)
    personal = hit_rate(history @ ease, history, test)
    assert 0.35 < popular < 0.5
    assert 0.55 < personal < 0.7
    random = hit_rate(np.random.default_rng(0).random(history.shape), history, test)
    assert random == pytest.approx(0.1, abs=0.025)  # 10 places of 100
    assert popular > 3 * random
    assert personal > 1.3 * popular


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": 0}, "users is 0; it must be a whole number from 1 to 100,000,000"),
        ({"users": 2.5}, "users must be a whole number, not 2.5"),
        ({"items": 9}, "items is 9; it must be a whole number from 10 to 10,000,000"),
        ({"items": True}, "items must be a whole number, not True"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"interactions_per_user": 4.9}, "between 5 and half of the 1000 items, 500"),
        ({"items": 50, "interactions_per_user": 26}, "half of the 50 items, 25"),
        ({"interactions_per_user": float("nan")}, "interactions_per_user is nan"),
        ({"interactions_per_user": "40"}, "interactions_per_user must be a number, not '40'"),
    ],
)
def test_arguments_outside_their_limits_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        synthetic(**arguments)
