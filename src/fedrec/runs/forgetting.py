"""Forgetting: a run made from a finished one as if some of its users had never been in its data."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.data.digests import digest_of
from fedrec.data.interactions import Interactions
from fedrec.data.leaving import Left, without_users
from fedrec.data.reading.reports import ReadReport, no_rows_left_out
from fedrec.data.sources import LoadedSource
from fedrec.errors import DamagedError, RunError
from fedrec.federation.checkpoints import SHARED
from fedrec.federation.coordinator import Progress
from fedrec.federation.run import check_free, read_plan
from fedrec.node.founding import refitted
from fedrec.privacy.chance import SYSTEM, Chance
from fedrec.privacy.groups import group_promise
from fedrec.privacy.terms import Privacy
from fedrec.progress import RUN, Stopwatch
from fedrec.record.durable import hold, replace_file
from fedrec.record.files import LOCK, file_digest, list_files, read_files
from fedrec.runs.finished import OpenedRun
from fedrec.runs.forgettable import Forgettable, Way
from fedrec.runs.loading import Placement, declared_items, read_placement
from fedrec.runs.remains import holders, sources
from fedrec.runs.saved import save_run
from fedrec.runs.training import Forgotten, kept_budget, train_run

__all__ = ["forget_users"]

_REPORT = "forgotten.json"
_PUBLIC = ("how", "users", "without_training", "left_with_them", "digests", "proof", "privacy")
"""What `forgotten.json` has of the report: nothing that names files, which may be called after a user."""


def forget_users(
    run: Forgettable,
    ids: list[Any],
    out: Path,
    how: str = "auto",
    prove: bool = False,
    delete: bool = False,
    watch: Callable[[Progress], None] = lambda _: None,
    chance: Chance = SYSTEM,
    clock: Stopwatch | None = None,
) -> dict[str, Any]:
    """Make a run without some users in `out`, or leave nothing there.

    Args:
        run: the finished run.
        ids: whom to forget.
        out: new folder.
        how: one of `forgettable.HOW`.
        prove: train a second time, from the beginning and on the data without these users, and compare digests.
        delete: delete the finished run at the end.
        watch: called after every round.
        chance: where the noise of a private run comes from.
        clock: of the command, if it runs already.

    Returns:
        The report; `forgotten.json` of the new run has what is not about files. It names nobody.

    Raises:
        InputError: if an id is unknown, or the users cannot be forgotten in this way; says why and what to do.
    """
    if clock is None:
        with Stopwatch(*RUN, base="prepare") as clock:
            return forget_users(run, ids, out, how, prove, delete, watch, chance, clock)
    check_free(out)
    if out.is_dir() and any(out.iterdir()):
        raise RunError(f"{out} is not empty; choose another folder")
    if out.resolve().is_relative_to(run.folder.resolve()):
        raise RunError(f"{out} is inside the run {run.folder}; choose another folder")
    leaving = run.leaving(ids)
    users, trained = int(leaving.sum()), run.opened.training().lengths > 0
    way = run.way(how, prove, users)
    report: dict[str, Any] = {
        "run": str(run.folder),
        "out": str(out),
        "how": way,
        "users": users,
        "without_training": int((leaving & ~trained).sum()),
    }
    try:
        if way == "covered":
            left = Left(run.kept.data.take_users(np.flatnonzero(~leaving)), 0, 0, 0)
            _save(run, left.data, out)
        else:
            cleaning, declared = run.plan.data.cleaning, declared_items(run.plan.data, run.folder)
            left = without_users(run.kept.data, leaving, cleaning, declared)
            _train(run, left.data, users, out, way, watch, chance, clock)
        report |= {
            "left_with_them": {"users": left.users, "interactions": left.interactions, "items": left.items},
            "digests": {"before": run.digest, "after": file_digest(out / SHARED)},
            "privacy": _promise(run.plan.privacy, way, users),
            "proof": _proof(run, left.data, out, watch) if prove else None,
            "deleted": delete,
            "still_hold": {} if delete else holders(run.folder, left.items),
            "sources": sources(run.plan),
            **clock.figures(),
        }
        public = {key: report[key] for key in _PUBLIC}
        replace_file(out / _REPORT, json.dumps(public, indent=1).encode() + b"\n")
        list_files(out, read_files(out)[0])
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    if delete:
        _delete(run.folder)
    return report


def _train(
    run: Forgettable,
    data: Interactions,
    users: int,
    out: Path,
    way: Way,
    watch: Callable[[Progress], None],
    chance: Chance,
    clock: Stopwatch,
) -> None:
    """Train the run's plan on other data."""
    plan, placement = run.plan, read_placement(run.folder, Placement())
    anew = plan.model_copy(
        update={
            "data": plan.data.model_copy(update={"digest": None}),
            "catalog": None,
            "features": None,
            "evaluation": plan.evaluation.without_columns(),
            "warm_start": None,
            "transfer": None if plan.transfer is None else plan.transfer.model_copy(update={"taken": None}),
        }
    )
    report = ReadReport(plan.data.source, "run", {}, len(data), no_rows_left_out())
    train_run(
        anew,
        out,
        placement,
        watch=watch,
        source=LoadedSource(data, report, plan.data.source, digest_of(data)),
        budget=None if placement.budget is None else kept_budget(Path(placement.budget), None),
        chance=chance,
        clock=clock,
        forgotten=Forgotten(users, way, run.places(data), run.opened if way == "subtract" else None),
    )


def _save(run: Forgettable, data: Interactions, out: Path) -> None:
    """Save the model as it is, with its other users."""
    agreement = run.opened.agreement
    split = agreement.divided(data)
    engine = run.opened.with_split(refitted(split) if run.plan.refit else split)
    save_run(OpenedRun.here(agreement, run.opened.trained, engine, data), out)


def _proof(run: Forgettable, data: Interactions, out: Path, watch: Callable[[Progress], None]) -> dict[str, Any]:
    """Train once more, and compare.

    Raises:
        DamagedError: if the models differ.
    """
    digest = run.trained_again(read_plan(out), data, out, watch)
    made = file_digest(out / SHARED)
    if digest != made:
        raise DamagedError(
            f"training without the users gives another model (digest {digest[:12]}…) than forgetting did "
            f"({made[:12]}…), so nothing was written. Train anew on data without the users"
        )
    return {"digest": digest, "equal": True}


def _promise(terms: Privacy | None, way: Way, users: int) -> dict[str, Any] | None:
    """What the promise of a private run says of the users who are forgotten, or costs the others to forget them."""
    if terms is None:
        return None
    told: dict[str, Any] = {"epsilon": terms.epsilon, "delta": terms.delta, "view": terms.view}
    if way == "retrain":
        return told | {"epsilon_of_both_runs": 2 * terms.epsilon, "delta_of_both_runs": 2 * terms.delta}
    epsilon, delta = group_promise(terms.epsilon, terms.delta, users)
    return told | {"epsilon_of_all_users": epsilon, "delta_of_all_users": delta}


def _delete(folder: Path) -> None:
    """Delete the finished run."""
    lock = hold(folder / LOCK, f"another process is working on {folder}; delete the folder later")
    try:
        shutil.rmtree(folder)
    finally:
        os.close(lock)
