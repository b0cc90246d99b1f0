"""A trained model with its nodes in this process: just fitted, or opened again from a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fedrec.data.interactions import Interactions, rows_of
from fedrec.data.own_rows import blank, placed
from fedrec.data.splits import HISTORY, TRAIN, Split, distinct
from fedrec.engines.loading import Placement, load_plan_data, public_digest, read_placement
from fedrec.engines.local import LocalEngine
from fedrec.errors import DamagedError, FedrecError, InputError, RunError
from fedrec.evaluation.metrics import MetricSummary
from fedrec.federation.calls import Part
from fedrec.federation.coordinator import Coordinator, Trained
from fedrec.federation.fitting import Fitting
from fedrec.federation.item_floor import SERVED
from fedrec.federation.node import Node
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run, load_shared, read_plan, save_shared, server_arrays
from fedrec.federation.warm_start import Earlier, Remembered
from fedrec.kernels.splitting import count_shared
from fedrec.models.base import Private, Recommender, State
from fedrec.record.durable import arrays_digest, check_plain, replace_file, replace_table
from fedrec.record.files import check_files, read_files

__all__ = ["FEDERATED", "OpenedRun", "open_run"]

FEDERATED = "private/federation.json"
"""In the folder of a run over a federation: which one, and the number under which its nodes know the run."""
_HISTORY = "private/interactions.parquet"


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A trained model, and nodes with their data and private rows.

    Args:
        plan: resolved.
        model, trained: what was trained.
        engine: the nodes.
        data: all their users.
    """

    plan: Plan
    model: Recommender
    trained: Trained
    engine: LocalEngine
    data: Interactions

    def __repr__(self) -> str:
        return f"OpenedRun({self.model!r}, rounds={self.trained.rounds}, {self.data!r})"

    def private(self) -> Private | None:
        """Private rows of all users, in the order of `data.users`; `None` for a model without."""
        rows: dict[str, Any] = {}
        for node in self.engine.nodes:
            places = self.data.users.find(node.data.users.series)
            for name, array in (node.private() or {}).items():
                rows[name] = placed(rows.get(name, blank(array, self.data.n_users)), places, array)
        return rows or None

    def training(self) -> Interactions:
        """What all users were trained on, in the order of `data.users`."""
        if len(self.engine.nodes) == 1:
            return self.engine.nodes[0].split.train
        parts = [node.split.train for node in self.engine.nodes]
        places = np.concatenate([self.data.users.find(part.users.series) for part in parts])
        lengths = np.concatenate([part.lengths for part in parts])
        order = np.argsort(places)
        indptr = np.zeros(self.data.n_users + 1, dtype=np.int64)
        indptr[places + 1] = lengths
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        rows = rows_of(bounds, order)
        items = np.concatenate([part.items for part in parts])[rows]
        values = np.concatenate([part.values for part in parts])[rows] if self.data.values is not None else None
        return Interactions(self.data.users, self.data.catalog, np.cumsum(indptr), items, values)

    def as_earlier(self, name: str) -> tuple[Earlier, Remembered]:
        """What a training that goes on from this one needs: the coordinator's part, and the nodes'."""
        plan = self.plan
        sent = (plan.release, plan.seed, plan.weights, plan.leaky)
        earlier = Earlier(name, self.model, self.data.catalog, self.trained.state, *sent)
        return earlier, Remembered(self.training(), self.private())

    def with_split(self, split: Split) -> LocalEngine:
        """Nodes with other interactions: users trained on keep their private rows; all others are folded in when they
        are scored, from what is known before the part that is measured."""
        places = self.data.users.find(split.data.users.series)
        trained = np.append(self._trained_users(), False)[places]
        part = split.part.copy()
        part[(part == TRAIN) & ~trained[split.data.rows_of_users()]] = HISTORY
        engine = LocalEngine.of_split(replace(split, part=part), self.plan.model_copy(update={"refit": False}))
        private = self.private()
        if private is not None:
            known = np.flatnonzero(trained)
            rows = {
                name: placed(blank(array, len(places)), known, array[places[known]]) for name, array in private.items()
            }
            engine.nodes[0].adopt(rows, self.trained.round)
        return engine

    def _trained_users(self) -> np.ndarray:
        """Which users [users] bool took part in the training."""
        trained = np.zeros(self.data.n_users, dtype=np.bool_)
        for node in self.engine.nodes:
            trained[self.data.users.find(node.data.users.series)[node.active]] = True
        return trained

    def trained_on(self, held_out: Interactions) -> int:
        """How many of these interactions training was handed."""
        shared = 0
        for node in self.engine.nodes:
            places = node.data.users.find(held_out.users.series)
            there = np.flatnonzero(places >= 0)
            known, wanted = node.clients.take(places[there]), held_out.take_users(there)
            shared += count_shared(known.indptr, known.items, wanted.indptr, wanted.items, self.data.n_items)
        return shared

    def with_visitors(self, visitors: Interactions) -> Node:
        """A node of users to be folded in from their history alone, whatever their ids; repeats are merged."""
        visitors, merged = distinct(visitors)
        split = Split(visitors, np.full(len(visitors), HISTORY, dtype=np.int8), "history", merged)
        return LocalEngine.of_split(split, self.plan.model_copy(update={"refit": False})).nodes[0]

    def similarity(self, items: np.ndarray) -> np.ndarray:
        """How near the items at `items` [n] are to every item: [n, items] float32, −inf for those that take no part.

        Raises:
            InputError: if the model knows no such thing.
        """
        shared = self.trained.state.shared
        scores = self.model.similarity(shared, items)
        if SERVED in shared:
            scores[:, ~shared[SERVED]] = -np.inf
        return scores

    def measure(
        self,
        metrics: Sequence[str],
        protocol: str,
        part: Part = "test",
        engine: LocalEngine | None = None,
    ) -> dict[str, MetricSummary]:
        """Federated evaluation, over other nodes where `engine` is given.

        Raises:
            InputError: if nothing is held out.
        """
        nodes = engine or self.engine
        coordinator = Coordinator(self.model, self.data.catalog, nodes, Run(self.plan, None), nodes.has_valid)
        found = coordinator.evaluate(self.trained.state, self.trained.round, part, metrics, protocol)
        if not found:
            raise InputError(f"the split {self.plan.split!r} leaves nothing in {part!r} to evaluate on")
        return found

    def save(self, folder: Path) -> None:
        """Save as a run: `plan.yaml`, `model/`, and `private/`, which stays with the owner of the data.

        Raises:
            RunError: if the folder is not empty.
        """
        plan = self._own_plan()
        run = Run.create(plan, folder)
        try:
            (folder / "private").mkdir()
            replace_table(folder / _HISTORY, self._history())
            catalog = self.data.catalog
            loaded = load_plan_data(plan.data, folder, catalog)
            data, plan = loaded.interactions, plan.resolve(loaded.interactions, public_digest(plan, loaded, folder))
            replace_file(folder / "plan.yaml", plan.to_yaml().encode())
            save_shared(folder / "model", self.model, self.trained.state, self.trained.round, catalog, plan)
            assert data.part is not None
            node = LocalEngine.of_split(Split(data, data.part, "given"), plan, folder / "private").nodes[0]
            rows = self._rows_of(data)
            if rows is not None:
                node.adopt(rows, self.trained.round)
            run.seal()
        except (FedrecError, OSError, MemoryError):
            run.discard()
            raise
        finally:
            run.close()

    def is_saved_in(self, folder: Path) -> bool:
        """Whether `folder` is what `save` makes of this, whole: plan, model, interactions and private rows."""
        try:
            check_files(folder, read_files(folder)[0])
            there = open_run(folder)
            plan = self._own_plan().resolve(there.data, there.plan.data.digest or "")
            history = pl.read_parquet(folder / _HISTORY)
        except (FedrecError, OSError):
            return False
        return (
            (plan, self.trained.round) == (there.plan, there.trained.round)
            and arrays_digest(self.trained.state.shared) == arrays_digest(there.trained.state.shared)
            and self._history().equals(history)
            and arrays_digest(self._rows_of(there.data) or {}) == arrays_digest(there.private() or {})
        )

    def _own_plan(self) -> Plan:
        """The plan with which this is saved, not yet resolved: of its own interactions, as they were split."""
        source = {"source": _HISTORY}
        return Plan.make(self.plan.model_dump() | {"data": source, "split": "given", "refit": False, "catalog": None})

    def _history(self) -> pl.DataFrame:
        """All interactions with their parts, by user."""
        parts = [replace(node.data, part=node.split.part).to_frame() for node in self.engine.nodes]
        return pl.concat(parts).sort("user_id", maintain_order=True)

    def _rows_of(self, data: Interactions) -> Private | None:
        """Private rows in the order of the users of `data`, who are the same."""
        rows = self.private()
        places = self.data.users.find(data.users.series)
        return None if rows is None else {name: array[places] for name, array in rows.items()}


