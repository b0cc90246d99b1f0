"""Whatever a public function is given, it answers or says in words what is wrong; a traceback is never the answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import fedrec as fr
from fedrec.data.arguments import check_arguments
from fedrec.errors import FedrecError, InputError
from fedrec.estimators.estimator import Estimator
from fedrec.models.registry import MODELS

ODD: list[Any] = [
    None, 3, -1, 2.5, True, "", "x", "a\0b", b"x", [], {}, [None], float("nan"), 2**70, object(),
    np.datetime64("2020-01-01"), pd.NA,
]  # fmt: skip
NO_ARGUMENTS = {"__version__", "Estimator", "FedrecError", "InputError", "PlanError", "Network", "RatingNetwork"}
LONG = {("compare", "seeds"), ("tune", "seeds")}
"""Counts of trainings, of which 2^70 would take for ever."""


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Every public function with arguments that are sound."""
    folder = tmp_path_factory.mktemp("odd")
    clicks, items = folder / "clicks.csv", folder / "items.csv"
    clicks.write_text("user,item,time\n1,2,3\n1,3,4\n2,2,5\n")
    items.write_text("item_id,title\n1,a\n2,b\n")
    data = fr.synthetic(users=40, items=20, interactions_per_user=6)
    split, model = fr.leave_last_out(data), fr.EASE().fit(data)
    model.save(folder / "run")
    model.save(folder / "forgotten")
    table = pl.DataFrame({"item_id": [1, 2]})
    found: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "Catalog": (fr.Catalog, {"items": data.catalog.items}),
        "Catalog.of": (fr.Catalog.of, {"table": table}),
        "Cleaning": (fr.Cleaning, {}),
        "Identifiers": (fr.Identifiers, {"series": pl.Series([1, 2])}),
        "Identifiers.of": (fr.Identifiers.of, {"values": [1, 2]}),
        "Interactions": (
            fr.Interactions,
            {"users": data.users, "catalog": data.catalog, "indptr": data.indptr, "items": data.items},
        ),
        "Split": (fr.Split, {"data": data, "part": split.part, "method": "mine"}),
        "clean": (fr.clean, {"data": data}),
        "interactions_from": (fr.interactions_from, {"table": data.to_frame()}),
        "load_data": (fr.load_data, {"source": str(clicks)}),
        "read_catalog": (fr.read_catalog, {"path": items}),
        "read_interactions": (fr.read_interactions, {"path": clicks}),
        "Federation": (fr.Federation, {"folder": folder / "no federation"}),
        "set_threads": (fr.set_threads, {}),
        "Stopwatch": (fr.Stopwatch, {}),
        "synthetic": (fr.synthetic, {"users": 20, "items": 10, "interactions_per_user": 5}),
        "audit_run": (fr.audit_run, {"target": folder / "run", "attacks": ["exposure"]}),
        "compare": (fr.compare, {"data": split, "models": "popularity"}),
        "verify": (fr.verify, {"run": folder / "run"}),
        "forget": (fr.forget, {"run": folder / "forgotten", "users": [1], "out": folder / "without"}),
        "estimator": (fr.estimator, {"model": "ease"}),
        "difference": (fr.difference, {"model": model, "other": model, "split": split}),
        "evaluate": (fr.evaluate, {"model": model, "split": split}),
        "groups": (fr.evaluate, {"model": model, "split": split, "by": "interactions", "groups": ["0-", "x"]}),
        "cross_domain": (fr.cross_domain, {"data": fr.synthetic(40, 20, 8, domains=2), "domain": "a"}),
        "load_model": (fr.load_model, {"folder": folder / "run"}),
        "tune": (fr.tune, {"kind": fr.Popularity, "data": data, "grid": {"cohort": [1.0]}}),
        "fit": (fr.Popularity().fit, {"data": data}),
        "recommend": (model.recommend, {"users": [1]}),
        "save_recommendations": (model.save_recommendations, {"path": folder / "lists.csv"}),
        "similar": (model.similar, {"items": [1]}),
        "Rerank": (fr.Rerank, {"model": "nowhere"}),
        "save": (model.save, {"folder": folder / "saved"}),
    }
    found |= {name: (getattr(fr, name), {"data": data}) for name in
              ("cold_items", "given", "last", "leave_last_out", "new_users", "ratio", "temporal")}  # fmt: skip
    found |= {name: (getattr(fr, name), {}) for name in (home.partition(":")[2] for home in MODELS.values())}
    return found


def odd_calls(name: str, function: Callable[..., Any], sound: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every parameter with every odd argument."""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            for value in ODD:
                if (name, parameter.name) not in LONG or type(value) is not int or value < 2**70:
                    yield parameter.name, value


@pytest.mark.filterwarnings("ignore")
def test_every_public_function_answers_or_says_what_is_wrong(
    calls: dict[str, tuple[Callable[..., Any], dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(fr.__all__) - NO_ARGUMENTS <= set(calls)
    monkeypatch.chdir(tmp_path)
    wrong = []
    for name, (function, sound) in calls.items():
        for parameter, value in odd_calls(name, function, sound):
            try:
                function(**{**sound, parameter: value})
            except FedrecError:
                continue
            except Exception as error:
                wrong.append(f"{name}({parameter}={value!r}): {error!r}")
    assert not wrong


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fr.EASE(plan=3), "plan must be a mapping, not 3"),
        (lambda: fr.read_interactions(None), "path must be a path, not None"),
        (lambda: fr.load_model("a\0b"), "folder: 'a.x00b' a path must not contain a NUL character"),
        (lambda: fr.verify("run", checkpoints=3), "checkpoints must be a list of paths, not 3"),
        (lambda: fr.interactions_from({"user": [1], "item": [2]}, user_columns="region"),
         "user_columns must be a list of text, not 'region'"),
        (lambda: fr.Catalog.of(pd.DataFrame()), "table must be a polars DataFrame, not a pandas DataFrame"),
        (lambda: fr.tune("ease", None, {}), "kind must be a class of Estimator, not 'ease'"),
        (lambda: fr.Cleaning(k_core=0), "cleaning: k_core = 0: Input should be greater than or equal to 1"),
    ],
)  # fmt: skip
def test_the_parameter_and_what_belongs_there_are_named(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


def test_numbers_of_numpy_and_lists_of_any_kind_are_what_they_seem() -> None:
    def taken(n: int, share: float, names: list[str] | tuple[str, ...], path: str | Path | None = None) -> None: ...

    check_arguments(taken, {"n": np.int32(3), "share": 1, "names": ("a",), "path": Path("a")})
    for n in (True, 2.0, "3"):
        with pytest.raises(InputError, match="n must be a whole number"):
            check_arguments(taken, {"n": n})


def test_a_list_longer_than_the_catalog_has_what_there_is() -> None:
    model: Estimator = fr.EASE(reg=1).fit({"user": [1, 1, 2, 2], "item": [1, 2, 1, 3]})
    assert model.recommend([1], n=10**12)["item_id"].to_list() == [3]
    assert model.similar(1, n=10**12).height == 2
