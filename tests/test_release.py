"""What happens to contributions before they are summed."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

from fedrec.aggregation.contributions import Contributions, Dense
from fedrec.aggregation.release import Cap, Clip, Release, Weight
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError

SOURCE = KeyedSource.from_seed(11)


def clients_of(rows, n_items=50, excluded=None):
    indptr = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    items = np.array([item for row in rows for item in row], dtype=np.int32)
    excluded = [[]] * len(rows) if excluded is None else excluded
    return Clients(
        indptr=indptr,
        items=items,
        values=items.astype(np.float32) / 2,
        times=np.arange(len(items), dtype=np.float64),
        keys=np.arange(len(rows), dtype=np.uint64) * np.uint64(77) + np.uint64(5),
        n_items=n_items,
        excluded_indptr=np.cumsum([0, *map(len, excluded)]).astype(np.int64),
        excluded_items=np.array([item for row in excluded for item in row], dtype=np.int32),
    )


def rows(clients):
    return [clients.items[a:b].tolist() for a, b in zip(clients.indptr, clients.indptr[1:], strict=False)]


def avoided(clients):
    bounds = zip(clients.excluded_indptr, clients.excluded_indptr[1:], strict=False)
    return [sorted(clients.excluded_items[a:b].tolist()) for a, b in bounds]


histories = st.lists(st.lists(st.integers(0, 49), unique=True, max_size=12), max_size=8)


@settings(deadline=None, max_examples=60)
@given(histories, st.integers(1, 12), st.sampled_from(["newest", "random"]), st.data())
def test_a_cap_keeps_exactly_so_many_in_order_and_negatives_avoid_the_rest(history, limit, choose, data):
    excluded = [data.draw(st.lists(st.integers(0, 49), max_size=2)) for _ in history]
    clients = clients_of(history, excluded=excluded)
    capped = Cap(items=limit, choose=choose).apply(clients, SOURCE)
    assert capped.lengths.tolist() == [min(len(row), limit) for row in history]
    for before, after in zip(history, rows(capped), strict=True):
        if choose == "newest":
            assert after == before[-limit:]
        assert after == [item for item in before if item in after]
    assert avoided(capped) == [
        sorted(other + [item for item in before if item not in after])
        for before, after, other in zip(history, rows(capped), excluded, strict=True)
    ]
    assert np.array_equal(capped.values, capped.items.astype(np.float32) / 2)
    assert np.all(np.diff(capped.times) > 0)
    assert np.array_equal(capped.keys, clients.keys)


@settings(deadline=None, max_examples=30)
@given(histories, st.integers(1, 5), st.data())
def test_a_drawn_cap_is_the_clients_own_whoever_else_is_there(history, limit, data):
    clients = clients_of(history)
    cap = Cap(items=limit, choose="random")
    together = rows(cap.apply(clients, SOURCE))
    some = np.array(data.draw(st.permutations(range(len(history)))), dtype=np.int64)[: len(history) // 2]
    assert rows(cap.apply(clients.take(some), SOURCE)) == [together[position] for position in some]
    assert rows(cap.apply(clients, SOURCE)) == together


def test_a_drawn_cap_draws_every_set_equally_often_and_anew_each_round():
    n, length, limit = 12_000, 5, 2
    clients = clients_of([range(length)] * n)
    first = Cap(items=limit, choose="random").apply(clients, SOURCE.child("contribute", 0))
    pairs = first.items.reshape(n, limit)
    found = np.bincount(pairs[:, 0] * length + pairs[:, 1], minlength=length**2)
    found = found[found > 0]
    assert len(found) == 10
    assert stats.chisquare(found).pvalue > 0.01
    second = Cap(items=limit, choose="random").apply(clients, SOURCE.child("contribute", 1)).items.reshape(n, limit)
    table = np.histogram2d(pairs[:, 0], second[:, 0], bins=(4, 4))[0]
    assert stats.chi2_contingency(table).pvalue > 0.01


def test_a_cap_leaves_shorter_histories_alone():
    clients = clients_of([[1, 2], [3]])
    assert Cap(items=2).apply(clients, SOURCE) is clients
    nobody = clients_of([])
    assert Cap(items=2).apply(nobody, SOURCE) is nobody


def test_weights_are_shares_of_interactions_up_to_one():
    clients = clients_of([range(2), range(10), [], range(5)])
    assert Weight().factors(clients, 5).tolist() == [1, 1, 1, 1]
    assert Weight(by="interactions").factors(clients, 5).tolist() == [0.4, 1, 0, 1]


def test_a_release_weights_by_what_the_cap_lets_a_client_use():
    clients = clients_of([range(2), range(10), range(4)])
    ones = Contributions({"x": Dense(np.ones((3, 1), "f4"), np.ones(3))})
    release = Release([Cap(items=4), Weight(by="interactions")])
    capped = release.before(clients, SOURCE)
    assert release.after(ones, capped).arrays["x"].factors.tolist() == [0.5, 1, 1]
    uncapped = Release([Weight(by="interactions")])
    assert uncapped.before(clients, SOURCE) is clients
    assert uncapped.after(ones, clients).arrays["x"].factors.tolist() == [2 / 50, 10 / 50, 4 / 50]
    assert Release([Cap(items=60), Weight(by="interactions")]).after(ones, clients).arrays["x"].factors[1] == 10 / 50
    assert Release().after(ones, clients) is ones
    assert Release([Cap(items=4), Weight()]).after(ones, clients) is ones


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Weight(), Cap(items=3)], "the order must be cap, weight, clip"),
        ([Cap(items=3), Cap(items=2)], "'cap' appears more than once"),
        ([Weight(), Weight(by="interactions")], "'weight' appears more than once"),
        ([Cap(items=3), Weight(), Cap(items=3)], "'cap' appears more than once"),
    ],
)
def test_orders_that_cannot_keep_their_promise_are_plan_errors(steps, message):
    with pytest.raises(PlanError, match=message):
        Release(steps)


@pytest.mark.parametrize(("step", "name"), [(Weight(by="interactions"), "weight"), (Clip(norm=1.0), "clip")])
def test_clients_that_are_pooled_are_not_weighted_or_clipped(step, name):
    spec = SumSpec((ArraySpec("a", "dense", (1,), 1.0), ArraySpec("b", "dense", (1,), 1.0, pooled=True)))
    for steps in ([], [Weight()], [Cap(items=2)]):
        assert Release(steps).adjust(spec) is spec
    with pytest.raises(PlanError, match=f"release: {name} needs each client's contribution.* to b before"):
        Release([step]).adjust(spec)


def test_weights_need_a_finer_grid():
    spec = SumSpec((ArraySpec("a", "dense", (1,), 1.0), ArraySpec("b", "dense", (1,), 1.0, scale_bits=24)), 7)
    for steps in ([], [Weight()], [Cap(items=2)]):
        assert Release(steps).adjust(spec) is spec
    fine = Release([Weight(by="interactions")]).adjust(spec)
    assert [array.scale_bits for array in fine.arrays] == [20, 24]
    assert (fine.names, fine.n_max) == (spec.names, 7)
