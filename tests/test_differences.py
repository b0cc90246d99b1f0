"""Two models on the same users: the textbook's paired interval over any nodes, and only where it means something."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import fedrec as fr
from fedrec.cli.main import app
from fedrec.errors import InputError
from fedrec.evaluation.metrics import Metric, parse_metrics
from fedrec.runs.differing import Difference, differences, differences_in_words
from fedrec.runs.finished import OpenedRun
from fedrec.runs.saved import open_run

DATA = "synthetic:users=240,items=60,interactions_per_user=12,seed=3"
METRICS = ("ndcg@10", "hr@5")


def trained(folder: Path, model: str, *options: str) -> OpenedRun:
    words = ["train", "--data", DATA, "--model", model, "--metrics", ",".join(METRICS), *options, "--out", str(folder)]
    assert CliRunner().invoke(app, [*words, "--quiet"], catch_exceptions=False).exit_code == 0
    return open_run(folder)


def values_of(opened: OpenedRun) -> tuple[np.ndarray, np.ndarray]:
    """Positions of each user, and values added up over them, straight from the shard."""
    from fedrec.evaluation.protocols import parse_protocol
    from fedrec.federation.calls import EvaluationCall

    (shard,) = opened.engine.shards
    state, round = opened.trained.state, opened.trained.round
    call = EvaluationCall(round, state.shared, "test", parse_protocol("full"), parse_metrics(METRICS), 1024)
    found = shard.per_user(call)
    return found.counts, found.values


@pytest.mark.parametrize("split", ["leave-last-out", "last:3"])
def test_a_difference_is_that_of_the_textbook_over_any_nodes(tmp_path: Path, split: str) -> None:
    first = trained(tmp_path / "first", "popularity", "--split", split)
    other = trained(tmp_path / "other", "ease", "--split", split)
    (counts, one), (_, two) = values_of(first), values_of(other)
    found = differences(first, other)
    ratio = (two - one).sum(axis=0) / counts.sum()
    left = (two - one) - counts[:, None] * ratio
    users = int((counts > 0).sum())
    errors = np.sqrt(users / (users - 1) * (left**2).sum(axis=0)) / counts.sum()
    np.testing.assert_allclose([each.difference for each in found], ratio, atol=1e-6)
    np.testing.assert_allclose([each.standard_error for each in found], errors, rtol=1e-5)
    np.testing.assert_allclose([each.other - each.first for each in found], ratio, atol=1e-6)
    scattered = trained(tmp_path / "scattered", "ease", "--split", split, "--nodes", "5", "--seed", "7")
    again = differences(trained(tmp_path / "again", "popularity", "--split", split, "--nodes", "3"), scattered)
    assert again == found
    back = differences(other, first)
    assert [each.difference for each in back] == [-each.difference for each in found]


def test_a_model_does_not_differ_from_itself(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "popularity")
    for each in differences(run, run):
        assert (each.difference, each.standard_error, each.verdict) == (0.0, 0.0, "cannot tell")


def test_paired_intervals_hold_the_truth_in_95_of_100_comparisons() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(2000):
        gains = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=300)
        found = Difference(Metric("hr", 5), 0.5, 0.5, gains.mean(), gains.std(ddof=1) / np.sqrt(300), 300, 1)
        low, high = found.interval()
        held += low <= 0.1 <= high
    assert 0.93 < held / 2000 < 0.97


def test_many_metrics_are_held_to_more_than_one_alone() -> None:
    alone = Difference(Metric("hr", 5), 0.2, 0.3, 0.1, 0.045, 100, metrics=1)
    beside = Difference(Metric("hr", 5), 0.2, 0.3, 0.1, 0.045, 100, metrics=4)
    worse = Difference(Metric("ndcg", 5), 0.3, 0.2, -0.1, 0.01, 100, metrics=4)
    unsure = Difference(Metric("mrr", 5), 0.3, 0.2, -0.1, None, 1, metrics=4)
    assert [each.verdict for each in (alone, beside, worse, unsure)] == ["better", "better", "worse", "cannot tell"]
    assert [each.holds_together for each in (alone, beside, worse, unsure)] == [True, False, True, False]
    assert differences_in_words([beside, worse, unsure], "a", "b") == (
        "b is better than a by hr@5. b is worse than a by ndcg@5. These users cannot tell the two apart by "
        "mrr@5. An interval of one metric misses the truth in 1 of 20 comparisons, and there are 3 here. Taken "
        "together (Bonferroni), the verdict holds for ndcg@5."
    )


def test_what_is_not_measured_on_the_same_users_is_not_compared(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "popularity")
    for name, options, says in [
        ("ratio", ("--split", "ratio:0.8"), "what is held out for test differs"),
        ("sampled", ("--protocol", "sampled:9"), "one model is measured by full and the other by sampled:9"),
        ("few", ("--clean", "min_item_interactions=60"), "the models know different items"),
    ]:
        other = trained(tmp_path / name, "popularity", *options)
        with pytest.raises(InputError, match=says):
            differences(run, other)
        if name == "sampled":
            assert differences(run, other, protocol="full")[0].difference == 0.0
    with pytest.raises(InputError, match="coverage@5 is not a mean over users"):
        differences(run, run, ["coverage@5"])
    split = fr.leave_last_out(fr.load_data("synthetic:users=40,items=20,interactions_per_user=5,seed=1"))
    model = fr.Popularity().fit(split.train)
    elsewhere = fr.Popularity().fit(fr.load_data(DATA))
    with pytest.raises(InputError, match="different catalogs"):
        fr.difference(model, elsewhere, split)


def test_two_runs_are_compared_by_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = differences(trained(Path("a"), "popularity"), trained(Path("b"), "ease"))
    said = json.loads(CliRunner().invoke(app, ["compare", "a", "b", "--json"]).stdout)
    assert [each["difference"] for each in said["differences"]] == [each.difference for each in found]
    assert [each["verdict"] for each in said["differences"]] == [each.verdict for each in found]
    for words, says in [
        ("a", "compare takes two runs, not 1"),
        ("a b --seeds 2 --models ease", "compared as they are; remove --models, --seeds"),
        ("", "compare needs --data and --models, or two finished runs"),
    ]:
        refused = CliRunner().invoke(app, ["compare", *words.split()])
        assert isinstance(refused.exception, InputError)
        assert says in str(refused.exception)
