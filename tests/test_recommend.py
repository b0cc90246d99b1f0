"""Lists of items: best first, nothing seen or blocked, from scores that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from fedrec.data.catalog import Catalog
from fedrec.data.identifiers import Identifiers
from fedrec.errors import InputError
from fedrec.estimators.estimator import Estimator, estimator
from fedrec.models.base import Given
from fedrec.models.registry import MODELS
from fedrec.recommending.recommend import allowed_items, recommend_batches, similar_table
from runs_in_test import ENCODED, NETWORKS

QUICK: dict[str, dict[str, Any]] = {
    "gpfedrec": {"embedding_size": 4, "rounds": 2},
    "ials": {"embedding_size": 4, "rounds": 2},
    "lightgcn": {"embedding_size": 4, "rounds": 6},
    "mf": {"embedding_size": 4, "rounds": 3},
    **NETWORKS,
}
DATA = fr.clean(
    fr.load_data("synthetic:users=90,items=40,interactions_per_user=10,seed=6,ratings=true"), rating_at_least="none"
)[0]
SEEN = DATA.to_frame().select("user_id", "item_id")


@pytest.fixture(scope="module", params=sorted(MODELS.keys() - ENCODED))
def model(request: pytest.FixtureRequest) -> Estimator:
    """Fitted on the train part of a split, so that held-out items were seen by nobody's model."""
    return estimator(request.param)(**QUICK.get(request.param, {})).fit(fr.leave_last_out(DATA))


def test_lists_are_the_best_unseen_items_by_the_scores(model: Estimator) -> None:
    opened = model.opened
    shard = opened.engine.shards[0]
    given = Given.to_score(opened.trained.state.shared, opened.model.public(DATA.catalog))
    scores = opened.model.score(given, shard.everyone(), opened.private())
    scores[shard.data.rows_of_users(), shard.data.items] = -np.inf
    table = model.recommend(n=5)
    for place, user in enumerate(DATA.users):
        order = np.argsort(-scores[place], kind="stable")[:5]
        rows = table.filter(pl.col("user_id") == user)
        assert rows["item_id"].to_list() == DATA.catalog.items.take(order).to_list()
        assert rows["score"].to_list() == scores[place][order].tolist()
        assert rows["rank"].to_list() == [1, 2, 3, 4, 5]


def test_nothing_that_a_user_has_is_recommended_in_any_part(model: Estimator) -> None:
    """Whether it was trained on or held out: all of it is seen."""
    table = model.recommend(n=len(DATA.catalog))
    assert table.join(SEEN, on=["user_id", "item_id"]).height == 0
    assert table.height == DATA.n_users * DATA.n_items - len(DATA)
    everything = model.recommend(n=len(DATA.catalog), include_seen=True)
    assert everything.height == DATA.n_users * DATA.n_items
    assert (
        everything.join(table, on=["user_id", "item_id"], how="semi")
        .sort("user_id", "item_id")["score"]
        .equals(table.sort("user_id", "item_id")["score"])
    )


def test_lists_of_different_lengths_begin_alike(model: Estimator) -> None:
    long = model.recommend(n=7)
    assert model.recommend(n=3).equals(long.filter(pl.col("rank") <= 3))


def test_only_and_block(model: Estimator) -> None:
    items = DATA.catalog.items.series.to_list()
    only, block = items[5:25], items[20:30]
    table = model.recommend(n=100, only=only, block=block)
    assert set(table["item_id"]) <= set(items[5:20])
    whole = model.recommend(n=100).filter(pl.col("item_id").is_in(items[5:20]))
    assert table.drop("rank").equals(whole.drop("rank"))
    assert model.recommend(n=3, only=[]).height == 0
    assert model.recommend(n=100, block=[]).equals(model.recommend(n=100))
    assert model.recommend(n=3, block=items).height == 0


