"""A finished run in its folder: opened with its nodes, and what was fitted saved as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fedrec.data.catalog import Catalog
from fedrec.data.digests import digest_of
from fedrec.data.interactions import Interactions
from fedrec.data.splits import SplitMethod, given
from fedrec.engines.local import LocalEngine
from fedrec.errors import DamagedError, FedrecError, RunError
from fedrec.federation.agreement import Agreement
from fedrec.federation.checkpoints import server_arrays
from fedrec.federation.coordinator import Trained
from fedrec.federation.fitting import Fitting
from fedrec.federation.model_folder import load_shared, save_shared
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run, read_plan
from fedrec.models.base import Arrays, Private, State
from fedrec.models.outline import keeps_rows
from fedrec.record.durable import arrays_digest, check_plain, replace_file, replace_table
from fedrec.record.files import check_files, read_files
from fedrec.runs.finished import Home, OpenedRun
from fedrec.runs.kept import KEPT, Kept
from fedrec.runs.loading import Placement, load_again, public_digest, read_placement

__all__ = ["FEDERATED", "home_of", "is_saved_in", "open_model", "open_run", "save_model", "save_run"]

FEDERATED = "private/federation.json"
"""In the folder of a run over a federation: which one, and the number under which its nodes know the run."""


def open_run(folder: Path, named: str | None = None) -> OpenedRun:
    """Open a finished run with its nodes; see `open_model`."""
    opened = open_model(folder, named)
    assert opened.engine is not None
    return opened


def open_model(folder: Path, named: str | None = None) -> OpenedRun:
    """Open a finished run; its users, and the coordinator's own arrays, are looked for when they are asked for.

    The users' interactions are those that the run keeps. One that keeps none, as those of earlier versions, reads the
    source that its plan names.

    Args:
        folder: the run.
        named: its source, where that is a database server: a run of somebody else could name any.

    Raises:
        UnnamedSourceError: when users are asked for, the run keeps no interactions, and its source is a database server
            that is not named.
        RunError: if it is not a finished run; when users are asked for, if they are at the nodes of a federation, or
            the source is not the data any more that the run was trained on.
        DamagedError: if files were changed.
    """
    folder = folder.resolve() if folder.is_symlink() else folder  # it may point elsewhere before all is read
    check_plain(folder, "private")  # where secrets and journals are written
    plan = read_plan(folder)
    agreement, state, round = load_shared(folder / "model", plan)
    server = _Later(lambda: server_arrays(folder, round, state.shared, Fitting(agreement)))
    trained = Trained(State(state.shared, server), round, round + 1)
    return OpenedRun(agreement, trained, lambda: _home(folder, agreement, named))


class _Later(Mapping[str, np.ndarray]):
    """Arrays that are loaded when somebody looks at them."""

    def __init__(self, load: Callable[[], Arrays]) -> None:
        self._load = load

    @cached_property
    def _arrays(self) -> Arrays:
        return self._load()

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def _home(folder: Path, agreement: Agreement, named: str | None) -> Home:
    plan, catalog = agreement.plan, agreement.catalog
    if (folder / FEDERATED).exists():
        raise RunError(
            f"{folder} was trained over the nodes of a federation, and their users are with them: each node has the "
            "finished run in models/latest of its home, and 'fedrec recommend' and the like open that"
        )
    kept = Kept.read(folder, plan, catalog)
    if kept is None:
        advice = f"{folder} keeps no interactions of its own. " + (
            "Whose private row is whose only the data tell that it was trained on: name them where they are now, with "
            "--data (data= in Python), or train anew"
            if keeps_rows(agreement.model)
            else "Name its data where they are now, or newer data, with --data (data= in Python)"
        )
        kept = Kept(load_again(plan, folder, advice, catalog, named).interactions)
    return home_of(folder, plan, catalog, kept)


def home_of(folder: Path, plan: Plan, catalog: Catalog, kept: Kept) -> Home:
    """The nodes of a run with the interactions that it was trained on.

    Raises:
        DamagedError: if the catalog or the private rows are others.
    """
    if kept.data.catalog.digest != catalog.digest:
        raise DamagedError(f"{folder}: the catalog of the model is not the catalog of the data")
    placement, places = read_placement(folder, Placement()), kept.places
    if places is not None and not 0 <= places.min(initial=0) <= places.max(initial=0) < placement.nodes:
        raise DamagedError(f"{folder / KEPT} has users at a node that private/placement.json does not have")
    engine = placement.engine.build(
        kept.data, plan, placement.nodes, placement.partition, folder / "private", places=places
    )
    return Home(engine, kept.data)


def save_run(opened: OpenedRun, folder: Path) -> None:
    """Save a trained model as a run: `plan.yaml`, `model/`, and `private/`, which stays with the owner of the data.

    Raises:
        RunError: if the folder is not empty.
    """
    plan = _own_plan(opened)
    run = Run.create(plan, folder)
    try:
        (folder / "private").mkdir()
        replace_table(folder / KEPT, _history(opened))
        catalog = opened.catalog
        kept = Kept.read(folder, plan, catalog)
        assert kept is not None
        data, plan = kept.data, plan.resolve(kept.data, public_digest(plan, digest_of(kept.data), folder))
        replace_file(folder / "plan.yaml", plan.to_yaml().encode())
        save_shared(folder / "model", Agreement.of(plan, catalog), opened.trained.state, opened.trained.round)
        assert data.part is not None
        (shard,) = LocalEngine.of_split(given(data), plan, folder / "private").shards
        rows = _rows_of(opened, data)
        if rows is not None:
            shard.adopt(rows, opened.trained.round)
        run.seal()
    except (FedrecError, OSError, MemoryError):
        run.discard()
        raise
    finally:
        run.close()


def save_model(opened: OpenedRun, folder: Path, origin: Path) -> None:
    """Save a model whose users are at the nodes of a federation: `plan.yaml`, `model/`, and which federation it is.

    Args:
        opened: the model.
        folder: where to.
        origin: a run of the same federation.

    Raises:
        RunError: if the folder is not empty.
    """
    run = Run.create(opened.plan, folder)
    try:
        (folder / "private").mkdir()
        replace_file(folder / FEDERATED, (origin / FEDERATED).read_bytes())
        save_shared(folder / "model", opened.agreement, opened.trained.state, opened.trained.round)
        run.seal()
    except (FedrecError, OSError, MemoryError):
        run.discard()
        raise
    finally:
        run.close()


def is_saved_in(opened: OpenedRun, folder: Path) -> bool:
    """Whether `folder` is what `save_run` makes of a model, whole: plan, model, interactions and private rows."""
    try:
        check_files(folder, read_files(folder)[0])
        saved = open_run(folder)
        plan = _own_plan(opened).resolve(saved.data, saved.plan.data.digest or "")
        history = pl.read_parquet(folder / KEPT)
    except (FedrecError, OSError):
        return False
    return (
        (plan, opened.trained.round) == (saved.plan, saved.trained.round)
        and arrays_digest(opened.trained.state.shared) == arrays_digest(saved.trained.state.shared)
        and _history(opened).equals(history)
        and arrays_digest(_rows_of(opened, saved.data) or {}) == arrays_digest(saved.private() or {})
    )


def _own_plan(opened: OpenedRun) -> Plan:
    """The plan with which a model is saved, not yet resolved: of its own interactions, as they were split. A split by
    items is drawn again, from their ids: parts of interactions do not say which items nobody has in training."""
    positions = opened.engine.shards[0].split.positions
    anew: dict[str, Any] = {"data": {"source": KEPT}, "catalog": None, "features": None}
    if SplitMethod.parse(opened.plan.split).name != "cold-items":
        anew |= {"split": f"last:{positions}"} if positions else {"split": "given", "refit": False}
    anew["evaluation"] = opened.plan.evaluation.without_columns()
    return Plan.make(opened.plan.model_dump() | anew)


def _history(opened: OpenedRun) -> pl.DataFrame:
    """All interactions with their parts, by user."""
    parts = [shard.split.with_parts().to_frame() for shard in opened.engine.shards]
    return pl.concat(parts).sort("user_id", maintain_order=True)


def _rows_of(opened: OpenedRun, data: Interactions) -> Private | None:
    """Private rows in the order of the users of `data`, who are the same."""
    rows = opened.private()
    places = opened.data.users.find(data.users.series)
    return None if rows is None else {name: array[places] for name, array in rows.items()}
