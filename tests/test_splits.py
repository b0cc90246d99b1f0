"""Every split against a plain twin, user by user."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

import fedrec as fr
from fedrec.data.catalog import Catalog
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions
from fedrec.data.keys import KeyedSource, client_keys
from fedrec.data.splits import Split, SplitMethod, unsplit
from fedrec.errors import InputError

TRAIN, VALID, TEST, HISTORY = range(4)
SOURCE = KeyedSource.from_seed(4)
METHODS = ["leave-last-out", "last:1", "last:3", "temporal@30,60", "ratio:0.8", "ratio:0.5", "given", "given:0.7",
           "new-users:0.3", "cold-items:0.2", "none"]  # fmt: skip
PROPERTY = settings(deadline=None, max_examples=60)


def interactions(rows, n_items=30, times=None, part=None):
    """Rows of items for users 0, 1, …"""
    indptr = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    items = np.array([item for row in rows for item in row], dtype=np.int32)
    catalog = Catalog(Identifiers.of(range(n_items)))
    return Interactions(Identifiers.of(range(len(rows))), catalog, indptr, items, times=times, part=part)


@st.composite
def logs(draw, repeats=False):
    """Interactions with times in order and a given part."""
    n = draw(st.integers(1, 12))
    rows = draw(st.lists(st.lists(st.integers(0, 29), unique=not repeats, max_size=14), min_size=n, max_size=n))
    times, part = [], []
    for row in rows:
        times += sorted(draw(st.lists(st.integers(0, 90), min_size=len(row), max_size=len(row))))
        part += draw(st.lists(st.integers(0, 3), min_size=len(row), max_size=len(row)))
    return interactions(rows, times=np.array(times, dtype=np.float64), part=np.array(part, dtype=np.int8))


def by_user(data, column):
    return [column[a:b].tolist() for a, b in zip(data.indptr, data.indptr[1:], strict=False)]


def stream(seed):
    """SplitMix64 in Python's own integers."""
    mask, state = (1 << 64) - 1, int(seed)
    while True:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def drawn(seed, n, first, second):
    """Selection sampling (Knuth, algorithm S) of `first` and `second` of n places: 0, 1 or 2 for each place."""
    out = []
    for place, word in zip(range(n), stream(seed), strict=False):
        draw = (word >> 32) * (n - place) >> 32
        kind = 1 if draw < first else 2 if draw < first + second else 0
        first, second = first - (kind == 1), second - (kind == 2)
        out.append(kind)
    assert first == second == 0
    return out


def half_up(number):
    return math.floor(number + 0.5)


