"""The model of the page that says how to write one: short, outside of fedrec, and as good as fedrec's own."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from fedrec.models.base import Recommender
from fedrec.models.own import class_from
from fedrec.testing import RecommenderContract
from pages_in_test import ROOT, code_after

PAGE = "docs/own-model.md"
PROMISES = [name for name in vars(RecommenderContract) if name.startswith("test_")]


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> type[RecommenderContract]:
    """The tests of the page's class, with the settings of the page's test file."""
    file = tmp_path_factory.mktemp("own") / "mine.py"
    file.write_text(code_after(PAGE, "`mine.py`:"), encoding="utf-8")
    return type(
        "TestAlsoHave",
        (RecommenderContract,),
        {"model": class_from(f"{file}:AlsoHave"), "settings": {"smoothing": 5.0}},
    )


def test_a_model_is_written_in_sixty_lines_without_a_change_of_fedrec(contract: type[RecommenderContract]) -> None:
    assert issubclass(contract.model, Recommender)
    assert len(code_after(PAGE, "`mine.py`:").splitlines()) <= 60
    assert not Path(inspect.getfile(contract.model)).is_relative_to(ROOT)


@pytest.mark.parametrize("promise", PROMISES)
def test_it_keeps_every_promise(promise: str, contract: type[RecommenderContract], tmp_path: Path) -> None:
    test = getattr(contract(), promise)
    test(**({"tmp_path": tmp_path} if "tmp_path" in inspect.signature(test).parameters else {}))
