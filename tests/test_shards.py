"""A node of several shards gives what a node of one shard gives, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec as fr
from fedrec.aggregation.sums import Sum
from fedrec.data.interactions import Interactions
from fedrec.engines.local import LocalEngine
from fedrec.errors import PlanError
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import CountCall, EvaluationCall, RoundCall
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.item_floor import ItemFloor, floor_spec
from fedrec.federation.own_rounds import OwnRounds
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.federation.warm_start import Changed
from fedrec.models.base import Arrays
from fedrec.models.outline import keeps_rows
from fedrec.models.private_state import blank, flattened, placed
from fedrec.node.founding import found_node
from fedrec.node.node import Floors, Node
from fedrec.privacy.chance import SeededChance
from fedrec.privacy.protection import Protection
from runs_in_test import DATA, small_plan

USERS = fr.load_data(DATA)
PRIVATE = {"epsilon": 40.0, "delta": 1e-4}


def agreed_on(plan: Plan) -> Agreement:
    return Agreement.of(plan.resolve(USERS, "0" * 64), USERS.catalog)


def node_of(
    agreement: Agreement, shards: int, folder: Path | None = None, data: Interactions = USERS, **floors: Any
) -> Node:
    """A node whose users are spread over shards, one after the other."""
    splits = [
        agreement.divided(data if shards == 1 else data.take_users(np.arange(place, data.n_users, shards)))
        for place in range(shards)
    ]
    kept = None if folder is None else folder / f"of-{shards}"
    return found_node("node-0", splits, agreement, kept, Floors(**floors), SeededChance(1))


def rows_of(node: Node) -> dict[str, Any]:
    """Private rows of all users, in the order of their ids."""
    rows: dict[str, Any] = {}
    for shard in node.shards:
        places = USERS.users.find(shard.data.users.series)
        for name, array in (shard.private() or {}).items():
            rows[name] = placed(rows.get(name, blank(array, USERS.n_users)), places, array)
    return {name: array.tobytes() for name, array in flattened(rows).items()}


def assert_same(one: Sum, other: Sum) -> None:
    assert (one.clients, one.left_out, one.saturated, one.round) == (
        other.clients,
        other.left_out,
        other.saturated,
        other.round,
    )
    assert one.commitments == other.commitments, "receipts commit to the sum and to nothing of the shards"
    for name, array in one.arrays.items():
        assert array.tobytes() == other.arrays[name].tobytes(), name


class Twins(LocalEngine):
    """A node of one shard, whose twins of more shards are asked the same."""

    def __init__(self, node: Node, twins: list[Node]) -> None:
        super().__init__([node])
        self.twins = twins

    def contribute(self, call: RoundCall) -> list[Sum]:
        (total,) = super().contribute(call)
        for twin in self.twins:
            assert_same(total, twin.contribute(call))
        return [total]

    def evaluate(self, call: EvaluationCall) -> list[Sum]:
        (total,) = super().evaluate(call)
        for twin in self.twins:
            assert_same(total, twin.evaluate(call))
        return [total]

    def keep(self, shared: Arrays, committed: OwnRounds) -> None:
        for node in (*self.nodes, *self.twins):
            node.keep(shared, committed[node.name])

    def finish(self, shared: Arrays, committed: OwnRounds, kept: OwnRounds) -> None:
        for node in (*self.nodes, *self.twins):
            node.finish(shared, committed[node.name], kept[node.name])


@pytest.mark.parametrize("kept", ["in memory", "on the disk"])
@pytest.mark.parametrize("model", ["ease", "fedrap", "ials", "mf", "mf-scaffold"])
def test_sums_metrics_and_private_rows_do_not_depend_on_the_shards(model: str, kept: str, tmp_path: Path) -> None:
    agreement, folder = agreed_on(small_plan(model)), tmp_path if kept == "on the disk" else None
    nodes = [node_of(agreement, shards, folder) for shards in (1, 2, 5)]
    engine = Twins(nodes[0], nodes[1:])
    coordinator = Coordinator(agreement, engine, Run(agreement.plan, None), engine.has_valid)
    trained = coordinator.train()
    assert coordinator.evaluate(trained.state, trained.round, "test", ["ndcg@10", "novelty@10"], "full")
    rows = rows_of(nodes[0])
    assert bool(rows) == keeps_rows(agreement.model)
    for node in nodes[1:]:
        assert rows_of(node) == rows
    counts, fingerprint = nodes[0].counts(), nodes[0].fingerprint()
    for node in nodes[1:]:
        assert (node.counts(), node.fingerprint() % 2**64, len(node)) == (counts, fingerprint % 2**64, USERS.n_users)


def test_shards_go_on_from_the_disk_where_their_node_was_stopped(tmp_path: Path) -> None:
    agreement = agreed_on(small_plan("mf"))
    state = agreement.start()
    spec = agreement.spec(state.shared, 0)
    assert spec is not None
    call = RoundCall(0, -1, state.shared, spec, agreement.share)
    whole, first = node_of(agreement, 1, tmp_path), node_of(agreement, 2, tmp_path)
    assert_same(whole.contribute(call), first.contribute(call))
    again = node_of(agreement, 2, tmp_path)
    following = replace(call, round=1, committed=0)
    assert_same(whole.contribute(following), again.contribute(following))
    for node in (whole, again):
        node.finish(state.shared, 1, 1)
    assert rows_of(whole) == rows_of(again)


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"noise": "distributed"},
        {"sampling": "poisson", "users": 240, "max_cohort": 60, "participations": 1},
    ],
)
def test_cohorts_clips_and_shares_of_noise_are_the_nodes(terms: dict[str, Any]) -> None:
    plan = small_plan("mf", privacy={**PRIVATE, **terms}, evaluation={}, cohort=0.5)
    agreement = agreed_on(plan)
    assert agreement.plan.privacy is not None
    state = agreement.start()
    parties = (3, 2, "who") if terms.get("noise") else None
    protection = Protection(
        agreement.plan.privacy, agreement.model, agreement.share, agreement.n_max, "run", SeededChance(2), parties
    )
    spec = agreement.spec(state.shared, 0, protection.excess)
    assert spec is not None
    call = RoundCall(0, -1, state.shared, spec, agreement.share, privacy=protection.round_terms(0))
    sums = []
    for shards in (1, 2, 5):
        node = node_of(agreement, shards, simulated=True)
        assert node.guard is not None
        if parties is not None:
            node.guard.parties = parties[2], parties[1]
        sums.append(node.contribute(call))
    for total in sums[1:]:
        assert_same(sums[0], total)
    if "max_cohort" in terms:
        assert sums[0].clients == 60


def test_floors_look_at_all_shards_together() -> None:
    """Shards of 24 users are let out as one sum of 48; items count over all of them, and so does their noise."""
    few, agreement = USERS.take_users(np.arange(48)), agreed_on(small_plan("popularity"))
    state = agreement.start()
    spec = agreement.spec(state.shared, 0)
    assert spec is not None
    call = RoundCall(0, -1, state.shared, spec, 1.0)
    floors = {"min_clients": 40, "min_item_clients": 6}
    one, two = (node_of(agreement, shards, data=few, **floors) for shards in (1, 2))
    total = one.contribute(call)
    assert_same(total, two.contribute(call))
    counts = total.arrays["counts"]
    assert 0 < (counts > 0).sum() < len(counts)
    assert counts[counts > 0].min() >= 6
    with pytest.raises(PlanError, match="a sum over fewer clients than the owner's floor, 49"):
        node_of(agreement, 2, data=few, min_clients=49).contribute(call)
    counted = CountCall(floor_spec(USERS.n_items, ItemFloor(least=5), agreement.n_max), 2.0)
    assert_same(one.count_items(counted), two.count_items(counted))


def test_what_changed_since_an_earlier_run_is_the_same_in_shards() -> None:
    """Of users that are gone, are new, or were there before."""
    users = USERS.without_values()
    before, now = users.take_users(np.arange(200)), users.take_users(np.arange(20, 240))
    earlier = fr.EASE(plan={"keep_sums": True, "split": "none"}).fit(before).opened
    settings = {"data": {"source": "memory"}, "model": {"name": "ease"}, "split": "none", "warm_start": "memory"}
    agreement = Agreement.of(Plan.make(settings).resolve(now, "0" * 64), now.catalog)
    shared = agreement.start().shared
    spec = agreement.spec(shared, 0)
    assert spec is not None
    call = RoundCall(0, -1, shared, Changed.of(before.catalog, now.catalog).widened(spec), 1.0, change=True)
    sums = []
    for shards in (1, 2, 5):
        engine = LocalEngine([node_of(agreement, shards, data=now, simulated=True)])
        engine.remember(earlier.as_earlier("memory")[1])
        sums += engine.contribute(call)
    assert sums[0].clients == 20 + 40
    for total in sums[1:]:
        assert_same(sums[0], total)


def test_a_refused_sum_leaves_no_private_rows_behind(tmp_path: Path) -> None:
    agreement = agreed_on(small_plan("mf"))
    state = agreement.start()
    spec = agreement.spec(state.shared, 0)
    assert spec is not None
    node = node_of(agreement, 2, tmp_path, min_clients=1000)
    with pytest.raises(PlanError, match="owner's floor"):
        node.contribute(RoundCall(0, -1, state.shared, spec, agreement.share))
    assert not list(tmp_path.rglob("round-*.safetensors"))


@pytest.mark.parametrize("shards", [1, 3])
def test_clients_whom_a_model_does_not_draw_do_not_count_towards_the_floor(shards: int) -> None:
    """A coordinator that says that there are very many clients gets no sum over one of them."""
    agreement = agreed_on(Plan.make({"data": {"source": DATA}, "model": {"name": "autoencoder", "batch_size": 60}}))
    n_items, population = len(agreement.catalog), 4.0 * USERS.n_users
    shapes = agreement.model.shapes(n_items).states[-1].shared
    shared = {name: np.zeros(shape.axes, shape.dtype) for name, shape in shapes.items()}
    for says, refused in ((population, True), (USERS.n_users, False)):
        now = shared | {"population": np.array([float(says)])}
        spec = agreement.spec(now, 5)
        assert spec is not None
        node = node_of(agreement, shards, min_clients=32)
        call = RoundCall(5, -1, now, spec, 1.0)
        if refused:
            with pytest.raises(PlanError, match="a sum over fewer clients than the owner's floor, 32"):
                node.contribute(call)
        else:
            total = node.contribute(call)
            assert 32 <= total.clients - total.idle < 90 < total.clients
