"""Whose list it is: one id is one id everywhere, visitors with items of tomorrow, users whose training diverged."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedrec as fr
from conftest import Said
from fedrec.audit.running import audit
from fedrec.data.identifiers import Identifiers
from fedrec.data.listing import listed
from fedrec.errors import InputError
from fedrec.estimators.estimator import Estimator
from fedrec.federation.plan import Plan
from fedrec.runs.tuning import candidate_plans

Call = Callable[..., Said]
CLICKS = {"user": ["a", "a", "b", "b", "ab", "ab"], "item": ["x", "y", "x", "z", "y", "z"]}
NUMBERED = {"user": [1, 1, 2, 2, 12, 12], "item": [1, 2, 1, 3, 2, 3]}


@pytest.fixture(scope="module")
def letters() -> Estimator:
    return fr.EASE(reg=1).fit(CLICKS)


@pytest.fixture(scope="module")
def numbers() -> Estimator:
    return fr.EASE(reg=1).fit(NUMBERED)


@pytest.fixture
def run(numbers: Estimator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    numbers.save("run")
    return Path("run")


def rows(table: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = table.rows()
    return found


def test_one_id_is_one_user_and_never_its_letters(letters: Estimator, numbers: Estimator, tmp_path: Path) -> None:
    assert rows(letters.recommend("ab")) == rows(letters.recommend(["ab"]))
    assert set(letters.recommend("ab")["user_id"]) == {"ab"}
    for user in (12, "12", np.int64(12), np.array(12), np.array([12]), (12,), {12}, iter([12]), pl.Series([12])):
        assert set(numbers.recommend(user)["user_id"]) == {12}
    assert letters.save_recommendations(tmp_path / "r.csv", "ab") == 1
    assert [set(batch["user_id"]) for batch in letters.recommend_batches("ab")] == [{"ab"}]


def test_one_id_is_one_item_in_every_option(letters: Estimator, numbers: Estimator) -> None:
    wide = fr.EASE(reg=1).fit({"user": [1, 1, 1, 2], "item": ["x", "y", "xy", "q"]})
    assert set(wide.recommend(2, only="xy")["item_id"]) == {"xy"}
    assert set(wide.recommend(2, block="xy")["item_id"]) == {"x", "y"}
    assert rows(wide.similar("xy")) == rows(wide.similar(["xy"]).drop("similar_to"))
    assert set(numbers.recommend(1, only=np.int64(3))["item_id"]) == {3}
    assert list(Identifiers.of("ab")) == ["ab"]
    assert Identifiers.of(["a", "b"]).find("ab").tolist() == [-1]


@pytest.mark.parametrize("wrong", [[np.int64(2), 12.9], [2, True], [True], 2.5, {"user_id": [1]}, b"12",
                                   pl.DataFrame({"user_id": [1]}), pd.DataFrame({"user_id": [1]}), object()],
                         ids=lambda wrong: f"{type(wrong).__name__} {wrong}"[:20].replace("\n", " "))  # fmt: skip
def test_what_is_no_id_is_refused_and_never_rounded(numbers: Estimator, wrong: Any) -> None:
    """Polars rounds 12.9 beside whole numbers to 12, and takes True for 1."""
    for ask in (
        lambda: numbers.recommend(wrong),
        lambda: numbers.recommend(1, only=wrong),
        lambda: numbers.recommend(1, block=wrong),
        lambda: numbers.similar(wrong),
    ):
        with pytest.raises(InputError):
            ask()


def test_one_value_is_one_value_in_other_lists_too() -> None:
    """Of metrics, of a grid, of attacks."""
    plan = {"data": {"source": "synthetic:users=60,items=20"}, "model": {"name": "ease"}}
    made = Plan.make(plan | {"evaluation": {"metrics": "hr@5, ndcg@5"}})
    assert made.evaluation.metrics == ("hr@5", "ndcg@5")
    base = Plan.make(plan)
    assert [settings for settings, _ in candidate_plans(base, {"reg": 5})] == [{"reg": 5}]  # type: ignore[dict-item]
    with pytest.raises(InputError, match=r"there is no attack 'membershp'\. Did you mean 'membership'"):
        audit(base, "membershp")


@given(st.text())
def test_text_is_one_value(text: str) -> None:
    assert listed(text, "users") == [text] == listed([text], "users")


@pytest.mark.parametrize("written", ["012", "+12", "1_2", "１２", " 12", "12.0"])
def test_a_number_is_looked_up_as_it_is_printed(numbers: Estimator, written: str) -> None:
    with pytest.raises(InputError, match="1 unknown user"):
        numbers.recommend(written)
    with pytest.raises(InputError, match="is not a whole number"):
        numbers.opened.data.users.parse(written)


@pytest.mark.parametrize("n", [2.5, True, "3", None, 0, np.float64(2)])
def test_a_length_that_is_none_is_refused(numbers: Estimator, n: Any) -> None:
    for ask in (numbers.recommend, numbers.recommend_batches, numbers.similar):
        with pytest.raises(InputError, match="n must be"):
            ask(1, n=n)


def test_other_odd_arguments_are_refused(numbers: Estimator) -> None:
    split = fr.leave_last_out(fr.synthetic(users=60, items=60, interactions_per_user=8))
    model = fr.EASE().fit(split.train)
    odd: Any = {
        "part='tets' is not known": lambda: fr.evaluate(model, split, part="tets"),  # type: ignore[arg-type]
        "split must be a Split": lambda: fr.evaluate(model, split.data),  # type: ignore[arg-type]
        "metrics must be": lambda: fr.evaluate(model, split, 0),  # type: ignore[arg-type]
        "nodes must be": lambda: fr.EASE().fit(NUMBERED, nodes=2.5),  # type: ignore[arg-type]
        "nodes must be at least": lambda: fr.EASE().fit(NUMBERED, nodes=0),
        "warm_start": lambda: fr.MF(rounds=1).fit(NUMBERED, warm_start="run"),  # type: ignore[arg-type]
        "seeds must be": lambda: fr.tune(fr.EASE, split, {"reg": [1]}, seeds="2"),  # type: ignore[arg-type]
        "the list is empty": lambda: numbers.similar([]),
        "unknown must be": lambda: numbers.recommend(1, unknown=3),  # type: ignore[arg-type]
    }
    for words, ask in odd.items():
        with pytest.raises(InputError, match=words):
            ask()


def test_a_length_beyond_the_catalog_gives_what_there_is(numbers: Estimator) -> None:
    assert rows(numbers.recommend(1, n=10**12)) == rows(numbers.recommend(1, n=3))
    assert rows(numbers.similar(1, n=10**12)) == rows(numbers.similar(1, n=3))
    assert numbers.recommend(1, n=np.int32(1)).height == 1


def test_similar_to_several_items(numbers: Estimator) -> None:
    table = numbers.similar([3, 1], n=1)
    assert table.columns == ["similar_to", "item_id", "score", "rank"]
    assert table["similar_to"].to_list() == [3, 1]
    for item in (3, 1):
        assert rows(table.filter(pl.col("similar_to") == item).drop("similar_to")) == rows(numbers.similar(item, n=1))


HISTORY = {"user": [9, 9, 8], "item": [1, 77, 78]}


def test_unknown_items_of_a_history_are_left_out_and_counted(numbers: Estimator) -> None:
    known = numbers.recommend(9, history={"user": [9], "item": [1]})
    with pytest.warns(UserWarning, match=r"2 rows left out.*: '77', '78'. 1 user with nothing left: 8") as caught:
        table = numbers.recommend(history=HISTORY, unknown_items="warn")
    assert len(caught) == 1
    assert rows(table) == rows(known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rows(numbers.recommend([8, 9], history=HISTORY, unknown_items="ignore")) == rows(known)
    with pytest.raises(InputError, match="1 unknown user: 5"):
        numbers.recommend([5, 8], history=HISTORY, unknown_items="ignore")


def test_an_unknown_item_is_refused_with_advice_that_can_be_followed(numbers: Estimator) -> None:
    with pytest.raises(InputError, match=r"row 2: item_id '77' is not in the catalog.*unknown_items='warn'") as error:
        numbers.recommend(history=HISTORY)
    assert "skip" not in str(error.value)
    with pytest.raises(InputError, match=r"unknown_items='skip' is not one of raise, warn, ignore"):
        numbers.recommend(history=HISTORY, unknown_items="skip")


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("visitor", ["guest", 90])
def test_visitors_have_ids_of_their_own_type(nodes: int, visitor: Any, tmp_path: Path) -> None:
    model = fr.EASE().fit({"user": [1, 1, 2, 2], "item": [1, 2, 1, 2]}, nodes=nodes)
    kind = pl.String if isinstance(visitor, str) else pl.Int64
    everything = {"user": [visitor, visitor], "item": [1, 2]}
    part = {"user": [visitor], "item": [1]}
    nothing = {"user": [visitor], "item": [77]}
    empty = model.recommend([visitor], history=everything)
    assert (empty.height, empty.columns) == (0, ["user_id", "item_id", "score", "rank"])
    assert empty.schema["user_id"] == kind
    gone = model.recommend([visitor], history=nothing, unknown_items="ignore")
    assert gone.schema == empty.schema
    table = model.recommend(history=part)
    assert (table["user_id"].to_list(), table["item_id"].to_list()) == ([visitor], [2])
    assert model.save_recommendations(tmp_path / "o.parquet", history=part) == 1
    assert pl.read_parquet(tmp_path / "o.parquet").equals(table)
    assert model.save_recommendations(tmp_path / "e.parquet", history=everything) == 0
    assert pl.read_parquet(tmp_path / "e.parquet").schema == empty.schema


def test_the_order_asked_for_is_kept_over_nodes() -> None:
    model = fr.EASE().fit(NUMBERED, nodes=3)
    table = model.recommend([12, 1, 2], n=1, include_seen=True)
    assert table["user_id"].to_list() == [12, 1, 2]
    history = {"user": ["q", "p"], "item": [1, 2]}
    assert model.recommend(["q", "p"], n=1, history=history)["user_id"].to_list() == ["q", "p"]


@pytest.fixture
def diverged() -> Estimator:
    """FedRAP on two users without a common item: their own rows of their own items end as NaN."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = fr.FedRAP().fit({"user": [1, 1, 2, 2], "item": [1, 2, 3, 4]})
    assert ["not finite" in str(warning.message) for warning in caught] == [True]
    return model


