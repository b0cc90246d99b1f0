"""A model drawn towards a finished one of other users: which items are the same, what is solved, who decides."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from conftest import Said
from federation_in_test import COORDINATOR, WAITING, Federation
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.keys import KeyedSource
from fedrec.data.matching import match_items
from fedrec.data.splits import HISTORY, VALID
from fedrec.engines import memory
from fedrec.engines.local import LocalEngine
from fedrec.errors import DamagedError, FedrecError, InputError, PlanError
from fedrec.evaluation.metrics import MetricSummary, parse_metrics
from fedrec.evaluation.protocols import parse_protocol
from fedrec.federation.agreed import check_call
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import EvaluationCall
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run, read_plan
from fedrec.federation.trials import both, chosen_of, divided
from fedrec.models.base import State
from fedrec.models.factors.following_ials import FollowingIALS
from fedrec.models.linear.ease import solve
from fedrec.models.linear.towards import solve_towards
from fedrec.network.post import LocalPost
from fedrec.runs.federated import Members, train_federated
from fedrec.runs.saved import open_run
from fedrec.runs.training import Placement, train_here, train_run
from kill_driver import is_killed

LOG = fr.synthetic(users=700, items=80, interactions_per_user=12, seed=3).to_frame()
NEW = pl.col("user_id") <= 110


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `target.parquet`, and with the run `source` of other users and the same items."""
    folder = tmp_path_factory.mktemp("transfer")
    LOG.filter(~NEW).write_parquet(folder / "source.parquet")
    LOG.filter(NEW).write_parquet(folder / "target.parquet")
    plan = {"data": {"source": str(folder / "source.parquet")}, "model": {"name": "ease"}, "split": "none"}
    train_run(Plan.make(plan), folder / "source")
    return folder


def plan_of(home: Path, **transfer: Any) -> Plan:
    return Plan.make(
        {
            "data": {"source": str(home / "target.parquet")},
            "model": {"name": "ease"},
            "split": "new-users:0.4",
            "evaluation": {"metrics": ["hr@10", "ndcg@10"]},
            "min_clients": 20,
            "transfer": {"run": str(home / "source")} | transfer,
        }
    )


def test_memory_of_a_transfer_is_counted_before_training(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "usable_memory", lambda: (40 * 80**2, "this machine has"))
    with pytest.raises(PlanError, match=r"model 'ease' needs about .* this machine has"):
        train_run(plan_of(home), tmp_path / "never")
    train_run(plan_of(home).model_copy(update={"transfer": None}), tmp_path / "alone")


def films(**titles: Any) -> Catalog:
    return Catalog.of(pl.DataFrame(titles))


def test_titles_of_several_items_match_none_of_them() -> None:
    old = films(item_id=[1, 2, 3], title=["Heat (1995)", "Emma (1996)", "Kino (2000)"])
    new = films(item_id=[7, 8, 9], title=["Emma (1996)", "EMMA (1996)", "The Heat (1995)"])
    found = match_items(old, new, "title")
    assert (found.source.tolist(), found.target.tolist(), found.ambiguous) == ([0], [2], 1)


