"""Choosing hyperparameters on validation: every candidate of a grid in full, or by successive halving.

The test part is never measured here: whoever trains the chosen plan measures it, once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from fedrec.data.interactions import Interactions
from fedrec.data.listing import listed, whole_number
from fedrec.engines.local import LocalEngine
from fedrec.engines.memory import check_memory
from fedrec.errors import InputError, PlanError, suggestion
from fedrec.evaluation.metrics import Metric, deciding_metric, parse_metrics
from fedrec.federation.agreement import Agreement
from fedrec.federation.coordinator import Coordinator, Trained
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.models.outline import first_sum
from fedrec.models.registry import meant
from fedrec.progress import Stopwatch

__all__ = ["ETA", "STRATEGIES", "Candidate", "Strategy", "Tuned", "candidate_plans", "choose", "refit_plan", "rungs"]

Strategy = Literal["grid", "halving"]
STRATEGIES: tuple[Strategy, ...] = ("grid", "halving")
ETA = 3
"""Halving gives each rung so many times the rounds of the one before, to one in so many of its candidates."""
_PLAN_KEYS = ("cohort",)


@dataclass(frozen=True)
class Candidate:
    """One point of the grid and what validation says of it.

    Args:
        settings: the keys of the grid and this candidate's values.
        plan: resolved, with the first seed.
        value: mean over seeds of the deciding metric on validation.
        standard_error: of the value over users, mean over seeds; `None` where it is not defined.
        sd: sample standard deviation of the value over seeds; `None` for one seed.
        metrics: all metrics on validation, means over seeds.
        rounds: rounds it was trained for (the most over seeds).
        rung: the rung it reached, from 0; a full training is the last one.
        seconds_of: spent on it, over all seeds, by part: to `prepare`, to `train`, to `evaluate`.
        kept: the round whose model gave the value (the most over seeds).
    """

    settings: dict[str, Any]
    plan: Plan
    value: float = -math.inf
    standard_error: float | None = None
    sd: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    rounds: int = 0
    rung: int = 0
    seconds_of: dict[str, float] = field(default_factory=dict)
    kept: int = 0

    @property
    def seconds(self) -> float:
        """Spent on it."""
        return round(sum(self.seconds_of.values()), 3)

    def row(self) -> dict[str, Any]:
        """What JSON says of it."""
        return {
            "settings": self.settings,
            "validation": {name: round(value, 6) for name, value in self.metrics.items()},
            "standard_error": None if self.standard_error is None else round(self.standard_error, 6),
            "sd": None if self.sd is None else round(self.sd, 6),
            "rounds": self.rounds,
            "rung": self.rung,
            "seconds": self.seconds,
            "seconds_of": self.seconds_of,
        }


@dataclass(frozen=True)
class Tuned:
    """All candidates in the order of the grid, and the choice.

    Args:
        candidates: with their figures.
        best: position of the chosen one: the best of those that were trained in full, the earlier of equals.
        metric: that decided.
        strategy: that was used.
        rungs: rounds at which candidates were compared; empty for `grid`.
        remark: why another strategy than the wanted one was used; empty otherwise.
    """

    candidates: list[Candidate]
    best: int
    metric: str
    strategy: Strategy
    rungs: list[int]
    remark: str = ""

    @property
    def chosen(self) -> Candidate:
        """The chosen candidate."""
        return self.candidates[self.best]


def candidate_plans(base: Plan, grid: Mapping[str, Sequence[Any]]) -> list[tuple[dict[str, Any], Plan]]:
    """The Cartesian product of a grid: the last key changes fastest, values stay in the order given.

    Args:
        base: what the candidates have in common.
        grid: values by key; a key is a hyperparameter of the model, or `cohort`.

    Raises:
        PlanError: naming the key and the value that no plan can have, before anything is trained.

    Example:
        >>> base = Plan.make({"data": {"source": "memory"}, "model": {"name": "ease"}})
        >>> [settings for settings, _ in candidate_plans(base, {"reg": [10, 20], "alpha": [0, 1]})]
        [{'reg': 10, 'alpha': 0}, {'reg': 10, 'alpha': 1}, {'reg': 20, 'alpha': 0}, {'reg': 20, 'alpha': 1}]
    """
    own = type(base.build_model()).model_fields
    if not grid:
        raise PlanError("grid: no key; name at least one hyperparameter and its values, such as reg=10,100")
    grid = {key: list(listed(values, f"grid {key}")) for key, values in grid.items()}
    for key, values in grid.items():
        if key not in own and key not in _PLAN_KEYS:
            raise PlanError(
                f"grid {key}: not a hyperparameter of {base.model['name']}{meant(key, [*own, *_PLAN_KEYS])}. "
                "What is measured (data, split, seed, evaluation) is the same for all candidates"
            )
        if not values:
            raise PlanError(f"grid {key}: no values; write {key}=v1,v2")
        read: list[Any] = []
        for value in values:
            try:
                plan = _with(base, {key: value})
            except PlanError as error:
                raise PlanError(f"grid {key}={value}: {error}") from None
            made = plan.cohort if key in _PLAN_KEYS else getattr(plan.build_model(), key)
            if any(type(made) is type(other) and made == other for other in read):
                raise PlanError(f"grid {key}={value}: the value is given twice")
            read.append(made)
    candidates = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        try:
            candidates.append((settings, _with(base, settings)))
        except PlanError as error:
            raise PlanError(f"grid {_in_words(settings)}: {error}") from None
    return candidates


def rungs(candidates: int, rounds: int) -> list[int]:
    """Rounds at which halving compares: the last rung is a full training, and at most one in `ETA` goes on from each.

    >>> rungs(9, 60), rungs(2, 60), rungs(27, 5)
    ([7, 20, 60], [60], [2, 5])
    """
    depth = 0
    while ETA ** (depth + 1) <= min(candidates, rounds):
        depth += 1
    return [math.ceil(rounds / ETA ** (depth - step)) for step in range(depth + 1)]


def choose(
    base: Plan,
    grid: Mapping[str, Sequence[Any]],
    data: Interactions,
    digest: str,
    engine: Callable[[Plan], LocalEngine],
    metric: str | None = None,
    strategy: Strategy = "grid",
    seeds: int = 1,
    told: Callable[[dict[str, Any], int, float], None] = lambda *_: None,
) -> Tuned:
    """Train candidates and compare them on validation.

    Candidates that differ only in how clients are scored (`traits.scores_by`, such as `decay`) are trained once.

    Args:
        base: what the candidates have in common.
        grid: see `candidate_plans`.
        data, digest: all users, and the digest of the data.
        engine: makes the nodes of a resolved plan; called once for every seed.
        metric: that decides: the most, or of an error of ratings the least, is best. `ndcg@10` by default, `rmse` for a
            model that reads ratings.
        strategy: `grid` trains every candidate in full. `halving` (Jamieson & Talwalkar 2016, with the rate of Li et
            al. 2018) pauses candidates at rungs of rounds, lets the best third go on from where they are, and cuts the
            others; it needs a model with `rounds`.
        seeds: trainings per candidate, with the plan's seed and those after it; their mean counts.
        told: called with settings, rounds and value whenever a candidate was measured.

    Raises:
        PlanError: if a candidate is impossible, or nothing is held out for validation; before any training.
    """
    if base.privacy is not None:
        raise PlanError(
            "tune: choosing by figures of the same users is not covered by a plan's privacy. Tune without privacy on "
            "other users, or leave hyperparameters at their defaults"
        )
    if strategy not in STRATEGIES:
        raise InputError(f"strategy {strategy!r} is not known{suggestion(strategy, STRATEGIES)}")
    seeds = whole_number(seeds, "seeds")
    metric = metric or deciding_metric(base.build_model().traits.reads_ratings)
    base = _deciding(base, metric)
    remark, has_rounds = "", "rounds" in type(base.build_model()).model_fields
    if strategy == "halving" and not has_rounds:
        strategy = "grid"
        remark = f"model {base.model['name']!r} has no rounds to halve: every candidate was trained in full (grid)"
    if strategy == "halving" and "rounds" in grid:
        raise PlanError("grid rounds: halving gives out the rounds itself; use --set rounds=N, or strategy grid")
    if base.refit:
        raise PlanError("refit trains on the validation part, so nothing can be chosen on it; refit the chosen plan")
    made = [(settings, plan.resolve(data, digest)) for settings, plan in candidate_plans(base, grid)]
    for settings, plan in made:
        _check(settings, plan, data)
    (decides,) = parse_metrics(metric)
    engines: dict[int, LocalEngine] = {}
    for seed in range(base.seed, base.seed + seeds):
        nodes = engine(base.model_copy(update={"seed": seed}).resolve(data, digest))
        if not nodes.has_valid:
            raise PlanError(f"the split {base.split!r} leaves nothing for validation, so nothing can be chosen on it")
        engines[seed] = nodes
    for _, plan in made:
        Agreement.of(plan, data.catalog).check_order(nodes.shards[0].data)
    trials = _trials(made, decides, data, engines)
    steps: list[int] = []
    if strategy == "halving":
        steps = rungs(len(trials), base.build_model().rounds)
    alive = list(range(len(trials)))
    for rung, until in enumerate([*steps[:-1], None]):
        for trial in _by_training([trials[place] for place in alive]):
            trial.advance(rung, until)
            told(trial.candidate.settings, trial.candidate.rounds, trial.candidate.value)
            if until is None:
                trial.release()
        if until is not None:
            best = sorted(alive, key=lambda place: (-decides.better(trials[place].candidate.value), place))
            alive = sorted(best[: max(1, len(alive) // ETA)])
            for place in set(range(len(trials))) - set(alive):
                trials[place].release()
    candidates = [trial.candidate for trial in trials]
    best_place = max(alive, key=lambda place: (decides.better(candidates[place].value), -place))
    return Tuned(candidates, best_place, str(decides), strategy, steps, remark)


def refit_plan(chosen: Candidate) -> Plan:
    """The chosen plan on train and validation together, for as many rounds as validation found best."""
    plan = chosen.plan
    model = dict(plan.model)
    if "rounds" in model:
        model["rounds"] = chosen.kept + 1
    evaluation = plan.evaluation.model_copy(update={"every": 0, "patience": None, "keep": "last"})
    return Plan.make(plan.model_copy(update={"model": model, "evaluation": evaluation, "refit": True}).model_dump())


class _Training:
    """The trainings of one plan, one per seed, in memory; they can be paused and go on.

    Candidates that only score in other ways have one training.

    Args:
        plan: resolved.
        data: all users.
        engines: the nodes of each seed.
    """

    def __init__(self, plan: Plan, data: Interactions, engines: Mapping[int, LocalEngine]) -> None:
        self.plan = plan
        self.data = data
        self.engines = engines
        self.used = 0
        """Candidates that may still go on with it."""
        self.trained: list[tuple[Coordinator, Trained]] = []
        """A coordinator for each seed, and what it has trained."""
        self._until: int | None = -1

    def advance(self, until: int | None) -> None:
        """Train up to round `until`, or to the end."""
        if not self.trained or self._until != until:
            coordinators = [coordinator for coordinator, _ in self.trained] or self.coordinators(self.plan)
            self.trained = [(coordinator, coordinator.train(until)) for coordinator in coordinators]
            self._until = until

    def coordinators(self, plan: Plan) -> list[Coordinator]:
        """A coordinator of a plan for each seed, with nodes of its own over the same users."""
        seeded = [(plan.model_copy(update={"seed": seed}), nodes) for seed, nodes in self.engines.items()]
        agreements = [(Agreement.of(own, self.data.catalog), nodes.under(own)) for own, nodes in seeded]
        return [Coordinator(own, nodes, Run(own.plan, None), nodes.has_valid) for own, nodes in agreements]

    def release(self) -> None:
        """Let go of models and private rows once no candidate needs them."""
        self.used -= 1
        if self.used == 0:
            self.trained = []


class _Trial:
    """A candidate and its training.

    Args:
        candidate: so far.
        metric: that decides.
        training: that it is measured on, maybe beside others.
    """

    def __init__(self, candidate: Candidate, metric: Metric, training: _Training) -> None:
        self.candidate = candidate
        self.metric = metric
        self.training = training
        self.training.used += 1
        self._scorers: list[Coordinator] = []

    def advance(self, rung: int, until: int | None) -> None:
        """Train up to round `until`, or to the end, and measure on validation."""
        name, own = str(self.metric), self.candidate.plan == self.training.plan
        with Stopwatch("prepare", "train", "evaluate", base="prepare") as clock:
            self.training.advance(until)
            trained = self.training.trained
            if not own and not self._scorers:
                self._scorers = self.training.coordinators(self.candidate.plan)
            scorers = [coordinator for coordinator, _ in trained] if own else self._scorers
            ends = [end for _, end in trained]
            measured = [self._measure(scorer, end) for scorer, end in zip(scorers, ends, strict=True)]
        values = np.array([found[name][0] for found in measured])
        errors = [error for found in measured if (error := found[name][1]) is not None]
        self.candidate = replace(
            self.candidate,
            value=float(np.nan_to_num(values.mean(), nan=-self.metric.better(math.inf))),
            standard_error=float(np.mean(errors)) if errors else None,
            sd=float(values.std(ddof=1)) if len(values) > 1 else None,
            metrics={name: float(np.mean([found[name][0] for found in measured])) for name in measured[0]},
            rounds=max(end.rounds for end in ends),
            kept=max(end.round for end in ends),
            rung=rung,
            seconds_of={
                part: round(self.candidate.seconds_of.get(part, 0.0) + spent, 3)
                for part, spent in clock.seconds_of.items()
            },
        )

    def release(self) -> None:
        """Let go of models and private rows."""
        self._scorers = []
        self.training.release()

    def _measure(self, scorer: Coordinator, end: Trained) -> dict[str, tuple[float, float | None]]:
        asked = self.candidate.plan.evaluation
        found = scorer.evaluate(end.state, end.round, "valid", asked.metrics, asked.protocol)
        return {name: (summary.value, summary.standard_error) for name, summary in found.items()}


def _trials(
    made: Sequence[tuple[dict[str, Any], Plan]], metric: Metric, data: Interactions, engines: Mapping[int, LocalEngine]
) -> list[_Trial]:
    """A trial for each candidate; those that differ only in `traits.scores_by` have one training, unless that validates
    as it goes, which may decide when to stop."""
    trainings: dict[str, _Training] = {}
    trials = []
    for settings, plan in made:
        key = plan.model_dump_json()
        if not plan.evaluation.every:
            scores_by = plan.build_model().traits.scores_by
            model = {name: value for name, value in plan.model.items() if name not in scores_by}
            key = plan.model_copy(update={"model": model}).model_dump_json()
        training = trainings.setdefault(key, _Training(plan, data, engines))
        trials.append(_Trial(Candidate(settings, plan), metric, training))
    return trials


def _by_training(trials: Sequence[_Trial]) -> list[_Trial]:
    """The trials, those of one training after the other, so that few trainings are held at a time."""
    trainings = list(dict.fromkeys(trial.training for trial in trials))
    return sorted(trials, key=lambda trial: trainings.index(trial.training))


def _with(base: Plan, settings: dict[str, Any]) -> Plan:
    top = {key: value for key, value in settings.items() if key in _PLAN_KEYS}
    model = {key: value for key, value in settings.items() if key not in top}
    return Plan.make(base.model_dump() | top | {"model": base.model | model})


def _deciding(base: Plan, metric: str) -> Plan:
    """The plan with `metric` first, where it decides."""
    parsed = parse_metrics(metric)
    if len(parsed) != 1:
        raise InputError(f"one metric decides, not {len(parsed)}: {metric}")
    name = str(parsed[0])
    others = [other for other in base.evaluation.metrics if other != name]
    return Plan.make(base.model_dump() | {"evaluation": base.evaluation.model_dump() | {"metrics": (name, *others)}})


def _check(settings: dict[str, Any], plan: Plan, data: Interactions) -> None:
    """Refuse what would only fail in its first round: sums too wide for their ring, models too large."""
    agreement = Agreement.of(plan, data.catalog)
    try:
        check_memory(agreement.model, data.n_items, agreement.transfer_memory)
        agreement.fitted(first_sum(agreement.model, data.n_items))
    except (PlanError, ValueError, MemoryError) as error:
        raise PlanError(f"grid {_in_words(settings)}: {error}") from None


def _in_words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())
