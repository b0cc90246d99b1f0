"""A finished run with histories from elsewhere: its own data at another place, or what its users did since."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedrec.data.databases.urls import is_url
from fedrec.data.digests import digest_of
from fedrec.data.interactions import Interactions
from fedrec.data.reading.catalogs import with_user_features
from fedrec.data.reading.frames import as_interactions
from fedrec.errors import InputError
from fedrec.federation.data_plan import DataPlan
from fedrec.federation.plan import Plan
from fedrec.privacy.chance import has_secret
from fedrec.runs.finished import OpenedRun
from fedrec.runs.kept import KEPT, Kept
from fedrec.runs.loading import load_plan_data, public_digest
from fedrec.runs.saved import home_of
from fedrec.runs.visitors import Unknown, Visitors

__all__ = ["with_histories"]


def with_histories(
    opened: OpenedRun, folder: Path, data: Any, unknown_items: Unknown = "raise", reading: dict[str, Any] | None = None
) -> OpenedRun:
    """The run with the histories in `data` instead of those that it kept.

    If these are the very interactions that it was trained on, nothing else changes. Else users that were trained keep
    their private rows, and all others are folded in from what they did.

    Args:
        opened: the run.
        folder: where it is.
        data: a source, as for training, or a table.
        unknown_items: what to do with items that the model does not know, as `Visitors.read` does.
        reading: how the source is read, by the keys of a plan's `data`. The run's own source, and a file with the same
            ending, are read as the run's source was, but for what is said here; and all are cleaned as the run's were.

    Raises:
        InputError: if the source cannot be read, or holds an unknown item and `unknown_items` is `raise`.
    """
    if isinstance(data, str | os.PathLike):
        source = _source(opened.plan, os.fspath(data), reading or {})
        found = load_plan_data(source, folder, named=source.source).interactions
    elif reading:
        raise InputError(f"{', '.join(reading)}: how a file is read, and the data is a table; leave these out")
    else:
        found = as_interactions(data)
    if _is_own(opened.plan, found, folder):
        before = Kept.read(folder, opened.plan, opened.catalog) if found.user_features is not None else None
        if (folder / KEPT).exists() and before is None:
            return opened
        kept = Kept(replace(found, catalog=opened.catalog), None if before is None else before.places)
        return replace(opened, home=lambda: home_of(folder, opened.plan, opened.catalog, kept))
    visitors = Visitors.read(found, opened.catalog, unknown_items)
    if visitors.data.n_users == 0:
        raise InputError("data: nothing in it is about items that the model knows")
    data = replace(visitors.data, order=found.order, pandas=found.pandas)
    if found.user_features is not None:
        data = with_user_features(data, found.user_features.with_columns(found.users.series.alias("user_id")))
    return opened.with_histories(data)


def _source(run: Plan, name: str, reading: dict[str, Any]) -> DataPlan:
    """How a source is read.

    Raises:
        PlanError: if it cannot be read so.
    """
    own = run.data
    settings: dict[str, Any] = {"cleaning": own.cleaning.model_dump(), "source": name}
    alike = not is_url(name) and Path(name).suffixes == Path(own.source).suffixes != []
    if name == own.source or (alike and not is_url(own.source)):
        settings |= own.model_dump(exclude={"digest", "source"})
    plan = {"data": settings | reading, "model": run.model}
    return Plan.make(plan, "data").data


def _is_own(plan: Plan, found: Interactions, folder: Path) -> bool:
    """Whether these are the interactions that the run was trained on."""
    if plan.data.digest is None or (plan.privacy is not None and not has_secret(folder / "private")):
        return False
    return public_digest(plan, digest_of(found), folder) == plan.data.digest
