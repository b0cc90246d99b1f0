"""A finished run in memory: lists, similar items and reasons, one user at a time, with the digest of the model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedrec.errors import FedrecError, InputError
from fedrec.federation.item_floor import SERVED
from fedrec.models.base import Given
from fedrec.models.served import ready, reasons
from fedrec.recommending.exploring import Exploration
from fedrec.recommending.recommend import allowed_items
from fedrec.recommending.topk import top_items
from fedrec.runs.finished import OpenedRun
from fedrec.runs.saved import open_model
from fedrec.serving.profiles import Index, Profile, Profiles
from fedrec.serving.recent import Recent

__all__ = ["Explanation", "Found", "ServedModel"]

_WARMING = 10


class Found(NamedTuple):
    """An item of a list: id, title if the catalog has titles, score, and of a list that was drawn, how likely its slot
    was to show it."""

    item: int | str
    title: str | None
    score: float
    propensity: float | None = None


@dataclass(frozen=True)
class Explanation:
    """Why an item has its score.

    Args:
        score: of the item.
        how: `sum` if the parts of all interactions add up to the score, `similarity` if the model's scores are no such
            sum and the parts say how similar the items are.
        because: the user's items with the largest parts, largest first; a part is in `score` of each.
    """

    score: float
    how: str
    because: tuple[Found, ...]


class ServedModel:
    """A model and its users, ready for requests; changes never, so that all of an answer is of one model.

    Args:
        opened: the run.
        digest: SHA-256 of the model's shared arrays, as `model/model.json` of the run has it.
    """

    def __init__(self, opened: OpenedRun, digest: str) -> None:
        self.opened, self.digest = opened, digest
        self.catalog = opened.catalog
        self._index = Index(self.catalog.items)
        self._ids = self.catalog.items.series.to_list()
        self._titles: dict[int, str] | None = {} if self.catalog.has_titles else None
        self.profiles = Profiles(opened)
        self._shared = opened.trained.state.shared
        self._given = Given.to_score(ready(opened.model, self._shared), opened.agreement.public)
        self._hidden = ~self._shared[SERVED] if SERVED in self._shared else None

    @classmethod
    def load(cls, folder: Path) -> ServedModel:
        """Open a run, check its files against their digests, and answer some requests.

        Raises:
            FedrecError: if it is no finished run, files were changed, or the model does not answer.
        """
        folder = folder.resolve()
        opened = open_model(folder)
        described = json.loads((folder / "model" / "model.json").read_text(encoding="utf-8"))
        served = cls(opened, str(described["shared"]))
        served._warm()
        return served

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.opened.model.name

    def _warm(self) -> None:
        """Answer a few requests: kernels are loaded and compiled, and a model that cannot answer is found out.

        Raises:
            FedrecError: if it does not answer.
        """
        nobody = Recent()
        try:
            for user in self.profiles.some(_WARMING):
                profile = self.profiles.known(user, nobody)
                if profile is not None:
                    self.recommend(profile, 10)
        except (ValueError, IndexError, KeyError, ArithmeticError) as error:
            raise FedrecError(f"model {self.name!r} does not answer: {error!r}. Train it anew") from error

    def user_id(self, text: str) -> int | str:
        """An id of a user as text in the type that users have.

        Raises:
            InputError: if it is no such id.
        """
        return self.opened.data.users.parse(text)

    def item_id(self, text: str) -> int | str:
        """An id of an item as text in the type that items have.

        Raises:
            InputError: if it is no such id.
        """
        return self.catalog.items.parse(text)

    def scores(self, profile: Profile) -> np.ndarray:
        """Scores of all items for a user [1, items] float32; −inf for items that take no part."""
        scores = self.opened.model.score(self._given, profile.client, profile.private)
        if self._hidden is not None:
            scores[:, self._hidden] = -np.inf
        return scores

    def recommend(
        self,
        profile: Profile,
        n: int,
        include_seen: bool = False,
        allowed: np.ndarray | None = None,
        explore: Exploration | None = None,
    ) -> list[Found]:
        """The `n` best items for a user, fewer where fewer are left.

        Args:
            profile: the user.
            n: length of the list.
            include_seen: whether items that the user has may appear.
            allowed: mask [items] of items that may appear; `None` for all.
            explore: how the list is drawn, by randomness of the operating system; `None` shows the best items.
        """
        if explore is not None:
            return self._drawn(self.scores(profile)[0], profile.seen, n, include_seen, allowed, explore)
        exclude = None if include_seen else (np.array([0, len(profile.seen)]), profile.seen)
        items, best = top_items(self.scores(profile), min(n, len(self.catalog)), exclude, allowed)
        return self._found(items[0], best[0])

    def _drawn(
        self,
        scores: np.ndarray,
        seen: np.ndarray,
        n: int,
        include_seen: bool,
        allowed: np.ndarray | None,
        explore: Exploration,
    ) -> list[Found]:
        """A list of `n` items that is drawn from scores [items]."""
        free = np.where(scores < np.inf, scores, -np.inf).astype(np.float64)
        if not include_seen:
            free[seen] = -np.inf
        if allowed is not None:
            free[~allowed] = -np.inf
        slate = explore.draw(free, n, np.random.default_rng())
        found = self._found(slate.items, scores[slate.items])
        return [
            each._replace(propensity=chance) for each, chance in zip(found, slate.propensities.tolist(), strict=True)
        ]

    def similar(self, item: int | str, n: int) -> list[Found]:
        """The `n` items nearest to an item.

        Raises:
            InputError: if the model knows no similar items.
        """
        position = self._index.find(item)
        scores = np.ascontiguousarray(self.opened.similarity(np.array([position])), dtype=np.float32)
        itself = np.array([0, 1]), np.array([position], dtype=np.int32)
        items, best = top_items(scores, min(n, len(self.catalog)), exclude=itself)
        return self._found(items[0], best[0])

    def explain(self, profile: Profile, item: int | str, n: int) -> Explanation:
        """Which of a user's items bring an item its score.

        Raises:
            InputError: if the model cannot tell.
        """
        position, model, own = self._index.find(item), self.opened.model, profile.client.items
        score = float(self.scores(profile)[0, position])
        parts, how = reasons(model, self._given, profile.client, position), "sum"
        if parts is None:
            try:
                near = model.similarity(self._given, np.array([position]))[0]
            except InputError:
                raise InputError(f"model {self.name!r} cannot tell which items bring a recommendation") from None
            parts, how = near[own], "similarity"
        order = np.argsort(-parts, kind="stable")
        order = order[(parts[order] > 0) & (own[order] != position)][:n]
        return Explanation(score, how, tuple(self._found(own[order], parts[order])))

    def allowed(self, only: Sequence[int | str] | None, block: Sequence[int | str] | None) -> np.ndarray | None:
        """The mask of items that may appear.

        Raises:
            InputError: if an item is not in the catalog.
        """
        return allowed_items(self.catalog, only, block)

    def has_item(self, item: int | str) -> bool:
        """Whether the catalog has an item."""
        return self._index.find(item) >= 0

    def _found(self, items: np.ndarray, scores: np.ndarray) -> list[Found]:
        return [
            Found(self._ids[item], self._title(item), score)
            for item, score in zip(items.tolist(), scores.tolist(), strict=True)
            if item >= 0 and math.isfinite(score)
        ]

    def _title(self, item: int) -> str | None:
        if self._titles is None:
            return None
        title = self._titles.get(item)
        if title is None:
            title = self._titles[item] = self.catalog.title(item)
        return title
