"""SCAFFOLD's control variates over the parameters of a module (Karimireddy et al. 2020, "SCAFFOLD", algorithm 1, II).

A client with control variate cᵢ trains K steps along gradient + c − cᵢ, c the average of all, and then sets
cᵢ ← cᵢ − c + (x − y) / (K · rate), the mean of its gradients, from the shared parameters x and its own y.

What all cᵢ of a round change by follows from the sum of what its clients send, y − x: it is −Σ(y − x) / (K · rate),
less c for each of them. So nothing is sent beside it but a count of those who take part for the first time; c is the
average over all who ever did.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from fedrec.aggregation.contributions import Dense
from fedrec.aggregation.specs import ArraySpec
from fedrec.aggregation.sums import Sum
from fedrec.models.base import Arrays, Private, State
from fedrec.models.shapes import Shape

__all__ = [
    "NEWCOMERS",
    "control_forms",
    "control_rows",
    "first_controls",
    "first_rows",
    "first_sums",
    "is_control",
    "newcomers",
    "renewed_rows",
    "stepped_controls",
    "used_drift",
]

NEWCOMERS = ArraySpec("newcomers", "dense", (1,), bound=1)
"""The count of clients that take part for the first time."""
_SUFFIX = ".control"
_SUM = ".control_sum"
_CLIENTS = "control_clients"


def is_control(name: str, shared: Collection[str]) -> bool:
    """Whether a shared array is the average control variate of another one."""
    return name.endswith(_SUFFIX) and name.removesuffix(_SUFFIX) in shared


def control_forms(parameters: Mapping[str, Shape]) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Average control variates, which are shared; their sums and the number of clients in them, at the coordinator."""
    shared = {f"{name}{_SUFFIX}": shape for name, shape in parameters.items()}
    sums = {f"{name}{_SUM}": Shape(shape.axes, "float64") for name, shape in parameters.items()}
    return shared, {**sums, _CLIENTS: Shape((1,), "float64")}


def first_controls(parameters: Arrays) -> dict[str, np.ndarray]:
    """Average control variates before the first round: zeros."""
    return {f"{name}{_SUFFIX}": np.zeros_like(array) for name, array in parameters.items()}


def first_sums(parameters: Arrays) -> dict[str, np.ndarray]:
    """Their sums, and the number of clients in them, before the first round."""
    return {**{f"{name}{_SUM}": np.zeros(array.shape) for name, array in parameters.items()}, _CLIENTS: np.zeros(1)}


def control_rows(size: int) -> dict[str, Shape]:
    """What a client keeps, without the axis of clients: its control variate of all parameters, and whether it took
    part."""
    return {"controls": Shape((size,), finite=False), "took_part": Shape((1,))}


def first_rows(clients: int, size: int) -> dict[str, np.ndarray]:
    """What clients keep that never took part."""
    return {
        "controls": np.zeros((clients, size), dtype=np.float32),
        "took_part": np.zeros((clients, 1), dtype=np.float32),
    }


def used_drift(shared: Arrays, private: Private, names: Collection[str]) -> np.ndarray:
    """c − cᵢ of each client [clients, size] float32, over the parameters of these names one after the other."""
    average = np.concatenate([np.zeros(0, np.float32), *(shared[f"{name}{_SUFFIX}"].reshape(-1) for name in names)])
    drift: np.ndarray = average - private["controls"]
    return drift


def renewed_rows(
    private: Private, drift: np.ndarray, change: np.ndarray, trained: np.ndarray, distance: float
) -> dict[str, np.ndarray]:
    """What clients keep after a round.

    Args:
        private: what they kept.
        drift: [clients, size], of `used_drift`.
        change: [clients, size], y − x.
        trained: [clients] bool; the others took no step, and keep what they have.
        distance: K · rate.
    """
    fresh = -drift - change / np.float32(distance)
    return {
        "controls": np.where(trained[:, None], fresh, private["controls"]).astype(np.float32),
        "took_part": np.maximum(private["took_part"], trained[:, None]).astype(np.float32),
    }


def newcomers(private: Private, trained: np.ndarray) -> Dense:
    """1 for each client that takes part for the first time."""
    return Dense(((1 - private["took_part"]) * trained[:, None]).astype(np.float32), np.ones(len(trained)))


def stepped_controls(
    state: State, total: Sum, names: Collection[str], clients: float, distance: float
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The arrays of `control_forms` after a round.

    Args:
        state: before the round.
        total: of the round's changes.
        names: of the parameters.
        clients: how many took a step.
        distance: K · rate of each.
    """
    shared, server = {}, {_CLIENTS: state.server[_CLIENTS] + total.value(NEWCOMERS.name)}
    for name in names:
        before = state.shared[f"{name}{_SUFFIX}"]
        moved = -total.value(name) / distance - clients * before.astype(np.float64)
        server[f"{name}{_SUM}"] = state.server[f"{name}{_SUM}"] + moved
        shared[f"{name}{_SUFFIX}"] = (server[f"{name}{_SUM}"] / server[_CLIENTS]).astype(np.float32)
    return shared, server
