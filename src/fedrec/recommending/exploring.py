"""Lists that explore: what is shown is drawn, and each slot says how likely what it shows was."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedrec.errors import InputError, suggestion

__all__ = ["Exploration", "Slate", "thompson"]

_KINDS: dict[str, Literal["greedy", "epsilon", "plackett-luce"]] = {
    "greedy": "greedy",
    "epsilon": "epsilon",
    "plackett-luce": "plackett-luce",
}


@dataclass(frozen=True, eq=False)
class Slate:
    """A list that was drawn.

    Args:
        items: positions [n] int64 of the candidates, best slot first.
        propensities: [n] float64, how likely each slot was to show its item, given the slots before it.
    """

    items: np.ndarray
    propensities: np.ndarray


@dataclass(frozen=True)
class Exploration:
    """How a list is drawn from scores. Candidates with a score of −inf are never shown.

    Args:
        kind: `greedy` (by score), `epsilon` (each slot is the best item left, or with probability `value` a uniform
            draw from the items left) or `plackett-luce` (each slot is drawn from the items left, in proportion to
            exp(score / `value`)).
        value: probability of a uniform draw, or temperature; 0 for `greedy`.

    Example:
        >>> Exploration.parse("epsilon:0.1").propensities(np.array([0.2, 0.9])).round(3).tolist()
        [0.05, 0.95]
    """

    kind: Literal["greedy", "epsilon", "plackett-luce"]
    value: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Exploration:
        """Read `greedy`, `epsilon:0.1` or `plackett-luce:0.5`.

        Raises:
            InputError: for another word, or a number that the word cannot have.
        """
        name, colon, number = text.partition(":")
        if name not in _KINDS:
            raise InputError(f"policy {name!r} is not known{suggestion(name, _KINDS)}")
        if name == "greedy":
            if colon:
                raise InputError(f"policy {text!r}: greedy has no number; write greedy")
            return cls("greedy")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        fits = 0.0 <= value <= 1.0 if name == "epsilon" else 0.0 < value < math.inf
        if not fits:
            wanted = "a probability, as in epsilon:0.1" if name == "epsilon" else "a temperature, as in plackett-luce:1"
            raise InputError(f"policy {text!r} needs {wanted}")
        return cls(_KINDS[name], value)

    def propensities(self, scores: np.ndarray) -> np.ndarray:
        """How likely the first slot is to show each candidate [candidates] float64; equal best scores share alike.

        Raises:
            InputError: if no candidate has a score.
        """
        scores = np.asarray(scores, dtype=np.float64)
        shown = scores > -np.inf
        if not shown.any():
            raise InputError("no candidate has a score, so nothing can be shown")
        if self.kind == "plackett-luce":
            weights = np.where(shown, np.exp((scores - scores[shown].max()) / self.value), 0.0)
            return np.asarray(weights / weights.sum())
        best = scores == scores[shown].max()
        return np.asarray((1.0 - self.value) * best / best.sum() + self.value * shown / shown.sum())

    def draw(self, scores: np.ndarray, n: int, rng: np.random.Generator) -> Slate:
        """A list of `n` candidates, or of all that have a score if these are fewer.

        Args:
            scores: [candidates].
            n: length of the list.
            rng: draws.
        """
        left = np.array(scores, dtype=np.float64)
        items, propensities = [], []
        for _ in range(min(n, int((left > -np.inf).sum()))):
            chances = self.propensities(left)
            ends = np.cumsum(chances)
            item = int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))
            items.append(item)
            propensities.append(chances[item])
            left[item] = -np.inf
        return Slate(np.array(items, dtype=np.int64), np.array(propensities, dtype=np.float64))


def thompson(
    features: np.ndarray,
    mean: np.ndarray,
    covariance: np.ndarray,
    n: int,
    rng: np.random.Generator,
    draws: int = 1000,
) -> Slate:
    """A list by Thompson sampling: candidates by their scores under weights drawn from a normal distribution.

    The propensity of a slot has no closed form; it is the share of `draws` further draws, and of the one that is shown,
    in which the slot shows the same item.

    Args:
        features: [candidates, d], such as score, popularity, freshness and rank.
        mean: of the weights [d].
        covariance: of the weights [d, d].
        n: length of the list.
        rng: draws.
        draws: from which propensities are estimated.
    """
    length = min(n, len(features))
    root = np.linalg.cholesky(covariance)
    weights = mean + rng.standard_normal((draws + 1, len(mean))) @ root.T
    orders = np.argsort(-(weights @ features.T), axis=1, kind="stable")[:, :length]
    return Slate(orders[0].astype(np.int64), (orders == orders[0]).mean(axis=0))
