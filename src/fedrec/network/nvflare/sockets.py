"""Messages over a Unix socket between processes of one owner: a head in JSON and bytes."""

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
"""Bytes that are made room for before they come; from then on, as many as came."""
MOST_BODY = 1 << 34
"""Bytes beside the head of a message, where nothing smaller is agreed."""


class Connection:
    """One end of a socket; several threads may send, one may receive.

    Args:
        link: connected.
        most: bytes of a body that are taken.
    """

    def __init__(self, link: socket.socket, most: int = MOST_BODY) -> None:
        self._link = link
        self._most = most
        self._sending = threading.Lock()

    def limit_sending(self, seconds: float) -> None:
        """Let a message fail when the other end takes nothing of it for so long; receiving waits for ever."""
        whole = int(seconds)
        span = struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))
        self._link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)

    def send(self, head: Mapping[str, Any], *body: bytes | bytearray) -> None:
        """Send one message, whose body may come in several parts.

        Raises:
            OSError: if the other end is gone, or took nothing for longer than `limit_sending` allows.
        """
        text = json.dumps(head).encode()
        with self._sending:
            self._link.sendall(_SIZES.pack(len(text), sum(map(len, body))) + text)
            for part in body:
                self._link.sendall(part)

    def receive(self) -> tuple[dict[str, Any], bytes] | None:
        """The next message; `None` when the other end is gone, or says what it may not."""
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
            said = parse_json(head)
            return (said, bytes(rest)) if isinstance(said, dict) else None
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """End the connection; who waits for a message gets `None`."""
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._link.close()

    def _exactly(self, size: int) -> bytearray | None:
        """So many bytes; whoever only says that they will come fills no memory."""
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
    """Accepts connections at a path that only the owner may use, each handled in a thread of its own.

    Args:
        path: of the socket; a stale one is replaced.
        handle: called with every connection; it is closed afterwards.
        most: bytes of a message's body that are taken.
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
        """Accept nobody any longer."""
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
            with contextlib.suppress(OSError):  # the other end went away
                self._handle(connection)
        finally:
            connection.close()


def connect(path: Path) -> Connection:
    """Connect to a listener.

    Raises:
        OSError: if there is none.
    """
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.connect(str(path))
    except OSError:
        link.close()
        raise
    return Connection(link)


def socket_path(folder: Path, name: str) -> Path:
    """Where a socket of `folder` is: inside, or, as such paths must be short, in a temporary folder of the user.

    Raises:
        RunError: if what has the name of that folder may be somebody else's.
    """
    inside = folder.absolute() / name
    if len(str(inside)) <= _LONGEST_PATH:
        return inside
    place = Path(tempfile.gettempdir()) / f"fedrec-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    found = place.lstat()
    mode = stat.S_IMODE(found.st_mode) & 0o777
    reasons = {
        "it is no folder": not stat.S_ISDIR(found.st_mode),
        "it is another user's": found.st_uid != os.getuid(),
        f"its mode is {mode:o}, not 700": mode != 0o700,
    }
    for reason, holds in reasons.items():
        if holds:
            raise RunError(
                f"{place} is not used for sockets: {reason}; remove it, or set TMPDIR to a folder of your own, the "
                "same for every fedrec command"
            )
    return place / f"{hashlib.sha256(str(inside).encode()).hexdigest()[:16]}.{name}"