def test_a_table_of_pairs_gives_the_same_matching_again(tmp_path: Path) -> None:
    old = films(
        item_id=[1, 2, 3], title=["Heat (1995)", "Star Wars: A New Hope (1977)", "Kino"], year=[None, None, 2000]
    )
    new = films(item_id=["h", "k", "s"], title=["Heat (1995)", "Kino (2000)", "Star Wars (1977)"])
    path = tmp_path / "pairs.csv"
    pairs = match_items(old, new, "title").table(old, new)
    pairs.write_csv(path)
    again = match_items(old, new, str(path))
    assert again.table(old, new).rows() == pairs.rows()
    assert len(again) == 2
    path.write_text(path.read_text() + "2,s,,\n")
    assert len(match_items(old, new, str(path))) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("source_item,target_item\n1,a\n9,b\n", "line 3: source_item '9' is not in its catalog"),
        ("source_item,target_item\n1,a\n2,a\n", "line 3: target_item 'a' stands in two pairs"),
        ("source,target_item\n1,a\n", "has no column source_item"),
        ("source_item,target_item\n", "no item of the source matches"),
        (None, "does not exist"),
    ],
)
def test_a_table_of_pairs_that_is_wrong_is_told_with_its_line(text: str | None, says: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        match_items(films(item_id=[1, 2]), films(item_id=["a", "b"]), str(tmp_path / "pairs.csv"))


@pytest.mark.parametrize(
    ("by", "says"), [("id", r"ids are whole numbers in the source, text here"), ("title", "have no titles")]
)
def test_catalogs_without_anything_in_common_are_refused(by: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        match_items(films(item_id=[1]), films(item_id=["1"]), by)


def test_the_weights_are_those_of_least_cost_and_without_a_source_those_of_ease() -> None:
    rng = np.random.default_rng(1)
    x = (rng.random((30, 8)) < 0.4).astype(float)
    source = rng.normal(size=(8, 8)) * (1 - np.eye(8))
    weights = solve_towards(x.T @ x, 5.0, source).astype(float)
    slope = x.T @ (x @ weights - x) + 5.0 * (weights - source)
    assert np.abs(slope * (1 - np.eye(8))).max() < 1e-5
    assert not np.diag(weights).any()
    np.testing.assert_allclose(solve_towards(x.T @ x, 5.0, 0 * source), solve(x.T @ x, 5.0)[0], atol=1e-6)


def test_masked_nodes_and_one_node_choose_the_same_model(home: Path, tmp_path: Path) -> None:
    reports = [
        train_run(plan_of(home), tmp_path / name, Placement(nodes, secure=secure))
        for name, nodes, secure in (("one", 1, False), ("three", 3, True))
    ]
    one, three = (report["transfer"] for report in reports)
    assert one == three
    assert one["strength"] is not None
    assert one["matched"] == 80
    assert one["interactions"] == 1.0
    assert one["metric"] == "ndcg@10"
    assert [each["strength"] for each in one["tried"]] == [20.0, 100.0, 500.0]
    assert one["source"]["gain"] > one["source"]["standard_error"]
    assert reports[0]["digests"]["model"] == reports[1]["digests"]["model"]
    assert read_plan(tmp_path / "one").transfer == read_plan(tmp_path / "three").transfer


def test_a_gain_is_the_mean_of_paired_differences(home: Path, tmp_path: Path) -> None:
    said = train_run(plan_of(home, strength=50), tmp_path / "auto")["transfer"]["tried"][0]
    values = []
    for name, plan in (("ridge", plan_of(home, strength=50, how="ridge")), ("alone", without(plan_of(home)))):
        train_run(plan, tmp_path / name)
        values.append(open_run(tmp_path / name).measure(["ndcg@10"], "full", "valid")["ndcg@10"])
    drawn, alone = values
    assert said["gain"] == pytest.approx(drawn.value - alone.value, abs=1e-6)
    assert said["users"] == drawn.users
    assert drawn.standard_error is not None
    assert alone.standard_error is not None
    apart = np.hypot(drawn.standard_error, alone.standard_error)
    assert 0 < said["standard_error"] < drawn.standard_error + alone.standard_error
    assert apart != said["standard_error"]


def without(plan: Plan) -> Plan:
    return plan.model_copy(update={"transfer": None})


@pytest.mark.parametrize(
    ("gains", "strength"),
    [
        ([0.02, 0.05, 0.03, 0.011], 100.0),
        ([0.02, 0.019, 0.01], None),  # the best gain is two standard errors, not more
        ([0.02, 0.05, 0.03, 0.01], None),  # a ridge without the source does as well
        ([-0.5, -0.1, -0.2], None),
    ],
)
def test_a_source_is_followed_only_if_it_is_surely_better(gains: list[float], strength: float | None) -> None:
    (metric,) = parse_metrics("ndcg@10")
    states = {(each, towards): State({}) for each in (20.0, 100.0, 500.0) for towards in (True, False)}
    alone, trials = State({}), []

    def gain(trial: int, first: State, other: State) -> MetricSummary:
        trials.append((trial, first, other))
        return MetricSummary(metric, gains[trial - 1], 0.01, 50)

    choice = chosen_of((20.0, 100.0, 500.0), alone, lambda each, towards: states[each, towards], gain)
    assert choice.said["strength"] == strength
    assert choice.state is (alone if strength is None else states[strength, True])
    if len(gains) == 4:
        assert trials[-1] == (4, states[100.0, True], states[100.0, False])


def test_a_source_between_other_items_is_left_out(home: Path, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(80) + 1
    pairs = pl.DataFrame({"source_item": order, "target_item": np.arange(1, 81)})
    pairs.write_csv(tmp_path / "pairs.csv")
    said = train_run(plan_of(home, match=str(tmp_path / "pairs.csv")), tmp_path / "run")["transfer"]
    assert said["strength"] is None
    assert len(said["tried"]) == 3


def test_a_run_that_was_killed_needs_no_source_to_go_on(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "source", tmp_path / "source")
    plan = plan_of(home, run=str(tmp_path / "source"))
    train_run(plan, tmp_path / "whole")
    left = []
    for write in range(8, 14, 2):
        folder = tmp_path / f"run-{write}"
        assert is_killed(partial(train_run, plan, folder, resume=True), write)
        assert (folder / "transfer" / "found.json").exists()
        left.append(folder)
    shutil.rmtree(tmp_path / "source")
    for folder in left:
        train_run(plan, folder, resume=True)
        assert (folder / "ledger.jsonl").read_bytes() == (tmp_path / "whole" / "ledger.jsonl").read_bytes()


def test_sums_that_the_source_kept_are_pooled_with_a_small_weight(home: Path, tmp_path: Path) -> None:
    source = {"data": {"source": str(home / "source.parquet")}, "model": {"name": "ease"}, "split": "none"}
    with pytest.raises(PlanError, match=r"kept no sums that could be pooled; train it .* keep_sums: true"):
        train_run(plan_of(home, how="pool"), tmp_path / "none")
    train_run(Plan.make(source | {"keep_sums": True}), tmp_path / "kept")
    plan = plan_of(home, run=str(tmp_path / "kept"), how="pool", strength=0.25)
    report = train_run(plan, tmp_path / "run", Placement(3, secure=True))
    assert report["transfer"]["strength"] == 0.25
    run = open_run(tmp_path / "run")
    matrices = []
    for data in (run.training(), fr.load_data(str(home / "source.parquet"))):
        x = np.zeros((data.n_users, 80))
        x[data.rows_of_users(), data.items] = 1.0
        matrices.append(x.T @ x)
    gram = matrices[0] + 0.25 * matrices[1]
    weights, _ = solve(gram.copy(), 6.0 * np.trace(gram) / 80)
    np.testing.assert_allclose(run.trained.state.shared["weights"], weights, atol=1e-5)
    other = plan.model_copy(update={"model": {"name": "ease", "alpha": 0.5}})
    with pytest.raises(PlanError, match="the source has other alpha than this plan"):
        train_run(other, tmp_path / "other")


def test_what_a_run_took_over_cannot_be_changed(home: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="is not the run that this plan was made with"):
        train_run(plan_of(home, digest="0" * 64), tmp_path / "other")
    train_run(plan_of(home), tmp_path / "run")
    path = tmp_path / "run" / "transfer" / "source.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(DamagedError, match="is not what the plan of the run takes over"):
        train_run(plan_of(home), tmp_path / "run", resume=True)


def test_a_source_without_item_weights_and_auto_without_validation_are_refused(home: Path, tmp_path: Path) -> None:
    popular = {"data": {"source": str(home / "target.parquet")}, "model": {"name": "popularity"}, "split": "none"}
    train_run(Plan.make(popular), tmp_path / "popular")
    with pytest.raises(PlanError, match=r"popularity.*ease cannot follow"):
        train_run(plan_of(home, run=str(tmp_path / "popular")), tmp_path / "run")
    with pytest.raises(PlanError, match="auto decides on validation"):
        train_run(plan_of(home).model_copy(update={"split": "none"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def federated_as_here(plan: Plan, folder: Path) -> Federation:
    """A masked federation that chose, and trained, as one process does."""
    federation = Federation(folder, plan, 3, secure=True)
    members = Members("owners", COORDINATOR, federation.public, federation.catalog, 1024)
    report = train_federated(plan, folder / "out", members, LocalPost(federation.hosts()), True, WAITING)
    here = train_run(plan, folder / "here")
    assert report["transfer"] == here["transfer"] | {"interactions": None}
    assert report["digests"]["model"] == here["digests"]["model"]
    return federation


def test_a_federation_of_factors_chooses_as_one_process_does(factors: Path, tmp_path: Path) -> None:
    federated_as_here(following(factors).model_copy(update={"split": "leave-last-out"}), tmp_path)


def test_a_federation_chooses_as_one_process_does_and_its_nodes_answer_no_other_trial(
    home: Path, tmp_path: Path
) -> None:
    federation = federated_as_here(plan_of(home).model_copy(update={"split": "leave-last-out"}), tmp_path)
    agreed = Agreement.of(read_plan(tmp_path / "out"), federation.catalog)
    call = trial_of(agreed)
    check_call(agreed, call, None)
    one = divided(call.shared)[0]
    for changes, says in (
        ({"trial": 5}, "the plan has 4"),
        ({"part": "test"}, "trials are on validation"),
        ({"shared": one}, "a trial compares two"),
    ):
        with pytest.raises(PlanError, match=says):
            check_call(agreed, replace(call, **changes), None)


def trial_of(agreed: Agreement) -> EvaluationCall:
    weights: Mapping[str, Any] = {"weights": np.zeros((80, 80), dtype=np.float32)}
    protocol = parse_protocol("full")
    return EvaluationCall(-1, both(weights, weights), "valid", protocol, agreed.metrics, agreed.n_max, -1, trial=4)


def test_the_commands_say_what_matched_and_what_was_decided(home: Path, tmp_path: Path, fedrec: Any) -> None:
    data, source, out = str(home / "target.parquet"), str(home / "source"), str(tmp_path / "run")
    words = ["train", "--data", data, "--model", "ease", "--split", "new-users:0.4", "--out", out]
    said: Said = fedrec(*words, "--from", source, "--transfer", "auto", "--match", "id")
    assert "80 of 80 items match, which have 100% of the interactions" in " ".join(said.out.split())
    assert "so the source is followed with strength" in " ".join(said.out.split())
    assert fedrec(*words[:-1], str(tmp_path / "alone"), "--from", source, "--transfer", "off").code == 0
    assert read_plan(tmp_path / "alone").transfer is None
    for wrong, says in (
        (["--transfer", "auto"], "needs --from RUN"),
        (["--match", "id"], "is for --transfer"),
        (["--from", source, "--transfer", "always"], "give auto, ridge, pool or off"),
    ):
        refused = fedrec(*words, *wrong)
        assert refused.code == 2
        assert says in refused.err


def test_an_estimator_takes_over_from_a_folder_and_other_ways_to_train_say_that_they_cannot(home: Path) -> None:
    split = fr.leave_last_out(LOG.filter(NEW))
    transfer = {"run": str(home / "source"), "how": "ridge"}
    drawn, alone = (fr.EASE(plan=plan).fit(split, progress=False) for plan in ({"transfer": transfer}, {}))
    assert not np.array_equal(drawn.shared["weights"], alone.shared["weights"])
    assert drawn.opened.measured.has_valid
    plan = drawn.opened.plan
    with pytest.raises(PlanError, match="transfer: the source is not at hand"):
        train_here(LocalEngine.of_split(split, plan), split.data, Run(plan, None))


def test_a_finished_run_is_measured_on_data_without_validation(home: Path, tmp_path: Path) -> None:
    train_run(plan_of(home), tmp_path / "run")
    opened = open_run(tmp_path / "run")
    split = fr.ratio(opened.data, 0.8)
    nodes = opened.with_split(replace(split, part=np.where(split.part == VALID, HISTORY, split.part).astype(np.int8)))
    assert not nodes.has_valid
    assert opened.measure(["ndcg@10"], "full", engine=nodes)["ndcg@10"].value > 0


def test_a_plan_names_what_a_private_source_promised(home: Path, tmp_path: Path) -> None:
    privacy = {"epsilon": 8.0, "delta": 1e-4}
    plan = {"data": {"source": str(home / "source.parquet")}, "model": {"name": "ease"}, "split": "none"}
    train_run(Plan.make(plan | {"privacy": privacy}), tmp_path / "private")
    said = train_run(plan_of(home, run=str(tmp_path / "private"), how="ridge"), tmp_path / "run")["transfer"]
    assert {key: said[key] for key in privacy} == privacy
    kept = read_plan(tmp_path / "run").transfer
    assert kept is not None
    assert (kept.epsilon, kept.delta) == (8.0, 1e-4)


@pytest.fixture(scope="module")
def factors(home: Path) -> Path:
    """The folder with the run `factors` of `ials`, of the users of `source`."""
    plan = {"data": {"source": str(home / "source.parquet")}, "model": IALS, "split": "none"}
    train_run(Plan.make(plan), home / "factors")
    return home


IALS = {"name": "ials", "embedding_size": 8, "rounds": 3}


def following(home: Path, **transfer: Any) -> Plan:
    return plan_of(home, run=str(home / "factors"), **transfer).model_copy(update={"model": IALS})


def test_factors_are_those_of_least_loss_between_data_and_source() -> None:
    rng = np.random.default_rng(2)
    users, source = rng.normal(size=(9, 3)), rng.normal(size=(4, 3)).astype(np.float32)
    model = FollowingIALS(embedding_size=3, rounds=1, unobserved_weight=0.2, reg=0.3, nu=1.0)
    state = model.start(Catalog.of(pl.DataFrame({"item_id": [1, 2, 3, 4]})), {}, KeyedSource.from_seed(0))
    has = rng.random((9, 4)) < 0.6
    has[:, 3] = False
    spec = model.spec(state.shared, 0)
    assert spec is not None
    total = Sum.zeros(spec.fit(1000))
    upper = np.triu_indices(3)
    outer = np.array([np.outer(u, u)[upper] for u in users])
    for name, value in (
        ("equations", has.T @ np.hstack([outer, users])),
        ("counts", has.sum(0)[:, None]),
        ("everyone", np.append(outer.sum(0), 9)),
    ):
        total.arrays[name][...] = np.rint(value * total.spec[name].unit)
    total.clients = 9
    pull = np.array([5.0, 1.0, 5.0, 5.0])
    stepped = model.step(State(state.shared, {"source": source, "pull": pull}), total, 0)
    table = stepped.shared["items"].astype(float)
    ridge = 0.3 * (has.sum(0) + 0.2 * 9) * pull
    scores = users @ table.T
    slope = (has * (scores - 1)).T @ users + 0.2 * scores.T @ users + ridge[:, None] * (table - source)
    assert np.abs(slope).max() < 1e-4
    assert not stepped.server
    total.arrays["equations"][1, 0] = -total.spec["equations"].unit * 100
    with pytest.raises(FedrecError, match="round 0: the equations of some items from position 0 to 3 are not positive"):
        model.step(State(state.shared, {"source": source, "pull": pull}), total, 0)


def test_factors_follow_the_source_alike_wherever_users_live_and_after_a_kill(factors: Path, tmp_path: Path) -> None:
    plan = following(factors, strength=10)
    one = train_run(plan, tmp_path / "one")
    assert one["transfer"]["strength"] == 10.0
    assert one["transfer"]["source"]["gain"] > one["transfer"]["source"]["standard_error"]
    three = train_run(plan, tmp_path / "three", Placement(3, secure=True))
    assert one["transfer"] == three["transfer"]
    assert one["digests"]["model"] == three["digests"]["model"]
    assert is_killed(partial(train_run, plan, tmp_path / "killed", resume=True), 16)
    train_run(plan, tmp_path / "killed", resume=True)
    assert (tmp_path / "killed" / "ledger.jsonl").read_bytes() == (tmp_path / "one" / "ledger.jsonl").read_bytes()
    drawn = train_run(following(factors, how="ridge"), tmp_path / "ridge")
    assert drawn["digests"]["model"] == one["digests"]["model"]


def test_factors_of_other_items_are_left_out_and_the_model_is_that_of_no_transfer(
    factors: Path, tmp_path: Path
) -> None:
    order = np.random.default_rng(0).permutation(80) + 1
    pl.DataFrame({"source_item": order, "target_item": np.arange(1, 81)}).write_csv(tmp_path / "pairs.csv")
    plan = following(factors, match=str(tmp_path / "pairs.csv"))
    said = train_run(plan, tmp_path / "auto")["transfer"]
    assert said["strength"] is None
    assert [each["strength"] for each in said["tried"]] == [3.0, 10.0, 30.0]
    train_run(without(plan), tmp_path / "alone")
    shared = "model/shared.safetensors"
    assert (tmp_path / "auto" / shared).read_bytes() == (tmp_path / "alone" / shared).read_bytes()


@pytest.mark.parametrize(
    ("changes", "transfer", "says"),
    [
        (
            {"model": IALS | {"embedding_size": 4}},
            {},
            "have factors of 8 numbers, and those of this plan 4; set embedd",
        ),
        ({}, {"how": "pool"}, "ials keeps no sums that could be pooled"),
        ({"model": {"name": "ease"}}, {}, "'ials', which ease cannot follow; take a run of model ease"),
        ({"evaluation": {"every": 1}}, {}, "auto decides after the last round which of two models counts"),
        ({"model": IALS | {"item_features": "auto"}}, {}, "is not drawn towards a source; take model ease"),
        ({"model": IALS | {"solver": "cg"}}, {}, "is not drawn towards a source; take model ease"),
    ],
)
def test_factors_that_cannot_be_followed_are_refused(
    changes: dict[str, Any], transfer: dict[str, Any], says: str, factors: Path, tmp_path: Path
) -> None:
    plan = following(factors, **transfer).model_dump(mode="json") | changes
    with pytest.raises(PlanError, match=says):
        train_run(Plan.make(plan), tmp_path / "run")
