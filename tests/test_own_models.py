"""Models that fedrec does not bring: from installed packages, from files, and of this process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

import fedrec as fr
from fedrec.errors import InputError, PlanError
from fedrec.models import own
from fedrec.models.linear.popularity import Popularity
from fedrec.models.own import VARIABLE, class_from
from fedrec.models.registry import build_model, model_class, model_names, models_where

MINE = """
from typing import ClassVar

from fedrec.models.linear.popularity import Popularity


class Mine(Popularity):
    '''Counts, under another name.'''

    name: ClassVar[str] = "mine"
    boost: float = 1.0


class Nameless:
    pass
"""
DATA = "synthetic:users=200,items=100"


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "_registered", {})
    monkeypatch.setenv(VARIABLE, "")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, entries: str, package: str = "ours") -> None:
    """A package as an installer leaves it: its code, and a folder that says what it brings."""
    about = folder / f"{package}-1.2.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text(f"[fedrec.models]\n{entries}\n")
    (folder / f"{package}_models.py").write_text(MINE)
    monkeypatch.syspath_prepend(folder)


def test_an_installed_package_brings_models_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "mine = ours_models:Mine")
    assert model_names()[-1] == "mine"
    assert build_model("mine", {"boost": 2}).boost == 2.0  # type: ignore[attr-defined]
    assert fr.estimator("mine")(boost=3).fit(fr.load_data(DATA)).recommend(n=1).height == 200
    with pytest.raises(PlanError, match=r"'mime' is not known\. Did you mean 'mine'"):
        model_class("mime")


@pytest.mark.parametrize(
    ("entries", "name", "message"),
    [
        ("mine = ours_models:Absent", "mine", r"package ours 1\.2 cannot be loaded: AttributeError.*Absent"),
        ("mine = no_such_module:Mine", "mine", r"package ours 1\.2 cannot be loaded: ModuleNotFoundError"),
        ("mine = ours_models", "mine", r"'ours_models' does not name a class; write folder/file\.py:Class"),
        ("mine = ours_models:Nameless", "mine", r"package ours 1\.2 is not a class derived from .*Recommender"),
        ("other = ours_models:Mine", "other", r"package ours 1\.2 is named 'mine', not 'other'"),
    ],
)
def test_a_package_that_brings_no_model_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: str, name: str, message: str
) -> None:
    installed(tmp_path, monkeypatch, entries)
    with pytest.raises(PlanError, match=message):
        model_class(name)


def test_names_are_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    installed(tmp_path / "one", monkeypatch, "ease = ours_models:Mine")
    with pytest.raises(
        PlanError, match=r"package ours 1\.2 brings a model 'ease', but fedrec has a model of that name"
    ):
        model_names()
    assert model_class("ease").__module__ == "fedrec.models.linear.ease"
    installed(tmp_path / "two", monkeypatch, "mine = theirs_models:Mine", "theirs")
    monkeypatch.setenv(VARIABLE, f"{file}:Mine")
    with pytest.raises(PlanError, match=r"the name 'mine': the model of package theirs 1\.2 and that of FEDREC_MODELS"):
        model_class("mine")


def test_a_class_of_this_process_is_known_by_its_name() -> None:
    class Mine(Popularity):
        name: ClassVar[str] = "mine"

    kind = fr.estimator(Mine)
    assert kind is fr.estimator("mine") is fr.estimator(Mine)
    assert kind().fit(fr.load_data(DATA)).model_name == "mine"
    for wrong, message in (
        (dict, "model must be text or a class of Recommender"),
        (type("Ease", (Popularity,), {"name": 3}), "no name"),
    ):
        with pytest.raises(InputError, match=message):
            fr.estimator(wrong)

    class Ours(Popularity):
        name: ClassVar[str] = "ease"

    with pytest.raises(PlanError, match=r"fedrec has a model 'ease' of its own; give the class .*Ours another name"):
        fr.estimator(Ours)
    assert fr.estimator(Popularity) is fr.estimator("popularity")
    assert "popularity" not in own.own_models()

    class Other(Popularity):
        name: ClassVar[str] = "mine"

    with pytest.raises(PlanError, match=r"Mine already has the model name 'mine'; choose another name"):
        fr.estimator(Other)


def test_a_file_whose_class_has_the_name_of_a_model_of_fedrec_is_not_taken_for_that(file: Path, fedrec: Any) -> None:
    file.write_text(MINE.replace('"mine"', '"popularity"'))
    refused = fedrec("train", "--data", DATA, "--model", f"{file}:Mine")
    assert refused.code == 2
    assert "fedrec has a model 'popularity' of its own; give the class Mine another name" in refused.err


def test_a_file_is_run_once_and_what_fails_in_it_is_said(file: Path, tmp_path: Path) -> None:
    assert class_from(f"{file}:Mine") is class_from(f"{file}:Mine")
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module_at_all")
    for home, message in (
        (f"{broken}:Mine", r"broken\.py:Mine cannot be loaded: ModuleNotFoundError: No module named 'no_such_module"),
        (f"{tmp_path / 'absent.py'}:Mine", r"absent\.py:Mine cannot be loaded: FileNotFoundError"),
        (f"{file}:", "does not name a class"),
    ):
        with pytest.raises(PlanError, match=message):
            class_from(home)


def test_the_command_takes_a_file_and_a_run_is_opened_where_the_file_is_named(
    file: Path, tmp_path: Path, fedrec: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    trained = fedrec("train", "--data", DATA, "--model", f"{file}:Mine", "--set", "boost=2", "--out", run, "--quiet")
    assert (trained.code, trained.err) == (0, "")
    assert "name: mine" in (run / "plan.yaml").read_text()
    recommend = [sys.executable, "-m", "fedrec", "recommend", str(run), "--user", "1", "--json"]
    lists = json.loads(subprocess.run(recommend, capture_output=True, text=True, check=True).stdout)
    assert lists["recommendations"]
    monkeypatch.setenv(VARIABLE, "")
    refused = fedrec("recommend", run, "--user", "1")
    assert refused.code == 2
    assert "model 'mine' is not known" in refused.err
    assert "FEDREC_MODELS=file.py:Class" in refused.err
    absent = fedrec("train", "--data", DATA, "--model", f"{file}:Absent")
    assert absent.code == 2
    assert "cannot be loaded: AttributeError" in absent.err


def test_a_list_of_models_that_fit_has_those_of_others_and_leaves_out_what_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, "mine = ours_models:Mine\nbroken = ours_models:Missing")
    assert models_where(lambda model: isinstance(model, Popularity)) == "popularity and mine"
    monkeypatch.setenv(VARIABLE, "nowhere.py:Model")
    assert models_where(lambda model: isinstance(model, Popularity)) == "popularity"
