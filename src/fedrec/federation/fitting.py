"""Shared arrays as they must be before a model may touch them: kernels trust shapes and indexes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from fedrec.data.catalog import Catalog
from fedrec.data.keys import KeyedSource
from fedrec.errors import DamagedError
from fedrec.federation.item_floor import SERVED
from fedrec.federation.plan import Plan
from fedrec.models.base import Arrays

__all__ = ["Fitting"]

_LATER = (np.float32, np.float64, np.int32)


class Fitting:
    """What the shared arrays of a plan look like.

    Args:
        plan: resolved.
        catalog: the agreed one.
    """

    def __init__(self, plan: Plan, catalog: Catalog) -> None:
        self._plan, self._catalog = plan, catalog

    @cached_property
    def _later(self) -> Mapping[str, tuple[str, ...]]:
        return self._plan.build_model().later

    def _grown(self, arrays: Arrays) -> bool:
        """Whether all arrays that come up or grow have axes that go together."""
        items = len(self._catalog)
        lengths = {"items": items}
        most = max(items, *(size for _, shape in self._first.values() for size in shape))
        for name, array in arrays.items():
            axes = self._later[name]
            if array.ndim != len(axes) or array.dtype not in _LATER or max(array.shape) > most:
                return False
            if any(lengths.setdefault(axis, size) != size for axis, size in zip(axes, array.shape, strict=True)):
                return False
        return True

    @cached_property
    def _first(self) -> Mapping[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
        """Types and shapes at the start."""
        state = self._plan.build_model().start(self._catalog, KeyedSource.from_seed(0))
        return {name: (array.dtype, array.shape) for name, array in state.shared.items()}

    def check(self, shared: Arrays) -> None:
        """Check names, types, shapes, that numbers are finite and that indexes are of items.

        Raises:
            DamagedError: naming the array that does not fit.
        """
        items, known = len(self._catalog), dict(self._first)
        if self._plan.items is not None:
            known[SERVED] = np.dtype(bool), (items,)
        as_first = {name for name, array in shared.items() if known.get(name) == (array.dtype, array.shape)}
        later = {name: array for name, array in shared.items() if name in self._later}
        together = later.keys() <= as_first or self._grown(later)
        for name, array in shared.items():
            if not (together if name in later else name in as_first):
                raise DamagedError(
                    f"shared array {name!r}, {array.dtype} {list(array.shape)}, is none of {self._plan.model['name']}'s"
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise DamagedError(f"shared array {name!r} holds numbers that are not finite")
            if array.dtype.kind == "i" and array.size and not -1 <= array.min() <= array.max() < items:
                raise DamagedError(f"shared array {name!r} names items that are not in the catalog")
        if self._plan.items is not None and SERVED not in shared:
            raise DamagedError(f"shared array {SERVED!r} is missing: the plan has a floor for items")
