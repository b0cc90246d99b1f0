"""The loop around a model, measured: a server shows lists, simulated users click, their events train the next model.

Whether a user clicks depends on what the user likes, which the simulation knows and no model is told, and on the rank:
never on the model. Each visit is of users who were not there before. So the click rate says what the model has learned
from others; users who come again would have taken the items that are easy to guess.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fedrec.benchmarks.serving import started
from fedrec.data.arguments import check_arguments
from fedrec.data.interactions import Interactions
from fedrec.data.synthetic import synthetic
from fedrec.deploy.processes import unwound
from fedrec.errors import FedrecError, InputError
from fedrec.federation.plan import Plan
from fedrec.recommending.exploring import Exploration
from fedrec.runs.training import train_run

__all__ = ["Ask", "Crowd", "play_loop", "served"]

Ask = Callable[[str, str, Any], Any]
"""What a server answers to a method, a path and a body; `FedrecError` if it refuses."""

LENGTH, CANDIDATES = 10, 30
"""Items that a visitor sees, and items that the list is drawn from."""
_LIKED, _OTHER, _FURTHER = 0.6, 0.02, 0.9
"""Probability of a click at the first rank on an item that the user likes, on another item, and its ratio by rank."""
_KNOWN = 5
"""Items that a user says to like before seeing a list."""
_BATCH, _EVENTS = 100, 1_000
_SECONDS_TO_SWAP = 60.0
_POLICY = "epsilon:0.1"


@dataclass(frozen=True, eq=False)
class Crowd:
    """Simulated users.

    Args:
        known: what each user says before the first list: up to 5 items, drawn from those that the user likes.
        likes: mask [users, items] of all items that a user likes, those known included.
    """

    known: Interactions
    likes: np.ndarray

    @classmethod
    def make(cls, users: int = 21_000, items: int = 1000, likes: float = 100, seed: int = 0) -> Crowd:
        """Users of `fedrec.synthetic`, who like the items of their interactions.

        Args:
            users, items: number of users and of items.
            likes: items that a user likes, on average.
            seed: of the users and of what is known of them.

        Raises:
            InputError: if an argument is outside the limits of `fedrec.synthetic`.

        Example:
            >>> crowd = Crowd.make(users=50, items=40, likes=12)
            >>> len(crowd.known) <= 50 * 5 <= int(crowd.likes.sum())
            True
        """
        check_arguments(cls.make, locals())
        whole = synthetic(users, items, likes, seed)
        owners = np.repeat(np.arange(users), np.diff(whole.indptr))
        liked = np.zeros((users, items), dtype=np.bool_)
        liked[owners, whole.items] = True
        drawn = np.random.default_rng(seed).random(len(whole))
        order = np.lexsort((drawn, owners))
        place = np.empty(len(whole), dtype=np.int64)
        place[order] = np.arange(len(whole)) - whole.indptr[owners]
        return cls(whole.where(place < _KNOWN), liked)

    def titles(self) -> pl.DataFrame:
        """All items with their titles: `item_id`, `title`."""
        catalog = self.known.catalog
        titles = [catalog.title(place) for place in range(len(catalog))]
        return pl.DataFrame({"item_id": catalog.items.series, "title": titles})

    def chances(self, user: int, items: np.ndarray) -> np.ndarray:
        """How likely a user clicks each item of a list [n] float64.

        Args:
            user: position of the user.
            items: positions of the items, best rank first.
        """
        return np.where(self.likes[user, items], _LIKED, _OTHER) * _FURTHER ** np.arange(len(items))


@unwound()
def play_loop(
    folder: Path,
    crowd: Crowd,
    rounds: int = 3,
    visitors: int = 5000,
    model: str = "ease",
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train, serve over HTTP, let users visit, train on what they did, swap the model in; `rounds` times.

    The first model is trained on the users who are left when all visitors are counted, by what they say to like. The
    server is a process of its own (`fedrec serve FOLDER/latest`). A visitor says which items are liked, and sees 10 of
    the model's 30 best items, drawn by the policy `epsilon:0.1`; all of that is sent to the server as events,
    impressions with their propensities, and kept in `FOLDER/events.db`.

    Args:
        folder: of all files; must not exist.
        crowd: the users.
        rounds: how many times a further model is trained.
        visitors: users who visit each model.
        model: name of a model that ranks items.
        seed: of clicks and exploration.
        tell: receives a sentence after each step.

    Returns:
        `visits`, one for each model that was served: `model` (digest), `trained_on` (interactions), `impressions`,
        `clicks`, `click_rate` and its `standard_error` over users; and of models that followed another one
        `expected_before` and `expected_after`: the click rate that the truth gives the same visitors for the 10 best
        items of the model before, and of this one. `policy`, `users`, `items`, `events` beside it.

    Raises:
        InputError: if the folder exists or an argument cannot be used.
        FedrecError: if the server fails.
    """
    check_arguments(play_loop, locals())
    first = len(crowd.known.users) - (rounds + 1) * visitors
    if rounds < 1 or visitors < 2 or first < 1:
        raise InputError(
            f"{rounds} rounds with {visitors} visitors each, and {len(crowd.known.users)} users; there must be a round "
            "or more, two visitors or more, and more users than visitors of all rounds and of the first model"
        )
    if folder.exists():
        raise InputError(f"{folder} exists already; name a folder that does not exist yet")
    folder.mkdir(parents=True)
    log, latest = folder / "events.db", folder / "latest"
    crowd.known.take_users(np.arange(first)).to_frame().write_parquet(folder / "known.parquet")
    crowd.titles().write_parquet(folder / "items.parquet")
    source = {"source": str(folder / "known.parquet"), "catalog": str(folder / "items.parquet")}
    plan: dict[str, Any] = {"data": source, "model": {"name": model}, "split": "none"}
    trained_on = _train(plan, folder / "model-0")
    _publish(folder / "model-0", latest)
    visits: list[dict[str, Any]] = []
    rng = np.random.default_rng(seed)
    with served(latest, log, folder / "server.log") as ask:
        shop = _Shop(ask, crowd)
        for number in range(rounds + 1):
            group = np.arange(first + number * visitors, first + (number + 1) * visitors)
            change: dict[str, float] = {}
            if number:
                following = plan | {"data": source | {"events": str(log)}}
                following["warm_start"] = {"run": str(folder / f"model-{number - 1}")}
                trained_on = _train(following, folder / f"model-{number}")
            shop.welcome(group)
            if number:
                change["expected_before"] = shop.expected(group)
                shop.wait_for(_publish(folder / f"model-{number}", latest))
                change["expected_after"] = shop.expected(group)
            visit = {"model": shop.answers(), "trained_on": trained_on, **shop.visit(group, rng), **change}
            visits.append(visit)
            tell(
                f"model {number}, trained on {trained_on:,} interactions: {visit['clicks']:,} clicks, "
                f"{visit['click_rate']:.2%} of what was shown"
            )
    size = {"users": crowd.likes.shape[0], "items": crowd.likes.shape[1]}
    return {**size, "name": model, "policy": _POLICY, "events": str(log), "visits": visits}


