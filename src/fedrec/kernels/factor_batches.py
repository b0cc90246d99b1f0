"""Local training of matrix factorisation in batches, with any local optimiser and with SCAFFOLD's corrections.

A batch steps along the mean gradient of its terms. A row is moved, and its part of the optimiser's state changes, in
the batches that touch it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

from fedrec.kernels.factors import BPR, SAMPLES, SQUARED, dot, fetch_rows, pointwise_error, sigmoid, softmax_errors
from fedrec.kernels.records import record, takes
from fedrec.kernels.threads import parallel_kernel

__all__ = ["ADAGRAD", "ADAM", "MOMENTUM", "SGD", "Pace", "local_batches"]

SGD, MOMENTUM, ADAM, ADAGRAD = 0, 1, 2, 3
_TINY = np.float32(1e-8)
_SECOND = np.float32(0.999)


@numba.njit(inline="always")
def _advance(row, gradient, first, second, times, optimiser, rate, momentum, scale):  # type: ignore[no-untyped-def]
    """One step of an optimiser on a row along scale · gradient, which is cleared; `times` counts the row's steps."""
    one, zero = np.float32(1.0), np.float32(0.0)
    if optimiser == SGD:
        for k in range(len(row)):
            row[k] -= rate * (scale * gradient[k])
    elif optimiser == MOMENTUM:
        for k in range(len(row)):
            first[k] = momentum * first[k] + scale * gradient[k]
            row[k] -= rate * first[k]
    elif optimiser == ADAM:
        whole = one - np.float32(momentum**times)
        spread = one - np.float32(_SECOND**times)
        for k in range(len(row)):
            g = scale * gradient[k]
            first[k] = momentum * first[k] + (one - momentum) * g
            second[k] = _SECOND * second[k] + (one - _SECOND) * (g * g)
            row[k] -= rate * (first[k] / whole) / (np.float32(math.sqrt(second[k] / spread)) + _TINY)
    else:
        for k in range(len(row)):
            g = scale * gradient[k]
            second[k] += g * g
            row[k] -= rate * g / (np.float32(math.sqrt(second[k])) + _TINY)
    for k in range(len(row)):
        gradient[k] = zero


@numba.njit(inline="always")
def _add(gradient, error, user, reg, row, d):  # type: ignore[no-untyped-def]
    """gradient += error · [user, 1] + reg · row, over an item's row of length d + 1."""
    for k in range(d):
        gradient[k] += error * user[k] + reg * row[k]
    gradient[d] += error + reg * row[d]


class Pace(NamedTuple):
    """How a client steps.

    Args:
        batch: terms of a step.
        optimiser: `SGD`, `MOMENTUM`, `ADAM` or `ADAGRAD`.
        rate: of the optimiser.
        momentum: of `MOMENTUM`, and first decay of `ADAM`.
        reg: L2 pull on the factors of every term.
        keep: what of its way a row keeps after every step, 1 for all of it (FedProx).
    """

    batch: int
    optimiser: int
    rate: np.float32
    momentum: np.float32
    reg: np.float32
    keep: np.float32


_PACE = record(Pace, "int64, int64, float32, float32, float32, float32")


