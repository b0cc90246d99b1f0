"""Arrays from a file or a network, held to what the plan's model declares before it may touch them: kernels trust
shapes and indexes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from fedrec.aggregation.specs import SumSpec
from fedrec.errors import DamagedError, PlanError
from fedrec.federation.agreement import Agreement
from fedrec.federation.item_floor import SERVED
from fedrec.federation.trials import divided, trials_of
from fedrec.models.base import Arrays, State
from fedrec.models.outline import first_sum
from fedrec.models.shapes import Form, Named, Shape, check_arrays

__all__ = ["SUM", "Fitting", "check_sum", "naming"]

SUM = "sum."
"""Begins the name of a server array that is a kept sum."""


class Fitting:
    """What the arrays of a training look like.

    Args:
        agreement: the plan, its model and its catalog.
    """

    def __init__(self, agreement: Agreement) -> None:
        self._agreement, self._plan, self._items = agreement, agreement.plan, len(agreement.catalog)
        self._forms = agreement.model.shapes(self._items).states

    def check(self, shared: Arrays) -> None:
        """Check the shared arrays of any round: names, types, shapes, finite numbers, indexes of items.

        Raises:
            DamagedError: naming the array that does not fit, and what it should be.
        """
        first, other = divided(shared) if trials_of(self._plan) else (shared, {})
        for arrays in (first, other) if other else (first,):
            self._check(arrays, [form.shared for form in self._forms], "shared array")

    def check_finished(self, shared: Arrays) -> None:
        """Check the shared arrays of a finished model, as `check` does.

        Raises:
            DamagedError: naming the array that does not fit, and what it should be.
        """
        self._check(shared, [self._forms[-1].shared], "shared array")

    def scores(self, shared: Arrays) -> bool:
        """Whether the model can score with these shared arrays: they have the names of the last form."""
        return self._forms[-1].shared.keys() <= shared.keys()

    def check_state(self, state: State) -> None:
        """Check shared and server arrays that were kept together.

        Raises:
            DamagedError: naming the array that does not fit, and what it should be.
        """
        self.check(state.shared)
        alike = [form for form in self._forms if self._fits(state.shared, form)]
        sums = {name: array for name, array in state.server.items() if name.startswith(SUM)}
        own = {name: array for name, array in state.server.items() if name not in sums}
        self._check(own, [form.server for form in alike], "server array", served=False)
        if sums or self._plan.keep_sums:
            kept = {name: Shape(shape.axes, shape.dtype) for name, shape in self._kept().items()}
            self._check(sums, [kept], "kept sum", served=False)

    def _fits(self, shared: Arrays, form: Form) -> bool:
        try:
            self._check(shared, [form.shared], "shared array")
        except DamagedError:
            return False
        return True

    def _kept(self) -> Named:
        """The kept sums of an additive model: those of round 0, whatever that state holds."""
        if not self._plan.keep_sums:
            return {}
        spec = self._agreement.fitted(first_sum(self._agreement.model, self._items))
        return {SUM + name: shape for name, shape in sum_shapes(spec).items()}

    def _check(self, arrays: Arrays, forms: list[Named], what: str, served: bool = True) -> None:
        if served and self._plan.items is not None:
            mask = {SERVED: Shape((self._items,), "bool")}
            forms = [{**form, **mask} for form in forms]
        check_arrays(arrays, forms, self._items, what, self._agreement.model.name)


def check_sum(arrays: Mapping[str, np.ndarray], spec: SumSpec, where: str) -> None:
    """Check that arrays are those of a sum, or of a sum with noise, which are whole numbers too.

    Raises:
        DamagedError: naming the file, the array and what it should be.
    """
    with naming(where):
        check_arrays(arrays, [sum_shapes(spec)], 0, "array", "the sum")


@contextmanager
def naming(where: object) -> Iterator[None]:
    """Let errors say where the arrays are from."""
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{where}: {error}") from None


def sum_shapes(spec: SumSpec) -> Named:
    """What the arrays of a sum look like."""
    if any(array.ring == 0 for array in spec.arrays):
        raise PlanError("the rings of this sum are not chosen yet")
    return {array.name: Shape(array.shape, f"int{array.word}") for array in spec.arrays}