@contextmanager
def served(latest: Path, events: Path, log: Path) -> Iterator[Ask]:
    """A server of a run in a process of its own, and how to ask it.

    Args:
        latest: the run, or a link to it.
        events: log of events.
        log: file of what the server says.
    """
    with started(latest, "--events", str(events), "--quiet", log=log) as server:

        def ask(method: str, path: str, body: Any = None) -> Any:
            connection = HTTPConnection("127.0.0.1", server.port, timeout=_SECONDS_TO_SWAP)
            try:
                text = None if body is None else json.dumps(body)
                connection.request(method, path, text, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answered = json.loads(answer.read())
            except (OSError, HTTPException, ValueError) as error:
                raise FedrecError(f"the server did not answer {method} {path}: {error!r}; see {log}") from error
            finally:
                connection.close()
            if answer.status >= 300:
                raise FedrecError(f"the server answered {method} {path} with {answer.status}: {answered['reason']}")
            return answered

        yield ask


def _train(plan: dict[str, Any], folder: Path) -> int:
    """Train a plan; how many interactions there were."""
    return int(train_run(Plan.make(plan), folder)["data"]["interactions"])


def _publish(run: Path, latest: Path) -> str:
    """Let the link `latest` point to a run; the digest of its model."""
    link = latest.with_name("next")
    link.symlink_to(run.name)
    os.replace(link, latest)
    return str(json.loads((run / "model" / "model.json").read_text(encoding="utf-8"))["shared"])


class _Shop:
    """Asks a server for lists, as the page of a shop does, and sends it what users did.

    Args:
        ask: sends a request.
        crowd: the users.
    """

    def __init__(self, ask: Ask, crowd: Crowd) -> None:
        self._ask, self._crowd = ask, crowd
        self._users = crowd.known.users.series.to_list()
        self._items = {item: place for place, item in enumerate(crowd.known.catalog.items.series.to_list())}
        self._policy = Exploration.parse(_POLICY)

    def answers(self) -> str:
        """The digest of the model that answers."""
        return str(self._ask("GET", "/v1/model", None)["model"])

    def welcome(self, group: np.ndarray) -> None:
        """Users say what they like."""
        known = self._crowd.known.take_users(group)
        owners, items = known.rows_of_users(), known.catalog.items.take(known.items).to_list()
        users = known.users.take(owners).to_list()
        self._send(
            [
                {"event_id": f"{user}-{item}-like", "kind": "like", "user": user, "item": item}
                for user, item in zip(users, items, strict=True)
            ]
        )

    def visit(self, group: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        """Users look at a list, and click."""
        clicks, shown = [], 0
        events: list[dict[str, Any]] = []
        for user, answered in self._lists(group, CANDIDATES):
            scores = np.array([entry["score"] for entry in answered["items"]])
            slate = self._policy.draw(scores, LENGTH, rng)
            entries = [answered["items"][place] for place in slate.items]
            clicked = rng.random(len(entries)) < self._chances(user, entries)
            clicks.append(int(clicked.sum()))
            shown += len(entries)
            for rank, (entry, chance, click) in enumerate(zip(entries, slate.propensities, clicked, strict=True), 1):
                event = {key: answered[key] for key in ("user", "model", "request_id")}
                event |= {"item": entry["item"], "rank": rank, "propensity": float(chance)}
                for kind in ("impression", "click")[: 1 + int(click)]:
                    events.append({"event_id": f"{answered['user']}-{entry['item']}-{kind}", "kind": kind, **event})
        self._send(events)
        return {
            "impressions": shown,
            "clicks": sum(clicks),
            "click_rate": sum(clicks) / shown,
            "standard_error": float(np.std(clicks, ddof=1)) * len(clicks) ** 0.5 / shown,
        }

    def expected(self, group: np.ndarray) -> float:
        """The click rate that the truth gives to the best items of the model that answers now."""
        chances = [self._chances(user, answered["items"]) for user, answered in self._lists(group, LENGTH)]
        return float(sum(chance.sum() for chance in chances)) / sum(map(len, chances))

    def _chances(self, user: int, entries: Sequence[dict[str, Any]]) -> np.ndarray:
        return self._crowd.chances(user, np.array([self._items[entry["item"]] for entry in entries], dtype=np.int64))

    def _send(self, events: list[dict[str, Any]]) -> None:
        for begin in range(0, len(events), _EVENTS):
            self._ask("POST", "/v1/events", events[begin : begin + _EVENTS])

    def wait_for(self, digest: str) -> None:
        """Wait until the server answers with a model.

        Raises:
            FedrecError: if it does not within a minute.
        """
        until = time.monotonic() + _SECONDS_TO_SWAP
        while self.answers() != digest:
            if time.monotonic() > until:
                raise FedrecError(f"the server did not take the newer model {digest} within {_SECONDS_TO_SWAP:g} s")
            time.sleep(0.1)

    def _lists(self, group: np.ndarray, n: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """The list of each user of a group, with the position of the user; answers of one request share its id."""
        for begin in range(0, len(group), _BATCH):
            batch = group[begin : begin + _BATCH]
            answer = self._ask("POST", "/v1/recommend/batch", {"users": [self._users[user] for user in batch], "n": n})
            for user, answered in zip(batch.tolist(), answer["lists"], strict=True):
                yield user, {**answered, "model": answer["model"], "request_id": answer["request_id"]}
