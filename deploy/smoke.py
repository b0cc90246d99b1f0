"""Installs the wheel and the source distribution of a folder into fresh environments, and tries what is installed.

    python deploy/smoke.py dist                              # with every Python from 3.11 on that the shell finds
    python deploy/smoke.py dist python3.11 /opt/py/bin/python3.13

The wheel is tried with each Python, the source distribution with the first of them. Packages come from where pip takes
them, with the versions of constraints.txt; the commands run in an empty folder. The kernels are compiled once for each
Python, into the user's cache, which takes a minute or more.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
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


def smoke(python: str, package: Path, folder: Path) -> None:
    """Install a package into a fresh environment, and try it.

    Raises:
        CalledProcessError: if a command fails.
    """
    run([python, "-m", "venv", str(folder / "venv")], folder)
    own = str(folder / "venv" / "bin" / "python")
    constraints = ["-c", str(TOP / "constraints.txt")]
    run([own, "-m", "pip", "install", "--quiet", *constraints, "--upgrade", "pip"], folder)
    run([own, "-m", "pip", "install", "--quiet", *constraints, str(package)], folder)
    run([own, "-m", "pip", "check"], folder)
    work = folder / "work"
    work.mkdir()
    run([own, "-c", LIBRARY], work)
    fedrec = str(folder / "venv" / "bin" / "fedrec")
    names = [model["name"] for model in json.loads(run([fedrec, "models", "--json"], work))["models"]]
    assert {"popularity", "ease", "ials", "mf"} <= set(names), names
    run([fedrec, "train", "--data", DATA, "--model", "ease", "--nodes", "3", "--out", "run"], work)
    assert json.loads(run([fedrec, "recommend", "run", "--user", "1", "-n", "3", "--json"], work))
    run([fedrec, "verify", "run"], work)


def run(words: list[str], folder: Path) -> str:
    """What a command prints; its errors are shown."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
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
    for python, package in [*((python, wheels[0]) for python in chosen), (chosen[0], sources[0])]:
        with tempfile.TemporaryDirectory(prefix="fedrec-smoke-") as folder:
            smoke(python, package, Path(folder))
        version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.strip()
        print(f"{package.name} with {version}: installed, imported, trained, recommended, verified")


if __name__ == "__main__":
    main()
