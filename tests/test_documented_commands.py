"""Commands of README and pages work as they are written, in a fresh folder, on small data of the names they name."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import typer.main

from conftest import Said
from encoders_in_test import transformer
from fedrec.benchmarks.catalogue import benchmark
from fedrec.cli.main import app
from fedrec.cli.options import build_plan, split_list
from fedrec.federation.plan import Plan
from fedrec.record.keys import SigningKey
from fedrec.runs.training import train_run
from pages_in_test import (
    PAGES,
    Command,
    commands_in_blocks,
    commands_in_sentences,
    named_sets,
    other_files,
    small_table,
)

Fedrec = Callable[..., Said]
CHEAPER = {
    "README.md": {"rank=1536": "rank=16", "--seeds 5": "--seeds 2"},
    "docs/large-models.md": {
        "rounds=21": "rounds=3",
        "rounds=20": "rounds=2",
        "users=2000,items=600": "users=300,items=150",
    },
    "docs/asynchronous.md": {"rounds=200": "rounds=10"},
    "docs/own-model.md": {"BagOfItems --set rounds=30": "BagOfItems --set rounds=4"},
    "docs/secure-aggregation.md": {"--model mf": "--model mf --set rounds=5"},
    "docs/sequences.md": {"[slit, sasrec]": "[slit, {name: sasrec, rounds: 6}]"},
    "docs/torch.md": {
        "rounds=300": "rounds=6",
        "rounds=1514": "rounds=6",
        "--model neumf": "--model neumf --set rounds=6",
        "--epsilon 8": "--set rounds=6 --epsilon 8",
    },
    "docs/forgetting.md": {"--data synthetic": "--data synthetic:users=100,items=50,interactions_per_user=10"},
    "docs/pages.md": {"synthetic": "synthetic:users=100,items=50,interactions_per_user=10", "rounds=20": "rounds=2"},
    "docs/serving.md": {"--data synthetic": "--data synthetic:users=100,items=50,interactions_per_user=10"},
    "docs/networks.md": {
        "--models ease,ials": "--set autoencoder.rounds=6 --set lightgcn.rounds=6 --models ease,ials",
        "--model lightgcn": "--model lightgcn --set rounds=6",
        "train --data clicks.csv --model blend": "train --data clicks.csv --model blend "
        "--set 'models=[ease, {name: autoencoder, rounds: 6}]'",
        "rounds=100": "rounds=6",
        "rounds: 100": "rounds: 6",
    },
}
"""What the tests put in the place of words of a page's commands, so that they take a second."""
ELSEWHERE = {
    "*: train --data 'postgresql:*": "asks a server elsewhere",
    "*: train --federation *": "needs a federation that is up: test_documented_federation.py",
    "*: recommend shop-*": "needs a federation that is up: test_documented_federation.py",
    "docs/deploy.md: verify run": "needs a federation that is up: test_documented_federation.py",
    "*: federation start *": "runs until it is stopped: test_documented_federation.py",
    "*: serve *": "runs until it is stopped: test_serving_processes.py",
    "*: pages *": "runs until it is stopped: test_pages.py",
    "*: node start *": "runs until it is stopped: test_documented_federation.py",
    "docs/large-models.md: */models/*": "reads a model of language: test_commands_that_read_a_model_of_language_work",
    "docs/large-models.md: * lora-run *": "follows one that reads a model of language",
    "docs/large-models.md: train * items.parquet *": "follows one that reads a model of language",
    "docs/*: forget RUN --asked *": "reads the log of a server: test_users_who_asked_a_server_are_forgotten",
    "*: federation status *": "asks a server: test_documented_federation.py",
    "*: train * --track *": "needs a library that is no part of the development environment",
}
"""Commands that are not run in this file, and why."""
LONG = {
    "*: federation demo *": "starts processes",
    "*: demo --loop *": "starts a server and plays 20,000 visits",
    "*: bench serve*": "trains large models and starts processes",
    "*: bench transport": "starts processes",
    "*: bench pfedrec-round *": "measures for a minute",
    "*: audit plan.yaml --attack coordinator": "plays many federations",
    "docs/torch.md: audit *": "plays hundreds of rounds with canaries",
    "docs/own-model.md: train * masked-*": "the same with masks, six models more",
}
"""Commands that are run by the exhaustive test only, and why."""
REFUSED = "*: node check *--plan plan.yaml"
"""Ends with 2: the node has no other parties yet, and says so."""


def _blocks() -> Iterator[Command]:
    for page in PAGES:
        yield from commands_in_blocks(page)


def is_of(patterns: Collection[str], command: Command) -> bool:
    return any(fnmatchcase(f"{command.page}: {command}", pattern) for pattern in patterns)


def by_default(command: Command) -> bool:
    return not is_of([*ELSEWHERE, *LONG], command)


def pages_with(wanted: Callable[[Command], bool]) -> list[str]:
    return [page for page in PAGES if any(map(wanted, commands_in_blocks(page)))]


def words_for(command: Command, printed: str) -> list[str]:
    """The words of a command, some of them made cheaper, and every key NAME+… as an earlier command printed it."""
    text = str(command)
    for words, instead in CHEAPER.get(command.page, {}).items():
        text = text.replace(words, instead)
    return [_key(word.partition("+")[0], printed) if word.endswith("…") else word for word in shlex.split(text)]


