"""How many items that nobody has lists of all items shall hold: chosen on validation, by sums alone.

A model that scores such items from features scores them low, as nobody took them; a boost lets them stand beside
others. The coordinator makes the model with a first boost and asks nodes, for each other boost, how much better the
model is with that one, user by user. Where the boost shall be careful, the coordinator also asks how much worse items
that training knows are found than by the model without cold items, and how much better that model finds these than one
that tells no items apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fedrec.evaluation.metrics import MetricSummary
from fedrec.federation.trials import Choice
from fedrec.models.base import State
from fedrec.models.cold_items import ColdItems

__all__ = ["boosted_best"]

_MOST_LOST = 0.05
"""Share of the figure of known items that a careful boost may cost."""
_NONE = 1e-9
"""A boost with which no cold item reaches a list."""


def boosted_best(
    model: ColdItems,
    boosts: tuple[float, ...],
    first: State,
    gain: Callable[[int, State, State], MetricSummary | None],
    careful: bool,
) -> Choice:
    """The model with the boost that is best on validation; with the first one where nothing was measured.

    Args:
        model: that made the state.
        boosts: those to try.
        first: the state with the first boost.
        gain: how much better one model is than another, by the number of the trial (from 1) and their states; `None`
            where nobody was measured.
        careful: choose among boosts that cost known items a twentieth of their figure at most.
    """
    states = [State(model.boosted(first.shared, boost / model.first_boost), first.server) for boost in boosts]
    found = [gain(number, state, first) for number, state in enumerate(states, 1)]
    tried = [
        {"boost": boost, "gain": _better(each), "standard_error": each.standard_error, "users": each.users}
        for boost, each in zip(boosts, found, strict=True)
        if each is not None
    ]
    told: dict[str, Any] = {"metric": next((str(each.metric) for each in found if each), None), "tried": tried}
    if not tried:
        return Choice(first, told | {"boost": model.first_boost})
    candidates = [*zip(boosts, states, map(_better, found), strict=True), (model.first_boost, first, 0.0)]
    if careful:
        plain = State(model.boosted(first.shared, _NONE), first.server)
        lost = [-_better(gain(len(boosts) + n, each[1], plain)) for n, each in enumerate(candidates, 1)]
        worth = _better(gain(2 * len(boosts) + 2, plain, _blind(first)))
        told |= {"known": worth}
        for said, cost in zip(tried, lost, strict=False):
            said["cost"] = cost
        spared = [each for each, cost in zip(candidates, lost, strict=True) if cost <= _MOST_LOST * worth]
        candidates = spared or [min(candidates, key=lambda each: each[0])]
    boost, state, _ = max(candidates, key=lambda each: each[2])
    return Choice(state, told | {"boost": boost})


def _better(found: MetricSummary | None) -> float:
    """By how much one model is better than another; 0 where nobody was measured."""
    return 0.0 if found is None else found.metric.better(found.value)


def _blind(state: State) -> State:
    """A model of the same shape that scores all items alike."""
    return State({name: np.zeros_like(a) if a.dtype.kind == "f" else a for name, a in state.shared.items()})
