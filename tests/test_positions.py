"""`last:N`: each of a user's last interactions is predicted from everything before it, and counts as one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec as fr
from conftest import Said
from fedrec.data.interactions import Interactions
from fedrec.data.splits import HISTORY, Split
from fedrec.errors import InputError, PlanError
from fedrec.evaluation.ranks import score_list
from fedrec.federation.plan import Plan
from fedrec.runs.training import Placement, train_run

DATA = fr.synthetic(users=60, items=50, interactions_per_user=9, seed=6)
METRICS = ("hr@5", "ndcg@5", "mrr@20")


def interactions(lengths: list[int], n_items: int = 40) -> Interactions:
    """Users 0, 1, … with so many interactions."""
    rng = np.random.default_rng(2)
    rows = [
        (user, item, time) for user, n in enumerate(lengths) for time, item in enumerate(rng.permutation(n_items)[:n])
    ]
    users, items, times = zip(*rows, strict=True)
    catalog = fr.interactions_from({"user": [0] * n_items, "item": range(n_items)}).catalog
    return fr.interactions_from({"user": users, "item": items, "time": times}, catalog=catalog)


def scores_of(model: fr.EASE, decay: float, history: np.ndarray) -> np.ndarray:
    weights = model.shared["weights"].astype(np.float64)
    scores: np.ndarray = (decay ** np.arange(len(history))[::-1, None] * weights[history]).sum(axis=0)
    return scores


def brute_force(split: Split, part: str, model: fr.EASE, decay: float, metric: str, protocol: str) -> list[list[float]]:
    """The metric of every position, user by user, position by position."""
    found = []
    for user in range(split.data.n_users):
        rows = slice(*split.data.indptr[user : user + 2])
        items, parts = split.data.items[rows], split.part[rows]
        values = []
        for place in np.flatnonzero(parts == {"valid": 1, "test": 2}[part]):
            scores = scores_of(model, decay, items[:place])
            exclude = items[:place] if protocol == "full" else np.delete(items, place)
            values.append(score_list(scores.tolist(), [int(items[place])], metric, exclude.tolist(), protocol))
        if values:
            found.append(values)
    return found


def by_hand(model: Any, split: Split, wanted: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, list[int], int]]:
    """Scores, history and row in `split.data` of every test position, from the scores that the nodes give."""
    shard = model.opened.with_split(split).shards[0]
    for known, found in split.steps("test", wanted):
        users = split.data.rows_of_users()[found]
        (_, _, scores), *_ = shard.scores(model.shared, model.opened.trained.round, known, users)
        for user, own, row in zip(users, scores, np.flatnonzero(found), strict=True):
            yield own, known.items[slice(*known.indptr[user : user + 2])].tolist(), int(row)


@pytest.mark.parametrize("protocol", ["full", "sampled:20"])
@pytest.mark.parametrize("part", ["test", "valid"])
@pytest.mark.parametrize("decay", [1.0, 0.7])
def test_every_position_is_one_query_with_all_before_it_as_history(decay: float, part: Any, protocol: str) -> None:
    split = fr.last(interactions([1, 2, 3, 4, 5, 6, 7, 9, 14, 20] * 3), 3)
    model = fr.EASE(reg=5.0, decay=decay).fit(split)
    table = fr.evaluate(model, split, METRICS, protocol=protocol, part=part)
    for metric, row in zip(METRICS, table.to_dicts(), strict=True):
        users = brute_force(split, part, model, decay, metric, protocol)
        values = np.concatenate(users)
        assert row["metric"] == metric
        assert row["value"] == pytest.approx(values.mean(), abs=1e-6)
        assert row["users"] == len(users)
        # As if each user were drawn with all its positions: the deviation of a ratio of sums.
        left = np.array([np.sum(own) - values.mean() * len(own) for own in users])
        error = np.sqrt(len(users) / (len(users) - 1) * (left**2).sum()) / len(values)
        assert row["standard_error"] == pytest.approx(error, abs=1e-6)


def test_history_grows_along_the_positions() -> None:
    split = fr.last(DATA, 3)
    steps = list(split.steps("test"))
    assert len(steps) == 3
    for place, (known, found) in enumerate(steps):
        assert found.sum() == DATA.n_users
        for user in range(DATA.n_users):
            rows = slice(*split.data.indptr[user : user + 2])
            items = split.data.items[rows].tolist()
            target = len(items) - 3 + place
            assert split.data.items[rows][found[rows]].tolist() == [items[target]]
            assert known.items[slice(*known.indptr[user : user + 2])].tolist() == items[:target]


@pytest.mark.parametrize("model", [fr.EASE(decay=0.8), fr.MF(rounds=3, embedding_size=4), fr.IALS(rounds=2)])
def test_one_position_is_leave_last_out(model: Any) -> None:
    data = interactions([1, 2, 3, 4, 5, 6, 7, 9, 14, 20] * 3)
    tables = [fr.evaluate(model.fit(split), split, METRICS) for split in (fr.leave_last_out(data), fr.last(data, 1))]
    assert tables[0]["users"].equals(tables[1]["users"])
    for column in ("value", "standard_error"):
        assert tables[0][column].to_list() == pytest.approx(tables[1][column].to_list(), abs=1e-7)


@pytest.mark.parametrize(
    ("length", "counts"),
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (4, (1, 0, 3)), (5, (1, 1, 3)), (6, (1, 2, 3)), (7, (1, 3, 3)), (9, (3, 3, 3))],
)
def test_users_with_few_interactions_keep_one_for_training(length: int, counts: tuple[int, int, int]) -> None:
    found = fr.last(interactions([length]), 3).counts()
    assert (found["train"], found["valid"], found["test"]) == counts


@pytest.mark.parametrize("model", [{"name": "ease", "decay": 0.8}, {"name": "mf", "rounds": 2, "embedding_size": 4}])
def test_figures_are_sums_over_nodes(model: dict[str, Any], tmp_path: Path) -> None:
    DATA.to_frame().write_parquet(tmp_path / "data.parquet")
    metrics = [*METRICS, "coverage@5", "gini@5", "average_popularity@5", "novelty@5"]
    settings = {"data": {"source": str(tmp_path / "data.parquet")}, "split": "last:3", "model": model}
    plan = Plan.make(settings | {"evaluation": {"metrics": metrics}})
    reports = [train_run(plan, tmp_path / f"{nodes}", Placement(nodes)) for nodes in (1, 4)]
    masked = train_run(plan, tmp_path / "masked", Placement(4, secure=True))
    for part in ("valid", "test"):
        assert reports[0]["metrics"][part] == reports[1]["metrics"][part] == masked["metrics"][part]
        assert reports[0]["standard_error"][part] == reports[1]["standard_error"][part]
    split = fr.last(DATA, 3)
    again = fr.evaluate(fr.load_model(tmp_path / "1"), split, metrics)
    assert again["value"].to_list() == pytest.approx(
        [reports[0]["metrics"]["test"][name] for name in metrics], abs=1e-6
    )


def test_coverage_is_of_the_lists_of_all_positions() -> None:
    split = fr.last(DATA, 2)
    model = fr.EASE(decay=0.5).fit(split)
    listed: set[int] = set()
    for user in range(DATA.n_users):
        items = split.data.items[slice(*split.data.indptr[user : user + 2])]
        for place in (len(items) - 2, len(items) - 1):
            scores = scores_of(model, 0.5, items[:place])
            scores[items[:place]] = -np.inf
            listed.add(int(np.argmax(scores)))
    assert fr.evaluate(model, split, ["coverage@1"])["value"][0] == pytest.approx(len(listed) / 50)


def test_ratings_are_predicted_position_by_position_and_all_count() -> None:
    data = fr.synthetic(users=60, items=50, interactions_per_user=9, seed=6, ratings=True)
    split = fr.last(data, 3)
    model = fr.BiasedMF(rounds=3, embedding_size=4, lowest=1, highest=5).fit(split)
    assert split.data.values is not None
    errors = [
        np.clip(scores[split.data.items[row]], 1, 5) - split.data.values[row]
        for scores, _, row in by_hand(model, split)
    ]
    of_users = np.reshape(errors, (3, 60)).T  # all users have three positions
    table = fr.evaluate(model, split, ["rmse", "mae"])
    assert table["value"].to_list() == pytest.approx([np.sqrt((of_users**2).mean()), np.abs(of_users).mean()], abs=1e-6)
    error = np.abs(of_users).mean(axis=1).std(ddof=1) / np.sqrt(60)
    assert table["standard_error"][1] == pytest.approx(error, abs=1e-6)


def test_an_interaction_that_weighs_nothing_is_no_position_and_still_seen() -> None:
    items, times = [*range(6), 0, 1, 2, 3, 4, 6], [*range(6)] * 2
    table = {"user": [1] * 6 + [2] * 6, "item": items, "time": times, "weight": [1.0] * 4 + [0.0, 1.0] + [1.0] * 6}
    data = fr.interactions_from(table)
    split = fr.last(data, 2)
    model = fr.EASE(reg=1.0, plan={"weights": "value"}).fit(split)
    assert split.data.values is not None
    positions = list(by_hand(model, split, split.data.values > 0))
    assert [(history, row) for _, history, row in positions] == [
        ([0, 1, 2, 3, 4], 5), ([0, 1, 2, 3], 10), ([0, 1, 2, 3, 4], 11)
    ]  # fmt: skip
    values = [
        score_list(scores.tolist(), [split.data.items[row]], "mrr@9", history) for scores, history, row in positions
    ]
    row = fr.evaluate(model, split, ["mrr@9"]).row(0, named=True)
    assert row["users"] == 2
    assert row["value"] == pytest.approx(np.mean(values), abs=1e-6)


@pytest.mark.parametrize("refit", [False, True])
def test_a_saved_model_is_measured_as_before(refit: bool, tmp_path: Path) -> None:
    split = fr.last(DATA, 3)
    model = fr.EASE(decay=0.8, plan={"refit": refit}).fit(split)
    model.save(tmp_path / "run")
    loaded = fr.load_model(tmp_path / "run")
    assert fr.evaluate(loaded, None, METRICS).equals(fr.evaluate(model, None, METRICS))
    assert loaded.opened.engine.shards[0].split.counts() == model.opened.engine.shards[0].split.counts()


def test_tuning_chooses_on_validation_positions() -> None:
    split = fr.last(DATA, 3)
    found = fr.tune(fr.EASE, split, {"decay": [1.0, 0.7]}, metric="ndcg@5", reg=5.0)
    for decay, value in zip([1.0, 0.7], found.table["ndcg@5"].to_list(), strict=True):
        model = fr.EASE(reg=5.0, decay=decay).fit(split)
        expected = np.mean(np.concatenate(brute_force(split, "valid", model, decay, "ndcg@5", "full")))
        assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("last", "from 1 to 1000, as in last:5"),
        ("last:0", "from 1 to 1000"),
        ("last:1001", "from 1 to 1000"),
        ("last:2.5", "from 1 to 1000"),
        ("last:5@time", "last:5@rows if the rows are in order"),
        ("lst:5", "last:5"),
    ],
)
def test_wrong_positions_say_what_to_write(text: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        Plan.make({"data": {"source": "x"}, "model": {"name": "ease"}, "split": text})


def test_positions_need_order() -> None:
    table = {"user": [1, 1, 1], "item": [3, 4, 5]}
    with pytest.raises(PlanError, match=r"split 'last' needs the order .*@rows"):
        fr.last(table, 2)
    assert fr.last(table, 2, by_rows=True).counts()["test"] == 2
    with pytest.raises(InputError, match="from 1 to 1000"):
        fr.last(table, -2)


def test_the_commands_take_positions(fedrec: Callable[..., Said], tmp_path: Path) -> None:
    source = "synthetic:users=60,items=50,interactions_per_user=9,seed=6"
    said = fedrec("train", "--data", source, "--model", "ease", "--split", "last:3", "--metrics", "ndcg@5",
                  "--out", tmp_path / "run", "--json")  # fmt: skip
    assert said.code == 0, said.err
    value = json.loads(said.out)["metrics"]["test"]["ndcg@5"]
    split = fr.last(fr.load_data(source), 3)
    expected = np.concatenate(brute_force(split, "test", fr.EASE().fit(split), 1.0, "ndcg@5", "full"))
    assert value == pytest.approx(expected.mean(), abs=1e-6)
    compared = fedrec("compare", "--data", source, "--models", "popularity,ease", "--split", "last:3",
                      "--metrics", "ndcg@5", "--json")  # fmt: skip
    assert json.loads(compared.out)["models"][1]["metrics"]["ndcg@5"] == value
    evaluated = fedrec("evaluate", tmp_path / "run", "--metrics", "ndcg@5", "--json")
    assert json.loads(evaluated.out)["metrics"]["ndcg@5"] == pytest.approx(value, abs=1e-6)


def test_held_out_users_without_a_row_are_folded_in_position_by_position() -> None:
    split = fr.last(DATA, 2)
    part = split.part.copy()
    strangers = split.data.rows_of_users() % 2 == 0
    part[strangers & (part < 2)] = HISTORY
    halved = Split(split.data, part, "strangers", positions=2)
    model = fr.IALS(rounds=2, embedding_size=4).fit(halved)
    values = [
        score_list(scores.tolist(), [int(DATA.items[row])], "ndcg@5", history)
        for scores, history, row in by_hand(model, halved)
    ]
    assert len(values) == 2 * DATA.n_users
    assert fr.evaluate(model, halved, ["ndcg@5"])["value"][0] == pytest.approx(np.mean(values), abs=1e-6)
