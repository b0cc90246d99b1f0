"""What a policy would have earned: closed forms, exact federation, and intervals that hold what they promise."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import fedrec as fr
from fedrec.aggregation.sums import Sum
from fedrec.cli.main import app
from fedrec.errors import InputError
from fedrec.evaluation.off_policy import effective_events, estimates, event_terms
from fedrec.federation.judging import judging_spec, judging_sum, judging_values
from fedrec.recommending.exploring import Exploration, thompson


def a_log(count: int, seed: int) -> dict[str, np.ndarray]:
    """Events of one of five items, shown with known chances, with the chances of another policy."""
    rng = np.random.default_rng(seed)
    logging, target = np.array([0.4, 0.2, 0.2, 0.1, 0.1]), np.array([0.1, 0.1, 0.2, 0.2, 0.4])
    rates, guessed = np.array([0.3, 0.1, 0.5, 0.2, 0.6]), np.array([0.25, 0.2, 0.4, 0.3, 0.5])
    shown = rng.choice(5, count, p=logging)
    return {
        "rewards": (rng.random(count) < rates[shown]).astype(float),
        "logged": logging[shown],
        "target": target[shown],
        "predicted": guessed[shown],
        "expected": np.full(count, target @ guessed),
        "truth": np.array([target @ rates]),
    }


def terms_of(log: dict[str, np.ndarray], rows: slice = slice(None)) -> dict[str, np.ndarray]:
    events = {name: values[rows] for name, values in log.items() if name != "truth"}
    return event_terms(events.pop("rewards"), events.pop("logged"), events.pop("target"), **events)


def test_estimates_from_sums_of_nodes_are_those_of_the_textbook_and_of_pooled_events() -> None:
    log = a_log(10_000, 0)
    spec = judging_spec(10_000)
    pooled, federated = judging_sum(spec, terms_of(log)), Sum.zeros(spec)
    for node in (2, 0, 1):
        federated.merge(judging_sum(spec, terms_of(log, slice(node, None, 3))))
    assert judging_values(federated) == judging_values(pooled)
    found = estimates(judging_values(federated))
    w, r, n = np.minimum(log["target"] / log["logged"], 20.0), log["rewards"], 10_000
    doubly = log["expected"] + w * (r - log["predicted"])
    ratio = (w * r).sum() / w.sum()
    assert abs(found["ips"].value - (w * r).mean()) < 1e-12
    assert abs(found["snips"].value - ratio) < 1e-12
    assert abs(found["dr"].value - doubly.mean()) < 1e-12
    errors = (
        (w * r).std(ddof=1) / np.sqrt(n),
        np.sqrt(n / (n - 1) * (w**2 * (r - ratio) ** 2).sum()) / w.sum(),
        doubly.std(ddof=1) / np.sqrt(n),
    )
    assert [found[name].standard_error for name in ("ips", "snips", "dr")] == pytest.approx(errors, abs=1e-12)
    assert effective_events(judging_values(federated)) == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=1e-12)


def test_intervals_of_95_percent_hold_the_truth_in_about_95_of_100_logs() -> None:
    logs = [a_log(1000, seed) for seed in range(200)]
    for name in ("ips", "snips", "dr"):
        held = 0
        for log in logs:
            found = estimates({term: values.sum() for term, values in terms_of(log).items()})[name]
            assert found.standard_error is not None
            held += abs(found.value - log["truth"][0]) <= 1.96 * found.standard_error
        assert 186 <= held <= 194, name


def test_weights_are_cut_and_counted() -> None:
    terms = event_terms(np.ones(2), np.array([0.01, 0.5]), np.array([1.0, 0.5]), largest=10.0)
    assert terms["w"].tolist() == [10.0, 1.0]
    assert terms["cut"].tolist() == [1.0, 0.0]


def test_what_cannot_be_judged_is_refused() -> None:
    half = np.array([0.5])
    with pytest.raises(InputError, match="event 2: propensity must lie above 0 to 1, not 0"):
        event_terms(np.zeros(2), np.array([0.5, 0.0]), np.zeros(2))
    with pytest.raises(InputError, match="event 1: reward must lie from 0 to 1, not 3"):
        event_terms(np.array([3.0]), half, half)
    with pytest.raises(InputError, match="target has 2 values for 1 events"):
        event_terms(half, half, np.zeros(2))
    with pytest.raises(InputError, match="the largest weight must be positive"):
        event_terms(half, half, half, largest=0.0)
    nothing = {name: values.sum() for name, values in event_terms(half, half, np.zeros(1)).items()}
    with pytest.raises(InputError, match="would have shown nothing that was logged"):
        estimates(nothing)
    with pytest.raises(InputError, match="there is no event"):
        estimates(dict.fromkeys(nothing, 0.0))


@pytest.mark.parametrize("text", ["greedy", "epsilon:0.3", "plackett-luce:0.7"])
def test_a_list_is_as_frequent_as_its_propensities_say(text: str) -> None:
    policy, rng, scores = Exploration.parse(text), np.random.default_rng(3), np.array([0.1, 0.9, -np.inf, 0.4])
    counts, chances = {}, {}
    for _ in range(4000):
        slate = policy.draw(scores, 2, rng)
        key = tuple(slate.items.tolist())
        counts[key], chances[key] = counts.get(key, 0) + 1, slate.propensities.prod()
    assert set(counts) <= set(permutations((0, 1, 3), 2))
    assert sum(chances.values()) == pytest.approx(1.0)
    for key, chance in chances.items():
        assert counts[key] / 4000 == pytest.approx(chance, abs=5 * np.sqrt(chance * (1 - chance) / 4000) + 1e-12)
    assert len(policy.draw(scores, 9, rng).items) == 3


def test_thompson_sampling_shows_the_better_arm_as_often_as_its_propensity_says() -> None:
    rng = np.random.default_rng(0)
    arms, mean, covariance = np.eye(2), np.array([0.0, 1.0]), np.diag([0.5, 0.5])
    slates = [thompson(arms, mean, covariance, 1, rng, draws=200) for _ in range(300)]
    share = np.mean([slate.items[0] == 1 for slate in slates])  # Φ(1) = .841
    assert share == pytest.approx(0.841, abs=0.08)
    assert np.mean([s.propensities[0] for s in slates if s.items[0] == 1]) == pytest.approx(0.841, abs=0.02)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epsilo:0.1", "Did you mean 'epsilon'"),
        ("epsilon:2", "needs a probability"),
        ("plackett-luce:0", "needs a temperature"),
        ("greedy:1", "greedy has no number"),
    ],
)
def test_a_policy_that_cannot_be_read_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Exploration.parse(text)


def test_the_command_gives_what_pooled_events_give(tmp_path: Path) -> None:
    data = fr.synthetic(users=40, items=30, interactions_per_user=6)
    model = fr.Popularity().fit(data)
    model.save(tmp_path / "run")
    rng = np.random.default_rng(0)
    rows = model.recommend(n=1)
    table = pl.DataFrame(
        {
            "user_id": rows["user_id"],
            "item_id": rows["item_id"],
            "reward": rng.integers(0, 2, rows.height),
            "propensity": np.full(rows.height, 0.5),
        }
    )
    table.write_csv(tmp_path / "events.csv")
    arguments = ["evaluate", str(tmp_path / "run"), "--events", str(tmp_path / "events.csv"), "--json", "--policy"]
    answer = json.loads(CliRunner().invoke(app, [*arguments, "greedy"]).stdout)
    assert answer["events"] == 40
    assert answer["estimates"]["snips"] == pytest.approx(table["reward"].mean(), abs=1e-9)
    result = CliRunner().invoke(app, [*arguments, "greedy", "--largest-weight", "-1"])
    assert "the largest weight must be positive and finite" in str(result.exception)
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), "--policy", "greedy"])
    assert "--policy and --events are used together" in str(result.exception)
    for option, words in (("--largest-weight", "is for --policy"), ("--rerank-top", "are for --rerank")):
        result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), option, "5"])
        assert words in str(result.exception)
    broken = table.with_columns(pl.lit(999_999).alias("item_id"))
    broken.write_csv(tmp_path / "events.csv")
    result = CliRunner().invoke(app, [*arguments, "greedy"])
    assert isinstance(result.exception, InputError)
    assert "event 1 has the unknown item_id 999999" in str(result.exception)
