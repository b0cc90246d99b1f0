"""Noise that nodes add before they mask their sums: its law, its size, and a coordinator that sees no exact sum."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import fedrec as fr
from fedrec.aggregation.queries import PLAIN, WIDEST, Metric, Query, clip_limit, deviations, private_spec
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.keys import KeyedSource
from fedrec.engines.local import LocalEngine
from fedrec.engines.secure import SecureEngine
from fedrec.errors import PlanError
from fedrec.federation.agreement import Agreement
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.kernels.noise import discrete_gaussians
from fedrec.privacy.budget import Budget
from fedrec.privacy.shares import Stream, discrete_gaussian, with_share
from fedrec.privacy.terms import schedule
from fedrec.runs.loading import Placement
from fedrec.runs.training import train_run

DATA = "synthetic:users=240,items=90,interactions_per_user=14,seed=3"
TERMS = {"epsilon": 20.0, "delta": 1e-4, "noise": "distributed"}
SECURE = Placement(4, "hash", secure=True)


def plan(model=None, **changes):
    return Plan.make({"data": {"source": DATA}, "model": model or {"name": "ease"}, "privacy": TERMS} | changes)


@pytest.mark.parametrize("sd", [0.7, 1.0, 3.3, 40.0])
def test_draws_have_the_law_of_the_discrete_gaussian(sd):
    draws = discrete_gaussian(np.full(200_000, sd), Stream(b"key").words)
    reach = int(4 * sd) + 1
    values = np.arange(-reach, reach + 1)
    chances = np.exp(-(values**2) / (2 * sd * sd))
    chances /= chances.sum()
    seen = np.array([np.count_nonzero(draws == value) for value in values])
    enough = chances * len(draws) > 5
    expected = chances[enough] * seen[enough].sum() / chances[enough].sum()
    assert stats.chisquare(seen[enough], expected).pvalue > 1e-4
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / math.sqrt(len(draws))


def test_tries_equal_their_plain_twin():
    words = Stream(b"twin").words(4000)
    deviations = np.linspace(0.6, 900.0, 2000)
    out, kept = np.empty(2000, dtype=np.int64), np.empty(2000, dtype=np.bool_)
    discrete_gaussians(words, deviations, out, kept)
    first, second = words.reshape(-1, 2).T
    scale = np.floor(deviations) + 1
    size = np.floor(-np.log(((first >> np.uint64(1)).astype(float) + 1) * 2.0**-63) * scale)
    chance = np.exp(-((size - deviations**2 / scale) ** 2) / (2 * deviations**2))
    negative = (first & np.uint64(1)).astype(bool)
    assert np.array_equal(out, np.where(negative, -size, size))
    assert np.array_equal(
        kept, ((second >> np.uint64(11)).astype(float) * 2.0**-53 < chance) & ~(negative & (size == 0))
    )


@pytest.mark.parametrize("deviations_out", [0.5, 3, 6, 9, 12, 15])
def test_the_widest_noise_leaves_out_no_whole_number(deviations_out):
    """Whichever number near t σ is asked for, some word gives it, about as many words as e^−t says."""
    sd = WIDEST
    target = int(deviations_out * sd)
    per_number = math.exp(-deviations_out) * 2.0**63 / (sd + 1)
    numbers = 50
    low = int(math.exp(-(target + numbers) / (sd + 1)) * 2.0**63)
    firsts = np.unique(low + np.linspace(0, numbers * per_number, 20_000).astype(np.uint64)) << np.uint64(1)
    words = np.stack([firsts, np.zeros_like(firsts)], axis=1).reshape(-1)
    out, kept = np.empty(len(firsts), dtype=np.int64), np.empty(len(firsts), dtype=np.bool_)
    discrete_gaussians(words, np.full(len(firsts), sd), out, kept)
    inner = np.arange(target + 2, target + numbers - 2)
    assert np.isin(inner, out).all()
    counts = np.array([np.count_nonzero(out == number) for number in inner]) * (numbers * per_number / len(firsts))
    assert np.all(np.abs(counts / per_number - 1) < 1.5 / per_number + 0.05)


def test_wider_noise_than_that_is_refused_and_plans_take_a_coarser_grid():
    with pytest.raises(ValueError, match="above 0 and at most"):
        discrete_gaussian(np.array([2 * WIDEST]), Stream(b"key").words)
    spec = SumSpec((ArraySpec("x", "dense", (4,), 1.0, scale_bits=41),)).fit(100)
    with pytest.raises(PlanError, match="use a coarser grid"):
        with_share(Sum.zeros(spec), (Query({"x": PLAIN}, 1.0),), 4.0, 1, b"k")
    wide = Metric(rows=np.array([1e-6, 1.0]))
    for z in (1.0, 1e3, 1e5):
        query = Query({"x": wide}, 1.0)
        fine = private_spec(SumSpec((ArraySpec("x", "rows", (2, 3), 1.0, scale_bits=20),)), (query,), z, 1000)
        assert z * 1e6 * fine["x"].unit <= WIDEST
        assert clip_limit(query, fine) > 0.85


@pytest.mark.parametrize("epsilon", [1e-4, 0.01, 1.0, 8.0])
@pytest.mark.parametrize(
    "model", [{"name": name} for name in ("popularity", "content", "ease", "itemknn", "slit", "spectral", "ials", "mf")]
)
def test_every_private_model_finds_a_grid_for_its_noise_and_rounding_stays_small(model, epsilon):
    data = fr.load_data(DATA)
    made = plan(model, privacy={"epsilon": epsilon, "delta": 1e-6, "users": 100_000}).resolve(data, "0" * 64)
    private = made.build_model()
    shared = private.start(data.catalog, private.public(data.catalog), KeyedSource.from_seed(0)).shared
    charge = schedule(made.privacy, private.budget_shares, made.share())[0]
    found = private.spec(shared, 0)
    queries = private.queries(shared, 0)
    spec = private_spec(found, queries, charge.noise_multiplier, 100_000, excess=2.0)
    for query in queries:
        assert clip_limit(query, spec) > 0.995 * query.clip
        for name, metric in query.metrics.items():
            wide = query.deviation(charge.noise_multiplier) * spec[name].unit
            steps = [sd for _, sd in deviations(metric, spec[name], wide)]
            assert 2**8 <= min(map(np.min, steps)) <= max(map(np.max, steps)) <= WIDEST


def test_a_stream_repeats_itself_under_its_key_only():
    one, same, other = (Stream(key).words(1000) for key in (b"a", b"a", b"b"))
    assert np.array_equal(one, same)
    assert not np.any(one == other)
    stream = Stream(b"a")
    assert not np.array_equal(stream.words(10), stream.words(10))


def exact(n=4000, z=2.0):
    queries = (Query({"x": PLAIN, "y": Metric(weight=2.0)}, 1.5),)
    spec = SumSpec((ArraySpec("x", "dense", (n,), 1.0), ArraySpec("y", "dense", (n,), 1.0)))
    return Sum.zeros(private_spec(spec, queries, z, 1000, excess=2.0)), queries


def test_shares_of_the_honest_nodes_make_up_the_noise():
    whole = Sum.zeros(exact()[0].spec)
    for node in range(3):
        total, queries = exact()
        total.clients = 50
        share = with_share(total, queries, 2.0, 3, b"key" + bytes([node]))
        assert (share.clients, share.left_out, share.saturated) == (0, 0, 0)
        whole.merge(share)
    for name, weight in (("x", 1.0), ("y", 2.0)):
        draws = whole.value(name).reshape(-1) * weight / (2.0 * 1.5)
        assert stats.kstest(draws, "norm").pvalue > 1e-4


def test_shares_too_narrow_for_the_grid_are_refused():
    queries = (Query({"x": PLAIN}, 1.0),)
    spec = SumSpec((ArraySpec("x", "dense", (4,), 1.0, scale_bits=2),)).fit(100)
    with pytest.raises(PlanError, match="steps of the grid"):
        with_share(Sum.zeros(spec), queries, 1.0, 9, b"k")


def test_the_coordinator_sees_noise_only_and_the_ledger_says_what_it_costs(tmp_path):
    seen = []
    made = plan()
    data = fr.load_data(DATA)
    resolved = made.resolve(data, "0" * 64)

    class Watched(SecureEngine):
        def contribute(self, call):
            seen.append(call)
            return super().contribute(call)

    engine = Watched.build(data, resolved, 4)
    coordinator = Coordinator(Agreement.of(resolved, data.catalog), engine, Run(resolved, None), engine.has_valid)
    gather = coordinator.gathering.gather

    def gathered(call):
        found = gather(call)
        total = found.total
        seen.append(({name: array.copy() for name, array in total.arrays.items()}, dict(total.noise)))
        return found

    coordinator.gathering.gather = gathered
    coordinator.train()
    call, (arrays, noise) = seen[:2]
    parties, honest, _ = engine.parties
    assert (parties, honest) == (4, 2)
    charge = engine.nodes[0].guard.charges[0]
    assert noise["gram"] == pytest.approx(charge.noise_multiplier * math.sqrt(parties / honest))
    parts = []
    for node in engine.nodes:
        node.guard.terms = node.guard.terms.model_copy(update={"noise": "central"})
        node.guard.budget = Budget()  # the run's own would not let round 0 be answered once it is over
        parts.append(node._summed(call))
    difference = arrays["gram"] - sum(part.arrays["gram"].astype(np.int64) for part in parts)
    off = difference / call.spec["gram"].unit * math.sqrt(2) / noise["gram"]
    n = data.n_items
    diagonal = np.cumsum([0, *range(n, 1, -1)])
    assert stats.kstest(np.delete(off, diagonal), "norm").pvalue > 1e-4


def test_a_run_promises_something_against_the_coordinator(tmp_path, fedrec):
    report = train_run(plan(), tmp_path / "run", SECURE)
    cost = report["privacy"]["epsilons"]
    assert cost["server"] == cost["cohort"] == pytest.approx(20.0, rel=1e-3)
    said = fedrec("privacy", "show", tmp_path / "run", "--json")
    assert "honest nodes in a sum add up to at least the whole noise" in " ".join(json.loads(said.out)["words"])
    assert fedrec("verify", tmp_path / "run").code == 0


def test_a_run_that_was_stopped_goes_on_with_the_same_shares(tmp_path):
    made = plan({"name": "mf", "embedding_size": 4, "rounds": 4})

    def stop(progress):
        if progress.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(made, tmp_path / "run", SECURE, watch=stop)
    kept = (tmp_path / "run" / "ledger.jsonl").read_bytes()
    train_run(made, tmp_path / "run", SECURE, resume=True)
    assert (tmp_path / "run" / "ledger.jsonl").read_bytes().startswith(kept)


def test_asked_twice_a_node_adds_the_same_share():
    data = fr.load_data(DATA)
    resolved = plan().resolve(data, "0" * 64)
    engine = SecureEngine.build(data, resolved, 4)
    coordinator = Coordinator(Agreement.of(resolved, data.catalog), engine, Run(resolved, None), engine.has_valid)
    calls = []

    class StopError(Exception):
        pass

    def contribute(call):
        calls.append(call)
        raise StopError

    engine.contribute = contribute
    with pytest.raises(StopError):
        coordinator.train()
    node = engine.nodes[0]
    first, second = (node.contribute(calls[0]).arrays["gram"] for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, engine.nodes[1].contribute(calls[0]).arrays["gram"])


def test_plain_sums_cannot_carry_shares(tmp_path):
    with pytest.raises(PlanError, match="--secure"):
        train_run(plan(), tmp_path / "run", Placement(4, "hash"))
    assert not (tmp_path / "run").exists()
    data = fr.load_data(DATA)
    resolved = plan().resolve(data, "0" * 64)
    engine = LocalEngine.build(data, resolved, 4)
    with pytest.raises(PlanError, match="--secure"):
        Coordinator(Agreement.of(resolved, data.catalog), engine, Run(resolved, None), engine.has_valid).train()


def asked(engine, data, resolved):
    """The first call that the coordinator makes."""
    coordinator = Coordinator(Agreement.of(resolved, data.catalog), engine, Run(resolved, None), engine.has_valid)
    calls = []

    def contribute(call):
        calls.append(call)
        raise KeyboardInterrupt

    engine.contribute = contribute
    with pytest.raises(KeyboardInterrupt):
        coordinator.train()
    return calls[0]


@pytest.mark.parametrize("change", [{"honest": 100_000}, {"honest": None}, {"parties": "others"}, {"parties": None}])
def test_a_node_gives_no_share_for_another_secure_sum_than_its_own(change):
    data = fr.load_data(DATA)
    resolved = plan().resolve(data, "0" * 64)
    engine = SecureEngine.build(data, resolved, 4)
    call = asked(engine, data, resolved)
    with pytest.raises(PlanError, match="other nodes of the secure aggregation"):
        engine.nodes[0].contribute(replace(call, privacy=replace(call.privacy, **change)))
    with pytest.raises(PlanError, match="other nodes of the secure aggregation"):
        LocalEngine.build(data, resolved, 4).nodes[0].contribute(call)


def test_shares_of_two_calls_do_not_cancel():
    """The same round for another run, whose model differs a little: without fresh noise the difference were exact."""
    data = fr.load_data(DATA)
    resolved = plan().resolve(data, "0" * 64)
    engine = SecureEngine.build(data, resolved, 4)
    call = asked(engine, data, resolved)
    node = engine.nodes[0]
    first = node.contribute(call)
    second = node.contribute(replace(call, privacy=replace(call.privacy, run="ff" * 16)))
    difference = (first.arrays["gram"] - second.arrays["gram"]) / call.spec["gram"].unit
    expected = node.guard.charges[0].noise_multiplier / math.sqrt(2 * node.guard.parties[1])
    assert np.median(np.abs(difference)) > 0.5 * math.sqrt(2) * expected


def test_what_the_coordinator_is_not_told(tmp_path):
    report = train_run(plan(), tmp_path / "run", SECURE)
    assert report["metrics"] == {}
    data = fr.load_data(DATA)
    engine = SecureEngine.build(data, plan().resolve(data, "0" * 64), 4)
    assert {party.clients for party in engine._parties} == {32}
