"""A round of PFedRec for many clients: a private linear head, and an item table that each client overwrites.

In a batch every item row moves along the head, v_j ← v_j − rate · γ · w with γ = Σ residual / batch size. So what a
client does to the table is one pair (item, γ) per sample and one head per batch, and its own rows are never written
down: the product of one with a head is the shared row's, less Σ rate · γ · ⟨head of the batch, head⟩ over the samples
of that item.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedrec.kernels.draws import mark_items
from fedrec.kernels.lanes import lane_dot
from fedrec.kernels.personal_draws import drawn_samples, residual
from fedrec.kernels.records import HISTORIES, ROWS, record, takes
from fedrec.kernels.threads import parallel_kernel

__all__ = ["Moves", "overwrite_scores", "personal_round"]

_RESTART = 1 << 30


class Moves(NamedTuple):
    """How the items moved.

    Args:
        items: [samples] int32, the item of each sample.
        weights: [samples] float32, how far it moved (γ).
        heads: [batches, d] float32, the head that the items of a batch moved along.
    """

    items: np.ndarray
    weights: np.ndarray
    heads: np.ndarray


_MOVES = record(Moves, "int32[::1], float32[::1], float32[:, ::1]")


@parallel_kernel(
    takes(
        HISTORIES,
        "float32[:, ::1], float32[:, ::1], float32, float32, int64, int64, boolean, int64[::1], int64[::1]",
        _MOVES,
        ROWS,
    ),
    over=lambda histories, *_: histories.indptr,
)
def personal_round(  # type: ignore[no-untyped-def]
    begin,
    end,
    histories,
    table,
    heads,
    rate,
    item_rate,
    epochs,
    batch,
    learn_items,
    sample_indptr,
    batch_indptr,
    moved_items,
    owned,
):
    """Train every client's head [d weights, bias], a row of `heads` [c, d + 1], in place, and move the items.

    Args: `histories`; `table` [items, width], zeros beyond d up to a multiple of 16; SGD with `rate` on the head, then,
    with `learn_items`, with `item_rate` on the items, in batches of `batch` samples whose loss is a mean.
    `sample_indptr[c]` to `sample_indptr[c + 1]` are a client's samples over all epochs, `batch_indptr` its batches.
    Out: `moved_items`, by sample and by batch. Where `owned` has room, the distinct items of client c and the logits
    [:, 1] of its own rows under its final head.
    """
    indptr, items, excluded_indptr, excluded_items, seeds = histories
    out_items, out_weights, out_heads = moved_items
    own_indptr, own_items, own_logits, own_counts = owned
    n_items, width = table.shape
    d = heads.shape[1] - 1
    most, pieces = 0, 1
    for client in range(begin, end):
        most = max(most, sample_indptr[client + 1] - sample_indptr[client])
        pieces = max(pieces, batch_indptr[client + 1] - batch_indptr[client])
    marks = np.full(n_items, -1, dtype=np.int32)
    last = np.full(n_items, -1, dtype=np.int32)  # an item's newest sample, counted on from client to client
    drawn, placed = np.empty(most, dtype=np.int32), np.empty(batch, dtype=np.int32)
    previous, batch_of = np.empty(most, dtype=np.int32), np.empty(most, dtype=np.int32)
    moves, ours = np.empty(most, dtype=np.float32), np.empty(most + 1, dtype=np.int32)
    # Earlier moves of the items of a batch: sample of the batch, earlier batch, how far.
    whose, when = np.empty(batch * pieces + 1, dtype=np.int32), np.empty(batch * pieces + 1, dtype=np.int32)
    far = np.empty(batch * pieces + 1, dtype=np.float32)
    heads_of, head = np.zeros((pieces, width), dtype=np.float32), np.zeros((1, width), dtype=np.float32)
    along, share = np.empty(pieces, dtype=np.float32), np.empty(pieces, dtype=np.float32)
    logits, errors = np.empty(batch, dtype=np.float32), np.empty(batch, dtype=np.float32)
    positive, slope = np.empty(batch, dtype=np.bool_), np.empty(width, dtype=np.float32)
    stamp = 0
    for client in range(begin, end):
        start, stop = indptr[client], indptr[client + 1]
        if start == stop:
            continue
        mark_items(marks, client, items, start, stop)
        mark_items(marks, client, excluded_items, excluded_indptr[client], excluded_indptr[client + 1])
        samples = (sample_indptr[client + 1] - sample_indptr[client]) // epochs
        draws = samples // (stop - start) - 1
        base, piece, done, own = sample_indptr[client], 0, 0, 0
        if stamp > _RESTART:
            last[:] = -1
            stamp = 0
        for k in range(d):
            head[0, k] = heads[client, k]
        bias = heads[client, d]
        state = seeds[client]
        for _ in range(epochs):
            state = drawn_samples(state, marks, client, items, start, stop, draws, drawn)
            for low in range(0, samples, batch):
                size = min(batch, samples - low)
                scale = np.float32(1.0) / np.float32(size)
                for i in range(size):
                    item = drawn[low + i]
                    positive[i] = item >= 0
                    placed[i] = item if item >= 0 else ~item
                moved = 0
                for i in range(size if piece > 0 else 0):
                    entry = last[placed[i]] - stamp
                    first = max(entry, 0)  # written in any case, kept if it counts: the branch is a coin toss
                    whose[moved], when[moved], far[moved] = i, batch_of[first], item_rate * moves[first]
                    moved += entry >= 0
                    entry = previous[first] if entry >= 0 else -1
                    while entry >= 0:
                        whose[moved], when[moved], far[moved] = i, batch_of[entry], item_rate * moves[entry]
                        moved += 1
                        entry = previous[entry]
                for earlier in range(piece):
                    along[earlier] = lane_dot(heads_of, earlier, head, 0, width)
                    share[earlier] = np.float32(0.0)
                for i in range(size):
                    logits[i] = lane_dot(table, placed[i], head, 0, width) + bias
                for move in range(moved):
                    logits[whose[move]] -= far[move] * along[when[move]]
                for i in range(size):
                    errors[i] = residual(logits[i], positive[i]) * scale
                for move in range(moved):
                    share[when[move]] += errors[whose[move]] * far[move]
                total = np.float32(0.0)
                for k in range(width):
                    slope[k] = np.float32(0.0)
                for i in range(size):
                    error, item = errors[i], placed[i]
                    total += error
                    for k in range(width):
                        slope[k] += error * table[item, k]
                for earlier in range(piece):
                    for k in range(width):
                        slope[k] -= share[earlier] * heads_of[earlier, k]
                for k in range(d):
                    head[0, k] -= rate * slope[k]
                bias -= rate * total
                if not learn_items:
                    continue
                for earlier in range(piece):
                    along[earlier] = lane_dot(heads_of, earlier, head, 0, width)
                for i in range(size):
                    logits[i] = lane_dot(table, placed[i], head, 0, width) + bias
                for move in range(moved):
                    logits[whose[move]] -= far[move] * along[when[move]]
                for i in range(size):
                    out_weights[base + done + i] = residual(logits[i], positive[i]) * scale
                for i in range(size):
                    item, weight = placed[i], out_weights[base + done + i]
                    out_items[base + done + i] = item
                    entry = last[item] - stamp
                    if entry >= done:
                        moves[entry] += weight
                        continue
                    ours[own] = item
                    own += entry < 0
                    previous[done + i], batch_of[done + i], moves[done + i] = max(entry, -1), piece, weight
                    last[item] = stamp + done + i
                for k in range(d):
                    heads_of[piece, k] = head[0, k]
                    out_heads[batch_indptr[client] + piece, k] = head[0, k]
                piece += 1
                done += size
        for k in range(d):
            heads[client, k] = head[0, k]
        heads[client, d] = bias
        if len(own_items) > 0:
            own_counts[client] = own
            for earlier in range(piece):
                along[earlier] = lane_dot(heads_of, earlier, head, 0, width)
            for place in range(own):
                item = ours[place]
                logit = lane_dot(table, item, head, 0, width) + bias
                entry = last[item] - stamp
                while entry >= 0:
                    logit -= item_rate * moves[entry] * along[batch_of[entry]]
                    entry = previous[entry]
                own_items[own_indptr[client] + place] = item
                own_logits[own_indptr[client] + place, 0] = logit
        stamp += done


@parallel_kernel(
    "void(int64[::1], int64[::1], int32[::1], float32[:, ::1], float32[:, ::1])", over=lambda starts, *_: len(starts)
)
def overwrite_scores(begin, end, starts, lengths, items, values, scores):  # type: ignore[no-untyped-def]
    """scores [c, items] at each client's own items = the client's own values [:, 1]."""
    for client in range(begin, end):
        for row in range(starts[client], starts[client] + lengths[client]):
            scores[client, items[row]] = values[row, 0]
