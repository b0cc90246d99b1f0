"""deploy/install.py: uv installs what pip would, from where pip would; pip installs where uv cannot."""

from __future__ import annotations

import runpy
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

TOP = Path(__file__).parent.parent
INSTALL = runpy.run_path(str(TOP / "deploy/install.py"))
CONFIGURED = """\
:env:.cert='/certificates/bundle.crt'
:env:.disable-pip-version-check='1'
global.constraint='/etc/constraints.txt'
global.extra-index-url='file:///one/simple file:///two/simple'
global.find-links='\\n/wheels\\n/more'
global.index-url='https://packages.example/simple'
"""


def test_what_pip_is_configured_with_is_told_to_uv() -> None:
    assert INSTALL["told"](CONFIGURED) == {
        "SSL_CERT_FILE": "/certificates/bundle.crt",
        "UV_CONSTRAINT": "/etc/constraints.txt",
        "UV_INDEX": "file:///one/simple file:///two/simple",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_DEFAULT_INDEX": "https://packages.example/simple",
    }
    assert INSTALL["told"]("") == {}
    assert INSTALL["told"](CONFIGURED + "global.proxy='http://proxy.example'\n") is None


@pytest.mark.parametrize(
    ("configuration", "uv", "by"),
    [("", 0, "uv"), ("", 1, "pip"), ("global.proxy='http://proxy.example'", 0, "pip")],
)
def test_pip_installs_where_uv_cannot(
    monkeypatch: pytest.MonkeyPatch, configuration: str, uv: int, by: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    def run(command: list[Any], **_: Any) -> SimpleNamespace:
        ran.append([str(word) for word in command])
        return SimpleNamespace(stdout=configuration, returncode=uv if command[2] == "uv" else 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert INSTALL["main"](["-e", ".[dev]"]) == 0
    assert ran[-1][2:4] == (["uv", "pip"] if by == "uv" else ["pip", "install"])
    assert ran[-1][-2:] == ["-e", ".[dev]"]
    assert ("pip installs" in capsys.readouterr().err) == (by == "pip")
