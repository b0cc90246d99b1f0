"""Scores of items that nobody has, from a model of those that somebody has and from what the catalog says of both.

Two items that the catalog describes alike get similar vectors: kernel ridge regression on item features, with the
kernel K_ij = exp((cos(F_i, F_j) − 1) / h) and S = (K_ww + ρI)⁻¹ K_wc for warm items w and cold items c. A model that
has a vector for each item gives cold items Sᵀ times the vectors of warm ones. `ease` has columns of a matrix instead:
of the hat of ridge regression, H = (G + λI)⁻¹ G, which, unlike weights with a diagonal of zero, gives an item to
whoever has it, so that its twin goes to them too. All of it follows from sums that the model has anyway.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import PositiveFloat
from scipy.linalg import cho_factor, cho_solve

from fedrec.data.catalog import Catalog
from fedrec.data.features import MOST_COLUMNS, ItemColumns, feature_matrix, unit_rows
from fedrec.errors import PlanError
from fedrec.models.base import Arrays, Recommender
from fedrec.models.later_settings import LaterSettings
from fedrec.models.shapes import Named, Shape

__all__ = [
    "BOOST",
    "BOOSTS",
    "CAREFUL_BOOSTS",
    "COLD",
    "USUAL",
    "USUAL_BOOST",
    "Boost",
    "ColdItems",
    "boosted_biases",
    "boosted_rows",
    "filled_rows",
    "predicted",
    "shares",
    "usual_row",
]

COLD = "cold"
"""Name of the shared array that says which items nobody has."""
BOOST = "boost"
"""Name of the shared array that says how much the scores of these are multiplied by."""
USUAL = "usual"
"""Name of the shared array with the mean row of interactions, in models with biases of items."""
USUAL_BOOST = 3.0
BOOSTS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 15.0)
CAREFUL_BOOSTS = (0.5, 0.8, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0, 3.0)
"""Boosts of which validation chooses one."""
Boost = PositiveFloat | Literal["auto", "careful"]

_WIDTH = 0.5
_REG = 1.0


class ColdItems(LaterSettings):
    """A model that can score items that nobody has.

    Item features are read by `step` alone: what clients add does not depend on features. The coordinator has them as a
    server array `features`, from the start to the step that needs them. The shared arrays of a finished model say which
    items are cold, and which boost they have.
    """

    if TYPE_CHECKING:  # fields of each model, after those that it had before
        item_features: ItemColumns | None
        boost: Boost

    @abstractmethod
    def filled(self, arrays: Arrays, features: np.ndarray) -> dict[str, np.ndarray]:
        """The shared arrays of a finished model with what features say of cold items.

        Args:
            arrays: of all other items, with `cold_arrays`.
            features: F [items, features] float32.
        """

    @abstractmethod
    def boosted(self, shared: Arrays, factor: float) -> dict[str, np.ndarray]:
        """The shared arrays of a finished model with a boost `factor` times as large."""

    @property
    def reads_catalog(self) -> bool:
        """Whether it reads what the catalog says of items."""
        return self.item_features is not None

    def public(self, catalog: Catalog) -> Arrays:
        """Features of items, if the model reads any."""
        return {} if self.item_features is None else {"features": feature_matrix(catalog, self.item_features)}

    def feature_shapes(self, n_items: int) -> Named:
        """The server array of features."""
        if self.item_features is None:
            return {}
        return {"features": Shape((n_items, "features"), longest=MOST_COLUMNS)}

    def cold_shapes(self, n_items: int) -> Named:
        """The shared arrays of a model that say which items are cold, and their boost."""
        return {} if self.item_features is None else {COLD: Shape((n_items,), "bool"), BOOST: Shape((1,), "float64")}

    def row_shapes(self, n_items: int, width: int) -> Named:
        """As `cold_shapes`, for a model that has a table [items, width] of vectors and biases."""
        shapes = self.cold_shapes(n_items)
        return {**shapes, USUAL: Shape((width,), "float64")} if shapes else shapes

    def none_cold(self, n_items: int, width: int) -> dict[str, np.ndarray]:
        """The arrays of `row_shapes` while no item is scored from its features yet."""
        none = self.cold_arrays(np.zeros(n_items, dtype=np.bool_))
        return {**none, USUAL: np.zeros(width)} if none else none

    def cold_arrays(self, cold: np.ndarray) -> dict[str, np.ndarray]:
        """These arrays, for items that are cold [items] bool; nothing for a model that reads no features."""
        return {} if self.item_features is None else {COLD: cold, BOOST: np.array([self.first_boost])}

    @property
    def boosts(self) -> tuple[float, ...]:
        """Boosts of which validation may choose one; empty where the plan names the boost."""
        if self.item_features is None or not isinstance(self.boost, str):
            return ()
        return BOOSTS if self.boost == "auto" else CAREFUL_BOOSTS

    @property
    def first_boost(self) -> float:
        """The boost of the model that `step` makes: where validation may choose another, the usual one or, if that
        shall be careful, 1."""
        if isinstance(self.boost, str):
            return USUAL_BOOST if self.boost == "auto" else 1.0
        return self.boost

    def extended(
        self, shared: Arrays, before: np.ndarray, features: np.ndarray, places: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The shared arrays for a larger catalog, whose new items are cold; see `fedrec.models.more_items`."""
        larger = spread(shared, self, len(features), places)
        larger[COLD][np.setdiff1d(np.arange(len(features)), places)] = True
        return self.filled(larger, features)

    def cold_memory(self, n_items: int) -> int:
        """Bytes that the coordinator needs for the kernel of all items."""
        return 0 if self.item_features is None else 24 * n_items * n_items

    def check_not_private(self) -> None:
        """Check that a form under privacy is not asked for features.

        Raises:
            PlanError: if it is.
        """
        if self.item_features is not None:
            raise PlanError(
                f"{self.name} under privacy scores no items that nobody has: the noise does not tell which these are; "
                "leave out item_features, or take content"
            )


