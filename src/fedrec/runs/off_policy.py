"""What lists drawn from a run's scores would have earned: each node judges the events of its own users, as sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from fedrec.data.databases.logs import event_database, read_shown
from fedrec.data.databases.urls import is_url
from fedrec.data.reading.files import check_path
from fedrec.errors import InputError
from fedrec.evaluation.off_policy import LARGEST_WEIGHT, Estimate, effective_events, estimates, event_terms
from fedrec.federation.judging import judging_spec, judging_sum, judging_values
from fedrec.node.shard import Shard
from fedrec.recommending.exploring import Exploration
from fedrec.runs.finished import OpenedRun

__all__ = ["Judgement", "judged"]

_LOGS = (".db", ".sqlite", ".sqlite3")
"""Endings of files that are logs of events."""
_NUMBERS = ("reward", "propensity")
_COLUMNS = ("user_id", "item_id", *_NUMBERS)


@dataclass(frozen=True)
class Judgement:
    """What a policy would have earned.

    Args:
        estimates: `ips` and `snips`.
        events: that were logged.
        cut: events whose weight was cut.
        effective: how many events of equal weight would say as much.
        left_out: events of a log about users or items that the run does not know.
    """

    estimates: Mapping[str, Estimate]
    events: int
    cut: int
    effective: float
    left_out: int = 0


def judged(opened: OpenedRun, policy: Exploration, source: str | Path, largest: float = LARGEST_WEIGHT) -> Judgement:
    """Judge the first slot of lists that a policy draws from a run's scores, without items that a user already has.

    Args:
        opened: the run, with its nodes.
        policy: how lists are drawn.
        source: events in Parquet, CSV or JSON lines: `user_id`, `item_id`, `reward`, `propensity`; or a log of
            `fedrec serve`, see `read_shown`.
        largest: bound on the weight of an event.

    Raises:
        InputError: if the events cannot be read, an event of a file names an unknown user or item, a log has no
            impression with a propensity, or a number is out of range.
    """
    table, log = _events(source)
    items, users = opened.catalog.items.look_up(table["item_id"]), opened.data.users.look_up(table["user_id"])
    known = (items >= 0) & (users >= 0)
    if not log:
        for places, name in ((items, "item_id"), (users, "user_id")):
            _check_known(places, table[name], Path(source))
    items, users = items[known], users[known]
    rewards, logged = (table[name].to_numpy()[known] for name in _NUMBERS)
    nothing = event_terms(rewards[:0], logged[:0], rewards[:0], largest=largest)
    spec = judging_spec(max(1, len(items)), largest)
    total = judging_sum(spec, nothing)
    for shard in opened.engine.shards:
        here = np.full(opened.data.n_users, -1)
        here[opened.data.users.find(shard.data.users.series)] = np.arange(shard.data.n_users)
        mine = np.flatnonzero(here[users] >= 0)
        target = _chances(opened, shard, policy, here[users[mine]], items[mine])
        total.merge(judging_sum(spec, event_terms(rewards[mine], logged[mine], target, largest=largest)))
    sums = judging_values(total)
    found = estimates(sums)
    return Judgement(
        {name: found[name] for name in ("ips", "snips")},
        round(sums["events"]),
        round(sums["cut"]),
        effective_events(sums),
        int((~known).sum()),
    )


def _chances(opened: OpenedRun, shard: Shard, policy: Exploration, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """How likely the policy is to show each of a node's events [events]: 0 for an item that the user already has."""
    chances, order = np.zeros(len(users)), np.argsort(users, kind="stable")
    of_user, trained = users[order], opened.trained
    for positions, clients, scores in shard.scores(trained.state.shared, trained.round, shard.known, np.unique(users)):
        for row, user in enumerate(positions):
            free = scores[row].astype(np.float64)
            free[clients.items[clients.indptr[row] : clients.indptr[row + 1]]] = -np.inf
            events = order[slice(*np.searchsorted(of_user, [user, user + 1]))]
            if (free > -np.inf).any():
                chances[events] = policy.propensities(free)[items[events]]
    return chances


def _events(source: str | Path) -> tuple[pl.DataFrame, bool]:
    """Events, and whether they are of a log, which may be about users and items that the run does not know."""
    text = str(source)
    if is_url(text) or Path(text).suffix in _LOGS:
        table = read_shown(text)
        if not table.height:
            raise InputError(
                f"{event_database(text).shown}: no impression of rank 1 has a request_id and a propensity; serve "
                "with --explore, and send both back with each impression"
            )
        return table, True
    return _read(Path(text)), False


def _read(path: Path) -> pl.DataFrame:
    place = check_path(path)
    readers: dict[str, Callable[[Path], pl.DataFrame]] = {
        ".parquet": pl.read_parquet,
        ".csv": pl.read_csv,
        ".jsonl": pl.read_ndjson,
    }
    if place.suffix not in readers:
        raise InputError(
            f"{path}: events are read from .parquet, .csv or .jsonl, or from a log of fedrec serve: {', '.join(_LOGS)} "
            "or a URL"
        )
    try:
        table = readers[place.suffix](place)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: {error}") from None
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; events need {', '.join(_COLUMNS)}")
    for name in _COLUMNS:
        if table[name].null_count():
            row = int(table[name].is_null().arg_max() or 0)
            raise InputError(f"{path}: event {row + 1} has no {name}")
    for name in _NUMBERS:
        if not table[name].dtype.is_numeric():
            raise InputError(f"{path}: column {name} holds {table[name].dtype}, not numbers")
    return table.with_columns(pl.col(_NUMBERS).cast(pl.Float64))


def _check_known(places: np.ndarray, ids: pl.Series, path: Path) -> None:
    """Check that every id of a file has a place.

    Raises:
        InputError: naming the first that has none.
    """
    unknown = np.flatnonzero(places < 0)
    if len(unknown):
        row = int(unknown[0])
        raise InputError(f"{path}: event {row + 1} has the unknown {ids.name} {ids[row]!r}; check the ids")
