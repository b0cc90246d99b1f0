"""A trained model with its nodes in this process: just fitted, or opened again from a run (`fedrec.runs.saved`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from fedrec.data.catalog import Catalog
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions, offsets, rows_of
from fedrec.data.splits import HISTORY, TRAIN, Split, distinct, unsplit
from fedrec.engines.local import LocalEngine
from fedrec.errors import InputError
from fedrec.evaluation.groups import Groups, check_grouped
from fedrec.evaluation.metrics import MetricSummary, parse_metrics
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import Part
from fedrec.federation.coordinator import Coordinator, Trained
from fedrec.federation.grouping import grouping_column
from fedrec.federation.item_floor import SERVED
from fedrec.federation.measuring import Measured
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.federation.warm_start import Earlier, Remembered
from fedrec.kernels.splitting import count_shared
from fedrec.models.base import Given, Private, Recommender, State
from fedrec.models.outline import keeps_rows
from fedrec.models.private_state import blank, placed
from fedrec.node.founding import refitted
from fedrec.node.shard import Shard

__all__ = ["Home", "OpenedRun"]


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
        repeats = "repeats" in self.model.traits.reads
        splits = [shard.split for shard in self.engine.shards]
        parts = [split.repeated(split.train) if repeats else split.train for split in splits]
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
        times = np.concatenate([part.times for part in parts])[rows] if self.data.times is not None else None
        return Interactions(self.data.users, self.data.catalog, np.cumsum(indptr), items, values, times)

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

    def describe_users(self, features: pl.DataFrame, engine: LocalEngine | None = None) -> int:
        """Take over a table with `user_id` and columns by which users are grouped when they are measured.

        Args:
            features: one row per user.
            engine: of the users, where it is not the run's own.

        Returns:
            How many users the table says nothing of.

        Raises:
            InputError: if it lacks an id, lists a user twice, or says nothing of any user.
        """
        nodes = engine or self.measured
        if "user_id" not in features.columns or features["user_id"].null_count():
            raise InputError("the table of users needs a column user_id, with an id in every row")
        ids = features["user_id"]
        if ids.n_unique() < len(ids):
            raise InputError(
                f"the table of users lists user {ids.filter(ids.is_duplicated())[0]!r} twice; list each once"
            )
        users = Identifiers.of(ids)
        missing = sum(int((users.look_up(shard.data.users.series) < 0).sum()) for shard in nodes.shards)
        if missing == sum(map(len, nodes.shards)):
            raise InputError(f"the table of users says nothing of any user of the run; its first id is {ids[0]!r}")
        for shard in nodes.shards:
            shard.describe(features)
        return missing

    def groups_by(
        self, column: str, part: Part, labels: Sequence[str] | None = None, engine: LocalEngine | None = None
    ) -> Groups:
        """The groups of users by a column, named by `labels` or as the column of all nodes shows them.

        Raises:
            InputError: if users cannot be grouped so.
        """
        shards = (engine or self.measured).shards
        values = [grouping_column(shard.data, column, shard.split.history(part)) for shard in shards]
        groups = Groups.of_values(column, pl.concat(values)) if labels is None else Groups(column, tuple(labels))
        groups.places(pl.concat(values))
        return groups

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
        return self.measure_groups(metrics, protocol, part, engine).everyone

    def measure_groups(
        self,
        metrics: Sequence[str],
        protocol: str,
        part: Part = "test",
        engine: LocalEngine | None = None,
        groups: Groups | None = None,
    ) -> Measured:
        """As `measure`, of groups of users too.

        Raises:
            InputError: if nothing is held out, or no metric has figures of groups.
        """
        if groups is not None:
            check_grouped(parse_metrics(metrics), groups.column)
        nodes = engine or self.measured
        coordinator = Coordinator(self.agreement, nodes, Run(self.plan, None), nodes.has_valid)
        found = coordinator.measure(self.trained.state, self.trained.round, part, metrics, protocol, groups)
        if not found.everyone:
            raise InputError(f"the split {self.plan.split!r} leaves nothing in {part!r} to evaluate on")
        return found
