"""Startup kits: certificates for mutual TLS from NVFlare's provisioning, and NVFlare's permissions on a machine."""

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
"""How long before its expiry a certificate causes warnings."""
_ORGANISATION = re.compile(r"[^A-Za-z0-9_]")
_CLASSES = ("fedrec.network.nvflare.mailslots.", "nvflare.collab.runtime.")


def server_name(host: str) -> str:
    """The name in the server's certificate: the host name, or a fixed name for an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return "fedrec-coordinator"


def provision(folder: Path, name: str, host: str, port: int, nodes: Sequence[str]) -> Path:
    """Make the startup kits of a federation; existing certificates do not change.

    Args:
        folder: folder for the root key and all kits.
        name: name of the federation.
        host: name or address of the server.
        port: port of the server.
        nodes: names of all nodes.

    Returns:
        The folder with one kit per participant.

    Raises:
        InputError: if a node's name is not allowed, or NVFlare is not installed.
        RunError: if provisioning fails.
    """
    for node in nodes:
        check_node_name(node)
        if node == server_name(host):
            raise InputError(f"node {node!r}: the host of the server has this name; choose another name for the node")
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
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise RunError(f"NVFlare could not make the startup kits: {lines[-1] if lines else 'it gave no reason'}")
    return made[-1]


def identity_of(kit: Path) -> dict[str, str]:
    """`name` of the node, `organisation` and `federation` of a node's startup kit.

    Raises:
        InputError: if the folder is not a startup kit of a node.
    """
    try:
        data = parse_json(read_file(kit / "startup" / "fed_client.json", MOST_SETTINGS))
        name, federation = data["client"]["fqsn"], data["servers"][0]["name"]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        raise InputError(
            f"{kit} is not the startup kit of a node: startup/fed_client.json is missing. The coordinator makes a kit "
            "with 'fedrec federation invite'"
        ) from None
    return {"name": str(name), "organisation": _plain(str(name)), "federation": str(federation)}


def check_kit(kit: Path, certificate: str, renewal: str = "ask for a new kit") -> datetime:
    """Check that a kit's certificate is valid now and was issued by the authority in the kit.

    Args:
        kit: the startup kit.
        certificate: file name of the certificate in `startup`.
        renewal: what to do if the certificate cannot be used, for error texts.

    Returns:
        When the certificate expires.

    Raises:
        InputError: if the certificate has expired, is not valid yet, or was issued by another authority.
        DamagedError: if the file is not a certificate.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    startup = kit / "startup"
    try:
        own = x509.load_pem_x509_certificate(read_file(startup / certificate, MOST_SETTINGS))
        root = x509.load_pem_x509_certificate(read_file(startup / "rootCA.pem", MOST_SETTINGS))
    except (OSError, ValueError) as error:
        raise DamagedError(f"{startup}: the certificates cannot be read ({error}); {renewal}") from None
    try:
        own.verify_directly_issued_by(root)
    except (InvalidSignature, TypeError, ValueError):
        raise InputError(f"{startup / certificate} was not issued by the authority in rootCA.pem; {renewal}") from None
    now = datetime.now(UTC)
    if now > own.not_valid_after_utc:
        raise InputError(f"the certificate of {kit} expired on {own.not_valid_after_utc:%Y-%m-%d}; {renewal}")
    if now < own.not_valid_before_utc:
        raise InputError(
            f"the certificate of {kit} is not valid before {own.not_valid_before_utc:%Y-%m-%d}; check the clock of "
            "this machine"
        )
    return own.not_valid_after_utc


def expiry_of(kit: Path, certificate: str) -> datetime:
    """When a kit's certificate expires, also if it has expired.

    Raises:
        DamagedError: if the file is not a certificate.
    """
    from cryptography import x509

    try:
        own = x509.load_pem_x509_certificate(read_file(kit / "startup" / certificate, MOST_SETTINGS))
    except (OSError, ValueError) as error:
        raise DamagedError(f"{kit / 'startup' / certificate} cannot be read ({error})") from None
    return own.not_valid_after_utc


def ends_soon(expires: datetime, what: str, renewal: str) -> str | None:
    """A warning if a certificate expires within `SOON`, else `None`.

    >>> ends_soon(datetime.now(UTC) + timedelta(days=3, hours=1), "the kit k", "ask for a new kit")[:47]
    'the certificate of the kit k expires in 3 days,'
    >>> ends_soon(datetime.now(UTC) + timedelta(days=99), "the kit k", "ask for a new kit")
    """
    left = expires - datetime.now(UTC)
    if left > SOON:
        return None
    when = "expired" if left < timedelta(0) else f"expires in {left.days} day{'' if left.days == 1 else 's'}"
    return f"the certificate of {what} {when}, on {expires:%Y-%m-%d}; {renewal}"


def lay_out(kit: Path, workspace: Path, server: bool) -> None:
    """Make NVFlare's workspace from a kit, with restricted permissions: no code in jobs, no class except the mail
    slot, no shell, no logs sent to others.

    Args:
        kit: the startup kit, which is not changed.
        workspace: folder that is made again, except for its logs.
        server: whether the workspace is that of the server.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    workspace.chmod(0o700)
    for name in ("startup", "local"):
        shutil.rmtree(workspace / name, ignore_errors=True)
        shutil.copytree(kit / name, workspace / name)
    (workspace / "transfer").mkdir(exist_ok=True)
    jobs = {
        "submit_job": "any",
        "manage_job": "any",
        "view": "any",
        "download_job": "none",
        "clone_job": "none",
        "operate": "any" if server else "none",
        "shell_commands": "none",
        "byoc": "none",
    }
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
    """The settings in a file of a kit.

    Raises:
        DamagedError: if the file cannot be read or is not a mapping.
    """
    try:
        settings = parse_json(read_file(path, MOST_SETTINGS))
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path} cannot be read ({error}); ask for a new kit") from None
    if not isinstance(settings, dict):
        raise DamagedError(f"{path} is not a mapping; ask for a new kit")
    return settings


def config_name(server: bool) -> str:
    """Name of the file in `startup` that NVFlare's program reads."""
    return "fed_server.json" if server else "fed_client.json"


def _plain(name: str) -> str:
    return _ORGANISATION.sub("_", name)
