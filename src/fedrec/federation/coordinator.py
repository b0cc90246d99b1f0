"""The coordinator: runs the rounds and holds no interactions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.errors import PlanError
from fedrec.evaluation.groups import Groups
from fedrec.evaluation.metrics import Metric, MetricSummary, check_metrics, parse_metrics
from fedrec.evaluation.protocols import Protocol, parse_protocol
from fedrec.federation.agreement import Agreement
from fedrec.federation.beginning import Beginning
from fedrec.federation.best_round import kept_round, stops_early
from fedrec.federation.boosting import boosted_best
from fedrec.federation.calls import EvaluationCall, Part, RoundCall
from fedrec.federation.compatibility import check_together, place_of
from fedrec.federation.counted import counts_of
from fedrec.federation.engine import Engine
from fedrec.federation.fitting import Fitting
from fedrec.federation.following import followed
from fedrec.federation.gathering import gathering_of, merged, with_counting
from fedrec.federation.item_floor import SERVED, with_served
from fedrec.federation.made_of_sum import sum_to_send
from fedrec.federation.measuring import Measured
from fedrec.federation.own_rounds import OwnRounds
from fedrec.federation.run import Run
from fedrec.federation.transfer import STRENGTH, WEIGHT, Taken
from fedrec.federation.trials import boosts_of, both, chosen_of, deciding, is_careful, protocol_of, strengths_of
from fedrec.federation.warm_start import Earlier, kept_sums
from fedrec.models.base import State
from fedrec.models.cold_items import ColdItems
from fedrec.models.factors.following import FollowsFactors
from fedrec.models.values import rating_scale
from fedrec.privacy.chance import SYSTEM, Chance
from fedrec.progress import doing, stage
from fedrec.threads import blas_threads, linear_algebra

__all__ = ["Coordinator", "Progress", "Trained"]


@dataclass(frozen=True)
class Progress:
    """One committed round, for whoever watches.

    Args:
        round: its number, from 0.
        rounds: how many there may be, where the model says.
        cohort: clients in the sum.
        seconds: since training began in this process, validations included.
        metrics: of a validation after this round.
    """

    round: int
    rounds: int | None
    cohort: int
    seconds: float
    metrics: dict[str, float]


@dataclass(frozen=True, eq=False)
class Trained:
    """The end of a training run: the kept state, its round, and how many rounds were committed."""

    state: State
    round: int
    rounds: int


class Coordinator:
    """Runs a plan over an engine and commits each round to the run.

    Args:
        agreement: the plan of the run, with its model and catalog.
        engine: where the nodes are.
        run: plan, ledger and checkpoints.
        has_valid: whether nodes hold a validation part.
        watch: called after every round.
        earlier: the run that the plan's `warm_start` names; not needed once a round is committed.
        chance: where the noise of a private run comes from.
        taken: what the plan's `transfer` takes over; weights are not needed once a round is committed, factors are.
    """

    def __init__(
        self,
        agreement: Agreement,
        engine: Engine,
        run: Run,
        has_valid: bool,
        watch: Callable[[Progress], None] = lambda _: None,
        earlier: Earlier | None = None,
        chance: Chance = SYSTEM,
        taken: Taken | None = None,
    ) -> None:
        self.agreement = agreement
        self.plan, self.model, self.catalog = agreement.plan, agreement.model, agreement.catalog
        self.engine = engine
        self.run = run
        self.taken, self.has_valid = taken, has_valid
        run.fitting = Fitting(agreement)
        self.watch = watch
        self.beginning = Beginning(agreement, engine, earlier)
        self.gathering = gathering_of(agreement, engine, run, self.beginning.state, chance)
        if run.plan.evaluation.every and not has_valid:
            raise PlanError("evaluation.every asks for validations, but the split leaves nothing for validation")

    def train(self, until: int | None = None) -> Trained:
        """Run rounds until the model is finished or validation stops improving; goes on where a run stopped.

        Args:
            until: pause before this round, 1 or more. Nothing is kept or published then, and calling again goes on as
                if there had been no pause.
        """
        with stage("train", "training"):
            return self._train(until)

    def _train(self, until: int | None) -> Trained:
        began = time.perf_counter()
        check_together(self.plan.case, place_of(self.engine.parties is not None))
        if self.run.ledger.of_kind("end"):
            return self._kept(len(self.run.ledger.of_kind("round")))
        round, state = self._resume()
        while (spec := self._next_spec(state, round)) is not None:
            if round == until:
                return Trained(state, round - 1, round)
            state, clients = self._take_round(state, round, spec)
            metrics = self._validate(state, round)
            self.run.prune({round, kept_round(self.plan, self.run.ledger)} | self.gathering.in_use())
            progress = Progress(round, self.model.rounds, clients, time.perf_counter() - began, metrics)
            self.run.progress(vars(progress))
            self.watch(progress)
            round += 1
        doing("ending")
        if round == 0:
            raise PlanError(f"model {self.model.name!r} trained for no round")
        return self._kept(round, state)

    def _next_spec(self, state: State, round: int) -> SumSpec | None:
        """What the next round sums; `None` when the model is finished or validation stops improving."""
        if stops_early(self.plan, self.run.ledger):
            return None
        return self.agreement.spec(state.shared, round, self.gathering.excess)

    def _take_round(self, state: State, round: int, spec: SumSpec) -> tuple[State, int]:
        """Gather the sum of a round, step and commit; returns the state after it, and how many clients are in the
        sum."""
        change, counted = self.beginning.change(round), self.beginning.counted(round)
        call = RoundCall(
            round,
            round - 1,
            state.shared,
            spec if change is None else change.widened(spec),
            self.agreement.drawn(state.shared, round),
            change is not None,
            rows=self.agreement.rows(round),
            own=self._own(round - 1),
            counts=None if counted is None else counts_of(counted),
        )
        rounds, part = self.model.rounds, 0.5 if self._is_due(round) else 1.0
        named = f"round {round + 1:,} of {rounds:,}"
        doing(named, round / rounds, part / rounds)
        gathered = self.gathering.gather(call)
        doing(f"{named}, solving")
        total = gathered.total if change is None else change.added(self.beginning.sums, gathered.total, spec)
        with linear_algebra().limit(limits=self.step_threads):
            state, said = self._stepped(state, total, round)
        if self.plan.keep_sums:
            state = State(state.shared, {**state.server, **kept_sums(total)})
        if (frame := sum_to_send(self.agreement, total)) is not None:
            self.engine.made_of(state.shared, frame)
            said = {**said, "model_bytes": len(frame)}
        digests = self.run.checkpoint(round, state)
        line = dict(gathered.line) if counted is None else with_counting(gathered.line, counted)
        self.run.ledger.append("round", round=round, **digests, **line, **said)
        if self._is_due(round, state):
            doing(f"{named}, validating", (round + part) / rounds, (1.0 - part) / rounds)
        return state, total.clients

    def _stepped(self, state: State, total: Sum, round: int) -> tuple[State, dict[str, Any]]:
        """The state after a step, and what the ledger says of what validation chose: a source towards which the model
        may be drawn, or the boost of items that nobody has."""

        def step(before: State) -> State:
            return with_served(self.model.step(before, total, round), state.shared.get(SERVED))

        def drawn(strength: float, towards_source: bool) -> State:
            assert taken is not None
            source = taken if towards_source else taken.nothing()
            return step(State(state.shared, {**state.server, **source.server(len(self.catalog), strength)}))

        def gain(trial: int, candidate: State, other: State) -> MetricSummary | None:
            found = self._measured(
                State(both(candidate.shared, other.shared)),
                round - 1,
                "valid",
                self.agreement.metrics,
                protocol_of(self.plan, trial, self.agreement.protocol),
                trial,
            )
            metric = deciding(self.agreement.metrics)
            return None if metric is None else found.everyone.get(str(metric))

        transfer, taken = self.plan.transfer, self.taken
        if transfer is not None and taken is not None and isinstance(self.model, FollowsFactors):
            return followed(self.model, transfer, taken, strengths_of(self.plan), state, total, round, gain)
        if transfer is None or taken is None:
            boosts = boosts_of(self.plan) if round == self.model.rounds - 1 else ()
            if not boosts or not isinstance(self.model, ColdItems):
                return step(state), {}
            boosted = boosted_best(self.model, boosts, step(state), gain, is_careful(self.plan))
            return boosted.state, {"boost": boosted.said}
        if transfer.how == "ridge":
            strength = transfer.strength or STRENGTH
            return drawn(strength, True), {"transfer": {"strength": strength}}
        if transfer.how == "pool":
            weight = transfer.strength or WEIGHT
            pooled = {**state.server, **taken.pooled(len(self.catalog), weight)}
            return step(State(state.shared, pooled)), {"transfer": {"strength": weight}}
        choice = chosen_of(strengths_of(self.plan), step(state), drawn, gain)
        return choice.state, {"transfer": choice.said}

    def _own(self, committed: int) -> OwnRounds:
        """The round, up to `committed`, that counts for each node."""
        return OwnRounds.after(self.run.ledger.of_kind("round"), committed)

    def evaluate(
        self, state: State, committed: int, part: Part, metrics: Sequence[str], protocol: str
    ) -> dict[str, MetricSummary]:
        """Federated evaluation: metrics are sums over nodes. Empty where nothing is held out."""
        return self.measure(state, committed, part, metrics, protocol).everyone

    def measure(
        self,
        state: State,
        committed: int,
        part: Part,
        metrics: Sequence[str],
        protocol: str,
        groups: Groups | None = None,
    ) -> Measured:
        """Federated evaluation, of groups of users too where they are grouped."""
        with stage("evaluate", f"measuring {part}"):
            return self._measured(
                state, committed, part, parse_metrics(metrics), parse_protocol(protocol), groups=groups
            )

    @property
    def step_threads(self) -> int:
        """Threads of linear algebra in the steps of the model: one, for equal bits; all that may be used where the plan
        asks for none."""
        return 1 if self.plan.reproducible else blas_threads(linear_algebra())

    def _measured(
        self,
        state: State,
        committed: int,
        part: Part,
        metrics: tuple[Metric, ...],
        protocol: Protocol,
        trial: int = 0,
        groups: Groups | None = None,
    ) -> Measured:
        check_metrics(metrics, self.model.name, self.model.traits.reads_ratings)
        n_max = self.agreement.n_max
        call = EvaluationCall(
            committed, state.shared, part, protocol, metrics, n_max, committed, self._own(committed), trial, groups
        )
        sums = self.engine.evaluate(call)
        total = merged(sums[0].spec, sums, 0)
        return Measured.of(metrics, total, rating_scale(self.model), groups, self.plan.min_clients)

    def _resume(self) -> tuple[int, State]:
        """The next round and the state before it."""
        lines = self.run.ledger.of_kind("round")
        if lines:
            last = int(lines[-1]["round"])
            if isinstance(self.model, FollowsFactors):
                self._check_source()
            state = self.run.state(last)
            self.run.unseal()
            metrics = self._validate(state, last)
            known = Progress(last, self.model.rounds, lines[-1]["cohort"], 0.0, metrics)
            self.run.complete_progress(vars(known) | {"seconds": None})  # of the process that died
            return last + 1, state
        how = self.beginning.how
        if self.plan.warm_start is not None and how is None:
            raise PlanError(
                "warm_start: the earlier run is not at hand; 'fedrec train --from RUN' and "
                "fit(…, warm_start=model) go on from one"
            )
        self._check_source()
        if strengths_of(self.plan) and not self.has_valid:
            raise PlanError(
                "transfer: auto decides on validation, and the split leaves nothing for it; take another split, or set "
                "transfer.how: ridge"
            )
        if not self.run.ledger.of_kind("start"):
            said = self.gathering.start or ({} if how is None else {"warm_start": how})
            self.run.ledger.append(
                "start",
                plan=self.plan.digest,
                catalog=self.catalog.digest,
                leaky=self.plan.leaky,
                **said,
                **self.run.beginning,
            )
        return 0, self._begun(self.beginning.state())

    def _check_source(self) -> None:
        if self.plan.transfer is not None and self.taken is None:
            raise PlanError(
                "transfer: the source is not at hand; 'fedrec train --from RUN --transfer auto' and fit(…) take over "
                "from one"
            )

    def _begun(self, state: State) -> State:
        """The state before round 0, with the item factors of a source that is followed."""
        if self.taken is None or not isinstance(self.model, FollowsFactors):
            return state
        return self.model.begun(state, self.taken.items, self.taken.weights)

    def _validate(self, state: State, round: int) -> dict[str, float]:
        """Validate when it is due and was not done, and let nodes remember the best round."""
        if not self._is_due(round, state):
            return {}
        done = [line for line in self.run.ledger.of_kind("validation") if line["round"] == round]
        if done:
            metrics: dict[str, float] = done[-1]["metrics"]
        else:
            with stage("evaluate"):
                agreed = self.agreement
                found = self._measured(
                    state, round, "valid", agreed.metrics, agreed.protocol, groups=agreed.groups
                ).everyone
            metrics = {name: summary.value for name, summary in found.items()}
            self.run.ledger.append("validation", round=round, metrics=metrics)
        if self.plan.evaluation.keep == "best" and kept_round(self.plan, self.run.ledger) == round:
            self.engine.keep(state.shared, self._own(round))
        return metrics

    def _is_due(self, round: int, state: State | None = None) -> bool:
        """Whether a validation follows a round; with its `state`, whether that can score, too."""
        every = self.plan.evaluation.every
        due = every > 0 and (round + 1) % every == 0
        return due and (state is None or self.run.fitting is None or self.run.fitting.scores(state.shared))

    def _kept(self, rounds: int, last: State | None = None) -> Trained:
        """End with the round that is kept, the `last` one or an earlier one, whose files are there."""
        kept = kept_round(self.plan, self.run.ledger)
        if last is None or kept != rounds - 1:
            state = self.run.state(kept)
            self.run.unseal()
        else:
            state = last
        self.engine.finish(state.shared, self._own(rounds - 1), self._own(kept))
        self.run.publish(self.agreement, state, kept)
        return Trained(state, kept, rounds)
