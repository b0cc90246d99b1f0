"""Lists in the order of a causal model of language, which runs where the users are and is asked of candidates alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from fedrec.data.arguments import check_arguments
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.errors import InputError
from fedrec.language.causal import CausalModel
from fedrec.recommending.topk import top_items

__all__ = ["Rerank", "Reranker"]

_ASKED = "Next the user chooses:"
_LONGEST = 100


class _Likelihoods(Protocol):
    def log_likelihoods(self, prompt: str, texts: list[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class Rerank:
    """How lists are put into another order.

    Args:
        model: folder of a causal model of language, or an installed package that brings one.
        top: candidates of each user, the best of the recommender.
        weight: of the order of the language model beside that of the recommender, from 0 to 1.
        history: newest items of the user that the language model is told.

    Raises:
        InputError: if a number cannot be used.
    """

    model: str
    top: int = 20
    weight: float = 0.5
    history: int = 8

    def __post_init__(self) -> None:
        check_arguments(Rerank, vars(self))
        if not 2 <= self.top <= _LONGEST:
            raise InputError(f"rerank: top is {self.top}; it must be from 2 to {_LONGEST}")
        if not 0.0 <= self.weight <= 1.0:
            raise InputError(f"rerank: weight is {self.weight}; it must be from 0 to 1")
        if self.history < 1:
            raise InputError(f"rerank: history is {self.history}; it must be at least 1")


@dataclass(eq=False)
class Reranker:
    """Reorders the best items of each user.

    A candidate's score is the mean log-probability of its title after the titles of the history, less that after no
    history: else well-known titles would always come first. Candidates stand by (1 − w) times their place in the
    recommender's list plus w times their place by that score.

    Args:
        how: see `Rerank`.
        catalog: whose titles are read.
        language: the model of language.
    """

    how: Rerank
    catalog: Catalog
    language: _Likelihoods
    _alone: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, how: Rerank | str, catalog: Catalog) -> Reranker:
        """Read the model of language.

        Raises:
            InputError: if there is none, or the catalog has no titles.
        """
        if not catalog.has_titles:
            raise InputError("rerank: the catalog has no column 'title', which a language model could read")
        asked = Rerank(how) if isinstance(how, str) else how
        return cls(asked, catalog, CausalModel.read(asked.model))

    def reordered(
        self,
        scored: Iterator[tuple[np.ndarray, Clients, np.ndarray]],
        include_seen: bool = False,
        allowed: np.ndarray | None = None,
    ) -> Iterator[tuple[np.ndarray, Clients, np.ndarray]]:
        """Scores in which the candidates of each user have each other's: positions, clients, [clients, items] float32.

        Args:
            scored: positions of users, the clients with their histories, their scores.
            include_seen: whether items of the history are candidates.
            allowed: mask [items] of items that may be candidates.
        """
        for positions, clients, scores in scored:
            seen = None if include_seen else (clients.indptr, clients.items)
            items, best = top_items(scores, min(self.how.top, scores.shape[1]), exclude=seen, allowed=allowed)
            changed = scores.copy()
            for client in range(len(clients)):
                candidates = items[client][items[client] >= 0]
                history = clients.items[clients.indptr[client] : clients.indptr[client + 1]]
                if len(candidates) > 1 and len(history):
                    changed[client, candidates[self._order(candidates, history)]] = best[client][: len(candidates)]
            yield positions, clients, changed

    def _order(self, candidates: np.ndarray, history: np.ndarray) -> np.ndarray:
        """The candidates' new order, as places in the old one."""
        missing = [int(item) for item in candidates if int(item) not in self._alone]
        if missing:
            alone = self.language.log_likelihoods(_ASKED, [f" {self.catalog.title(item)}" for item in missing])
            self._alone.update(zip(missing, alone.tolist(), strict=True))
        told = "; ".join(self.catalog.title(int(item)) for item in history[-self.how.history :])
        titles = [f" {self.catalog.title(int(item))}" for item in candidates]
        gained = self.language.log_likelihoods(f"The user chose, in this order: {told}. {_ASKED}", titles)
        gained = gained - np.array([self._alone[int(item)] for item in candidates])
        places = np.empty(len(candidates))
        places[np.argsort(-gained, kind="stable")] = np.arange(len(candidates))
        mixed = (1.0 - self.how.weight) * np.arange(len(candidates)) + self.how.weight * places
        return np.argsort(mixed, kind="stable")
