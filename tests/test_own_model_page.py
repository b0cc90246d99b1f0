"""The models of the page that says how to write one: short, outside of fedrec, and as good as fedrec's own."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from fedrec.models.base import Recommender
from fedrec.models.networks.network import Network
from fedrec.models.own import class_from
from fedrec.testing import RecommenderContract
from pages_in_test import ROOT, code_after

PAGE = "docs/own-model.md"
PROMISES = [name for name in vars(RecommenderContract) if name.startswith("test_")]
PLACES = {"AlsoHave": ("mine.py", "`mine.py`:"), "BagOfItems": ("bag.py", "`bag.py`, with")}
"""Where the page has the code of a class: the file, and the words before it."""
SETTINGS: dict[str, dict[str, Any]] = {
    "AlsoHave": {"smoothing": 5.0},
    "BagOfItems": {"rounds": 40, "learning_rate": 0.05},
}


@pytest.fixture(scope="module")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, type[RecommenderContract]]:
    """The tests of the page's classes, with settings as the page's test file has them."""
    folder, made = tmp_path_factory.mktemp("own"), {}
    for kind, (name, words) in PLACES.items():
        (folder / name).write_text(code_after(PAGE, words), encoding="utf-8")
        members = {"model": class_from(f"{folder / name}:{kind}"), "settings": SETTINGS[kind]}
        made[kind] = type(f"Test{kind}", (RecommenderContract,), members)
    return made


@pytest.mark.parametrize(("kind", "base", "lines"), [("AlsoHave", Recommender, 60), ("BagOfItems", Network, 15)])
def test_a_model_is_short_and_takes_no_change_of_fedrec(
    kind: str, base: type, lines: int, contracts: dict[str, type[RecommenderContract]]
) -> None:
    model = contracts[kind].model
    assert issubclass(model, base)
    assert len([line for line in code_after(PAGE, PLACES[kind][1]).splitlines() if line]) <= lines
    assert not Path(inspect.getfile(model)).is_relative_to(ROOT)


@pytest.mark.parametrize(("words", "models"), [("`line.py`:", 1), ("`pictures.py` has both", 2)])
def test_models_of_the_examples_take_fifteen_lines_each(words: str, models: int) -> None:
    lines = [line for line in code_after(PAGE, words).splitlines() if line and "import" not in line]
    assert sum(line.startswith("class ") and "fr." in line for line in lines) == models
    assert len(lines) <= 15 * models


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("kind", PLACES)
def test_it_keeps_every_promise(
    kind: str, promise: str, contracts: dict[str, type[RecommenderContract]], tmp_path: Path
) -> None:
    test = getattr(contracts[kind](), promise)
    test(**({"tmp_path": tmp_path} if "tmp_path" in inspect.signature(test).parameters else {}))
