"""Blends: their models end as they would alone, and their scores are sums of standardised ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fedrec as fr
from fedrec.errors import PlanError
from fedrec.kernels.blending import add_standardised
from fedrec.models.base import Given
from fedrec.models.blend import Blend
from fedrec.models.registry import build_model
from runs_in_test import watched_rounds

DATA = fr.synthetic(users=200, items=60, interactions_per_user=10, seed=2)
PARTS: list[dict[str, Any]] = [
    {"name": "ease", "rank": 6},
    {"name": "mf", "embedding_size": 4, "rounds": 5},
    {"name": "autoencoder", "embedding_size": 4, "rounds": 7},
    {"name": "popularity"},
]


def standardised(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """z-scores of one user [items] over the items that are not its own."""
    among = np.delete(scores.astype(np.float64), own)
    return (scores - among.mean()) / among.std()


@pytest.fixture(scope="module")
def blend() -> fr.Blend:
    return fr.Blend(models=PARTS, shares=[1, 2, 0.5, 1], seed=4).fit(DATA)


@pytest.mark.parametrize("place", range(len(PARTS)))
def test_each_model_ends_with_the_arrays_that_it_ends_with_alone(blend: fr.Blend, place: int) -> None:
    settings = dict(PARTS[place])
    alone = fr.estimator(settings.pop("name"))(seed=4, **settings).fit(DATA)
    for kept, wanted in (
        (blend.opened.trained.state.shared, alone.opened.trained.state.shared),
        (blend.opened.trained.state.server, alone.opened.trained.state.server),
        (blend.opened.private() or {}, alone.opened.private() or {}),
    ):
        own = {name.removeprefix(f"{place}_"): kept[name] for name in kept if name.startswith(f"{place}_")}
        assert own.keys() == wanted.keys()
        for name, array in own.items():
            assert array.tobytes() == wanted[name].tobytes(), name


def test_scores_are_weighted_sums_of_standardised_scores(blend: fr.Blend) -> None:
    shard = blend.opened.engine.shards[0]
    model, shared, rows = blend.opened.model, blend.shared, shard.private()
    assert isinstance(model, Blend)
    found = model.score(Given.to_score(shared, {}), shard.clients, rows)
    wanted = np.zeros_like(found, dtype=np.float64)
    for place, (part, share) in enumerate(zip(model.parts, (1, 2, 0.5, 1), strict=True)):
        own, mine = (
            {name.removeprefix(f"{place}_"): array for name, array in arrays.items() if name.startswith(f"{place}_")}
            for arrays in (shared, rows or {})
        )
        scores = part.score(Given.to_score(own, {}), shard.clients, mine or None)
        for client in range(len(shard.clients)):
            history = shard.clients.items[shard.clients.indptr[client] : shard.clients.indptr[client + 1]]
            wanted[client] += share * standardised(scores[client], history)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_equal_scores_add_nothing_and_scores_that_are_not_finite_stay_so() -> None:
    scores = np.array([[2.0, 2.0, 2.0, 9.0], [1.0, -np.inf, 3.0, 7.0]], dtype=np.float32)
    out = np.ones((2, 4), dtype=np.float32)
    add_standardised(scores, np.array([0, 1, 2]), np.array([3, 3], dtype=np.int32), 2.0, out)
    assert out.tolist() == [[1.0, 1.0, 1.0, 1.0], [-1.0, -np.inf, 3.0, 11.0]]


def test_the_scale_of_a_model_does_not_matter_and_its_share_does() -> None:
    clients = np.array([0, 2])
    own, rng = np.array([0, 3], dtype=np.int32), np.random.default_rng(0)
    scores = rng.normal(size=(1, 20)).astype(np.float32)
    once, scaled, thrice = (np.zeros((1, 20), dtype=np.float32) for _ in range(3))
    add_standardised(scores, clients, own, 1.0, once)
    add_standardised((1000 * scores + 7).astype(np.float32), clients, own, 1.0, scaled)
    add_standardised(scores, clients, own, 3.0, thrice)
    np.testing.assert_allclose(scaled, once, atol=1e-3)
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-5)
    among = np.delete(once[0], own)
    assert abs(among.mean()) < 1e-6
    assert among.std() == pytest.approx(1.0, abs=1e-5)


def test_a_saved_blend_recommends_the_same_and_strangers_have_lists(blend: fr.Blend, tmp_path: Any) -> None:
    blend.save(tmp_path / "run")
    again = fr.load_model(tmp_path / "run")
    assert again.recommend(n=3).equals(blend.recommend(n=3))
    history = {"user_id": [9001, 9001], "item_id": [5, 7]}
    assert again.recommend([9001], n=3, history=history).height == 3


def test_similar_items_blend_what_each_model_says() -> None:
    model = fr.Blend(models=["ease", {"name": "autoencoder", "rounds": 6}], shares=[1, 1]).fit(DATA)
    assert model.similar(3, n=4).height == 4
    with pytest.raises(fr.InputError, match="'popularity' cannot list similar items"):
        fr.Blend(models=["ease", "popularity"], shares=[1, 1]).fit(DATA).similar(3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": ["ease"], "shares": [1]}, "1 models and 1 shares; name two models or more, and a share for each"),
        ({"models": ["ease", "mf"], "shares": [1]}, "2 models and 1 shares"),
        ({"models": ["ease", "biased-mf"]}, "model blend: biased-mf cannot take part; models of a blend rank items"),
        ({"models": ["ease", "blend"]}, "blend cannot take part"),
        ({"models": ["ease", "eaze"]}, "model 'eaze' is not known"),
        ({"models": ["ease", {"rank": 3}]}, "each of models needs a name"),
        ({"models": ["ease", {"name": "mf", "rnds": 3}]}, "'rnds' is not a setting"),
        ({"models": [3, "ease"]}, "each of models needs a name"),
        ({"models": 3}, "models must be a list"),
        ({"shares": [1, -2]}, "greater than 0"),
    ],
)
def test_what_cannot_be_blended_is_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        build_model("blend", settings)


def test_a_plan_says_all_settings_of_the_models() -> None:
    assert Blend(models=["ease", {"name": "mf", "rounds": 9}]).model_dump()["models"][1]["embedding_size"] == 64


def test_tuning_trains_once_for_all_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = watched_rounds(monkeypatch)
    tuned = fr.tune(
        fr.Blend,
        fr.leave_last_out(DATA),
        {"shares": [[1, 1], [1, 3], [3, 1]]},
        models=["ease", {"name": "ease", "rank": 6}],
    )
    assert asked[:2] == [0, 1]
    assert len(asked) == 2
    assert len(set(tuned.table["ndcg@10"])) == 3


@pytest.mark.real
def test_movielens_1m_is_ranked_better_by_both_than_by_either() -> None:
    split = fr.leave_last_out(fr.load_data("ml-1m-sequences"))
    model = fr.Blend(seed=1).fit(split.train)
    hr, ndcg = fr.evaluate(model, split, ["hr@10", "ndcg@10"], protocol="sampled:99")["value"]
    assert hr >= 0.710
    assert ndcg >= 0.438
    assert fr.evaluate(model, split, ["ndcg@10"])["value"][0] >= 0.052
