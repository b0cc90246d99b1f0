"""The coordinator: runs the rounds and holds no interactions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from fedrec.aggregation.robust import robust_sum
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.aggregation.wire import encoded_size
from fedrec.errors import PlanError
from fedrec.evaluation.metrics import Metric, MetricSummary, check_metrics, parse_metrics
from fedrec.evaluation.protocols import Protocol, parse_protocol
from fedrec.federation.agreement import Agreement
from fedrec.federation.asynchronous import Buffering, OwnRounds, arrivals_of
from fedrec.federation.calls import CountCall, EvaluationCall, Part, RoundCall
from fedrec.federation.compatibility import check_together, place_of
from fedrec.federation.engine import Engine
from fedrec.federation.fitting import Fitting
from fedrec.federation.item_floor import SERVED, ItemFloor, floor_spec
from fedrec.federation.measuring import summaries
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.federation.warm_start import Changed, Earlier, How, carried, how_to_start, kept_sums, places_of
from fedrec.models.base import Arrays, State
from fedrec.models.values import rating_scale
from fedrec.privacy.chance import SYSTEM, Chance
from fedrec.privacy.protection import Protection
from fedrec.progress import doing, stage
from fedrec.record.ledger import Ledger
from fedrec.threads import blas_threads

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
    ) -> None:
        self.agreement = agreement
        self.plan, self.model, self.catalog = agreement.plan, agreement.model, agreement.catalog
        self.engine = engine
        self.run = run
        run.fitting = Fitting(agreement)
        self.has_valid = has_valid
        self.watch = watch
        self.earlier = earlier
        self.buffering: Buffering | None = None
        if run.plan.asynchronous is not None:
            arrivals = arrivals_of(engine)
            self.buffering = Buffering(run.plan.asynchronous, arrivals, run, self._begin)
            self.engine = OwnRounds(engine, arrivals, run.ledger)
        self.protection = self._protection(chance)
        self._blas = ThreadpoolController()  # of the libraries that the model has loaded by now
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
            return self._kept(self._best(), len(self.run.ledger.of_kind("round")))
        round, state = self._resume()
        rounds = self.model.rounds
        while not self._stopped() and (spec := self.agreement.spec(state.shared, round, self._excess)) is not None:
            if round == until:
                return Trained(state, round - 1, round)
            change = self._change() if round == 0 else None
            asked = spec if change is None else change.widened(spec)
            terms = None if self.protection is None else self.protection.round_terms(round)
            rows, change_only = self.agreement.rows(round), change is not None
            named, part = f"round {round + 1:,} of {rounds:,}", 0.5 if self._is_due(round) else 1.0
            share, groups = self.agreement.share, self._groups()
            call = RoundCall(round, round - 1, state.shared, asked, share, change_only, terms, groups, rows)
            doing(named, round / rounds, part / rounds)
            total, line = self._summed(call)
            doing(f"{named}, solving")
            if change is not None and self.earlier is not None:
                total = change.added(self.earlier.sums, total, spec)
            with self._blas.limit(limits=self.step_threads):
                state = self._floored(self.model.step(state, total, round), state.shared)
            if self.plan.keep_sums:
                state = State(state.shared, {**state.server, **kept_sums(total)})
            digests = self.run.checkpoint(round, state)
            self.run.ledger.append("round", round=round, **digests, **line)
            if self._is_due(round, state):
                doing(f"{named}, validating", (round + part) / rounds, (1.0 - part) / rounds)
            metrics = self._validate(state, round)
            self.run.prune({round, self._best()} | (set() if self.buffering is None else self.buffering.in_use()))
            progress = Progress(round, rounds, total.clients, time.perf_counter() - began, metrics)
            self.run.progress(vars(progress))
            self.watch(progress)
            round += 1
        doing("ending")
        return self._finish(state, round)

    def _summed(self, call: RoundCall) -> tuple[Sum, dict[str, Any]]:
        """The sum of a round as it may be used, and what the ledger says of it.

        In a private run that is the sum with noise, kept on the disk until the round is committed: a resumed run uses
        the same noise again. What the ledger says is public, so it has no exact count.
        """
        if self.buffering is not None:
            full = self.buffering.fill(call)
            return full.total, {**_line(full.total, call, full.parts), **self._parts(full.parts), **full.line}
        protection = self.protection
        if protection is None:
            sums = self._contributed(call)
            robust = self.plan.robust
            if robust is None:
                total = merged(call.spec, sums, call.round)
            else:
                total = robust_sum(call.spec, sums, call.round, robust)
            return total, {**_line(total, call, sums), **self._parts(sums)}
        kept = self.run.noised(call.round, call.spec, call.shared)
        if kept is None:
            sums = self._contributed(call)
            total = merged(call.spec, sums, call.round)
            kept = dict(protection.release(total, call.shared).arrays), self._parts(sums)
            self.run.keep_noised(call.round, call.spec, call.shared, *kept)
        arrays, parts = kept
        total = Sum(call.spec, call.round, arrays, protection.clients, noise=protection.scales(call.shared, call.round))
        return total, {
            "cohort": protection.clients,
            "left_out": None,
            "saturated": None,
            "bytes": _dense_bytes(call),
            **parts,
            **protection.line(call.round),
        }

    def _contributed(self, call: RoundCall) -> Sequence[Sum]:
        """The nodes' sums for a round."""
        return self.engine.contribute(call)

    def _parts(self, sums: Sequence[Sum]) -> dict[str, list[str]]:
        """What the ledger says of the parts of a sum: what nodes that keep receipts commit to, in the order of the
        nodes; which nodes they are of, where that may change; and the transcript that these agreed on."""
        said = {
            "sums": [commitment for part in sums for commitment in part.commitments],
            "nodes": list(self.engine.took_part),
            "transcript": sorted({part.transcript for part in sums if part.transcript}),
        }
        return {name: texts for name, texts in said.items() if texts}

    def evaluate(
        self, state: State, committed: int, part: Part, metrics: Sequence[str], protocol: str
    ) -> dict[str, MetricSummary]:
        """Federated evaluation: metrics are sums over nodes. Empty where nothing is held out."""
        with stage("evaluate", f"measuring {part}"):
            return self._measured(state, committed, part, parse_metrics(metrics), parse_protocol(protocol))

    @property
    def step_threads(self) -> int:
        """Threads of linear algebra in the steps of the model: one, for equal bits; all that may be used where the plan
        asks for none."""
        return 1 if self.plan.reproducible else blas_threads(self._blas)

    def _measured(
        self, state: State, committed: int, part: Part, metrics: tuple[Metric, ...], protocol: Protocol
    ) -> dict[str, MetricSummary]:
        check_metrics(metrics, self.model.name, self.model.traits.reads_ratings)
        n_max = self.agreement.n_max
        sums = self.engine.evaluate(EvaluationCall(committed, state.shared, part, protocol, metrics, n_max, committed))
        return summaries(metrics, merged(sums[0].spec, sums, 0), rating_scale(self.model))

    def _resume(self) -> tuple[int, State]:
        """The next round and the state before it."""
        lines = self.run.ledger.of_kind("round")
        if lines:
            last = int(lines[-1]["round"])
            state = self.run.state(last)
            self.run.unseal()
            self._validate(state, last)
            return last + 1, state
        if self.plan.warm_start is not None and self.earlier is None:
            raise PlanError(
                "warm_start: the earlier run is not at hand; 'fedrec train --from RUN' and "
                "fit(…, warm_start=model) go on from one"
            )
        if not self.run.ledger.of_kind("start"):
            how: dict[str, Any] = {} if self.earlier is None else {"warm_start": self._how(self.earlier)}
            if self.protection is not None:
                how = {"run": self.protection.run, "noise_is_secret": self.protection.chance.secure}
            if self.buffering is not None:
                how = {"arrivals": self.buffering.arrivals.says}
            self.run.ledger.append(
                "start", plan=self.plan.digest, catalog=self.catalog.digest, leaky=self.plan.leaky, **how
            )
        return 0, self._begin()

    def _begin(self) -> State:
        """The state before round 0, with what it says of the items that take part."""
        first = self._first()
        return first if self.plan.items is None else self._floored(first, {SERVED: self._served(self.plan.items)})

    def _protection(self, chance: Chance) -> Protection | None:
        """Noise and charges of a private plan, under the run's own number."""
        if self.plan.privacy is None:
            return None
        started = self.run.ledger.of_kind("start")
        number = started[0]["run"] if started else self.engine.run or chance.secret("run").key.hex()
        share, n_max, parties = self.agreement.share, self.agreement.n_max, self.engine.parties
        return Protection(self.plan.privacy, self.model, share, n_max, number, chance, parties)

    @property
    def _excess(self) -> float:
        """How much more noise sums may have than the plan asks for."""
        return 1.0 if self.protection is None else self.protection.excess

    def _served(self, floor: ItemFloor) -> np.ndarray:
        """Which items have enough clients [items] bool."""
        spec = floor_spec(len(self.catalog), floor, self.agreement.n_max)
        honest = 1 if self.engine.parties is None else self.engine.parties[1]
        sums = self.engine.count_items(CountCall(spec, floor.noise / honest**0.5))
        served: np.ndarray = merged(spec, sums, 0).value("counts")[:, 0] >= floor.least
        if not served.any():
            raise PlanError(f"items: no item has {floor.least} clients; lower items.least")
        return served

    def _floored(self, state: State, shared: Arrays) -> State:
        """The state with what `shared` says of the items that take part."""
        return State({**state.shared, SERVED: shared[SERVED]}, state.server) if SERVED in shared else state

    def _groups(self) -> int:
        """Groups of nodes whose sums are opened apart."""
        robust = self.plan.robust
        return 1 if robust is None else robust.groups or 1

    def _first(self) -> State:
        """The state before round 0: fresh, or with what the earlier run ended with."""
        fresh = self.agreement.start()
        earlier = self.earlier
        if earlier is None or self._how(earlier) != "goes on":
            return fresh
        places = places_of(earlier.catalog, self.catalog, earlier.name)
        items = (len(earlier.catalog), len(self.catalog))
        shared, server = (
            carried(new, old, places, items)
            for new, old in ((fresh.shared, earlier.state.shared), (fresh.server, earlier.state.server))
        )
        return self.model.carry(fresh, State(shared, server))

    def _how(self, earlier: Earlier) -> How:
        plan = self.plan
        return how_to_start(self.model, earlier, plan.cohort, plan.release, plan.seed, plan.weights)

    def _change(self) -> Changed | None:
        """What the first round sums where only the change since the earlier run is asked for."""
        if self.earlier is None or self._how(self.earlier) != "adds the change":
            return None
        return Changed.of(self.earlier.catalog, self.catalog, self.earlier.name)

    def _validate(self, state: State, round: int) -> dict[str, float]:
        """Validate when it is due and was not done, and let nodes remember the best round."""
        if not self._is_due(round, state):
            return {}
        done = [line for line in self.run.ledger.of_kind("validation") if line["round"] == round]
        if done:
            metrics: dict[str, float] = done[-1]["metrics"]
        else:
            with stage("evaluate"):
                found = self._measured(state, round, "valid", self.agreement.metrics, self.agreement.protocol)
            metrics = {name: summary.value for name, summary in found.items()}
            self.run.ledger.append("validation", round=round, metrics=metrics)
        if self.plan.evaluation.keep == "best" and self._best() == round:
            self.engine.keep(state.shared, round)
        return metrics

    def _is_due(self, round: int, state: State | None = None) -> bool:
        """Whether a validation follows a round; with its `state`, whether that can score, too."""
        every = self.plan.evaluation.every
        due = every > 0 and (round + 1) % every == 0
        return due and (state is None or self.run.fitting is None or self.run.fitting.scores(state.shared))

    def _scores(self) -> list[tuple[int, float]]:
        return _scores(self.plan, self.run.ledger)

    def _best(self) -> int:
        return kept_round(self.plan, self.run.ledger)

    def _stopped(self) -> bool:
        """Whether the last `patience` validations brought nothing better."""
        patience = self.plan.evaluation.patience
        values = [value for _, value in self._scores()]
        return patience is not None and len(values) > patience and max(values[:-patience]) >= max(values[-patience:])

    def _finish(self, state: State, rounds: int) -> Trained:
        if rounds == 0:
            raise PlanError(f"model {self.model.name!r} trained for no round")
        kept = self._best()
        return self._kept(kept, rounds, state if kept == rounds - 1 else None)

    def _kept(self, kept: int, rounds: int, state: State | None = None) -> Trained:
        """End with the round that is kept; of a run that has ended already, its files are there."""
        if state is None:
            state = self.run.state(kept)
            self.run.unseal()
        self.engine.finish(state.shared, rounds - 1, kept)
        self.run.publish(self.agreement, state, kept)
        return Trained(state, kept, rounds)