def open_run(folder: Path, named: str | None = None) -> OpenedRun:
    """Open a finished run, with the data that its plan names.

    Args:
        folder: the run.
        named: its source, where that is a database server: a run of somebody else could name any.

    Raises:
        UnnamedSourceError: if the source is a database server and is not named.
        RunError: if it is not a finished run.
        DamagedError: if files were changed.
        PlanError: if the data is not the one it was trained on.
    """
    folder = folder.resolve() if folder.is_symlink() else folder  # it may point elsewhere before all is read
    check_plain(folder, "private")  # where secrets and journals are written
    plan = read_plan(folder)
    model, state, round, catalog = load_shared(folder / "model", plan)
    if (folder / FEDERATED).exists():
        raise RunError(
            f"{folder} was trained over the nodes of a federation, and their users are with them: each node has the "
            "finished run in models/latest of its home, and 'fedrec recommend' and the like open that"
        )
    source = load_plan_data(plan.data, folder, catalog, named)
    data = source.interactions
    if data.catalog.digest != catalog.digest:
        raise DamagedError(f"{folder}: the catalog of the model is not the catalog of the data")
    plan = plan.resolve(data, public_digest(plan, source, folder))
    placement = read_placement(folder, Placement())
    engine = placement.engine.build(data, plan, placement.nodes, placement.partition, folder / "private")
    state = State(state.shared, server_arrays(folder, round, state.shared, Fitting(plan, catalog)))
    return OpenedRun(plan, model, Trained(state, round, round + 1), engine, data)