def test_newcomers_do_not_get_what_their_history_holds(model: Estimator) -> None:
    own = SEEN.filter(pl.col("user_id") <= 5)
    history = own.with_columns(pl.col("user_id") + 5000, rating=pl.lit(3.0), timestamp=pl.int_range(pl.len()))
    table = model.recommend(None, n=len(DATA.catalog), history=history)
    assert sorted(table["user_id"].unique()) == sorted(history["user_id"].unique())
    assert table.join(history, on=["user_id", "item_id"]).height == 0
    assert table.height == history["user_id"].n_unique() * DATA.n_items - history.height
    pandas = model.recommend([5001], history=history.to_pandas())
    assert type(pandas).__module__.startswith("pandas")
    with pytest.raises(InputError, match="row 1: item_id '999' is not in the catalog"):
        model.recommend([1], history={"user_id": [1], "item_id": [999]})
    with pytest.raises(InputError, match="1 unknown user: 77777"):
        model.recommend([77777], history=history)


def test_files_hold_what_recommend_returns(model: Estimator, tmp_path: Path) -> None:
    for name, read in (("r.parquet", pl.read_parquet), ("r.csv", pl.read_csv), ("r.jsonl", pl.read_ndjson)):
        rows = model.save_recommendations(tmp_path / name, n=4)
        table = model.recommend(n=4)
        assert rows == table.height
        found = read(tmp_path / name).cast(dict(table.schema))  # type: ignore[operator]
        assert found.drop("score").equals(table.drop("score"))
        assert np.allclose(found["score"], table["score"], rtol=1e-6)


def test_wrong_arguments(model: Estimator) -> None:
    for n in (0, -3):
        with pytest.raises(InputError, match=f"n must be at least 1, not {n}"):
            model.recommend([1], n=n)
        with pytest.raises(InputError, match=f"n must be at least 1, not {n}"):
            model.similar(1, n=n)
    for name in ("only", "block"):
        with pytest.raises(InputError, match=f"{name}: item 999 is not in the catalog"):
            model.recommend([1], **{name: [1, 999]})
    with pytest.raises(InputError, match="item 999 is not in the catalog"):
        model.similar(999)
    with pytest.raises(InputError, match="id number 2 is missing"):
        model.recommend([1, None])
    with pytest.raises(InputError, match="whole numbers or text"):
        model.recommend([1.5])


CATALOG = Catalog(Identifiers.of(["a", "b", "c", "d"]), pl.DataFrame({"title": ["Ant", "Bee", "Cat", None]}))


def test_allowed_items_are_a_mask() -> None:
    assert allowed_items(CATALOG) is None
    for only, block, expected in (
        (["a", "c"], None, "ac"), (None, ["a"], "bcd"), (["a", "b"], ["b"], "a"), ([], None, ""), (None, [], "abcd"),
        ("b", None, "b"),
    ):  # fmt: skip
        mask = allowed_items(CATALOG, only, block)
        assert mask is not None
        assert "".join(CATALOG.items.take(np.flatnonzero(mask))) == expected
    with pytest.raises(InputError, match="block: item 'A' is not in the catalog"):
        allowed_items(CATALOG, None, ["A"])


def test_ties_go_to_the_first_item_and_what_is_undefined_never_appears() -> None:
    users = Identifiers.of([4, 9])
    scores = np.array([[1, 2, 2, np.nan], [-np.inf, 0, 0, 0]], dtype=np.float32)
    batch: Any = [(np.array([0, 1]), None, scores)]
    table = next(recommend_batches(batch, users, CATALOG, 4, None, None))
    assert table.rows() == [
        (4, "b", 2.0, 1), (4, "c", 2.0, 2), (4, "a", 1.0, 3), (9, "b", 0.0, 1), (9, "c", 0.0, 2), (9, "d", 0.0, 3),
    ]  # fmt: skip


def test_similar_items_have_titles_and_leave_themselves_out() -> None:
    table = similar_table(CATALOG, 1, np.array([0.5, 9.0, 0.7, 0.5], dtype=np.float32), 5)
    assert table.rows() == [("c", "Cat", pytest.approx(0.7), 1), ("a", "Ant", 0.5, 2), ("d", "d", 0.5, 3)]
    assert similar_table(Catalog(CATALOG.items), 0, np.ones(4, dtype=np.float32), 1).columns == [
        "item_id",
        "score",
        "rank",
    ]
