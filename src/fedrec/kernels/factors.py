"""Local training of matrix factorisation by plain SGD: one step for each term of a client's loss.

A client's rows are trained in place where its contribution lies, side by side and small enough for the cache; its
arithmetic has one fixed order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

from fedrec.kernels.records import record, takes
from fedrec.kernels.threads import parallel_kernel

__all__ = [
    "BCE",
    "BPR",
    "SAMPLES",
    "SOFTMAX",
    "SQUARED",
    "Samples",
    "dot",
    "fetch_rows",
    "local_sgd",
    "pointwise_error",
    "softmax_errors",
]

BCE, SQUARED, BPR, SOFTMAX = 0, 1, 2, 3
"""Losses of a score s: log(1 + e^(∓s)), (s − y)² / 2, log(1 + e^(s_negative − s_positive)), and −s_positive +
log Σ e^s over the positive and its negatives."""


@numba.njit(inline="always")
def dot(left, right, length):  # type: ignore[no-untyped-def]
    """Inner product of the first `length` entries with sixteen accumulators, added in one fixed order."""
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = np.float32(0.0)
    b0 = b1 = b2 = b3 = b4 = b5 = b6 = b7 = np.float32(0.0)
    whole = length - length % 16
    for k in range(0, whole, 16):
        a0 += left[k] * right[k]
        a1 += left[k + 1] * right[k + 1]
        a2 += left[k + 2] * right[k + 2]
        a3 += left[k + 3] * right[k + 3]
        a4 += left[k + 4] * right[k + 4]
        a5 += left[k + 5] * right[k + 5]
        a6 += left[k + 6] * right[k + 6]
        a7 += left[k + 7] * right[k + 7]
        b0 += left[k + 8] * right[k + 8]
        b1 += left[k + 9] * right[k + 9]
        b2 += left[k + 10] * right[k + 10]
        b3 += left[k + 11] * right[k + 11]
        b4 += left[k + 12] * right[k + 12]
        b5 += left[k + 13] * right[k + 13]
        b6 += left[k + 14] * right[k + 14]
        b7 += left[k + 15] * right[k + 15]
    rest = np.float32(0.0)
    for k in range(whole, length):
        rest += left[k] * right[k]
    low = ((a0 + b0) + (a4 + b4)) + ((a2 + b2) + (a6 + b6))
    high = ((a1 + b1) + (a5 + b5)) + ((a3 + b3) + (a7 + b7))
    return low + high + rest


@numba.njit(inline="always")
def sigmoid(x):  # type: ignore[no-untyped-def]
    """1 / (1 + e^−x)."""
    return np.float32(1.0) / (np.float32(1.0) + np.float32(math.exp(-x)))


@numba.njit(inline="always")
def pointwise_error(score, label, loss):  # type: ignore[no-untyped-def]
    """∂loss / ∂score of `BCE` or `SQUARED`."""
    if loss == BCE:
        return sigmoid(score) - label
    return score - label


@numba.njit(inline="always")
def softmax_errors(errors, count):  # type: ignore[no-untyped-def]
    """Overwrite scores [count], the positive's first, with ∂loss / ∂score of `SOFTMAX`."""
    most = errors[0]
    for place in range(1, count):
        most = max(most, errors[place])
    total = np.float32(0.0)
    for place in range(count):
        errors[place] = np.float32(math.exp(errors[place] - most))
        total += errors[place]
    for place in range(count):
        errors[place] /= total
    errors[0] -= np.float32(1.0)


@numba.njit(inline="always")
def fetch_rows(table, rows, values, start, stop):  # type: ignore[no-untyped-def]
    """values[e] = table[rows[e]] for entries `start` to `stop`."""
    for entry in range(start, stop):
        source = table[rows[entry]]
        target = values[entry]
        for column in range(len(target)):
            target[column] = source[column]


class Samples(NamedTuple):
    """What clients train on.

    Args:
        indptr: [c + 1] int64; client `c` touches the items `rows[indptr[c]:indptr[c + 1]]`.
        rows: [touched] int32.
        sample_indptr: [c + 1] int64; client `c` has the samples from `sample_indptr[c]` to `sample_indptr[c + 1]`.
        samples: [samples] int32, slots: places among the rows of the client.
        width: samples for each positive: itself, then its negatives.
        epochs: passes.
        weights: [interactions] float32 of the positives in the order of histories; empty where all weigh 1.
    """

    indptr: np.ndarray
    rows: np.ndarray
    sample_indptr: np.ndarray
    samples: np.ndarray
    width: int
    epochs: int
    weights: np.ndarray


