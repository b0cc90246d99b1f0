"""The library's face of checking; tables as they came; objects that say in a line what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

import fedrec as fr
from fedrec.data.interactions import Interactions
from fedrec.errors import InputError, PlanError
from fedrec.estimators.estimator import Estimator

DATA = fr.synthetic(users=120, items=60, interactions_per_user=10, seed=3)
FRAME = DATA.to_frame()
SPLITS: dict[str, Any] = {
    "leave-last-out": fr.leave_last_out, "temporal": fr.temporal, "ratio": fr.ratio, "new-users": fr.new_users,
    "cold-items": fr.cold_items,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SPLITS))
def test_every_split_takes_a_table(name: str) -> None:
    wanted = SPLITS[name](fr.interactions_from(FRAME))
    for table in (FRAME, FRAME.to_pandas(), FRAME.to_arrow(), FRAME.to_dict(as_series=False), FRAME.lazy()):
        split = SPLITS[name](table)
        assert (split.part == wanted.part).all()
        assert split.train.to_frame().equals(wanted.train.to_frame())
        assert split.data.pandas == isinstance(table, pd.DataFrame)


def test_given_parts_come_with_a_table() -> None:
    parts = pl.Series(["train", "test"] * (FRAME.height // 2) + ["train"] * (FRAME.height % 2))
    assert fr.given(FRAME.with_columns(parts.alias("part"))).counts()["test"] == FRAME.height // 2


def test_pandas_in_pandas_out() -> None:
    split = fr.leave_last_out(FRAME.to_pandas())
    assert isinstance(split.train, Interactions)
    for data in (split, split.train, fr.interactions_from(FRAME.to_pandas()), FRAME.to_pandas()):
        model = fr.EASE().fit(data)
        assert isinstance(model.recommend([1], n=2), pd.DataFrame)
        assert isinstance(next(iter(model.recommend_batches([1], n=2))), pd.DataFrame)
        assert isinstance(model.similar(1), pd.DataFrame)
        assert isinstance(model.similar([1, 2]), pd.DataFrame)
    assert isinstance(fr.evaluate(fr.EASE().fit(split.train), split), pd.DataFrame)
    assert isinstance(fr.compare(split, "popularity", "hr@5"), pd.DataFrame)
    assert isinstance(fr.tune(fr.EASE, split, {"reg": [1, 9]}).table, pd.DataFrame)
    cleaned, _ = fr.clean(fr.interactions_from(FRAME.to_pandas()), k_core=2, min_user_interactions=3)
    assert cleaned.pandas
    plain = fr.leave_last_out(FRAME)
    model = fr.EASE().fit(plain)
    for table in (model.recommend([1]), model.similar(1), fr.evaluate(model, plain),
                  fr.tune(fr.EASE, plain, {"reg": [1, 9]}).table):  # fmt: skip
        assert isinstance(table, pl.DataFrame)


def test_objects_say_what_they_are_in_a_line() -> None:
    split = fr.leave_last_out(DATA)
    model = fr.EASE(reg=5).fit(split)
    assert repr(DATA).startswith("Interactions(120 users, 60 items, ")
    assert "times 20" in repr(DATA)
    assert repr(split).startswith(f"Split(leave-last-out: {len(split.train):,} train, 120 valid, 120 test; 120 users")
    assert (
        repr(model) == "EASE(reg=5.0, alpha=0.0, rank=None, passes=2, decay=1.0, item_features=None, boost='auto', "
        "target=None, dropout=4.0), fitted"
    )
    for thing in (DATA, split, model, model.opened):
        assert len(repr(thing)) < 300
        assert "array" not in repr(thing)
    for thing in (DATA, split, model, fr.MF()):
        shown = thing._repr_html_()
        assert shown.startswith("<table>")
        assert shown.count("<tr>") == shown.count("</tr>") > 2
    odd = fr.interactions_from({"user": ["<b>"], "item": ["&"], "time": [-(2**40)]})
    assert "<b>" not in odd._repr_html_().replace("<table>", "")
    assert repr(odd)


def test_compare_measures_as_evaluate_does() -> None:
    split = fr.leave_last_out(DATA)
    models = ["popularity", fr.EASE(reg=7), fr.MF(rounds=2, embedding_size=4, seed=5), fr.ItemKNN]
    table = fr.compare(split, models, "hr@5,ndcg@5", protocol="sampled:20")
    assert table["model"].to_list() == ["popularity", "ease", "mf", "itemknn"]
    for row, made in zip(table.to_dicts(), [fr.Popularity(), *models[1:3], fr.ItemKNN()], strict=True):
        assert isinstance(made, Estimator)
        found = fr.evaluate(made.fit(split), split, "hr@5,ndcg@5", protocol="sampled:20")
        assert [row["hr@5"], row["ndcg@5"]] == pytest.approx(found["value"].to_list(), abs=1e-6)
    timed = pl.selectors.starts_with("seconds")
    assert fr.compare(FRAME, fr.EASE(reg=7), "hr@5").drop(timed).equals(
        fr.compare(split, [fr.EASE(reg=7).fit(DATA)], "hr@5").drop(timed))  # fmt: skip
    spread = fr.compare(DATA, "mf", "hr@5", seeds=2, split="ratio:0.8")
    assert "hr@5_sd" in spread.columns


def test_wrong_comparisons_are_refused() -> None:
    with pytest.raises(PlanError, match="Did you mean 'ease'"):
        fr.compare(DATA, "eese")
    for models in ([], "", [3]):
        with pytest.raises(InputError, match="model"):
            fr.compare(DATA, models)
    with pytest.raises(InputError, match="seeds must be at least 1"):
        fr.compare(DATA, "ease", seeds=0)
    with pytest.raises(InputError, match="leaves nothing in 'test'"):
        fr.compare(DATA, "ease", split="none")


def test_a_run_is_verified_and_audited_from_the_library(tmp_path: Path) -> None:
    fr.EASE().fit(DATA).save(tmp_path / "run")
    assert fr.verify(tmp_path / "run").wrong is None
    found = fr.audit_run(tmp_path / "run", "membership")
    assert found.columns == ["attack", "against", "measure", "value", "limit", "verdict", "says"]
    assert found["attack"].unique().to_list() == ["membership"]
    with pytest.raises(InputError, match="save the model and audit its folder"):
        fr.audit_run(fr.EASE().plan)
    (tmp_path / "run" / "model" / "catalog.jsonl").write_text("")
    assert "catalog" in str(fr.verify(tmp_path / "run").wrong)
