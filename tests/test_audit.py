"""Attacks on our own runs: they work where nothing protects, fail where noise does, and catch broken mechanisms."""

import json
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from chosen_in_test import every
from fedrec.aggregation.queries import PLAIN, Query, private_spec
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.audit import neighbours
from fedrec.audit.canaries import epsilon_between, one_shot
from fedrec.audit.findings import Finding
from fedrec.audit.membership import membership
from fedrec.audit.neighbours import bare_share, largest_by_chance, worst_neighbours
from fedrec.audit.observe import observe
from fedrec.audit.picture import draw
from fedrec.audit.recovery import counts_from_ease
from fedrec.audit.running import ATTACKS, audit
from fedrec.audit.updates import imia, row_sign, touched
from fedrec.errors import InputError
from fedrec.federation.plan import Plan
from fedrec.models.linear.ease import solve
from fedrec.privacy.accounting import noise_for
from fedrec.privacy.chance import SeededChance
from fedrec.privacy.noise import noised

DATA = "synthetic:users=1000,items=150,interactions_per_user=15,seed=3"
DELTA = 1e-5


def plan(model, epsilon=None, **changes):
    settings = {"data": {"source": DATA}, "model": model}
    if epsilon is not None:
        settings["privacy"] = {"epsilon": epsilon, "delta": 1e-4}
    return Plan.make(settings | changes)


def findings(model, epsilon=None, attacks=None, **changes):
    return {found.attack: found for found in audit(plan(model, epsilon, **changes), attacks)}


# --- what unprotected runs give away ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reg", ["auto", 37.5])
def test_ease_gives_every_co_occurrence_count_away(reg):
    rng = np.random.default_rng(0)
    x = (rng.random((400, 60)) < rng.uniform(0.02, 0.4, 60)).astype(float)
    gram = x.T @ x
    weight = 6.0 * np.trace(gram) / 60 if reg == "auto" else reg
    guess = counts_from_ease(solve(gram.copy(), weight)[0], None if reg == "auto" else reg)
    assert np.array_equal(np.rint(guess), gram)


def test_attacks_on_an_unprotected_run_work():
    found = findings({"name": "ease"})
    assert found["co-occurrences"].value > 0.999
    assert found["differencing"].value == 1.0
    assert found["repeated-round"].value == 1.0
    assert {name for name, each in found.items() if each.verdict == "fail"} >= {
        "co-occurrences", "differencing", "repeated-round", "canaries"
    }  # fmt: skip


def test_the_same_attacks_on_a_protected_run_fail():
    found = findings({"name": "ease"}, 2.0)
    assert set(found) == set(ATTACKS) - {"touched", "row-sign", "imia"}
    assert {each.verdict for each in found.values()} == {"pass"}
    assert found["differencing"].value < 0.2
    assert found["co-occurrences"].value < found["co-occurrences"].limit
    assert found["repeated-round"].value == 0.0


def test_one_update_seen_alone_shows_its_items_and_noise_at_the_coordinator_does_not_help():
    plain = findings({"name": "mf", "rounds": 2}, None, ["touched", "row-sign", "imia", "differencing"])
    assert plain["row-sign"].value >= 0.99
    assert plain["imia"].value >= 0.9
    assert 0.25 < plain["touched"].value < 0.5  # four negatives to a positive: one half of 2 · 0.2 / 1.2 and more
    assert plain["differencing"].value > 0.95
    private = findings({"name": "mf", "rounds": 2}, 2.0, ["row-sign", "differencing"])
    assert (private["row-sign"].value, private["row-sign"].verdict) == (pytest.approx(1.0, abs=0.02), "out of scope")
    assert private["differencing"].verdict == "pass"


def test_items_of_one_client_alone_are_counted():
    histories = [[1, 2], [1, 2], [2, 3], [1, 3], [2, 4]]
    pairs = [(f"u{user}", f"i{item}") for user, items in enumerate(histories) for item in items]
    data = fr.interactions_from(pl.DataFrame(pairs, schema=["user", "item"], orient="row"))
    observed = observe(Plan.make({"data": {"source": "memory"}, "model": {"name": "popularity"}, "split": "none",
                                  "min_clients": 1}), data, "0" * 64)  # fmt: skip
    from fedrec.audit.recovery import singletons

    assert singletons(observed).value == 1.0


