"""Small models that have what no model of the library has."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from fedrec.aggregation.contributions import Contributions, Dense, RankOne
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.models.base import Arrays, Given, Private, PrivateRecommender, PrivateTerms, Recommender, State, of_items
from fedrec.models.factors.biased_mf import BiasedMF
from fedrec.models.linear.popularity import Popularity, PrivatePopularity
from fedrec.models.registry import MODELS
from fedrec.models.shapes import Form, Shape, Shapes
from fedrec.models.traits import Cost, Traits


class PooledPopularity(Popularity):
    """Counts that say of themselves that no client can be told from the others."""

    name: ClassVar[str] = "pooled-popularity"

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Item counts, pooled."""
        shape = (len(shared["counts"]), 1)
        return None if round else SumSpec((ArraySpec("counts", "rank_one", shape, bound=1.0, pooled=True),))

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """Noisy counts, pooled."""
        return PrivatePooledPopularity.of(self, terms)


class PrivatePooledPopularity(PrivatePopularity, PooledPopularity):
    """Noisy counts in which no client can be told from the others."""


class RowCount(Popularity):
    """How many rows there are of each item, whoever took it how often; histories are scored by their own rows."""

    name: ClassVar[str] = "row-count"
    traits: ClassVar[Traits] = Traits(reads=frozenset({"items", "repeats"}))

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Rows per item, of up to 64 of a client."""
        shape = (len(shared["counts"]), 1)
        return None if round else SumSpec((ArraySpec("counts", "rank_one", shape, bound=64.0, role="count"),))

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """Rows of the client's own history."""
        own = np.zeros((len(clients), clients.n_items), dtype=np.float32)
        np.add.at(own, (np.repeat(np.arange(len(clients)), clients.lengths), clients.items), 1.0)
        return of_items(own, items)


class AgeCount(Popularity):
    """Counts in which a client counts as often as its feature `age` says."""

    name: ClassVar[str] = "age-count"
    traits: ClassVar[Traits] = Traits(reads=frozenset({"items", "user_features"}), scores_history=False)

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Years per item."""
        shape = (len(shared["counts"]), 1)
        return None if round else SumSpec((ArraySpec("counts", "rank_one", shape, bound=100.0, role="count"),))

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """The client's age for each of its items."""
        assert clients.features is not None
        ages = clients.features["age"].to_numpy().astype(np.float64)
        counts = RankOne(clients.indptr, clients.items, ages, clients.n_items, np.ones((len(clients), 1)))
        return Contributions({"counts": counts}), None


class GenreTaste(Recommender):
    """score = Σ over genres of (the user's items of the genre) · (all interactions with it) for an item's genres: a
    model that reads what the catalog says of items."""

    name: ClassVar[str] = "genre-taste"
    rounds: int = 1
    started: ClassVar[int] = 0
    """How often a model was made."""

    def public(self, catalog: Catalog) -> Arrays:
        """Which item is of which genre [items, genres] float32, genres in the order of the alphabet."""
        assert catalog.features is not None
        of_item = catalog.features["genres"].to_list()
        known = sorted({genre for genres in of_item for genre in genres})
        return {"genres": np.array([[genre in genres for genre in known] for genres in of_item], dtype=np.float32)}

    def shapes(self, n_items: int) -> Shapes:
        """A number per genre."""
        return Shapes((Form({"totals": Shape(("genres",))}),))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """Zeros."""
        type(self).started += 1
        return State({"totals": np.zeros(public["genres"].shape[1], dtype=np.float32)})

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Interactions with each genre."""
        n_genres = len(shared["totals"])
        return None if round else SumSpec((ArraySpec("totals", "dense", (n_genres,), bound=4096.0),))

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """The client's own."""
        return Contributions({"totals": Dense(self._own(given, clients), np.ones(len(clients)))}), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """Keep the sum."""
        return State({"totals": total.value("totals").astype(np.float32)})

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """Whole numbers, so that no order of adding matters."""
        liked = self._own(given, clients) * given.shared["totals"]
        return of_items(np.asarray(liked @ given.public["genres"].T), items)

    def cost(self, n_items: int) -> Cost:
        """Next to nothing."""
        return Cost(memory=64 * n_items)

    def _own(self, given: Given, clients: Clients) -> np.ndarray:
        own = np.zeros((len(clients), given.public["genres"].shape[1]), dtype=np.float32)
        owners = np.repeat(np.arange(len(clients)), clients.lengths)
        np.add.at(own, owners, given.public["genres"][clients.items])
        return own


class GenreRatings(BiasedMF):
    """Ratings, and a tenth of a star for each genre of an item."""

    name: ClassVar[str] = "genre-ratings"
    traits: ClassVar[Traits] = BiasedMF.traits

    def public(self, catalog: Catalog) -> Arrays:
        """How many genres an item has [items] float32; 0 where nothing is said of an item."""
        assert catalog.features is not None
        counts = catalog.features["genres"].list.len().fill_null(0)
        return {"genres": counts.to_numpy().astype(np.float32)}

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """Those of `biased-mf`, and what the genres add."""
        return of_items(super().score(given, clients, private) + np.float32(0.1) * given.public["genres"], items)


class FussyRatings(GenreRatings):
    """Ratings by a model that makes nothing of an item without genres."""

    name: ClassVar[str] = "fussy-ratings"
    another: bool = False

    def public(self, catalog: Catalog) -> Arrays:
        """One column for each number of genres; fails without genres, or takes them for another number."""
        assert catalog.features is not None
        genres = catalog.features["genres"].to_list()
        counts = [len(of_item or ()) if self.another else len(of_item) for of_item in genres]
        return super().public(catalog) | {"columns": np.zeros((len(counts), len(set(counts))), dtype=np.float32)}


def registered(kind: type[Recommender], patch: pytest.MonkeyPatch) -> dict[str, str]:
    """The `model` of a plan with a class of this file, while a test runs."""
    patch.setitem(MODELS, kind.name, f"{__name__}:{kind.__name__}")
    return {"name": kind.name}
