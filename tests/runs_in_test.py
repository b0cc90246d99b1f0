"""Small runs of every model, for tests that compare what runs leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chosen_in_test import chosen
from fedrec.engines.local import LocalEngine
from fedrec.federation.plan import Plan
from fedrec.runs.saved import open_run

DATA = "synthetic:users=240,items=90,interactions_per_user=14,seed=3,ratings=true"
NETWORKS: dict[str, dict[str, Any]] = {
    "adapter": {"rounds": 8, "rank": 4, "window": 12, "item_features": {"genres": "categories", "title": "text"}},
    "neumf": {"rounds": 8, "window": 12, "embedding_size": 4, "hidden": [6]},
    "sasrec": {"rounds": 8, "window": 12, "embedding_size": 8, "blocks": 1, "heads": 1, "negatives": 32},
    "two-tower": {"rounds": 8, "window": 12, "embedding_size": 8, "hidden": 8},
}
"""Settings of networks for data of this size; their bits depend on who lives together."""
ENCODED = {"lora"}
"""Models that need an encoder of texts on this machine; `test_lora` trains them."""
MODELS: dict[str, dict[str, Any]] = {
    "autoencoder": {"name": "autoencoder", "embedding_size": 8, "rounds": 6, "batch_size": 200},
    "autoencoder-random": {
        "name": "autoencoder",
        "embedding_size": 8,
        "rounds": 4,
        "start_from": "random",
        "most_candidates": 40,
    },
    "biased-mf": {"name": "biased-mf", "embedding_size": 4, "rounds": 4, "lowest": 1.0, "highest": 5.0},
    "blend": {
        "name": "blend",
        "models": [{"name": "ease"}, {"name": "mf", "embedding_size": 8, "rounds": 3}, {"name": "ease", "rank": 12}],
        "shares": [1.0, 0.5, 2.0],
    },
    "content": {"name": "content", "item_features": {"genres": "categories", "title": "text"}},
    "ease": {"name": "ease", "alpha": 0.3},
    "ease-sketch": {"name": "ease", "rank": 12},
    "fedncf": {"name": "fedncf", "embedding_size": 8, "rounds": 3},
    "fedrap": {"name": "fedrap", "embedding_size": 8, "rounds": 3, "epochs": 2, "batch_size": 20},
    "fcf": {"name": "fcf", "embedding_size": 8, "rounds": 4},
    "fedrecon": {"name": "fedrecon", "embedding_size": 8, "rounds": 4},
    "gpfedrec": {"name": "gpfedrec", "embedding_size": 8, "rounds": 3, "groups": 3, "batch_size": 20},
    "ials": {"name": "ials", "embedding_size": 6, "rounds": 3},
    "ials-cg": {"name": "ials", "embedding_size": 6, "rounds": 7, "solver": "cg"},
    "itemknn": {"name": "itemknn", "neighbours": 20},
    "lightgcn": {"name": "lightgcn", "embedding_size": 8, "rounds": 6, "batch_size": 200},
    "mf": {"name": "mf", "embedding_size": 8, "rounds": 6},
    "mf-adam": {"name": "mf", "embedding_size": 8, "rounds": 4, "server_optimiser": "adam", "batch_size": 7},
    "mf-bpr": {"name": "mf", "embedding_size": 8, "rounds": 4, "loss": "bpr", "denominator": "per_row"},
    "mf-scaffold": {"name": "mf", "embedding_size": 8, "rounds": 4, "scaffold": True, "control_rows": 20},
    "mf-softmax": {"name": "mf", "embedding_size": 8, "rounds": 4, "loss": "softmax", "local_optimiser": "adam"},
    "mf-squared": {
        "name": "mf",
        "embedding_size": 8,
        "rounds": 4,
        "loss": "squared",
        "proximal": 0.5,
        "denominator": "fixed",
        "expected_clients": 160,
        "server_optimiser": "momentum",
        "server_learning_rate": 1.0,
    },
    "pfedrec": {"name": "pfedrec", "embedding_size": 8, "rounds": 4, "batch_size": 20},
    "popularity": {"name": "popularity"},
    "slit": {"name": "slit"},
    "slit-rank": {"name": "slit", "rank": 12},
    "spectral": {"name": "spectral", "rank": 12, "passes": 3},
}

KINDS = ("autoencoder", "blend", "content", "ease", "ease-sketch", "ials", "mf", "mf-scaffold", "pfedrec", "slit")
"""Runs that differ in what is sent, kept and saved: in one round or many, dense sums, pairs, products or rows, with
private rows, state of the server and of the nodes, or the models of others."""


def each_kind() -> list[Any]:
    """Every run, for tests of what is sent, kept and saved: those like one of `KINDS` among the exhaustive tests."""
    return chosen(KINDS, MODELS)


def small_plan(model: str, **changes: Any) -> Plan:
    """A plan that uses cohorts, weights and validation where the model has rounds."""
    settings: dict[str, Any] = {"data": {"source": DATA}, "model": MODELS[model], "seed": 5}
    if "rounds" in MODELS[model]:
        settings |= {
            "cohort": 0.7,
            "release": [{"step": "cap", "items": 12, "choose": "random"}, {"step": "weight", "by": "interactions"}],
            "evaluation": {"every": 2, "keep": "best", "metrics": ["ndcg@10"]},
        }
    return Plan.make(settings | changes)


def watched_rounds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rounds that nodes of one process are asked for from now on, as they come."""
    asked: list[int] = []
    contribute = LocalEngine.contribute

    def watched(self: LocalEngine, call: Any) -> Any:
        asked.append(call.round)
        return contribute(self, call)

    monkeypatch.setattr(LocalEngine, "contribute", watched)
    return asked


def left_behind(folder: Path) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """Bytes of every file in `model/`, and private rows of all users in the order of their ids."""
    files = {path.name: path.read_bytes() for path in sorted((folder / "model").iterdir())}
    return files, dict(open_run(folder).private() or {})


def assert_same(folder: Path, other: Path) -> None:
    """Both runs left the same model and the same private rows."""
    files, private = left_behind(folder)
    other_files, other_private = left_behind(other)
    assert files == other_files
    assert private.keys() == other_private.keys()
    for name, array in private.items():
        assert array.tobytes() == other_private[name].tobytes(), name
