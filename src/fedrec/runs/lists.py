"""Lists of items for the users of a trained model, or for visitors with a history of their own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fedrec.data.arguments import check_arguments
from fedrec.data.clients import Clients
from fedrec.data.identifiers import Identifiers, typed_ids
from fedrec.data.listing import listed_ids
from fedrec.errors import InputError
from fedrec.node.shard import Shard
from fedrec.progress import followed
from fedrec.recommending.recommend import allowed_items, list_length, recommend_batches
from fedrec.recommending.reranking import Rerank, Reranker
from fedrec.recommending.tables import recommendation_schema
from fedrec.runs.finished import OpenedRun
from fedrec.runs.visitors import Unknown, Visitors, check_unknown, some_of

__all__ = ["Lists"]


@dataclass(frozen=True, eq=False)
class Lists:
    """Who gets which items.

    Args:
        opened: the model.
        shards: where the users are.
        positions: of the wanted users at each node.
        schema: of the tables.
        wanted: ids in the order of the answer; `None` for everybody.
        n: length of a list.
        include_seen: whether items the user already has may appear.
        allowed: mask [items] of items that may appear; `None` where all may.
        reranker: which puts the best items of each user into another order.
    """

    opened: OpenedRun
    shards: Sequence[Shard]
    positions: Sequence[np.ndarray]
    schema: pl.Schema
    wanted: pl.Series | None
    n: int
    include_seen: bool
    allowed: np.ndarray | None
    reranker: Reranker | None = None

    @classmethod
    def of(
        cls,
        opened: OpenedRun,
        users: object = None,
        n: int = 10,
        *,
        include_seen: bool = False,
        only: object = None,
        block: object = None,
        unknown: Unknown = "raise",
        history: Any = None,
        unknown_items: Unknown = "raise",
        rerank: str | Rerank | None = None,
    ) -> Lists:
        """Check what was asked for; see `fedrec.estimators.estimator.Estimator.recommend`.

        Raises:
            InputError: if an id is unknown, or an argument cannot be used.
        """
        check_arguments(cls.of, locals())
        check_unknown(unknown, "unknown")
        check_unknown(unknown_items, "unknown_items")
        catalog = opened.catalog
        length, allowed = list_length(n, len(catalog)), allowed_items(catalog, only, block)
        wanted = None if users is None else typed_ids(listed_ids(users, "users")).unique(maintain_order=True)
        shards: Sequence[Shard]
        if history is not None:
            given = isinstance(history, Visitors)
            read = history if given else Visitors.read(history, catalog, unknown_items)
            visitors = read.cleaned(opened.plan.data.cleaning)
            everyone, lost = visitors.data.users, visitors.lost
            shards = [opened.with_visitors(visitors.data)] if len(everyone) else []
            known = [everyone]
        else:
            shards, everyone, lost = opened.engine.shards, opened.data.users, None
            known = [shard.data.users for shard in shards]
        positions = _positions(wanted, known, unknown, lost)
        schema = recommendation_schema(everyone, catalog)
        reranker = None if rerank is None else Reranker.of(rerank, catalog)
        return cls(opened, shards, positions, schema, wanted, length, include_seen, allowed, reranker)

    @property
    def users(self) -> int:
        """How many users there are lists for."""
        return sum(len(chosen) for chosen in self.positions)

    def batches(self) -> Iterator[pl.DataFrame]:
        """Tables of some users each; warns at the end of users whose scores are not numbers."""
        trained, catalog = self.opened.trained, self.opened.catalog
        broken = _Broken()
        pairs = list(zip(self.shards, self.positions, strict=False))
        for shard, chosen in followed(pairs, self.users, lambda pair: len(pair[1])):
            scored = broken.watch(shard.scores(trained.state.shared, trained.round, shard.known, chosen))
            if self.reranker is not None:
                scored = self.reranker.reordered(scored, self.include_seen, self.allowed)
            seen = None if self.include_seen else shard.known
            yield from recommend_batches(scored, shard.data.users, catalog, self.n, seen, self.allowed)
        if broken.users:
            warnings.warn(
                f"{broken.users:,} of {broken.asked:,} users have scores that are not finite numbers, so that their "
                "lists are shorter or empty: training diverged for these users. Train anew with a lower "
                "learning_rate, or more regularisation",
                stacklevel=2,
            )

    def table(self) -> pl.DataFrame:
        """All lists, in the order in which users were named."""
        frames = list(self.batches())
        table = pl.concat(frames) if frames else pl.DataFrame(schema=self.schema)
        if self.wanted is None or len(self.shards) < 2 or table.height == 0:
            return table
        there = Identifiers.of(table["user_id"])
        places = there.look_up(self.wanted)
        order = pl.DataFrame({"user_id": there.take(places[places >= 0])}).unique(maintain_order=True)
        return order.join(table, on="user_id", maintain_order="left_right")


@dataclass
class _Broken:
    """Counts users with a score that is NaN or infinite; −inf is the score of items that take no part."""

    asked: int = 0
    users: int = 0

    def watch(
        self, scored: Iterator[tuple[np.ndarray, Clients, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, Clients, np.ndarray]]:
        for positions, clients, scores in scored:
            self.asked += len(positions)
            self.users += int(np.count_nonzero(~(scores < np.inf).all(axis=1)))
            yield positions, clients, scores


def _positions(
    wanted: pl.Series | None, known: Sequence[Identifiers], unknown: Unknown, lost: pl.Series | None
) -> list[np.ndarray]:
    """Positions of the wanted users at each node.

    Ids that no node has are treated as `unknown` says, but for `lost` visitors, of whom was told already.
    """
    if wanted is None:
        return [np.arange(len(ids)) for ids in known]
    found = [ids.look_up(wanted) for ids in known]
    strangers = np.all([places < 0 for places in found], axis=0)
    if lost is not None and len(lost):
        strangers &= Identifiers.of(lost).look_up(wanted) < 0
    missing = wanted.filter(pl.Series(strangers, dtype=pl.Boolean))
    if len(missing):
        message = f"{len(missing)} unknown user{'s' if len(missing) > 1 else ''}: {some_of(missing)}"
        if unknown == "raise":
            hints = (ids.explain_unknown(missing[0]) for ids in known)
            advice = (
                ". Check the ids. For users whom the model never met give their interactions as history (--history)"
                if lost is None
                else ""
            )
            raise InputError(f"{message}{advice}{next(filter(None, hints), '')}")
        if unknown == "warn":
            warnings.warn(f"{message}; left out", stacklevel=4)
    return [places[places >= 0] for places in found]
