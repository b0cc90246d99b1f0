"""Samples of a personalised round: positives, fresh negatives, a shuffle, and residuals of the logistic loss."""

from __future__ import annotations

import numba
import numpy as np

from fedrec.kernels.draws import draw_unmarked
from fedrec.kernels.keyed import below, next_word

__all__ = ["drawn_samples", "residual"]

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_MOST = np.float32(80.0)


@numba.njit(inline="always")
def drawn_samples(state, marks, mark, items, start, stop, draws, samples):  # type: ignore[no-untyped-def]
    """Fill `samples` with one epoch in random order, `i` for a positive item, `~i` for a negative: the new state.

    There are `draws` negatives to a positive, distinct within a positive, and outside the items marked with `mark`.
    """
    used = 0
    for entry in range(start, stop):
        samples[used] = items[entry]
        used += 1
        first = used
        while used < first + draws:
            state, item = draw_unmarked(state, marks, mark)
            fresh = True
            for other in range(first, used):
                if samples[other] == ~item:
                    fresh = False
            if fresh:
                samples[used] = ~item
                used += 1
    for place in range(used - 1, 0, -1):
        state, word = next_word(state)
        other = below(word, place + 1)
        samples[place], samples[other] = samples[other], samples[place]
    return state


@numba.njit(inline="always")
def residual(logit, positive):  # type: ignore[no-untyped-def]
    """σ(logit) − 1 for a positive, σ(logit) for a negative, without cancellation: exp by range reduction.

    (Cephes `expf`: relative error below 2e-7.)
    """
    x = logit if positive else -logit
    x = min(max(x, -_MOST), _MOST)
    whole = np.float32(np.floor(x * _LOG2E + np.float32(0.5)))
    r = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    grown = p * (r * r) + r + np.float32(1.0)
    power = (np.int32(whole) + np.int32(127)) << np.int32(23)
    error = np.float32(1.0) / (np.float32(1.0) + grown * np.int32(power).view(np.float32))
    return -error if positive else error
