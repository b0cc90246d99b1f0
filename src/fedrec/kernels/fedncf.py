"""A round of generalised matrix factorisation for many clients: a private user vector, shared item rows and output."""

from __future__ import annotations

import numpy as np

from fedrec.kernels.draws import mark_items
from fedrec.kernels.personal_draws import drawn_samples, residual
from fedrec.kernels.records import HISTORIES, ROWS, takes
from fedrec.kernels.threads import parallel_kernel

__all__ = ["gmf_round"]


@parallel_kernel(
    takes(
        HISTORIES,
        "float32[:, ::1], float32[::1], float32[:, ::1], float32, float32, int64, int64[::1], boolean",
        ROWS,
        "float32[:, ::1]",
    ),
    over=lambda histories, *_: histories.indptr,
)
def gmf_round(  # type: ignore[no-untyped-def]
    begin, end, histories, table, output, users, rate, reg, epochs, sample_indptr, learn_shared, changed, out_output
):
    """SGD, sample by sample, on σ(⟨output, user ⊙ item⟩ + bias); users [c, d] change in place.

    Args: `histories`; `table` [items, d]; `output` [d weights, bias]; `sample_indptr` has the samples that a client
    draws in an epoch. With `learn_shared`, the touched rows and their changes go to `changed`, and the change of the
    output to `out_output` [c, d + 1].
    """
    indptr, items, excluded_indptr, excluded_items, seeds = histories
    out_indptr, out_rows, out_values, out_counts = changed
    n_items, d = table.shape
    most = 0
    for client in range(begin, end):
        most = max(most, sample_indptr[client + 1] - sample_indptr[client])
    marks, owner = np.full(n_items, -1, dtype=np.int32), np.full(n_items, -1, dtype=np.int32)
    slot_of, drawn = np.empty(n_items, dtype=np.int32), np.empty(most, dtype=np.int32)
    rows = np.empty((min(most * epochs, n_items), d), dtype=np.float32)
    order, head, bias = np.empty(len(rows), dtype=np.int32), np.empty(d, dtype=np.float32), np.float32(0.0)
    for client in range(begin, end):
        start, stop = indptr[client], indptr[client + 1]
        if start == stop:
            continue
        mark_items(marks, client, items, start, stop)
        mark_items(marks, client, excluded_items, excluded_indptr[client], excluded_indptr[client + 1])
        samples = sample_indptr[client + 1] - sample_indptr[client]
        draws = samples // (stop - start) - 1
        state, used, user = seeds[client], 0, users[client]
        bias = output[d]
        for k in range(d):
            head[k] = output[k]
        for _ in range(epochs):
            state = drawn_samples(state, marks, client, items, start, stop, draws, drawn)
            for i in range(samples):
                positive = drawn[i] >= 0
                item = drawn[i] if positive else ~drawn[i]
                if owner[item] != client:
                    owner[item] = client
                    slot_of[item] = used
                    order[used] = item
                    for k in range(d):
                        rows[used, k] = table[item, k]
                    used += 1
                slot = slot_of[item]
                logit = bias
                for k in range(d):
                    logit += head[k] * (user[k] * rows[slot, k])
                error = residual(logit, positive)
                for k in range(d):
                    u, v, h = user[k], rows[slot, k], head[k]
                    user[k] = u - rate * (error * h * v + reg * u)
                    if learn_shared:
                        rows[slot, k] = v - rate * (error * h * u + reg * v)
                        head[k] = h - rate * (error * u * v + reg * h)
                if learn_shared:
                    bias -= rate * error
        if learn_shared:
            base = out_indptr[client]
            out_counts[client] = used
            for slot in range(used):
                out_rows[base + slot] = order[slot]
                for k in range(d):
                    out_values[base + slot, k] = rows[slot, k] - table[order[slot], k]
            for k in range(d):
                out_output[client, k] = head[k] - output[k]
            out_output[client, d] = bias - output[d]
