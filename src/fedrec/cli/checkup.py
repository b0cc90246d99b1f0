"""Is this machine fit to run fedrec?"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.engines.memory import usable_memory

__all__ = ["checkup"]

_EXTRAS = {
    "privacy": (("dp_accounting", "cryptography"), "differential privacy"),
    "secure": (("cryptography",), "secure aggregation, signatures"),
    "deploy": (("nvflare", "cryptography"), "federations across machines"),
    "databases": (("adbc_driver_postgresql", "pyarrow"), "reading PostgreSQL"),
    "serve": (("fastapi", "uvicorn", "httptools", "jinja2", "prometheus_client"), "answers over HTTP"),
    "plots": (("matplotlib",), "pictures of audits"),
    "torch": (("torch",), "networks: sasrec, neumf, two-tower, adapter and your own"),
    "text": (("torch", "transformers", "tokenizers", "gguf"), "models of language in folders of yours"),
}
"""Extras of the package: the modules that they bring, and what they are for."""
_PACKAGES = ("fedrec", "numpy", "scipy", "numba", "polars", "pydantic", "safetensors", "threadpoolctl")


def checkup() -> dict[str, Any]:
    """Facts about this machine and what is wrong with it.

    Returns:
        `facts` by name, `extras` (`name`, `installed`, `what_for`, `install`), and a list of `problems`; an extra that
        is not installed is no problem.
    """
    problems: list[str] = []
    facts: dict[str, Any] = {
        "python": sys.version.split()[0],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    for name in _PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            problems.append(f"{name} is not installed")
    memory, whose = usable_memory()
    facts["memory"] = f"{memory / 2**30:.1f} GiB" + ("" if "machine" in whose else f" (limited by {whose})")
    facts["free disk here"] = f"{shutil.disk_usage('.').free / 2**30:.1f} GiB"
    _check_kernels(facts, problems)
    _check_blas(facts)
    _check_data(facts, problems)
    with tempfile.TemporaryDirectory() as folder:
        from fedrec.record.durable import replace_file

        began = time.perf_counter()
        replace_file(Path(folder) / "probe", b"x")
        facts["flush to disk"] = f"{1000 * (time.perf_counter() - began):.1f} ms"
    return {"facts": facts, "extras": _extras(), "problems": problems}


def _extras() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "installed": all(find_spec(module) is not None for module in modules),
            "what_for": what_for,
            "install": f"pip install 'fedrec[{name}]'",
        }
        for name, (modules, what_for) in _EXTRAS.items()
    ]


def _check_kernels(facts: dict[str, Any], problems: list[str]) -> None:
    from fedrec.kernels.cache import cache_folder
    from fedrec.kernels.scoring import dot_rows
    from fedrec.kernels.threads import thread_count

    left = np.arange(6, dtype=np.float32).reshape(2, 3)
    scores = np.empty((2, 4), dtype=np.float32)
    dot_rows(left, np.ones((3, 4), dtype=np.float32), np.zeros(4, dtype=np.float32), scores)
    if not np.array_equal(scores, np.repeat([[3.0], [12.0]], 4, axis=1)):
        problems.append(
            "a compiled kernel gives wrong results; delete the folder of compiled kernels and reinstall numba"
        )
    facts["threads"] = str(thread_count())
    kept = cache_folder()
    facts["compiled kernels"] = "not cached: no cache folder is writable" if kept is None else _size(kept)


def _size(folder: Path) -> str:
    """A folder and how large it is."""
    total = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return f"{folder} ({total / 2**20:.1f} MiB)"


def _check_blas(facts: dict[str, Any]) -> None:
    from threadpoolctl import threadpool_info

    libraries = [
        f"{pool['internal_api']} {pool['version']}" for pool in threadpool_info() if pool["user_api"] == "blas"
    ]
    facts["blas"] = ", ".join(sorted(set(libraries))) or "unknown"


def _check_data(facts: dict[str, Any], problems: list[str]) -> None:
    folder = os.environ.get("FEDREC_DATA")
    facts["FEDREC_DATA"] = folder or "not set"
    if folder and not Path(folder).is_dir():
        problems.append(f"FEDREC_DATA is {folder}, which is not a folder; correct it or unset it")
