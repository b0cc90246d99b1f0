"""Halves of histories, and the gradient of a softmax over many items: each client in an order of its own."""

from __future__ import annotations

import math

import numpy as np

from fedrec.kernels.keyed import next_word
from fedrec.kernels.records import HISTORIES, takes
from fedrec.kernels.threads import kernel, parallel_kernel

__all__ = ["softmax_errors", "toss_coins"]

_SHOWN, _WANTED = np.int8(1), np.int8(2)


@kernel("void(int64[::1], uint64[::1], float64, boolean[::1])")
def toss_coins(indptr, seeds, chance, heads):  # type: ignore[no-untyped-def]
    """heads [rows] = whether each row's coin, which falls so with `chance`, came up heads; a coin per row, from the
    stream of its client's seed."""
    for client in range(len(indptr) - 1):
        state = seeds[client]
        for row in range(indptr[client], indptr[client + 1]):
            state, word = next_word(state)
            heads[row] = np.float64(word >> np.uint64(11)) * (1.0 / 9007199254740992.0) < chance


@parallel_kernel(
    takes(HISTORIES, "boolean[::1], int32[::1], float32[:, ::1]"), over=lambda histories, *_: len(histories.indptr) - 1
)
def softmax_errors(begin, end, histories, shown, columns, errors):  # type: ignore[no-untyped-def]
    """Turn logits into the gradient of the loss by them.

    Args: `histories` [c], of whose rows those `shown` [rows] were the input and the others are wanted; `columns` [m],
    the column of each item, or −1 for an item without one; `errors` [c, columns], logits in, gradient out.

    The softmax of a client is over the columns that are neither shown nor excluded. With n wanted columns the loss is
    −Σ log softmax / √n over them, so the gradient is (n · softmax − 1 where wanted) / √n. A client of whom nothing was
    shown, or nothing is wanted, has a gradient of zero.
    """
    for client in range(begin, end):
        row = errors[client]
        width = len(row)
        first, last = histories.indptr[client], histories.indptr[client + 1]
        codes = np.zeros(width, dtype=np.int8)
        for entry in range(histories.excluded_indptr[client], histories.excluded_indptr[client + 1]):
            column = columns[histories.excluded_items[entry]]
            if column >= 0:
                codes[column] = _SHOWN
        n_shown, n_wanted = 0, 0
        for entry in range(first, last):
            column = columns[histories.items[entry]]
            n_shown += shown[entry]
            if column >= 0:
                codes[column] = _SHOWN if shown[entry] else _WANTED
                n_wanted += not shown[entry]
        if n_shown == 0 or n_wanted == 0:
            row[:] = np.float32(0.0)
            continue
        most = np.float32(-np.inf)
        for column in range(width):
            if codes[column] != _SHOWN and not row[column] <= most:
                most = row[column]
        total = 0.0
        for column in range(width):
            part = np.float32(0.0)
            if codes[column] != _SHOWN:
                part = np.float32(math.exp(row[column] - most))
            row[column] = part
            total += np.float64(part)
        root = math.sqrt(np.float64(n_wanted))
        scale, pull = np.float32(root / total), np.float32(1.0 / root)
        for column in range(width):
            row[column] *= scale
            if codes[column] == _WANTED:
                row[column] -= pull
