"""Scores of several models on one scale: each client in an order of its own."""

from __future__ import annotations

import math

import numpy as np

from fedrec.kernels.threads import parallel_kernel

__all__ = ["add_standardised"]


@parallel_kernel(
    "void(float32[:, ::1], int64[::1], int32[::1], float64, float32[:, ::1])", over=lambda scores, *_: len(scores)
)
def add_standardised(begin, end, scores, indptr, items, weight, out):  # type: ignore[no-untyped-def]
    """out [c, items] += weight · (scores − mean) / deviation, of each client over its candidates.

    Candidates are the items that are not among the client's own, `items[indptr[c]:indptr[c + 1]]`, and whose score is
    finite. Equal scores of all candidates add 0; a score that is not finite adds itself.
    """
    for client in range(begin, end):
        row = scores[client]
        own = np.zeros(len(row), dtype=np.bool_)
        for entry in range(indptr[client], indptr[client + 1]):
            own[items[entry]] = True
        count, total = 0, 0.0
        for item in range(len(row)):
            if not own[item] and np.isfinite(row[item]):
                count += 1
                total += np.float64(row[item])
        mean = total / max(count, 1)
        squares = 0.0
        for item in range(len(row)):
            if not own[item] and np.isfinite(row[item]):
                off = np.float64(row[item]) - mean
                squares += off * off
        deviation = math.sqrt(squares / max(count, 1))
        scale = weight / deviation if deviation > 0.0 else 0.0
        for item in range(len(row)):
            if np.isfinite(row[item]):
                out[client, item] += np.float32((np.float64(row[item]) - mean) * scale)
            else:
                out[client, item] += row[item]
