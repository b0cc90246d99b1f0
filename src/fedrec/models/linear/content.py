"""Content: scores from what the catalog says of items, by a bilinear map in closed form.

A user is the sum of the features of the user's items, and a map says which features go with which (a bilinear
regression, as in Chu & Park 2009, "Personalized recommendation on dynamic content using predictive bilinear models",
WWW; here with squared loss over all items, so that it has a closed form in sums).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import PositiveFloat

from fedrec.aggregation.contributions import Contributions, RankOne
from fedrec.aggregation.queries import Metric, Query
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.features import MOST_COLUMNS, ItemColumns, feature_matrix
from fedrec.data.interactions import offsets
from fedrec.data.keys import KeyedSource
from fedrec.errors import InputError
from fedrec.kernels.scoring import dot_items, dot_rows, gather_rows
from fedrec.models.base import (
    Arrays,
    Given,
    Private,
    PrivateRecommender,
    PrivateTerms,
    Recommender,
    State,
    cosines,
)
from fedrec.models.linear.counts import count_spec, counted
from fedrec.models.linear.gram import unpack_triangle
from fedrec.models.linear.private_gram import FROBENIUS
from fedrec.models.shapes import Form, Shape, Shapes
from fedrec.models.traits import Cost
from fedrec.threads import one_blas_thread

__all__ = ["Content", "PrivateContent"]

_BITS = 16
_MOST_ITEMS = 4096.0
"""A profile beyond this many items saturates, and is counted."""
_COUNTS = Metric(weight=4.0)
_NOISE = 2.0
"""Eigenvalues of symmetric noise of deviation 1 [n, n] reach 2 √n."""
_USUAL = 512
"""More features than most catalogs have."""


class Content(Recommender):
    """score = p W F_jᵀ, with F_j the features of item j and p = Σ F_i over the user's items: one round.

    W minimises Σ_u ‖p_u W Fᵀ‖² − 2 Σ_u Σ_{i∈u} (p_u − F_i) W F_iᵀ + λ‖W‖²: what a user has shall score 1 without its
    own help, all else 0. Clients sum p pᵀ and item counts n; with A = Σ p pᵀ, B = FᵀF and A₀ = A − Fᵀ diag(n) F, W
    follows from the eigenvectors of A and B. An item that nobody has is scored as all others are. What is summed of
    profiles does not grow with the catalog.

    Args:
        item_features: columns of the catalog, and how each is read, as in `{genres: categories, title: [year, text],
            price: numbers, cover: vectors}`, or with weights, `{title: {text: 0.5}}`. `auto` takes lists of text as
            categories, lists of numbers as vectors and dates as years.
        reg: regularisation λ, in millionths of trace(A) · trace(B), so that one value suits few features and many.
            Larger values keep to what is common to most users.

    Example:
        >>> Content(item_features={"genres": "categories", "title": ["year", "text"]}).item_features["title"]
        {'year': 1.0, 'text': 1.0}
    """

    item_features: ItemColumns = "auto"
    reg: PositiveFloat = 5.0

    name: ClassVar[str] = "content"

    @property
    def rounds(self) -> int:
        """One."""
        return 1

    def public(self, catalog: Catalog) -> Arrays:
        """F [items, features]."""
        return {"features": feature_matrix(catalog, self.item_features)}

    def shapes(self, n_items: int) -> Shapes:
        """How many features and items there are, with the features at the coordinator; then the map."""
        known = {"width": Shape((1,), "int64", 1, MOST_COLUMNS + 1), "items": Shape((n_items, 0))}
        features = {"features": Shape((n_items, "features"), longest=MOST_COLUMNS)}
        return Shapes((Form(known, features), Form({"map": Shape(("features", "features"), longest=MOST_COLUMNS)})))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """No map yet."""
        n_items, width = public["features"].shape
        shared = {"width": np.array([width]), "items": np.zeros((n_items, 0), dtype=np.float32)}
        return State(shared, {"features": public["features"]})

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """The upper triangle of Σ p pᵀ, and item counts, once."""
        if round > 0:
            return None
        size, n_items = triangle_size(max(int(shared["width"][0]), 1)), len(shared["items"])
        longest = min(float(n_items), _MOST_ITEMS)
        profiles = ArraySpec("profiles", "rank_one", (size,), bound=longest**2, scale_bits=_BITS, role="count")
        return SumSpec((profiles, self._count_spec(n_items)))

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """p pᵀ, and one for every item."""
        profiles = _profiles(given, clients)
        ones = np.ones(len(clients))
        return Contributions({"profiles": _squared(profiles, ones), "counts": counted(clients)}), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """The map, from two eigendecompositions."""
        features = state.server["features"].astype(np.float64)
        profiles = unpack_triangle(total.arrays["profiles"], features.shape[1], 1.0 / total.spec["profiles"].unit)
        noise = _NOISE * total.noise.get("profiles", 0.0) / FROBENIUS.weight * len(profiles) ** 0.5
        return State({"map": bilinear_map(features, profiles, total.value("counts")[:, 0], self.reg, noise)})

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """Noisy sums of profiles of length 1, see `PrivateContent`."""
        return PrivateContent.of(self, terms)

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """p W Fᵀ."""
        features = given.public["features"]
        table = features if items is None else np.ascontiguousarray(features[items])
        mapped = np.empty((len(clients), features.shape[1]), dtype=np.float32)
        none = np.zeros(features.shape[1], dtype=np.float32)
        dot_rows(_profiles(given, clients).astype(np.float32), np.ascontiguousarray(given.shared["map"]), none, mapped)
        scores = np.empty((len(clients), len(table)), dtype=np.float32)
        dot_items(mapped, table, scores)
        return scores

    def extended(self, shared: Arrays, before: np.ndarray, features: np.ndarray, places: np.ndarray) -> Arrays:
        """The same map, where new items leave the features of the others as they were; see `fedrec.models.more_items`.

        Raises:
            InputError: if they do not.
        """
        if before.shape[1] != features.shape[1] or not np.array_equal(before, features[places]):
            raise InputError(
                "the new items change what the features of all others are: they have categories or years that no item "
                "had, or a column is read as text, numbers or vectors, which compare an item with all items. Train "
                "again, or take ease with item_features, which makes nothing of single features"
            )
        return shared

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """Cosines of features: what items have in common."""
        return cosines(given.public["features"], items)

    def cost(self, n_items: int) -> Cost:
        """Features, twice, and what is summed and solved; a profile for each client."""
        return Cost(memory=16 * _USUAL * n_items + 64 * _USUAL * _USUAL, per_client=2 * _USUAL)

    def _count_spec(self, n_items: int) -> ArraySpec:
        return count_spec(n_items)


class PrivateContent(PrivateRecommender, Content):
    """The map of noisy sums: profiles have length 1, and users weigh 1 / ‖p‖².

    A client's p pᵀ has norm 1 then, however long the history; counts of its items, 1 / ‖p‖² for each, are small beside
    it. The clip bounds both together, 1 by default.

    Args:
        reg: regularisation λ, in millionths of trace(A) · trace(B); the deviation of the noise comes on top.
    """

    reg: PositiveFloat = 50.0

    default_clip: ClassVar[float] = 1.0

    @property
    def budget_shares(self) -> tuple[float, ...]:
        """All of the budget for the one round."""
        return (1.0,)

    def queries(self, shared: Arrays, round: int) -> tuple[Query, ...]:
        """Profiles in the norm of matrices, with item counts."""
        return (Query({"profiles": FROBENIUS, "counts": _COUNTS}, self.clip),)

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """p pᵀ / ‖p‖², and 1 / ‖p‖² for every item."""
        profiles = _profiles(given, clients)
        squares = np.sum(profiles**2, axis=1)
        weights = np.divide(1.0, squares, out=np.zeros_like(squares), where=squares > 0)
        return Contributions({"profiles": _squared(profiles, weights), "counts": counted(clients).scale(weights)}), None

    def _count_spec(self, n_items: int) -> ArraySpec:
        return replace(count_spec(n_items), scale_bits=_BITS)


def bilinear_map(
    features: np.ndarray, profiles: np.ndarray, counts: np.ndarray, reg: float, noise: float = 0.0
) -> np.ndarray:
    """W [features, features] float32, see `Content`.

    Args:
        features: F [items, features] float64.
        profiles: A = Σ w p pᵀ [features, features].
        counts: Σ w over the clients that have an item [items].
        reg: λ in millionths of trace(A) · trace(FᵀF).
        noise: how far noise moves eigenvalues of A; it is added to them.
    """
    with one_blas_thread():
        own = features.T @ (counts[:, None] * features)
        gram = features.T @ features
        values, turn = np.linalg.eigh(profiles)
        item_values, item_turn = np.linalg.eigh(gram)
        values = np.maximum(values, 0.0)
        ridge = max(reg * 1e-6 * float(values.sum() * np.trace(gram)), 1e-12)
        wanted = turn.T @ (profiles - own) @ item_turn
        found = turn @ (wanted / ((values[:, None] + noise) * np.maximum(item_values, 0.0) + ridge)) @ item_turn.T
    return np.ascontiguousarray(found, dtype=np.float32)


def _profiles(given: Given, clients: Clients) -> np.ndarray:
    """p [clients, features] float64, exact: features are multiples of 2⁻¹⁶."""
    features = given.public["features"]
    out = np.empty((len(clients), features.shape[1]))
    gather_rows(clients.indptr, clients.items, clients.weights, features, out)
    return out


def _squared(profiles: np.ndarray, weights: np.ndarray) -> RankOne:
    """w p pᵀ as an upper triangle."""
    there = profiles != 0
    values = profiles[there].astype(np.float32)
    columns = np.nonzero(there)[1].astype(np.int32)
    return RankOne(offsets(there.sum(axis=1)), columns, weights, profiles.shape[1], None, values)
