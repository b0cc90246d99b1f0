"""The coordinator's folder of a federation: its nodes, the agreed catalog, the coordinator's key, startup kits."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrec.documents import MOST_SETTINGS, parse_toml, read_file, renamed_keys
from fedrec.errors import DamagedError, InputError, PlanError, RunError, suggestion
from fedrec.network.nvflare.kits import ADMIN, check_kit, ends_soon, expiry_of, provision, server_name
from fedrec.owner.node_names import check_node_name
from fedrec.record.durable import hold, replace_file
from fedrec.record.keys import PublicKey, SigningKey

if TYPE_CHECKING:  # a server keeps its folder open and does not use these modules
    from fedrec.data.catalog import Catalog
    from fedrec.network.waiting import Waiting
    from fedrec.runs.federated import Members

__all__ = ["FederationFolder"]

_FILE = "federation.toml"
_CATALOG = "catalog.jsonl"
_KEY = "coordinator.key"
_KINDS = {"name": str, "host": str, "port": int, "max_clients": int, "nodes": dict, "waiting": dict}
_WORDS = {str: "text", int: "whole number", dict: "table"}
_OLD_KEYS = {"most_clients": "max_clients"}
"""Present names of keys of federation.toml, by the names that older files may have."""
_MEANINGS = {
    "deadline": "seconds for a node to answer",
    "min_fraction": "fraction of the nodes that a round needs",
    "target_fraction": "fraction of the nodes that a round waits for",
    "max_retries": "retries of a failed round before the run stops",
    "pause": "seconds before a retry",
    "reconnect_timeout": "seconds that a retry waits for nodes to connect again",
    "sign": "seconds for a node that failed to say that it is connected again",
}
"""Comments on the keys of `[waiting]`."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9_.:-]{0,252}")


