"""Blends: their models end as they would alone, and their scores are sums of standardised ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import fedrec as fr
from federation_in_test import Federation, small_plan
from fedrec.aggregation.contributions import Contributions
from fedrec.data.clients import Clients
from fedrec.errors import PlanError
from fedrec.kernels.blending import add_standardised
from fedrec.models.base import Given, Private
from fedrec.models.blend import Blend
from fedrec.models.linear.popularity import Popularity
from fedrec.models.outline import reads_item_features
from fedrec.models.registry import MODELS, build_model
from fedrec.network.post import LocalPost
from fedrec.record.ledger import Ledger
from fedrec.runs.training import Placement, train_run
from fedrec.runs.verifying import verify_run
from models_in_test import GenreTaste, RowCount, registered
from runs_in_test import NETWORKS, watched_rounds

DATA = fr.synthetic(users=200, items=60, interactions_per_user=10, seed=2)
PARTS: list[dict[str, Any]] = [
    {"name": "ease", "rank": 6},
    {"name": "mf", "embedding_size": 4, "rounds": 5},
    {"name": "autoencoder", "embedding_size": 4, "rounds": 7},
    {"name": "popularity"},
]


SEQUENTIAL: list[dict[str, Any]] = [{"name": "slit"}, {"name": "sasrec", **NETWORKS["sasrec"]}]


class Curious(Popularity):
    """Counts, by a model that says what it was told of times."""

    name: ClassVar[str] = "curious"
    told: ClassVar[list[np.ndarray | None]] = []

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """Times are written down."""
        self.told.append(clients.times)
        return super().contribute(given, clients, private)


def alone(settings: dict[str, Any], **options: Any) -> Any:
    """The estimator of one model."""
    own = dict(settings)
    return fr.estimator(own.pop("name"))(**options, **own)


def of_place(place: int, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of the model at a place, by its own names."""
    prefix = f"{place}_"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def assert_as_alone(blend: Any, place: int, single: Any) -> None:
    """A model has the arrays that it has alone, bit for bit."""
    for kept, wanted in (
        (blend.opened.trained.state.shared, single.opened.trained.state.shared),
        (blend.opened.trained.state.server, single.opened.trained.state.server),
        (blend.opened.private() or {}, single.opened.private() or {}),
    ):
        own = of_place(place, kept)
        assert own.keys() == wanted.keys()
        for name, array in own.items():
            assert array.tobytes() == wanted[name].tobytes(), name


