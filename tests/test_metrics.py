"""Metrics under the full protocol, against enumeration of tie orders, an oracle library and closed forms."""

import itertools
import math

import hypothesis.strategies as st
import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from ir_measures import AP, RR, P, R, Success, nDCG

from fedrec.errors import InputError
from fedrec.evaluation.metrics import BINARY_METRICS, DEFAULT_METRICS, Metric, parse_metrics, summarise
from fedrec.evaluation.protocols import Protocol
from fedrec.evaluation.ranks import UserMetrics, metric_sums, score_list, user_metrics

PER_USER = BINARY_METRICS
FULL = Protocol()


def lists(rows):
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return indptr, np.array([item for row in rows for item in row], dtype=np.int32)


def evaluate(scores, exclude, relevant, names, protocol=FULL):
    scores = np.asarray(scores, dtype=np.float32)
    touched = [[*e, *r] for e, r in zip(exclude, relevant, strict=True)]
    return user_metrics(scores, lists(exclude), lists(relevant), lists(touched), parse_metrics(names), protocol)


def metric_of_order(order, relevant, name, k):
    """The textbook definition on one ranked list without ties."""
    hit = [item in relevant for item in order[:k]]
    hits, size, best = sum(hit), len(relevant), min(k, len(relevant))
    ranks = [i + 1 for i, h in enumerate(hit) if h]
    if name == "f1":
        precision, recall = hits / k, hits / size
        return 2 * precision * recall / (precision + recall) if hits else 0.0
    return {
        "recall": hits / size,
        "recall_capped": hits / best,
        "precision": hits / k,
        "ndcg": sum(1 / math.log2(r + 1) for r in ranks) / sum(1 / math.log2(r + 1) for r in range(1, best + 1)),
        "hr": float(hits > 0),
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "map": sum((i + 1) / r for i, r in enumerate(ranks)) / best,
    }[name]


def mean_over_tie_orders(scores, exclude, relevant, name, k):
    clean = [-math.inf if math.isnan(s) else s for s in scores]
    candidates = [i for i in range(len(scores)) if i not in set(exclude)]
    orders = [sorted(order, key=lambda i: -clean[i]) for order in itertools.permutations(candidates)]
    return float(np.mean([metric_of_order(order, set(relevant), name, k) for order in orders]))


@st.composite
def small_cases(draw):
    n = draw(st.integers(1, 6))
    level = st.sampled_from([0.0, 1.0, 2.0, -1.5, math.nan, -math.inf, math.inf])
    scores = draw(st.lists(level, min_size=n, max_size=n))
    side = draw(st.lists(st.sampled_from("rec"), min_size=n, max_size=n))
    side[draw(st.integers(0, n - 1))] = "r"
    return scores, [i for i in range(n) if side[i] == "e"], [i for i in range(n) if side[i] == "r"]


@settings(deadline=None, max_examples=80)
@given(small_cases(), st.integers(1, 8))
def test_every_metric_is_the_mean_over_all_orders_of_tied_items(case, k):
    scores, exclude, relevant = case
    result = evaluate([scores], [exclude], [relevant], [f"{name}@{k}" for name in PER_USER])
    for name, value in zip(PER_USER, result.values[0], strict=True):
        assert value == pytest.approx(mean_over_tie_orders(scores, exclude, relevant, name, k), abs=1e-12), name


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(2, 300), st.integers(1, 300))
def test_closed_forms_of_a_constant_scorer(seed, n, k):
    rng = np.random.default_rng(seed)
    relevant = rng.permutation(n)[: rng.integers(1, n + 1)]
    c, r, s = n, len(relevant), min(k, n)
    got = {name: score_list([0.5] * n, relevant.tolist(), f"{name}@{k}") for name in PER_USER}
    assert got["recall"] == pytest.approx(s / c)
    assert got["precision"] == pytest.approx(r * s / c / k)
    assert got["hr"] == pytest.approx(1 - math.comb(c - r, s) / math.comb(c, s))
    gains = [1 / math.log2(i + 1) for i in range(1, n + 1)]
    assert got["ndcg"] == pytest.approx(r / c * sum(gains[:s]) / sum(gains[: min(k, r)]))
    first = [math.comb(c - p, r - 1) / math.comb(c, r) / p for p in range(1, min(s, c - r + 1) + 1)]
    assert got["mrr"] == pytest.approx(sum(first))


