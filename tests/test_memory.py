"""Models that do not fit are refused before training: what they need, and what this process may use."""

from __future__ import annotations

import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedrec as fr
from conftest import Said
from fedrec.data.catalog import Catalog
from fedrec.data.identifiers import Identifiers
from fedrec.engines import memory
from fedrec.engines.memory import check_memory, usable_memory
from fedrec.errors import PlanError
from fedrec.estimators.estimator import estimator
from fedrec.models.registry import MODELS, build_model

ITEMS = 30_000
SETTINGS: dict[str, dict[str, Any]] = {
    "ease": {"rank": 32}, "spectral": {"rank": 32}, "ials": {"embedding_size": 16, "rounds": 1},
    **{name: {"rounds": 1} for name in ("fcf", "fedncf", "fedrap", "fedrecon", "gpfedrec", "mf", "pfedrec")},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_model_says_at_least_half_of_what_it_needs(name: str) -> None:
    catalog = Catalog(Identifiers.of(range(ITEMS)))
    table = fr.synthetic(users=60, items=100, interactions_per_user=5).to_frame()
    data = fr.interactions_from(table, catalog=catalog)
    tracemalloc.start()
    try:
        estimator(name)(**SETTINGS[name]).fit(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    said = build_model(name, SETTINGS[name]).cost(ITEMS).memory
    assert 0.5 * peak <= said <= 12 * peak, f"says {said / 2**20:.0f} MiB, needs {peak / 2**20:.0f} MiB"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1048576\n"},
        {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "1048576\n",
         "sys/fs/cgroup/a/b/memory.max": "max\n"},
        {"proc/self/cgroup": "3:cpu:/x\n2:memory:/docker/9\n",
         "sys/fs/cgroup/memory/memory.limit_in_bytes": "1048576\n"},
        {"proc/self/cgroup": "0::/../../c\n", "sys/fs/cgroup/c/memory.max": "9999999\n",
         "sys/fs/cgroup/memory.max": "1048576\n"},
    ],
)  # fmt: skip
def test_the_limit_of_a_container_counts(files: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, files)
    assert usable_memory(tmp_path) == (2**20, "the limit of this container (cgroup) is")


def test_without_limits_it_is_the_machine(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"})
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    found, whose = usable_memory(tmp_path)
    assert whose == "this machine has" or found == limit
    assert usable_memory(tmp_path / "nowhere") == (found, whose)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_what_does_not_fit_is_refused_before_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "usable_memory", lambda: (2**20, "the limit of this container (cgroup) is"))
    with pytest.raises(PlanError, match=rf"{name}.* the limit of this container \(cgroup\) is 0\.0 GiB"):
        check_memory(build_model(name, {}), 200_000)


def test_the_address_space_of_a_process_counts(fedrec: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**20, 2**20))
    said = fedrec("train", "--data", "synthetic:users=200,items=400", "--model", "ease", "--out", "never")
    assert said.code == 2
    assert "(ulimit -v) is 0.0 GiB" in said.err