@dataclass(frozen=True)
class FederationFolder:
    """A federation in a folder of its coordinator.

    Args:
        path: the folder.
        name: name of the federation.
        host: name or address of the machine of the server.
        port: port of the server.
        max_clients: agreed maximum number of users of all nodes together.
        nodes: public keys by name of the node, as text; empty text for a key that is still missing.
        waits: settings of the table `[waiting]`.
    """

    path: Path
    name: str
    host: str
    port: int
    max_clients: int
    nodes: Mapping[str, str]
    waits: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls, path: Path, name: str, host: str, port: int, max_clients: int, catalog: Catalog
    ) -> FederationFolder:
        """Create a federation in a new or empty folder.

        Raises:
            InputError: if the name, host, port or number of clients is not allowed.
            RunError: if the folder is not empty.
        """
        _check_place(name, host, port, max_clients)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"{path} is not empty; choose another folder for the federation")
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
        made = cls(path, name, host, port, max_clients, {})
        SigningKey.make("coordinator", path / _KEY)
        replace_file(path / _CATALOG, catalog.to_json_lines())
        made._write()
        return made

    @classmethod
    def open(cls, path: Path) -> FederationFolder:
        """Open a federation.

        Raises:
            RunError: if `path` is not the folder of a federation.
            PlanError: if a key of federation.toml is wrong; the text names the key.
        """
        file = path / _FILE
        try:
            settings = parse_toml(read_file(file, MOST_SETTINGS).decode("utf-8"))
        except OSError:
            raise RunError(
                f"{path} is not the folder of a federation: {_FILE} is missing. 'fedrec federation init' makes a "
                "federation"
            ) from None
        except ValueError as error:
            raise PlanError(f"{file} is not TOML: {error}") from None
        settings = renamed_keys(settings, _OLD_KEYS, f"{file}: ")
        for key, value in settings.items():
            if key not in _KINDS:
                raise PlanError(f"{file}: {key} is not a setting{suggestion(key, _KINDS)}")
            if not isinstance(value, _KINDS[key]):
                raise PlanError(f"{file}: {key} must be a {_WORDS[_KINDS[key]]}, not {value!r:.40}")
        missing = [key for key in _KINDS if key not in settings and key not in ("nodes", "waiting")]
        if missing:
            raise PlanError(f"{file}: {', '.join(missing)} must be set")
        nodes = {str(name): _checked(str(name), text, file) for name, text in settings.get("nodes", {}).items()}
        name, host, port, most = (settings[key] for key in ("name", "host", "port", "max_clients"))
        try:
            _check_place(name, host, port, most)
        except InputError as error:
            raise PlanError(f"{file}: {error}") from None
        return cls(path, name, host, port, most, nodes, settings.get("waiting", {}))

    @property
    def key(self) -> SigningKey:
        """The coordinator's key."""
        return SigningKey.load("coordinator", self.path / _KEY)

    @property
    def catalog(self) -> Catalog:
        """The agreed items."""
        from fedrec.data.catalog import Catalog

        try:
            text = read_file(self.path / _CATALOG)
        except (OSError, ValueError) as error:
            raise DamagedError(f"{self.path / _CATALOG} cannot be read ({error})") from None
        return Catalog.from_json_lines(text, str(self.path / _CATALOG))

    @property
    def waiting(self) -> Waiting:
        """How long and how often the coordinator waits for nodes.

        Raises:
            PlanError: if a setting of the table `[waiting]` is unknown or out of range.
        """
        from fedrec.network.waiting import Waiting

        return Waiting.make(self.waits, str(self.path / _FILE))

    @property
    def members(self) -> Members:
        """The nodes of the federation, and what they agreed on.

        Raises:
            PlanError: if no node is invited, or the key of a node is missing.
        """
        from fedrec.runs.federated import Members

        keyless = [name for name, text in self.nodes.items() if not text]
        if not self.nodes or keyless:
            raise PlanError(
                f"{self.path}: the public key of {', '.join(keyless)} is missing; add it with 'fedrec federation "
                f"invite {self.path} NAME --key KEY'"
                if keyless
                else f"{self.path}: no node is invited yet; run 'fedrec federation invite {self.path} NAME'"
            )
        nodes = {name: PublicKey.parse(text) for name, text in self.nodes.items()}
        return Members(self.name, self.key, nodes, self.catalog, self.max_clients)

    def invite(self, nodes: Mapping[str, str]) -> FederationFolder:
        """Add nodes, or missing keys of invited nodes, and make their startup kits.

        Args:
            nodes: public keys by name; empty text for a key that follows later.

        Raises:
            InputError: if a name or key is not allowed.
            RunError: if a node has another key already, or another process changes the folder.
        """
        with self._changing() as now:
            for name, text in nodes.items():
                earlier = now.nodes.get(name)
                if earlier and text and earlier != str(PublicKey.parse(text)):
                    raise RunError(
                        f"{name} has another key already; to replace it, run 'fedrec federation remove {self.path} "
                        f"{name}' first"
                    )
                _checked(name, text, self.path / _FILE)
            everyone = {**now.nodes, **{name: text or now.nodes.get(name, "") for name, text in nodes.items()}}
            made = provision(self.path / "provisioning", now.name, now.host, now.port, list(everyone))
            self._copy(made / server_name(now.host), self.server_kit)
            self._copy(made / ADMIN, self.admin_kit)
            for name in everyone:
                self._copy(made / name, self.path / "kits" / name)
            grown = replace(now, nodes=everyone)
            grown._write()
            return grown

    def remove(self, name: str) -> FederationFolder:
        """Remove a node: later runs do not include it. Its certificate stays valid until it expires.

        Raises:
            InputError: if the federation has no such node.
            RunError: if another process changes the folder.
        """
        with self._changing() as now:
            if name not in now.nodes:
                raise InputError(f"{self.path}: the federation has no node {name!r}{suggestion(name, now.nodes)}")
            left = {node: text for node, text in now.nodes.items() if node != name}
            shutil.rmtree(self.path / "kits" / name, ignore_errors=True)
            smaller = replace(now, nodes=left)
            smaller._write()
            return smaller

    def check_invited(self) -> None:
        """Check that the startup kits of the server and of the coordinator exist.

        Raises:
            RunError: if no node is invited yet.
        """
        if not self.server_kit.is_dir() or not self.admin_kit.is_dir():
            raise RunError(f"{self.path}: no node is invited yet; 'fedrec federation invite' makes the startup kits")

    @property
    def renewal(self) -> str:
        """How the coordinator renews all certificates; they expire together with the root certificate."""
        nodes = " ".join(sorted(self.nodes)) or "NAME"
        return (
            f"renew all startup kits: stop the server, run 'rm -r {self.path / 'provisioning'}' and 'fedrec federation "
            f"invite {self.path} {nodes}', and give the new kits to the owners"
        )

    def check_own_kits(self, tell: Callable[[str], None] = lambda _: None) -> datetime:
        """Check the certificates of the server and of the coordinator, and warn if one expires soon.

        Args:
            tell: receives the warning.

        Returns:
            When the first of the two certificates expires.

        Raises:
            RunError: if no node is invited yet.
            InputError: if a certificate has expired; the text says how to renew it.
        """
        self.check_invited()
        kits = ((self.server_kit, "server.crt"), (self.admin_kit, "client.crt"))
        expires = min(check_kit(kit, certificate, self.renewal) for kit, certificate in kits)
        caution = ends_soon(expires, f"{self.path}", self.renewal)
        if caution is not None:
            tell(caution)
        return expires

    def warn_of_nodes(self, tell: Callable[[str], None]) -> None:
        """Warn of each node whose certificate expires soon; `tell` receives the warnings."""
        for name, expires in self.valid_until().items():
            caution = None if expires is None else ends_soon(expires, name, self.renewal)
            if caution is not None:
                tell(caution)

    def valid_until(self) -> dict[str, datetime | None]:
        """When the certificate in each node's last startup kit expires; `None` if the kit is missing."""
        expires: dict[str, datetime | None] = {}
        for name in sorted(self.nodes):
            kit = self.path / "kits" / name
            try:
                expires[name] = expiry_of(kit, "client.crt")
            except DamagedError:
                expires[name] = None
        return expires

    @contextlib.contextmanager
    def _changing(self) -> Iterator[FederationFolder]:
        """The current folder, locked against changes by other commands."""
        lock = hold(self.path / ".changing", f"another command is changing {self.path}; try again later")
        try:
            yield self.open(self.path)
        finally:
            os.close(lock)

    @property
    def server_kit(self) -> Path:
        """Folder of the startup kit of the server."""
        return self.path / "own-kits" / "server"

    @property
    def admin_kit(self) -> Path:
        """Folder of the startup kit with which the coordinator submits jobs."""
        return self.path / "own-kits" / "admin"

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        target.chmod(0o700)

    def _write(self) -> None:
        lines = [
            "# Settings of a fedrec federation; only its coordinator edits this file.",
            f"name = {json.dumps(self.name)}",
            f"host = {json.dumps(self.host)}",
            f"port = {self.port}",
            f"max_clients = {self.max_clients}  # agreed maximum number of users of all nodes together",
            "",
            "[nodes]  # public keys, which the owners gave in person or by telephone",
            *(f"{json.dumps(name)} = {json.dumps(text)}" for name, text in sorted(self.nodes.items())),
            "",
            "[waiting]",
            *(f"{key} = {value}  # {_MEANINGS[key]}" for key, value in vars(self.waiting).items()),
            "",
        ]
        replace_file(self.path / _FILE, "\n".join(lines).encode())


def _check_place(name: str, host: str, port: int, max_clients: int) -> None:
    """Check the name, host and port of a federation, which are part of names of folders and certificates.

    Raises:
        InputError: if the name, host, port or number of clients is not allowed.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"name {name!r}: use at most 63 letters, digits, hyphens and underscores")
    if not _HOST.fullmatch(host):
        raise InputError(f"host {host!r}: not a host name or address")
    if not 0 < port < 65536:
        raise InputError(f"port {port}: must be from 1 to 65535")
    if not 1 <= max_clients < 1 << 48:
        raise InputError(f"max_clients {max_clients}: must be from 1 to {(1 << 48) - 1}")


def _checked(name: str, text: Any, where: Path) -> str:
    """A node's key as text; empty if the key is still missing."""
    try:
        check_node_name(name)
        if text == "":
            return ""
        key = PublicKey.parse(str(text))
    except InputError as error:
        raise PlanError(f"{where}: key of {name}: {error}") from None
    if key.name != name:
        raise PlanError(f"{where}: the key of {name} belongs to node {key.name!r}; use the key that {name} printed")
    return str(key)