def twin(method, n, times, given_part, seed):
    """Parts of one user's n interactions."""
    if method == "none":
        return [TRAIN] * n
    if method == "leave-last-out":
        return [[], [TRAIN], [TRAIN, TEST]][n] if n < 3 else [TRAIN] * (n - 2) + [VALID, TEST]
    if method.startswith("last:"):
        held = int(method[5:])
        left = [n - place for place in range(n)]
        return [TRAIN, *(TEST if own <= held else VALID if own <= 2 * held else TRAIN for own in left[1:])][:n]
    if method == "temporal@30,60":
        return [TEST if time >= 60 else VALID if time >= 30 else TRAIN for time in times]
    if method.startswith("ratio"):
        tenths = {"ratio:0.8": 2, "ratio:0.5": 5}[method]
        held = min(half_up(n * tenths / 20), max(n - 1, 0) // 2)
        return [(TRAIN, VALID, TEST)[kind] for kind in drawn(seed, n, held, held)]
    if method == "given":
        return given_part
    if method == "given:0.7":
        known = [place for place in range(n) if given_part[place] == TRAIN]
        kinds = drawn(seed, len(known), min(half_up(len(known) * 3 / 10), max(len(known) - 1, 0)), 0)
        chosen = dict(zip(known, kinds, strict=True))
        return [VALID if chosen.get(place) == 1 else part for place, part in enumerate(given_part)]
    place = seed / 2**64
    code = TEST if place < 0.3 else VALID if place < 0.6 else None
    if code is None:
        return [TRAIN] * n
    return [code if kind else HISTORY for kind in drawn(seed, n, min(half_up(n / 5), max(n - 1, 0)), 0)]


@PROPERTY
@given(logs(), st.sampled_from([method for method in METHODS if method != "cold-items:0.2"]))
def test_every_split_equals_its_plain_twin(data, method):
    split = SplitMethod.parse(method).apply(data, SOURCE)
    seeds = SOURCE.child("split").seeds(client_keys(SOURCE, data.users)).tolist()
    times, given_part = by_user(data, data.times), by_user(data, data.part)
    expected = [
        twin(method, n, times[user], given_part[user], seeds[user]) for user, n in enumerate(data.lengths.tolist())
    ]
    assert by_user(data, split.part) == expected
    assert (split.merged, SplitMethod.parse(split.method)) == (0, SplitMethod.parse(method))


@PROPERTY
@given(logs(repeats=True), st.sampled_from(METHODS))
def test_parts_are_disjoint_and_complete_and_repeats_are_merged_to_the_latest(data, method):
    split = SplitMethod.parse(method).apply(data, SOURCE)
    kept = []
    for items, times in zip(by_user(data, data.items), by_user(data, data.times), strict=True):
        latest = {item: (time, place) for place, (item, time) in enumerate(zip(items, times, strict=True))}
        kept.append([(item, time) for item, (time, place) in sorted(latest.items(), key=lambda entry: entry[1][1])])
    found = zip(by_user(split.data, split.data.items), by_user(split.data, split.data.times), strict=True)
    assert [list(zip(items, times, strict=True)) for items, times in found] == kept
    assert split.merged == len(data) - len(split.data)
    assert sum(split.counts().values()) == len(split.data)
    held_back = int(np.sum(split.part == HISTORY))
    assert len(split.train) + len(split.valid) + len(split.test) + held_back == len(split.data)
    sets = [set(zip(part.rows_of_users(), part.items, strict=True)) for part in (split.train, split.valid, split.test)]
    assert sum(map(len, sets)) == len(set.union(*sets))
    for part in ("valid", "test"):
        history, relevant = split.history(part), split.relevant(part)
        pairs = [set(zip(side.rows_of_users(), side.items, strict=True)) for side in (history, relevant)]
        assert not pairs[0] & pairs[1]
    assert len(split.history("test")) == len(split.history("valid")) + len(split.valid)


@PROPERTY
@given(logs(repeats=True), st.sampled_from(METHODS), st.data())
def test_a_split_does_not_depend_on_who_else_is_at_the_node(data, method, draw):
    split = SplitMethod.parse(method).apply(data, SOURCE)
    keys = client_keys(SOURCE, data.users)
    homes = np.array(draw.draw(st.lists(st.integers(0, 2), min_size=data.n_users, max_size=data.n_users)))
    total, merged = 0, 0
    for home in range(3):
        positions = np.flatnonzero(homes == home)
        part = SplitMethod.parse(method).apply(data.take_users(positions), SOURCE)
        together = by_user(split.data, split.part)
        assert by_user(part.data, part.part) == [together[position] for position in positions]
        total += part.hash(keys[positions])
        merged += part.merged
    assert total % 2**64 == split.hash(keys)
    assert merged == split.merged


@PROPERTY
@given(logs(), st.data())
def test_the_hash_changes_with_any_part_item_user_or_order(data, draw):
    if len(data) == 0:
        return
    split = SplitMethod.parse("leave-last-out").apply(data, SOURCE)
    keys = client_keys(SOURCE, data.users)
    row = draw.draw(st.integers(0, len(data) - 1))
    part, items, other = split.part.copy(), data.items.copy(), keys.copy()
    part[row] = (part[row] + 1) % 4
    user = int(np.searchsorted(data.indptr, row, side="right")) - 1
    items[row] = np.setdiff1d(np.arange(30), data.items[data.indptr[user] : data.indptr[user + 1]])[0]
    other[user] += np.uint64(1)
    changed = Interactions(data.users, data.catalog, data.indptr, items, times=data.times)
    hashes = {
        split.hash(keys),
        Split(split.data, part, "").hash(keys),
        Split(changed, split.part, "").hash(keys),
        split.hash(other),
    }
    user = int(np.argmax(data.lengths))
    if data.lengths[user] > 1:
        start = data.indptr[user]
        items = data.items.copy()
        items[start], items[start + 1] = items[start + 1], items[start]
        swapped = Interactions(data.users, data.catalog, data.indptr, items, times=data.times)
        hashes.add(Split(swapped, np.zeros_like(part), "").hash(keys))
        hashes.add(Split(data, np.zeros_like(part), "").hash(keys))
        assert len(hashes) >= 5
    else:
        assert len(hashes) == 4


def test_leave_last_out_takes_ties_in_the_order_of_the_file():
    table = {"user_id": [1, 2, 1, 1, 1, 2, 3], "item_id": [9, 1, 3, 7, 5, 2, 4], "timestamp": [5, 2, 5, 5, 1, 1, 0]}
    split = fr.leave_last_out(fr.interactions_from(table))
    assert split.test.to_frame().select("user_id", "item_id").rows() == [(1, 7), (2, 1)]
    assert split.valid.to_frame().select("user_id", "item_id").rows() == [(1, 3)]
    assert split.train.to_frame().select("user_id", "item_id").rows() == [(1, 5), (1, 9), (2, 2), (3, 4)]


def test_temporal_trains_on_what_lies_before_the_given_share():
    times = np.arange(100, dtype=np.float64)
    data = interactions([range(30), range(30), range(20), range(20)], times=times)
    split = fr.temporal(data, 0.8)
    assert split.counts() == {"train": 80, "valid": 10, "test": 10, "history": 0}
    assert split.train.times.max() < split.valid.times.min()
    assert split.valid.times.max() < split.test.times.min()
    resolved = SplitMethod.parse("temporal:0.8").resolve(data)
    assert resolved.cuts == (80.0, 90.0)
    assert SplitMethod.parse(str(resolved)) == resolved
    assert resolved.resolve(data.take_users(np.array([1]))) == resolved


def test_temporal_keeps_equal_times_together():
    data = interactions([range(10), range(10)], times=np.array([1.0] * 15 + [2.0] * 5))
    assert fr.temporal(data, 0.5).counts()["train"] == 0
    assert fr.temporal(data, 0.9).counts() == {"train": 15, "valid": 0, "test": 5, "history": 0}


@pytest.mark.parametrize("method", ["temporal:0.8", "temporal@1,2"])
def test_temporal_needs_times(method):
    with pytest.raises(InputError, match="timestamps"):
        SplitMethod.parse(method).apply(interactions([[1, 2]]), SOURCE)


def test_temporal_of_nothing_and_given_without_parts_say_what_is_missing():
    with pytest.raises(InputError, match="the data is empty"):
        fr.temporal(interactions([[]], times=np.empty(0)))
    with pytest.raises(InputError, match="needs a part for each interaction"):
        fr.given(interactions([[1, 2]]))


@pytest.mark.parametrize(
    ("share", "lengths", "held"),
    [
        (0.8, range(1, 26), [0, 0, 0, 0, *[1] * 10, *[2] * 10, 3]),
        (0.5, range(1, 11), [0, 0, 1, 1, 1, 2, 2, 2, 2, 3]),
        (0.9, [9, 10, 29, 30], [0, 1, 1, 2]),
    ],
)
def test_ratio_holds_out_the_nearest_number_halves_upwards(share, lengths, held):
    split = fr.ratio(interactions([range(n) for n in lengths]), share)
    assert split.valid.lengths.tolist() == held
    assert split.test.lengths.tolist() == held


def test_ratio_draws_every_interaction_equally_often_and_anew_with_each_seed():
    data = interactions([range(10)] * 6000)
    parts = [fr.ratio(data, 0.8, seed).part.reshape(6000, 10) for seed in (1, 2)]
    for code in (VALID, TEST):
        assert stats.chisquare((parts[0] == code).sum(axis=0)).pvalue > 0.01
        places = [np.argmax(part == code, axis=1) for part in parts]
        assert stats.chi2_contingency(np.histogram2d(*places, bins=(10, 10))[0]).pvalue > 0.01


def test_given_share_moves_some_of_train_to_validation_only():
    part = np.tile(np.repeat([TRAIN, VALID, TEST, HISTORY], [10, 2, 3, 1]), 50).astype(np.int8)
    data = interactions([range(16)] * 50, part=part)
    assert np.array_equal(fr.given(data).part, part)
    split = fr.given(data, 0.9)
    assert split.counts() == {"train": 450, "valid": 150, "test": 150, "history": 50}
    assert np.array_equal(split.part[part != TRAIN], part[part != TRAIN])
    assert set((split.part.reshape(50, 16)[:, :10] == VALID).sum(axis=1)) == {1}


def test_new_users_holds_out_users_whole_and_asks_for_a_fifth_of_their_items():
    data = interactions([range(10)] * 20_000)
    split = fr.new_users(data, 0.1)
    parts = split.part.reshape(20_000, 10)
    groups = {code: np.flatnonzero((parts == code).any(axis=1)) for code in (TRAIN, VALID, TEST)}
    assert sum(map(len, groups.values())) == len(set(np.concatenate(list(groups.values())))) == 20_000
    for code in (VALID, TEST):
        assert abs(len(groups[code]) - 2000) < 5 * math.sqrt(20_000 * 0.1 * 0.9)
        chosen = parts[groups[code]]
        assert set((chosen == code).sum(axis=1)) == {2}
        assert set((chosen == HISTORY).sum(axis=1)) == {8}
        assert stats.chisquare((chosen == code).sum(axis=0)).pvalue > 0.01
    assert split.train.lengths[groups[TEST]].sum() == 0
    assert split.history("test").lengths[groups[TEST]].tolist() == [8] * len(groups[TEST])


def test_cold_items_holds_out_items_whole_by_their_ids_alone():
    """Nobody has a held-out item in training, and other nodes, with other users or items, draw the same ones."""
    data = interactions([range(0, 2000, 2), range(1, 2000, 2)], n_items=2000)
    split = fr.cold_items(data, 0.1, seed=3)
    for code in (VALID, TEST):
        assert abs(int((split.drawn == code).sum()) - 200) < 5 * math.sqrt(2000 * 0.1 * 0.9)
    assert np.array_equal(split.part, split.drawn[data.items])
    assert np.array_equal(np.sort(split.test.items), np.flatnonzero(split.cold("test")))
    other = fr.cold_items(interactions([[5, 7]], n_items=1000), 0.1, seed=3)
    assert np.array_equal(other.drawn, split.drawn[:1000])
    assert not np.array_equal(fr.cold_items(data, 0.1, seed=4).drawn, split.drawn)
    with pytest.raises(InputError, match=r"split leave-last-out@rows holds out none; take split cold-items:0\.1"):
        fr.leave_last_out(data, by_rows=True).cold("test")


def test_cold_items_may_hold_out_a_share_of_all_other_interactions_too():
    data = interactions([range(200), range(0, 200, 2)], n_items=200)
    whole, split = fr.cold_items(data, 0.1, seed=3), fr.cold_items(data, 0.1, seed=3, others=0.25)
    cold = whole.drawn[data.items] != TRAIN
    assert np.array_equal(split.drawn, whole.drawn)
    assert np.array_equal(split.part[cold], whole.part[cold])
    for user in range(2):
        mine = data.rows_of_users() == user
        parts = split.part[mine & ~cold]
        assert [int((parts == code).sum()) for code in (VALID, TEST)] == [int(len(parts) * 0.25 + 0.5)] * 2
    assert str(SplitMethod.parse("cold-items:0.1,0.25")) == "cold-items:0.1,0.25"


def test_without_a_split_everything_is_for_training():
    assert unsplit(interactions([[1, 2], [3]])).counts() == {"train": 3, "valid": 0, "test": 0, "history": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leave-last-uot", "did you mean 'leave-last-out'"),
        ("tempral:0.8", "did you mean 'temporal'"),
        (
            "xyz",
            "choose from: cold-items, cross-domain, given, last:5, leave-last-out, new-users, none, ratio, temporal",
        ),
        ("", "choose from"),
        ("ratio", "needs a share, as in 'ratio:0.8'"),
        ("new-users", "needs a share, as in 'new-users:0.1'"),
        ("temporal", "needs a share"),
        ("ratio:", "between 0 and 1"),
        ("ratio:0", "between 0 and 1"),
        ("ratio:1", "between 0 and 1"),
        ("ratio:nan", "between 0 and 1"),
        ("ratio:80%", "between 0 and 1"),
        ("given:2", "between 0 and 1"),
        ("new-users:0.5", "below 0.5"),
        ("cold-items", "needs a share, as in 'cold-items:0.1'"),
        ("cold-items:0.6", "share of items is held out again"),
        ("cold-items:0.1,0.5", "share of other interactions is held out again"),
        ("cold-items:0.1,", "write two shares for cold-items only, as in cold-items:0.1,0.1"),
        ("ratio:0.8,0.1", "two shares for cold-items only"),
        ("cold-items:0.1,x", "between 0 and 1"),
        ("leave-last-out:0.5", "takes no share"),
        ("none:0.5", "takes no share"),
        ("temporal@5", "two times in seconds"),
        ("temporal@a,b", "two times in seconds"),
        ("temporal@5,4", "must ascend"),
        ("temporal@nan,nan", "must ascend"),
        ("temporal:0.8@4,5", "takes times after @"),
        ("ratio@4,5", "only temporal takes times"),
    ],
)
def test_wrong_splits_say_what_to_write(text, message):
    with pytest.raises(InputError, match=f"(?i){message}"):
        SplitMethod.parse(text)


