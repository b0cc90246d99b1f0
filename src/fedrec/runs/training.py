"""A whole training run on this machine: load, resolve, train, evaluate, report; and a finished run opened again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.data.interactions import Interactions
from fedrec.data.sources import LoadedSource
from fedrec.data.splits import unsplit
from fedrec.engines.clock import Clock
from fedrec.engines.local import LocalEngine
from fedrec.engines.memory import check_memory
from fedrec.engines.virtual import virtual_time
from fedrec.errors import FedrecError, PlanError
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import HELD_OUT
from fedrec.federation.compatibility import check_together, place_of
from fedrec.federation.coordinator import Coordinator, Progress, Trained
from fedrec.federation.plan import Plan, WarmStart
from fedrec.federation.run import Run, check_free, is_run, read_plan
from fedrec.federation.subtracting import Subtracted
from fedrec.federation.transfer import Taken
from fedrec.federation.values import values_remark
from fedrec.node.founding import refitted
from fedrec.privacy.budget import Budget
from fedrec.privacy.chance import SYSTEM, Chance, blinded, has_secret, keep_secret
from fedrec.progress import RUN, Stopwatch, stage
from fedrec.record.durable import arrays_digest, replace_file, replace_table
from fedrec.runs.finished import OpenedRun
from fedrec.runs.kept import closed_run, keep_interactions, reading_facts
from fedrec.runs.loading import Placement, load_again, load_plan_data, public_digest, read_placement
from fedrec.runs.reports import close_run, measured_parts, report_of, worth_of
from fedrec.runs.saved import open_run
from fedrec.runs.transferring import open_transfer, taken_of, transfer_report, with_transfer

__all__ = [
    "Forgotten",
    "Placement",
    "load_plan_data",
    "read_placement",
    "train_here",
    "train_run",
]

_ALONE = Placement()


@dataclass(frozen=True, eq=False)
class Forgotten:
    """Users who were taken out of the data of a finished run before a training.

    Args:
        users: how many; nothing of a run says who.
        how: `subtract` or `retrain`.
        places: the node of each other user [users] int64; `None` if there is one node.
        earlier: the finished run, from whose kept sums they are subtracted; `None` to sum all clients.
    """

    users: int
    how: str
    places: np.ndarray | None = None
    earlier: OpenedRun | None = None

    def gathering(self, agreement: Agreement, engine: LocalEngine, data: Interactions) -> Subtracted | None:
        """How the sum comes to be, if it is that of the finished run without them.

        Args:
            agreement: the plan of the training.
            engine: its nodes, with all other users.
            data: all other users.
        """
        if self.earlier is None:
            return None
        known, remembered = self.earlier.as_earlier("the run")
        split = agreement.divided(data)
        split = refitted(split) if agreement.plan.refit else split
        learned = unsplit(split.repeated(split.train))
        nodes = LocalEngine.of_split(learned, agreement.plan)  # in memory: a receipt would be one of the change
        nodes.remember(remembered)
        return Subtracted(nodes, known, agreement.catalog, sum(len(shard.active) for shard in engine.shards))


def train_here(
    engine: LocalEngine,
    data: Interactions,
    run: Run,
    watch: Callable[[Progress], None] = lambda _: None,
    earlier: OpenedRun | None = None,
    chance: Chance = SYSTEM,
    taken: Taken | None = None,
    forgotten: Forgotten | None = None,
) -> tuple[Coordinator, Trained]:
    """Train the plan of `run` over an engine, from the beginning or from an `earlier` training.

    The noise of a private plan comes from `chance`; `taken` is what its `transfer` takes over; `forgotten` who was
    taken out of the data before.

    Raises:
        PlanError: if the machine has not the memory that the model needs for this catalog.
    """
    agreement = Agreement.of(run.plan, data.catalog)
    check_memory(agreement.model, data.n_items, agreement.transfer_memory)
    known = None
    if earlier is not None and run.plan.warm_start is not None:
        known, remembered = earlier.as_earlier(run.plan.warm_start.run)
        engine.remember(remembered)
    coordinator = Coordinator(agreement, engine, run, engine.has_valid, watch, known, chance, taken)
    if forgotten is not None:
        run.beginning = {"forgotten": {"users": forgotten.users, "how": forgotten.how}}
        coordinator.gathering = forgotten.gathering(agreement, engine, data) or coordinator.gathering
    return coordinator, coordinator.train()


def train_run(
    plan: Plan,
    folder: Path,
    placement: Placement = _ALONE,
    resume: bool = False,
    watch: Callable[[Progress], None] = lambda _: None,
    loaded: Callable[[LoadedSource], None] = lambda _: None,
    source: LoadedSource | None = None,
    budget: Budget | None = None,
    chance: Chance = SYSTEM,
    named: str | None = None,
    clock: Stopwatch | None = None,
    forgotten: Forgotten | None = None,
) -> dict[str, Any]:
    """Train, evaluate and write the report of a run in `folder`.

    An error before the first round is committed leaves no folder behind. With `resume`, a run that exists goes on where
    it stopped, with its own plan and placement, and the data that it began with; a finished one just says so again,
    from what it kept. `source` is the plan's data where it is loaded already; `named` is the plan's source as the
    person at hand named it, without which no database server is asked for it, nor for the run that the plan goes on
    from. A private plan over its own or the owner's `budget` is refused before any data is read. The seconds of the
    report are those of `clock`, where it runs already. `forgotten` says which users are not in `source` any more.

    Returns:
        The report (`report.json`).
    """
    if clock is None:
        with Stopwatch(*RUN, base="prepare") as clock:
            return train_run(
                plan, folder, placement, resume, watch, loaded, source, budget, chance, named, clock, forgotten
            )
    resume = resume and is_run(folder)
    if resume:
        plan, placement = read_plan(folder), read_placement(folder, placement)
        if placement.budget is not None:
            budget = kept_budget(Path(placement.budget), budget)
        if plan.privacy is not None and not has_secret(folder / "private"):
            plan, resume = _not_begun(plan, folder), False
    else:
        check_free(folder)
        check_together(plan.case, place_of(placement.secure))
        plan = plan.with_noise()
        check_budget(plan, placement, budget)
        check_clock(plan, placement)
    closed = closed_run(folder, plan) if resume and source is None and not plan.evaluation.by_columns else None
    secret = None
    if closed is not None:
        data, told, digest = closed.kept.data, closed.told, plan.data.digest or ""
    else:
        given = source is not None
        if source is None:
            advice = (
                f"{folder} goes on only with the data that it began with: put that back, or train anew in another --out"
            )
            source = (
                load_again(plan, folder, advice, named=named)
                if resume
                else load_plan_data(plan.data, folder, named=named)
            )
        source = source.noting(values_remark([plan], source.interactions))
        if not given:
            loaded(source)
        data, told = source.interactions, reading_facts(source)
        secret = chance.secret("digest") if plan.privacy is not None and not resume else None
        with stage("read"):
            own = source.digest
            digest = public_digest(plan, own, folder, chance) if secret is None else blinded(own, secret)
    plan = plan.resolve(data, digest)
    earlier = None if resume else open_earlier(plan, named)
    if earlier is not None:
        plan = warmed(plan, earlier)
    plan, transferred = (
        (plan, open_transfer(plan, data.catalog, folder)) if resume else with_transfer(plan, data.catalog)
    )
    run = Run.open(folder) if resume else Run.create(plan, folder)
    placement = replace(placement, folder=placement.folder or os.getcwd())
    if budget is not None and budget.path is not None:
        placement = replace(placement, budget=str(budget.path.resolve()))
    went_on = len(run.ledger.of_kind("round")) if resume else None
    try:
        if resume and not run.ledger.of_kind("round"):
            earlier = open_earlier(plan, named)
        if transferred is not None:
            transferred.keep(folder)
        private = folder / "private"
        private.mkdir(exist_ok=True)
        if secret is not None:
            keep_secret(private, secret)
        replace_file(private / "placement.json", json.dumps(vars(placement)).encode() + b"\n")
        if source is not None and source.left_out.height:
            replace_table(private / "left_out.parquet", source.left_out)
        places = None if closed is None else closed.kept.places
        if forgotten is not None:
            places = forgotten.places
        engine = placement.engine.build(
            data,
            plan,
            placement.nodes,
            placement.partition,
            private,
            chance,
            budget,
            places,
        )
        if closed is None:
            keep_interactions(folder, data, engine)
        engine.clock = Clock.parse(placement.clock, len(engine.nodes), plan.seed)
        taken = taken_of(transferred)
        coordinator, trained = train_here(engine, data, run, watch, earlier, chance, taken, forgotten)
        report = _report(coordinator, trained, engine, data, run, folder, placement)
        report["data"] |= told
        report |= transfer_report(run, transferred, np.bincount(data.items, minlength=data.n_items))
        close_run(run, trained, report, clock, went_on)
        return report
    except (FedrecError, OSError, MemoryError):
        if not resume:
            run.discard()
        raise
    finally:
        run.close()


def check_clock(plan: Plan, placement: Placement) -> None:
    """Check that nodes can be in step, or out of it, as the plan says.

    Raises:
        PlanError: if the plan is asynchronous and there are fewer nodes than its buffer takes.
        InputError: if the clock makes no sense.
    """
    Clock.parse(placement.clock, placement.nodes)
    if plan.asynchronous is None:
        return
    if placement.nodes < plan.asynchronous.buffer:
        raise PlanError(
            f"asynchronous: a buffer of {plan.asynchronous.buffer} sums takes as many nodes, as each is in it once; "
            f"there are {placement.nodes}. Lower asynchronous.buffer, or give more --nodes"
        )


def check_budget(plan: Plan, placement: Placement, budget: Budget | None) -> None:
    """Check that the owner's budget allows for a plan, at every node.

    Raises:
        PlanError: if it does not, or a budget is given to a plan that promises nothing.
    """
    if budget is None:
        return
    if plan.privacy is None:
        raise PlanError("a budget is for private plans, and this plan has no privacy; set privacy.epsilon and "
                        "privacy.delta (--epsilon, --delta)")  # fmt: skip
    multipliers = [charge.noise_multiplier for charge in plan.charges()]
    for node in range(placement.nodes):
        budget.admit(f"node-{node}", multipliers, plan.privacy.participations, plan.privacy.clip)


def kept_budget(path: Path, given: Budget | None) -> Budget:
    """The owner's budget that a run began with.

    Raises:
        PlanError: if another one is given.
    """
    if given is not None and (given.path is None or given.path.resolve() != path):
        raise PlanError(f"this run began with the budget {path} and goes on with it; leave out --budget")
    return given or Budget.open(path)


def open_earlier(plan: Plan, named: str | None = None) -> OpenedRun | None:
    """The finished run that a plan goes on from, where it names one; `named` is the source of both.

    Raises:
        UnnamedSourceError: if its source is a database server other than the one named.
        PlanError: if it is not the one that the plan was made with.
    """
    if plan.warm_start is None:
        return None
    place = Path(plan.warm_start.run)
    asked = named is not None and is_run(place) and read_plan(place).data.source == named
    earlier = open_run(place, named if asked else None)
    warmed(plan, earlier)
    return earlier


def warmed(plan: Plan, earlier: OpenedRun) -> Plan:
    """The plan with the digest of what it goes on from; as it is where it goes on from nothing.

    Raises:
        PlanError: if the plan was made with another run, or the run knew held-out items and this plan may not.
    """
    if plan.warm_start is None:
        return plan
    name, digest = plan.warm_start.run, arrays_digest(earlier.trained.state.shared)
    if plan.warm_start.digest not in (None, digest):
        raise PlanError(
            f"warm_start: {name} is not the run that this plan was made with (digest {digest[:12]}…, expected "
            f"{str(plan.warm_start.digest)[:12]}…). Restore it, or remove the digest to start anew"
        )
    if earlier.plan.leaky and not plan.leaky:
        raise PlanError(f"warm_start: {name} was trained knowing held-out items, so what goes on from it does too; set "
                        "negatives: paper-leaky, or choose another run")  # fmt: skip
    return plan.model_copy(update={"warm_start": WarmStart(run=name, digest=digest)})


def _report(
    coordinator: Coordinator,
    trained: Trained,
    engine: LocalEngine,
    data: Interactions,
    run: Run,
    folder: Path,
    placement: Placement,
) -> dict[str, Any]:
    plan, counts = run.plan, engine.counts()
    parts = measured_parts(coordinator, trained, [part for part in HELD_OUT if counts[part]])
    home = {
        "secure": placement.secure,
        "data": {
            "source": plan.data.source,
            "users": data.n_users,
            "items": data.n_items,
            "interactions": len(data),
            "digest": plan.data.digest,
        },
        "split": {"method": plan.split, "hash": engine.split_hash(), **counts},
        **({} if plan.weights is None else {"weights": engine.weighed() | {"most": plan.weights.most}}),
        "nodes": len(engine.nodes),
        "partition": placement.partition,
        **virtual_time(engine.nodes, engine.clock, plan, run.ledger.of_kind("round")),
        "simulation": {
            "says": "nodes were played in one process; nothing left it, and "
            + ("sums were masked between them" if placement.secure else "nothing was masked"),
            "sums_below_min_clients": sum(node.small_sums for node in engine.nodes),
            "min_clients": plan.min_clients,
        },
    }
    report = report_of(coordinator, trained, run, folder, parts, home)
    items = len(np.unique(np.concatenate([shard.split.train.items for shard in engine.shards])))
    worth = worth_of(data.n_users, items, plan.split, counts, report["users"].get("test", 0))
    return report if worth is None else report | {"worth": worth}


def _not_begun(plan: Plan, folder: Path) -> Plan:
    """The plan of a private run that ended before its secret was kept: it begins anew, with another secret."""
    shutil.rmtree(folder / "private", ignore_errors=True)
    (folder / "plan.yaml").unlink()
    return plan.model_copy(update={"data": plan.data.model_copy(update={"digest": None})})
