"""The autoencoder: its gradients against differences of the loss, its start against dense algebra, real figures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import fedrec as fr
from fedrec.data.clients import Clients
from fedrec.errors import PlanError
from fedrec.kernels.autoencoder import softmax_errors, toss_coins
from fedrec.models.base import Given, State
from fedrec.models.networks.autoencoder import Autoencoder
from fedrec.models.registry import build_model
from sketching_in_test import SOURCE, clients_of, long_tail, one_round, train

EVERYBODY = {"batch_size": 10**6}


def trained(n_items: int, d: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Shared arrays of a model after its start, at random."""
    rng = np.random.default_rng(seed)
    tables = {"encoder": rng.normal(size=(n_items, d)), "decoder": rng.normal(size=(n_items, d + 1))}
    return {name: table.astype(np.float32) for name, table in tables.items()} | {"population": np.array([40.0])}


def shown(clients: Clients, keep: float, round: int = 0) -> np.ndarray:
    """The input items of each client [clients, items] bool."""
    heads = np.empty(len(clients.items), dtype=bool)
    toss_coins(clients.indptr, SOURCE.child("halves").seeds(clients.keys), keep, heads)
    out = np.zeros((len(clients), clients.n_items), dtype=bool)
    out[np.repeat(np.arange(len(clients)), clients.lengths)[heads], clients.items[heads]] = True
    return out


def loss(encoder: np.ndarray, decoder: np.ndarray, inputs: np.ndarray, wanted: np.ndarray) -> float:
    """Σ over clients of −Σ log softmax / √n over their wanted items; the softmax leaves out the input."""
    total = 0.0
    for x, y in zip(inputs, wanted, strict=True):
        if x.any() and y.any():
            hidden = encoder[x].sum(axis=0) / np.sqrt(x.sum())
            logits = decoder[:, :-1] @ hidden + decoder[:, -1]
            total -= (logits[y] - np.log(np.exp(logits[~x]).sum())).sum() / np.sqrt(y.sum())
    return total


