"""What a model sums, worked out from the shapes of its arrays alone: without data, and without a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedrec.aggregation.specs import SumSpec
from fedrec.data.cleaning import Cleaning
from fedrec.models.base import Recommender
from fedrec.models.blend import Blend, parts_of
from fedrec.models.builtin import MODELS
from fedrec.models.cold_items import ColdItems
from fedrec.models.shapes import Form, Shape

__all__ = [
    "InOrder",
    "first_sum",
    "is_additive",
    "keeps_rows",
    "pooled",
    "read_in_order",
    "reads_item_features",
    "reads_repeats",
]

_ITEMS = 8


def first_sum(model: Recommender, n_items: int = _ITEMS) -> SumSpec:
    """What round 0 sums for a catalog of `n_items`: names, kinds and roles of arrays, with rings not chosen yet. Of a
    blend, what all its models begin with.

    Example:
        >>> from fedrec.models.factors.mf import MF
        >>> first_sum(MF()).changes
        ('items',)
    """
    shared = _zeros(model.shapes(n_items).states[0])
    spec = model.first_sums(shared) if isinstance(model, Blend) else model.spec(shared, 0)
    assert spec is not None, "a model has at least one round"
    return spec


def pooled(model: Recommender) -> tuple[str, ...]:
    """Names of what a round sums for all clients of a node together, so that single ones cannot be clipped or weighed;
    of a blend, those of its models.

    Example:
        >>> from fedrec.models.linear.ease import EASE
        >>> pooled(EASE())
        ()
    """
    found = dict.fromkeys(first_sum(model).pooled)
    for part in parts_of(model):
        if part.traits.bits == "node":
            last = part.spec(_zeros(part.shapes(_ITEMS).states[-1]), part.rounds - 1)
            found |= {} if last is None else dict.fromkeys(last.pooled)
    return tuple(found)


def is_additive(model: Recommender) -> bool:
    """Whether what changed can be added to a kept sum of the model: one round of counts of each client's own history.

    It cannot for a model whose clients read public arrays: what they added before was worked out from those of another
    catalog.

    >>> from fedrec.models.linear.ease import EASE
    >>> is_additive(EASE()), is_additive(EASE(rank=8))
    (True, False)
    """
    counts = all(array.role == "count" for array in first_sum(model).arrays)
    public = reads_item_features(model) and not (isinstance(model, ColdItems) and model.item_features is not None)
    return model.traits.additive and model.rounds == 1 and counts and not public


def keeps_rows(model: Recommender) -> bool:
    """Whether nodes keep private arrays of each client from round to round."""
    return bool(model.shapes(_ITEMS).rows)


@dataclass(frozen=True)
class InOrder:
    """What reads histories in order.

    Args:
        what: the model, with the setting that makes it read the order, if any.
        instead: what to use on data without an order.
        remark: what else to do about it, a sentence; empty where there is nothing.
    """

    what: str
    instead: str
    remark: str = ""

    @property
    def otherwise(self) -> str:
        """What to do where there is no order, without a full stop."""
        return f"Otherwise use {self.instead}, which needs no order{f'. {self.remark}' if self.remark else ''}"


def read_in_order(model: Recommender) -> InOrder | None:
    """What makes the order of a client's interactions matter to a model; `None` where the order does not matter.

    >>> from fedrec.models.linear.ease import EASE
    >>> read_in_order(EASE(decay=0.8)).what, read_in_order(EASE())
    ("model 'ease' with decay=0.8", None)
    """
    for part in parts_of(model):
        name, traits = part.name, part.traits
        if "order" not in traits.reads:
            continue
        if traits.order_unless is not None:
            key, value = traits.order_unless
            if getattr(part, key) != value:
                return InOrder(f"model {name!r} with {key}={getattr(part, key):g}", f"{key}: {value:g}")
        elif name in MODELS:
            return InOrder(f"model {name!r}", "another model, such as ease")
        else:
            remark = f"If {name} takes all interactions alike, leave 'order' out of what its traits say it reads"
            return InOrder(f"model {name!r}", "another model, such as ease", remark)
    return None


def reads_item_features(model: Recommender) -> bool:
    """Whether a model learns from what the catalog says of the items; a plan then pins that too.

    >>> from fedrec.models.linear.ease import EASE
    >>> reads_item_features(EASE()), reads_item_features(EASE(item_features="auto"))
    (False, True)
    """
    return any(
        part.reads_catalog if isinstance(part, ColdItems) else type(part).public is not Recommender.public
        for part in parts_of(model)
    )


def reads_repeats(model: Recommender, cleaning: Cleaning) -> bool:
    """Whether a model is trained on every row of an item that a client took more than once.

    >>> from fedrec.models.linear.ease import EASE
    >>> reads_repeats(EASE(), Cleaning(repeats="keep"))
    False
    """
    return "repeats" in model.traits.reads and cleaning.repeats == "keep"


def _zeros(form: Form) -> dict[str, np.ndarray]:
    return {name: np.zeros(_lengths(shape), shape.dtype) for name, shape in form.shared.items()}


def _lengths(shape: Shape) -> tuple[int, ...]:
    """Lengths of axes, with 1 for those that the catalog does not decide."""
    return tuple(axis if isinstance(axis, int) else 1 for axis in shape.axes)