def _key(name: str, printed: str) -> str:
    found = re.search(rf"{name}\+[0-9a-f]{{8}}\+[\w/+=]+", printed)
    return found[0] if found else str(SigningKey(name, name.ljust(32).encode()).public())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Named sets in `sets`, and a finished run `RUN`."""
    folder = tmp_path_factory.mktemp("small")
    named_sets(folder / "sets")
    small_table().write_csv(folder / "likes.csv")
    train_run(Plan.make({"data": {"source": str(folder / "likes.csv")}, "model": {"name": "ease"}}), folder / "RUN")
    return folder


@pytest.fixture
def fresh(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that holds the run `RUN` and nothing else; named sets are found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDREC_CACHE", str(small / "sets"))
    monkeypatch.delenv("FEDREC_DATA", raising=False)
    monkeypatch.setenv("FEDREC_MODELS", "")
    shutil.copytree(small / "RUN", "RUN")
    return tmp_path


def run_commands(page: str, wanted: Callable[[Command], bool], fresh: Path, fedrec: Fedrec) -> None:
    """Run commands of a page in the order in which they stand there.

    Attacks of an audit are drawn anew each time: of many audits some find a promise beaten by chance, and end with 1.
    """
    other_files(fresh, page)
    printed = ""
    for command in filter(wanted, commands_in_blocks(page)):
        if command.out is not None:
            shutil.rmtree(command.out, ignore_errors=True)  # a page may show two ways to a run
        if "--receipts" in command.words:
            shutil.copy("run/private/node-0/receipts.jsonl", "receipts.jsonl")
        done = fedrec(*words_for(command, printed))
        if is_of([REFUSED], command):
            assert (done.code, "This node would refuse the plan" in done.out) == (2, True)
        elif command.words[0] == "audit" and re.search(r"\bfail$", done.out, re.MULTILINE):
            assert done.code == 1
        else:
            assert done.code == 0, f"{page}, line {command.line}: {command}\n{done.err}{done.out}"
        assert command.out is None or (Path(command.out) / "plan.yaml").is_file()
        assert " ".join(command.prints.split()) in " ".join(done.out.split())
        printed += done.out


@pytest.mark.parametrize("page", pages_with(by_default))
def test_commands_of_a_page_work(page: str, fresh: Path, fedrec: Fedrec) -> None:
    run_commands(page, by_default, fresh, fedrec)


@pytest.mark.text
@pytest.mark.filterwarnings("ignore")  # what transformers warns of
def test_commands_that_read_a_model_of_language_work(
    fresh: Path, fedrec: Fedrec, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "docs/large-models.md"
    encoder, causal = (
        transformer(Path("encoder")),
        transformer(Path("causal"), "LlamaForCausalLM", num_key_value_heads=2),
    )
    instead = {"/models/all-MiniLM-L6-v2": str(encoder), "/models/SmolLM2-135M-Instruct": str(causal)}
    monkeypatch.setitem(CHEAPER, page, {**instead, "--model adapter": "--model adapter --set rounds=3"})
    run_commands(page, lambda command: is_of(["*/models/*", "*items.parquet*", "* lora-run *"], command), fresh, fedrec)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")  # what NVFlare's own threads warn of
@pytest.mark.parametrize("page", pages_with(lambda command: is_of(LONG, command)))
def test_commands_of_a_page_that_take_long_work(page: str, fresh: Path, fedrec: Fedrec) -> None:
    run_commands(page, lambda command: is_of(LONG, command), fresh, fedrec)


def parse(words: list[str]) -> dict[str, Any]:
    """What a command line says, by parameter; fails where a command, option or argument is wrong."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    return dict(command.make_context(name, words).params)


def options_of(words: list[str]) -> set[str]:
    """Options of the command that a line begins with, which may end anywhere."""
    command: Any = typer.main.get_command(app)
    for word in words:
        if not hasattr(command, "commands"):
            break
        command = command.commands[word]
    return {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("command", [command for command in _blocks() if not by_default(command)], ids=str)
def test_names_options_and_keys_of_other_commands_are_known(command: Command, fresh: Path) -> None:
    other_files(fresh, command.page)
    said = parse(list(command.words))
    if command.words[0] == "bench":
        assert benchmark(said["name"])
    if "split" in said and said["model"] is not None:
        changes: dict[str, Any] = {"split": said["split"], "evaluation.protocol": said["protocol"]}
        changes["evaluation.metrics"] = split_list(said["metrics"])
        if said.get("epsilon") is not None:
            changes |= {"privacy.epsilon": said["epsilon"], "privacy.delta": said["delta"]}
        assert build_plan(None, {"source": "clicks.csv"}, said["model"], changes, said["set_"] or [])


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_in_sentences_are_known(page: str) -> None:
    for command in commands_in_sentences(page):
        known = options_of([word for word in command.words if word != "…"])
        wrong = [word for word in command.words if re.match(r"--?[a-z]", word) and word not in known]
        assert wrong == [], f"{page}, line {command.line}: fedrec {command}"


def test_every_exception_is_met_by_a_command() -> None:
    lines = [f"{command.page}: {command}" for command in _blocks()]
    assert [
        pattern for pattern in [*ELSEWHERE, *LONG, REFUSED] if not any(fnmatchcase(line, pattern) for line in lines)
    ] == []
    for page, words in CHEAPER.items():
        assert [word for word in words if not any(word in str(one) for one in commands_in_blocks(page))] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("trian --data x", "trian"),
        ("train --dta x", "No such option"),
        ("similar run", "Missing parameter: item"),
        ("privacy plan --delta nine", "valid number"),
    ],
)
def test_a_wrong_command_would_be_found(words: str, says: str) -> None:
    with pytest.raises(Exception, match=says):
        parse(words.split())
