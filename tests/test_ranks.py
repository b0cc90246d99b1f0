"""Batches of users: the kernels against plain NumPy, equal bits, invariances, errors."""

from functools import lru_cache

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from fedrec.errors import InputError, PlanError
from fedrec.evaluation.metrics import BINARY_METRICS, parse_metrics
from fedrec.evaluation.protocols import Protocol
from fedrec.evaluation.ranks import score_list, user_metrics
from fedrec.kernels.rank_metrics import full_metrics
from fedrec.kernels.ranking import count_levels
from fedrec.kernels.threads import limit_threads

PER_USER = BINARY_METRICS
FULL = Protocol()


def lists(rows):
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return indptr, np.array([item for row in rows for item in row], dtype=np.int32)


def evaluate(scores, exclude, relevant, names, protocol=FULL):
    scores = np.asarray(scores, dtype=np.float32)
    touched = [[*e, *r] for e, r in zip(exclude, relevant, strict=True)]
    return user_metrics(scores, lists(exclude), lists(relevant), lists(touched), parse_metrics(names), protocol)


def random_batch(seed, users=37, n=500, levels=None):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(users, n)).astype(np.float32)
    if levels:
        scores = np.round(scores * levels).astype(np.float32)
    scores[rng.random(scores.shape) < 0.05] = np.nan
    scores[rng.random(scores.shape) < 0.02] = -np.inf
    exclude, relevant = [], []
    for _ in range(users):
        items = rng.permutation(n)
        r, e = rng.integers(0, rng.choice([3, 150])), rng.integers(0, 100)
        relevant.append(items[:r].tolist())
        exclude.append(items[r : r + e].tolist())
    return scores, exclude, relevant


def levels_twin(row, exclude, relevant, limit):
    row = np.where(np.isnan(row), -np.inf, row)
    kept = np.delete(row, np.unique(exclude).astype(int))
    found = row[np.unique(relevant).astype(int)]
    for level in np.unique(found)[::-1]:
        above, tied, hits = (kept > level).sum(), (kept == level).sum(), (found == level).sum()
        yield (above, tied, hits) if above < limit else (limit, hits, hits)


def assert_levels_equal_the_twin(scores, exclude, relevant, limit):
    relevant = [row + row[:2] for row in relevant]  # repeats count once
    exclude = [row + row[:5] for row in exclude]
    indptr, items = lists(relevant)
    above, tied, hits = np.zeros((3, len(items)), dtype=np.int64)
    candidates = np.empty(len(scores), dtype=np.int64)
    count_levels(scores, *lists(exclude), indptr, items, limit, True, above, tied, hits, candidates)
    for u in range(len(scores)):
        expected = list(levels_twin(scores[u], exclude[u], relevant[u], limit))
        here = slice(indptr[u], indptr[u] + len(expected))
        assert list(zip(above[here], tied[here], hits[here], strict=True)) == expected
        assert (hits[here.stop : indptr[u + 1]] == 0).all()
        assert candidates[u] == (scores.shape[1] - len(set(exclude[u])) if relevant[u] else 0)


@pytest.mark.parametrize("limit", [1, 20, 120, 500, 501])
@pytest.mark.parametrize("levels", [None, 1, 30])
def test_count_levels_equals_its_numpy_twin(limit, levels):
    scores, exclude, relevant = random_batch(limit, levels=levels)
    assert_levels_equal_the_twin(scores, exclude, relevant, limit)


@pytest.mark.parametrize("limit", [10, 3000, 9001])
@pytest.mark.parametrize("levels", [None, 50])
def test_count_levels_of_a_catalog_longer_than_one_chunk(limit, levels):
    assert_levels_equal_the_twin(*random_batch(limit, users=9, n=9000, levels=levels), limit)


def full_twin(blocks, name, k):
    """Position by position: P(relevant at p), and for hr and mrr the law of a list without a hit so far."""
    size = sum(a for _, _, a in blocks)
    gains = 1 / np.log2(np.arange(2, max(k, size) + 2))
    expected = np.zeros(k)
    for g, t, a in blocks:
        expected[g : g + t] = a / t
    if name in ("hr", "mrr"):
        none_yet, first = 1.0, np.zeros(k)
        for g, t, a in blocks:
            for p in range(t):
                if g + p < k:
                    hazard = min(1.0, a / (t - p)) if none_yet > 0 else 0.0
                    first[g + p] = none_yet * hazard
                    none_yet *= 1 - hazard
        return first.sum() if name == "hr" else (first / np.arange(1, k + 1)).sum()
    if name == "map":
        total, before = 0.0, 0
        for g, t, a in blocks:
            p = np.arange(1, t + 1)
            p = p[g + p <= k]
            total += (a / t * (before + 1 + (a - 1) * (p - 1) / max(1, t - 1)) / (g + p)).sum()
            before += a
        return total / min(k, size)
    hits = expected.sum()
    return {
        "recall": hits / size,
        "recall_capped": hits / min(k, size),
        "precision": hits / k,
        "f1": 2 * hits / (k + size),
        "ndcg": (expected * gains[:k]).sum() / gains[: min(k, size)].sum(),
    }[name]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 25), st.integers(1, 25)), min_size=1, max_size=8),
    st.integers(1, 60),
)
def test_full_metrics_equals_its_numpy_twin(gaps, k):
    blocks, place = [], 0
    for gap, tied, hits in gaps:
        place += gap
        blocks.append((place, tied, min(hits, tied)))
        place += tied
    above, tied, hits = (np.ascontiguousarray(column) for column in np.array(blocks, dtype=np.int64).T)
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, max(k, 300) + 2)))])
    values = np.empty((1, len(PER_USER)))
    kinds, cutoffs = np.arange(8), np.full(8, k)
    full_metrics(np.array([0, len(blocks)]), above, tied, hits, kinds, cutoffs, discounts, values)
    expected = [full_twin(blocks, name, k) for name in PER_USER]
    np.testing.assert_allclose(values[0], expected, rtol=1e-12, atol=1e-13)


