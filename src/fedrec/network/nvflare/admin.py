"""A coordinator's session with the server of its federation."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
from pathlib import Path
from typing import Any

from fedrec.documents import MOST_SETTINGS, parse_json, read_file
from fedrec.errors import InputError, RunError
from fedrec.network.nvflare.kits import ADMIN

__all__ = ["admin_session", "last_words", "nodes_up", "who_is_up"]

_KNOCK = 5.0


def nodes_up(session: Any) -> list[str]:
    """Names of the nodes whose NVFlare client is connected to the server.

    Raises:
        RunError: if the server does not answer.
    """
    try:
        return sorted(client.name for client in session.get_system_info().client_info)
    except Exception as error:  # NVFlare raises what it likes
        raise RunError(
            f"the federation's server does not answer ({error}); start it with 'fedrec federation start'"
        ) from None


def who_is_up(admin: Path) -> list[str]:
    """Names of the nodes that are connected to the federation's server; `admin` is the coordinator's admin kit.

    Raises:
        RunError: if the server does not answer.
    """
    session = admin_session(admin)
    try:
        return nodes_up(session)
    finally:
        with contextlib.suppress(Exception):
            session.close()


def admin_session(admin: Path) -> Any:
    """A session with the federation's server.

    Raises:
        InputError: if NVFlare is not installed.
        RunError: if the server is not running.
    """
    try:
        from nvflare.fuel.flare_api.flare_api import new_secure_session
    except ImportError:
        raise InputError("a federation across machines needs NVFlare; pip install 'fedrec[deploy]'") from None
    logging.getLogger("nvflare").setLevel(logging.CRITICAL)
    try:
        _knock(admin)
        with contextlib.redirect_stdout(io.StringIO()):  # NVFlare prints that it connects
            return new_secure_session(ADMIN, str(admin.absolute()), timeout=10.0)
    except Exception as error:  # NVFlare raises what it likes
        raise RunError(
            f"the federation's server cannot be reached ({type(error).__name__}: {last_words(str(error))}); start "
            "it on this machine with 'fedrec federation start'"
        ) from None


def _knock(admin: Path) -> None:
    """Connect to the port of the server and hang up: NVFlare goes on for ten seconds where nothing listens.

    Raises:
        ConnectionRefusedError: if nothing listens there.
    """
    with contextlib.suppress(TimeoutError, socket.gaierror):  # NVFlare says what it is
        settings = parse_json(read_file(admin / "startup" / "fed_admin.json", MOST_SETTINGS))["admin"]
        socket.create_connection((settings["host"], settings["port"]), _KNOCK).close()


def last_words(text: str) -> str:
    """The end of NVFlare's long error texts, which says what happened."""
    return " ".join(text.split())[-300:]
