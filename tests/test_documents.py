"""Documents of others: whatever they hold, they are read within limits or refused with words that say where."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given, settings

from fedrec.deploy.folder import FederationFolder
from fedrec.documents import MOST_SETTINGS, DocumentError, parse_json, parse_toml, parse_yaml, read_file
from fedrec.errors import DamagedError, FedrecError, InputError
from fedrec.federation.messages import Request, open_request
from fedrec.federation.plan import Plan
from fedrec.network.nvflare.kits import identity_of
from fedrec.node.opening import Offer
from fedrec.owner.config import NodeConfig
from fedrec.record.durable import load_arrays
from fedrec.record.keys import SigningKey
from fedrec.runs.saved import open_run
from fedrec.runs.training import train_run
from fedrec.runs.verifying import verify_run
from runs_in_test import small_plan

DEEP = 100_000
LAUGHTER = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Ten lists of ten lists of …: a thousand million in three hundred bytes."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**300), 10**300) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    train_run(small_plan("popularity"), run)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


# --- the languages --------------------------------------------------------------------------------------------------


EXAMPLES = pytest.mark.parametrize("examples", [50, pytest.param(200, marks=pytest.mark.exhaustive)])


@EXAMPLES
def test_what_json_can_say_is_read_as_json_says_it(examples: int) -> None:
    @given(JSON)
    @settings(max_examples=examples, deadline=None)
    def holds(value: Any) -> None:
        text = json.dumps(value)
        assert parse_json(text) == parse_json(text.encode()) == json.loads(text)

    holds()


@EXAMPLES
def test_what_yaml_writes_is_read(examples: int) -> None:
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        )
    )
    @settings(max_examples=examples, deadline=None)
    def holds(value: Any) -> None:
        text = yaml.safe_dump(value, allow_unicode=True)
        if "&id" not in text:
            assert parse_yaml(text) == yaml.safe_load(text)

    holds()


def test_what_was_read_is_its_readers_alone() -> None:
    """The value of a text is kept, and each reader has a copy."""
    parse_yaml("a: [1]")["a"].append(2)
    assert parse_yaml("a: [1]") == {"a": [1]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHTER, "line 1: anchors and aliases"),
        ("a: 1\nb: &x 2", "line 2: anchors and aliases"),
        ("a: *x", "line 1: anchors and aliases"),
        ("- &x\n  <<: *x", "anchors and aliases"),
        ("a: !!python/object:os.system ls", "line 1: tags"),
        ("a: !!timestamp x", "line 1: tags"),
        ("a: !!bool x", "line 1: tags"),
        ("a: !!int ''", "line 1: tags"),
        ("a: !!float ''", "line 1: tags"),
        ("b: 1\na: {c: 1, c: 2}", "line 2: key 'c' appears more than once"),
        ("a: " + "[" * DEEP, "line 1: lists or mappings are nested deeper than 64 levels"),
        (
            "\n".join(" " * depth + "a:" for depth in range(80)),
            "line 64: lists or mappings are nested deeper than 64 levels",
        ),
        ("a: " + "1:" * 20_000 + "1", "line 1: a number has more than 400 characters"),
        ("a: 0x" + "f" * 100_000, "line 1: a number has more than 400 characters"),
        ("a: 2024-13-45", "month must be in 1..12"),
        ("? [a]\n: 1", "unhashable key"),
        ("a: \0", "special characters"),
        ("a: [", "line 1"),
    ],
)
def test_yaml_that_is_not_read(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=says):
        parse_yaml(text)
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(InputError, match=r"plan .*plan\.yaml cannot be read: .*" + says):
        Plan.read(tmp_path / "plan.yaml")


def test_a_plan_that_would_fill_the_memory_takes_none(tmp_path: Path, fedrec: Callable[..., Any]) -> None:
    (tmp_path / "plan.yaml").write_text(LAUGHTER)
    tracemalloc.start()
    try:
        said = fedrec("train", "--plan", tmp_path / "plan.yaml", "--out", tmp_path / "run")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert said.code == 2
    assert "anchors and aliases (& and *) are not allowed; write the value out" in said.err
    assert peak < 1 << 27


def test_a_plan_in_which_a_value_stands_twice_is_written_so_that_it_is_read(tmp_path: Path) -> None:
    plan = Plan.make({"data": {"source": "synthetic"}, "model": {"name": "ease"}, "evaluation": {"metrics": ["hr@10"]}})
    shared = plan.evaluation.metrics
    plan = plan.model_copy(update={"evaluation": plan.evaluation.model_copy(update={"metrics": shared})})
    assert "&" not in plan.to_yaml()
    (tmp_path / "plan.yaml").write_text(plan.to_yaml())
    assert Plan.read(tmp_path / "plan.yaml") == plan


def test_marks_within_text_are_text() -> None:
    assert parse_yaml('{a: "&b *c !d", b: a&b, c: a*b, d: x!y}') == {
        "a": "&b *c !d",
        "b": "a&b",
        "c": "a*b",
        "d": "x!y",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * DEEP + "]" * DEEP, "nested deeper than 64 levels"),
        ('{"a":' * DEEP + "1" + "}" * DEEP, "nested deeper than 64 levels"),
        ("[" * 65 + "]" * 65, "nested deeper than 64 levels"),
        ('{"a": [' + "[]," * (1 << 21) + "1]}", "more than 2,097,152 lists and mappings"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' appears more than once"),
        ("9" * 5000, "not JSON: .*digits"),
        ('{"a": 1', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_json_that_is_not_read(text: str | bytes, says: str) -> None:
    with pytest.raises(DocumentError, match=says):
        parse_json(text)
    if isinstance(text, str):
        with pytest.raises(DocumentError, match=says):
            parse_json(text.encode())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = " + "[" * DEEP, "nested deeper than 64 levels"),
        ("a = " + "[" * 70 + "]" * 70, "nested deeper than 64 levels"),
        (".".join("a" * 3000) + " = 1", "nested deeper than 64 levels"),
        ("a = " + "9" * 5000, "digits"),
        ("a = 1\na = 2", "overwrite"),
        ("a = ", "Invalid value"),
    ],
)
def test_toml_that_is_not_read(text: str, says: str) -> None:
    with pytest.raises(DocumentError, match=says):
        parse_toml(text)


def test_toml_is_read_as_it_says() -> None:
    text = 'a = 1\n[b]\nc = [1, 2.5, "x"]\n[[d]]\ne = true\n'
    assert parse_toml(text) == tomllib.loads(text)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_to_its_limit_and_not_beyond(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    (tmp_path / "link").symlink_to(path)
    assert read_file(path, 10) == read_file(path) == read_file(tmp_path / "link") == b"x" * 10
    with pytest.raises(DocumentError, match="longer than the allowed 9 bytes"):
        read_file(path, 9)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "absent", 9)
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path, 9)


def test_a_device_or_a_pipe_is_no_file_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        with pytest.raises(DocumentError, match="not a regular file"):
            read_file(tmp_path / name)
        with pytest.raises(DamagedError, match="not a regular file"):
            load_arrays(tmp_path / name)
        with pytest.raises(InputError, match="not a regular file"):
            Plan.read(tmp_path / name)
        with pytest.raises(InputError, match="not a regular file"):
            NodeConfig.read(tmp_path / name)


# --- whoever reads documents ----------------------------------------------------------------------------------------

HOSTILE = {
    "deep": "[" * DEEP + "]" * DEEP,
    "deep mappings": '{"a":' * DEEP + "1" + "}" * DEEP,
    "a long number": '{"kind": "start", "format": ' + "9" * 5000 + "}",
    "not text": "\udcff",
    "long": '"' + "x" * (MOST_SETTINGS + 1) + '"',
    "a list": "[]",
    "a key twice": '{"kind": "start", "kind": "end"}',
}


def hostile(path: Path, kind: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(HOSTILE[kind].encode(errors="surrogateescape"))
    return path


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize(
    "name", ["plan.yaml", "ledger.jsonl", "model/model.json", "report.json", "progress.jsonl", "model/catalog.jsonl",
             "private/placement.json", "private/federation.json", "record/files.jsonl", "record/keys",
             "record/ledger.note", "private/node-0/receipts.jsonl", "model/shared.safetensors"],
)  # fmt: skip
def test_a_run_with_a_hostile_file_is_refused_in_words(name: str, kind: str, run: Path) -> None:
    hostile(run / name, kind)
    found = verify_run(run)
    assert found.wrong is not None
    assert len(found.wrong) < 1000
    if name in ("plan.yaml", "model/model.json", "model/catalog.jsonl", "private/placement.json"):
        with pytest.raises(FedrecError, match=Path(name).name):
            open_run(run)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_line_is_named(kind: str, run: Path) -> None:
    data = (run / "ledger.jsonl").read_bytes()
    (run / "ledger.jsonl").write_bytes(data + HOSTILE[kind].encode(errors="surrogateescape") + b"\n")
    line = 1 + len(data.splitlines())
    assert str(verify_run(run).wrong).startswith(f"ledger.jsonl, line {line}: not a line of a ledger")


@pytest.mark.parametrize(
    "text", ["a = " + "[" * DEEP, "a = " + "9" * 5000, "a = 1\na = 2", "\udcff", "#" * (MOST_SETTINGS + 1)]
)
def test_the_settings_of_nodes_and_federations_are_refused_in_words(text: str, tmp_path: Path) -> None:
    for name, read in (("node.toml", lambda path: NodeConfig.read(path)),
                       ("federation.toml", lambda path: FederationFolder.open(path.parent))):  # fmt: skip
        (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(InputError, match=name):
            read(tmp_path / name)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_kit_is_none(kind: str, tmp_path: Path) -> None:
    hostile(tmp_path / "startup" / "fed_client.json", kind)
    with pytest.raises(InputError, match="is not the startup kit of a node"):
        identity_of(tmp_path)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_offer_is_not_whole(kind: str) -> None:
    with pytest.raises(FedrecError):
        Offer.read({"plan": HOSTILE[kind], "secure": False, "parties": [], "digest": ""}, [b""])


def test_a_signed_head_is_read_within_the_same_limits() -> None:
    key = SigningKey("coordinator", bytes(32))
    deep: Any = "x"
    for _ in range(100):
        deep = [deep]
    frame = Request("hello", "0" * 16, "shop", 1, {"a": deep}).sign(key).whole()
    with pytest.raises(
        DamagedError, match="head of a request cannot be read: lists or mappings are nested deeper than 64 levels"
    ):
        open_request(frame, key.public(), 1 << 20)
