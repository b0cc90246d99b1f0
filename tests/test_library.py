"""The library face: tables in and out, ids as they were, fit, evaluate, save and load."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import fedrec as fr
from chosen_in_test import chosen
from fedrec.errors import DamagedError, InputError, PlanError, RunError
from fedrec.estimators.estimator import Estimator, estimator
from fedrec.federation.coordinator import Progress
from fedrec.models.registry import MODELS, model_class
from runs_in_test import ENCODED, KINDS, NETWORKS

pytestmark = pytest.mark.filterwarnings("ignore:ratings .or weights. from")  # values do not matter here

QUICK: dict[str, dict[str, Any]] = {
    "autoencoder": {"rounds": 8},
    "blend": {"models": [{"name": "ease"}, {"name": "autoencoder", "rounds": 8}]},
    "mf": {"embedding_size": 4, "rounds": 3},
    "ials": {"embedding_size": 4, "rounds": 2},
    "lightgcn": {"embedding_size": 8, "rounds": 24},
    **NETWORKS,
    **{name: {"rounds": 4} for name in ("fcf", "fedncf", "fedrap", "fedrecon", "gpfedrec", "pfedrec")},
}
TRAINED = sorted(MODELS.keys() - ENCODED)
DATA = fr.synthetic(users=120, items=50, interactions_per_user=11, seed=2, ratings=True)


def text_ids(data: fr.Interactions) -> pl.DataFrame:
    """The same rows with text ids whose order is not that of the numbers."""
    user = ("user " + pl.col("user_id").cast(pl.String)).alias("user_id")
    return data.to_frame().with_columns(user, ("00" + pl.col("item_id").cast(pl.String)).alias("item_id"))


def made(name: str, **settings: Any) -> Estimator:
    return estimator(name)(**QUICK.get(name, {}), **settings)


def test_the_example_on_real_data(real: Callable[[str], Path], tmp_path: Path) -> None:
    real("ml-100k")
    data = fr.load_data("ml-100k")
    split = fr.leave_last_out(data)
    with pytest.warns(UserWarning, match="from 1 to 5 all count alike"):
        model = fr.EASE().fit(split.train)
    table = model.recommend(["196"], n=10)
    assert table.columns == ["user_id", "item_id", "score", "rank"]
    assert table["user_id"].to_list() == [196] * 10
    assert table["rank"].to_list() == list(range(1, 11))
    assert table["score"].is_sorted(descending=True)
    found = fr.evaluate(model, split, ["ndcg@10", "recall@10"])
    assert found["users"].to_list() == [943, 943]
    sampled = fr.evaluate(model, split, ["hr@10", "ndcg@10"], protocol="sampled:99")["value"]
    assert 0.62 < sampled[0] < 0.70
    assert 0.36 < sampled[1] < 0.42
    model.save(tmp_path / "run")
    assert fr.load_model(tmp_path / "run").recommend(["196"], n=10).equals(table)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda frame: frame, pl.DataFrame),
        (lambda frame: frame.lazy(), pl.DataFrame),
        (lambda frame: frame.to_pandas(), pd.DataFrame),
        (lambda frame: frame.to_arrow(), pl.DataFrame),
        (lambda frame: frame.to_dict(as_series=False), pl.DataFrame),
    ],
    ids=["polars", "lazy", "pandas", "arrow", "mapping"],
)
@pytest.mark.parametrize("text", [False, True], ids=["numbers", "text"])
def test_tables_of_any_kind_and_ids_of_either_type(make: Callable[[pl.DataFrame], Any], kind: type, text: bool) -> None:
    frame = text_ids(DATA) if text else DATA.to_frame()
    expected = fr.EASE().fit(fr.interactions_from(frame)).recommend(n=3)
    found = fr.EASE().fit(make(frame)).recommend(n=3)
    assert isinstance(found, kind)
    assert pl.DataFrame(found).equals(expected)
    assert expected.schema["user_id"] == expected.schema["item_id"] == (pl.String if text else pl.Int64)
    assert set(expected["item_id"]) <= set(frame["item_id"])


def test_arrow_of_narrow_numbers_is_read_as_it_is() -> None:
    table = pa.table({"user": pa.array([1, 1, 2], pa.int8()), "item": pa.array(["a", "b", "a"])})
    found = fr.Popularity().fit(table).recommend()
    assert found.rows() == [(2, "b", 1.0, 1)]


def test_unknown_users() -> None:
    model = fr.Popularity().fit(DATA)
    with pytest.raises(InputError, match=r"2 unknown users: 7777, 8888.*history"):
        model.recommend([1, 7777, 8888])
    with pytest.warns(UserWarning, match="1 unknown user: 7777; left out"):
        warned = model.recommend([1, 7777], unknown="warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ignored = model.recommend([7777, 1], unknown="ignore")
    assert warned.equals(ignored)
    assert warned.equals(model.recommend([1]))
    nobody = model.recommend([7777], unknown="ignore")
    assert (nobody.height, nobody.schema) == (0, warned.schema)
    assert model.recommend([]).height == 0
    with pytest.raises(InputError, match="raise, warn, ignore"):
        model.recommend([1], unknown="skip")  # type: ignore[arg-type]
    text = fr.Popularity().fit(text_ids(DATA))
    with pytest.raises(InputError, match="Did you mean 'user 1"):
        text.recommend(["user  1"])
    with pytest.raises(InputError, match="whole numbers, without quotes"):
        model.recommend(["bob"])


def test_ids_may_be_written_as_numbers_or_text_and_keep_the_type_of_the_data() -> None:
    model = fr.EASE().fit(DATA)
    for users in ([3, 5], ["3", "5"], np.array([3, 5]), pl.Series([3, 5]), pd.Series([3, 5]), (3, 5)):
        assert model.recommend(users, n=2).equals(model.recommend([3, 5], n=2))
    assert model.recommend("3", n=2).equals(model.recommend([3], n=2))
    assert model.recommend([5, 3, 5], n=1)["user_id"].to_list() == [5, 3]
    assert model.similar("7").equals(model.similar(7))
    assert model.recommend([3], only=["7", "9"]).equals(model.recommend([3], only=[7, 9]))


FORMS = ("table", "split", "text")


@pytest.mark.parametrize(
    ("name", "form"),
    [
        pytest.param(name, form, marks=() if place % 3 == FORMS.index(form) else pytest.mark.exhaustive)
        for place, name in enumerate(TRAINED)
        for form in FORMS
    ],
)
def test_saved_and_loaded_recommends_and_measures_the_same(name: str, form: str, tmp_path: Path) -> None:
    split = fr.leave_last_out(fr.interactions_from(text_ids(DATA)) if form == "text" else DATA)
    model = made(name).fit(split if form == "split" else split.train)
    model.save(tmp_path / "run")
    loaded = fr.load_model(tmp_path / "run")
    assert type(loaded) is type(model)
    assert repr(loaded) == repr(model)
    assert loaded.recommend(n=4).equals(model.recommend(n=4))
    for part in ("valid", "test"):
        assert fr.evaluate(loaded, split, "ndcg@5", part=part).equals(fr.evaluate(model, split, "ndcg@5", part=part))  # type: ignore[arg-type]
    with pytest.raises(RunError, match="exists already"):
        model.save(tmp_path / "run")


def test_a_folder_with_anything_of_anybody_elses_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    """A run that fails early removes its folder, and would take along what it did not write."""
    model = made("popularity").fit(DATA)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / ".plan.yaml.new").touch()  # as a run leaves them that was killed before it had a plan
    (tmp_path / "run" / ".git").mkdir()
    with pytest.raises(RunError, match="exists already"):
        model.save(tmp_path / "run")
    (tmp_path / "run" / ".git").rmdir()
    model.save(tmp_path / "run")


def test_a_saved_model_does_not_hide_changes(tmp_path: Path) -> None:
    made("mf").fit(DATA).save(tmp_path / "run")
    history = tmp_path / "run" / "private" / "interactions.parquet"
    written, table = history.read_bytes(), pl.read_parquet(history)
    table.head(table.height - 1).write_parquet(history)
    with pytest.raises(DamagedError, match=r"private/interactions\.parquet was changed"):
        fr.load_model(tmp_path / "run").recommend()
    history.write_bytes(written)
    fr.load_model(tmp_path / "run").recommend()
    rows = next((tmp_path / "run" / "private").rglob("base.safetensors"))
    rows.write_bytes(rows.read_bytes()[:-40])
    with pytest.raises(DamagedError, match=r"base\.safetensors"):
        fr.load_model(tmp_path / "run").recommend()


@pytest.mark.parametrize("name", chosen({*KINDS, *NETWORKS}, TRAINED))
def test_nodes_do_not_change_the_model(name: str) -> None:
    one, three = made(name).fit(DATA), made(name).fit(DATA, nodes=3)
    other = made(name).fit(DATA, nodes=4, partition="by:region")
    if name in NETWORKS:
        for key, array in one.shared.items():
            assert np.abs(array - three.shared[key]).max() < 1e-3
            assert np.abs(array - other.shared[key]).max() < 1e-3
        return
    for key, array in one.shared.items():
        assert three.shared[key].tobytes() == other.shared[key].tobytes() == array.tobytes()
    wanted = [9, 4, 44, 4]
    assert three.recommend(wanted, n=3).equals(one.recommend(wanted, n=3))
    assert three.recommend(map(str, wanted), n=3).equals(one.recommend(wanted, n=3))
    assert three.recommend([9, 123456], unknown="ignore").equals(one.recommend([9]))
    with pytest.raises(InputError, match="1 unknown user: 123456"):
        three.recommend([9, 123456])


def test_repeats_are_merged_and_the_latest_counts() -> None:
    rows = {"user_id": [1, 1, 1, 2, 2], "item_id": [5, 6, 5, 5, 5], "timestamp": [1, 2, 3, 1, 1]}
    once = {"user_id": [1, 1, 2], "item_id": [6, 5, 5], "timestamp": [2, 3, 1]}
    model, clean = fr.Popularity().fit(rows), fr.Popularity().fit(once)
    assert model.shared["counts"].tolist() == clean.shared["counts"].tolist() == [2.0, 1.0]
    split = fr.leave_last_out(fr.interactions_from(rows))
    assert split.merged == 2
    assert split.test.to_frame()["item_id"].to_list() == [5]


def test_a_model_that_is_not_fitted_says_so(tmp_path: Path) -> None:
    model = fr.EASE(reg=3)
    assert repr(model).startswith("EASE(reg=3.0")
    for use in (
        lambda: model.recommend([1]),
        lambda: model.similar(1),
        lambda: model.shared,
        lambda: model.save(tmp_path / "run"),
        lambda: fr.evaluate(model, fr.leave_last_out(DATA)),
        lambda: model.save_recommendations(tmp_path / "r.csv"),
    ):
        with pytest.raises(InputError, match=r"EASE is not fitted; call fit\(data\) first"):
            use()
    assert list(tmp_path.iterdir()) == []
    assert repr(model.fit(DATA)).endswith(", fitted")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reg": -1}, "EASE: model ease: reg|model ease: reg"),
        ({"regg": 1}, "Did you mean 'reg'"),
        ({"cohort": 0}, "EASE: cohort"),
        ({"seed": -1}, "EASE: seed"),
        ({"plan": {"splitt": "none"}}, "EASE: 'splitt' is not a setting. Did you mean 'split'"),
        ({"plan": {"evaluation": {"patience": 2}}}, "patience"),
    ],
)
def test_wrong_settings_are_errors_where_they_are_written(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        fr.EASE(**settings)


def test_a_cohort_is_a_share_of_the_clients_of_each_round() -> None:
    seen: list[Progress] = []
    made("mf", cohort=0.3, seed=1).fit(DATA, watch=seen.append)
    sizes = [progress.cohort for progress in seen]
    assert len(set(sizes)) > 1
    assert all(15 <= size <= 60 for size in sizes)
    counted: list[Progress] = []
    made("mf", cohort=36, seed=1).fit(DATA, watch=counted.append)
    assert [progress.cohort for progress in counted] == sizes
    full: list[Progress] = []
    made("mf").fit(DATA, watch=full.append)
    assert [progress.cohort for progress in full] == [120] * 3
    assert [progress.round for progress in full] == [0, 1, 2]


@pytest.mark.parametrize("made_outside", [True, False])
@pytest.mark.parametrize("nodes", [1, 3])
def test_the_best_round_is_kept_with_the_private_rows_of_that_round(
    nodes: int, made_outside: bool, tmp_path: Path
) -> None:
    """Rounds that spoil the model: the returned one measures what the best validation measured."""
    settings = {"embedding_size": 8, "learning_rate": 0.4, "rounds": 14, "seed": 3}
    plan = {"split": "leave-last-out", "evaluation": {"every": 1, "keep": "best", "metrics": ["ndcg@10"]}}
    seen: list[Progress] = []
    split = fr.leave_last_out(DATA)
    model = fr.MF(**settings, plan=plan)
    model.fit(split if made_outside else DATA, nodes=nodes, watch=seen.append)
    assert len(model.opened.engine.nodes) == nodes
    scores = [progress.metrics["ndcg@10"] for progress in seen]
    best = scores.index(max(scores))
    assert max(scores) > scores[-1], "the last round should not be the best here"
    assert model.opened.trained.round == best
    measured = model.opened.measure(["ndcg@10"], "full", "valid")["ndcg@10"].value
    assert measured == max(scores)
    outside = fr.evaluate(model, split, "ndcg@10", part="valid")["value"][0]
    assert outside == pytest.approx(max(scores), abs=1e-9)
    model.save(tmp_path / "run")
    loaded = fr.load_model(tmp_path / "run").opened.measure(["ndcg@10"], "full", "valid")["ndcg@10"].value
    assert loaded == max(scores)


def test_patience_stops_after_validations_without_a_better_one() -> None:
    plan = {"evaluation": {"every": 2, "keep": "best", "patience": 2, "metrics": ["ndcg@10"]}}
    seen: list[Progress] = []
    model = fr.MF(embedding_size=8, learning_rate=0.4, rounds=200, seed=3, plan=plan)
    model.fit(fr.leave_last_out(DATA), watch=seen.append)
    scores = [progress.metrics["ndcg@10"] for progress in seen if progress.metrics]
    assert len(seen) == 2 * len(scores) < 200
    assert max(scores[:-2]) >= max(scores[-2:])
    assert max(scores[:-3]) < max(scores[-3:-1]) or len(scores) == 3
    assert model.opened.trained.round == 2 * scores.index(max(scores)) + 1


STARTING = {"autoencoder", "blend", "lightgcn", "neumf", "sasrec", "spectral", "two-tower"}
"""Models whose first rounds make arrays that cannot score."""


@pytest.mark.filterwarnings("ignore:.*not told apart")
@pytest.mark.parametrize(
    ("name", "settings", "validated"),
    [
        *((name, {}, None) for name in sorted(set(TRAINED) - STARTING)),
        ("autoencoder", {"rounds": 6}, [3, 4, 5]),
        ("autoencoder", {"start_from": "random"}, [0, 1, 2]),
        ("blend", {"models": ["ease", "popularity"]}, [0]),
        ("blend", {"models": [{"name": "ease", "rank": 8}, {"name": "mf", "rounds": 3}]}, [1, 2]),
        ("lightgcn", {"rounds": 6, "start_from": "random"}, [3, 4, 5]),
        ("neumf", {"rounds": 6, "window": 12, "user": "private"}, [3, 4, 5]),
        ("sasrec", {"rounds": 7, "window": 12}, [3, 4, 5, 6]),
        ("two-tower", {"rounds": 4, "passes": 1}, [1, 2, 3]),
        ("spectral", {}, [2]),
        ("spectral", {"passes": 3}, [3]),
        ("ease", {"rank": 8}, [1]),
        ("ease", {"rank": 8, "passes": 3}, [2]),
    ],
)
def test_rounds_that_can_score_are_validated_and_no_others(
    name: str, settings: dict[str, Any], validated: list[int] | None
) -> None:
    """`spectral`, and `ease` with a rank, have factors to score with after their last round only; `autoencoder` and
    `lightgcn` after those of their start, and a `blend` when all its models do."""
    if "rounds" in model_class(name).model_fields:
        settings = {"rounds": 3} | settings
    plan = {"split": "leave-last-out", "evaluation": {"every": 1, "keep": "best", "metrics": ["ndcg@10"]}}
    seen: list[Progress] = []
    model = estimator(name)(plan=plan, **settings).fit(DATA, watch=seen.append)
    rounds = [progress.round for progress in seen]
    assert [progress.round for progress in seen if progress.metrics] == (rounds if validated is None else validated)
    best = max(progress.metrics["ndcg@10"] for progress in seen if progress.metrics)
    assert model.opened.measure(["ndcg@10"], "full", "valid")["ndcg@10"].value == best


def test_validations_need_something_to_validate_on() -> None:
    with pytest.raises(PlanError, match="leaves nothing for validation"):
        made("mf", plan={"evaluation": {"every": 1}}).fit(DATA)


def test_evaluation_of_other_data_folds_new_users_in() -> None:
    split = fr.new_users(DATA, 0.2, seed=1)
    for name in TRAINED:
        model = made(name).fit(split.train)
        found = fr.evaluate(model, split, "hr@10,ndcg@10")
        held = int((split.test.lengths > 0).sum())
        assert found["users"].to_list() == [held, held]
        if name != "popularity":
            assert found["value"][0] > 0.05
    other = fr.leave_last_out(fr.synthetic(users=50, items=60, interactions_per_user=9))
    with pytest.raises(InputError, match="different catalogs"):
        fr.evaluate(model, other)
    with pytest.raises(InputError, match="nothing in 'valid'"):
        fr.evaluate(model, fr.Split(DATA, np.zeros(len(DATA), dtype=np.int8), "none"), "hr@1", part="valid")


def test_loading_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        fr.load_model(tmp_path)


@pytest.mark.parametrize("name", TRAINED)
def test_measuring_strangers_does_not_look_at_what_is_to_be_found(name: str) -> None:
    """Users that the model never met: their scores come from the history alone, whatever is held out."""
    model = made(name).fit(DATA.take_users(np.arange(60)))
    split = fr.leave_last_out(DATA.take_users(np.arange(60, 120)))
    other = split.data.items.copy()
    held = np.flatnonzero(split.part == 2)
    for row in held:
        user = split.data.rows_of_users()[row]
        other[row] = np.setdiff1d(np.arange(DATA.n_items), split.data.take_users(np.array([user])).items)[0]
    changed = fr.Split(replace(split.data, items=other), split.part, split.method)
    scores = []
    for each in (split, changed):
        shard = model.opened.with_split(each).shards[0]
        shared, round = model.opened.trained.state.shared, model.opened.trained.round
        batches = shard.scores(shared, round, each.history("test"), np.arange(60))
        scores.append(np.concatenate([batch for _, _, batch in batches]))
    assert scores[0].tobytes() == scores[1].tobytes()
    newcomers = model.opened.with_visitors(split.history("test"))
    folded = newcomers.scores(shared, round, newcomers.data, np.arange(60))
    assert np.concatenate([batch for _, _, batch in folded]).tobytes() == scores[0].tobytes()


def test_a_model_trained_on_what_is_held_out_is_warned_about():
    split = fr.leave_last_out(fr.synthetic(users=200, items=80, interactions_per_user=10))
    with pytest.warns(UserWarning, match="trained on 200 of the held-out interactions"):
        fr.evaluate(fr.Popularity().fit(split.data), split, ["hr@10"])


def test_what_a_plan_and_an_argument_say_both_is_refused_and_the_plans_seed_counts() -> None:
    assert fr.MF(plan={"seed": 7}).plan.seed == 7
    assert (fr.MF(seed=3).plan.seed, fr.MF().plan.seed) == (3, 0)
    for key, value in (("seed", 7), ("cohort", 0.5), ("weights", "log")):
        with pytest.raises(fr.InputError, match=rf"^plan of MF: remove the key '{key}': {key} is an argument too"):
            fr.MF(**{key: value}, plan={key: value})
    with pytest.raises(fr.InputError, match=r"remove the key 'model': hyperparameters are arguments"):
        fr.MF(plan={"model": {"rounds": 3}})
