"""PFedRec: local training against plain NumPy with the same draws, its sums, what it ranks with, and its figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.products import Products
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.federation.plan import Plan
from fedrec.kernels.threads import limit_threads
from fedrec.models import registry
from fedrec.models.base import Arrays, Given, Private, State
from fedrec.models.literature.pfedrec import PFedRec
from fedrec.runs.comparing import compare_plans

F = np.float32
SEEDS = KeyedSource.from_seed(2)


def stream(seed: int) -> Any:
    """SplitMix64 in Python's own integers."""
    mask, state = (1 << 64) - 1, int(seed)
    while True:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def below(words: Any, limit: int) -> int:
    return (next(words) >> 32) * limit >> 32


def epoch_of(words: Any, items: list[int], taken: set[int], n_items: int, negatives: int) -> list[tuple[int, float]]:
    """One epoch of samples (item, label) as the recipe draws them."""
    out: list[tuple[int, float]] = []
    for item in items:
        out.append((item, 1.0))
        drawn: list[int] = []
        while len(drawn) < min(negatives, n_items - len(taken)):
            other = below(words, n_items)
            if other not in taken and other not in drawn:
                drawn.append(other)
        out += [(other, 0.0) for other in drawn]
    for place in range(len(out) - 1, 0, -1):
        other = below(words, place + 1)
        out[place], out[other] = out[other], out[place]
    return out


