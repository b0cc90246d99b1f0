"""Parts of a plan that do not go together: every row of the table is refused in its words, before data is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import fedrec as fr
from fedrec.errors import PlanError
from fedrec.federation.compatibility import TABLE, Place, broken_rules, check_together
from fedrec.federation.plan import Plan
from fedrec.runs.training import Placement, train_run
from models_in_test import PooledPopularity, registered

MF = {"name": "mf", "rounds": 4}
SCAFFOLD = {**MF, "scaffold": True}
PRIVATE = {"epsilon": 4.0, "delta": 1e-6}
POISSON = {**PRIVATE, "sampling": "poisson", "users": 1000}
ROBUST = {"rule": "median"}
GROUPS = {**ROBUST, "over": "groups", "groups": 3}
K_CORE = {"source": "missing.csv", "cleaning": {"k_core": 3}}

EXAMPLES: list[tuple[str, Mapping[str, Any]]] = [
    ("weights: model 'biased-mf' reads values as ratings", {"model": {"name": "biased-mf"}, "weights": "log"}),
    ("weights: model 'pfedrec' counts every interaction once", {"model": {"name": "pfedrec"}, "weights": "log"}),
    ("keep_sums: with these settings mf has no sum to which later interactions", {"model": MF, "keep_sums": True}),
    ("keep_sums cannot be combined with cohort: ", {"keep_sums": True, "cohort": 0.5}),
    ("down: sum lets nodes repeat the only step of a model", {"model": MF, "down": "sum"}),
    ("robust cannot be combined with privacy: ", {"robust": ROBUST, "privacy": PRIVATE}),
    ("evaluation: ials scores items that nobody has after its last round",
     {"model": {"name": "ials", "item_features": "auto"}, "evaluation": {"every": 1, "keep": "best"}}),
    ("robust cannot be combined with keep_sums: ", {"robust": ROBUST, "keep_sums": True}),
    ("robust cannot be combined with warm_start: ", {"robust": ROBUST, "warm_start": "earlier"}),
    ("items cannot be combined with keep_sums: ", {"items": {"least": 5}, "keep_sums": True}),
    ("items cannot be combined with warm_start: ", {"items": {"least": 5}, "warm_start": "earlier"}),
    ("rows: ease does not sum changes of item rows alone; ", {"rows": 0.5}),
    ("rows: with these settings mf also sums controls, which need", {"rows": 0.5, "model": SCAFFOLD}),
    ("asynchronous: ease does not sum model changes, ", {"asynchronous": {"buffer": 2}}),
    (
        "asynchronous cannot be combined with privacy: ",
        {"asynchronous": {"buffer": 2}, "model": MF, "privacy": {**PRIVATE, "users": 1000}},
    ),
    ("asynchronous cannot be combined with robust: ", {"asynchronous": {"buffer": 2}, "model": MF, "robust": ROBUST}),
    ("asynchronous cannot be combined with rows: ", {"asynchronous": {"buffer": 2}, "model": MF, "rows": 0.5}),
    (
        "asynchronous cannot be combined with warm_start: ",
        {"asynchronous": {"buffer": 2}, "model": MF, "warm_start": "a"},
    ),
    ("asynchronous: with these settings mf also sums controls", {"asynchronous": {"buffer": 2}, "model": SCAFFOLD}),
    ("privacy: max_cohort for mf: the model keeps private rows of each client", {
        "model": MF, "cohort": 0.5, "privacy": {**POISSON, "max_cohort": 5},
    }),
    (
        "privacy cannot be combined with evaluation.every: ",
        {"privacy": PRIVATE, "model": MF, "evaluation": {"every": 1}},
    ),
    ("privacy cannot be combined with keep_sums: ", {"privacy": PRIVATE, "keep_sums": True}),
    ("privacy cannot be combined with cleaning: k_core and ", {"privacy": PRIVATE, "data": K_CORE}),
    ("privacy cannot be combined with warm_start: ", {"privacy": PRIVATE, "warm_start": "earlier"}),
    ("privacy cannot be combined with items: ", {"privacy": PRIVATE, "items": {"least": 5}}),
    ("privacy cannot be combined with rows: ", {"privacy": PRIVATE, "model": MF, "rows": 0.5}),
    ("privacy: pooled-popularity pools counts ", {"privacy": PRIVATE, "model": {"name": "pooled-popularity"}}),
    ("privacy cannot be combined with negatives: ", {"privacy": PRIVATE, "negatives": "paper-leaky"}),
    ("privacy cannot be combined with split: temporal:0.8 is cut ", {"privacy": PRIVATE, "split": "temporal:0.8"}),
    ("privacy: a cohort as a number of clients needs privacy.users", {"privacy": PRIVATE, "cohort": 50}),
    ("privacy: sampling: poisson needs a cohort below 1.0; ", {"privacy": POISSON}),
    (
        "privacy: participations: 9 limits no client, as there are only 4 rounds",
        {"privacy": {**PRIVATE, "participations": 9}, "model": MF},
    ),
    ("evaluation.protocol: cold tells items apart that nobody has in training", {"evaluation": {"protocol": "cold"}}),
    ("transfer cannot be combined with warm_start: ", {"transfer": "other", "warm_start": "earlier"}),
    ("transfer cannot be combined with privacy: ", {"transfer": "other", "privacy": PRIVATE}),
    ("transfer: mf with these settings is not drawn towards a source", {"transfer": "other", "model": MF}),
    ("evaluation.by cannot be combined with privacy: ", {"privacy": PRIVATE, "evaluation": {"by": "age"}}),
    (
        "transfer cannot be combined with evaluation.every: auto decides after the last round",
        {"transfer": "other", "model": {"name": "ials"}, "evaluation": {"every": 1}},
    ),
    ("refit cannot be combined with evaluation.every: ", {"refit": True, "evaluation": {"every": 1}}),
]  # fmt: skip
"""Plans that break a rule which holds anywhere, and how it begins; the first rule that each breaks is another one."""

ELSEWHERE: list[tuple[Place, str, Mapping[str, Any]]] = [
    ("masked", "asynchronous: the coordinator can read a sum ", {"asynchronous": {"buffer": 2}, "model": MF}),
    ("masked", "robust: over: nodes needs every node's sum in the clear", {"robust": ROBUST}),
    ("in the clear", "robust: over: groups needs secure aggregation", {"robust": GROUPS}),
    ("in the clear", "privacy: noise: distributed needs secure aggregation", {
        "privacy": {**PRIVATE, "noise": "distributed", "users": 1000},
    }),
    ("federation", "split: temporal:0.8 is cut", {"split": "temporal:0.8"}),
    ("federation", "cohort: no party of a federation knows", {"cohort": 50}),
    ("federation", "cleaning: k_core and ", {"data": K_CORE}),
    ("federation", "privacy: a federation needs privacy.users", {"privacy": PRIVATE}),
    ("federation", "model: a federation needs lowest and highest", {"model": {"name": "biased-mf"}}),
    ("federation", "evaluation.by: no party of a federation knows the values", {"evaluation": {"by": "age"}}),
    ("federation", "warm_start: the nodes of a federation keep no earlier run", {"warm_start": "earlier"}),
]  # fmt: skip
"""Plans that break a rule in one place alone, and how it begins."""


def settings_of(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {"data": {"source": "missing.csv"}, "model": {"name": "ease"}, **changes}


@pytest.fixture(autouse=True)
def _pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    registered(PooledPopularity, monkeypatch)


def test_every_row_of_the_table_has_an_example() -> None:
    assert [rule.place for rule in TABLE].count("anywhere") == len(EXAMPLES)
    assert sorted(rule.place for rule in TABLE if rule.place != "anywhere") == sorted(place for place, *_ in ELSEWHERE)
    begins = [begin for begin, _ in EXAMPLES] + [begin for _, begin, _ in ELSEWHERE]
    assert len(set(begins)) == len(TABLE)


@pytest.mark.parametrize(("begins", "changes"), EXAMPLES, ids=[begin[:50] for begin, _ in EXAMPLES])
def test_a_row_is_refused_in_its_words_when_the_plan_is_made(begins: str, changes: Mapping[str, Any]) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.make(settings_of(changes))
    assert str(caught.value).startswith(begins)
    (key, *_) = [key for key in changes if begins.startswith(key) and key != "model"]
    Plan.make(settings_of({name: value for name, value in changes.items() if name != key}))


@pytest.mark.parametrize(("place", "begins", "changes"), ELSEWHERE, ids=[begin[:50] for _, begin, _ in ELSEWHERE])
def test_a_row_of_one_place_is_refused_there_alone(place: Place, begins: str, changes: Mapping[str, Any]) -> None:
    plan = Plan.make(settings_of(changes))
    (text,) = broken_rules(plan.case, place)
    assert text.startswith(begins)
    with pytest.raises(PlanError, match="^" + begins.replace("(", r"\(")):
        check_together(plan.case, place)
    others: set[Place] = {"anywhere", "masked", "in the clear"} - {place}
    assert not [text for other in others for text in broken_rules(plan.case, other)]


@pytest.mark.parametrize("example", [example for example in ELSEWHERE if example[0] != "federation"])
def test_a_row_of_one_place_is_refused_before_data_is_read(
    example: tuple[Place, str, Mapping[str, Any]], tmp_path: Path
) -> None:
    place, begins, changes = example
    plan = Plan.make(settings_of(changes))
    with pytest.raises(PlanError) as caught:
        train_run(plan, tmp_path / "run", Placement(9, secure=place == "masked"))
    assert str(caught.value).startswith(begins)
    with pytest.raises(fr.InputError, match=r"missing\.csv"):
        train_run(plan, tmp_path / "run", Placement(9, secure=place != "masked"))


@pytest.mark.parametrize("example", [example for example in ELSEWHERE if example[0] == "federation"])
def test_a_row_of_federations_is_refused_when_nodes_agree(example: tuple[Place, str, Mapping[str, Any]]) -> None:
    _, begins, changes = example
    catalog = fr.load_data("synthetic:users=20,items=10,interactions_per_user=5,seed=1").catalog
    with pytest.raises(PlanError) as caught:
        Plan.make(settings_of(changes)).agree(catalog, 1024)
    assert str(caught.value).startswith(begins)
