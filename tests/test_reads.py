"""What a model is handed of clients: what its traits name, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from fedrec.data.clients import Clients
from fedrec.errors import InputError
from fedrec.models.linear.popularity import Popularity
from models_in_test import AgeCount, RowCount

KEEP = {"min_clients": 1, "data": {"source": "memory", "cleaning": {"repeats": "keep"}}}
AGES = [30, 41, 7, 55, 20]


def plays() -> fr.Interactions:
    """Five users who take some of eight items again and again."""
    rng = np.random.default_rng(5)
    table = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(5), 40),
            "item_id": rng.integers(0, 8, 200),
            "timestamp": rng.permutation(200),
        }
    )
    return replace(fr.interactions_from(table), user_features=pl.DataFrame({"age": AGES}))


def test_a_model_that_reads_repeats_has_every_row_in_its_order() -> None:
    data = plays()
    fitted = fr.estimator(RowCount)(plan=KEEP).fit(data, nodes=2)
    rows = data.to_frame().group_by("item_id").len().sort("item_id")["len"].to_list()
    assert fitted.shared["counts"].tolist() == rows
    assert sum(rows) == 200
    others = fr.estimator(Popularity)(plan=KEEP).fit(data)
    owners = data.to_frame().group_by("item_id").n_unique().sort("item_id")["user_id"].to_list()
    assert others.shared["counts"].tolist() == owners
    merged = fr.estimator(RowCount)(plan={"min_clients": 1}).fit(data)
    assert merged.shared["counts"].tolist() == others.shared["counts"].tolist()


def test_rows_of_held_out_items_are_in_no_history(tmp_path: Path) -> None:
    split = fr.leave_last_out(plays())
    fitted = fr.estimator(RowCount)(plan={"min_clients": 1}).fit(split, nodes=2)
    held_out = {row[:2] for part in (split.valid, split.test) for row in part.to_frame().iter_rows()}
    rows = list(plays().to_frame().iter_rows())
    counts = [sum(row[1] == item for row in rows if row[:2] not in held_out) for item in range(8)]
    assert fitted.shared["counts"].tolist() == counts
    fitted.save(tmp_path / "run")
    own = [row[1] for row in rows if row[0] == 2]
    for model in (fitted, fr.load_model(tmp_path / "run")):  # a list is made from all that a user did
        table = model.recommend([2], n=8, include_seen=True).sort("item_id")
        assert table["score"].to_list() == [own.count(item) for item in table["item_id"]]
        assert set(table["item_id"]) >= set(own)


def test_a_given_history_keeps_its_repeats_where_the_model_reads_them() -> None:
    fitted = fr.estimator(RowCount)(plan=KEEP).fit(plays())
    history = {"user_id": ["new"] * 4, "item_id": [3, 5, 3, 3], "timestamp": [1, 2, 3, 4]}
    table = fitted.recommend(["new"], n=2, history=history, include_seen=True)
    assert table.select("item_id", "score").rows() == [(3, 3.0), (5, 1.0)]


def test_features_of_users_reach_a_model_that_reads_them_and_no_other() -> None:
    data = plays()
    fitted = fr.estimator(AgeCount)(plan={"min_clients": 1}).fit(data, nodes=3)
    dense = np.zeros((5, 8))
    dense[data.rows_of_users(), data.items] = 1.0
    assert fitted.shared["counts"].tolist() == (np.array(AGES) @ dense).tolist()
    plain = fr.Popularity(plan={"min_clients": 1}).fit(data)
    assert plain.opened.engine.shards[0].clients.features is None
    assert plain.opened.engine.shards[0].clients.take(np.array([1])).features is None


def test_features_follow_their_clients() -> None:
    data = plays()
    clients = Clients.of(data, np.arange(5, dtype=np.uint64))
    assert clients.take(np.array([3, 1, 3])).features["age"].to_list() == [55, 41, 55]
    assert clients.where(np.zeros(len(data), dtype=bool)).features["age"].to_list() == AGES
    with pytest.raises(InputError, match="4 rows of features for 5 clients"):
        replace(clients, features=data.user_features.head(4))
