"""Users whose training diverges: their rows stay finite, and whoever asks for their lists is told."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec as fr
from fedrec.estimators.estimator import estimator
from fedrec.models.private_state import OwnRows, finite_clients
from fedrec.models.registry import model_class

DATA = fr.synthetic(users=60, items=30, interactions_per_user=8, seed=4)
TABLES = [
    {"user": [1, 1, 1], "item": [1, 2, 3]},
    {"user": [1, 1, 2, 2], "item": [1, 2, 3, 4]},
]


def spoiled(array: Any, broken: np.ndarray) -> Any:
    """Private rows with numbers of the `broken` clients [clients] bool made NaN."""
    array = array.copy()
    if isinstance(array, OwnRows):
        array.values[array.starts[broken], 0] = np.nan
    else:
        array[broken] = np.nan
    return array


@pytest.mark.parametrize("name", ["mf", "fedrap", "pfedrec"])
def test_clients_with_private_rows_that_are_not_finite_keep_their_last_ones_and_are_left_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they contribute is finite: their rows alone are not."""
    kind = model_class(name)
    contribute, spoilt = kind.contribute, []

    def broken(self: Any, given: Any, clients: Any, private: Any) -> Any:
        contributions, updated = contribute(self, given, clients, private)
        picked = (clients.keys % np.uint64(7) == 0) & (given.round > 0)
        spoilt.append(int(picked.sum()))
        return contributions, {array: spoiled(rows, picked) for array, rows in updated.items()}

    monkeypatch.setattr(kind, "contribute", broken)
    with pytest.warns(UserWarning, match="contributions of users") as said:
        model = estimator(name)(rounds=3).fit(DATA)
    assert sum(spoilt) > 0
    assert [str(warning.message).split()[0] for warning in said] == [str(sum(spoilt))]
    shard = model.opened.engine.shards[0]
    private = shard.private()
    assert private is not None
    assert finite_clients(private, len(shard)).all()
    assert model.recommend(None, n=30, include_seen=True).height == 60 * 30


@pytest.mark.parametrize("table", TABLES)
def test_every_user_and_item_has_a_row_or_one_warning_says_for_how_many_not(table: dict[str, list[int]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fr.FedRAP().fit(table)
    users, items = len(set(table["user"])), len(set(table["item"]))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = model.recommend(None, n=50, include_seen=True)
    told = [str(warning.message) for warning in said]
    assert found.height == users * items or (len(told) == 1 and f"{users} of {users} users" in told[0])


@pytest.mark.parametrize("table", TABLES)
def test_the_command_line_says_it_once_too(
    table: dict[str, list[int]], fedrec: Callable[..., Any], tmp_path: Path
) -> None:
    rows = zip(table["user"], table["item"], strict=True)
    (tmp_path / "few.csv").write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in rows))
    run = tmp_path / "run"
    trained = fedrec("train", "--model", "fedrap", "--data", tmp_path / "few.csv", "--split", "none", "--out", run)
    assert trained.code == 0, trained.err
    listed = fedrec("recommend", run, "--all-users", "--include-seen", "-n", 50, "--to", tmp_path / "lists.csv")
    assert listed.code == 0, listed.err
    users, items = len(set(table["user"])), len(set(table["item"]))
    height = len((tmp_path / "lists.csv").read_text().splitlines()) - 1
    assert height == users * items or listed.err.count(f"{users} of {users} users have scores") == 1
