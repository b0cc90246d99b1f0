"""How many items that nobody has lists of all items shall hold: chosen on validation, by sums alone.

A model that scores such items from features scores them low, as nobody took them; a boost lets them stand beside
others. The coordinator makes the model with the usual boost and asks nodes, for each other boost, how much better the
model is with that one, user by user.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedrec.evaluation.metrics import MetricSummary
from fedrec.federation.trials import Choice
from fedrec.models.base import State
from fedrec.models.cold_items import ColdItems

__all__ = ["boosted_best"]


def boosted_best(
    model: ColdItems,
    boosts: tuple[float, ...],
    usual: State,
    gain: Callable[[int, State, State], MetricSummary | None],
) -> Choice:
    """The model with the boost that is best on validation; with the usual one where nothing was measured.

    Args:
        model: that made the state.
        boosts: those to try.
        usual: the state with the usual boost.
        gain: how much better one model is than another, by the number of the trial (from 1) and their states; `None`
            where nobody was measured.
    """
    best, chosen, most, tried, metric = usual, model.first_boost, 0.0, [], None
    for number, boost in enumerate(boosts, 1):
        state = State(model.boosted(usual.shared, boost / model.first_boost), usual.server)
        found = gain(number, state, usual)
        if found is None:
            continue
        metric, better = str(found.metric), found.metric.better(found.value)
        tried.append({"boost": boost, "gain": better, "standard_error": found.standard_error, "users": found.users})
        if better > most:
            best, chosen, most = state, boost, better
    said: dict[str, Any] = {"metric": metric, "tried": tried, "boost": chosen}
    return Choice(best, said)
