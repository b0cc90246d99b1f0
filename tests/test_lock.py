"""requirements.lock: every pinned version with hashes, nobody's address, and what the image installs from it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
PIN = re.compile(r"[A-Za-z0-9._-]+==\S+")


def said(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOP / "deploy/lock.py", *words], capture_output=True, text=True, check=False)


def test_every_pin_has_hashes_and_no_other_is_there() -> None:
    text = (TOP / "requirements.lock").read_text()
    pinned = [line for line in (TOP / "constraints.txt").read_text().splitlines() if PIN.fullmatch(line)]
    entries = re.split(r"\n(?=\S)", text.partition("\n")[2].strip())
    assert [entry.partition(" ")[0] for entry in entries] == pinned
    for entry in entries:
        assert re.fullmatch(r"\S+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+", entry), entry[:80]
    assert "://" not in text
    assert "index" not in text


def test_what_extras_need_is_printed() -> None:
    needed = said(".[deploy,privacy]").stdout.splitlines()
    for name in ("numpy", "nvflare", "cryptography", "dp-accounting", "setuptools"):
        assert sum(line.startswith(name) for line in needed) == 1, name
    assert not any(line.startswith(("pytest", "fedrec")) for line in needed)
    everything = said(".[dev]").stdout.splitlines()
    assert {"pytest>=8", *needed} - set(everything) == set()
    entry = said("pip", "setuptools").stdout
    assert re.match(r"pip==\S+ \\\n    --hash=sha256:", entry)
    assert said("no-such-package").returncode == 1


def test_the_image_has_what_the_page_says_and_only_known_bytes() -> None:
    image = (TOP / "deploy/Dockerfile").read_text()
    page = (TOP / "docs/deploy.md").read_text()
    extras = re.search(r"pip install -c constraints\.txt '(\.\[[a-z,]+\])'", page)
    assert extras is not None
    assert f"lock.py '{extras[1]}'" in image
    installs = re.findall(r"pip install (.*)", image)
    assert installs
    assert all("--require-hashes" in line or line.endswith("--no-deps --no-build-isolation .") for line in installs)


@pytest.mark.parametrize("pin", ["pip", "setuptools", "numpy", "nvflare", "build", "mkdocs-material"])
def test_what_builds_is_pinned_too(pin: str) -> None:
    assert re.search(rf"^{pin}==", (TOP / "constraints.txt").read_text(), re.MULTILINE)
