"""Startup kits: certificates for mutual TLS, made by NVFlare's provisioning, and what a machine's NVFlare may do."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from fedrec.documents import MOST_SETTINGS, parse_json, read_file
from fedrec.errors import DamagedError, InputError, RunError
from fedrec.owner.node_names import check_node_name
from fedrec.record.durable import replace_file

__all__ = [
    "ADMIN",
    "SOON",
    "check_kit",
    "config_name",
    "ends_soon",
    "expiry_of",
    "identity_of",
    "lay_out",
    "provision",
    "server_name",
]

ADMIN = "coordinator@fedrec.local"
SOON = timedelta(days=30)
"""How long before its end a certificate is warned about."""
_ORGANISATION = re.compile(r"[^A-Za-z0-9_]")
_CLASSES = ("fedrec.network.nvflare.mailslots.", "nvflare.collab.runtime.")


def server_name(host: str) -> str:
    """The name in the server's certificate: the host's own, or a fixed one for an address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return "fedrec-coordinator"


def provision(folder: Path, name: str, host: str, port: int, nodes: Sequence[str]) -> Path:
    """Make the startup kits of a federation; the certificates of those that have one stay as they are.

    Args:
        folder: where the provisioning keeps its state: the root key, and all kits.
        name: of the federation.
        host, port: where nodes find the coordinator.
        nodes: names of all nodes.

    Returns:
        The folder with one kit per participant.

    Raises:
        InputError: for a name that NVFlare cannot have, or without NVFlare.
        RunError: if provisioning fails.
    """
    for node in nodes:
        check_node_name(node)
        if node == server_name(host):
            raise InputError(f"node {node!r}: the host of the federation's server has this name; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    server: dict[str, Any] = {"name": server_name(host), "type": "server", "org": "coordinator", "fed_learn_port": port}
    if server["name"] != host:
        server |= {"default_host": host, "host_names": [host]}
    project = {
        "api_version": 4,
        "name": _plain(name),
        "description": "a federation of fedrec",
        "participants": [
            server,
            {"name": ADMIN, "type": "admin", "org": "coordinator", "role": "project_admin"},
            *({"name": node, "type": "client", "org": _plain(node)} for node in nodes),
        ],
        "builders": [
            {"path": "nvflare.lighter.impl.workspace.WorkspaceBuilder"},
            {"path": "nvflare.lighter.impl.static_file.StaticFileBuilder", "args": {"config_folder": "config"}},
            {"path": "nvflare.lighter.impl.cert.CertBuilder"},
            {"path": "nvflare.lighter.impl.signature.SignatureBuilder"},
        ],
    }
    replace_file(folder / "project.yml", yaml.safe_dump(project, sort_keys=False).encode())
    command = [sys.executable, "-m", "nvflare.cli", "provision", "-p", "project.yml", "-w", "kits", "--force"]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    made = sorted((folder / "kits" / _plain(name)).glob("prod_*"))
    if done.returncode or not made or not (made[-1] / server["name"]).is_dir():
        if "No module named nvflare" in done.stderr:
            raise InputError("a federation across machines needs NVFlare; pip install 'fedrec[deploy]'")
        said = (done.stdout + done.stderr).strip().splitlines()
        raise RunError(f"the startup kits could not be made: {said[-1] if said else 'NVFlare says nothing'}")
    return made[-1]


def identity_of(kit: Path) -> dict[str, str]:
    """What a node's kit says: `name` of the node, `organisation`, `federation`.

    Raises:
        InputError: if it is not a kit of a node.
    """
    try:
        data = parse_json(read_file(kit / "startup" / "fed_client.json", MOST_SETTINGS))
        name, federation = data["client"]["fqsn"], data["servers"][0]["name"]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        raise InputError(
            f"{kit} is not a node's startup kit: it has no startup/fed_client.json; the coordinator makes one with "
            "'fedrec federation invite'"
        ) from None
    return {"name": str(name), "organisation": _plain(str(name)), "federation": str(federation)}


def check_kit(kit: Path, certificate: str, renewal: str = "ask for a new kit") -> datetime:
    """Check a kit's certificate: in date, and made by the authority that came with it.

    Args:
        kit: the startup kit.
        certificate: its file in `startup`.
        renewal: what to do about a certificate that cannot be used; the coordinator makes kits, owners ask for them.

    Returns:
        When it expires.

    Raises:
        InputError: if it has expired, is not valid yet, or is somebody else's.
        DamagedError: if it is no certificate.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    startup = kit / "startup"
    try:
        mine = x509.load_pem_x509_certificate(read_file(startup / certificate, MOST_SETTINGS))
        root = x509.load_pem_x509_certificate(read_file(startup / "rootCA.pem", MOST_SETTINGS))
    except (OSError, ValueError) as error:
        raise DamagedError(f"{startup}: the certificates cannot be read ({error}); {renewal}") from None
    try:
        mine.verify_directly_issued_by(root)
    except (InvalidSignature, TypeError, ValueError):
        raise InputError(f"{startup / certificate} was not made by the authority in rootCA.pem; {renewal}") from None
    now = datetime.now(UTC)
    if now > mine.not_valid_after_utc:
        raise InputError(f"the certificate of {kit} expired on {mine.not_valid_after_utc:%Y-%m-%d}; {renewal}")
    if now < mine.not_valid_before_utc:
        raise InputError(
            f"the certificate of {kit} is not valid before {mine.not_valid_before_utc:%Y-%m-%d}; is the clock right?"
        )
    return mine.not_valid_after_utc


def expiry_of(kit: Path, certificate: str) -> datetime:
    """When a kit's certificate ends, whether it can be used or not.

    Raises:
        DamagedError: if it is no certificate.
    """
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(read_file(kit / "startup" / certificate, MOST_SETTINGS))
    except (OSError, ValueError) as error:
        raise DamagedError(f"{kit / 'startup' / certificate} cannot be read ({error})") from None
    return found.not_valid_after_utc


def ends_soon(expires: datetime, what: str, renewal: str) -> str | None:
    """A caution where a certificate ends within `SOON`; `None` where it does not.

    >>> ends_soon(datetime.now(UTC) + timedelta(days=3, hours=1), "the kit k", "ask for a new kit")[:44]
    'the certificate of the kit k ends in 3 days,'
    >>> ends_soon(datetime.now(UTC) + timedelta(days=99), "the kit k", "ask for a new kit")
    """
    left = expires - datetime.now(UTC)
    if left > SOON:
        return None
    when = "has ended" if left < timedelta(0) else f"ends in {left.days} day{'' if left.days == 1 else 's'}"
    return f"the certificate of {what} {when}, on {expires:%Y-%m-%d}; {renewal}"


def lay_out(kit: Path, workspace: Path, server: bool) -> None:
    """Make NVFlare's workspace from a kit, with rights and classes as this machine's owner wants them: no code that
    comes with a job, no class but the mail slot, no shell, no logs to others.

    Args:
        kit: as it was handed out; it is not changed.
        workspace: made anew but for its logs.
        server: whether it is the coordinator's.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    workspace.chmod(0o700)
    for name in ("startup", "local"):
        shutil.rmtree(workspace / name, ignore_errors=True)
        shutil.copytree(kit / name, workspace / name)
    (workspace / "transfer").mkdir(exist_ok=True)
    jobs = {"submit_job": "any", "manage_job": "any", "view": "any", "download_job": "none", "clone_job": "none",
            "operate": "any" if server else "none", "shell_commands": "none", "byoc": "none"}  # fmt: skip
    rights = {"format_version": "1.0", "permissions": {"project_admin": jobs}}
    replace_file(workspace / "local" / "authorization.json", json.dumps(rights, indent=1).encode())
    resources = _settings(workspace / "local" / "resources.json.default")
    resources["class_list_enforcement_mode"] = "enforce"
    resources["class_allow_list"] = list(_CLASSES)
    resources["allow_log_streaming"] = False
    streams = ("site_log_streamer", "log_receiver")
    resources["components"] = [part for part in resources["components"] if part["id"] not in streams]
    if server:
        resources["servers"][0] |= {"heart_beat_timeout": 30, "max_num_clients": 10_000}
        resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(workspace / "snapshots")
        for part in resources["components"]:
            if part["id"] == "job_manager":
                part["args"]["uri_root"] = str(workspace / "jobs")
    replace_file(workspace / "local" / "resources.json", json.dumps(resources, indent=1).encode())


def _settings(path: Path) -> dict[str, Any]:
    """What a kit says in a file.

    Raises:
        DamagedError: if it says nothing that can be read.
    """
    try:
        settings = parse_json(read_file(path, MOST_SETTINGS))
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path} cannot be read ({error}); ask for a new kit") from None
    if not isinstance(settings, dict):
        raise DamagedError(f"{path} is not a mapping; ask for a new kit")
    return settings


def config_name(server: bool) -> str:
    """The file in `startup` that NVFlare's program reads."""
    return "fed_server.json" if server else "fed_client.json"


def _plain(name: str) -> str:
    return _ORGANISATION.sub("_", name)