def test_the_sum_is_the_gradient_of_the_loss() -> None:
    matrix = long_tail(40, 12)
    matrix[0] = 0
    matrix[0, 3] = 1  # of one item there is no second half
    clients, shared = clients_of(matrix), trained(12, 3)
    model = Autoencoder(embedding_size=3, keep=0.4, **EVERYBODY)
    total = one_round(model, State(shared), clients, 9)
    inputs = shown(clients, 0.4)
    wanted = (matrix > 0) & ~inputs
    tables = {name: shared[name].astype(np.float64) for name in ("encoder", "decoder")}
    for name, table in tables.items():
        slope = np.empty_like(table)
        for place in np.ndindex(table.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = {key: array.copy() for key, array in tables.items()}
                moved[name][place] += step
                ends.append(loss(moved["encoder"], moved["decoder"], inputs, wanted))
            slope[place] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(total.value(name), slope, atol=0.02)
        assert np.abs(slope).max() > 1.0
    assert total.value("weight").tolist() == [40.0]


def test_items_that_are_shown_or_excluded_have_no_part_in_the_softmax() -> None:
    clients = clients_of(long_tail(30, 20))
    excluded = clients.where(np.arange(len(clients.items)) % 5 == 0)
    clients = clients.where(np.arange(len(clients.items)) % 5 != 0).avoiding(excluded)
    seeds = SOURCE.seeds(clients.keys)
    heads = np.empty(len(clients.items), dtype=bool)
    toss_coins(clients.indptr, seeds, 0.5, heads)
    errors = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    softmax_errors(clients.histories(seeds), heads, np.arange(20, dtype=np.int32), errors)
    owners = np.repeat(np.arange(30), clients.lengths)
    assert not errors[owners[heads], clients.items[heads]].any()
    assert not errors[np.repeat(np.arange(30), excluded.lengths), excluded.items].any()
    both = [c for c in range(30) if heads[owners == c].any() and not heads[owners == c].all()]
    np.testing.assert_allclose(errors[both].sum(axis=1), 0.0, atol=1e-5)
    assert not np.delete(errors, both, axis=0).any()
    assert 10 < len(both) < 30


def test_coins_are_each_clients_own_and_fall_as_often_as_they_should() -> None:
    indptr, seeds = np.array([0, 4000, 8000]), SOURCE.seeds(np.arange(2, dtype=np.uint64))
    heads, alone = np.empty(8000, dtype=bool), np.empty(4000, dtype=bool)
    toss_coins(indptr, seeds, 0.3, heads)
    toss_coins(indptr[:2], seeds[1:], 0.3, alone)
    assert np.array_equal(heads[4000:], alone)
    assert abs(heads.mean() - 0.3) < 0.03
    assert not np.array_equal(heads[:4000], alone)


def test_a_batch_is_drawn_anew_for_each_round_and_has_the_expected_size() -> None:
    clients, shared = clients_of(long_tail(600, 20)), {**trained(20, 2), "population": np.array([600.0])}
    model = Autoencoder(embedding_size=2, batch_size=150)
    sizes, drawn = [], []
    for round in range(4, 24):
        given = Given(round, shared, {}, SOURCE.child("contribute", round))
        weight = model.contribute(given, clients, None)[0].arrays["weight"]
        drawn.append(weight.sq_norms() > 0)
        sizes.append(int(drawn[-1].sum()))
    assert abs(np.mean(sizes) - 150) < 15
    assert len({part.tobytes() for part in drawn}) == 20


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.3), (0.5, 0.0)])
def test_the_spectral_start_filters_the_spectrum_of_the_dense_matrix(alpha: float, beta: float) -> None:
    matrix = long_tail(300, 24)
    counts, lengths = matrix.sum(axis=0), matrix.sum(axis=1)
    weights = np.where(counts > 0, np.maximum(counts, 1.0) ** -beta, 0.0)
    scaled = lengths[:, None] ** -alpha * matrix * weights
    values, basis = (part[..., ::-1][..., :12] for part in np.linalg.eigh(scaled.T @ scaled))
    filtered = basis * (values / (values + values[-1])) @ basis.T
    inverse = np.divide(1.0, weights, out=np.zeros(24), where=weights > 0)
    model = Autoencoder(embedding_size=12, rounds=4, alpha=alpha, beta=beta)
    shared = train(model, clients_of(matrix)).shared
    product = shared["decoder"][:, :-1] @ shared["encoder"].T
    dense = inverse[:, None] * filtered * weights
    np.testing.assert_allclose(product / np.linalg.norm(product), dense / np.linalg.norm(dense), atol=5e-3)
    assert np.linalg.norm(shared["encoder"]) == pytest.approx(np.linalg.norm(shared["decoder"]), rel=1e-3)
    logits = model.score(Given.to_score(shared, {}), clients_of(matrix), None)
    assert 0.7 < np.sqrt(logits.var(axis=1).mean()) < 1.4


def test_a_catalog_shorter_than_the_tables_are_wide_is_trained() -> None:
    split = fr.leave_last_out(fr.synthetic(users=200, items=12, interactions_per_user=5))
    model = fr.Autoencoder(rounds=30).fit(split.train)
    assert fr.evaluate(model, split, ["ndcg@10"])["value"][0] > 0
    assert not model.opened.trained.state.shared["encoder"][:, 12:].any()


def test_of_a_large_catalog_only_the_candidates_of_a_round_move() -> None:
    clients, model = clients_of(long_tail(80, 30)), Autoencoder(embedding_size=4, rounds=7, most_candidates=10)
    seen: list[State] = []
    seen.append(train(model, clients, watch=lambda round, state, total: seen.append(state)))
    decoders = [state.shared["decoder"] for state in seen[4:]]
    moved = [np.flatnonzero((after != before).any(axis=1)) for before, after in pairwise(decoders)]
    assert len(moved) == 3
    assert all(0 < len(rows) <= 10 for rows in moved)
    assert len({rows.tobytes() for rows in moved}) == 3
    spec = model.spec(seen[-1].shared, 6)
    assert spec is not None
    assert [array.shape for array in spec.arrays] == [(30, 4), (10, 5), (1,)]


def test_a_round_without_a_drawn_client_changes_nothing() -> None:
    clients, shared = clients_of(long_tail(3, 20)), {**trained(20, 2), "population": np.array([1e9])}
    model = Autoencoder(embedding_size=2, batch_size=1)
    state = State(shared)
    assert model.step(state, one_round(model, state, clients, 9), 9) is state