def test_chance_level_with_one_held_out_item():
    assert score_list([0.0] * 1682, [5], "hr@10") == pytest.approx(10 / 1682)
    assert score_list([0.0] * 1682, [5], "hr@10", exclude=range(10, 110)) == pytest.approx(10 / 1582)
    assert score_list([math.nan] * 1682, [5], "hr@10") == pytest.approx(10 / 1682)


def ranked_oracle(scores, exclude, relevant, measures):
    qrels = {str(u): {str(i): 1 for i in row} for u, row in enumerate(relevant)}
    run = {
        str(u): {str(i): float(row[i]) for i in range(len(row)) if i not in set(exclude[u])}
        for u, row in enumerate(scores)
    }
    values = {(int(v.query_id), str(v.measure)): v.value for v in ir_measures.iter_calc(measures, qrels, run)}
    return np.array([[values[u, str(m)] for m in measures] for u in range(len(scores))])


@pytest.mark.parametrize("k", [1, 5, 20, 100])
def test_agrees_with_ir_measures_without_ties(k):
    rng = np.random.default_rng(k)
    users, n = 40, 200
    scores = rng.permuted(np.tile(np.arange(n, dtype=np.float32), (users, 1)), axis=1)
    held = [rng.permutation(n)[: rng.integers(2, 120)] for _ in range(users)]
    cut = [int(rng.integers(1, len(row))) for row in held]
    relevant = [row[:c].tolist() for row, c in zip(held, cut, strict=True)]
    exclude = [row[c:].tolist() for row, c in zip(held, cut, strict=True)]
    result = evaluate(
        scores, exclude, relevant, [f"{m}@{k}" for m in ("ndcg", "recall", "precision", "mrr", "hr", "map")]
    )
    oracle = ranked_oracle(scores, exclude, relevant, [nDCG @ k, R @ k, P @ k, RR @ k, Success @ k, AP @ k])
    sizes = np.array([len(row) for row in relevant])
    oracle[:, 5] *= sizes / np.minimum(k, sizes)  # there AP@k is divided by |R| whatever k
    np.testing.assert_allclose(result.values, oracle, atol=1e-9)


def test_a_better_score_never_lowers_a_metric():
    names = [f"{name}@{k}" for name in PER_USER for k in (1, 10, 50)]
    rng = np.random.default_rng(3)
    scores = np.round(rng.normal(size=60), 1)
    before = [score_list(scores, [3, 9, 20], name) for name in names]
    scores[9] += 0.5
    after = [score_list(scores, [3, 9, 20], name) for name in names]
    assert all(a >= b - 1e-15 for a, b in zip(after, before, strict=True))


def test_undefined_scores_tie_for_the_last_place():
    assert score_list([math.nan, -1e30, -math.inf], [0], "hr@1") == 0.0
    assert score_list([math.nan, -1e30, -math.inf], [0], "hr@2") == 0.5
    assert score_list([math.nan, -1e30, -math.inf], [2], "hr@2") == 0.5
    assert score_list([math.inf, 1.0], [0], "hr@1") == 1.0


def test_random_scores_land_on_chance_level():
    rng = np.random.default_rng(0)
    users, n = 4000, 100
    scores = rng.random((users, n), dtype=np.float32)
    result = evaluate(scores, [[]] * users, [[7]] * users, ["hr@10", "ndcg@10"])
    hr, ndcg = summarise(result.metrics, metric_sums(result).sum(axis=0))
    assert abs(hr.value - 0.1) < 4 * hr.standard_error
    assert abs(ndcg.value - sum(1 / math.log2(r + 1) for r in range(1, 11)) / n) < 4 * ndcg.standard_error


