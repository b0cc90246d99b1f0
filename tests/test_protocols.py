"""The sampled protocol, against enumeration of every draw, and published facts on real data."""

import itertools
import math
import os
from fractions import Fraction
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.special import gammaln
from scipy.stats import hypergeom

from fedrec.errors import InputError
from fedrec.evaluation.metrics import BINARY_METRICS, parse_metrics, summarise
from fedrec.evaluation.protocols import Protocol, parse_protocol
from fedrec.evaluation.ranks import metric_sums, score_list, user_metrics
from fedrec.kernels.rank_metrics import rank_law, sampled_metrics
from fedrec.kernels.ranking import count_levels

PER_USER = BINARY_METRICS


def gain(name, rank, k):
    if rank > k:
        return 0.0
    if name == "ndcg":
        return 1 / math.log2(rank + 1)
    return {"mrr": 1 / rank, "map": 1 / rank, "precision": 1 / k, "f1": 2 / (k + 1)}.get(name, 1.0)


def mean_over_draws(scores, touched, relevant, n, name, k):
    """Every set of negatives, and for each every place among the tied ones."""
    clean = [-math.inf if math.isnan(s) else s for s in scores]
    pool = [i for i in range(len(scores)) if i not in touched]
    total = []
    for item in relevant:
        draws = []
        for draw in itertools.combinations(pool, min(n, len(pool))):
            above = sum(clean[i] > clean[item] for i in draw)
            tied = sum(clean[i] == clean[item] for i in draw)
            draws.append(np.mean([gain(name, above + t + 1, k) for t in range(tied + 1)]))
        total.append(np.mean(draws))
    return float(np.mean(total))


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan, -math.inf, math.inf]), min_size=1, max_size=9),
    st.data(),
    st.integers(1, 6),
    st.integers(1, 8),
)
def test_every_metric_is_the_mean_over_all_draws_and_tie_orders(scores, data, n, k):
    items = data.draw(st.permutations(range(len(scores))))
    relevant = items[: data.draw(st.integers(1, min(3, len(items))))]
    exclude = items[len(relevant) :][: data.draw(st.integers(0, 2))]
    touched = {*relevant, *exclude}
    for name in PER_USER:
        got = score_list(scores, relevant, f"{name}@{k}", exclude, f"sampled:{n}")
        assert got == pytest.approx(mean_over_draws(scores, touched, relevant, n, name, k), abs=1e-12), name


def exact_law(pool, above, tied, drawn):
    """P(rank = r) in exact fractions: tie place t of 0..tied is uniform, then the count above is hypergeometric."""
    law = [Fraction(0)] * (drawn + 1)
    for higher in range(above, above + tied + 1):
        for x in range(drawn + 1):
            ways = math.comb(higher, x) * math.comb(pool - higher, drawn - x)
            law[x] += Fraction(ways, math.comb(pool, drawn) * (tied + 1))
    return law


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 400), st.data())
def test_rank_law_equals_exact_fractions(pool, data):
    above = data.draw(st.integers(0, pool))
    tied = data.draw(st.integers(0, pool - above))
    drawn = data.draw(st.integers(0, min(pool, 120)))
    law = np.zeros(drawn + 1)
    rank_law(pool, above, tied, drawn, gammaln(np.arange(1.0, pool + 2.0)), 1.0, law)
    np.testing.assert_allclose(law, [float(p) for p in exact_law(pool, above, tied, drawn)], atol=1e-11)
    assert law.sum() == pytest.approx(1.0, abs=1e-10)


def test_rank_law_of_a_large_catalog():
    pool, above, tied, drawn = 1_000_000, 40_000, 3_000, 99
    law = np.zeros(10)
    rank_law(pool, above, tied, drawn, gammaln(np.arange(1.0, pool + 2.0)), 1.0, law)
    exact = [math.comb(above, x) * math.comb(pool - above, drawn - x) / math.comb(pool, drawn) for x in range(10)]
    untied = np.zeros(10)
    rank_law(pool, above, 0, drawn, gammaln(np.arange(1.0, pool + 2.0)), 1.0, untied)
    np.testing.assert_allclose(untied, exact, rtol=1e-7)
    assert law.sum() < untied.sum()  # ties can only push the item down


@pytest.mark.parametrize("users", [8, pytest.param(30, marks=pytest.mark.exhaustive)])
def test_sampled_metrics_equals_its_numpy_twin(users):
    rng = np.random.default_rng(1)
    n, k = 250, 10
    scores = np.round(rng.normal(size=(users, n)) * 8).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = np.nan
    touched = [rng.permutation(n)[: rng.integers(1, 150)].astype(np.int32) for _ in range(users)]
    relevant = [row[: rng.integers(0, rng.choice([3, 100]))] for row in touched]
    indptr = np.concatenate([[0], np.cumsum([len(r) for r in relevant])])
    touched_indptr = np.concatenate([[0], np.cumsum([len(t) for t in touched])])
    above, tied, hits = np.zeros((3, indptr[-1]), dtype=np.int64)
    pools = np.empty(users, dtype=np.int64)
    held = np.concatenate(relevant)
    count_levels(scores, touched_indptr, np.concatenate(touched), indptr, held, n + 1, False, above, tied, hits, pools)
    values = np.empty((users, 8))
    tables = gammaln(np.arange(1.0, n + 2.0))
    sampled_metrics(indptr, above, tied, hits, pools, 99, np.arange(8), np.full(8, k), tables, values)
    clean = np.where(np.isnan(scores), -np.inf, scores)
    for u in range(users):
        pool = np.delete(clean[u], touched[u])
        expected = np.zeros(8)
        for item in relevant[u]:
            law = exact_law(
                len(pool), int((pool > clean[u, item]).sum()), int((pool == clean[u, item]).sum()), min(99, len(pool))
            )
            for m, name in enumerate(PER_USER):
                expected[m] += sum(float(p) * gain(name, r + 1, k) for r, p in enumerate(law)) / len(relevant[u])
        np.testing.assert_allclose(values[u], expected, atol=1e-10)