def test_the_learning_rate_falls_along_half_a_cosine() -> None:
    clients = clients_of(long_tail(100, 20))
    model = Autoencoder(embedding_size=4, rounds=40, start_from="random", **EVERYBODY)
    tables: list[np.ndarray] = []
    train(model, clients, watch=lambda round, state, total: tables.append(state.shared["encoder"]))
    lengths = [float(np.abs(after - before).max()) for before, after in pairwise(tables[1:])]
    assert max(lengths[:5]) > 10 * lengths[-1] > 0


def test_items_that_nobody_has_are_recommended_last() -> None:
    matrix = long_tail(300, 20)
    shared = train(Autoencoder(embedding_size=6, rounds=80, **EVERYBODY), clients_of(matrix)).shared
    scores = Autoencoder(embedding_size=6).score(Given.to_score(shared, {}), clients_of(matrix), None)
    assert scores[:, -2:].max(axis=1).mean() < scores[:, :-2].mean()


@pytest.mark.parametrize("start", ["spectral", "random"])
def test_rounds_must_leave_room_for_the_start(start: str) -> None:
    least = {"spectral": 4, "random": 1}[start]
    assert build_model("autoencoder", {"rounds": least, "start_from": start}).rounds == least
    if least > 1:
        with pytest.raises(PlanError, match="rounds is 3, but start_from: spectral takes 4; set rounds to 4 or more"):
            build_model("autoencoder", {"rounds": 3})


def test_the_width_of_the_tables_follows_from_the_catalog_unless_it_is_set() -> None:
    def width(model: Autoencoder, n_items: int) -> object:
        return model.shapes(n_items).states[-1].shared["encoder"].axes[1]

    assert (width(Autoencoder(), 2500), width(Autoencoder(), 2501), width(Autoencoder(embedding_size=7), 9)) == (
        64,
        128,
        7,
    )


def test_a_longer_training_goes_on_from_a_shorter_one() -> None:
    data = fr.synthetic(users=300, items=80, interactions_per_user=12)
    split = fr.leave_last_out(data)
    first = fr.Autoencoder(embedding_size=8, rounds=40, start_from="random").fit(split.train)
    longer = fr.Autoencoder(embedding_size=8, rounds=40, start_from="random").fit(split.train, warm_start=first)
    from_nothing = fr.evaluate(first, split, ["ndcg@10"])["value"][0]
    assert fr.evaluate(longer, split, ["ndcg@10"])["value"][0] > from_nothing
    assert longer.opened.trained.state.shared["population"].tolist() == [300.0]


@pytest.mark.parametrize("start", ["spectral", "random"])
def test_new_items_of_a_training_that_goes_on_begin_small_and_are_learned(start: str) -> None:
    data = fr.synthetic(users=300, items=80, interactions_per_user=12).to_frame()
    settings = {"embedding_size": 8, "rounds": 40, "start_from": start}
    first = fr.Autoencoder(**settings).fit(data.filter(data["item_id"] % 4 != 0))
    states: list[int] = []
    longer = fr.Autoencoder(**settings).fit(
        data, warm_start=first, watch=lambda progress: states.append(progress.round)
    )
    new = longer.opened.catalog.items.series.to_numpy() % 4 == 0
    norms = np.linalg.norm(longer.shared["encoder"], axis=1)
    assert len(states) == 40
    assert 0 < norms[new].mean() < 3 * norms[~new].mean()
    assert set(longer.recommend(n=10)["item_id"].to_list()) & set(longer.opened.catalog.items.series.to_numpy()[new])


@pytest.mark.real
@pytest.mark.filterwarnings("ignore:ratings .or weights. from")
@pytest.mark.parametrize(
    ("source", "sampled", "full"),
    [("ml-100k", (0.660, 0.388), 0.076), ("ml-1m-sequences", (0.705, 0.434), 0.048)],
)
def test_lists_of_movielens_are_as_good_as_the_page_says(
    source: str, sampled: tuple[float, float], full: float
) -> None:
    split = fr.leave_last_out(fr.load_data(source))
    values = []
    for seed in (1, 2, 3):
        model = fr.Autoencoder(seed=seed).fit(split.train)
        among = fr.evaluate(model, split, ["hr@10", "ndcg@10"], protocol="sampled:99")["value"]
        values.append([*among, fr.evaluate(model, split, ["ndcg@10"])["value"][0]])
    hr, ndcg, whole = np.mean(values, axis=0)
    assert hr >= sampled[0]
    assert ndcg >= sampled[1]
    assert whole >= full
