"""Benchmarks: the shape of their output, and that they do the work they say they time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Said
from fedrec.benchmarks.catalogue import BENCHMARKS, default_source
from fedrec.benchmarks.measuring import measure
from fedrec.benchmarks.rounds import Rounds
from fedrec.benchmarks.timing import Timing, repeat
from fedrec.data.sources import load_source
from fedrec.engines.local import LocalEngine
from fedrec.errors import PlanError
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.record.durable import arrays_digest
from fedrec.runs.training import train_here

DATA = "synthetic:users=120,items=60,interactions_per_user=12,seed=2"
Fedrec = Callable[..., Said]


def tiny(name: str, **model: Any) -> Plan:
    settings = BENCHMARKS[name].settings
    return Plan.make({**settings, "data": {"source": DATA}, "model": {**settings["model"], **model}})


def test_quartiles_are_those_of_numpy() -> None:
    seconds = (0.4, 0.1, 0.3, 0.2, 0.9)
    facts = Timing(seconds, warmup=2).facts()
    for name, share in {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "max": 1.0}.items():
        assert facts[name] == pytest.approx(np.quantile(seconds, share))
    assert (facts["timed"], facts["warmup"]) == (5, 2)


def test_warm_up_is_done_and_not_counted() -> None:
    calls: list[int] = []
    timing = repeat(lambda: calls.append(1), warmup=3, repeats=4)
    assert (len(calls), len(timing.seconds)) == (7, 4)


def test_without_a_name_all_benchmarks_are_listed(fedrec: Fedrec) -> None:
    said = fedrec("bench", "--json")
    listed = json.loads(said.out)["benchmarks"]
    assert set(listed) == set(BENCHMARKS)
    assert {"pfedrec-round", "mf-round", "ease", "ials", "sum", "evaluation"} <= set(listed)


def test_a_misspelt_name_is_told(fedrec: Fedrec) -> None:
    said = fedrec("bench", "mf-rounds")
    assert said.code == 2
    assert "Did you mean 'mf-round'?" in said.err


def test_a_round_says_median_spread_threads_and_machine(fedrec: Fedrec) -> None:
    said = fedrec("bench", "pfedrec-round", "--json", "--data", DATA, "--rounds", 3, "--warmup", 1, "--threads", 1)
    assert said.code == 0, said.err
    found = json.loads(said.out)
    spread = found["spread"]
    assert found["seconds_per_round"] == spread["median"] > 0
    assert spread["min"] <= spread["q25"] <= spread["median"] <= spread["q75"] <= spread["max"]
    assert found["rounds_timed"] == spread["timed"] == 3
    assert found["threads"] == 1
    assert found["cohort"] == found["clients"] == 120
    assert found["model"]["name"] == "pfedrec"
    assert {"processor", "cores", "load", "python"} <= set(found["machine"])
    assert set(found["metrics"]) == {"hr@10", "ndcg@10"}


@pytest.mark.parametrize("name", ["ease", "ials", "sum", "evaluation", "mf-round"])
def test_every_benchmark_runs_from_the_command_line(fedrec: Fedrec, name: str) -> None:
    more = ["--set", "cohort=1.0", "--set", "embedding_size=4"] if name == "mf-round" else []
    said = fedrec("bench", name, "--json", "--data", DATA, "--rounds", 2, "--warmup", 0, *more)
    assert said.code == 0, said.err
    found = json.loads(said.out)
    parts = {"sum": ("triangle", "rows"), "evaluation": ("full", "sampled:99")}.get(name)
    timings = [found["spread"]] if parts is None else [found[part]["spread"] for part in parts]
    assert all(0 < timing["median"] < math.inf and timing["timed"] == 2 for timing in timings)
    assert found["data"] == {"source": DATA, "users": 120, "items": 60, "interactions": found["data"]["interactions"],
                             "stand_in": None}  # fmt: skip


def test_people_get_a_table(fedrec: Fedrec) -> None:
    said = fedrec("bench", "sum", "--data", DATA, "--rounds", 2, "--quiet")
    assert said.code == 0
    assert "triangle" in said.out
    assert "median ms" in said.out


def test_rounds_one_by_one_are_a_training_run() -> None:
    plan = tiny("mf-round", embedding_size=4).model_copy(update={"cohort": 0.5, "split": "leave-last-out"})
    source = load_source(DATA)
    stepwise = Rounds(source, plan, evaluate=True, most=9)
    cohorts = [stepwise.next().cohort for _ in range(4)]
    whole = plan.model_copy(update={"model": {**plan.model, "rounds": 4}}).resolve(source.interactions, source.digest)
    engine = LocalEngine.build(source.interactions, whole)
    run = Run(whole, None)
    coordinator, trained = train_here(engine, source.interactions, run)
    found = coordinator.evaluate(trained.state, trained.round, "test", ("ndcg@10",), "full")
    assert cohorts == [line["cohort"] for line in run.ledger.of_kind("round")]
    assert stepwise.metrics()["ndcg@10"] == pytest.approx(found["ndcg@10"].value, abs=1e-6)
    assert stepwise._trained is not None
    assert arrays_digest(stepwise._trained.state.shared) == arrays_digest(trained.state.shared)


def test_a_round_without_evaluation_takes_none() -> None:
    plan = tiny("mf-round", embedding_size=4).model_copy(update={"cohort": 1.0})
    found = measure("mf-round", plan, warmup=0, repeats=2)
    assert found["evaluation"] is None
    assert found["metrics"] == {}
    assert found["spread"]["median"] == pytest.approx(found["training"]["median"])


def test_a_training_reaches_the_accuracy_of_the_model() -> None:
    import fedrec as fr

    found = measure("ease", tiny("ease"), warmup=0, repeats=1)
    split = fr.leave_last_out(load_source(DATA).interactions)
    frame = fr.evaluate(fr.EASE().fit(split), split, ["hr@10"], protocol="sampled:99")
    assert found["metrics"]["hr@10"] == pytest.approx(frame["value"][0], abs=1e-5)


def test_sums_are_of_all_users() -> None:
    found = measure("sum", tiny("sum", embedding_size=4), warmup=0, repeats=1)
    lengths = load_source(DATA).interactions.lengths - 2  # leave-last-out keeps two for validation and test
    assert found["triangle"]["clients"] == 120
    assert found["triangle"]["products"] == int((lengths * (lengths + 1) // 2).sum())
    assert found["rows"]["interactions"] == int(lengths.sum())


def test_a_model_without_rounds_has_none_to_time() -> None:
    with pytest.raises(PlanError, match="not trained in rounds"):
        Rounds(load_source(DATA), tiny("ease"), evaluate=False, most=1)


def test_data_of_the_same_size_stand_in_and_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FEDREC_DATA", raising=False)
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path))
    source, remark = default_source(BENCHMARKS["ease"])
    assert source.startswith("synthetic:users=943,items=1682,")
    assert remark is not None
    assert "synthetic" in remark
    assert default_source(BENCHMARKS["mf-round"])[0].startswith("synthetic:users=1000000,items=50000,")