def standardised(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """z-scores of one user [items] over the items that are not its own."""
    among = np.delete(scores.astype(np.float64), own)
    return (scores - among.mean()) / among.std()


@pytest.fixture(scope="module")
def blend() -> fr.Blend:
    return fr.Blend(models=PARTS, shares=[1, 2, 0.5, 1], seed=4).fit(DATA)


@pytest.mark.parametrize("place", range(len(PARTS)))
def test_each_model_ends_with_the_arrays_that_it_ends_with_alone(blend: fr.Blend, place: int) -> None:
    assert_as_alone(blend, place, alone(PARTS[place], seed=4).fit(DATA))


def test_scores_are_weighted_sums_of_standardised_scores(blend: fr.Blend) -> None:
    shard = blend.opened.engine.shards[0]
    model, shared, rows = blend.opened.model, blend.shared, shard.private()
    assert isinstance(model, Blend)
    found = model.score(Given.to_score(shared, {}), shard.clients, rows)
    wanted = np.zeros_like(found, dtype=np.float64)
    for place, (part, share) in enumerate(zip(model.parts, (1, 2, 0.5, 1), strict=True)):
        own, mine = of_place(place, shared), of_place(place, rows or {})
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


def test_a_model_that_draws_cohorts_is_trained_first_and_the_others_then_ask_everybody() -> None:
    """What a network sends in its rounds stays small, and each ends as alone."""
    blend = fr.Blend(models=SEQUENTIAL, shares=[1, 2], seed=4, cohort=0.3).fit(DATA)
    for place, cohort in enumerate((1.0, 0.3)):
        assert_as_alone(blend, place, alone(SEQUENTIAL[place], seed=4, cohort=cohort).fit(DATA))


def test_a_plan_draws_the_cohort_of_the_models_where_it_names_none() -> None:
    made = [
        fr.Blend(models=models, shares=[1, 1]) for models in (["slit", "sasrec"], ["ease", "mf"], ["neumf", "sasrec"])
    ]
    assert [model.plan.cohort for model in made] == [128, 1.0, 128]
    assert fr.Blend(models=["slit", "sasrec"], shares=[1, 1], cohort=0.25).plan.cohort == 0.25
    tuned = fr.tune(fr.Blend, fr.leave_last_out(DATA), {"shares": [[1, 1], [1, 4]]}, models=SEQUENTIAL)
    assert tuned.best.plan.cohort == 128
    assert len(set(tuned.table["ndcg@10"])) == 2


def test_a_federation_trains_what_one_process_trains_and_records(tmp_path: Path) -> None:
    plan = small_plan({"name": "blend", "models": SEQUENTIAL, "shares": [1, 2]})
    federation = Federation(tmp_path / "owners", plan, nodes=2)
    report = train_run(plan, tmp_path / "run", Placement(2))
    rounds = Ledger(tmp_path / "run" / "ledger.jsonl", rooted=True).of_kind("round")
    everybody = [line["round"] for line in rounds if line["cohort"] == 240]
    assert everybody == [0, 1, 2, 3, NETWORKS["sasrec"]["rounds"]], "counts, sketches and the closed form"
    assert max(line["bytes"]["plain_per_node"]["down"] for line in rounds) < 4 * 120 * 60, (
        "a network carries the closed form"
    )
    assert verify_run(tmp_path / "run").wrong is None
    run = fr.load_model(tmp_path / "run")
    assert run.opened.model.traits.bits == "node"
    assert run.recommend([3], n=3).height == 3
    outcome = federation.train(LocalPost(federation.hosts()))
    assert outcome.error is None
    assert outcome.trained is not None
    for name, array in run.opened.trained.state.shared.items():
        assert array.tobytes() == outcome.trained.state.shared[name].tobytes(), name
    assert outcome.metric == pytest.approx(report["metrics"]["test"]["ndcg@10"], abs=1e-6)


def test_a_model_with_public_arrays_ends_with_the_arrays_that_it_ends_with_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registered(GenreTaste, monkeypatch)
    models = [{"name": "genre-taste"}, {"name": "popularity"}]
    blend = fr.Blend(models=models, shares=[1, 1]).fit(DATA)
    assert_as_alone(blend, 0, alone(models[0]).fit(DATA))
    assert reads_item_features(blend.opened.model)
    assert blend.opened.plan.features == DATA.catalog.features_digest
    assert not reads_item_features(build_model("blend", {"models": ["ease", "popularity"]}))


def test_each_model_is_handed_what_it_reads_and_repeats_only_if_all_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    registered(RowCount, monkeypatch)
    monkeypatch.setitem(MODELS, "curious", f"{__name__}:Curious")
    for others, read in ((["slit"], True), (["popularity"], False)):
        model = build_model("blend", {"models": ["row-count", *others], "shares": [1, 1]})
        assert ("repeats" in model.traits.reads) == read
    Curious.told.clear()
    fr.Blend(models=["curious", "slit"], shares=[1, 1]).fit(DATA)
    assert Curious.told == [None]


def test_sums_that_wait_for_their_models_are_seen_when_a_plan_is_made() -> None:
    network = {**SEQUENTIAL[1], "start_from": "random"}
    model = {"name": "blend", "models": ["slit", network], "shares": [1, 1]}
    for changes, words in (
        ({"asynchronous": {"buffer": 2}}, "slit does not sum model changes"),
        ({"privacy": {"epsilon": 8.0, "delta": 1e-5}}, "'blend' has no form under differential privacy"),
        ({"release": [{"step": "clip", "norm": 1.0}]}, "1_bias"),
    ):
        with pytest.raises(PlanError, match=words):
            small_plan(model, **changes)


def test_models_are_made_once() -> None:
    model = Blend(models=["ease", "popularity"], shares=[1, 1])
    assert model.parts is model.parts


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
