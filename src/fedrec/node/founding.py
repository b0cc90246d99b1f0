"""A node made from a plan and a split: the same way in every home."""

from __future__ import annotations

from pathlib import Path

from fedrec.data.keys import KeyedSource
from fedrec.data.splits import Split
from fedrec.federation.agreement import Agreement
from fedrec.node.node import Floors, Node, refitted
from fedrec.privacy.budget import Budget
from fedrec.privacy.chance import SYSTEM, Chance, kept_secret
from fedrec.privacy.guard import Guard

__all__ = ["found_node"]


def found_node(
    name: str,
    split: Split,
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
        split: of its users.
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
    if plan.privacy is not None:
        source = kept_secret(folder, name, chance)
        journal = budget or Budget(None if folder is None else folder / "budget.jsonl")
        guard = Guard(name, plan.privacy, agreement.model, agreement.share, journal)
    return Node(
        name,
        refitted(split) if plan.refit else split,
        agreement,
        source,
        folder=folder,
        floors=floors,
        guard=guard,
        hidden=hidden,
        salts=salts,
    )
