"""Arrays of a folder that somebody else made: whatever they hold, they are refused before a kernel touches them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from conftest import Said
from fedrec.data.catalog import Catalog
from fedrec.errors import DamagedError, InputError
from fedrec.federation.fitting import Fitting
from fedrec.federation.run import read_plan
from fedrec.record.durable import check_plain, load_arrays, save_arrays
from fedrec.record.ledger import rooted_line
from fedrec.record.merkle import Tree
from fedrec.runs.saved import open_run
from fedrec.runs.training import train_run
from runs_in_test import each_kind, small_plan

SMALL = "synthetic:users=80,items=40,interactions_per_user=10,seed=1,ratings=true"


@pytest.fixture(scope="module", params=each_kind())
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "run"
    train_run(small_plan(request.param, data={"source": SMALL}, evaluation={}, release=[]), folder)
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def crafted(array: np.ndarray) -> Iterator[np.ndarray]:
    """Arrays of other shapes, types and values."""
    yield array[:1].copy()
    yield np.concatenate([array, array])
    yield array.reshape(-1)[:, None].copy() if array.ndim == 1 else array.reshape(-1).copy()
    yield array.astype(np.float64 if array.dtype == np.float32 else np.float32)
    yield np.zeros((10**12, 0), dtype=array.dtype)
    if array.size and array.dtype.kind in "fi":
        bad = array.copy()
        bad.reshape(-1)[-1] = np.nan if array.dtype.kind == "f" else 2**30
        yield bad


def put(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Make `model/` hold other arrays, with the digest that belongs to them."""
    said = json.loads((folder / "model" / "model.json").read_text())
    said["shared"] = save_arrays(folder / "model" / "shared.safetensors", arrays)
    (folder / "model" / "model.json").write_text(json.dumps(said))


def test_crafted_shared_arrays_are_refused_by_name(copied: Path) -> None:
    honest = load_arrays(copied / "model" / "shared.safetensors")
    for name, array in honest.items():
        for wrong in crafted(array):
            if (wrong.shape, wrong.dtype) != (array.shape, array.dtype) or not np.array_equal(wrong, array):
                put(copied, {**honest, name: wrong})
                with pytest.raises(DamagedError, match=rf"shared\.safetensors: shared array '{name}'"):
                    open_run(copied)
        put(copied, {key: value for key, value in honest.items() if key != name})
        with pytest.raises(DamagedError, match=r"shared array"):
            open_run(copied)
    put(copied, {**honest, "extra": np.zeros(1)})
    with pytest.raises(DamagedError, match=r"shared array 'extra' is none of"):
        open_run(copied)
    put(copied, honest)
    assert fr.load_model(copied).recommend(n=2).height


def test_what_a_training_goes_on_from_is_held_to_the_model(copied: Path) -> None:
    found = list((copied / "checkpoint").iterdir())
    kept = open_run(copied).trained.round
    path = copied / "checkpoint" / f"server-{kept:06d}.safetensors"
    assert found in ([], [path]), "model/ has the rest"
    honest = load_arrays(path) if found else {}
    opened = open_run(copied)
    state = opened.as_earlier("run")[0].state
    Fitting(opened.agreement).check_state(state)
    assert {f"server.{name}" for name in state.server} == honest.keys()
    for name, array in honest.items():
        for wrong in crafted(array):
            if (wrong.shape, wrong.dtype) != (array.shape, array.dtype) or not np.array_equal(wrong, array):
                save_arrays(path, {**honest, name: wrong})
                with pytest.raises(DamagedError, match=f"server array '{name[7:]}'"):
                    open_run(copied).as_earlier("run")
        if array.dtype.kind == "f":
            save_arrays(path, {**honest, name: array + 1})
            with pytest.raises(DamagedError, match="is not what the ledger committed"):
                open_run(copied).as_earlier("run")
    for name, said in (("server.extra", "server array 'extra'"), ("shared.x", "holds shared arrays"),
                       ("neither.x", r"'neither\.x' is neither a shared nor a server array")):  # fmt: skip
        save_arrays(path, {**honest, name: np.zeros(1)})
        with pytest.raises(DamagedError, match=said):
            open_run(copied).as_earlier("run")
        assert fr.load_model(copied).recommend(n=2).height, "who recommends reads none of it"


