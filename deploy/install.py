"""Installs packages into the environment of the Python that runs this, at the versions of constraints.txt.

    .venv/bin/python deploy/install.py -e '.[dev,torch]'

uv installs them in a fifth of pip's time. It is told the indexes, folders and constraints that pip is configured with;
where pip's configuration holds what cannot be told, or uv fails, pip installs them. `make locked` checks hashes too.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
TOLD = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "cert": "SSL_CERT_FILE",
    "trusted-host": "UV_INSECURE_HOST",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
}
FOR_PIP_ALONE = {"disable-pip-version-check", "no-cache-dir", "quiet", "verbose", "progress-bar", "root-user-action"}
PIP = [sys.executable, "-m", "pip"]


def told(configuration: str) -> dict[str, str] | None:
    """pip's configuration, as `pip config list` prints it, in uv's variables; None where uv has no word for it.

    >>> told("global.index-url='https://packages.example/simple'")
    {'UV_DEFAULT_INDEX': 'https://packages.example/simple'}
    >>> told("global.proxy='http://proxy.example:3128'")
    """
    variables: dict[str, str] = {}
    for line in filter(None, map(str.strip, configuration.splitlines())):
        name, _, value = line.partition("=")
        option = name.rpartition(".")[2]
        if option not in TOLD.keys() | FOR_PIP_ALONE:
            return None
        if option in TOLD:
            between = "," if option == "find-links" else " "
            variables[TOLD[option]] = between.join(str(ast.literal_eval(value)).split())
    return variables


def with_uv(asked: list[str]) -> bool:
    """Whether uv has installed what was asked for."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True)
    variables = told(listed.stdout) if listed.returncode == 0 else None
    if variables is None or subprocess.run([*PIP, "install", "--quiet", "-c", CONSTRAINTS, "uv"]).returncode:
        return False
    # As pip chooses: the newest version that any index has.
    environment = os.environ | variables | {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    environment["UV_CONSTRAINT"] = " ".join(filter(None, [str(CONSTRAINTS), variables.get("UV_CONSTRAINT")]))
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
    return subprocess.run([*command, *asked], env=environment).returncode == 0


def main(asked: list[str]) -> int:
    """The exit status of whichever has installed what was asked for."""
    if with_uv(asked):
        return 0
    print("deploy/install.py: pip installs, as uv could not", file=sys.stderr)
    return subprocess.run([*PIP, "install", "--quiet", "--no-compile", "-c", CONSTRAINTS, *asked]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