def test_a_constant_scorer_lands_on_chance_level():
    assert score_list([1.0] * 1682, [7], "hr@10", exclude=range(20, 120), protocol="sampled:99") == pytest.approx(0.1)
    assert score_list([1.0] * 1682, [7, 9], "mrr@100", protocol="sampled:99") == pytest.approx(
        sum(1 / r for r in range(1, 101)) / 100
    )
    assert score_list([1.0] * 5, [0], "hr@2", exclude=[1], protocol="sampled:99") == pytest.approx(2 / 4)  # 3 negatives
    assert score_list([1.0] * 2, [0], "hr@1", exclude=[1], protocol="sampled:99") == 1.0  # none to draw


def test_sampling_the_whole_catalog_is_the_full_protocol_for_one_item():
    rng = np.random.default_rng(2)
    scores = np.round(rng.normal(size=300), 1).tolist()
    for name in PER_USER:
        full = score_list(scores, [4], f"{name}@50", exclude=[5, 6])
        assert score_list(scores, [4], f"{name}@50", exclude=[5, 6], protocol="sampled:300") == pytest.approx(full)


def test_sampled_metrics_can_order_two_models_the_other_way_round():
    """Model A puts the item first for one user in ten and at random else; model B at rank 51 of 1,001 for everyone."""
    others = np.arange(1000.0)[::-1]
    first, middle, fifty_first = ([place, *others] for place in (2000.0, 499.5, 949.5))
    for protocol, a_wins in [("full", True), ("sampled:99", False)]:
        hr = {
            name: score_list(row, [0], "hr@10", protocol=protocol)
            for name, row in [("first", first), ("middle", middle), ("fifty-first", fifty_first)]
        }
        model_a = 0.1 * hr["first"] + 0.9 * hr["middle"]
        assert (model_a > hr["fifty-first"]) == a_wins


def test_protocol_names():
    assert parse_protocol("full") == Protocol()
    assert parse_protocol(" Sampled:7") == Protocol(7)
    for text, message in [
        ("ful", "Did you mean 'full'"),
        ("sampled", "needs a whole number"),
        ("sampled:-1", "needs a whole number"),
        ("sampled:1000000000000", "9 digits at most"),
        ("sampled:0", "at least 1"),
        ("full:9", "unknown protocol 'full:9'"),
    ]:
        with pytest.raises(InputError, match=message):
            parse_protocol(text)


def data_file(*parts):
    root = os.environ.get("FEDREC_DATA")
    path = Path(root, *parts) if root else None
    if path is None or not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} under FEDREC_DATA")
    return path


def popularity_leave_last_out(users, items):
    """HR@10 and NDCG@10 against 99 negatives, exact and by mid-rank; items of a user are in order of time."""
    n_users, n_items = users.max() + 1, items.max() + 1
    stop = np.cumsum(np.bincount(users))
    rank_from_end = stop[users] - np.arange(len(items))
    counts = np.bincount(items[rank_from_end > 2], minlength=n_items)
    scores = np.tile(counts.astype(np.float32), (n_users, 1))
    test = items[stop - 1].astype(np.int32)
    everything = np.concatenate([[0], stop]), items.astype(np.int32)
    history = np.concatenate([[0], stop - np.arange(1, n_users + 1)]), items[rank_from_end > 1].astype(np.int32)
    relevant = np.arange(n_users + 1), test
    metrics = parse_metrics("hr@10,ndcg@10")
    result = user_metrics(scores, history, relevant, everything, metrics, parse_protocol("sampled:99"))
    exact = [summary.value for summary in summarise(metrics, metric_sums(result).sum(axis=0))]
    assert result.valid.all()

    untouched = np.ones((n_users, n_items), dtype=bool)
    untouched[users, items] = False
    mine = counts[test][:, None]
    above = (untouched & (counts > mine)).sum(axis=1) + (untouched & (counts == mine)).sum(axis=1) // 2
    law = hypergeom(untouched.sum(axis=1)[:, None], above[:, None], 99).pmf(np.arange(10)).mean(axis=0)
    return exact, [law.sum(), (law / np.log2(np.arange(2, 12))).sum()]


def test_popularity_on_movielens_100k():
    table = np.loadtxt(data_file("ml-100k", "u.data"), dtype=np.int64)
    table = table[np.lexsort((table[:, 3], table[:, 0]))]  # stable: equal times keep the order of the file
    exact, middle = popularity_leave_last_out(table[:, 0] - 1, table[:, 1] - 1)
    assert np.round(exact, 3).tolist() == [0.408, 0.227]
    assert np.round(middle, 3).tolist() == [0.408, 0.227]


@pytest.mark.real
def test_popularity_on_movielens_1m_sequences():
    lines = data_file("ml-1m-sequences", "sequences.txt").read_text().splitlines()
    rows = [np.array(line.split()[1:], dtype=np.int64) for line in lines]
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    items = np.unique(np.concatenate(rows), return_inverse=True)[1]
    exact, middle = popularity_leave_last_out(users, items)
    assert np.round(middle, 3).tolist() == [0.439, 0.241]  # half of the tied items, rounded down: slightly optimistic
    assert np.round(exact, 4).tolist() == [0.4387, 0.2404]