def test_coverage_counts_the_lists_of_valid_users():
    scores = [[3, 2, 2, 1], [3, 2, 1, math.nan], [0, 0, 0, 9]]
    result = evaluate(scores, [[0], [0], []], [[3], [3], []], ["coverage@1", "hr@1", "coverage@3"])
    assert result.top_counts.tolist() == [[0, 2, 0, 0], [0, 2, 2, 1]]  # user 0: 1 before 2; user 1: no score for 3
    assert result.values.shape == (3, 1)
    summary = summarise(parse_metrics("coverage@1,hr@1,coverage@3"), metric_sums(result).sum(0), result.top_counts)
    assert [(str(s.metric), s.value, s.users) for s in summary] == [
        ("coverage@1", 0.25, 2),
        ("hr@1", 0.0, 2),
        ("coverage@3", 0.75, 2),
    ]
    assert summary[0].standard_error is None


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=50))
def test_summary_is_the_sample_mean_and_its_standard_error(values):
    column = np.array(values)[:, None]
    result = UserMetrics(
        parse_metrics("ndcg@10"), np.vstack([column, [[0.0]]]), np.array([True] * len(values) + [False])
    )
    (summary,) = summarise(result.metrics, metric_sums(result).sum(axis=0))
    assert summary.users == len(values)
    assert summary.value == pytest.approx(column.mean(), abs=1e-12)
    assert summary.standard_error == pytest.approx(column.std(ddof=1) / math.sqrt(len(values)), abs=1e-7)


def test_summary_edges():
    (one,) = summarise(parse_metrics("hr@1"), np.array([1.0, 1.0, 1.0]))
    assert (one.value, one.standard_error) == (1.0, None)
    with pytest.raises(InputError, match="no user has a held-out item"):
        summarise(parse_metrics("hr@1"), np.zeros(3))
    with pytest.raises(InputError, match=r"shape \(4,\), expected \(3,\)"):
        summarise(parse_metrics("hr@1"), np.zeros(4))
    with pytest.raises(InputError, match="such as coverage, need counts"):
        summarise(parse_metrics("coverage@1"), np.ones(1))


def test_names():
    assert [str(metric) for metric in parse_metrics()] == list(DEFAULT_METRICS)
    assert parse_metrics(["NDCG@5 "]) == (Metric("ndcg", 5),)
    for words, message in [
        (["ndgc@10"], "Did you mean 'ndcg'"),
        (["recal"], "Did you mean 'recall'"),
        (["hr"], "needs a whole cutoff after '@', as in hr@10"),
        (["hr@-1"], "needs a whole cutoff"),
        (["hr@1000000000000"], "9 digits at most"),
        (["hr@0"], "at least 1"),
        (["hr@5", "hr@05"], "hr@5 is listed twice"),
        ([], "no metric given"),
    ]:
        with pytest.raises(InputError, match=message):
            parse_metrics(words)


def test_metrics_of_lists_compare_what_is_shown_with_what_valid_users_have():
    names = ["gini@2", "coverage@1", "average_popularity@2", "novelty@2", "hr@1"]
    scores = [[9, 8, 7, 6], [9, 8, 7, 6], [9, 8, 7, 6]]
    result = evaluate(scores, [[0, 0], [0, 1], [1, 2]], [[3], [3], []], names)  # lists [1, 2] and [2, 3]
    assert result.top_counts.tolist()[-1] == [2, 1, 0, 0]
    found = summarise(parse_metrics(names), metric_sums(result).sum(0), result.top_counts)
    assert [figure.value for figure in found[:2]] == [pytest.approx(0.375), 0.5]
    assert found[2].value == pytest.approx(1 / 8)  # one place of four shows an item that half of the users have
    assert found[3].value == pytest.approx((math.log2(3 / 2) + 3 * math.log2(3)) / 4)
    assert [figure.standard_error for figure in found[:4]] == [None] * 4
    with pytest.raises(InputError, match=r"counts of shape \(2, items\)"):
        summarise(parse_metrics("novelty@2"), np.ones(1), np.zeros((1, 4), dtype=np.int64))


def test_lists_that_hold_nothing_are_neither_popular_nor_novel():
    names = ["average_popularity@1", "novelty@1", "gini@1"]
    result = evaluate([[math.nan] * 3], [[0]], [[1]], names)
    found = summarise(parse_metrics(names), metric_sums(result).sum(0), result.top_counts)
    assert [figure.value for figure in found] == [0.0, 0.0, 0.0]
