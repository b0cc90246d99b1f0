"""Intra-list distance: the mean over pairs, by whatever road it is computed, and only where items have features."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedrec as fr
from fedrec.data.features import unit_rows
from fedrec.errors import InputError, PlanError
from fedrec.evaluation.diversity import intra_list_distance
from fedrec.evaluation.metrics import parse_metrics
from fedrec.evaluation.protocols import check_protocol, parse_protocol
from fedrec.evaluation.ranks import score_list
from fedrec.federation.agreement import Agreement
from fedrec.federation.plan import Plan


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_it_is_the_mean_distance_of_the_pairs_of_a_list(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(40).reshape(4, 10).astype(np.float32)
    scores[0, :7] = -np.inf
    vectors = unit_rows(rng.normal(size=(10, 3)) * (rng.random((10, 1)) < 0.8))
    history = np.array([0, 2, 2, 5, 6]), rng.permutation(10)[:6].astype(np.int32)
    found = intra_list_distance(scores, history, vectors, k)
    for user in range(4):
        seen = set(history[1][history[0][user] : history[0][user + 1]].tolist())
        order = [item for item in np.argsort(-scores[user]) if item not in seen and scores[user, item] > -np.inf]
        known = [vectors[item] for item in order[:k] if vectors[item].any()]
        pairs = [1.0 - one @ two for place, one in enumerate(known) for two in known[:place]]
        assert found[user] == pytest.approx(np.mean(pairs) if pairs else 0.0, abs=1e-12)


def test_it_is_measured_where_items_have_features_and_refused_before_training_where_not() -> None:
    data = fr.load_data("synthetic:users=120,items=60,interactions_per_user=12,seed=3")
    split = fr.leave_last_out(data)
    popular = fr.Popularity().fit(split.train)
    (found, _) = fr.evaluate(popular, split, ["ild@5", "hr@5"])["value"]
    vectors = Agreement.of(popular.plan.resolve(split.train, "0" * 64), data.catalog).item_vectors
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0)
    assert 0.0 < found < 1.0
    opposite = pl.DataFrame({"item_id": [1, 2], "cover": [[1.0, 0.0], [-1.0, 0.0]]})
    clicks = {"user_id": [1, 1, 1, 2, 2, 2], "item_id": [3, 4, 5, 3, 4, 5], "timestamp": range(6)}
    far = fr.leave_last_out(fr.interactions_from(clicks, catalog=fr.Catalog.of(opposite.vstack(
        pl.DataFrame({"item_id": [3, 4, 5], "cover": [None, None, None]}, schema=opposite.schema)))))  # fmt: skip
    assert fr.evaluate(fr.Popularity().fit(far.train), far, ["ild@4"])["value"].to_list() == [2.0]
    bare = fr.leave_last_out(fr.interactions_from(clicks))
    with pytest.raises(InputError, match="the catalog says nothing of its items"):
        fr.evaluate(fr.Popularity().fit(bare.train), bare, ["ild@4"])
    plan = {"data": {"source": "memory"}, "model": {"name": "popularity"}, "evaluation": {"metrics": ["ild@4"]}}
    with pytest.raises(
        PlanError, match=r"evaluation.metrics: ild@4 compares items by their features: the catalog says"
    ):
        Plan.make(plan).resolve(bare.data, "0" * 64)
    with pytest.raises(PlanError, match="ild@4 is not defined under sampled:9"):
        check_protocol(parse_metrics("ild@4"), parse_protocol("sampled:9"))
    with pytest.raises(InputError, match="ild@4 compares items by their vectors"):
        score_list([1.0, 2.0], [0], "ild@4")
