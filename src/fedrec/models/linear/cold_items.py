"""Scores of items that nobody has, from a model of those that somebody has and from what the catalog says of both.

Two items that the catalog describes alike get similar scores: kernel ridge regression of the columns of a scorer of
warm items on item features, K_ij = exp((cos(F_i, F_j) − 1) / h), with S = (K_ww + ρI)⁻¹ K_wc for warm items w and cold
items c. The scorer is the hat of ridge regression, H = (G + λI)⁻¹ G, which, unlike a scorer with a diagonal of zero,
gives an item to whoever has it: so its twin goes to them too. All of it follows from the sum that the model has anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import PositiveFloat
from scipy.linalg import cho_factor, cho_solve

from fedrec.data.catalog import Catalog
from fedrec.data.features import MOST_COLUMNS, ItemColumns, feature_matrix, unit_rows
from fedrec.models.base import Arrays, Recommender
from fedrec.models.shapes import Named, Shape

__all__ = ["ColdItems", "predict_columns", "predict_factors"]

_WIDTH = 0.5
_REG = 1.0


class ColdItems(Recommender):
    """A model that can score items that nobody has.

    Item features are read by `step` alone: what clients add does not depend on them. The coordinator has them as a
    server array `features`, from the start to the step that needs them.
    """

    if TYPE_CHECKING:  # fields of each model, after those that it had before
        item_features: ItemColumns | None
        boost: PositiveFloat

    def public(self, catalog: Catalog) -> Arrays:
        """Features of items, if the model reads any."""
        return {} if self.item_features is None else {"features": feature_matrix(catalog, self.item_features)}

    def feature_shapes(self, n_items: int) -> Named:
        """The server array of features."""
        if self.item_features is None:
            return {}
        return {"features": Shape((n_items, "features"), longest=MOST_COLUMNS)}


def predict_columns(
    weights: np.ndarray, diagonal: np.ndarray, reg: float, features: np.ndarray, warm: np.ndarray, boost: float
) -> None:
    """Fill the columns of cold items in EASE's weights: boost · H S.

    With P = (G + λI)⁻¹, B = −P / diag(P) and H = I − λP, H S = λ B diag(P) S + (1 − λ diag(P)) S.

    Args:
        weights: B [items, items] float32; columns of cold items are written.
        diagonal: diag(P) [items] float64.
        reg: λ.
        features: F [items, features] float32.
        warm: which items somebody has [items] bool.
        boost: factor that lets scores of cold items stand beside others.
    """
    if warm.all() or not warm.any():
        return
    cold = np.flatnonzero(~warm)
    places, of_warm = np.flatnonzero(warm), diagonal[warm]
    share = _shares(features, warm)
    scaled = (reg * of_warm)[:, None] * share
    found = weights[np.ix_(places, places)] @ scaled.astype(np.float32) + (share - scaled)
    weights[np.ix_(places, cold)] = (boost * found).astype(np.float32)


def predict_factors(arrays: Arrays, features: np.ndarray, warm: np.ndarray, boost: float) -> Arrays:
    """Factors of a low-rank model, see `fedrec.models.linear.sketch.low_rank_arrays`, with those of cold items: Sᵀ of
    the factors of warm ones."""
    if warm.all() or not warm.any():
        return arrays
    factors, gain, own = (arrays[name].copy() for name in ("factors", "gain", "own"))
    factors[~warm] = _shares(features, warm).T @ factors[warm].astype(np.float64)
    gain[~warm], own[~warm] = boost, 0.0
    return {"factors": factors, "gain": gain, "own": own}


def _shares(features: np.ndarray, warm: np.ndarray) -> np.ndarray:
    """S [warm, cold] float64."""
    unit = unit_rows(features.astype(np.float64))
    kernel = np.exp((unit[warm] @ unit.T - 1.0) / _WIDTH)
    inner = kernel[:, warm]
    inner[np.diag_indices(len(inner))] += _REG
    shares: np.ndarray = cho_solve(cho_factor(inner, lower=True, overwrite_a=True), kernel[:, ~warm])
    return shares