def updates(positives=50, negatives=200, seed=0, d=16):
    """Item updates of one user of a factor model after one step of logistic loss."""
    rng = np.random.default_rng(seed)
    table = rng.normal(0, 0.1, (positives + negatives, d + 1))
    labels = np.arange(positives + negatives) < positives
    user = rng.normal(0, 0.1, d)
    chance = 1 / (1 + np.exp(-(table[:, :-1] @ user + table[:, -1])))
    return np.outer(labels - chance, np.append(user, 1.0)), table, labels


def f1(guess, truth):
    return 2 * (guess & truth).sum() / (guess.sum() + truth.sum())


def test_guesses_from_one_update():
    rows, table, labels = updates()
    assert f1(touched(rows, table, 0.2), labels) == pytest.approx(1 / 3)
    assert f1(row_sign(rows, table, 0.2), labels) == 1.0
    assert f1(imia(rows, table, 0.2), labels) == 1.0
    rows, table, labels = updates(100, 100)
    assert f1(touched(rows, table, 0.5), labels) == pytest.approx(2 / 3)
    assert f1(row_sign(rows, table, 0.5), labels) == 1.0


# --- canaries ---------------------------------------------------------------------------------------------------------


def gaussian_sum(noise_multiplier, d=20_000):
    """A sum of nobody of `d` numbers, and its query."""
    queries = (Query({"x": PLAIN}, 1.0),)
    return Sum.zeros(
        private_spec(SumSpec((ArraySpec("x", "dense", (d,), 1.0),)), queries, noise_multiplier, 5000)
    ), queries


@pytest.mark.parametrize(
    ("epsilon", "low", "high"), every(2, [(1.0, 0.73, 1.29), (2.0, 1.93, 2.26), (4.0, 3.67, 4.30), (8.0, 7.40, 7.71)])
)
def test_canaries_measure_what_was_promised(epsilon, low, high):
    z = noise_for(epsilon, DELTA, rounds=1)
    exact, queries = gaussian_sum(z)
    found = [one_shot(exact, queries, z, DELTA, SeededChance(seed), [seed]) for seed in range(5)]
    assert low <= np.mean(found) <= high


def half(total, queries, noise_multiplier, clients, chance):
    """Half the noise."""
    return noised(total, queries, noise_multiplier / 2, clients, chance)


def touched_only(total, queries, noise_multiplier, clients, chance):
    """Noise where something was added."""
    bare = {name: array == 0 for name, array in total.arrays.items()}
    released = noised(total, queries, noise_multiplier, clients, chance)
    for name, array in released.arrays.items():
        array[bare[name]] = 0
    return released


def realised(total, queries, noise_multiplier, clients, chance):
    """Means over the clients who came."""
    came = total.clients
    return replace(noised(total, queries, noise_multiplier, clients, chance), clients=came)


@pytest.mark.parametrize("epsilon", every(2, [1.0, 2.0, 4.0, 8.0], start=1))
def test_half_the_noise_is_caught(epsilon):
    z = noise_for(epsilon, DELTA, rounds=1)
    exact, queries = gaussian_sum(z)
    found = [one_shot(exact, queries, z, DELTA, SeededChance(seed), [seed], half) for seed in range(5)]
    assert min(found) > epsilon + 0.75


def test_noise_on_touched_rows_only_is_caught():
    exact, queries = gaussian_sum(1.0, 2000)
    assert bare_share(exact, queries, 1.0, SeededChance(0)) < 0.01
    assert bare_share(exact, queries, 1.0, SeededChance(0), touched_only) == 1.0


def test_the_denominator_of_those_who_came_is_caught():
    epsilon = 2.0
    z = noise_for(epsilon, DELTA, rounds=1)
    exact, queries = gaussian_sum(z, 50)
    limit = largest_by_chance(z, DELTA)
    sound = [worst_neighbours(exact, queries, z, DELTA, SeededChance(seed)) for seed in range(3)]
    broken = [worst_neighbours(exact, queries, z, DELTA, SeededChance(seed), realised) for seed in range(3)]
    assert epsilon < limit
    assert max(sound) <= limit < min(broken)


@pytest.mark.parametrize("epsilon", [0.5, 4.0, 16.0])
def test_sound_noise_is_failed_as_seldom_as_stated(epsilon, monkeypatch):
    monkeypatch.setattr(neighbours, "_ERROR_RATE", 0.05)
    z = noise_for(epsilon, DELTA, rounds=1)
    draws = np.random.default_rng(1).normal(size=(2, 2000, neighbours._DRAWS))
    spread = np.sqrt(draws.var(axis=2, ddof=1).mean(axis=0))
    distances = (draws[0].mean(axis=1) - draws[1].mean(axis=1) + 1 / z) / spread
    failing = 1 / noise_for(largest_by_chance(z, DELTA), DELTA, rounds=1)
    assert 0.035 < np.mean(distances > failing) < 0.065


