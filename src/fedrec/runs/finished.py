"""A trained model with its nodes in this process: just fitted, or opened again from a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fedrec.data.catalog import Catalog
from fedrec.data.digests import digest_of
from fedrec.data.interactions import Interactions, offsets, rows_of
from fedrec.data.keys import KeyedSource
from fedrec.models.private_state import blank, placed
from fedrec.data.splits import HISTORY, TRAIN, Split, SplitMethod, distinct, given, unsplit
from fedrec.runs.kept import KEPT, Kept
from fedrec.runs.loading import Placement, load_again, public_digest, read_placement
from fedrec.engines.local import LocalEngine
from fedrec.errors import DamagedError, FedrecError, InputError, RunError
from fedrec.evaluation.metrics import MetricSummary
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import Part
from fedrec.federation.checkpoints import server_arrays
from fedrec.federation.coordinator import Coordinator, Trained
from fedrec.federation.fitting import Fitting
from fedrec.federation.item_floor import SERVED
from fedrec.node.founding import refitted
from fedrec.node.shard import Shard
from fedrec.federation.plan import Plan
from fedrec.federation.model_folder import load_shared, save_shared
from fedrec.federation.run import Run, read_plan
from fedrec.federation.warm_start import Earlier, Remembered
from fedrec.kernels.splitting import count_shared
from fedrec.models.base import Arrays, Given, Private, Recommender, State
from fedrec.models.outline import keeps_rows
from fedrec.record.durable import arrays_digest, check_plain, replace_file, replace_table
from fedrec.record.files import check_files, read_files

__all__ = ["FEDERATED", "Home", "OpenedRun", "home_of", "open_model", "open_run"]

FEDERATED = "private/federation.json"
"""In the folder of a run over a federation: which one, and the number under which its nodes know the run."""


@dataclass(frozen=True, eq=False)
class Home:
    """Where the users of a model are.

    Args:
        engine: the nodes, with their data and private rows.
        data: all their users.
    """

    engine: LocalEngine
    data: Interactions


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A trained model, and nodes with their data and private rows, which are not read before they are asked for.

    Args:
        agreement: the plan, with its model and catalog.
        trained: what was trained.
        home: finds the nodes, once.
        origin: the same run with the users that it was trained on, where these have other histories.
    """

    agreement: Agreement
    trained: Trained
    home: Callable[[], Home]
    origin: OpenedRun | None = None

    @classmethod
    def here(cls, agreement: Agreement, trained: Trained, engine: LocalEngine, data: Interactions) -> OpenedRun:
        """A model whose nodes are in this process already."""
        return cls(agreement, trained, lambda: Home(engine, data))

    @property
    def plan(self) -> Plan:
        """The plan of the run."""
        return self.agreement.plan

    @property
    def model(self) -> Recommender:
        """The model of the plan."""
        return self.agreement.model

    @property
    def catalog(self) -> Catalog:
        """The items of the model."""
        return self.agreement.catalog

    def __repr__(self) -> str:
        return f"OpenedRun({self.model!r}, rounds={self.trained.rounds}, {len(self.catalog):,} items)"

    @cached_property
    def _home(self) -> Home:
        return self.home()

    @property
    def engine(self) -> LocalEngine:
        """The nodes.

        Raises:
            FedrecError: if the data of the run is not to be had.
        """
        return self._home.engine

    @property
    def data(self) -> Interactions:
        """All users of the nodes.

        Raises:
            FedrecError: if the data of the run is not to be had.
        """
        return self._home.data

    @cached_property
    def measured(self) -> LocalEngine:
        """Nodes whose users' histories are split as the plan says.

        Raises:
            PlanError: if other histories cannot be split so.
        """
        if self.origin is None:
            return self.engine
        split = self.agreement.divided(self.data)
        return self.origin.with_split(refitted(split) if self.plan.refit else split)

    def with_histories(self, data: Interactions) -> OpenedRun:
        """The same model with other histories of users, of the same catalog: users trained on keep their private rows,
        all others are folded in."""
        origin = self.origin or self
        return replace(self, home=lambda: Home(origin.with_split(unsplit(data)), data), origin=origin)

    def private(self) -> Private | None:
        """Private rows of all users, in the order of `data.users`; `None` for a model without."""
        rows: dict[str, Any] = {}
        for shard in self.engine.shards:
            places = self.data.users.find(shard.data.users.series)
            for name, array in (shard.private() or {}).items():
                rows[name] = placed(rows.get(name, blank(array, self.data.n_users)), places, array)
        return rows or None

    def training(self) -> Interactions:
        """What all users were trained on, in the order of `data.users`."""
        parts = [shard.split.train for shard in self.engine.shards]
        if len(parts) == 1:
            return parts[0]
        places = np.concatenate([self.data.users.find(part.users.series) for part in parts])
        lengths = np.concatenate([part.lengths for part in parts])
        order = np.argsort(places)
        indptr = np.zeros(self.data.n_users + 1, dtype=np.int64)
        indptr[places + 1] = lengths
        bounds = offsets(lengths)
        rows = rows_of(bounds, order)
        items = np.concatenate([part.items for part in parts])[rows]
        values = np.concatenate([part.values for part in parts])[rows] if self.data.values is not None else None
        return Interactions(self.data.users, self.data.catalog, np.cumsum(indptr), items, values)

    def as_earlier(self, name: str) -> tuple[Earlier, Remembered]:
        """What a training that goes on from this one needs: the coordinator's part, and the nodes'."""
        plan, base = self.plan, self.origin or self
        sent = (plan.release, plan.seed, plan.weights, plan.leaky)
        state = State(self.trained.state.shared, dict(self.trained.state.server))
        earlier = Earlier(name, self.model, self.catalog, state, *sent)
        return earlier, Remembered(base.training(), base.private())

    def with_split(self, split: Split) -> LocalEngine:
        """Nodes with other interactions: users trained on keep their private rows; all others are folded in when they
        are scored, from what is known before the part that is measured."""
        plan = self.plan.model_copy(update={"refit": False})
        if not keeps_rows(self.model):  # nothing is kept of anybody, so it matters to nobody who was there
            return LocalEngine.of_split(split, plan)
        places = self.data.users.find(split.data.users.series)
        trained = np.append(self._trained_users(), False)[places]
        part = split.part.copy()
        part[(part == TRAIN) & ~trained[split.data.rows_of_users()]] = HISTORY
        engine = LocalEngine.of_split(replace(split, part=part), plan)
        private = self.private()
        if private is not None:
            known = np.flatnonzero(trained)
            rows = {
                name: placed(blank(array, len(places)), known, array[places[known]]) for name, array in private.items()
            }
            engine.shards[0].adopt(rows, self.trained.round, trained)
        return engine

    def _trained_users(self) -> np.ndarray:
        """Which users [users] bool took part in the training."""
        trained = np.zeros(self.data.n_users, dtype=np.bool_)
        for shard in self.engine.shards:
            trained[self.data.users.find(shard.data.users.series)[shard.active]] = True
        return trained

    def trained_on(self, held_out: Interactions) -> int:
        """How many of these interactions training was handed."""
        shared = 0
        for shard in (self.origin or self).engine.shards:
            places = shard.data.users.find(held_out.users.series)
            there = np.flatnonzero(places >= 0)
            known, wanted = shard.clients.take(places[there]), held_out.take_users(there)
            shared += count_shared(known.indptr, known.items, wanted.indptr, wanted.items, len(self.catalog))
        return shared

    def warning_of(self, engine: LocalEngine, part: Part) -> str:
        """Why figures over other nodes than the run's own may say less than they seem to; empty where nothing does."""
        try:
            known = sum(self.trained_on(shard.split.relevant(part)) for shard in engine.shards)
        except InputError as error:
            return f"whether the model was trained on the held-out interactions cannot be told: {error}"
        if not known:
            return ""
        return (
            f"the model was trained on {known} of the held-out interactions, so these figures say nothing about the "
            "future"
        )

    def with_visitors(self, visitors: Interactions) -> Shard:
        """A shard of users to be folded in from their history alone, whatever their ids; repeats are merged."""
        each, merged = distinct(visitors)
        part = np.full(len(each), HISTORY, dtype=np.int8)
        split = Split(each, part, "history", merged, visitors if merged else None)
        return LocalEngine.of_split(split, self.plan.model_copy(update={"refit": False})).shards[0]

    def similarity(self, items: np.ndarray) -> np.ndarray:
        """How near the items at `items` [n] are to every item: [n, items] float32, −inf for those that take no part.

        Raises:
            InputError: if the model knows no such thing.
        """
        shared = self.trained.state.shared
        scores = self.model.similarity(Given.to_score(shared, self.agreement.public), items)
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
        """Federated evaluation, of the nodes' own users, or over other nodes where `engine` is given.

        Raises:
            InputError: if nothing is held out.
        """
        nodes = engine or self.measured
        coordinator = Coordinator(self.agreement, nodes, Run(self.plan, None), nodes.has_valid)
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
            replace_table(folder / KEPT, self._history())
            catalog = self.catalog
            kept = Kept.read(folder, plan, catalog)
            assert kept is not None
            data, plan = kept.data, plan.resolve(kept.data, public_digest(plan, digest_of(kept.data), folder))
            replace_file(folder / "plan.yaml", plan.to_yaml().encode())
            save_shared(folder / "model", Agreement.of(plan, catalog), self.trained.state, self.trained.round)
            assert data.part is not None
            (shard,) = LocalEngine.of_split(given(data), plan, folder / "private").shards
            rows = self._rows_of(data)
            if rows is not None:
                shard.adopt(rows, self.trained.round)
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
            history = pl.read_parquet(folder / KEPT)
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
        positions = self.engine.shards[0].split.positions
        anew: dict[str, Any] = {"data": {"source": KEPT}, "catalog": None, "features": None}
        anew |= {"split": f"last:{positions}"} if positions else {"split": "given", "refit": False}
        return Plan.make(self.plan.model_dump() | anew)

    def _history(self) -> pl.DataFrame:
        """All interactions with their parts, by user."""
        parts = [shard.split.with_parts().to_frame() for shard in self.engine.shards]
        return pl.concat(parts).sort("user_id", maintain_order=True)

    def _rows_of(self, data: Interactions) -> Private | None:
        """Private rows in the order of the users of `data`, who are the same."""
        rows = self.private()
        places = self.data.users.find(data.users.series)
        return None if rows is None else {name: array[places] for name, array in rows.items()}


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