def test_crafted_private_rows_are_refused(copied: Path) -> None:
    path = copied / "private" / "node-0" / "base.safetensors"
    if not path.exists():
        assert not open_run(copied).model.shapes(40).rows
        return
    honest = load_arrays(path)
    for name, array in honest.items():
        for wrong in crafted(array):
            same = wrong.shape == array.shape and wrong.dtype == array.dtype
            if not same or (array.dtype.kind == "i" and name != "__round"):
                save_arrays(path, {**honest, name: wrong})
                with pytest.raises(DamagedError, match=r"base\.safetensors"):
                    open_run(copied)
    if "own.items" in honest and honest["own.lengths"][0] > 1:
        twice = honest["own.items"].copy()
        twice[1] = twice[0]
        save_arrays(path, {**honest, "own.items": twice})
        with pytest.raises(DamagedError, match="an item of a client twice"):
            open_run(copied)
    for round in (-2, 2**40):
        save_arrays(path, {**honest, "__round": np.array([round])})
        with pytest.raises(DamagedError, match="__round must be one whole number"):
            open_run(copied)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "run"
    train_run(small_plan("itemknn", data={"source": SMALL}), folder)
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [("items", 10**12), ("items", True), ("items", 10**4000), ("round", -2), ("round", 10**400), ("round", "0"),
     ("format", [1]), ("shared", None), ("model", {"name": "itemknn", "neighbours": 10**12}), ("model", [["name", 1]]),
     ("catalog", {})],
)  # fmt: skip
def test_a_model_json_with_hostile_values_is_damage(
    small: Path, tmp_path: Path, fedrec: Callable[..., Said], key: str, value: Any
) -> None:
    shutil.copytree(small, tmp_path / "run")
    path = tmp_path / "run" / "model" / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    said = fedrec("recommend", tmp_path / "run", "--user", "1")
    assert said.code == 2
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    "name", ["model/model.json", "model/shared.safetensors", "model/catalog.jsonl", "ledger.jsonl"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_pipe_or_a_device_in_a_run_is_not_read(
    small: Path, tmp_path: Path, fedrec: Callable[..., Said], name: str, kind: str
) -> None:
    shutil.copytree(small, tmp_path / "run")
    path = tmp_path / "run" / name
    path.unlink()
    {"pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero"), "folder": path.mkdir}[kind]()
    for words in (("recommend", tmp_path / "run", "--user", "1"), ("train", "--resume", "--out", tmp_path / "run")):
        said = fedrec(*words)
        if not (name == "ledger.jsonl" and words[0] == "recommend"):
            assert said.code in (1, 2)
        assert "Traceback" not in said.err


@pytest.mark.parametrize("name", ["ledger.jsonl", "checkpoint", "private/node-0", "progress.jsonl", ".lock"])
def test_a_link_in_a_run_leads_no_writing_elsewhere(small: Path, tmp_path: Path, name: str) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(small, run)
    shutil.move(run / name, outside) if (run / name).exists() else outside.write_bytes(b"no line")
    (run / name).symlink_to(outside)
    before = sorted((path, path.stat().st_mtime_ns) for path in (outside, *outside.rglob("*")))
    with pytest.raises(DamagedError, match="is a link, a pipe or a device"):
        train_run(read_plan(run), run, resume=True)
    with pytest.raises(DamagedError, match=name):
        check_plain(run)
    assert sorted((path, path.stat().st_mtime_ns) for path in (outside, *outside.rglob("*"))) == before


