"""The federation's server: NVFlare's, with rights and classes as fedrec wants them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from fedrec.deploy.folder import FederationFolder
from fedrec.deploy.kits import check_kit, lay_out
from fedrec.deploy.mailslot_names import POST_SOCKET
from fedrec.deploy.processes import Child
from fedrec.deploy.sockets import socket_path
from fedrec.engines.nvflare import POST
from fedrec.errors import RunError

__all__ = ["ServerProcess"]


class ServerProcess:
    """A running server of a federation.

    Args:
        federation: with startup kits.
        tell: told when NVFlare ends by itself.

    Raises:
        RunError: if nobody is invited yet, or the server runs already.
        InputError: if its certificate has expired.
    """

    def __init__(self, federation: FederationFolder, tell: Callable[[str], None] = lambda _: None) -> None:
        if not federation.server_kit.is_dir():
            raise RunError(f"{federation.path}: nobody is invited yet; 'fedrec federation invite' makes the kits")
        self.expires = check_kit(federation.server_kit, "server.crt")
        self._lock = _only_one(federation.path)
        try:
            workspace = federation.path / "nvflare"
            lay_out(federation.server_kit, workspace, server=True)
            environment = {POST_SOCKET: str(socket_path(federation.path, POST))}
            self._child = Child(workspace, True, {"org": "coordinator"}, environment, tell)
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def log(self) -> Path:
        """NVFlare's own log."""
        return self._child.log

    def close(self) -> None:
        """Stop it."""
        self._child.stop()
        os.close(self._lock)


def _only_one(folder: Path) -> int:
    lock = os.open(folder / ".running", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise RunError(f"the server of {folder} runs already") from None
    return lock