@given(st.one_of(
    st.builds("{}:{!r}".format, st.sampled_from(["ratio", "temporal", "given"]), st.floats(1e-9, 1 - 1e-9)),
    st.builds("temporal@{!r},{!r}".format, st.floats(-1e10, 0), st.floats(0, 1e10)),
    st.sampled_from(["leave-last-out", "leave-last-out@rows", "last:7", "last:7@rows", "given", "none", "none@rows"]),
))  # fmt: skip
def test_a_method_is_written_as_it_is_read(text):
    method = SplitMethod.parse(text)
    assert SplitMethod.parse(str(method)) == method


@pytest.mark.parametrize("method", ["leave-last-out", "temporal:0.7", "ratio:0.6", "new-users:0.2", "cold-items:0.2"])
def test_repeats_are_at_hand_and_never_those_of_held_out_items(method):
    rng = np.random.default_rng(3)
    table = {
        "user_id": np.sort(rng.integers(0, 30, 900)),
        "item_id": rng.integers(0, 12, 900),
        "timestamp": rng.permutation(900),
    }
    data = fr.interactions_from(table)
    split = SplitMethod.parse(method).apply(data, KeyedSource.from_seed(4))
    assert split.merged > 0
    for part in (split.train, split.history("test")):
        rows = split.repeated(part)
        pairs = set(part.to_frame().select("user_id", "item_id").iter_rows())
        expected = [row for row in data.to_frame().iter_rows() if row[:2] in pairs]
        assert list(rows.to_frame().iter_rows()) == expected
        assert len(expected) > len(part)
    held_out = set(split.test.to_frame().select("user_id", "item_id").iter_rows())
    train = set(split.repeated(split.train).to_frame().select("user_id", "item_id").iter_rows())
    assert not held_out & train


def test_without_repeats_nothing_is_kept_twice():
    data = fr.interactions_from({"user_id": [1, 1, 1], "item_id": [5, 6, 7], "timestamp": [1, 2, 3]})
    split = fr.leave_last_out(data)
    assert split.every is None
    assert split.repeated(split.train) is split.train
