"""Hyperparameters are chosen on validation alone, and a paused candidate is the same training."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec as fr
from conftest import Said
from fedrec.data.digests import digest_of
from fedrec.data.splits import Split
from fedrec.engines.local import LocalEngine
from fedrec.errors import InputError, PlanError
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import EvaluationCall
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run, read_plan
from fedrec.record.durable import arrays_digest
from fedrec.runs.training import train_here, train_run
from fedrec.runs.tuning import Tuned, candidate_plans, choose, refit_plan, rungs

SOURCE = "synthetic:users=200,items=70,interactions_per_user=12,seed=3"
DATA = fr.load_data(SOURCE)


def plan(name: str, **changes: Any) -> Plan:
    model = {"name": name, **changes.pop("model", {})}
    return Plan.make({"data": {"source": SOURCE}, "model": model, "seed": 4} | changes)


def chosen(base: Plan, grid: dict[str, list[Any]], **options: Any) -> Tuned:
    return choose(base, grid, DATA, digest_of(DATA), lambda made: LocalEngine.build(DATA, made), **options)


MF = {"embedding_size": 4, "rounds": 9}


def test_every_candidate_has_the_figure_of_its_own_training() -> None:
    tuned = chosen(plan("mf", model=MF), {"learning_rate": [0.05, 0.3], "epochs": [1, 2]})
    assert [row.settings for row in tuned.candidates] == [
        {"learning_rate": rate, "epochs": epochs} for rate in (0.05, 0.3) for epochs in (1, 2)
    ]
    for row in tuned.candidates:
        own = plan("mf", model=MF | row.settings).resolve(DATA, digest_of(DATA))
        coordinator, trained = train_here(LocalEngine.build(DATA, own), DATA, Run(own, None))
        found = coordinator.evaluate(trained.state, trained.round, "valid", ["ndcg@10"], "full")["ndcg@10"]
        assert row.value == found.value
        assert row.standard_error == found.standard_error
        assert row.rounds == 9
    assert tuned.chosen.value == max(row.value for row in tuned.candidates)


def test_seeds_are_averaged() -> None:
    base, grid = plan("mf", model=MF), {"learning_rate": [0.3]}
    alone = [chosen(base.model_copy(update={"seed": seed}), grid).chosen.value for seed in (4, 5, 6)]
    together = chosen(base, grid, seeds=3).chosen
    assert together.value == pytest.approx(np.mean(alone), abs=1e-15)
    assert together.sd == pytest.approx(np.std(alone, ddof=1), abs=1e-15)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_pause_leaves_no_trace(keep: str) -> None:
    own = plan("mf", model=MF, cohort=0.6, evaluation={"every": 2, "keep": keep, "metrics": ["ndcg@10"]})
    own = own.resolve(DATA, digest_of(DATA))
    engine = LocalEngine.build(DATA, own)
    straight, end = train_here(engine, DATA, Run(own, None))
    other = LocalEngine.build(DATA, own)
    paused = Coordinator(Agreement.of(own, DATA.catalog), other, Run(own, None), True)
    for until in (1, 2, 5, 5, None):
        found = paused.train(until)
        assert found.rounds == (until or 9)
    assert arrays_digest(found.state.shared) == arrays_digest(end.state.shared)
    assert (found.round, found.rounds) == (end.round, end.rounds)
    mine, theirs = other.shards[0].private(), engine.shards[0].private()
    assert mine is not None
    assert theirs is not None
    assert mine["users"].tobytes() == theirs["users"].tobytes()
    assert paused.run.ledger.lines == straight.run.ledger.lines


def test_halving_cuts_at_its_rungs_and_trains_the_last_in_full() -> None:
    base, grid = plan("mf", model=MF), {"learning_rate": [0.01, 0.05, 0.3], "reg": [0.0, 0.01, 0.1]}
    seen: list[tuple[int, float]] = []
    tuned = chosen(base, grid, strategy="halving", told=lambda _, rounds, value: seen.append((rounds, value)))
    assert tuned.rungs == [1, 3, 9]
    assert [rounds for rounds, _ in seen] == [1] * 9 + [3] * 3 + [9]
    reached = sorted(row.rounds for row in tuned.candidates)
    assert reached == [1] * 6 + [3] * 2 + [9]
    first = sorted((value for _, value in seen[:9]), reverse=True)
    assert sorted(row.value for row in tuned.candidates if row.rounds == 1) == sorted(first[3:])
    assert tuned.chosen.rounds == 9
    whole = chosen(base, {key: [value] for key, value in tuned.chosen.settings.items()})
    assert tuned.chosen.value == whole.chosen.value


def test_rungs_end_with_a_full_training() -> None:
    for candidates in range(1, 40):
        for rounds in (1, 2, 5, 60, 100):
            steps = rungs(candidates, rounds)
            assert steps[-1] == rounds
            assert all(0 < low < high for low, high in itertools.pairwise(steps))


def test_models_without_rounds_are_searched_in_full_and_say_so() -> None:
    tuned = chosen(plan("ease"), {"reg": [1.0, 50.0, 1000.0]}, strategy="halving")
    assert tuned.strategy == "grid"
    assert "no rounds" in tuned.remark
    assert all(row.rounds == 1 for row in tuned.candidates)


def test_equal_candidates_leave_the_choice_to_the_order() -> None:
    assert chosen(plan("itemknn"), {"neighbours": [80, 90, 100]}).best == 0


def test_the_test_part_cannot_change_the_choice() -> None:
    split = fr.leave_last_out(DATA)
    ends = split.data.indptr[1:] - 1
    assert np.all(split.part[ends] == 2)
    items = split.data.items.copy()
    free = [np.setdiff1d(np.arange(70), items[low : high - 1])[0] for low, high in
            zip(split.data.indptr[:-1], split.data.indptr[1:], strict=True)]  # fmt: skip
    items[ends] = free
    other = Split(fr.Interactions(split.data.users, split.data.catalog, split.data.indptr, items), split.part, "given")
    grid = {"learning_rate": [0.1, 0.3], "reg": [0.0, 0.1]}
    timed = ("seconds", "seconds_train", "seconds_evaluate")
    tables = [fr.tune(fr.MF, data, grid, **MF).table.drop(timed) for data in (split, other)]
    assert tables[0].equals(tables[1])


def test_test_is_measured_once_and_after_the_choice(
    fedrec: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, Any]] = []
    evaluate = LocalEngine.evaluate

    def watched(self: LocalEngine, call: EvaluationCall) -> Any:
        asked.append((call.part, self.nodes[0].folder))
        return evaluate(self, call)

    monkeypatch.setattr(LocalEngine, "evaluate", watched)
    out = tmp_path / "run"
    said = fedrec("tune", "--data", SOURCE, "--model", "mf", "--set", "embedding_size=4", "--set", "rounds=3",
                  "--grid", "learning_rate=0.1,0.3", "--grid", "reg=0,1e-1", "--out", out, "--json")  # fmt: skip
    assert said.code == 0, said.err
    assert [part for part, _ in asked] == ["valid"] * 5 + ["test"]
    assert [folder is None for _, folder in asked] == [True] * 4 + [False] * 2
    answer = json.loads(said.out)
    assert len(answer["candidates"]) == 4
    assert all("test" not in json.dumps(row) for row in answer["candidates"])
    assert set(answer["run"]["metrics"]) == {"valid", "test"}
    assert answer["candidates"][1]["settings"] == {"learning_rate": 0.1, "reg": 0.1}
    best = next(row for row in answer["candidates"] if row["settings"] == answer["best"])
    assert best["validation"] == pytest.approx(answer["run"]["metrics"]["valid"], abs=1e-9)
    again = train_run(read_plan(out), tmp_path / "again")
    assert again["digests"] == answer["run"]["digests"]
    assert again["metrics"] == answer["run"]["metrics"]


def test_nodes_do_not_change_the_choice(fedrec: Callable[..., Said], tmp_path: Path) -> None:
    answers = []
    for nodes in (1, 3):
        said = fedrec("tune", "--data", SOURCE, "--model", "ease", "--grid", "reg=1,100", "--nodes", nodes,
                      "--out", tmp_path / str(nodes), "--json")  # fmt: skip
        answers.append(json.loads(said.out))
    for key in ("best", "rungs", "split"):
        assert answers[0][key] == answers[1][key]
    assert [row["validation"] for row in answers[0]["candidates"]] == [
        row["validation"] for row in answers[1]["candidates"]
    ]
    assert answers[0]["run"]["digests"] == answers[1]["run"]["digests"]


def test_refit_trains_the_kept_rounds_on_both_parts() -> None:
    base = plan("mf", model=MF, evaluation={"every": 1, "patience": 2, "keep": "best"})
    best = chosen(base, {"learning_rate": [0.3]}).chosen
    refit = refit_plan(best)
    assert refit.refit
    assert refit.model["rounds"] == best.kept + 1
    assert refit.evaluation.every == 0
    assert refit.model["learning_rate"] == 0.3


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"learning_rate": [0.1, -1]}, "grid learning_rate=-1: .*greater than 0"),
        ({"learning_rat": [0.1]}, "learning_rat.*learning_rate"),
        ({"embedding_size": [4, "many"]}, "grid embedding_size=many"),
        ({"reg": []}, "grid reg: no values"),
        ({"reg": [1, 1.0]}, "grid reg=1.0: .*twice"),
        ({"split": ["none"]}, "grid split: not a hyperparameter"),
        ({"cohort": [0.5, 0]}, "grid cohort=0"),
        ({}, "no key"),
    ],
)
def test_impossible_candidates_are_named_before_any_training(
    grid: dict[str, list[Any]], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalEngine, "contribute", lambda *_: pytest.fail("something was trained"))
    with pytest.raises(PlanError, match=said):
        chosen(plan("mf", model=MF), grid)


def test_a_candidate_too_wide_for_its_ring_is_named_before_any_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalEngine, "contribute", lambda *_: pytest.fail("something was trained"))
    base = plan("ials", model={"embedding_size": 4, "rounds": 2}, n_max=2**40)
    with pytest.raises(PlanError, match=r"grid bound=1, scale_bits=32: .*overflows"):
        chosen(base, {"bound": [1], "scale_bits": [8, 32]})


@pytest.mark.parametrize(
    ("changes", "options", "error", "said"),
    [
        ({"split": "none"}, {}, PlanError, "leaves nothing for validation"),
        ({"refit": True}, {}, PlanError, "refit"),
        ({}, {"strategy": "halfing"}, InputError, "halving"),
        ({}, {"metric": "ndgc@10"}, InputError, "ndcg"),
        ({}, {"seeds": 0}, InputError, "seeds"),
    ],
)
def test_what_cannot_be_chosen_says_why(changes: Any, options: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        chosen(plan("mf", model=MF, **changes), {"reg": [0.0]}, **options)


def test_halving_gives_out_the_rounds_itself() -> None:
    with pytest.raises(PlanError, match="grid rounds"):
        chosen(plan("mf", model=MF), {"rounds": [3, 9]}, strategy="halving")


@pytest.mark.parametrize("text", ["reg", "reg=", "=1", "reg=[1"])
def test_a_grid_that_cannot_be_read(text: str, fedrec: Callable[..., Said], tmp_path: Path) -> None:
    said = fedrec("tune", "--data", SOURCE, "--model", "ease", "--grid", text, "--out", tmp_path / "run")
    assert said.code == 2
    assert "key=v1,v2" in said.err


def test_candidates_differ_only_where_the_grid_says() -> None:
    base = plan("ease", model={"alpha": 0.5}, cohort=0.7)
    for settings, made in candidate_plans(base, {"reg": [1, "auto"], "cohort": [0.5, 1.0]}):
        assert made.cohort == settings["cohort"]
        assert made.model == {"name": "ease", "alpha": 0.5, "reg": settings["reg"]}
        assert made.model_copy(update={"cohort": 0.7, "model": base.model, "evaluation": base.evaluation}) == base


def test_the_library_returns_the_table_and_an_unfitted_estimator() -> None:
    split = fr.leave_last_out(DATA)
    found = fr.tune(fr.EASE, split, grid={"reg": [1, "auto"], "alpha": [0.0, 0.5]}, seed=4)
    assert found.table["reg"].to_list() == ["1", "1", "auto", "auto"]
    assert found.table["alpha"].to_list() == [0.0, 0.5, 0.0, 0.5]
    assert found.table["chosen"].sum() == 1
    with pytest.raises(InputError, match="not fitted"):
        found.best.recommend([1])
    fitted = found.best.fit(split)
    value = fr.evaluate(fitted, split, ["ndcg@10"], part="valid")["value"][0]
    assert value == pytest.approx(found.table.filter("chosen")["ndcg@10"][0], abs=1e-12)


def test_compare_shows_how_quality_is_spread_over_simulated_nodes(fedrec: Callable[..., Said]) -> None:
    options = ("compare", "--data", SOURCE, "--models", "popularity,ease", "--metrics", "ndcg@10", "--json")
    alone = json.loads(fedrec(*options).out)["models"]
    spread = json.loads(fedrec(*options, "--nodes", 4, "--partition", "dirichlet:0.3").out)["models"]
    for one, many in zip(alone, spread, strict=True):
        assert "per_node" not in one
        assert one["metrics"] == many["metrics"]
        assert one["digests"] == many["digests"]
        assert many["per_node"]["simulated"]
        assert many["per_node"]["min"]["ndcg@10"] <= many["metrics"]["ndcg@10"]
        assert many["per_node"]["min"]["ndcg@10"] <= many["per_node"]["mean"]["ndcg@10"]
