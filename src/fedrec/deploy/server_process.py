"""The federation's server: NVFlare's server with fedrec's authorisation rules and components."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from fedrec.deploy.folder import FederationFolder
from fedrec.deploy.processes import Child
from fedrec.errors import RunError
from fedrec.network.nvflare.kits import lay_out
from fedrec.network.nvflare.names import POST_SOCKET
from fedrec.network.nvflare.post import POST
from fedrec.network.nvflare.sockets import socket_path
from fedrec.record.durable import hold

__all__ = ["ServerProcess"]


class ServerProcess:
    """A running server of a federation.

    Args:
        federation: the federation, with startup kits.
        tell: receives a warning when NVFlare ends by itself or a certificate expires soon.

    Raises:
        RunError: if no node is invited yet, the server is running already, or its port is in use.
        InputError: if a certificate has expired.
    """

    def __init__(self, federation: FederationFolder, tell: Callable[[str], None] = lambda _: None) -> None:
        self.expires = federation.check_own_kits(tell)
        self._lock = hold(federation.path / ".running", f"the server of {federation.path} is running already")
        try:
            _check_port(federation)
            workspace = federation.path.absolute() / "nvflare"  # NVFlare opens files from another working folder
            lay_out(federation.server_kit, workspace, server=True)
            environment = {POST_SOCKET: str(socket_path(federation.path, POST))}
            self._child = Child(workspace, True, {"org": "coordinator"}, environment, tell)
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def log(self) -> Path:
        """Path of NVFlare's log."""
        return self._child.log

    def close(self) -> None:
        """Stop the server."""
        self._child.stop()
        os.close(self._lock)


def _check_port(federation: FederationFolder) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that ended just now blocks the port
        try:
            probe.bind(("", federation.port))
        except OSError as error:
            raise RunError(
                f"port {federation.port} of this machine cannot be used ({error.strerror}). Stop the program that uses "
                f"it, which 'ss -ltnp' shows; or set another port in {federation.path / 'federation.toml'}, invite a "
                "node again and give the new startup kits to the owners"
            ) from None
