"""A disk that fills up, a folder that cannot be written: which one is said, and nothing half-made stays."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import fedrec as fr
from conftest import Said
from fedrec.cli import main
from fedrec.errors import FedrecError
from fedrec.record.durable import append_line, replace_file

Call = Callable[..., Said]
DATA = "synthetic:users=300,items=400,interactions_per_user=10"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk on which no file grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_file_that_does_not_fit_is_named_and_leaves_nothing() -> None:
    path = Path("big")
    path.write_bytes(b"before")
    with files_of_at_most(1000), pytest.raises(OSError, match="big") as error:
        replace_file(path, b"x" * 10_000)
    assert error.value.filename == "big"
    assert [file.name for file in Path().iterdir()] == ["big"]
    assert path.read_bytes() == b"before"
    append_line(Path("log"), "first")
    with files_of_at_most(8), pytest.raises(OSError, match="log"):
        append_line(Path("log"), "x" * 100)
    assert Path("log").read_bytes() == b"first\n", "a line is there whole or not at all"


def test_a_training_that_does_not_fit_leaves_no_folder_and_can_be_said_again(fedrec: Call) -> None:
    command = ("train", "--data", DATA, "--model", "ease", "--out", "run", "-q")
    with files_of_at_most(100_000):
        said = fedrec(*command)
    assert said.code == 1
    assert "run/checkpoint" in said.err
    assert not Path("run").exists()
    assert fedrec(*command).code == 0
    for name in ("r.parquet", "r.csv", "r.jsonl"):
        with files_of_at_most(2_000):
            said = fedrec("recommend", "run", "--all-users", "-n", 50, "--to", name)
        assert said.code == 1
        assert said.err.startswith(f"fedrec: {name} cannot be written")
        assert not list(Path().glob("*r.*"))


def test_a_model_that_does_not_fit_is_not_half_saved() -> None:
    model = fr.EASE().fit(fr.synthetic(users=300, items=400, interactions_per_user=10))
    with files_of_at_most(2_000), pytest.raises(OSError, match="run/private/interactions"):
        model.save("run")
    assert not Path("run").exists()


@pytest.mark.parametrize("out", ["file/run", "file/a/b"])
def test_tuning_tries_its_folder_before_it_trains(out: str, fedrec: Call) -> None:
    Path("file").touch()
    said = fedrec("tune", "--data", DATA, "--model", "ease", "--grid", "reg=1,10", "--out", out)
    assert said.code == 2
    assert f"{out} cannot be made" in said.err
    assert "reg=1" not in said.err


def test_too_little_memory_is_said_in_one_line(fedrec: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy() -> None:
        raise MemoryError("Unable to allocate 3.64 TiB")

    monkeypatch.setattr(main, "_command", lambda name: lambda prog_name: greedy())
    said = fedrec("doctor")
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "3.64 TiB" in said.err


def test_ids_come_as_utf8_in_any_locale(fedrec: Call) -> None:
    """Where the locale is not UTF-8, Python hands over surrogates in place of bytes."""
    Path("log.csv").write_text("user,item\njosé,a\njosé,b\nann,a\n", encoding="utf-8")
    assert fedrec("train", "--data", "log.csv", "--model", "ease", "--split", "none", "--out", "run", "-q").code == 0
    escaped = "josé".encode().decode("ascii", "surrogateescape")
    said = fedrec("recommend", "run", "--user", escaped, "--include-seen", "-n", 10**11, "--json")
    assert said.code == 0
    assert "josé" in said.out
    refused = fedrec("recommend", "run", "--user", "jos\udce9")
    assert refused.code == 2
    assert "UTF-8" in refused.err


def test_a_parquet_error_is_an_error_of_fedrec() -> None:
    model = fr.Popularity().fit({"user": [1, 2], "item": [1, 2]})
    with files_of_at_most(10), pytest.raises(FedrecError, match="cannot be written"):
        model.save_recommendations("r.parquet")
