"""Messages over a Unix socket between processes of one owner; a message has a JSON head and a body of bytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import stat
import struct
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedrec.documents import parse_json
from fedrec.errors import RunError

__all__ = ["MOST_BODY", "Connection", "Listener", "connect", "socket_path"]

_SIZES = struct.Struct("<IQ")
_LONGEST_PATH = 100
_MOST_HEAD = 1 << 20
_AHEAD = 1 << 20
"""Bytes allocated before they arrive; later allocations are as large as what has arrived."""
MOST_BODY = 1 << 34
"""Maximum bytes of a body by default."""


class Connection:
    """One end of a socket; several threads may send, one may receive.

    Args:
        link: the connected socket.
        most: maximum bytes of a body.
    """

    def __init__(self, link: socket.socket, most: int = MOST_BODY) -> None:
        self._link = link
        self._most = most
        self._sending = threading.Lock()

    def limit_sending(self, seconds: float) -> None:
        """Let `send` fail if the other end accepts no bytes for `seconds`; `receive` has no time limit."""
        whole = int(seconds)
        span = struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))
        self._link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)

    def send(self, head: Mapping[str, Any], *body: bytes | bytearray) -> None:
        """Send one message, whose body may come in several parts.

        Raises:
            OSError: if the other end is closed, or accepted no bytes for longer than `limit_sending` allows.
        """
        text = json.dumps(head).encode()
        with self._sending:
            self._link.sendall(_SIZES.pack(len(text), sum(map(len, body))) + text)
            for part in body:
                self._link.sendall(part)

    def receive(self) -> tuple[dict[str, Any], bytes] | None:
        """The next message; `None` if the other end is closed or the message is malformed or too long."""
        try:
            sizes = self._exactly(_SIZES.size)
            if sizes is None:
                return None
            text, body = _SIZES.unpack(sizes)
            if text > _MOST_HEAD or body > self._most:
                return None
            head, rest = self._exactly(text), self._exactly(body)
            if head is None or rest is None:
                return None
            fields = parse_json(head)
            return (fields, bytes(rest)) if isinstance(fields, dict) else None
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Close the connection; a thread in `receive` gets `None`."""
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._link.close()

    def _exactly(self, size: int) -> bytearray | None:
        """`size` bytes; memory grows with the bytes that arrive, not with the announced size."""
        data, done = bytearray(min(size, _AHEAD)), 0
        while done < size:
            if done == len(data):
                data += bytes(min(size, 2 * done) - done)
            with memoryview(data)[done:] as room:
                got = self._link.recv_into(room)
            if got == 0:
                return None
            done += got
        return data


class Listener:
    """Accepts connections at a path that only the owner may use, and handles each in a thread of its own.

    Args:
        path: path of the socket; an old socket is replaced.
        handle: called with every connection, which is closed afterwards.
        most: maximum bytes of a message's body.
    """

    def __init__(self, path: Path, handle: Callable[[Connection], None], most: int = MOST_BODY) -> None:
        self.path = path
        self._handle = handle
        self._most = most
        path.unlink(missing_ok=True)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._server.bind(str(path))
        finally:
            os.umask(before)
        self._server.listen(64)
        threading.Thread(target=self._accept, daemon=True, name="fedrec-listener").start()

    def close(self) -> None:
        """Stop accepting connections."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(link,), daemon=True, name="fedrec-connection").start()

    def _serve(self, link: socket.socket) -> None:
        connection = Connection(link, self._most)
        try:
            with contextlib.suppress(OSError):  # the other end closed the connection
                self._handle(connection)
        finally:
            connection.close()


def connect(path: Path) -> Connection:
    """Connect to a listener.

    Raises:
        OSError: if no listener is at this path.
    """
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.connect(str(path))
    except OSError:
        link.close()
        raise
    return Connection(link)


def socket_path(folder: Path, name: str) -> Path:
    """Path of a socket of `folder`: inside the folder or, as such paths must be short, in a temporary folder.

    Raises:
        RunError: if the temporary folder may belong to another user.
    """
    inside = folder.absolute() / name
    if len(str(inside)) <= _LONGEST_PATH:
        return inside
    place = Path(tempfile.gettempdir()) / f"fedrec-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    status = place.lstat()
    mode = stat.S_IMODE(status.st_mode) & 0o777
    reasons = {
        "it is not a folder": not stat.S_ISDIR(status.st_mode),
        "it belongs to another user": status.st_uid != os.getuid(),
        f"its mode is {mode:o}, not 700": mode != 0o700,
    }
    for reason, holds in reasons.items():
        if holds:
            raise RunError(
                f"{place} cannot be used for sockets: {reason}. Delete it, or set TMPDIR to a folder of your own, the "
                "same folder for every fedrec command"
            )
    return place / f"{hashlib.sha256(str(inside).encode()).hexdigest()[:16]}.{name}"