def test_canaries_of_rounds_with_weights_and_two_queries():
    from fedrec.aggregation.queries import Metric

    queries = (
        Query({"a": Metric(weight=3.0), "b": Metric(rows=np.linspace(0.5, 2, 400))}, 0.7, 0.3),
        Query({"c": PLAIN}, 5.0, 0.7),
    )
    spec = SumSpec(tuple(ArraySpec(name, "dense", shape, 1.0) for name, shape in
                         (("a", (9000,)), ("b", (400, 10)), ("c", (7000,)))))  # fmt: skip
    z = noise_for(2.0, DELTA, rounds=1)
    exact = Sum.zeros(private_spec(spec, queries, z, 5000))
    found = [one_shot(exact, queries, z, DELTA, SeededChance(seed), [seed]) for seed in range(5)]
    assert 1.8 < np.mean(found) < 2.3


def test_epsilon_between_normals():
    assert epsilon_between(-0.1, DELTA) == 0.0
    assert epsilon_between(1 / noise_for(4.0, DELTA, rounds=1), DELTA) == pytest.approx(4.0, abs=0.01)


# --- membership -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["popularity", "ease", "content"])
def test_membership_stays_below_the_bound(name):
    found = membership(plan({"name": name}, 1.0), SeededChance(1))
    assert found.limit == pytest.approx(math.e * 0.01, abs=1e-4)
    assert found.verdict == "pass"
    assert found.value <= found.limit


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_audits_a_plan_and_a_run(fedrec, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(plan({"name": "popularity"}, 2.0).to_yaml())
    picture = tmp_path / "audit.png"
    said = fedrec("audit", path, "--json", "--plot", picture)
    assert said.code == 0, said.err
    answer = json.loads(said.out)
    assert {each["verdict"] for each in answer["findings"]} == {"pass"}
    assert picture.read_bytes()[:4] == b"\x89PNG"
    trained = fedrec("train", "--plan", path, "--out", tmp_path / "run", "--quiet")
    assert trained.code == 0, trained.err
    said = fedrec("audit", tmp_path / "run", "--attack", "singletons", "--json")
    assert said.code == 0
    assert [each["attack"] for each in json.loads(said.out)["findings"]] == ["singletons"]


def test_a_training_with_validations_is_attacked_too(fedrec, tmp_path):
    """Its nodes have kept private rows of the last round, so that they cannot answer it again."""
    said = fedrec("train", "--data", "synthetic:users=80,items=90", "--model", "mf", "--set", "rounds=2", "--set",
                  "evaluation.every=1", "--out", tmp_path / "run", "--quiet")  # fmt: skip
    assert said.code == 0, said.err
    said = fedrec("audit", tmp_path / "run", "--attack", "repeated-round", "--json")
    assert [each["value"] for each in json.loads(said.out)["findings"]] == [0.0]


def test_what_the_command_refuses(fedrec, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(plan({"name": "popularity"}).to_yaml())
    said = fedrec("audit", path, "--attack", "differncing")
    assert said.code != 0
    assert "Did you mean 'differencing'" in said.err
    said = fedrec("audit", tmp_path / "nothing")
    assert said.code != 0
    assert "nothing" in said.err
    with pytest.raises(InputError, match="there is no attack 'x'"):
        audit(plan({"name": "popularity"}), ["x"])


def test_a_failed_promise_is_an_exit_code_of_1(fedrec, tmp_path, monkeypatch):
    path = tmp_path / "plan.yaml"
    path.write_text(plan({"name": "popularity"}, 2.0).to_yaml())
    broken = Finding("singletons", "cohort", "share", 1.0, 0.1, "fail", "broken")
    monkeypatch.setitem(ATTACKS, "singletons", lambda observed, digest, chance: broken)
    assert fedrec("audit", path, "--attack", "singletons").code == 1


def test_a_picture_of_findings_without_limits(tmp_path):
    found = [
        Finding("a", "cohort", "m", math.inf, None, "fail", "s"),
        Finding("b", "cohort", "m", 0.0, 0.0, "pass", "s"),
    ]
    draw(found, "t", tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000
