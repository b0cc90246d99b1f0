"""Compiled kernels are kept by what they were compiled from, where this user may write."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fedrec.kernels
from fedrec.kernels.cache import fingerprint, imported_kernels
from fedrec.kernels.compiling import _imported_by_none, kernel_modules

KERNELS = Path(fedrec.kernels.__file__).parent
INNER = """import numba

@numba.njit(inline="always")
def added(value):
    return value + {number}.0
"""
OUTER = """from fedrec.kernels.inner import added
from fedrec.kernels.threads import kernel

@kernel("float64(float64)")
def outer(value):
    return added(value)
"""
CALL = "from fedrec.kernels.outer import outer; print(outer(1.0))"


def small_package(folder: Path, number: int) -> Path:
    """A package with two kernels in two files, one of which takes in the other."""
    home = folder / "fedrec" / "kernels"
    home.mkdir(parents=True)
    (home.parent / "__init__.py").touch()
    for name in ("__init__", "threads", "cache"):
        shutil.copy(KERNELS / f"{name}.py", home)
    (home / "inner.py").write_text(INNER.format(number=number))
    (home / "outer.py").write_text(OUTER)
    return home


def called(package: Path, cache: Path | None, **changes: str) -> str:
    kept = {} if cache is None else {"NUMBA_CACHE_DIR": str(cache)}
    environment = {**os.environ, "PYTHONPATH": str(package.parents[1]), **kept, **changes}
    done = subprocess.run([sys.executable, "-c", CALL], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.strip()


def test_a_change_in_a_file_that_a_kernel_takes_in_is_noticed_and_both_are_kept(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, second = small_package(tmp_path / "a", 1), small_package(tmp_path / "b", 2)
    assert called(first, cache) == "2.0"
    assert called(second, cache) == "3.0"
    kept = sorted(cache.iterdir())
    assert len(kept) == 4, "an index and a kernel of each version"
    (first / "inner.py").write_text(INNER.format(number=2))
    assert called(first, cache) == "3.0"
    assert sorted(cache.iterdir()) == kept, "the copy found what the other compiled"


def test_the_name_of_a_kernel_is_of_all_files_that_it_imports(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    for name, text in zip(
        names, ("from fedrec.kernels.b import x\n", "from fedrec.kernels.c import y\n", ""), strict=True
    ):
        (tmp_path / f"{name}.py").write_text(text)
    before = [fingerprint(tmp_path / f"{name}.py") for name in names]
    fingerprint.cache_clear()
    (tmp_path / "c.py").write_text("y = 2\n")
    after = [fingerprint(tmp_path / f"{name}.py") for name in names]
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_a_folder_that_cannot_be_made_is_passed_over(tmp_path: Path) -> None:
    package = small_package(tmp_path / "a", 1)
    (tmp_path / "file").touch()
    assert called(package, None, XDG_CACHE_HOME=str(tmp_path / "file"), NUMBA_CACHE_DIR="") == "2.0"
    assert list((package / "__pycache__").glob("*.nbc"))


def test_every_file_with_kernels_is_compiled_with_the_others() -> None:
    with_kernels = {
        path.stem
        for path in KERNELS.glob("*.py")
        if re.search(r"^@kernel\(|parallel_kernel\(", path.read_text(), re.MULTILINE) and path.stem != "threads"
    }
    there = {name.rpartition(".")[2] for name in kernel_modules()}
    assert with_kernels <= there


def test_no_two_processes_compile_the_same_large_module() -> None:
    heads = [name.rpartition(".")[2] for name in _imported_by_none()]
    taken_in: dict[str, set[str]] = {}
    for head in heads:
        queue = [KERNELS / f"{head}.py"]
        while queue:
            file = queue.pop()
            queue += imported_kernels(file)
            taken_in.setdefault(file.stem, set()).add(head)
    assert {name.rpartition(".")[2] for name in kernel_modules()} <= taken_in.keys(), "every module is compiled"
    for large in ("factors", "least_squares", "sums", *heads):
        assert len(taken_in[large]) == 1, large
