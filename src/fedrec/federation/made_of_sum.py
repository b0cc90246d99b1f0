"""The sum instead of the model: of a model of one round, a node can work the arrays out itself.

A sum of counts travels in few bits, a matrix of weights does not. A node that gets the sum makes the step of the
coordinator. Whether both got the same model, its digest says; a node with another one, as another processor may round
otherwise, gets the arrays.
"""

from __future__ import annotations

from fedrec.aggregation.sums import Sum
from fedrec.aggregation.wire import decode_sum, encode_sum
from fedrec.errors import PlanError
from fedrec.federation.agreement import Agreement
from fedrec.models.base import Arrays
from fedrec.threads import linear_algebra

__all__ = ["made_of_sum", "sum_to_send"]


def sum_to_send(agreement: Agreement, total: Sum) -> bytes | None:
    """The bytes of the sum of a finished model that nodes get instead of its arrays; `None` where they get these."""
    return encode_sum(total) if agreement.plan.down == "sum" else None


def made_of_sum(agreement: Agreement, frame: bytes) -> Arrays:
    """The shared arrays that the step of the plan's only round makes of a sum.

    Raises:
        PlanError: if the plan sends models, not sums.
        DamagedError: if the bytes are not a sum of the plan.
    """
    if agreement.plan.down != "sum":
        raise PlanError("a sum came in the place of a model; the plan sends models")
    state = agreement.start()
    spec = agreement.spec(state.shared, 0)
    assert spec is not None, "a model has at least one round"
    total = decode_sum(frame, spec)
    with linear_algebra().limit(limits=1):
        return agreement.model.step(state, total, 0).shared
