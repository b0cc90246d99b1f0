"""Contributions that a model adds up itself, over all clients of a shard, before they are rounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from fedrec.aggregation.contributions import Contribution
from fedrec.aggregation.queries import PLAIN, Metric
from fedrec.aggregation.specs import ArraySpec

__all__ = ["Pooled"]


@dataclass(frozen=True, eq=False)
class Pooled(Contribution):
    """One array, summed over clients by the model: gradients of a batch, or what clients learned together.

    No client can be told from the others, so none can be clipped, weighted or measured alone. A coordinate saturates at
    the number of clients times the bound of one.

    Args:
        values: the sum, of the shape of the array, float64.
        included: whose parts are in it [clients] bool; the others are left out of the round.

    Example:
        >>> from fedrec.aggregation.contributions import Contributions
        >>> from fedrec.aggregation.specs import ArraySpec, SumSpec
        >>> from fedrec.aggregation.sums import Sum
        >>> total = Sum.zeros(SumSpec((ArraySpec("g", "dense", (2,), 1.0, 8, pooled=True),)).fit(n_max=10))
        >>> _ = total.add(Contributions({"g": Pooled(np.array([0.5, -7.0]), np.array([True, True, False]))}))
        >>> total.value("g").tolist(), total.clients, total.left_out, total.saturated
        ([0.5, -2.0], 2, 1, 1)
    """

    values: np.ndarray
    included: np.ndarray

    @property
    def n_clients(self) -> int:
        """Clients of the shard that were asked."""
        return len(self.included)

    def finite(self) -> np.ndarray:
        """The clients that are included, or nobody if the sum is not finite."""
        return self.included & bool(np.isfinite(self.values).all())

    def add_to(self, out: np.ndarray, spec: ArraySpec, keep: np.ndarray) -> int:
        """Round and add the sum, if its clients are kept."""
        if self.values.size != spec.size:
            raise ValueError(f"array {spec.name!r} {spec.shape}: the pooled values are {self.values.shape}")
        if not keep.any():
            return 0
        if not np.array_equal(keep, self.included):
            raise ValueError(
                f"array {spec.name!r}: {int((self.included & ~keep).sum())} clients cannot be taken out of a pooled sum"
            )
        most = spec.bound * int(keep.sum())
        values = self.values.reshape(spec.shape)
        out += np.rint(np.clip(values, -most, most) * spec.unit).astype(out.dtype)
        return int((np.abs(values) > most).sum())

    def sq_norms(self, metric: Metric = PLAIN) -> np.ndarray:
        """No client has a norm of its own."""
        self._refuse()

    def clip_rows(self, limit: float) -> Pooled:
        """No client can be clipped."""
        self._refuse()

    def scale(self, factors: np.ndarray) -> Pooled:
        """No client can be weighted."""
        self._refuse()

    @staticmethod
    def _refuse() -> NoReturn:
        raise ValueError("the contributions are pooled; a plan that clips or weights clients needs them apart")