def errors(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Slope of the mean logistic loss in each logit."""
    return ((1 / (1 + np.exp(-logits.astype(np.float64))) - labels) / len(labels)).astype(F)


def twin(
    model: PFedRec, table: np.ndarray, head: np.ndarray, items: list[int], taken: set[int], seed: int
) -> tuple[np.ndarray, np.ndarray, set[int]]:
    """The published step with a whole table per client: (head, table, items touched)."""
    words, mine, w, b = stream(seed), table.copy(), head[:-1].copy(), head[-1]
    rate, item_rate = F(model.learning_rate), F(model.learning_rate * len(table) * model.item_rate)
    touched: set[int] = set()
    for _ in range(model.epochs):
        samples = epoch_of(words, items, taken, len(table), model.negatives)
        for low in range(0, len(samples), model.batch_size):
            part = samples[low : low + model.batch_size]
            rows, labels = np.array([item for item, _ in part]), np.array([y for _, y in part], dtype=F)
            touched |= set(rows.tolist())

            e = errors(mine[rows] @ w + b, labels)
            w, b = w - rate * (e @ mine[rows]), F(b - rate * e.sum())
            np.add.at(mine, rows, -item_rate * errors(mine[rows] @ w + b, labels)[:, None] * w)
    return np.append(w, b), mine, touched


def crowd(seed: int = 0, clients: int = 17, n_items: int = 23) -> Clients:
    """Clients with no interaction, few, many, and with a pool of one item."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, n_items - 8, clients)
    lengths[:3] = 0, n_items - 3, 1
    rows = [rng.permutation(n_items) for _ in range(clients)]
    others = [row[length : length + 2] for row, length in zip(rows, lengths, strict=True)]
    return Clients(
        indptr=np.cumsum([0, *lengths]).astype(np.int64),
        items=np.concatenate([row[:length] for row, length in zip(rows, lengths, strict=True)]).astype(np.int32),
        values=None,
        times=None,
        keys=rng.integers(0, 2**63, clients).astype(np.uint64),
        n_items=n_items,
        excluded_indptr=np.arange(clients + 1, dtype=np.int64) * 2,
        excluded_items=np.concatenate(others).astype(np.int32),
    )


def shared_of(model: PFedRec, n_items: int) -> Arrays:
    rng = np.random.default_rng(4)
    d = model.embedding_size
    return {"items": rng.normal(size=(n_items, d)).astype(F), "head": rng.uniform(-0.5, 0.5, d + 1).astype(F)}


@pytest.mark.parametrize(
    "settings", [{}, {"epochs": 3, "embedding_size": 16}, {"negatives": 2, "batch_size": 1000}], ids=str
)
def test_a_round_is_the_published_one_with_a_table_for_every_client(settings: dict[str, Any]) -> None:
    """Heads, summed change and every score equal those of clients that each train a whole table of their own."""
    model = PFedRec(**({"embedding_size": 5, "batch_size": 8, "item_rate": 3.0} | settings))
    clients = crowd()
    shared = shared_of(model, clients.n_items)
    private = model.join(Given(-1, shared, {}, SEEDS), clients)
    contributions, updated = model.contribute(Given(0, shared, {}, SEEDS), clients, private)
    assert updated is not None
    scores = model.score(Given.to_score(shared, {}), clients, updated)
    change = np.zeros(shared["items"].shape)
    for c, seed in enumerate(SEEDS.seeds(clients.keys)):
        items = clients.items[clients.indptr[c] : clients.indptr[c + 1]].tolist()
        taken = {*items, *clients.excluded_items[2 * c : 2 * c + 2].tolist()}
        head, mine, touched = twin(model, shared["items"], shared["head"], items, taken, seed)
        np.testing.assert_allclose(updated["heads"][c], head, rtol=2e-4, atol=2e-5)
        own = updated["own"][[c]].packed()
        assert set(own.items.tolist()) == touched
        assert len(own.items) == len(touched)
        assert not touched & set(clients.excluded_items[2 * c : 2 * c + 2].tolist())
        np.testing.assert_allclose(scores[c], mine @ head[:-1] + head[-1], rtol=1e-3, atol=2e-3)
        change += mine - shared["items"]
    state = State(shared)
    spec = model.spec(state.shared, 0)
    assert spec is not None
    total = Sum.zeros(spec.fit(64))
    total.add(contributions)
    assert (total.saturated, total.clients) == (0, len(clients))
    moved = model.step(state, total, 0).shared["items"] - shared["items"]
    np.testing.assert_allclose(moved, change / len(clients), rtol=1e-2, atol=2e-4)


def test_personal_rows_override_shared_ones_and_shared_scores_do_not() -> None:
    personal, shared_only = PFedRec(embedding_size=4), PFedRec(embedding_size=4, scores_with="shared")
    clients = crowd()
    shared = shared_of(personal, clients.n_items)
    _, mine = personal.contribute(
        Given(0, shared, {}, SEEDS), clients, personal.join(Given(-1, shared, {}, SEEDS), clients)
    )
    _, theirs = shared_only.contribute(
        Given(0, shared, {}, SEEDS), clients, shared_only.join(Given(-1, shared, {}, SEEDS), clients)
    )
    assert mine is not None
    assert theirs is not None
    assert set(theirs) == {"heads"}
    assert mine["heads"].tobytes() == theirs["heads"].tobytes()
    later = dict(shared) | {"items": shared["items"] + F(1)}
    plain, own = (
        shared_only.score(Given.to_score(later, {}), clients, theirs),
        personal.score(Given.to_score(later, {}), clients, mine),
    )
    heads = mine["heads"]
    np.testing.assert_allclose(plain, heads[:, :-1] @ later["items"].T + heads[:, -1:], rtol=1e-4, atol=1e-4)
    for c in range(len(clients)):
        rows = mine["own"][[c]].packed()
        assert np.array_equal(own[c, rows.items], rows.values[:, 0])
        rest = np.setdiff1d(np.arange(clients.n_items), rows.items)
        assert np.array_equal(own[c, rest], plain[c, rest])


def test_probabilities_tie_where_logits_do_not() -> None:
    model, ties = PFedRec(embedding_size=2), PFedRec(embedding_size=2, ranks_by="probability")
    shared = {"items": np.array([[300, 0], [400, 0], [0, 0], [-300, 0]], dtype=F), "head": np.array([1, 0, 0], dtype=F)}
    clients = crowd(n_items=23).take(np.array([0]))
    private = model.join(Given(-1, shared, {}, SEEDS), clients)
    assert len(set(model.score(Given.to_score(shared, {}), clients, private)[0])) == 4
    assert ties.score(Given.to_score(shared, {}), clients, private)[0].tolist() == [1, 1, 0.5, 0]


def rounded_products(products: Products, spec: ArraySpec, keep: np.ndarray) -> np.ndarray:
    """What `Products` adds, in Python's own integers, where nothing saturates."""
    out = np.zeros(spec.shape, dtype=object)
    for c in np.flatnonzero(keep):
        for piece in range(products.client_indptr[c], products.client_indptr[c + 1]):
            vector = np.rint(products.vectors[piece].astype(float) * 2 ** (spec.scale_bits - products.weight_bits))
            for entry in range(products.indptr[piece], products.indptr[piece + 1]):
                weight = round(float(products.weights[entry]) * products.factors[c] * 2**products.weight_bits)
                out[products.rows[entry]] += weight * vector.astype(int).astype(object)
    return out


def some_products(seed: int, size: float = 0.3) -> Products:
    rng = np.random.default_rng(seed)
    pieces, entries = rng.integers(0, 4, 9), None
    client_indptr = np.concatenate([[0], np.cumsum(pieces)])
    entries = np.concatenate([[0], np.cumsum(rng.integers(0, 6, client_indptr[-1]))])
    return Products(
        client_indptr,
        entries,
        rng.integers(0, 7, entries[-1]).astype(np.int32),
        rng.uniform(-size, size, entries[-1]).astype(F),
        rng.uniform(-1, 1, (client_indptr[-1], 5)).astype(F),
        rng.uniform(0, 1, 9),
        10,
        2.0,
    )


SPEC = SumSpec((ArraySpec("x", "rank_one", (7, 5), bound=4.0, scale_bits=18),)).fit(1000)


@pytest.mark.parametrize("threads", [1, 2])
def test_products_are_summed_exactly_and_their_norm_is_that_of_the_dense_table(threads: int) -> None:
    for seed in range(20):
        products = some_products(seed)
        total = Sum.zeros(SPEC)
        with limit_threads(threads):
            total.add(Contributions({"x": products}))
        assert total.saturated == 0
        assert (total.integers("x").astype(object) == rounded_products(products, SPEC["x"], np.ones(9, bool))).all()
        dense = np.zeros((9, 7, 5))
        for c in range(9):
            for piece in range(products.client_indptr[c], products.client_indptr[c + 1]):
                for entry in range(products.indptr[piece], products.indptr[piece + 1]):
                    row, weight = products.rows[entry], float(products.weights[entry])
                    dense[c, row] += products.factors[c] * weight * products.vectors[piece]
        np.testing.assert_allclose(products.sq_norms(), (dense**2).sum(axis=(1, 2)), rtol=1e-6)
        np.testing.assert_allclose(products.scale(np.full(9, 0.5)).sq_norms(), products.sq_norms() / 4)


def test_no_coordinate_of_a_client_exceeds_the_bound_whatever_it_contributes() -> None:
    rng = np.random.default_rng(0)
    for size in (1.0, 50.0, 1e30):
        for seed in range(10):
            products = some_products(seed, size)
            loud = Products(**{**vars(products), "vectors": products.vectors * F(rng.choice([1, 100, 1e30]))})
            for c in range(9):
                total = Sum.zeros(SPEC)
                keep = np.arange(9) == c
                total.saturated += loud.add_to(total.arrays["x"], SPEC["x"], keep)
                assert np.abs(total.value("x")).max() <= SPEC["x"].bound
                exceeded = any(
                    np.abs(loud.weights[loud.indptr[p] : loud.indptr[p + 1]]).max(initial=0) * loud.factors[c] > 2.1
                    for p in range(loud.client_indptr[c], loud.client_indptr[c + 1])
                )
                assert total.saturated > 0 or not exceeded


def test_clients_that_are_not_finite_are_left_out() -> None:
    products = some_products(3)
    bad = int(np.flatnonzero(np.diff(products.client_indptr))[0])
    vectors = products.vectors.copy()
    vectors[products.client_indptr[bad], 2] = np.nan
    broken = Products(**{**vars(products), "vectors": vectors})
    total = Sum.zeros(SPEC)
    kept = total.add(Contributions({"x": broken}))
    assert np.array_equal(kept, np.arange(9) != bad)
    assert (total.integers("x").astype(object) == rounded_products(products, SPEC["x"], kept)).all()


def test_products_of_the_wrong_shape_stop_before_the_kernel() -> None:
    products = some_products(1)
    total = Sum.zeros(SPEC)
    for changes, message in (
        ({"rows": products.rows + np.int32(7)}, "rows .* of 7"),
        ({"vectors": products.vectors[:, :4]}, "vectors"),
        ({"indptr": products.indptr[:-1]}, "pieces"),
    ):
        with pytest.raises(ValueError, match=message):
            Products(**{**vars(products), **changes}).add_to(total.arrays["x"], SPEC["x"], np.ones(9, bool))


class NegativeCounter(PFedRec):
    """Scores an item by how rarely its user drew it as a negative while training `pfedrec`."""

    name = "counter"

    def join(self, given: Given, clients: Clients) -> Private | None:
        joined = dict(super().join(given, clients) or {})
        return joined | {"drawn": np.zeros((len(clients), clients.n_items), dtype=F)}

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        assert private is not None
        contributions, updated = super().contribute(given, clients, private)
        assert updated is not None
        own, drawn = updated["own"].packed(), private["drawn"].copy()
        drawn[np.repeat(np.arange(len(clients)), own.lengths), own.items] += 1
        return contributions, {**updated, "drawn": drawn}

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        assert private is not None
        return -private["drawn"]


def figures(model: dict[str, Any], source: str, **changes: Any) -> dict[str, float]:
    evaluation = {"protocol": "sampled:99", "metrics": ["hr@10", "ndcg@10"]}
    settings = {"data": {"source": source}, "model": model, "evaluation": evaluation}
    row = compare_plans([Plan.make(settings | changes)], seeds=1)[0]
    assert row["leaky"] == (changes.get("negatives") == "paper-leaky")
    return row["metrics"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("source", "rounds", "leaked"),
    [
        ("synthetic:users=1500,items=400,seed=1", 10, 0.7),
        pytest.param("ml-100k", 30, 0.85, marks=pytest.mark.real),
    ],
)
def test_the_leak_is_in_the_negatives_and_only_under_the_leaky_plan(
    source: str, rounds: int, leaked: float, monkeypatch: pytest.MonkeyPatch, real: Callable[[str], Path]
) -> None:
    """Counting one's own negatives is chance under a clean plan; under the leaky one it beats every recommender."""
    if source == "ml-100k":
        real(source)
    monkeypatch.setitem(registry.MODELS, "counter", f"{__name__}:NegativeCounter")
    counter = {"name": "counter", "embedding_size": 2, "rounds": rounds}
    assert figures(counter, source)["hr@10"] == pytest.approx(0.10, abs=0.02)
    assert figures(counter, source, negatives="paper-leaky")["hr@10"] > leaked


@pytest.mark.real
def test_accuracy_on_movielens_100k(real: Callable[[str], Path]) -> None:
    """What is published is the leak: .716 HR@10 in the paper."""
    real("ml-100k")
    clean = figures({"name": "pfedrec"}, "ml-100k")
    assert 0.53 <= clean["hr@10"] <= 0.60
    assert 0.30 <= clean["ndcg@10"] <= 0.36
    leaky = figures({"name": "pfedrec"}, "ml-100k", negatives="paper-leaky")
    assert 0.70 <= leaky["hr@10"] <= 0.74
    assert 0.42 <= leaky["ndcg@10"] <= 0.46