def spread(shared: Arrays, model: Recommender, n_items: int, places: np.ndarray) -> dict[str, np.ndarray]:
    """The shared arrays of a finished model with zeros for the items that a larger catalog has besides.

    Args:
        shared: the arrays.
        model: whose they are.
        n_items: length of the larger catalog.
        places: positions of the old items in it [old items] int64.
    """
    before, after = (model.shapes(count).states[-1].shared for count in (len(places), n_items))
    larger = {}
    for name, array in shared.items():
        grows = [axis != old for axis, old in zip(after[name].axes, before[name].axes, strict=True)]
        shape = [n_items if grown else size for grown, size in zip(grows, array.shape, strict=True)]
        larger[name] = np.zeros(shape, dtype=array.dtype)
        where = (places if grown else np.arange(size) for grown, size in zip(grows, array.shape, strict=True))
        larger[name][np.ix_(*where)] = array
    return larger


def boosted_rows(shared: Arrays, name: str, factor: float, axis: int = 0) -> dict[str, np.ndarray]:
    """Shared arrays in which what one of them has of cold items, along an axis of items, is times the factor."""
    array = shared[name].copy()
    np.moveaxis(array, axis, 0)[shared[COLD]] *= np.float32(factor)
    return {**shared, name: array, BOOST: shared[BOOST] * factor}


def filled_rows(arrays: Arrays, name: str, features: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays with rows of cold items in a table [items, d + 1] of vectors and biases: the row `usual`, and what
    features say of how rows differ from their mean; the logarithm of the boost is added to the biases. Rows of items of
    which the catalog says nothing stay."""
    table, cold = arrays[name].copy(), arrays[COLD]
    if not cold.all():
        middle = table[~cold].mean(axis=0, dtype=np.float64)
        rows = arrays[USUAL] + predicted(table - middle, features, cold)
        rows[:, -1] += np.log(arrays[BOOST])
        described = features[cold].any(axis=1)
        table[np.flatnonzero(cold)[described]] = rows[described]
    return {**arrays, name: table}


def boosted_biases(shared: Arrays, name: str, factor: float) -> dict[str, np.ndarray]:
    """Shared arrays in which the logarithm of the factor is added to the biases of cold items."""
    table = shared[name].copy()
    table[shared[COLD], -1] += np.float32(np.log(factor))
    return {**shared, name: table, BOOST: shared[BOOST] * factor}


def usual_row(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean row of interactions [d + 1] float64.

    Args:
        table: rows of items [items, d + 1].
        counts: clients that have each item [items].
    """
    if not counts.any():
        return np.zeros(table.shape[1])
    row: np.ndarray = np.average(table.astype(np.float64), axis=0, weights=counts)
    return row


def predicted(table: np.ndarray, features: np.ndarray, cold: np.ndarray) -> np.ndarray:
    """Vectors of cold items [cold, d] float64, by kernel ridge regression of those of warm items on features.

    Args:
        table: vectors of all items [items, d]; those of cold items are not read.
        features: F [items, features] float32.
        cold: which items nobody has [items] bool.

    Example:
        Two warm items and a cold one that is described like the first:

        >>> features = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=np.float32)
        >>> table = np.array([[8.0], [0.0], [0.0]])
        >>> predicted(table, features, np.array([False, False, True])).round(1).tolist()
        [[4.0]]
    """
    vectors: np.ndarray = shares(features, ~cold, cold).T @ table[~cold].astype(np.float64)
    return vectors


def shares(features: np.ndarray, warm: np.ndarray, cold: np.ndarray) -> np.ndarray:
    """S [warm, cold] float64, 0 for cold items of which the catalog says nothing.

    Args:
        features: F [items, features] float32.
        warm, cold: which items are [items] bool.
    """
    if not warm.any() or not cold.any():
        return np.zeros((int(warm.sum()), int(cold.sum())))
    unit = unit_rows(features.astype(np.float64))
    inner = np.exp((unit[warm] @ unit[warm].T - 1.0) / _WIDTH)
    inner[np.diag_indices(len(inner))] += _REG
    across = np.exp((unit[warm] @ unit[cold].T - 1.0) / _WIDTH) * unit[cold].any(axis=1)
    found: np.ndarray = cho_solve(cho_factor(inner, lower=True, overwrite_a=True), across)
    return found