def test_users_whose_training_diverged_are_counted(diverged: Estimator) -> None:
    with pytest.warns(UserWarning, match=r"2 of 2 users have scores that are not finite") as caught:
        table = diverged.recommend(n=50, include_seen=True)
    assert (len(caught), table.height) == (1, 4)


def test_the_command_line_says_whose_training_diverged(
    diverged: Estimator, fedrec: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    diverged.save("run")
    said = fedrec("recommend", "run", "--all-users", "--to", "r.csv")
    assert "2 of 2 users have scores that are not finite" in said.err


def test_a_history_alone_means_everybody_in_it(run: Path, fedrec: Call) -> None:
    Path("h.csv").write_text("user_id,item_id\n9,1\n9,77\n8,2\n")
    refused = fedrec("recommend", run, "--history", "h.csv")
    assert refused.code == 2
    assert "line 3: item_id '77' is not in the catalog" in refused.err
    assert "--unknown-items" in refused.err
    said = fedrec("recommend", run, "--history", "h.csv", "--unknown-items", "warn", "--json")
    assert said.code == 0
    assert {row["user_id"] for row in json.loads(said.out)["recommendations"]} == {8, 9}
    assert "1 row left out" in said.err
    assert fedrec("recommend", run, "--history", "h.csv", "--unknown-items", "skip").code == 2
    nobody = fedrec("recommend", run)
    assert nobody.code == 2
    assert "--user ID, --history FILE" in nobody.err


def test_a_history_is_read_as_its_options_say(run: Path, fedrec: Call) -> None:
    """Errors of reading name these options, so there must be such options."""
    Path("h.csv").write_text("who;what\n9;1\n9;2;3\n")
    refused = fedrec("recommend", run, "--history", "h.csv", "--format", "csv")
    assert refused.code == 2
    said = fedrec("recommend", run, "--history", "h.csv", "--columns", "user_id=who,item_id=what",
                  "--on-error", "skip", "--json")  # fmt: skip
    assert said.code == 0, said.err
    assert {row["user_id"] for row in json.loads(said.out)["recommendations"]} == {9}
    assert "1 left out" in said.err
    without = fedrec("recommend", run, "--user", 1, "--columns", "user_id=who")
    assert (without.code, "--history" in without.err) == (2, True)


def test_several_similar_items_on_the_command_line(run: Path, fedrec: Call) -> None:
    one = json.loads(fedrec("similar", run, "--item", 3, "--json").out)
    both = json.loads(fedrec("similar", run, "--item", 3, "--item", 1, "--json").out)
    assert both["items"][0] == {"item": one["item"], "similar": one["similar"]}
    assert [row["item"] for row in both["items"]] == [3, 1]


def test_files_of_ids_are_csv(
    letters: Estimator, fedrec: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = fr.EASE(reg=1).fit({"user": ["u", "u", "u", "v"], "item": ["a,b", 'say "x"', "two words", "q"]})
    model.save("run")
    Path("ids.csv").write_text('item_id\n"a,b"\n"say ""x"""\r\ntwo words\n\n', encoding="utf-8-sig")
    answer = json.loads(fedrec("recommend", "run", "--user", "v", "--only", "@ids.csv", "--json").out)
    assert {row["item_id"] for row in answer["recommendations"]} == {"a,b", 'say "x"', "two words"}
    answer = json.loads(fedrec("recommend", "run", "--user", "v", "--only", '"a,b", two words', "--json").out)
    assert {row["item_id"] for row in answer["recommendations"]} == {"a,b", "two words"}
    Path("broken.csv").write_text('"a,b\nq\n')
    assert fedrec("recommend", "run", "--user", "v", "--only", "@broken.csv").code == 2