SAMPLES = record(Samples, "int64[::1], int32[::1], int64[::1], int32[::1], int64, int64, float32[::1]")


@parallel_kernel(
    takes(SAMPLES, "float32[:, ::1], float32[:, ::1], float32, float32, int64, boolean, boolean, float32[:, ::1]"),
    over=lambda drawn, *_: drawn.sample_indptr,
)
def local_sgd(  # type: ignore[no-untyped-def]
    begin, end, drawn, table, users, rate, reg, loss, learn_users, learn_items, values
):
    """Train every client on its samples; users [c, d] in place, the change of its rows in `values`.

    Args: samples `drawn`; `table` [items, d + 1] (factors and bias); `values` [touched, d + 1] out. The gradient of a
    positive and of what was drawn for it is multiplied by the positive's weight. The pull `reg` of a negative that is
    drawn twice for one softmax compounds.
    """
    indptr, rows, sample_indptr, samples, width, epochs, weights = drawn
    d = table.shape[1] - 1
    decay = rate * reg
    errors = np.empty(width, dtype=np.float32)
    step = np.empty(d, dtype=np.float32)
    for client in range(begin, end):
        base = indptr[client]
        fetch_rows(table, rows, values, base, indptr[client + 1])
        user = users[client]
        for first in range(sample_indptr[client], sample_indptr[client + 1], width):
            count = width
            if width > 1 and samples[first + 1] < 0:
                count = 1
            pace = rate
            if len(weights):
                pace = rate * weights[sample_indptr[client] // (epochs * width) + samples[first]]
            if loss <= SQUARED:
                for place in range(count):
                    row = values[base + samples[first + place]]
                    label = np.float32(1.0) if place == 0 else np.float32(0.0)
                    error = pace * pointwise_error(dot(user, row, d) + row[d], label, loss)
                    if learn_users and learn_items:
                        for k in range(d):
                            u, v = user[k], row[k]
                            user[k] = (u - decay * u) - error * v
                            row[k] = (v - decay * v) - error * u
                    elif learn_users:
                        for k in range(d):
                            user[k] = (user[k] - decay * user[k]) - error * row[k]
                    else:
                        for k in range(d):
                            row[k] = (row[k] - decay * row[k]) - error * user[k]
                    if learn_items:
                        row[d] = (row[d] - decay * row[d]) - error
            elif loss == BPR:
                good = values[base + samples[first]]
                for place in range(1, count):
                    bad = values[base + samples[first + place]]
                    error = pace * sigmoid((dot(user, bad, d) + bad[d]) - (dot(user, good, d) + good[d]))
                    for k in range(d):
                        u, p, n = user[k], good[k], bad[k]
                        if learn_users:
                            user[k] = (u - decay * u) - error * (n - p)
                        if learn_items:
                            good[k] = (p - decay * p) + error * u
                            bad[k] = (n - decay * n) - error * u
                    if learn_items:
                        good[d] = (good[d] - decay * good[d]) + error
                        bad[d] = (bad[d] - decay * bad[d]) - error
            elif count > 1:
                for place in range(count):
                    row = values[base + samples[first + place]]
                    errors[place] = dot(user, row, d) + row[d]
                softmax_errors(errors, count)
                for k in range(d):
                    step[k] = decay * user[k]
                for place in range(count):
                    row = values[base + samples[first + place]]
                    error = pace * errors[place]
                    for k in range(d):
                        step[k] += error * row[k]
                if learn_items:
                    for place in range(count):
                        row = values[base + samples[first + place]]
                        error = pace * errors[place]
                        for k in range(d):
                            row[k] = (row[k] - decay * row[k]) - error * user[k]
                        row[d] = (row[d] - decay * row[d]) - error
                if learn_users:
                    for k in range(d):
                        user[k] -= step[k]
        for entry in range(base, indptr[client + 1]):
            source = table[rows[entry]]
            target = values[entry]
            for column in range(d + 1):
                target[column] -= source[column]
