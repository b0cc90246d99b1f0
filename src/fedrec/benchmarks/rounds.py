"""Seconds of one round of training, from broadcast to commit, with or without evaluation."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from fedrec.data.sources import LoadedSource
from fedrec.engines.local import LocalEngine
from fedrec.errors import PlanError
from fedrec.evaluation.metrics import MetricSummary
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import HELD_OUT, Part
from fedrec.federation.coordinator import Coordinator, Trained
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run

__all__ = ["RoundTimes", "Rounds"]


@dataclass(frozen=True)
class RoundTimes:
    """Seconds of one round.

    Args:
        training: cohort, private rows, negatives, local training, sum, step and the ledger line.
        evaluation: metrics of the validation part and of the test part; 0 without evaluation.
        cohort: clients in the sum.
        cpu: processor seconds of the whole round, over all threads; other work on the machine disturbs them less.
    """

    training: float
    evaluation: float
    cohort: int
    cpu: float

    @property
    def seconds(self) -> float:
        """Seconds of the whole round."""
        return self.training + self.evaluation


class Rounds:
    """A training run in memory that is run round by round.

    Args:
        source: loaded data.
        plan: plan of a model with `rounds`; their number does not matter.
        evaluate: measure the validation and the test part after every round.
        most: maximum number of rounds.

    Raises:
        PlanError: if the model is not trained in rounds.
    """

    def __init__(
        self,
        source: LoadedSource,
        plan: Plan,
        evaluate: bool,
        most: int,
    ) -> None:
        model = plan.build_model()
        if "rounds" not in type(model).model_fields:
            raise PlanError(
                f"model {model.name!r} is not trained in rounds; use a benchmark of whole trainings, such as ease"
            )
        plan = plan.model_copy(update={"model": {**plan.model, "rounds": most + 1}})
        self.plan = plan.resolve(source.interactions, source.digest)
        self.engine = LocalEngine.build(source.interactions, self.plan)
        self.evaluate = evaluate
        self._cohort = 0
        self._coordinator = Coordinator(
            Agreement.of(self.plan, source.interactions.catalog),
            self.engine,
            Run(self.plan, None),
            self.engine.has_valid,
            lambda progress: setattr(self, "_cohort", progress.cohort),
        )
        self._trained: Trained | None = None
        self._done = 0

    def next(self) -> RoundTimes:
        """Run one more round."""
        began, cpu = time.perf_counter(), time.process_time()
        self._done += 1
        self._trained = self._coordinator.train(until=self._done)
        trained = time.perf_counter()
        if self.evaluate:
            for part in HELD_OUT:
                self._measure(part)
        evaluated = time.perf_counter() - trained if self.evaluate else 0.0
        return RoundTimes(trained - began, evaluated, self._cohort, time.process_time() - cpu)

    def metrics(self) -> dict[str, float]:
        """Metrics of the test part after the last round."""
        return {name: round(summary.value, 6) for name, summary in self._measure("test").items()}

    def interactions(self) -> int:
        """Number of training interactions in a round of all clients."""
        return int(np.sum([len(shard.clients.items) for shard in self.engine.shards]))

    def _measure(self, part: Part) -> dict[str, MetricSummary]:
        assert self._trained is not None
        measured = self.plan.evaluation
        return self._coordinator.evaluate(
            self._trained.state, self._trained.round, part, measured.metrics, measured.protocol
        )
