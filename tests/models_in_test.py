"""Small models that have what no model of the library has."""

from typing import ClassVar

import pytest

from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.models.base import Arrays
from fedrec.models.linear.popularity import Popularity
from fedrec.models.registry import MODELS


class PooledPopularity(Popularity):
    """Counts that say of themselves that no client can be told from the others."""

    name: ClassVar[str] = "pooled-popularity"

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Item counts, pooled."""
        shape = (len(shared["counts"]), 1)
        return None if round else SumSpec((ArraySpec("counts", "rank_one", shape, bound=1.0, pooled=True),))


def registered(kind: type, patch: pytest.MonkeyPatch) -> dict[str, str]:
    """The `model` of a plan with a class of this file, while a test runs."""
    patch.setitem(MODELS, kind.name, f"{__name__}:{kind.__name__}")
    return {"name": kind.name}
