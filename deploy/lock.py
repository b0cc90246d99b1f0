"""Writes requirements.lock: the versions of constraints.txt, with the SHA-256 of every file that was released of them.

    python deploy/lock.py                        # asks the index that pip is configured with, as pip does
    python deploy/lock.py pip setuptools         # prints their lines of requirements.lock
    python deploy/lock.py '.[deploy,privacy]'    # prints what fedrec needs with these extras

With them pip installs nothing but those bytes, whatever the index serves, on every platform and Python that there are
files for; `make locked` and the Dockerfile do:

    python deploy/lock.py pip setuptools > first.txt
    python deploy/lock.py '.[deploy,privacy]' > needed.txt
    pip install --require-hashes --no-deps -r first.txt
    pip install --require-hashes --no-build-isolation -c requirements.lock -r needed.txt
    pip install --no-deps --no-build-isolation .

Older versions of pip do not take the pins of a constraint for those of a requirement, hence the first step; none checks
the hash of a folder, hence the last. A package that is released as source only is built with the setuptools of the
first step. Wheels that this machine alone has (find-links, file:) are left out.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOP = Path(__file__).parent.parent
CONSTRAINTS, LOCK = TOP / "constraints.txt", TOP / "requirements.lock"
HEAD = "# Made from constraints.txt by deploy/lock.py, which says how it is used. Do not edit.\n"
PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)")


def pins() -> list[tuple[str, str]]:
    """Name and version of every line of constraints.txt."""
    lines = [line.strip() for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines()]
    return [match.groups() for line in lines if (match := PIN.fullmatch(line))]  # type: ignore[misc]


def needed(*extras: str) -> list[str]:
    """What pyproject.toml asks for, and to build it."""
    settings: dict[str, Any] = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    optional = settings["project"]["optional-dependencies"]
    lines = [*settings["build-system"]["requires"], *settings["project"]["dependencies"]]
    lines += [line for extra in extras for line in optional[extra]]
    own = [line for line in lines if not line.startswith("fedrec[")]
    inner = [name for line in lines if line.startswith("fedrec[") for name in line[7:-1].split(",")]
    return [*own, *(needed(*inner)[1:] if inner else [])]


def hashes(pinned: list[tuple[str, str]]) -> Iterator[tuple[str, str, list[str]]]:
    """Name, version and digests of all files, as the index says them."""
    from pip._internal.commands import create_command
    from pip._internal.index.collector import parse_links
    from pip._vendor.packaging.utils import (
        canonicalize_name,
        parse_sdist_filename,
        parse_wheel_filename,
    )
    from pip._vendor.packaging.version import Version

    command: Any = create_command("download")
    options, _ = command.parse_args([])
    with command.main_context():
        collector = command._build_package_finder(options, command.get_default_session(options))._link_collector
        for name, version in pinned:
            found: set[str] = set()

            def take(page: Any, name: str = name, version: str = version, found: set[str] = found) -> list[Any]:
                answer = None if page.is_file else collector.fetch_response(page)
                for link in () if answer is None else parse_links(answer):
                    read = parse_wheel_filename if link.filename.endswith(".whl") else parse_sdist_filename
                    try:
                        whose, which = read(link.filename)[:2]
                    except ValueError:
                        continue  # of a form that pip no longer installs
                    if (whose, which) == (canonicalize_name(name), Version(version)) and link.hash_name == "sha256":
                        found.add(link.hash)
                return []

            for source in collector.collect_sources(name, take).index_urls:
                if source is not None:
                    list(source.page_candidates())
            if not found:
                sys.exit(f"{name}=={version}: the index has no file of it with a SHA-256")
            yield name, version, sorted(found)


def entries(names: list[str]) -> list[str]:
    """The entries of requirements.lock about some packages."""
    text = LOCK.read_text(encoding="utf-8").removeprefix(HEAD)
    there = {entry.partition("==")[0]: entry for entry in re.split(r"\n(?=\S)", text.strip())}
    missing = [name for name in names if name not in there]
    if missing:
        sys.exit(f"requirements.lock has no {', '.join(missing)}")
    return [there[name] for name in names]


def main() -> None:
    """See the docstring of the file."""
    if sys.argv[1:]:
        asked = re.fullmatch(r"\.(?:\[([a-z,]+)\])?", sys.argv[1])
        extras = [] if asked is None or asked[1] is None else asked[1].split(",")
        print("\n".join(entries(sys.argv[1:]) if asked is None else dict.fromkeys(needed(*extras))))
        return
    lines = [HEAD]
    for name, version, digests in hashes(pins()):
        lines.append(
            " \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{digest}" for digest in digests)]) + "\n"
        )
    LOCK.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
