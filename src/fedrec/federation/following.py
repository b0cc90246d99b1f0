"""Training whose item factors follow those of a source: every round draws them back, and the last one may choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fedrec.aggregation.sums import Sum
from fedrec.evaluation.metrics import MetricSummary
from fedrec.federation.item_floor import SERVED, with_served
from fedrec.federation.transfer import FACTOR_STRENGTH, Taken, Transfer
from fedrec.federation.trials import chosen_of
from fedrec.models.base import State
from fedrec.models.factors.following import BothWays, FollowsFactors

__all__ = ["followed"]


def followed(
    model: FollowsFactors,
    transfer: Transfer,
    taken: Taken,
    strengths: Sequence[float],
    state: State,
    total: Sum,
    round: int,
    gain: Callable[[int, State, State], MetricSummary | None],
) -> tuple[State, dict[str, Any]]:
    """The state after a step, and after the last one what the ledger says of the source.

    Where validation decides, the last step is made for every strength, from the sums that both trainings gave: what
    follows the source is drawn to it so strongly, and is compared with the model alone, which is kept if the source
    does not surely help.

    Args:
        model: trained both ways where validation decides.
        transfer: the plan's.
        taken: what is followed.
        strengths: those to try; empty where nothing is tried.
        state: before the step.
        total: of the round.
        round: its number.
        gain: how much better one model is than another on validation, see `fedrec.federation.trials.chosen_of`.
    """
    usual, n_items = transfer.strength or FACTOR_STRENGTH, len(state.shared["items"])
    served = state.shared.get(SERVED)

    def drawing(before: State, strength: float, towards: Taken = taken) -> State:
        return State(before.shared, {**before.server, **towards.drawing(n_items, strength)})

    last = round == model.rounds - 1
    if not last or not isinstance(model, BothWays):
        said = {"transfer": {"strength": usual}} if last else {}
        return with_served(model.step(drawing(state, usual), total, round), served), said
    both = model

    def drawn(strength: float, towards_source: bool) -> State:
        if towards_source:
            return with_served(both.following(drawing(state, strength), total, round), served)
        return with_served(both.alone(drawing(state, strength, taken.nothing()), total, round), served)

    choice = chosen_of(strengths, with_served(both.alone(state, total, round), served), drawn, gain)
    return choice.state, {"transfer": choice.said}
