"""A node made from a plan and a split: the same way in every home."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedrec.data.keys import KeyedSource
from fedrec.data.splits import TRAIN, VALID, Split
from fedrec.federation.agreement import Agreement
from fedrec.node.node import Floors, Node
from fedrec.node.shard import Shard
from fedrec.privacy.budget import Budget
from fedrec.privacy.chance import SYSTEM, Chance, kept_secret
from fedrec.privacy.guard import Guard

__all__ = ["found_node", "refitted"]


def found_node(
    name: str,
    splits: Sequence[Split],
    agreement: Agreement,
    folder: Path | None,
    floors: Floors,
    chance: Chance = SYSTEM,
    budget: Budget | None = None,
    salts: KeyedSource | None = None,
) -> Node:
    """A node that serves a plan.

    Args:
        name: for messages.
        splits: of its users: one, or one for each of its shards.
        agreement: the plan, with its model and catalog.
        folder: for private rows, journals and the node's secret; `None` for in memory.
        floors: the owner's.
        chance: where secrets come from: of a private run all, of one with a floor for items, that leaves this process,
            noise on counts; everything else comes from the plan's seed.
        budget: the owner's, for a private run; without one the node keeps a journal without limits.
        salts: what salts of receipts are drawn from; where sums leave this process a secret, whatever the plan.
    """
    plan = agreement.plan
    source, guard, hidden = KeyedSource.from_seed(plan.seed), None, None
    if plan.items is not None and not floors.simulated:
        hidden = kept_secret(folder, name, chance)
    private = plan.private()
    if private is not None:
        terms, model = private
        source = kept_secret(folder, name, chance)
        journal = budget or Budget(None if folder is None else folder / "budget.jsonl")
        guard = Guard(name, terms, model, agreement.share, journal)
    shards = [
        Shard(name, refitted(split) if plan.refit else split, agreement, source, place)
        for split, place in zip(splits, _places(folder, len(splits)), strict=True)
    ]
    return Node(name, shards, source, folder, floors, guard, hidden, salts)


def refitted(split: Split) -> Split:
    """The same split with the validation part moved into train."""
    part = split.part.copy()
    part[part == VALID] = TRAIN
    return replace(split, part=part, method=f"{split.method}, refitted")


def _places(folder: Path | None, shards: int) -> list[Path | None]:
    """Where shards keep private rows: the only one in the folder of the node, several in folders of their own."""
    if folder is None or shards == 1:
        return [folder] * shards
    return [folder / f"shard-{number}" for number in range(shards)]
