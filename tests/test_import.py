"""`import fedrec` is light, and every public name is where it is said to be."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import fedrec as fr

HEAVY = ("numba", "polars", "scipy", "pydantic", "typer", "torch", "numpy", "pandas", "yaml", "rich", "safetensors")


def loaded_after(code: str) -> set[str]:
    """Top-level modules in a fresh process after `code`."""
    report = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_import_loads_nothing_heavy() -> None:
    assert not loaded_after("import fedrec") & set(HEAVY)


def test_the_command_line_starts_without_the_rest() -> None:
    assert not loaded_after("import fedrec.cli.main") & {"numba", "polars", "scipy", "pydantic", "torch", "numpy"}


@pytest.mark.parametrize("module", ["fedrec.deploy.server_process", "fedrec.network.nvflare.mailslots"])
def test_processes_that_only_hand_on_load_no_data_or_kernels(module: str) -> None:
    """There is one mail slot for every node of a federation, and each is counted in memory."""
    assert not loaded_after(f"import {module}") & {"numba", "polars", "scipy", "pydantic", "torch"}


def test_every_public_name_is_there() -> None:
    assert set(fr.__all__) == set(dir(fr))
    for name in fr.__all__:
        assert getattr(fr, name) is not None
    with pytest.raises(AttributeError, match="Did you mean 'EASE'"):
        fr.EASSE  # noqa: B018


def test_every_model_has_its_estimator() -> None:
    from fedrec.models.registry import MODELS

    for home in MODELS.values():
        assert home.partition(":")[2] in fr.__all__
