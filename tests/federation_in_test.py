"""A federation in one process, and the run over its nodes that it must be equal to."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec as fr
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.interactions import Interactions
from fedrec.data.partitions import partition
from fedrec.engines.local import LocalEngine
from fedrec.errors import FedrecError
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import EvaluationCall, RoundCall
from fedrec.federation.coordinator import Coordinator, Trained
from fedrec.federation.messages import open_request
from fedrec.federation.own_rounds import OwnRounds
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.models.base import Arrays
from fedrec.network.post import LocalPost
from fedrec.network.remote import RemoteEngine
from fedrec.network.waiting import Waiting
from fedrec.node.founding import found_node
from fedrec.node.host import NodeHost, Served
from fedrec.node.node import Floors
from fedrec.owner.config import NodeConfig
from fedrec.record.durable import arrays_digest
from fedrec.record.keys import SigningKey

COORDINATOR = SigningKey("coordinator", bytes(31) + b"c")
STRANGER = SigningKey("coordinator", bytes(31) + b"x")
DATA = "synthetic:users=240,items=60,interactions_per_user=12,seed=3"
RUN = "0123456789abcdef"
WAITING = Waiting(deadline=30.0, pause=0.0, patience=0.0, sign=1.0)
MF = {"name": "mf", "embedding_size": 4, "rounds": 3}


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fail what takes longer."""

    def late(*_: object) -> None:
        raise AssertionError(f"it hangs: not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def small_plan(model: Mapping[str, Any] = MF, **changes: Any) -> Plan:
    """A plan of rounds with cohorts and private rows."""
    settings: dict[str, Any] = {"data": {"source": DATA}, "model": dict(model), "seed": 5, "cohort": 0.8}
    return Plan.make(settings | {"min_clients": 20} | changes)


BEST = small_plan(
    {**MF, "rounds": 4, "learning_rate": 3.0}, evaluation={"every": 1, "keep": "best", "metrics": ["ndcg@10"]}
)
"""A run that keeps another round than the last."""


class Federation:
    """Owners with their data and keys under one folder, and nodes that can be started again.

    Args:
        folder: for data, homes and runs.
        plan: not yet resolved.
        nodes: how many owners.
        secure: whether sums are masked.
        policy: more of every owner's policy.
    """

    def __init__(
        self, folder: Path, plan: Plan, nodes: int = 4, secure: bool = False, policy: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.secure = folder, secure
        data = fr.load_data(plan.data.source)
        self.catalog: Catalog = data.catalog
        self.offered: Catalog | None = None
        self.plan = plan.resolve(data, "0" * 64)
        places = partition(data, "hash", nodes, plan.seed)
        self.names = [f"node-{place}" for place in range(nodes)]
        self.data: dict[str, Interactions] = {
            name: data.take_users(np.flatnonzero(places == place)) for place, name in enumerate(self.names)
        }
        self.keys = {name: SigningKey(name, bytes(31) + bytes([place + 1])) for place, name in enumerate(self.names)}
        self.public = {name: key.public() for name, key in self.keys.items()}
        self.policy = {"min_clients": 20, **(policy or {})}
        self.digests: dict[str, str] = {}
        self.served: dict[str, Served] = {}
        self.told: list[str] = []
        self.measured: dict[tuple[int, str], tuple[str, ...]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for name, mine in self.data.items():
            mine.to_frame().write_parquet(folder / f"{name}.parquet")

    def config(self, name: str) -> NodeConfig:
        """The owner's."""
        settings = {
            "name": name,
            "home": f"{name}-home",
            "data": {"source": f"{name}.parquet", "digest": self.digests.get(name)},
            "policy": {
                "coordinator": str(COORDINATOR.public()),
                "parties": [str(key) for key in self.public.values()],
                **self.policy,
            },
        }
        return NodeConfig.make(settings, self.folder)

    def host(self, name: str, key: SigningKey | None = None) -> NodeHost:
        """The node, started (again) from what its owner's disk holds."""

        def save(served: Served) -> None:
            self.served[name] = served

        return NodeHost(self.config(name), key or self.keys[name], save)

    def hosts(self) -> dict[str, NodeHost]:
        """All nodes, started."""
        return {name: self.host(name) for name in self.names}

    @property
    def agreement(self) -> Agreement:
        """The plan, with its model and catalog; a coordinator that lies offers another one."""
        agreed = Agreement.of(self.plan, self.catalog)
        return agreed if self.offered is None else replace(agreed, catalog=self.offered)

    def engine(self, post: LocalPost, run: Run, waiting: Waiting = WAITING) -> RemoteEngine:
        """The coordinator's view of the nodes behind a post."""
        return _Watched(
            post, COORDINATOR, self.public, RUN, self.agreement, run.ledger, self.secure, waiting,
            self.told.append, measured=self.measured,
        )  # fmt: skip

    def train(self, post: LocalPost, run: Run | None = None, waiting: Waiting = WAITING) -> Outcome:
        """Train and measure; says how it ended."""
        run = Run(self.plan, None) if run is None else run
        engine = self.engine(post, run, waiting)
        outcome = Outcome(run)
        try:
            with at_most(60):
                engine.open()
                coordinator = Coordinator(self.agreement, engine, run, engine.has_valid)
                outcome.trained = coordinator.train()
                outcome.unreached = engine.unreached
                names = self.plan.evaluation.metrics
                found = coordinator.evaluate(outcome.trained.state, outcome.trained.round, "test", names, "full")
                outcome.metric = found["ndcg@10"].value
        except FedrecError as error:
            outcome.error = error
        return outcome


@dataclass(eq=False)
class Outcome:
    """How a run ended."""

    run: Run
    trained: Trained | None = None
    error: FedrecError | None = None
    unreached: tuple[str, ...] = ()
    metric: float | None = None

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The committed rounds."""
        return self.run.ledger.of_kind("round")


class _Watched(RemoteEngine):
    """The engine, and who was in which measurement: a ledger does not say."""

    def __init__(self, *arguments: Any, measured: dict[tuple[int, str], tuple[str, ...]]) -> None:
        super().__init__(*arguments)
        self.measured = measured

    def evaluate(self, call: EvaluationCall) -> list[Sum]:
        sums = super().evaluate(call)
        self.measured[call.committed, call.part] = self.took_part
        return sums


class Replayed(LocalEngine):
    """The local engine over just the nodes that took part, round by round."""

    def __init__(self, federation: Federation, who: Sequence[Sequence[str]]) -> None:
        self.measured = federation.measured
        agreement, floors = federation.agreement, Floors(federation.plan.min_clients, simulated=True)
        super().__init__(
            [
                found_node(name, [agreement.divided(data)], agreement, None, floors)
                for name, data in federation.data.items()
            ]
        )
        self.who = who

    def counted(self, name: str, committed: int) -> int:
        """The last round up to `committed` that a node's sum was in."""
        return max((round for round in range(committed + 1) if name in self.who[round]), default=-1)

    def contribute(self, call: RoundCall) -> list[Sum]:
        there = [node for node in self.nodes if node.name in self.who[call.round]]
        return [node.contribute(replace(call, committed=self.counted(node.name, call.committed))) for node in there]

    def evaluate(self, call: EvaluationCall) -> list[Sum]:
        names = self.measured.get((call.committed, call.part), ())
        there = [node for node in self.nodes if node.name in names] or self.nodes
        return [node.evaluate(replace(call, committed=self.counted(node.name, call.committed))) for node in there]

    def keep(self, shared: Arrays, committed: OwnRounds) -> None:
        for node in self.nodes:
            node.keep(shared, self.counted(node.name, committed.others))

    def finish(self, shared: Arrays, committed: OwnRounds, kept: OwnRounds) -> None:
        for node in self.nodes:
            node.finish(shared, self.counted(node.name, committed.others), self.counted(node.name, kept.others))


def assert_right(federation: Federation, outcome: Outcome) -> None:
    """Every committed round is the exact sum over the nodes that it names, and so is everything after it."""
    rounds = outcome.rounds
    assert [line["round"] for line in rounds] == list(range(len(rounds))), "a round was counted twice or never"
    if outcome.error is not None:
        assert str(outcome.error), "it stopped and does not say why"
        assert outcome.trained is None or outcome.metric is None
    if not rounds:
        return
    twin_run = Run(federation.plan, None)
    twin_nodes = Replayed(federation, [line["nodes"] for line in rounds])
    twin = Coordinator(federation.agreement, twin_nodes, twin_run, twin_nodes.has_valid)
    until = None if outcome.trained is not None else len(rounds)
    trained = twin.train(until if until is None or until < getattr(twin.model, "rounds", 1) else None)
    for line, due in zip(rounds, twin_run.ledger.of_kind("round"), strict=True):
        where = f"round {line['round']} over {line['nodes']}"
        assert line["cohort"] == due["cohort"], f"{where}: {line['cohort']} clients, due are {due['cohort']}"
        assert line["model"] == due["model"], f"{where}: a wrong sum"
    if outcome.trained is None:
        return
    assert outcome.trained.round == trained.round
    assert arrays_digest(outcome.trained.state.shared) == arrays_digest(trained.state.shared)
    for node in twin_nodes.nodes:
        if node.name not in outcome.unreached:
            mine, due_rows = (one.shards[0].private() for one in (federation.served[node.name].node, node))
            assert_same_rows(mine, due_rows, node.name)
    for line, due in zip(outcome.run.ledger.of_kind("validation"), twin_run.ledger.of_kind("validation"), strict=True):
        assert line["metrics"] == pytest.approx(due["metrics"], abs=1e-6), f"validation of round {line['round']}"
    if outcome.metric is not None:
        names = federation.plan.evaluation.metrics
        due_metric = twin.evaluate(trained.state, trained.round, "test", names, "full")["ndcg@10"].value
        assert outcome.metric == pytest.approx(due_metric, abs=1e-6), "a wrong measurement"


def assert_same_rows(found: Mapping[str, Any] | None, due: Mapping[str, Any] | None, name: str) -> None:
    """Private rows are equal, byte for byte."""
    assert (found or {}).keys() == (due or {}).keys()
    for key, array in (found or {}).items():
        assert array.tobytes() == (due or {})[key].tobytes(), f"private rows {key} of {name}"


def kind_of(frame: bytes) -> str:
    """What a request asks."""
    return open_request(frame, COORDINATOR.public(), 1 << 30)[0].kind
