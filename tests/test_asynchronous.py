"""Asynchronous training: weights and buffers exactly, clocks by hand, and runs that their ledger alone explains."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

import fedrec as fr
from fedrec.aggregation.buffered import WEIGHT_BITS, Asynchronous, buffered_sum, shortened
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.keys import KeyedSource
from fedrec.engines.clock import SPEED, Clock
from fedrec.engines.local import LocalEngine
from fedrec.engines.virtual import VirtualArrivals, synchronous_seconds, work
from fedrec.errors import InputError, PlanError, RunError
from fedrec.evaluation.metrics import parse_metrics
from fedrec.evaluation.protocols import parse_protocol
from fedrec.federation.agreement import Agreement
from fedrec.federation.asynchronous import Arrival, Buffering
from fedrec.federation.calls import EvaluationCall, RoundCall
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.gathering import Buffered, merged
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.federation.versions import Standing, check_versions
from fedrec.kernels.threads import limit_threads
from fedrec.models.base import Given, State
from fedrec.node.node import Node
from fedrec.record.ledger import Ledger, rooted_line
from fedrec.record.merkle import Tree
from fedrec.runs.loading import Placement
from fedrec.runs.training import train_run
from fedrec.runs.verifying import verify_run
from runs_in_test import DATA, MODELS, assert_same, left_behind

pytestmark = pytest.mark.filterwarnings("ignore:ratings .or weights. from")  # values do not matter here

FULL = 1 << WEIGHT_BITS
STEPPING = ["fcf", "fedncf", "fedrap", "fedrecon", "gpfedrec", "mf", "mf-adam", "mf-bpr", "mf-squared", "pfedrec"]
CLOCK = "slow:0.5x4"


def plan(chosen: str = "mf", /, **changes: Any) -> Plan:
    base = {"data": {"source": DATA}, "model": MODELS[chosen], "seed": 5, "asynchronous": {"buffer": 2}}
    return Plan.make(base | changes)


def in_memory(made: Plan, nodes: int = 4, clock: str = CLOCK) -> tuple[Coordinator, LocalEngine]:
    data = fr.load_data(DATA)
    resolved = made.resolve(data, "0" * 64)
    engine = LocalEngine.build(data, resolved, nodes)
    engine.clock = Clock.parse(clock, len(engine.nodes), resolved.seed)
    run = Run(resolved, None)
    return Coordinator(Agreement.of(resolved, data.catalog), engine, run, engine.has_valid), engine


def buffering_of(coordinator: Coordinator) -> Buffering:
    assert isinstance(coordinator.gathering, Buffered)
    return coordinator.gathering.buffering


# Weights and sums


def test_weights_are_those_of_the_papers() -> None:
    def weights(**terms: Any) -> list[float]:
        made = Asynchronous(buffer=1, **terms)
        return [made.weight(staleness, 39) / FULL for staleness in range(40)]

    close = 0.5 / FULL + 1e-12
    assert weights(staleness="constant") == [1.0] * 40
    for power in (0.5, 2.0):
        paper = [(1 + t) ** -power for t in range(40)]
        assert np.allclose(weights(staleness="polynomial", exponent=power), paper, rtol=0, atol=close)
        balanced = [((1 + t) / 40) ** power for t in range(40)]
        assert np.allclose(weights(exponent=power), balanced, rtol=0, atol=close)
    assert weights() == weights(staleness="balanced", exponent=0.5)
    hinge = [1.0 if t <= 6 else 1 / (10 * (t - 6) + 1) for t in range(40)]
    assert np.allclose(weights(staleness="hinge", fresh=6, slope=10), hinge, rtol=0, atol=close)
    assert Asynchronous(buffer=1, staleness="polynomial", exponent=8.0).weight(10**9, 10**9) == 1


def test_steps_are_shorter_where_a_mean_over_fewer_would_be_as_long() -> None:
    terms = Asynchronous(buffer=2)
    found = {}
    for chosen in STEPPING:
        coordinator, _ = in_memory(plan(chosen))
        state = coordinator.model.start(coordinator.catalog, {}, KeyedSource.from_seed(0))
        spec = coordinator.model.spec(state.shared, 0)
        assert spec is not None
        found[chosen] = terms.step_of(spec, 0.25)
        assert Asynchronous(buffer=2, step=0.7).step_of(spec, 0.25) == 0.7
    shorter = {"fedrap", "fedrecon", "mf", "mf-adam", "pfedrec"}
    assert found == {chosen: 0.25 if chosen in shorter else 1.0 for chosen in STEPPING}
    assert [terms.weight(3, 15, step) for step in (1.0, 0.25)] == [FULL // 2, FULL // 8]


def test_every_client_moves_the_model_as_far_as_in_rounds_of_all() -> None:
    """Nodes of very unlike sizes, each sum a step of its own from the same version: the steps add up to the whole."""
    data = fr.load_data(DATA)
    places = pl.Series("place", ["a"] * 150 + ["b"] * 60 + ["c"] * 30)
    placed = replace(data, user_features=pl.DataFrame({"place": places}))
    made = plan(asynchronous={"buffer": 1, "staleness": "constant"})
    resolved = made.resolve(placed, "0" * 64)
    engine = LocalEngine.build(placed, resolved, 3, "by:place")
    model = resolved.build_model()
    coordinator = Coordinator(Agreement.of(resolved, data.catalog), engine, Run(resolved, None), engine.has_valid)
    buffering = buffering_of(coordinator)
    first = model.start(data.catalog, {}, KeyedSource.from_seed(resolved.seed).child("start"))
    spec = model.spec(first.shared, 0)
    assert spec is not None
    call = RoundCall(0, -1, first.shared, spec.fit(1024), 1.0)
    whole = model.step(first, merged(call.spec, engine.contribute(call), 0), 0).shared["items"] - first.shared["items"]
    sums = {node.name: node.contribute(call) for node in engine.nodes}
    clients = sum(total.clients for total in sums.values())
    moved = np.zeros_like(whole)
    buffering._standing = {name: Standing(0, 0.0, total.clients) for name, total in sums.items()}
    for name, total in sums.items():
        share = buffering._share({name: Arrival(name, total, 0.0)})
        assert share == pytest.approx(total.clients / clients)
        weight = Asynchronous(buffer=1).weight(0, 0, Asynchronous(buffer=1).step_of(call.spec, share))
        step = model.step(first, buffered_sum(call.spec, [(total, weight)], 0), 0)
        moved += step.shared["items"] - first.shared["items"]
    assert np.abs(moved - whole).max() < 1e-3 * np.abs(whole).max()


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, FULL))
def test_a_shortened_number_is_the_exact_product_rounded_once(number: int, weight: int) -> None:
    found = int(shortened(np.array([number]), weight)[0])
    exact = Fraction(number) * weight / FULL
    assert abs(Fraction(found) - exact) <= Fraction(1, 2)
    assert abs(found) <= abs(number)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5), st.integers(0, FULL))
def test_narrow_rings_hold_what_is_shortened(numbers: list[int], weight: int) -> None:
    narrow = shortened(np.array(numbers, dtype=np.int32), weight)
    assert narrow.dtype == np.int32
    assert narrow.tolist() == shortened(np.array(numbers, dtype=np.int64), weight).tolist()


SPEC = SumSpec(
    (ArraySpec("items", "rows", (3, 2), 1.0, 20, role="change"), ArraySpec("weight", "dense", (1,), 1.0, role="count"))
).fit(100)
PART = st.tuples(st.lists(st.integers(-(2**20), 2**20), min_size=6, max_size=6), st.integers(0, 10), st.integers(0, 30))


@given(st.lists(PART, min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_a_buffer_weighs_changes_and_not_counts_in_any_order(parts: list[Any], shuffled: Any) -> None:
    terms = Asynchronous(buffer=1, staleness="polynomial")
    sums = []
    for values, clients, staleness in parts:
        part = Sum.zeros(SPEC, 30 - staleness)
        part.arrays["items"][...] = np.array(values).reshape(3, 2)
        part.arrays["weight"][...] = part.clients = clients
        sums.append((part, terms.weight(staleness, 30)))
    total = buffered_sum(SPEC, sums, 30)
    assert total.round == 30
    assert total.spec == SPEC
    assert total.clients == int(total.value("weight")[0]) == sum(clients for _, clients, _ in parts)
    exact = sum(part.value("items") * weight / FULL for part, weight in sums)
    assert np.abs(total.value("items") - exact).max() <= len(parts) * 0.5 / 2**20
    shuffled.shuffle(sums)
    again = buffered_sum(SPEC, sums, 30)
    assert all(np.array_equal(total.arrays[name], again.arrays[name]) for name in SPEC.names)


@pytest.mark.parametrize("model", STEPPING)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_buffer_of_all_nodes_has_the_bits_of_a_plain_round(model: str, weighted: bool) -> None:
    """Whatever the clock says, every sum is fresh."""
    changes: dict[str, Any] = {"cohort": 0.7, "release": [{"step": "weight", "by": "interactions"}] if weighted else []}
    plain, _ = in_memory(plan(model, asynchronous=None, **changes))
    buffered, _ = in_memory(plan(model, asynchronous={"buffer": 4}, **changes), clock="1000,10,3,77")
    ends = [coordinator.train() for coordinator in (plain, buffered)]
    assert ends[0].rounds == ends[1].rounds > 1
    for name, array in ends[0].state.shared.items():
        assert array.tobytes() == ends[1].state.shared[name].tobytes()


# The clock


def test_done_is_work_over_speed_and_two_messages() -> None:
    clock = Clock.parse("2000,1000,slow:0.5x10,latency:0.25", 2)
    assert clock.done(0, 3.0, 500) == 3.0 + 0.25 + 0.25 + 0.25
    assert clock.done(1, 3.0, 500) == 3.0 + 0.25 + 5.0 + 0.25
    assert Clock.parse("", 3).speeds == (SPEED,) * 3
    assert Clock.parse("", 1).done(0, 0.0, 0) > 0, "nobody is done at once, or time would stand still"


@given(st.integers(0, 3), st.floats(0, 1000), st.integers(1, 100_000))
@settings(max_examples=60)
def test_a_node_that_comes_and_goes_works_as_long_as_it_is_there(node: int, since: float, amount: int) -> None:
    clock = Clock.parse("there:5/20", 4, seed=3)
    done = clock.done(node, since, amount)
    turns = clock._turns[node]
    edges, here = [0.0, *turns._ends], turns._first == 0
    there = 0.0
    for begin, end in itertools.pairwise(edges):
        there += max(0.0, min(end, done) - max(begin, since)) if here else 0.0
        here = not here
    assert there == pytest.approx(amount / SPEED, rel=1e-6, abs=1e-6)
    assert done == Clock.parse("there:5/20", 4, seed=3).done(node, since, amount)
    assert clock.done(node, since, amount + 1000) > done


def test_nodes_are_there_for_the_share_of_time_that_was_said() -> None:
    clock = Clock.parse("there:30/10", 200, seed=1)
    taken = [clock.done(node, 0.0, 1_000_000) for node in range(200)]
    assert np.mean(taken) == pytest.approx(1000 * 40 / 30, rel=0.05)


@pytest.mark.parametrize(
    ("text", "words"),
    [("fast:2", "slow"), ("1,2", "2 speeds for 4"), ("slow:2x3", "from 0 to 1"), ("slow:0.5", "not a number"),
     ("0", "above 0"), ("there:5", "not a number"), ("latency:-1", "above 0"), ("nan,1,1,1", "nan")],
)  # fmt: skip
def test_a_clock_that_makes_no_sense(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Clock.parse(text, 4)


def test_rounds_of_all_last_as_long_as_the_slowest_node(tmp_path: Path) -> None:
    report = train_run(plan(asynchronous=None, cohort=0.5), tmp_path / "run", Placement(4, clock=CLOCK))
    plain = train_run(plan(asynchronous=None, cohort=0.5), tmp_path / "plain", Placement(4))
    assert report["digests"] == plain["digests"]
    assert "virtual" not in plain
    _, engine = in_memory(plan(asynchronous=None, cohort=0.5))
    longest = [
        max(work(node, round, 0.5) / SPEED * (4 if place >= 2 else 1) for place, node in enumerate(engine.nodes))
        for round in range(6)
    ]
    assert np.allclose(synchronous_seconds(engine.nodes, engine.clock, 0.5, 6), np.cumsum(longest))
    assert report["virtual"] == {"clock": CLOCK, "seconds": pytest.approx(sum(longest), abs=1e-6)}


# Runs


def test_sums_arrive_when_nodes_are_done_and_are_as_stale_as_counted_by_hand() -> None:
    """Two nodes of equal work w, one three times slower, a step for every sum: a, a, (a and b at 3w), …"""
    coordinator, engine = in_memory(plan(asynchronous={"buffer": 1}), nodes=2, clock="")
    loads = [work(node, 0, 1.0) for node in engine.nodes]
    engine.clock = Clock.parse(f"{loads[0]},{loads[1] / 2.9}", 2)
    coordinator = Coordinator(coordinator.agreement, engine, Run(coordinator.plan, None), engine.has_valid)
    coordinator.train()
    found = [(line["time"], *list(line["parts"][0].values())[:3]) for line in coordinator.run.ledger.of_kind("round")]
    expected = [(1.0, "node-0", 0, 0), (2.0, "node-0", 1, 0), (2.9, "node-1", 0, 2), (3.0, "node-0", 2, 1),
                (4.0, "node-0", 4, 0), (5.0, "node-0", 5, 0)]  # fmt: skip
    assert [line[1:] for line in found] == [line[1:] for line in expected]
    assert np.allclose([line[0] for line in found], [line[0] for line in expected])


@pytest.mark.parametrize(
    "terms",
    [
        {"buffer": 2},
        {"buffer": 1, "max_staleness": 3},
        {"buffer": 3, "staleness": "constant"},
        {"buffer": 1, "staleness": "polynomial"},
    ],
)
def test_the_ledger_alone_tells_how_the_model_was_made(terms: dict[str, Any], tmp_path: Path) -> None:
    """Nodes of another process, called by hand in the order that the ledger says, make the same model."""
    made = plan(asynchronous=terms, cohort=0.6, model={**MODELS["mf"], "rounds": 14})
    train_run(made, tmp_path / "run", Placement(4, clock=CLOCK))
    data = fr.load_data(DATA)
    resolved = Plan.read(tmp_path / "run" / "plan.yaml")
    model, nodes = resolved.build_model(), {node.name: node for node in LocalEngine.build(data, resolved, 4).nodes}
    state: State = model.start(data.catalog, {}, KeyedSource.from_seed(resolved.seed).child("start"))
    versions, last = [state.shared], dict.fromkeys(nodes, -1)
    sizes: dict[str, int] = {}
    late: dict[str, int] = {}
    lines = Ledger(tmp_path / "run" / "ledger.jsonl", rooted=True).of_kind("round")
    assert resolved.asynchronous is not None
    for line in lines:
        spec = model.spec(state.shared, line["round"])
        assert spec is not None
        total = Sum.zeros(spec.fit(resolved.n_max or 0), line["round"])
        for part in line["parts"]:
            call = RoundCall(part["version"], last[part["node"]], versions[part["version"]], total.spec, 0.6)
            found = nodes[part["node"]].contribute(call)
            last[part["node"]] = part["version"]
            weight = part["weight"]
            known = sizes | {other["node"]: other["clients"] for other in line["parts"]}
            share = line["cohort"] / (sum(known.values()) / len(known) * 4)
            stale = late | {other["node"]: other["staleness"] for other in line["parts"]}
            assert weight == resolved.asynchronous.weight(part["staleness"], max(stale.values()), share)
            assert found.clients == part["clients"]
            total.arrays["items"] += ((found.arrays["items"].astype(object) * weight * 2 + FULL) // (2 * FULL)).astype(
                total.arrays["items"].dtype
            )
            total.arrays["weight"] += found.arrays["weight"]
            total.clients += found.clients
        assert total.clients == line["cohort"]
        sizes |= {part["node"]: part["clients"] for part in line["parts"]}
        late |= {part["node"]: part["staleness"] for part in line["parts"]}
        state = model.step(state, total, line["round"])
        versions.append(state.shared)
    assert any(part["staleness"] for line in lines for part in line["parts"])
    _, private = left_behind(tmp_path / "run")
    opened = fr.load_model(tmp_path / "run").opened
    assert opened.trained.state.shared["items"].tobytes() == state.shared["items"].tobytes()
    for name, node in nodes.items():
        node.finish(state.shared, last[name], last[name])
        (shard,) = node.shards
        mine = shard.private()
        assert mine is not None
        rows = private["users"][opened.data.users.find(shard.data.users.series)]
        assert rows.tobytes() == mine["users"].tobytes()


@pytest.mark.parametrize("model", STEPPING)
def test_every_model_that_steps_along_changes_trains_and_verifies(model: str, tmp_path: Path) -> None:
    changes = {"cohort": 0.7, "evaluation": {"every": 2, "keep": "best", "metrics": ["ndcg@10"]}}
    made = plan(model, **changes)
    report = train_run(made, tmp_path / "run", Placement(4, clock=CLOCK))
    assert report["asynchronous"]["max_staleness"] > 0
    verdict = verify_run(tmp_path / "run")
    assert verdict.wrong is None
    assert verdict.receipts == report["asynchronous"]["sums"] == 2 * report["rounds"]
    with limit_threads(1):
        train_run(made, tmp_path / "one", Placement(4, clock=CLOCK))
    assert_same(tmp_path / "run", tmp_path / "one")
    lines = [(run / "ledger.jsonl").read_bytes() for run in (tmp_path / "run", tmp_path / "one")]
    assert lines[0] == lines[1]


def test_sums_that_are_too_stale_leave_no_trace_but_in_the_ledger(tmp_path: Path) -> None:
    made = plan(asynchronous={"buffer": 2, "max_staleness": 2}, model={**MODELS["mf"], "rounds": 20})
    report = train_run(made, tmp_path / "run", Placement(4, clock="slow:0.5x9"))
    said = report["asynchronous"]
    assert said["late"] > 1
    assert said["nodes_without_a_sum"] == ["node-2", "node-3"]
    assert said["max_staleness"] <= 2
    verdict = verify_run(tmp_path / "run")
    assert verdict.wrong is None
    assert verdict.receipts == said["sums"] + said["late"]
    opened = fr.load_model(tmp_path / "run").opened
    for node in opened.engine.nodes:
        (shard,) = node.shards
        first = opened.model.join(Given(-1, opened.trained.state.shared, {}, shard.source.child("join")), shard.clients)
        rows = shard.private()
        assert first is not None
        assert rows is not None
        assert np.array_equal(rows["users"], first["users"]) == (node.name in said["nodes_without_a_sum"])


def test_a_pause_changes_nothing() -> None:
    made = plan(cohort=0.8, evaluation={"every": 1, "metrics": ["ndcg@10"]}, model={**MODELS["mf"], "rounds": 9})
    whole, _ = in_memory(made)
    paused, _ = in_memory(made)
    end = whole.train()
    for until in (1, 2, 6):
        assert paused.train(until).rounds == until
        paused.evaluate(paused.train(until).state, until - 1, "valid", ["ndcg@10"], "full")
    again = paused.train()
    assert whole.run.ledger.lines == paused.run.ledger.lines
    assert end.state.shared["items"].tobytes() == again.state.shared["items"].tobytes()


class Twice:
    """Arrivals over a bad network: everything comes twice, and old answers come again."""

    def __init__(self, arrivals: Any) -> None:
        self._arrivals = arrivals
        self._again: list[Arrival] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._arrivals, name)

    def next(self) -> Arrival:
        if len(self._again) % 3 == 2:
            self._again.append(self._again[-2])
            return self._again[-1]
        self._again.append(self._arrivals.next())
        return self._again[-1]


def test_answers_that_come_twice_or_again_change_nothing() -> None:
    once, _ = in_memory(plan(cohort=0.8))
    often, _ = in_memory(plan(cohort=0.8))
    buffering = buffering_of(often)
    buffering.arrivals = Twice(buffering.arrivals)
    ends = once.train(), often.train()
    assert once.run.ledger.lines == often.run.ledger.lines
    assert ends[0].state.shared["items"].tobytes() == ends[1].state.shared["items"].tobytes()


class AsTheyCome:
    """Arrivals without a clock: whichever of the nodes at work a network happens to deliver."""

    says = "as they come"

    def __init__(self, nodes: Sequence[Node], seed: int) -> None:
        self._virtual = VirtualArrivals(nodes, Clock.parse("", len(nodes)))
        self._draws, self._now = random.Random(seed), 0.0
        self._calls: dict[str, RoundCall] = {}
        self.names = self._virtual.names

    def start(self, node: str, call: RoundCall, since: float) -> None:
        self._calls[node] = call

    def next(self) -> Arrival:
        self._now += self._draws.random()
        name = self._draws.choice(sorted(self._calls))
        return Arrival(name, self._virtual.nodes[name].contribute(self._calls.pop(name)), self._now)


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_arrivals_is_a_run_that_its_ledger_explains(seed: int) -> None:
    """What a network delivers in whatever order, another process makes again from the ledger alone."""
    made = plan(asynchronous={"buffer": 2, "max_staleness": 4}, cohort=0.7, model={**MODELS["mf"], "rounds": 25})
    lines: list[list[dict[str, Any]]] = []
    models = []
    for again in (False, True):
        coordinator, engine = in_memory(made)
        buffering = buffering_of(coordinator)
        buffering.arrivals = Told(engine.nodes, lines[0]) if again else AsTheyCome(engine.nodes, seed)
        models.append(coordinator.train().state.shared["items"].tobytes())
        lines.append(coordinator.run.ledger.of_kind("round"))
    assert models[0] == models[1]
    assert any(part["staleness"] > 1 for line in lines[0] for part in line["parts"])
    terms = made.asynchronous
    assert terms is not None
    check_versions(terms, [(f"line {number}", line) for number, line in enumerate(lines[0])])


class Told(AsTheyCome):
    """Arrivals in the order that a ledger tells."""

    def __init__(self, nodes: Sequence[Node], lines: Sequence[dict[str, Any]]) -> None:
        super().__init__(nodes, 0)
        self._order = [part["node"] for line in lines for part in (*line["late"], *line["parts"])]

    def next(self) -> Arrival:
        name = self._order.pop(0)
        return Arrival(name, self._virtual.nodes[name].contribute(self._calls.pop(name)), 1.0)


def test_a_node_that_is_measured_while_its_sum_is_on_its_way_loses_nothing(tmp_path: Path) -> None:
    """A network asks when it wants; the rows that were journalled count once the node hears that they do."""
    data = fr.load_data(DATA)
    resolved = plan().resolve(data, "0" * 64)
    rows = []
    for folder, disturbed in ((tmp_path / "a", False), (tmp_path / "b", True), (None, True)):
        node = LocalEngine.build(data, resolved, 1, private=folder).nodes[0]
        model = resolved.build_model()
        state = model.start(data.catalog, {}, KeyedSource.from_seed(5))
        spec = model.spec(state.shared, 0)
        assert spec is not None
        call = RoundCall(3, -1, state.shared, spec.fit(1024), 1.0)
        node.contribute(call)
        if disturbed:
            measured = EvaluationCall(
                -1, state.shared, "valid", parse_protocol("full"), parse_metrics(["ndcg@10"]), 1024
            )
            node.evaluate(measured)
        node.contribute(replace(call, round=7, committed=3))
        node.finish(state.shared, 7, 7)
        found = node.shards[0].private()
        assert found is not None
        rows.append(found["users"])
    assert rows[0].tobytes() == rows[1].tobytes() == rows[2].tobytes()


# The record


def test_a_run_goes_on_with_the_clock_that_it_began_with(tmp_path: Path) -> None:
    made = plan()
    train_run(made, tmp_path / "run", Placement(4, clock=CLOCK))
    where = tmp_path / "run" / "private" / "placement.json"
    where.write_text(json.dumps(json.loads(where.read_text()) | {"clock": "slow:0.5x2"}))
    with pytest.raises(RunError, match=r"slow:0.5x4.*not by.*slow:0.5x2"):
        train_run(made, tmp_path / "run", Placement(4), resume=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 1}, "worked on version"),
        ({"staleness": 7}, "versions old"),
        ({"node": "node-9"}, "worked on version"),
        ({"node": 3}, "missing or wrong"),
        ({"clients": 1}, "not of as many clients"),
    ],
)
def test_a_ledger_that_tells_another_order_is_found_out(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    train_run(plan(), tmp_path / "run", Placement(4, clock=CLOCK))
    path = tmp_path / "run" / "ledger.jsonl"
    lines = Ledger(path, rooted=True).lines
    lines[4]["parts"][0] |= change
    tree = Tree()
    path.write_text("".join(rooted_line(json.dumps(line, separators=(",", ":")), tree) + "\n" for line in lines))
    verdict = verify_run(tmp_path / "run", published=True)
    assert verdict.wrong is not None
    assert words in verdict.wrong


@pytest.mark.parametrize(
    ("change", "placement", "words"),
    [
        ({"model": {"name": "ease"}}, Placement(4), "does not sum model changes"),
        ({"model": {"name": "ials"}}, Placement(4), "does not sum model changes"),
        ({"model": MODELS["mf-scaffold"]}, Placement(4), "also sums controls"),
        ({"privacy": {"epsilon": 4.0, "delta": 1e-5}}, Placement(4), "privacy"),
        ({"robust": {"rule": "median"}}, Placement(4), "robust"),
        ({"rows": 0.5}, Placement(4), "rows"),
        ({"warm_start": "there"}, Placement(4), "warm_start"),
        ({"asynchronous": {"buffer": 5}}, Placement(4), "give more --nodes"),
        ({}, Placement(4, secure=True), "leave out --secure"),
        ({"asynchronous": {"buffer": 2, "slope": 1.0}}, Placement(4), "slope applies only to staleness: hinge"),
        ({"asynchronous": {"buffer": 2, "bufer": 1}}, Placement(4), "Did you mean 'buffer'"),
    ],
)
def test_what_is_refused(change: dict[str, Any], placement: Placement, words: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=words):
        train_run(plan(**change), tmp_path / "run", placement)
    assert not (tmp_path / "run").exists()


def test_a_buffer_larger_than_the_federation_is_refused_by_the_buffer_itself() -> None:
    coordinator, _ = in_memory(plan(asynchronous={"buffer": 5}))
    with pytest.raises(PlanError, match="there are 4"):
        coordinator.train()


def test_the_estimators_know_it_too() -> None:
    split = fr.leave_last_out(fr.load_data(DATA))
    model = fr.MF(embedding_size=8, rounds=8, plan={"asynchronous": {"buffer": 2}}).fit(split, nodes=4)
    assert fr.evaluate(model, split, ["ndcg@10"]).height == 1
    assert model.opened.trained.rounds == 8


def test_the_command(fedrec: Any, tmp_path: Path) -> None:
    terms = ["--set", "asynchronous.buffer=2", "--set", "asynchronous.staleness=constant", "--set", "rounds=8"]
    command = ["train", "--data", DATA, "--model", "mf", "--nodes", 4, "--clock", CLOCK, "--out", tmp_path / "run"]
    said = fedrec(*command, *terms)
    assert said.code == 0, said.err
    assert "virtual time" in said.out
    assert "versions old on average" in said.out
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    last = Ledger(tmp_path / "run" / "ledger.jsonl", rooted=True).of_kind("round")[-1]
    assert report["virtual"] == {"clock": CLOCK, "seconds": round(last["time"], 6)}
    refused = fedrec("train", "--data", DATA, "--model", "ease", "--nodes", 4, "--set", "asynchronous.buffer=2")
    assert refused.code == 2
