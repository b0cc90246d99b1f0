"""The coordinator's folder of a federation: who is in it, what they agreed on, its key and the startup kits."""

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

from fedrec.documents import MOST_SETTINGS, parse_toml, read_file
from fedrec.errors import DamagedError, InputError, PlanError, RunError
from fedrec.network.nvflare.kits import ADMIN, check_kit, ends_soon, expiry_of, provision, server_name
from fedrec.owner.node_names import check_node_name
from fedrec.record.durable import hold, replace_file
from fedrec.record.keys import PublicKey, SigningKey

if TYPE_CHECKING:  # the server's process holds a folder all its life, and needs none of these
    from fedrec.data.catalog import Catalog
    from fedrec.network.waiting import Waiting
    from fedrec.runs.federated import Members

__all__ = ["FederationFolder"]

_FILE = "federation.toml"
_CATALOG = "catalog.jsonl"
_KEY = "coordinator.key"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9_.:-]{0,252}")


@dataclass(frozen=True)
class FederationFolder:
    """A federation, as its coordinator keeps it.

    Args:
        path: the folder.
        name, host, port: of the federation and where nodes find its server.
        most_clients: users of all nodes together are never more.
        nodes: public keys by name, as text.
        waits: settings of `waiting` that differ from its own.
    """

    path: Path
    name: str
    host: str
    port: int
    most_clients: int
    nodes: Mapping[str, str]
    waits: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls, path: Path, name: str, host: str, port: int, most_clients: int, catalog: Catalog
    ) -> FederationFolder:
        """Begin a federation in a new or empty folder.

        Raises:
            InputError: for a name, port or number that makes no sense.
            RunError: if something is there already.
        """
        _check_place(name, host, port, most_clients)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"{path} is not empty; choose another folder for the federation")
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
        made = cls(path, name, host, port, most_clients, {})
        SigningKey.make("coordinator", path / _KEY)
        replace_file(path / _CATALOG, catalog.to_json_lines())
        made._write()
        return made

    @classmethod
    def open(cls, path: Path) -> FederationFolder:
        """Open a federation.

        Raises:
            RunError: if `path` holds none.
            PlanError: naming what is wrong in federation.toml.
        """
        file = path / _FILE
        try:
            settings = parse_toml(read_file(file, MOST_SETTINGS).decode("utf-8"))
        except OSError:
            raise RunError(
                f"{path} is not a federation: it has no {_FILE}; 'fedrec federation init' makes one"
            ) from None
        except ValueError as error:
            raise PlanError(f"{file} is not TOML: {error}") from None
        known = {"name": str, "host": str, "port": int, "most_clients": int, "nodes": dict, "waiting": dict}
        for key, value in settings.items():
            if key not in known or not isinstance(value, known[key]):
                raise PlanError(f"{file}: {key} is not known, or not of the kind that it must be")
        missing = [key for key in known if key not in settings and key not in ("nodes", "waiting")]
        if missing:
            raise PlanError(f"{file}: {', '.join(missing)} is missing")
        nodes = {str(name): _checked(str(name), text, file) for name, text in settings.get("nodes", {}).items()}
        name, host, port, most = (settings[key] for key in ("name", "host", "port", "most_clients"))
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
        """How long nodes are waited for, for whom, and how often.

        Raises:
            PlanError: if federation.toml says what cannot be.
        """
        from fedrec.network.waiting import Waiting

        try:
            return Waiting(**self.waits)
        except (TypeError, OverflowError):
            raise PlanError(
                f"{self.path / _FILE}: [waiting] has deadline, least, enough, tries, pause, patience and sign"
            ) from None

    @property
    def members(self) -> Members:
        """Who is in the federation, and what they agreed on.

        Raises:
            PlanError: if nobody is, or a node has not sent its key.
        """
        from fedrec.runs.federated import Members

        silent = [name for name, text in self.nodes.items() if not text]
        if not self.nodes or silent:
            raise PlanError(
                f"{self.path}: {', '.join(silent)} has not sent its public key; add it with 'fedrec federation invite "
                f"{self.path} NAME --key KEY'"
                if silent
                else f"{self.path}: nobody is invited yet; 'fedrec federation invite {self.path} NAME' does it"
            )
        nodes = {name: PublicKey.parse(text) for name, text in self.nodes.items()}
        return Members(self.name, self.key, nodes, self.catalog, self.most_clients)

    def invite(self, nodes: Mapping[str, str]) -> FederationFolder:
        """Add nodes, or the keys of nodes that were added before, and make their startup kits.

        Args:
            nodes: public keys by name; empty text for a key that is to come.

        Raises:
            InputError: for a name or key that cannot be.
            RunError: if a node has another key already: remove it first; or if another process changes the folder.
        """
        with self._changing() as now:
            for name, text in nodes.items():
                known = now.nodes.get(name)
                if known and text and known != str(PublicKey.parse(text)):
                    raise RunError(
                        f"{name} has another key already; 'fedrec federation remove {self.path} {name}' first"
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
        """Take a node out: no later run asks it. Its certificate stays valid until it expires.

        Raises:
            InputError: if there is no such node.
            RunError: if another process changes the folder.
        """
        with self._changing() as now:
            if name not in now.nodes:
                raise InputError(f"{self.path}: there is no node {name!r}")
            left = {known: text for known, text in now.nodes.items() if known != name}
            shutil.rmtree(self.path / "kits" / name, ignore_errors=True)
            smaller = replace(now, nodes=left)
            smaller._write()
            return smaller

    def check_invited(self) -> None:
        """Check that there are kits of a server and of its coordinator.

        Raises:
            RunError: if nobody is invited yet.
        """
        if not self.server_kit.is_dir() or not self.admin_kit.is_dir():
            raise RunError(f"{self.path}: nobody is invited yet; 'fedrec federation invite' makes the kits")

    @property
    def renewal(self) -> str:
        """How the coordinator renews all certificates at once, which end with the root's."""
        nodes = " ".join(sorted(self.nodes)) or "NAME"
        return (
            f"renew all kits: stop the server, 'rm -r {self.path / 'provisioning'}', 'fedrec federation invite "
            f"{self.path} {nodes}', and hand the new kits over"
        )

    def check_own_kits(self, tell: Callable[[str], None] = lambda _: None) -> datetime:
        """Check the certificates of the server and of its coordinator; `tell` hears of one that ends soon.

        Returns:
            When the first of them ends.

        Raises:
            RunError: if nobody is invited yet.
            InputError: if one has ended; says how to renew it.
        """
        self.check_invited()
        kits = ((self.server_kit, "server.crt"), (self.admin_kit, "client.crt"))
        expires = min(check_kit(kit, certificate, self.renewal) for kit, certificate in kits)
        caution = ends_soon(expires, f"{self.path}", self.renewal)
        if caution is not None:
            tell(caution)
        return expires

    def warn_of_nodes(self, tell: Callable[[str], None]) -> None:
        """Tell of each node whose certificate ends soon."""
        for name, expires in self.valid_until().items():
            caution = None if expires is None else ends_soon(expires, name, self.renewal)
            if caution is not None:
                tell(caution)

    def valid_until(self) -> dict[str, datetime | None]:
        """When each node's certificate, as it was handed out last, ends; `None` where its kit is not here."""
        found: dict[str, datetime | None] = {}
        for name in sorted(self.nodes):
            kit = self.path / "kits" / name
            try:
                found[name] = expiry_of(kit, "client.crt")
            except DamagedError:
                found[name] = None
        return found

    @contextlib.contextmanager
    def _changing(self) -> Iterator[FederationFolder]:
        """The folder as it is now, while nobody else changes it."""
        lock = hold(self.path / ".changing", f"another command changes {self.path}; try again when it has ended")
        try:
            yield self.open(self.path)
        finally:
            os.close(lock)

    @property
    def server_kit(self) -> Path:
        """The startup kit of the server."""
        return self.path / "own-kits" / "server"

    @property
    def admin_kit(self) -> Path:
        """The startup kit with which jobs are submitted."""
        return self.path / "own-kits" / "admin"

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        target.chmod(0o700)

    def _write(self) -> None:
        lines = [
            "# A federation of fedrec, as its coordinator keeps it.",
            f"name = {json.dumps(self.name)}",
            f"host = {json.dumps(self.host)}",
            f"port = {self.port}",
            f"most_clients = {self.most_clients}  # users of all nodes together are never more",
            "",
            "[nodes]  # public keys, exchanged by another way than this one",
            *(f"{json.dumps(name)} = {json.dumps(text)}" for name, text in sorted(self.nodes.items())),
            "",
            "[waiting]  # seconds, and shares of the nodes",
            *(f"{key} = {value}" for key, value in vars(self.waiting).items()),
            "",
        ]
        replace_file(self.path / _FILE, "\n".join(lines).encode())


def _check_place(name: str, host: str, port: int, most_clients: int) -> None:
    """Check what a federation is called, and where its server is: folders and certificates are named by both.

    Raises:
        InputError: for a name, host or number that cannot be.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"federation {name!r}: a name has letters, digits, hyphens and underscores, 63 at most")
    if not _HOST.fullmatch(host) or not 0 < port < 65536 or not 1 <= most_clients < 1 << 48:
        raise InputError(
            "a federation needs a host name or address, a port from 1 to 65535, and 1 or more clients at most"
        )


def _checked(name: str, text: Any, where: Path) -> str:
    """A node's key as text; empty where it is to come."""
    try:
        check_node_name(name)
        if text == "":
            return ""
        key = PublicKey.parse(str(text))
    except InputError as error:
        raise PlanError(f"{where}: key of {name}: {error}") from None
    if key.name != name:
        raise PlanError(f"{where}: the key of {name} is of {key.name!r}")
    return str(key)
