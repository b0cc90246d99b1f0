"""From sums alone: the models of pooled data, and the figures they are known for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fedrec as fr
from fedrec.data.interactions import Interactions
from fedrec.federation.plan import Plan
from fedrec.runs.training import Placement, train_run

pytestmark = pytest.mark.filterwarnings("ignore:ratings .or weights. from")  # values do not matter here


def pooled(data: Interactions) -> NDArray[np.float64]:
    matrix = np.zeros((data.n_users, data.n_items))
    matrix[data.rows_of_users(), data.items] = 1.0
    return matrix


def central_ease(x: NDArray[np.float64], reg: float, alpha: float) -> NDArray[np.float64]:
    weights = np.maximum(x.sum(axis=1), 1.0) ** -alpha
    gram = x.T @ (x * weights[:, None])
    inverse = np.linalg.inv(gram + reg * np.eye(len(gram)))
    solved = inverse / -np.diag(inverse)
    np.fill_diagonal(solved, 0.0)
    return solved


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def sources() -> list[str]:
    found = ["synthetic:users=900,items=300,interactions_per_user=20"]
    if (Path(os.environ.get("FEDREC_DATA", "")) / "ml-100k" / "u.data").is_file():
        found.append("ml-100k")
    return found


@pytest.mark.parametrize("source", sources())
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_ease_is_the_pooled_solution(source: str, alpha: float) -> None:
    train = fr.leave_last_out(fr.load_data(source)).train
    model = fr.EASE(reg=120.0, alpha=alpha).fit(train, nodes=3)
    assert relative_error(model.shared["weights"], central_ease(pooled(train), 120.0, alpha)) <= 1e-6


def test_auto_reg_is_six_times_the_mean_item_count() -> None:
    train = fr.synthetic(users=300, items=120, interactions_per_user=12)
    model = fr.EASE().fit(train)
    assert relative_error(model.shared["weights"], central_ease(pooled(train), 6 * len(train) / 120, 0.0)) <= 1e-6


@pytest.mark.parametrize("source", sources())
def test_itemknn_is_the_pooled_solution(source: str) -> None:
    train = fr.leave_last_out(fr.load_data(source)).train
    model = fr.ItemKNN(neighbours=30, shrink=5.0, alpha=0.0).fit(train, nodes=3)
    x = pooled(train)
    gram = x.T @ x
    norms = np.sqrt(np.diag(gram))
    similarity = np.divide(gram, np.outer(norms, norms) + 5.0)
    np.fill_diagonal(similarity, 0.0)
    expected = np.zeros_like(similarity)
    for row, values in enumerate(similarity):
        best = np.argsort(-values, kind="stable")[:30]
        expected[row, best] = values[best]
    found = np.zeros_like(expected)
    neighbours, kept = model.shared["neighbours"], model.shared["neighbours"] >= 0
    found[np.nonzero(kept)[0], neighbours[kept]] = model.shared["similarities"][kept]
    assert relative_error(found.astype(np.float32), expected) <= 1e-6


@pytest.mark.parametrize(
    ("source", "file", "model", "hr", "ndcg"),
    [
        ("ml-100k", "u.data", "ease", 0.650, 0.380),
        pytest.param("ml-1m-sequences", "sequences.txt", "ease", 0.695, 0.425, marks=pytest.mark.real),
    ],
)
def test_accuracy_on_real_data(source: str, file: str, model: str, hr: float, ndcg: float, tmp_path: Path) -> None:
    metrics = trained(source, file, model, tmp_path)
    assert metrics["hr@10"] >= hr
    assert metrics["ndcg@10"] >= ndcg


@pytest.mark.parametrize(
    ("source", "file", "hr", "ndcg"),
    [
        ("ml-100k", "u.data", 0.4077, 0.2270),
        pytest.param("ml-1m-sequences", "sequences.txt", 0.4387, 0.2404, marks=pytest.mark.real),
    ],
)
def test_popularity_on_real_data(source: str, file: str, hr: float, ndcg: float, tmp_path: Path) -> None:
    metrics = trained(source, file, "popularity", tmp_path)
    assert metrics["hr@10"] == pytest.approx(hr, abs=5e-5)
    assert metrics["ndcg@10"] == pytest.approx(ndcg, abs=5e-5)


def trained(source: str, file: str, model: str, folder: Path) -> dict[str, float]:
    if not (Path(os.environ.get("FEDREC_DATA", "")) / source / file).is_file():
        pytest.skip(f"needs the data set {source} in FEDREC_DATA")
    settings: dict[str, Any] = {
        "data": {"source": source},
        "model": {"name": model},
        "evaluation": {"protocol": "sampled:99"},
    }
    report = train_run(Plan.make(settings), folder / "run", Placement(2))
    metrics: dict[str, float] = report["metrics"]["test"]
    return metrics
