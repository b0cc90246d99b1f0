"""Installs the wheel and the source distribution of a folder into fresh environments, and tries what is installed.

    python deploy/smoke.py dist                              # with every Python from 3.11 on that the shell finds
    python deploy/smoke.py dist python3.11 /opt/py/bin/python3.13

Both are tried with each Python. Packages come from where pip takes them, with the versions of constraints.txt; the
commands run in an empty folder. Kernels are compiled once for each Python, which takes minutes, into a folder that is
removed at the end: the user's cache is neither read nor filled.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).parent.parent
DATA = "synthetic:users=200,items=60,interactions_per_user=12,seed=1"
LIBRARY = f"""
import sys
import fedrec as fr
split = fr.leave_last_out(fr.load_data({DATA!r}))
model = fr.EASE().fit(split.train)
assert model.recommend([1], n=3).height == 3
assert fr.__file__.startswith(sys.prefix), fr.__file__
"""


def pythons() -> list[str]:
    """Every Python from 3.11 to 3.14 that the shell finds and that starts."""
    found = [shutil.which(f"python3.{minor}") for minor in range(11, 15)]
    return [path for path in found if path and subprocess.run([path, "-V"], capture_output=True).returncode == 0]


def smoke(python: str, package: Path, kernels: Path, folder: Path) -> None:
    """Install a package into a fresh environment, and try it.

    Args:
        python: the interpreter.
        package: a wheel or a source distribution.
        kernels: folder of compiled kernels.
        folder: empty folder for the environment and for what the commands write.

    Raises:
        CalledProcessError: if a command fails.
    """
    run([python, "-m", "venv", str(folder / "venv")], folder, kernels)
    own = str(folder / "venv" / "bin" / "python")
    constraints = ["-c", str(TOP / "constraints.txt")]
    run([own, "-m", "pip", "install", "--quiet", *constraints, "--upgrade", "pip"], folder, kernels)
    run([own, "-m", "pip", "install", "--quiet", *constraints, str(package)], folder, kernels)
    run([own, "-m", "pip", "check"], folder, kernels)
    work = folder / "work"
    work.mkdir()
    run([own, "-c", LIBRARY], work, kernels)
    fedrec = str(folder / "venv" / "bin" / "fedrec")
    names = [model["name"] for model in json.loads(run([fedrec, "models", "--json"], work, kernels))["models"]]
    assert {"popularity", "ease", "ials", "mf"} <= set(names), names
    run([fedrec, "train", "--data", DATA, "--model", "ease", "--nodes", "3", "--out", "run"], work, kernels)
    assert json.loads(run([fedrec, "recommend", "run", "--user", "1", "-n", "3", "--json"], work, kernels))
    run([fedrec, "verify", "run"], work, kernels)


def run(words: list[str], folder: Path, kernels: Path) -> str:
    """What a command prints; its errors are shown."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables["NUMBA_CACHE_DIR"] = str(kernels)
    return subprocess.run(words, cwd=folder, env=variables, stdout=subprocess.PIPE, text=True, check=True).stdout


def main() -> None:
    """See the docstring of the file."""
    dist = Path(sys.argv[1]).resolve()
    wheels, sources = sorted(dist.glob("fedrec-*.whl")), sorted(dist.glob("fedrec-*.tar.gz"))
    if len(wheels) != 1 or len(sources) != 1:
        sys.exit(
            f"{dist} has {len(wheels)} wheels and {len(sources)} source distributions; 'make package' makes one each"
        )
    chosen = sys.argv[2:] or pythons()
    if not chosen:
        sys.exit("no Python from 3.11 on was found; name one")
    with tempfile.TemporaryDirectory(prefix="fedrec-kernels-") as kernels:
        for python, package in itertools.product(chosen, (*wheels, *sources)):
            start = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="fedrec-smoke-") as folder:
                smoke(python, package, Path(kernels), Path(folder))
            version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.strip()
            seconds = f"{time.monotonic() - start:.0f} s"
            print(
                f"{package.name} with {version}: installed, imported, trained, recommended, verified ({seconds})",
                flush=True,
            )


if __name__ == "__main__":
    main()
