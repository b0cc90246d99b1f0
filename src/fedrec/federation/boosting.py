"""How many items that nobody has lists of all items shall hold: chosen on validation, by sums alone.

A model that scores such items from features scores them low, as nobody took them; a boost lets them stand beside
others. The coordinator makes the model with a first boost and asks nodes, for each other boost, how much better the
model is with that one, user by user. Where the boost shall be careful, the coordinator also asks how much worse items
are found that training knows, and how much better these are found than by a model that tells no items apart.
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

_LOST = 0.05
"""Share of the figure of known items that a careful boost may cost."""


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
    best, chosen, most, tried, metric = first, model.first_boost, 0.0, [], None
    worth = _better(gain(2 * len(boosts) + 1, first, _blind(first))) if careful else None
    for number, boost in enumerate(boosts, 1):
        state = State(model.boosted(first.shared, boost / model.first_boost), first.server)
        found = gain(number, state, first)
        if found is None:
            continue
        metric, better = str(found.metric), found.metric.better(found.value)
        said = {"boost": boost, "gain": better, "standard_error": found.standard_error, "users": found.users}
        if careful:
            said["known"] = _better(gain(len(boosts) + number, state, first))
        tried.append(said)
        spared = not careful or -(said["known"] or 0.0) <= _LOST * (worth or 0.0)
        if better > most and spared:
            best, chosen, most = state, boost, better
    told: dict[str, Any] = {"metric": metric, "tried": tried, "boost": chosen}
    return Choice(best, told | ({"known": worth} if careful else {}))


def _better(found: MetricSummary | None) -> float | None:
    """By how much one model is better than another."""
    return None if found is None else found.metric.better(found.value)


def _blind(state: State) -> State:
    """A model of the same shape that scores all items alike."""
    kept = {name: array for name, array in state.shared.items() if array.dtype.kind != "f"}
    return State({**state.shared, **{name: np.zeros_like(a) for name, a in state.shared.items() if name not in kept}})
