"""A shard: rows and private rows of some of a node's users, and all that is computed from them.

What a shard gives is not yet fit to leave the node: floors, budget, noise and receipts are the node's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from fedrec.aggregation.queries import Query
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.data.interactions import Interactions, offsets, rows_of
from fedrec.data.keys import KeyedSource, client_keys
from fedrec.data.ratings import check_ratings
from fedrec.data.reading.catalogs import with_user_features
from fedrec.data.splits import HISTORY, TRAIN, Split
from fedrec.data.weights import Weights
from fedrec.errors import FedrecError, InputError
from fedrec.evaluation.errors import error_sums
from fedrec.evaluation.ranks import ItemLists, UserMetrics, user_metrics
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import EvaluationCall, Part, RoundCall
from fedrec.federation.grouping import grouping_column
from fedrec.federation.item_floor import SERVED, count_chunk, only_served
from fedrec.federation.measuring import PerUser, add_lists, measuring_spec
from fedrec.federation.trials import divided
from fedrec.federation.warm_start import Changed, Remembered, first_rows
from fedrec.models.base import Arrays, Given, Private, Recommender
from fedrec.models.private_state import finite_clients, joined, placed
from fedrec.models.traits import Cost
from fedrec.models.values import rating_scale
from fedrec.node.private_rows import PrivateRows, RowShapes
from fedrec.privacy.guard import clipped
from fedrec.progress import followed

__all__ = ["Shard", "rows_read"]

_CHUNK_FLOATS = 1 << 23
_SCORE_FLOATS = 1 << 21


class Shard:
    """Some of a node's users. Positions of users are those within the shard.

    Args:
        node: name of the node, for messages.
        split: the users' interactions and their parts; training code is handed the training part only.
        agreement: the plan, with its model and catalog.
        source: the node's secret.
        folder: where private rows are kept; `None` for in memory only.
    """

    def __init__(
        self, node: str, split: Split, agreement: Agreement, source: KeyedSource, folder: Path | None = None
    ) -> None:
        self.node = node
        self.split = split
        self.agreement = agreement
        self.model, self.release, self.weights = agreement.model, agreement.release, agreement.plan.weights
        self.source = source
        self.folder = folder
        self.keys = client_keys(source, split.data.users)
        agreement.check_order(split.data)
        self._seen = seen = _as_read(split, self.model, self.weights)
        held_out = seen.data.where((seen.part != TRAIN) & (seen.part != HISTORY)) if agreement.plan.leaky else None
        self.clients = Clients.of(seen.repeated(seen.train), self.keys, held_out)
        self.met = self.clients.lengths > 0
        self.active = np.flatnonzero(self.met)
        self._cost = self.model.cost(split.data.n_items)
        self._shapes = RowShapes(self.model.shapes(split.data.n_items).rows, len(self.clients), split.data.n_items)
        self._private = None if folder is None else PrivateRows.open(folder, self._shapes)
        self._changed: list[tuple[np.ndarray, Private]] = []
        self._before: Remembered | None = None
        self._scored: _Scored | None = None

    def __len__(self) -> int:
        """Number of users."""
        return len(self.keys)

    @property
    def data(self) -> Interactions:
        """All interactions of the users."""
        return self.split.data

    def weighed(self) -> dict[str, int]:
        """How many weights of interactions were cut to the largest, and how many are 0."""
        data = self._seen.data
        if self.weights is None or data.values is None:
            return {"cut": 0, "nothing": 0}
        return {"cut": self.weights.cut(self.split.data), "nothing": int(np.sum(data.values == 0))}

    @property
    def known(self) -> Interactions:
        """All interactions of the users as the model reads them."""
        return self._seen.repeated(self._seen.data)

    def item_counts(self) -> np.ndarray:
        """How many clients have each item [items] int64."""
        counts: np.ndarray = np.bincount(self.clients.items, minlength=self.data.n_items)
        return counts

    def contribute(
        self, call: RoundCall, positions: np.ndarray, served: np.ndarray | None, queries: tuple[Query, ...]
    ) -> Sum:
        """The sum of some clients for a round. What changes of their private rows waits for `journal`.

        Args:
            call: what is asked.
            positions: of the clients that are drawn, ascending.
            served: which items take part [items] bool; `None` for all.
            queries: of a private run: how contributions are clipped; empty otherwise.

        Raises:
            FedrecError: naming node, round and step, if the model fails.
        """
        rng = self.source.child("contribute", call.round)
        given = Given(call.round, call.shared, self.agreement.public, rng)
        private = self._settled(call.shared, call.committed, anew=True)
        total = Sum.zeros(call.spec, call.round)
        self._changed = []
        lengths = self.clients.lengths[positions]
        together = call.spec.pooled and len(positions) > 0
        chunks = [np.arange(len(positions))] if together else _chunks(lengths, self._cost)
        for chosen in followed(chunks, len(positions)):
            some = positions[chosen]
            clients = self.release.before(only_served(self._take(some), served), rng)
            rows = None if private is None else private.take(some)
            try:
                contributions, updated = self.model.contribute(given, clients, rows)
                contributions = clipped(self.release.after(contributions, clients), queries, call.spec)
                sound = None if updated is None else finite_clients(updated, len(some))
                kept = total.add(contributions, sound)
            except (ValueError, IndexError, KeyError, ArithmeticError, AssertionError) as error:
                raise FedrecError(
                    f"node {self.node}, round {call.round}, step contribute of {self.model.name}: {error!r}"
                ) from error
            if updated is not None:
                self._changed.append((some[kept], {name: array[kept] for name, array in updated.items()}))
        return total

    def journal(self, round: int) -> None:
        """Write down what `contribute` changed of private rows; it counts once the round is committed."""
        changed, self._changed = self._changed, []
        if self._private is not None and changed:
            positions = np.concatenate([part for part, _ in changed])
            names = changed[0][1]
            self._private.stage(round, positions, {n: joined([rows[n] for _, rows in changed]) for n in names})

    def contribute_change(self, call: RoundCall) -> Sum:
        """The sum of changed histories, less the sum of what they were; users that are gone are taken out."""
        if self._before is None:
            raise FedrecError(f"node {self.node}, round {call.round}: it remembers no earlier run to sum the change of")
        rng = self.source.child("contribute", call.round)
        given = Given(call.round, call.shared, self.agreement.public, rng)
        both = Changed.of(self._before.train.catalog, self.data.catalog)
        keys = client_keys(self.source, self._before.train.users)
        now, former = both.clients(self._before, self.clients, self.data.users, keys)
        total, taken_out = Sum.zeros(call.spec, call.round), Sum.zeros(call.spec, call.round)
        for clients, out in ((now, total), (former, taken_out)):
            for positions in followed(_chunks(clients.lengths, self._cost), len(clients)):
                chosen = self.release.before(clients.take(positions), rng)
                contributions, _ = self.model.contribute(given, chosen, None)
                out.add(self.release.after(contributions, chosen))
        for name, array in total.arrays.items():
            array -= taken_out.arrays[name]
        total.clients = len(np.union1d(now.keys, former.keys))
        return total

    def count_items(self, spec: SumSpec) -> Sum:
        """How many clients have each item, without noise."""
        total = Sum.zeros(spec)
        for chosen in followed(_chunks(self.clients.lengths[self.active], self._cost), len(self.active)):
            total.add(count_chunk(self.clients.take(self.active[chosen])))
        return total

    def evaluate(self, call: EvaluationCall) -> Sum:
        """Metrics of the users as a sum."""
        places = None
        if (groups := call.groups) is not None:
            column = grouping_column(self.data, groups.column, self.split.history(call.part))
            places = groups.places(column)
        total = Sum.zeros(
            measuring_spec(call.metrics, self.data.n_items, call.n_max, self.split.positions, call.groups)
        )
        self.per_user(call, total).add_to(total, places)
        return total

    def per_user(self, call: EvaluationCall, total: Sum | None = None) -> PerUser:
        """Metrics of each user, which may not leave the node; lists are added to `total`."""
        gathered = PerUser(len(self), call.metrics)
        for history, relevant in self._steps(call.part):
            for positions, result, errors in self._compared(call, history, relevant):
                gathered.add(positions, result, errors)
                if total is not None:
                    add_lists(total, result)
        return gathered

    def _steps(self, part: Part) -> Iterator[tuple[Interactions, Interactions]]:
        """What is known and what is to be found: once, or for each position of users of whom several are measured."""
        if not self.split.positions:
            yield self._histories(part), self._held_out(part)
            return
        steps = self._seen.steps(part, self._examples())
        for history, found in followed(steps, self.split.positions, lambda _: 1.0):
            yield self._seen.repeated(history), self.split.data.where(found)

    def describe(self, features: pl.DataFrame) -> None:
        """Take over a table with `user_id` and columns by which users are grouped when they are measured."""
        self.split = replace(self.split, data=with_user_features(self.split.data, features))

    def _compared(
        self, call: EvaluationCall, history: Interactions, relevant: Interactions
    ) -> Iterator[tuple[np.ndarray, UserMetrics, np.ndarray | None]]:
        """As `_measured`; in a trial, by how much the metrics of one model are above those of the other."""
        if not call.trial:
            yield from self._measured(call, history, relevant)
            return
        first, other = (replace(call, shared=shared) for shared in divided(call.shared))
        for (positions, result, errors), (_, less, _) in zip(
            self._measured(first, history, relevant), self._measured(other, history, relevant), strict=True
        ):
            yield positions, replace(result, values=result.values - less.values), errors

    def _measured(
        self, call: EvaluationCall, history: Interactions, relevant: Interactions
    ) -> Iterator[tuple[np.ndarray, UserMetrics, np.ndarray | None]]:
        """Metrics of the users who have something to be found, and errors [users, 8] of their ratings where these are
        measured, chunk by chunk, with the positions of the users."""
        scale = rating_scale(self.model) if any(metric.of_ratings for metric in call.metrics) else None
        barred = None
        if self.split.drawn is not None or call.protocol.cold or call.protocol.known:
            barred = self.split.no_candidates(call.part, call.protocol.cold)
            unasked = barred | self.split.cold(call.part) if call.protocol.known else barred
            relevant = relevant.where(~unasked[relevant.items])
        if relevant.values is None and len(relevant) and any(metric.graded for metric in call.metrics):
            raise InputError("graded relevance is read from ratings, and the data has none; take ndcg instead")
        vectors = self.agreement.item_vectors if any(metric.of_items for metric in call.metrics) else None
        for positions, clients, scores in self._scores(
            call.shared, call.committed, history, np.flatnonzero(relevant.lengths > 0)
        ):
            if not call.protocol.of_all_users:
                chosen = np.flatnonzero(call.protocol.measures(_known(clients, scores)))
                if not len(chosen):
                    continue
                positions, clients, scores = positions[chosen], clients.take(chosen), scores[chosen]
            history_lists = (clients.indptr, clients.items)
            wanted, touched = (_lists_of(data, positions) for data in (relevant, self._seen.data))
            values = None if relevant.values is None else relevant.values[rows_of(relevant.indptr, positions)]
            errors = None
            if scale is not None and values is not None:
                errors = error_sums(scores, wanted, values, scale)
            self._mask(call.shared, scores)
            if barred is not None:
                scores[:, barred] = -np.inf
            result = user_metrics(scores, history_lists, wanted, touched, call.metrics, call.protocol, values, vectors)
            if SERVED in call.shared and result.top_counts is not None:
                # Nothing lists an item that takes no part, so no figure needs how many histories hold it.
                result.top_counts[:, ~call.shared[SERVED]] = 0
            yield positions, result, errors

    def holding(self, part: Part) -> int:
        """How many users hold out something of a part."""
        return int((self.split.relevant(part).lengths > 0).sum())

    def _histories(self, part: Part) -> Interactions:
        """What the model reads of each user when a part is predicted."""
        return self._seen.repeated(self._seen.history(part))

    def everyone(self) -> Clients:
        """All users with all that is known of them."""
        return Clients.of(self.known, self.keys)

    def scores(
        self, shared: Arrays, committed: int, history: Interactions, positions: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Clients, np.ndarray]]:
        """Scores of some users from their history, chunk by chunk: positions, clients, [clients, items] float32.

        Users that never trained are folded in from their history. Items that take no part have −inf.
        """
        for chosen, clients, scores in self._scores(shared, committed, history, positions):
            self._mask(shared, scores)
            yield chosen, clients, scores

    def predictions(
        self, shared: Arrays, committed: int, positions: np.ndarray, public: Arrays | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Predicted ratings of some users, not cut to the scale, chunk by chunk: positions, [clients, items] float32.

        Ratings that are held out for test are not read. With `public` and shared arrays of a larger catalog there are
        as many items as these have.
        """
        for chosen, _, scores in self._scores(shared, committed, self._histories("test"), positions, public):
            yield chosen, scores

    def _mask(self, shared: Arrays, scores: np.ndarray) -> None:
        """Give items that take no part no score."""
        if SERVED in shared:
            scores[:, ~shared[SERVED]] = -np.inf

    def _scores(
        self,
        shared: Arrays,
        committed: int,
        history: Interactions,
        positions: np.ndarray,
        public: Arrays | None = None,
    ) -> Iterator[tuple[np.ndarray, Clients, np.ndarray]]:
        """As `scores`, with the scores that the model gives to items that take no part."""
        private = self._settled(shared, committed)
        if private is not None and committed < 0 and (first := self._first_rows(shared)) is not None:
            private = PrivateRows(dict(first), self._shapes)
        everyone = Clients.of(history, self.keys)
        given = Given.to_score(shared, self.agreement.public if public is None else public)
        size = max(1, _SCORE_FLOATS // max(self.data.n_items, 1))
        for start in followed(range(0, len(positions), size)):
            chosen = positions[start : start + size]
            clients = everyone.take(chosen)
            kept = self._scored
            if kept is None or not kept.serves(shared, committed, chosen):
                scores = self.model.score(given, clients, self._rows(given, private, clients, chosen))
                same = not self.model.traits.scores_history and bool(self.met[chosen].all())
                kept = _Scored(shared, committed, chosen, scores)
                self._scored = kept if same else None
            yield chosen, clients, kept.scores

    def keep(self, shared: Arrays, committed: int) -> None:
        """Remember the private rows of the best round so far."""
        private = self._settled(shared, committed)
        if private is not None:
            private.keep()

    def finish(self, shared: Arrays, committed: int, kept: int) -> None:
        """End with the private rows of round `kept`; may be called again after a crash."""
        self._scored = None
        if self._private is None or self._private.applied != kept:
            self._settled(shared, committed)
        if self._private is not None:
            self._private.finish(kept)

    def private(self) -> Private | None:
        """The private rows as they are, one per user."""
        return None if self._private is None else self._private.arrays

    def adopt(self, private: Private, committed: int, met: np.ndarray | None = None) -> None:
        """Take over private rows from elsewhere, one per user, as of round `committed`.

        Args:
            private: the rows.
            committed: their round.
            met: whose rows training made [users] bool; the others are folded in. By default, whoever has a part that is
                trained on.
        """
        self._scored = None
        self.met = self.met if met is None else met
        self._private = PrivateRows.create(private, self._shapes, self.folder, committed)

    def remember(self, before: Remembered) -> None:
        """Take over what an earlier run left of these users: private rows of known users, and what was summed of them.

        Raises:
            PlanError: if the split holds out what was trained on.
        """
        before.check_future(self.split)
        self._before = replace(before, train=_values_read(before.train, self.model, self.weights))

    def _held_out(self, part: Part) -> Interactions:
        """What a part holds out, with its values as they are; not what weighs nothing, which is no example."""
        held_out, read = self.split.relevant(part), self._seen.relevant(part)
        return held_out if self.weights is None or read.values is None else held_out.where(read.values > 0)

    def _examples(self) -> np.ndarray | None:
        """Which interactions are examples [interactions] bool, as those that weigh nothing are not; `None` for all."""
        values = self._seen.data.values
        return None if self.weights is None or values is None else values > 0

    def fingerprint(self) -> int:
        """The users' share of the split's hash."""
        return self.split.hash(self.keys)

    def _rows(self, given: Given, private: PrivateRows | None, clients: Clients, chosen: np.ndarray) -> Private | None:
        if private is None:
            return None
        rows = private.take(chosen)
        strangers = np.flatnonzero(~self.met[chosen])
        if len(strangers):
            folded = self.model.fold_in(given, clients.take(strangers))
            for name, array in (folded or {}).items():
                rows[name] = placed(rows[name], strangers, array)
        return rows

    def _settled(self, shared: Arrays, committed: int, anew: bool = False) -> PrivateRows | None:
        """Private rows as of round `committed`; `anew` when what was computed of later ones counts no more.

        Rows that no round has changed follow from the arrays of the very call: not from those of an earlier one, which
        other nodes may not have been shown.
        """
        rows = self._private
        if rows is None or (anew and committed == rows.applied == -1):
            first = self._first_rows(shared)
            if first is None:
                return None
            if rows is None:
                rows = self._private = PrivateRows.create(first, self._shapes, self.folder)
            else:
                rows.begin_anew(first)
        rows.settle(committed, anew)
        return rows

    def _first_rows(self, shared: Arrays) -> Private | None:
        """Private rows before the first round that counts."""
        given = Given(-1, shared, self.agreement.public, self.source.child("join"))
        first = self.model.join(given, self.clients)
        if first is None or self._before is None:
            return first
        return first_rows(first, self.data.users, self.data.catalog, self._before)

    def _take(self, positions: np.ndarray) -> Clients:
        return self.clients if len(positions) == len(self.clients) else self.clients.take(positions)


def _as_read(split: Split, model: Recommender, weights: Weights | None) -> Split:
    """The split as the model reads it: without what it does not read, with weights instead of values, if any, or with
    ratings.

    Interactions for training that weigh nothing become history: nothing is learned from them, and they are not
    recommended.
    """
    data, part = rows_read(split.data, model, weights), split.part
    if weights is not None and data.values is not None and (nothing := (data.values == 0) & (part == TRAIN)).any():
        part = np.where(nothing, np.int8(HISTORY), part)
    every = split.every if "repeats" in model.traits.reads else None
    return replace(split, data=data, part=part, every=None if every is None else rows_read(every, model, weights))


def rows_read(data: Interactions, model: Recommender, weights: Weights | None) -> Interactions:
    """Interactions with what the model reads of them: times, values, features of users."""
    if "times" not in model.traits.reads:
        data = data.without_times()
    if "user_features" not in model.traits.reads:
        data = data.without_user_features()
    return _values_read(data, model, weights)


def _values_read(data: Interactions, model: Recommender, weights: Weights | None) -> Interactions:
    """Interactions with the values that the model reads: weights, ratings, or none."""
    if (scale := rating_scale(model)) is not None:
        check_ratings(data, *scale, model.name)
        return data
    return data.without_values() if weights is None else weights.weighed(data)


@dataclass(frozen=True, eq=False)
class _Scored:
    """The last scores of a model that reads no history: validation and test rank the same ones."""

    shared: Arrays
    committed: int
    positions: np.ndarray
    scores: np.ndarray

    def serves(self, shared: Arrays, committed: int, positions: np.ndarray) -> bool:
        """Whether they are those of the same users under the same model."""
        same = self.shared is shared and self.committed == committed
        return same and np.array_equal(self.positions, positions)


def _lists_of(data: Interactions, positions: np.ndarray) -> ItemLists:
    """The items of some users, one list after the other."""
    return offsets(data.lengths[positions]), data.items[rows_of(data.indptr, positions)]


def _chunks(lengths: np.ndarray, cost: Cost) -> Iterator[np.ndarray]:
    """Positions of clients with so many interactions, in groups whose contributions fit in memory together."""
    floats = np.cumsum(lengths * cost.per_interaction + cost.per_client)
    start = 0
    while start < len(lengths):
        before = floats[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(floats, before + _CHUNK_FLOATS, side="right")))
        yield np.arange(start, stop)
        start = stop


def _known(clients: Clients, scores: np.ndarray) -> np.ndarray:
    """How many of a client's items have a score [clients] int64: those that the model recommends to others."""
    owners = np.repeat(np.arange(len(clients)), clients.lengths)
    return np.bincount(owners, weights=scores[owners, clients.items] > -np.inf, minlength=len(clients)).astype(np.int64)
