"""The process of a node, which holds data, private state and keys and answers the coordinator."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedrec.deploy.processes import Child
from fedrec.errors import PlanError
from fedrec.network.nvflare.kits import check_kit, ends_soon, identity_of, lay_out
from fedrec.network.nvflare.names import NODE_MOST, NODE_SOCKET
from fedrec.network.nvflare.parcels import held_bytes
from fedrec.network.nvflare.sockets import Connection, Listener, socket_path
from fedrec.network.post import printable
from fedrec.node.host import NodeHost
from fedrec.owner.config import NodeConfig
from fedrec.record.durable import hold
from fedrec.record.keys import SigningKey
from fedrec.runs.published import save_served

__all__ = ["NodeProcess"]

_LOG = logging.getLogger("fedrec.node")


class NodeProcess:
    """A running node.

    Args:
        config: the owner's configuration.
        kit: the startup kit that the coordinator made for this node.

    Raises:
        InputError: if the kit is damaged, expired, or belongs to another node.
        RunError: if the node is running already.
    """

    def __init__(self, config: NodeConfig, kit: Path) -> None:
        who = identity_of(kit)
        if who["name"] != config.name:
            raise PlanError(f"the startup kit {kit} is for node {who['name']!r}, and node.toml is for {config.name!r}")
        self.expires: datetime = check_kit(kit, "client.crt")
        config.home.mkdir(parents=True, exist_ok=True)
        config.home.chmod(0o700)
        self._lock = hold(config.home / ".running", f"a node is running in {config.home} already; stop it first")
        self._listener: Listener | None = None
        self._child: Child | None = None
        try:
            key = SigningKey.load(config.name, config.identity_path)
            config.limits.limit_memory()
            self.host = NodeHost(config, key, save_served)
            workspace = config.home / "nvflare"
            lay_out(kit, workspace, server=False)
            most = held_bytes(config.limits.memory_gb)
            self._listener = Listener(socket_path(config.home, "node.sock"), self._serve, most)
            settings = {"uid": who["name"], "org": who["organisation"]}
            environment = {NODE_SOCKET: str(self._listener.path), NODE_MOST: str(most)}
            self._child = Child(workspace, False, settings, environment, _LOG.warning)
        except BaseException:
            self.close()
            raise
        self._next_caution = datetime.now(UTC)
        self._caution()
        _LOG.info("node %s is running; its certificate is valid until %s", config.name, f"{self.expires:%Y-%m-%d}")

    def close(self) -> None:
        """Stop the node."""
        if self._child is not None:
            self._child.stop()
        if self._listener is not None:
            self._listener.close()
        os.close(self._lock)

    def _caution(self) -> None:
        """Warn in the log, once a day, if the certificate expires soon."""
        now = datetime.now(UTC)
        if now < self._next_caution:
            return
        self._next_caution = now + timedelta(days=1)
        caution = ends_soon(self.expires, f"node {self.host.config.name}", "ask the coordinator for a new kit")
        if caution is not None:
            _LOG.warning(caution)

    def _serve(self, connection: Connection) -> None:
        while (message := connection.receive()) is not None:
            refused = message[0].get("refused")
            if refused is not None:
                _LOG.warning("the mail slot refused a message: %s", printable(str(refused)))
                continue
            self._caution()
            try:
                connection.send({}, self.host.answer(message[1]))
            except OSError:
                return