def merged(spec: SumSpec, sums: Sequence[Sum], round: int) -> Sum:
    """The sum over nodes."""
    total = Sum.zeros(spec, round)
    for part in sums:
        total.merge(part)
    return total


def kept_round(plan: Plan, ledger: Ledger) -> int:
    """The round to keep: the best on validation (the earliest of equals), or the last."""
    scores = _scores(plan, ledger)
    if plan.evaluation.keep == "best" and scores:
        return max(scores, key=lambda score: (score[1], -score[0]))[0]
    return int(ledger.of_kind("round")[-1]["round"])


def _scores(plan: Plan, ledger: Ledger) -> list[tuple[int, float]]:
    """(round, deciding metric, turned so that more is better) of every validation."""
    (metric,) = parse_metrics(plan.evaluation.metrics[:1])
    first, lines = plan.evaluation.metrics[0], ledger.of_kind("validation")
    return [(line["round"], metric.better(line["metrics"][first])) for line in lines if first in line["metrics"]]


def _line(total: Sum, call: RoundCall, sums: Sequence[Sum]) -> dict[str, Any]:
    """What the ledger says of a round. Bytes up are of the largest node's encoded sum."""
    return {
        "cohort": total.clients,
        "left_out": total.left_out,
        "saturated": total.saturated,
        "bytes": _bytes(call, sums),
    }


def _bytes(call: RoundCall, sums: Sequence[Sum]) -> dict[str, dict[str, int]]:
    """What the node that sent most sent: plainly, and masked; the kind that did not happen is of dense arrays."""
    found = _dense_bytes(call)
    for part in sums:
        if part.masked_bytes is not None:
            found["secure_per_party"]["up"] = part.masked_bytes
            return found
    found["plain_per_node"]["up"] = max(encoded_size(part) for part in sums)
    return found


def _dense_bytes(call: RoundCall) -> dict[str, dict[str, int]]:
    down = sum(array.nbytes for array in call.shared.values())
    return {kind: {"up": call.spec.nbytes, "down": down} for kind in ("plain_per_node", "secure_per_party")}