@pytest.mark.parametrize(("old", "new"), [("seed: 5", "seed: 6"), (r"n_max: \d+", ""), (r"n_max: \d+", "n_max: 81")])
def test_a_run_does_not_go_on_under_another_plan(small: Path, tmp_path: Path, old: str, new: str) -> None:
    shutil.copytree(small, tmp_path / "run")
    path = tmp_path / "run" / "plan.yaml"
    text, times = re.subn(old, new, path.read_text())
    assert times == 1
    path.write_text(text)
    with pytest.raises(DamagedError, match=r"plan\.yaml"):
        train_run(read_plan(tmp_path / "run"), tmp_path / "run", resume=True)


@pytest.mark.parametrize("name", ["private", "private/node-0"])
def test_a_link_in_the_private_part_of_a_run_is_not_followed(small: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(small, tmp_path / "run")
    shutil.move(tmp_path / "run" / name, tmp_path / "outside")
    (tmp_path / "run" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(DamagedError, match="is a link, a pipe or a device"):
        open_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("kind", "change"),
    [("round", {"bytes": "x"}), ("round", {"bytes": {"plain_per_node": {"up": "1"}}}), ("round", {"left_out": "1"}),
     ("round", {"cohort": None}), ("round", {"round": 5}), ("start", {"kind": "round"}), ("round", {"nodes": 3}),
     ("round", {"checkpoint": 1})],
)  # fmt: skip
def test_a_run_does_not_go_on_from_lines_that_say_something_else(
    small: Path, tmp_path: Path, kind: str, change: dict[str, Any]
) -> None:
    shutil.copytree(small, tmp_path / "run")
    path, tree, lines = tmp_path / "run" / "ledger.jsonl", Tree(), []
    for text in path.read_text().splitlines():
        line = json.loads(text)
        del line["root"]
        lines.append(rooted_line(json.dumps({**line, **change} if line["kind"] == kind else line), tree))
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(DamagedError, match=r"ledger\.jsonl, line"):
        train_run(read_plan(tmp_path / "run"), tmp_path / "run", resume=True)


def test_truth_values_that_are_neither_are_damage(tmp_path: Path) -> None:
    save_arrays(tmp_path / "x.safetensors", {"served": np.array([True, False, True])})
    data = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(data[:-1] + b"\x07")
    with pytest.raises(DamagedError, match="neither 0 nor 1"):
        load_arrays(tmp_path / "x.safetensors")


def test_a_catalog_whose_lines_have_keys_of_their_own_is_no_catalog() -> None:
    same = b"".join(b'{"item_id":%d,"title":"a \\": b"}\n' % item for item in range(3000))
    assert len(Catalog.from_json_lines(same, "here")) == 3000
    own = b"".join(b'{"item_id":%d,"k%d":1}\n' % (item, item) for item in range(3000))
    nested = b"".join(b'{"item_id":%d,"k":{"k%d":1}}\n' % (item, item) for item in range(3000))
    for text in (own, nested):
        with pytest.raises(DamagedError, match="here is not a catalog: its lines have different keys"):
            Catalog.from_json_lines(text, "here")


def test_a_catalog_nested_too_deep_is_damage_that_names_the_line() -> None:
    brackets = b"".join(b'{"item_id":%d,"title":"[[[[[[[[[[{{"}\n' % item for item in range(3))
    assert Catalog.from_json_lines(brackets, "here").title(2) == "[[[[[[[[[[{{"
    for opened, closed in ((b"[", b"]"), (b'{"a":', b"}")):
        deep = brackets + b'{"item_id":3,"more":' + opened * 40 + b"1" + closed * 40 + b"}\n"
        with pytest.raises(DamagedError, match="here is not a catalog: line 4 is nested deeper than 8 levels"):
            Catalog.from_json_lines(deep, "here")


def test_a_catalog_is_written_only_as_deep_as_it_is_read() -> None:
    def nested(levels: int) -> Catalog:
        kind = pl.Series([1])
        for _ in range(levels):
            kind = kind.implode()
        return Catalog.of(pl.DataFrame({"item_id": [7], "feature": kind}))

    assert Catalog.from_json_lines(nested(7).to_json_lines(), "here").features is not None
    with pytest.raises(InputError, match="feature 'feature' of the catalog holds lists or structs nested deeper"):
        nested(8)