@lru_cache
def many_metrics():
    return tuple(f"{name}@{k}" for name in PER_USER for k in (1, 10, 50))


@pytest.mark.parametrize("protocol", [FULL, Protocol(99)])
def test_same_bits_for_any_batch_and_number_of_threads(protocol):
    scores, exclude, relevant = random_batch(5, users=70, levels=20)
    whole = evaluate(scores, exclude, relevant, many_metrics(), protocol)
    with limit_threads(1):
        alone = evaluate(scores, exclude, relevant, many_metrics(), protocol)
    assert whole.values.tobytes() == alone.values.tobytes()
    excluded, held = lists(exclude), lists(relevant)
    touched = lists([e + r for e, r in zip(exclude, relevant, strict=True)])
    for size in (1, 17):
        for start in range(0, 70, size):
            part = slice(start, min(70, start + size))
            rows = slice(start, part.stop + 1)
            batch = user_metrics(
                scores[part],
                (excluded[0][rows], excluded[1]),
                (held[0][rows], held[1]),
                (touched[0][rows], touched[1]),
                parse_metrics(many_metrics()),
                protocol,
            )
            assert batch.values.tobytes() == whole.values[part].tobytes()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([FULL, Protocol(5), Protocol(1000)]))
def test_bounds_and_invariance_under_monotone_transforms_and_item_order(seed, protocol):
    scores, exclude, relevant = random_batch(seed, users=8, n=120, levels=4)
    base = evaluate(scores, exclude, relevant, many_metrics(), protocol)
    assert (base.values >= 0).all()
    assert (base.values <= 1).all()
    assert (base.valid == [len(row) > 0 for row in relevant]).all()
    assert (base.values[~base.valid] == 0).all()
    stretched = np.where(np.isfinite(scores), np.exp2(scores) - 7, scores).astype(np.float32)
    assert evaluate(stretched, exclude, relevant, many_metrics(), protocol).values.tobytes() == base.values.tobytes()
    new_place = np.random.default_rng(seed).permutation(scores.shape[1])
    moved = np.empty_like(scores)
    moved[:, new_place] = scores
    shuffled = evaluate(
        moved,
        [new_place[np.array(row, dtype=int)[::-1]].tolist() for row in exclude],
        [new_place[np.array(row, dtype=int)].tolist() for row in relevant],
        many_metrics(),
        protocol,
    )
    assert shuffled.values.tobytes() == base.values.tobytes()


@pytest.mark.parametrize("levels", [None, 2])
def test_coverage_counts_equal_a_full_sort(levels):
    scores, exclude, relevant = random_batch(9, levels=levels)
    counts = np.zeros(500, dtype=int)
    for row, out, held in zip(scores, exclude, relevant, strict=True):
        row = np.where(np.isnan(row), -np.inf, row)
        row[out] = -np.inf
        best = [i for i in np.lexsort((np.arange(500), -row)) if row[i] > -np.inf][:15]
        counts[best] += bool(held)
    assert evaluate(scores, exclude, relevant, ["coverage@15"]).top_counts.tolist() == [counts.tolist()]


def test_errors_name_the_row_and_the_cause():
    scores = np.zeros((2, 4), dtype=np.float32)
    none, hr = lists([[], []]), parse_metrics("hr@1")
    with pytest.raises(InputError, match=r"row 1 of scores.*history"):
        user_metrics(scores, lists([[], [2]]), lists([[1], [2]]), none, hr, FULL)
    with pytest.raises(InputError, match=r"row 0 of scores.*touched"):
        user_metrics(scores, none, lists([[1], [2]]), lists([[0], [2]]), hr, Protocol(3))
    with pytest.raises(InputError, match="exclude: items must be positions from 0 to 3"):
        user_metrics(scores, lists([[4], []]), none, none, hr, FULL)
    with pytest.raises(InputError, match=r"relevant: indptr .* shape \(3,\)"):
        user_metrics(scores, none, lists([[1]]), none, hr, FULL)
    with pytest.raises(InputError, match="touched: row ranges"):
        user_metrics(scores, none, none, (np.array([0, 2, 1]), np.array([0, 1], dtype=np.int32)), hr, FULL)
    with pytest.raises(InputError, match="float32, not float64"):
        user_metrics(scores.astype(float), none, none, none, hr, FULL)
    with pytest.raises(PlanError, match="coverage@1 is not defined under sampled:3"):
        user_metrics(scores, none, none, none, parse_metrics("coverage@1"), Protocol(3))
    with pytest.raises(InputError, match="lists of all users"):
        score_list([1.0], [0], "coverage@1")
    with pytest.raises(InputError, match="relevant is empty"):
        score_list([1.0], [], "hr@1")
