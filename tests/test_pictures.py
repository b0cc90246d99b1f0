"""Pictures of commands: they show the numbers of the report, and what cannot be saved is refused before the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chosen_in_test import chosen
from conftest import Said
from fedrec.errors import InputError
from fedrec.pictures import canvas, comparison, training, trials

DATA = "synthetic:users=60,items=30,interactions_per_user=8"
BEGINS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The axes of all pictures that are drawn from now on."""
    found: list[Any] = []

    @contextmanager
    def kept(*words: Any, **more: Any) -> Iterator[Any]:
        with canvas.canvas(*words, **more) as axes:
            yield axes
            found.append(axes)

    for module in (comparison, training, trials):
        monkeypatch.setattr(module, "canvas", kept)
    return found


@pytest.mark.parametrize("ending", chosen([".png"], BEGINS))
def test_a_training_is_drawn_against_rounds_bytes_and_seconds(
    ending: str, fedrec: Callable[..., Said], tmp_path: Path, drawn: list[Any]
) -> None:
    path = tmp_path / f"curve{ending}"
    said = fedrec("train", "--data", DATA, "--model", "mf", "--set", "rounds=4", "--set", "evaluation.every=2",
                  "--metrics", "ndcg@10,hr@10", "--out", tmp_path / "run", "--plot", path)  # fmt: skip
    assert said.code == 0, said.err
    assert path.read_bytes().startswith(BEGINS[ending])
    ((rounds, sent, seconds),) = drawn
    assert [line.get_label() for line in rounds.lines] == ["ndcg@10", "hr@10"]
    assert rounds.lines[0].get_xdata().tolist() == [2, 4]
    first, last = sent.lines[0].get_xdata()
    assert last == pytest.approx(2 * first, rel=0.05), "sums of later rounds may need a bit more or less"
    assert list(seconds.lines[0].get_ydata()) == list(rounds.lines[0].get_ydata())


def test_models_are_drawn_beside_each_other(fedrec: Callable[..., Said], tmp_path: Path, drawn: list[Any]) -> None:
    path = tmp_path / "models.png"
    said = fedrec("compare", "--data", DATA, "--models", "popularity,ease", "--metrics", "ndcg@10", "--plot", path)
    assert said.code == 0, said.err
    ((bars, _, _),) = drawn
    assert [text.get_text() for text in bars.get_yticklabels()] == ["popularity", "ease"]
    assert all(f"{bar.get_width():.4f}" in said.out for bar in bars.patches)


def test_trials_of_one_number_are_a_curve_and_others_are_bars(
    fedrec: Callable[..., Said], tmp_path: Path, drawn: list[Any]
) -> None:
    for number, grid in enumerate((["reg=1,10,100"], ["reg=1,10", "alpha=0,0.5"])):
        words = [word for text in grid for word in ("--grid", text)]
        said = fedrec("tune", "--data", DATA, "--model", "ease", *words, "--out", tmp_path / f"run-{number}",
                      "--plot", tmp_path / f"{number}.png")  # fmt: skip
        assert said.code == 0, said.err
    curve, bars = drawn
    assert (curve.get_xscale(), curve.get_xlabel()) == ("log", "reg")
    assert len(bars.patches) == 4
    assert [bar.get_hatch() for bar in bars.patches].count("//") == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("curve.gif", r"the name of a picture ends with \.png, \.svg or \.pdf"),
        ("curve", r"the name of a picture ends with"),
        ("nowhere/curve.png", r"there is no folder .*nowhere"),
    ],
)
def test_a_picture_that_cannot_be_saved_is_refused_before_the_work(
    name: str, words: str, fedrec: Callable[..., Said], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        canvas.check_picture(tmp_path / name)
    said = fedrec("train", "--data", DATA, "--model", "ease", "--out", tmp_path / "run", "--set", "evaluation.every=1",
                  "--plot", tmp_path / name)  # fmt: skip
    assert said.code == 2
    assert not (tmp_path / "run").exists()


def test_a_training_without_validations_has_no_curve(fedrec: Callable[..., Said], tmp_path: Path) -> None:
    said = fedrec("train", "--data", DATA, "--model", "ease", "--out", tmp_path / "run", "--plot", tmp_path / "x.png")
    assert (said.code, said.out) == (2, "")
    assert "add --set evaluation.every=1" in said.err
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="no round of this training was validated"):
        training.draw_training("x", [], [{"round": 0, "metrics": {}}], tmp_path / "x.png")
