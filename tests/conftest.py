"""What several test files share: real data where it is at hand, and the command line in this process."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedrec.cli import main
from fedrec.models import own

collect_ignore = ["typed_program.py"]  # for type checkers, see tests/test_public_types.py

_MEMORY = Path("/dev/shm")
_ROOM = 4 << 30
"""Bytes that must be free in memory for the folders of tests to live there."""


gc.disable()  # what is imported and collected lives until the end: to look for garbage in it takes a tenth of the time


def pytest_collection_finish() -> None:
    """Look for garbage from now on, and in nothing of what was collected."""
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """Let tests write to memory where there is room: runs flush every line, and on a disk that is half of the time."""
    if config.option.basetemp is not None or hasattr(config, "workerinput") or not _MEMORY.is_dir():
        return
    if shutil.disk_usage(_MEMORY).free >= _ROOM:
        config.option.basetemp = tempfile.mkdtemp(prefix="fedrec-tests-", dir=_MEMORY)
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


_LONGEST_FIRST = (
    "test_federation_processes", "test_contract", "test_federation_kills", "test_deploy", "test_federation_faults",
    "test_kills", "test_documented_commands", "test_accounting", "test_databases_postgresql",
    "test_federation", "test_library", "test_lost_slots", "test_bad_input", "test_cli", "test_secure_runs",
    "test_progress", "test_private_runs", "test_record_runs", "test_asynchronous_kills", "test_fuzz_folders",
    "test_audit_coordinator",
)  # fmt: skip
"""Files that begin before all others, so that no worker is left alone with one of them at the end. Those that wait for
processes stand between those that compute."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the files that take longest first; others stay in their order."""
    places = {name: place for place, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@dataclass(frozen=True)
class Said:
    """What a command left: exit code, standard output and standard error."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _own_models() -> Iterator[None]:
    """Models of a test's own classes are known to that test only."""
    registered = own._registered
    before = dict(registered)
    yield
    registered.clear()
    registered.update(before)


@pytest.fixture(scope="session")
def real() -> Callable[[str], Path]:
    """The folder of a real data set; skips the test where it is not on this machine."""

    def folder(name: str) -> Path:
        root = os.environ.get("FEDREC_DATA")
        if root is None or not (Path(root) / name).is_dir():
            pytest.skip(f"the data set {name} is not in FEDREC_DATA")
        return Path(root) / name

    return folder


@pytest.fixture
def fedrec(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the `fedrec` command in this process; models of a test's own files are forgotten after it."""
    monkeypatch.setenv("FEDREC_MODELS", os.environ.get("FEDREC_MODELS", ""))

    def call(*arguments: object) -> Said:
        monkeypatch.setattr("sys.argv", ["fedrec", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main.run()
        except SystemExit as end:
            code = 0 if end.code is None else int(end.code)
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return call
