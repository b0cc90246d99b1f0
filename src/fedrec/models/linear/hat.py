"""Columns of items that nobody has, in the matrices of linear models: those of the hat of ridge regression."""

from __future__ import annotations

import numpy as np

from fedrec.models.base import Arrays
from fedrec.models.cold_items import BOOST, COLD, predicted, shares

__all__ = ["hat_columns", "hat_factors"]


def hat_columns(arrays: Arrays, features: np.ndarray) -> dict[str, np.ndarray]:
    """EASE's weights with columns of cold items: boost · H S.

    With P = (G + λI)⁻¹, B = −P / diag(P) and H = I − λP, H S = λ B diag(P) S + (1 − λ diag(P)) S.

    Args:
        arrays: `weights` B [items, items] float32, `kept` λ diag(P) of warm items [items] float32, which items are
            cold, and the boost.
        features: F [items, features] float32.
    """
    weights, kept, cold = arrays["weights"].copy(), arrays["kept"], arrays[COLD]
    warm = ~cold
    if not cold.any() or not warm.any():
        return dict(arrays)
    share = shares(features, warm, cold)
    scaled = kept[warm].astype(np.float64)[:, None] * share
    columns = weights[np.ix_(warm, warm)] @ scaled.astype(np.float32) + (share - scaled)
    weights[np.ix_(warm, cold)] = (arrays[BOOST] * columns).astype(np.float32)
    return {**arrays, "weights": weights}


def hat_factors(arrays: Arrays, features: np.ndarray) -> dict[str, np.ndarray]:
    """Factors of a low-rank model, see `fedrec.models.linear.sketch.low_rank_arrays`, with those of cold items.

    Where items weigh d_j in G, cold items get columns of the hat of the weighed matrix, F F_j / d_j, of which features
    say more than of F F_j / d_j², and the weight that items have on average: d_j⁻² = gain_j / (1 + gain_j own_j).
    """
    factors, gain, own, cold = (arrays[name].copy() for name in ("factors", "gain", "own", COLD))
    if not cold.all():
        inverse = np.sqrt(gain / (1.0 + gain * own))
        factors[cold] = predicted(factors * inverse[:, None], features, cold)
        gain[cold], own[cold] = arrays[BOOST] * inverse[~cold].mean(dtype=np.float64), 0.0
    return {**arrays, "factors": factors, "gain": gain, "own": own}
