"""A coordinator that requests a round again, to average noise out or to subtract two answers."""

from __future__ import annotations

from dataclasses import replace

from fedrec.audit.findings import Finding
from fedrec.audit.observe import Observed
from fedrec.errors import DamagedError, PlanError

__all__ = ["repeated_round"]


def repeated_round(observed: Observed) -> Finding:
    """Request the last round from the first node again, with another model."""
    call = observed.rounds[-1].call
    node = observed.engine.nodes[0]
    other = {name: array + array.dtype.type(1) for name, array in call.shared.items()}
    answered = 0
    try:
        node.contribute(replace(call, shared=other))
        answered = 1
    except (PlanError, DamagedError):  # the second where private rows are past that round already
        answered = 0
    return Finding(
        "repeated-round",
        "cohort",
        "answers to one round for two models",
        float(answered),
        0.0 if observed.private else None,
        "fail" if answered else "pass",
        "a node answered one round for two models, and the difference of the answers reveals users"
        if answered
        else "the node refused to answer a round again for another model",
    )
