"""Item factors that follow those of a finished model of other users: where they begin, and what draws them back."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from fedrec.aggregation.sums import Sum
from fedrec.errors import FedrecError
from fedrec.models.base import Recommender, State
from fedrec.models.linear.gram import unpack_triangle
from fedrec.models.linear.towards import PULL, SOURCE

__all__ = ["BothWays", "FollowsFactors", "pulled_factors"]

_TOGETHER = 256
"""Items that are solved together."""


class FollowsFactors(Recommender):
    """A model whose item factors may begin as those of a finished model, and whose `step` draws them back to those
    where the coordinator has arrays `source` [items, d] float32 and `pull` [items] float64."""

    @property
    @abstractmethod
    def factor_size(self) -> int:
        """Length of an item's factor."""

    @abstractmethod
    def begun(self, state: State, items: np.ndarray, factors: np.ndarray) -> State:
        """The state before round 0 with the factors [n, d] float32 of a source at the items at positions [n]."""


class BothWays(FollowsFactors):
    """A model that is trained twice at once, on the same clients: alone, and following a source."""

    @abstractmethod
    def alone(self, state: State, total: Sum, round: int) -> State:
        """The state of the model alone after the sum of a round, to the bit that of the model in a training of its own;
        with arrays `source` and `pull` of the coordinator, it is drawn to those in this step."""

    @abstractmethod
    def following(self, state: State, total: Sum, round: int) -> State:
        """The state of the model that follows the source after the sum of a round."""


def pulled_factors(total: Sum, weight: float, reg: float, nu: float, state: State, round: int) -> np.ndarray:
    """Item factors [items, d] float32 with least loss of `ials`, where an item's ridge draws it to its source.

    The term λ_i ‖y_i‖² becomes pull_i λ_i ‖y_i − s_i‖², λ_i = reg (n_i + weight · users)^nu. Items that nobody has are
    solved where they are drawn to a source; the others go to zero in the first round, and stay later.

    Args:
        total: of the round.
        weight, reg, nu: of the loss, see `ials`.
        state: before the step, with the coordinator's `source` [items, d] and `pull` [items]; a pull of 1 is the usual
            ridge.
        round: its number.

    Raises:
        FedrecError: if an item's equations have no solution, because contributions saturated.
    """
    everyone, source, pull = total.value("everyone"), state.server[SOURCE], state.server[PULL]
    before = state.shared["items"]
    d = before.shape[1]
    counts = total.value("counts")[:, 0]
    base = unpack_triangle(everyone[:-1], d, weight)
    ridge = reg * (counts + weight * float(everyone[-1])) ** nu * pull
    table = np.zeros_like(before) if round == 0 else before.copy()
    solved = np.flatnonzero((counts > 0) | (pull != 1.0))
    upper, diagonal = np.triu_indices(d), np.arange(d)
    for low in range(0, len(solved), _TOGETHER):
        items = solved[low : low + _TOGETHER]
        equations = total.integers("equations")[items] / total.spec["equations"].unit
        left = np.empty((len(items), d, d))
        left[:, upper[0], upper[1]] = left[:, upper[1], upper[0]] = equations[:, : len(upper[0])]
        left += base
        left[:, diagonal, diagonal] += ridge[items, None]
        right = equations[:, len(upper[0]) :] + ridge[items, None] * source[items]
        try:
            np.linalg.cholesky(left)
        except np.linalg.LinAlgError:
            raise FedrecError(
                f"ials: round {round}: the equations of some items from position {items[0]} to {items[-1]} are not "
                f"positive definite; {total.saturated} coordinates saturated. Raise bound or reg (now {reg:g})"
            ) from None
        table[items] = np.linalg.solve(left, right[:, :, None])[:, :, 0]
    return table