@parallel_kernel(
    takes(
        SAMPLES,
        "float32[:, ::1], float32[:, ::1]",
        _PACE,
        "int64, boolean, boolean, float32[:, ::1], float32[:, ::1], int64[::1]",
    ),
    over=lambda drawn, *_: drawn.sample_indptr,
)
def local_batches(  # type: ignore[no-untyped-def]
    begin, end, drawn, table, users, pace, loss, learn_users, learn_items, drift, values, steps
):
    """As `local_sgd`, a step for every `batch` terms, the rest of an epoch in a last and smaller batch.

    Args: `drift` [touched, d + 1] is added to the gradient of every row in every step whether the batch touches it or
    not (none where it is empty); `steps` [c] out.
    """
    indptr, rows, sample_indptr, samples, width, epochs, weights = drawn
    batch, optimiser, rate, momentum, reg, keep = pace
    d = table.shape[1] - 1
    most = np.int64(0)
    for client in range(begin, end):
        most = max(most, indptr[client + 1] - indptr[client])
    errors = np.empty(width, dtype=np.float32)
    user_gradient = np.zeros(d, dtype=np.float32)
    user_first, user_second = np.zeros(d, dtype=np.float32), np.zeros(d, dtype=np.float32)
    gradients = np.zeros((most, d + 1), dtype=np.float32)
    moments = most if optimiser != SGD else 1
    first, second = np.zeros((moments, d + 1), dtype=np.float32), np.zeros((moments, d + 1), dtype=np.float32)
    times = np.zeros(most, dtype=np.int64)
    current = np.full(most, -1, dtype=np.int64)  # the step whose batch touched a row last
    caught_up = np.zeros(most, dtype=np.int64)  # steps whose drift a row has had
    touched = np.empty(most, dtype=np.int64)
    for client in range(begin, end):
        base = indptr[client]
        used = indptr[client + 1] - base
        fetch_rows(table, rows, values, base, base + used)
        user = users[client]
        user_first[:] = np.float32(0.0)
        user_second[:] = np.float32(0.0)
        first[: min(used, moments)] = np.float32(0.0)
        second[: min(used, moments)] = np.float32(0.0)
        times[:used] = 0
        current[:used] = -1
        caught_up[:used] = 0
        step = np.int64(0)
        start, stop = sample_indptr[client], sample_indptr[client + 1]
        in_epoch = (stop - start) // max(epochs, 1)
        for epoch in range(epochs):
            filled = np.int64(0)
            n_touched = np.int64(0)
            for place in range(start + epoch * in_epoch, start + (epoch + 1) * in_epoch, width):
                count = width
                if width > 1 and samples[place + 1] < 0:
                    count = 1
                weight = np.float32(1.0)
                if len(weights):
                    weight = weights[start // (epochs * width) + samples[place]]
                terms = count
                if loss == BPR:
                    terms = count - 1
                elif loss > BPR:
                    terms = 1 if count > 1 else 0
                for term in range(terms):
                    low, high = term, term + 1
                    if loss > BPR:
                        high = count
                    elif loss == BPR:
                        low, high = 0, 2
                    for other in range(low, high):
                        offset = other
                        if loss == BPR and other == 1:
                            offset = 1 + term
                        slot = samples[place + offset]
                        if current[slot] != step:
                            current[slot] = step
                            touched[n_touched] = slot
                            n_touched += 1
                            if drift.shape[0] > 0:
                                behind = rate * np.float32(step - caught_up[slot])
                                for k in range(d + 1):
                                    values[base + slot, k] -= behind * drift[base + slot, k]
                                caught_up[slot] = step
                        row = values[base + slot]
                        errors[other - low] = dot(user, row, d) + row[d]
                    if loss <= SQUARED:
                        label = np.float32(1.0) if term == 0 else np.float32(0.0)
                        errors[0] = pointwise_error(errors[0], label, loss)
                    elif loss == BPR:
                        errors[1] = sigmoid(errors[1] - errors[0])
                        errors[0] = -errors[1]
                    else:
                        softmax_errors(errors, count)
                    for k in range(d):
                        user_gradient[k] += reg * user[k]
                    for other in range(low, high):
                        offset = other
                        if loss == BPR and other == 1:
                            offset = 1 + term
                        slot = samples[place + offset]
                        row = values[base + slot]
                        error = weight * errors[other - low]
                        for k in range(d):
                            user_gradient[k] += error * row[k]
                        _add(gradients[slot], error, user, reg, row, d)
                    filled += 1
                    if filled < batch and (term + 1 < terms or place + width < start + (epoch + 1) * in_epoch):
                        continue
                    scale = np.float32(1.0) / np.float32(filled)
                    step += 1
                    if learn_users:
                        _advance(user, user_gradient, user_first, user_second, step, optimiser, rate, momentum, scale)
                    else:
                        user_gradient[:] = np.float32(0.0)
                    for index in range(n_touched):
                        slot = touched[index]
                        if not learn_items:
                            gradients[slot] = np.float32(0.0)
                            continue
                        times[slot] += 1
                        row = values[base + slot]
                        state = min(slot, moments - 1)
                        gradient, time = gradients[slot], times[slot]
                        _advance(row, gradient, first[state], second[state], time, optimiser, rate, momentum, scale)
                        if keep < np.float32(1.0):
                            origin = table[rows[base + slot]]
                            for k in range(d + 1):
                                row[k] = origin[k] + keep * (row[k] - origin[k])
                    filled = np.int64(0)
                    n_touched = np.int64(0)
        steps[client] = step
        for entry in range(base, base + used):
            source = table[rows[entry]]
            for k in range(d + 1):
                values[entry, k] -= source[k]
            if drift.shape[0] > 0:
                behind = rate * np.float32(step - caught_up[entry - base])
                for k in range(d + 1):
                    values[entry, k] -= behind * drift[entry, k]
