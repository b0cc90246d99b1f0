"""LightGCN on the graph of items: its convolution against dense algebra, what is trained, and real figures."""

from __future__ import annotations

import numpy as np
import pytest

import fedrec as fr
from fedrec.errors import PlanError
from fedrec.models.base import State
from fedrec.models.networks.lightgcn import Convolution, LightGCN
from fedrec.models.registry import build_model
from sketching_in_test import clients_of, long_tail, one_round, train

EVERYBODY = {"embedding_size": 12, "batch_size": 10**6, "alpha": 0.5, "beta": 0.4}


def dense(matrix: np.ndarray, layers: int) -> np.ndarray:
    """P of a whole graph."""
    counts, lengths = matrix.sum(axis=0), matrix.sum(axis=1)
    weights = np.where(counts > 0, np.maximum(counts, 1.0) ** -0.4, 0.0)
    scaled = np.maximum(lengths, 1)[:, None] ** -0.5 * matrix * weights
    graph = scaled.T @ scaled
    graph /= np.linalg.eigvalsh(graph)[-1]
    steps = [np.linalg.matrix_power(graph, step) for step in range(layers + 1)]
    return np.asarray(3 / (layers + 1) * np.sum(steps, axis=0))


@pytest.mark.parametrize("layers", [1, 3])
def test_tables_and_gradients_go_through_the_graph(layers: int) -> None:
    matrix = long_tail(300, 24)  # sketches of 24 columns hold the whole graph
    states: list[State] = []
    model = LightGCN(layers=layers, rounds=6, reg=0.0, **EVERYBODY)
    train(model, clients_of(matrix), watch=lambda round, state, total: states.append(state))
    before, whole = states[4], dense(matrix, layers)
    graph = Convolution(before.server["vectors"], before.server["shares"], layers)
    np.testing.assert_allclose(graph.over(np.eye(24), 24), whole, atol=2e-3)
    np.testing.assert_allclose(graph.undone(graph.over(np.eye(24), 24), 24), np.eye(24), atol=1e-4)
    for name in ("encoder", "decoder"):
        expected = before.server[f"{name}_layer_0"].copy()
        expected[:, :12] = whole @ expected[:, :12]
        np.testing.assert_allclose(before.shared[name], expected, atol=2e-3 * np.abs(expected).max())
    total = one_round(model, before, clients_of(matrix), 4)
    slope = whole @ (-total.value("encoder") / 300)
    after = model.step(before, total, 4)
    moment = after.server["encoder_first_moment"] - 0.9 * before.server["encoder_first_moment"]
    np.testing.assert_allclose(moment, 0.1 * slope, atol=2e-3 * np.abs(slope).max())
    assert after.server["decoder_layer_0"][:, 12].tolist() == after.shared["decoder"][:, 12].tolist()


def test_training_begins_where_the_autoencoder_begins() -> None:
    clients = clients_of(long_tail(200, 30))
    settings = {"embedding_size": 6, "rounds": 4}
    plain = train(build_model("autoencoder", settings), clients).shared
    over = train(LightGCN(**settings), clients).shared
    for name in ("encoder", "decoder"):
        np.testing.assert_allclose(over[name], plain[name], atol=1e-4 * np.abs(plain[name]).max())


@pytest.mark.parametrize("start", ["spectral", "random"])
def test_tied_tables_are_one(start: str) -> None:
    model = LightGCN(embedding_size=6, rounds=8, tied=True, start_from=start, most_candidates=20)
    shared = train(model, clients_of(long_tail(200, 30))).shared
    assert np.array_equal(shared["encoder"], shared["decoder"][:, :-1])
    assert shared["encoder"].any()


def test_rounds_must_leave_room_for_the_graph() -> None:
    assert LightGCN(rounds=4, start_from="random").rounds == 4
    with pytest.raises(PlanError, match="rounds is 3, but the graph alone takes 4; set rounds to 4 or more"):
        build_model("lightgcn", {"rounds": 3, "start_from": "random"})


def test_a_training_that_goes_on_keeps_its_tables_and_makes_the_graph_anew() -> None:
    data = fr.synthetic(users=200, items=60, interactions_per_user=12).to_frame()
    first = fr.LightGCN(embedding_size=6, rounds=8).fit(data.filter(data["item_id"] % 4 != 0))
    again = fr.LightGCN(embedding_size=6, rounds=4).fit(data, warm_start=first)
    new = again.opened.catalog.items.series.to_numpy() % 4 == 0
    kept, graph = again.opened.trained.state.server, first.opened.trained.state.server
    assert np.array_equal(kept["encoder_layer_0"][~new], graph["encoder_layer_0"])
    assert not kept["encoder_layer_0"][new].any()
    assert kept["vectors"].shape[0] == len(new) > len(graph["vectors"])
    assert np.abs(again.shared["encoder"][new]).max() > 0


@pytest.mark.real
@pytest.mark.filterwarnings("ignore:ratings .or weights. from")
@pytest.mark.parametrize(
    ("source", "sampled", "full"),
    [("ml-100k", (0.665, 0.390), 0.077), ("ml-1m-sequences", (0.700, 0.430), 0.046)],
)
def test_lists_of_movielens_are_as_good_as_the_page_says(
    source: str, sampled: tuple[float, float], full: float
) -> None:
    split = fr.leave_last_out(fr.load_data(source))
    model = fr.LightGCN(seed=1).fit(split.train)
    hr, ndcg = fr.evaluate(model, split, ["hr@10", "ndcg@10"], protocol="sampled:99")["value"]
    assert hr >= sampled[0]
    assert ndcg >= sampled[1]
    assert fr.evaluate(model, split, ["ndcg@10"])["value"][0] >= full
