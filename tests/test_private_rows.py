"""Private rows: whatever crashes whenever, they are those of an uninterrupted run."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from fedrec.errors import DamagedError, PlanError
from fedrec.models.private_state import OwnRows, flattened, joined, restored
from fedrec.models.shapes import Own, Shape
from fedrec.node.private_rows import PrivateRows, RowShapes
from fedrec.record import durable

CLIENTS = 5
SHAPES = RowShapes({"users": Shape((2,), "float64"), "seen": Shape((), "int64")}, CLIENTS, 9)
OWN_SHAPES = RowShapes({"own": Own(2), "users": Shape((1,), "float64")}, CLIENTS, 9)


class Crash(BaseException):
    """The process dies here."""


def first():
    return {"users": np.arange(2.0 * CLIENTS).reshape(CLIENTS, 2), "seen": np.zeros(CLIENTS, dtype=np.int64)}


def changes(round, cohort, arrays):
    """New rows of a cohort: applying them twice, or never, gives other numbers."""
    return {"users": arrays["users"][cohort] * 1.5 + round, "seen": arrays["seen"][cohort] + 1}


def uninterrupted(cohorts, kept):
    """All arrays after round `kept`, in plain NumPy."""
    arrays = first()
    for round, cohort in enumerate(cohorts[: kept + 1]):
        for name, rows in changes(round, cohort, arrays).items():
            arrays[name][cohort] = rows
    return arrays


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


class Node:
    """What a node does with its rows at the calls of a coordinator."""

    def __init__(self, folder):
        self.folder = folder
        self.rows = None

    def settled(self, committed):
        if self.rows is None and self.folder is not None:
            self.rows = PrivateRows.open(self.folder, SHAPES)
        if self.rows is None:
            self.rows = PrivateRows.create(first(), SHAPES, self.folder)
        self.rows.settle(committed)
        return self.rows

    def contribute(self, round, cohort):
        rows = self.settled(round - 1)
        if len(cohort):
            rows.stage(round, cohort, changes(round, cohort, rows.arrays))

    def keep(self, round):
        self.settled(round).keep()

    def finish(self, committed, kept):
        if self.rows is None and self.folder is not None:
            self.rows = PrivateRows.open(self.folder, SHAPES)
        if self.rows is None or self.rows.applied != kept:
            self.settled(committed)
        self.rows.finish(kept)


def run(node, cohorts, best, dies=lambda: False):
    """A coordinator that repeats the call during which the node died; `best`: rounds kept, `None`: the last."""
    steps = []
    for round, cohort in enumerate(cohorts):
        steps.append(lambda round=round, cohort=cohort: node.contribute(round, cohort))
        if best is not None:
            steps.append(lambda round=round: node.settled(round))
            if round in best:
                steps.append(lambda round=round: node.keep(round))
    kept = len(cohorts) - 1 if not best else max(best)
    steps.append(lambda: node.finish(len(cohorts) - 1, kept))
    for step in steps:
        while True:
            try:
                step()
                if dies():
                    raise Crash
                break
            except Crash:
                node.rows = None
    return kept


COHORTS = [np.array(cohort, dtype=np.int64) for cohort in ([0, 1, 4], [], [2, 1], [0, 1, 2, 3, 4], [3], [4, 0])]
SCRIPTS = {"last": None, "validated, last": set(), "best in the middle": {0, 2}, "best is last": {1, 5}, "first": {0}}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_crash_at_any_change_of_the_disk_changes_nothing(tmp_path, monkeypatch, script, moment):
    best = SCRIPTS[script]
    fuse = [0]

    def armed(operation):
        def call(*args, **kwargs):
            fuse[0] -= 1
            if fuse[0] == 0 and moment == "before":
                raise Crash
            result = operation(*args, **kwargs)
            if fuse[0] == 0:
                raise Crash
            return result

        return call

    monkeypatch.setattr(durable.os, "replace", armed(durable.os.replace))
    monkeypatch.setattr(Path, "unlink", armed(Path.unlink))
    monkeypatch.setattr(durable.os, "fsync", lambda handle: None)
    for crash_at in range(1, 100):
        folder = tmp_path / str(crash_at)
        fuse[0] = crash_at
        kept = run(Node(folder), COHORTS, best)
        crashed = fuse[0] <= 0
        fuse[0] = 0
        again = PrivateRows.open(folder, SHAPES)
        assert again.applied == kept
        assert equal(again.arrays, uninterrupted(COHORTS, kept))
        assert [path.name for path in folder.iterdir()] == ["base.safetensors"]
        if not crashed:
            assert crash_at > 8
            return
    raise AssertionError("the run never ended without a crash")


cohorts = st.lists(st.lists(st.integers(0, CLIENTS - 1), unique=True, max_size=CLIENTS), min_size=1, max_size=7).map(
    lambda parts: [np.array(part, dtype=np.int64) for part in parts]
)


@settings(deadline=None, max_examples=40)
@given(cohorts, st.data())
def test_dying_after_any_calls_equals_memory_equals_the_twin(tmp_path_factory, cohorts, data):
    best = data.draw(st.one_of(st.none(), st.sets(st.integers(0, len(cohorts) - 1))))
    deaths = iter(data.draw(st.lists(st.booleans(), max_size=20)))
    node = Node(tmp_path_factory.mktemp("node") / "private")
    kept = run(node, cohorts, best, lambda: next(deaths, False))
    memory = Node(None)
    assert run(memory, cohorts, best) == kept
    expected = uninterrupted(cohorts, kept)
    assert equal(node.rows.arrays if node.rows else PrivateRows.open(node.folder, SHAPES).arrays, expected)
    assert equal(memory.rows.arrays, expected)


def node_in(kind, tmp_path):
    return Node(None if kind == "memory" else tmp_path / "private")


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_rows_of_a_round_that_was_never_committed_are_thrown_away(tmp_path, kind):
    node = node_in(kind, tmp_path)
    node.contribute(0, COHORTS[0])
    node.contribute(1, COHORTS[2])
    assert equal(node.rows.arrays, uninterrupted(COHORTS, 0))
    rows = node.settled(0)
    assert equal(rows.arrays, uninterrupted(COHORTS, 0))
    if kind == "disk":
        assert not list(node.folder.glob("round-000001*"))
    rows.settle(1)
    assert equal(rows.arrays, uninterrupted(COHORTS, 0))


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_contributing_twice_counts_once(tmp_path, kind):
    node = node_in(kind, tmp_path)
    for _ in range(3):
        node.contribute(0, COHORTS[0])
    assert equal(node.settled(0).arrays, uninterrupted(COHORTS, 0))
    assert equal(node.settled(0).arrays, uninterrupted(COHORTS, 0))


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_node_that_missed_rounds_still_applies_what_was_committed(tmp_path, kind):
    node = node_in(kind, tmp_path)
    node.contribute(0, COHORTS[0])
    rows = node.settled(4)
    assert rows.applied == 4
    assert equal(rows.arrays, uninterrupted(COHORTS, 0))


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_coordinator_that_forgot_rounds_is_refused(tmp_path, kind):
    node = node_in(kind, tmp_path)
    for round in (0, 1):
        node.contribute(round, COHORTS[0])
    rows = node.settled(1)
    with pytest.raises(DamagedError, match="of round 1, but only round 0 was committed"):
        rows.settle(0)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_only_the_kept_round_can_be_the_end(tmp_path, kind):
    node = node_in(kind, tmp_path)
    node.contribute(0, COHORTS[0])
    node.keep(0)
    node.contribute(1, COHORTS[2])
    rows = node.settled(2)
    with pytest.raises(DamagedError, match="private rows of round 1"):
        rows.finish(1)
    rows.finish(0)
    rows.finish(0)
    assert equal(rows.arrays, uninterrupted(COHORTS, 0))
    assert rows.applied == 0


def test_nothing_kept_cannot_be_the_end(tmp_path):
    rows = PrivateRows.create(first(), SHAPES, None)
    rows.settle(1)
    with pytest.raises(DamagedError, match="private rows of round 0 were not kept"):
        rows.finish(0)


def test_taken_rows_are_copies_and_first_rows_are_not_shared():
    given = first()
    rows = PrivateRows.create(given, SHAPES, None)
    taken = rows.take(np.array([3, 0]))
    assert taken["users"].tolist() == [[6, 7], [0, 1]]
    taken["users"][:] = -1
    given["users"][:] = -1
    assert equal(rows.arrays, first())


def test_journals_are_folded_into_the_base_before_they_outgrow_it(tmp_path):
    node = Node(tmp_path / "private")
    for round in range(20):
        node.contribute(round, np.arange(CLIENTS))
        size = sum(path.stat().st_size for path in node.folder.glob("round-*"))
        assert size < 4 * (node.folder / "base.safetensors").stat().st_size
    assert equal(node.settled(19).arrays, uninterrupted([np.arange(CLIENTS)] * 20, 19))


def test_other_arrays_are_not_private_rows(tmp_path):
    assert PrivateRows.open(tmp_path, SHAPES) is None
    durable.save_arrays(tmp_path / "base.safetensors", first())
    with pytest.raises(DamagedError, match="__round must be one whole number"):
        PrivateRows.open(tmp_path, SHAPES)
    (tmp_path / "base.safetensors").write_bytes(b"garbage")
    with pytest.raises(DamagedError, match="is damaged"):
        PrivateRows.open(tmp_path, SHAPES)


def own(seed, clients, width=2):
    """`OwnRows` of some clients, none of them with more than four rows, with gaps between ranges."""
    rng = np.random.default_rng(seed)
    room = rng.integers(0, 5, clients)
    indptr = np.concatenate([[0], np.cumsum(room)])
    items = np.concatenate([rng.permutation(9)[:n] for n in room] + [np.empty(0, dtype=int)])
    return OwnRows.of(indptr, items, rng.normal(size=(len(items), width)), rng.integers(0, room + 1))


def listed(rows):
    """What every client owns, in plain Python."""
    out = []
    for start, length in zip(rows.starts.tolist(), rows.lengths.tolist(), strict=True):
        part = slice(start, start + length)
        out.append((rows.items[part].tolist(), rows.values[part].tolist()))
    return out


@settings(deadline=None, max_examples=60)
@given(cohorts, st.integers(0, 1000))
def test_ranges_of_rows_are_replaced_client_by_client_and_never_written_over(parts, seed):
    rows = own(seed, CLIENTS)
    expected = listed(rows)
    for turn, cohort in enumerate(parts):
        before, fresh = rows, own(seed + turn + 1, len(cohort))
        rows = rows.replaced(cohort, fresh)
        assert listed(before) == expected
        for client, mine in zip(cohort.tolist(), listed(fresh), strict=True):
            expected = [mine if place == client else theirs for place, theirs in enumerate(expected)]
        assert listed(rows) == listed(rows.packed()) == listed(rows.copy()) == expected
        assert listed(rows[cohort]) == [expected[client] for client in cohort]
        assert listed(joined([rows[cohort], rows])) == [expected[client] for client in cohort] + expected
        assert rows.tobytes() == rows.packed().tobytes() == rows.copy().tobytes()
        assert rows.nbytes == sum(12 * len(items) for items, _ in expected)
        assert len(rows.items) <= max(len(own(seed, CLIENTS).items), 2 * 4 * CLIENTS + 4 * CLIENTS)
        back = restored(flattened({"own": rows, "users": np.ones(3)}), ["own"])
        assert listed(back["own"]) == expected
        assert back["users"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_ranges_of_rows_live_through_rounds_and_a_new_process(tmp_path, kind):
    folder = None if kind == "memory" else tmp_path / "private"
    first_rows = {"own": own(0, CLIENTS), "users": np.zeros((CLIENTS, 1))}
    rows, expected = PrivateRows.create(first_rows, OWN_SHAPES, folder), listed(first_rows["own"])
    for round, cohort in enumerate(COHORTS):
        fresh = own(round + 1, len(cohort))
        rows.stage(round, cohort, {"own": fresh, "users": np.full((len(cohort), 1), float(round))})
        if folder is not None:
            size = (folder / f"round-{round:06d}.safetensors").stat().st_size
            assert size < 1000 + 40 * len(cohort)
            rows = PrivateRows.open(folder, OWN_SHAPES)
        rows.settle(round)
        for client, mine in zip(cohort.tolist(), listed(fresh), strict=True):
            expected[client] = mine
        assert listed(rows.arrays["own"]) == expected
        assert listed(rows.take(cohort)["own"]) == [expected[client] for client in cohort]
        if round == 2:
            rows.keep()
            best = list(expected)
    rows.finish(2)
    assert listed(rows.arrays["own"]) == best
    if folder is not None:
        assert listed(PrivateRows.open(folder, OWN_SHAPES).arrays["own"]) == best


def test_rows_taken_and_added_to_leave_those_they_were_taken_from_alone():
    rows = own(0, CLIENTS).replaced(np.array([1]), own(5, 1))
    later = rows.replaced(np.array([2]), own(6, 1))
    expected = listed(later)
    taken = rows[np.arange(CLIENTS)].replaced(np.array([3]), own(7, 1))
    assert listed(later) == expected
    assert listed(taken)[3] == listed(own(7, 1))[0]


def test_ranges_that_do_not_fit_their_rows_are_damage():
    good = flattened({"own": own(3, CLIENTS)})
    for name, value in (("own.lengths", good["own.lengths"] + 1), ("own.items", good["own.items"][:-1])):
        with pytest.raises(DamagedError, match="ranges of"):
            restored(good | {name: value}, ["own"])
    with pytest.raises(DamagedError, match="lack"):
        restored({name: array for name, array in good.items() if name != "own.values"}, ["own"])


def test_names_of_private_arrays_may_hold_dots(tmp_path):
    """As those of torch modules do: what is a range of rows follows from the model, not from how a name looks."""
    shapes = RowShapes({"head.0.weight": Shape((2,), "float64"), "own.items.bias": Own(2)}, CLIENTS, 9)
    first = {"head.0.weight": np.arange(2.0 * CLIENTS).reshape(CLIENTS, 2), "own.items.bias": own(1, CLIENTS)}
    PrivateRows.create(first, shapes, tmp_path)
    opened = PrivateRows.open(tmp_path, shapes)
    assert opened.arrays.keys() == first.keys()
    assert np.array_equal(opened.arrays["head.0.weight"], first["head.0.weight"])
    assert opened.arrays["own.items.bias"].tobytes() == first["own.items.bias"].tobytes()


def test_a_private_array_cannot_have_the_name_of_a_part_of_own_rows():
    with pytest.raises(PlanError, match=r"'own\.values' has the name of a part of its own rows 'own'"):
        RowShapes({"own": Own(2), "own.values": Shape((1,))}, CLIENTS, 9)
