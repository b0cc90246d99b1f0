"""What NVFlare's job processes run: mail slots that hand frames on and hold nothing.

At a node, `Mailbox` gives each frame to the node's own process and brings the answer back. At the coordinator, `Relay`
does the same for the training process. Where each one finds its process is in the environment of the machine, never in
the job. A slot ends with the process that started it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nvflare.collab import collab

from fedrec.deploy.mailslot_names import NODE_SOCKET, POST_SOCKET
from fedrec.deploy.sockets import Connection, connect
from fedrec.deploy.supervised import PARENT

__all__ = ["Mailbox", "Relay"]

_GLANCE = 1.0


class Mailbox:
    """At a node: hands frames to the node's process."""

    def __init__(self) -> None:
        _end_with_parent()

    @collab.publish
    def deliver(self, frame: bytes) -> bytes:
        """The node's answer to a frame.

        Raises:
            RuntimeError: if the node's process is not there.
        """
        path = Path(os.environ[NODE_SOCKET])
        try:
            connection = connect(path)
        except OSError:
            raise RuntimeError("the node's process is not running") from None
        try:
            connection.send({}, frame)
            answer = connection.receive()
        except OSError:
            answer = None
        finally:
            connection.close()
        if answer is None:
            raise RuntimeError("the node's process ended before it answered")
        return answer[1]


class Relay:
    """At the coordinator: takes frames of the training process to the nodes, each with a deadline of its own."""

    def __init__(self) -> None:
        _end_with_parent()

    @collab.main
    def run(self) -> None:
        """Serve the training process until it ends."""
        sites = {site.name: site for site in collab.clients}
        try:
            connection = connect(Path(os.environ[POST_SOCKET]))
        except OSError:
            return
        connection.send({"sites": sorted(sites)})
        try:
            while (message := connection.receive()) is not None:
                head, frame = message
                work = _handing_over(connection, sites[head["site"]], head, frame)
                threading.Thread(target=work, daemon=True, name="fedrec-frame").start()
        finally:
            connection.close()


def _handing_over(connection: Connection, site: Any, head: dict[str, Any], frame: bytes) -> Callable[[], None]:
    def work() -> None:
        said: dict[str, Any] = {"id": head["id"], "site": head["site"]}
        answer = b""
        try:
            answer = site(timeout=head["seconds"]).deliver(frame)
            if not isinstance(answer, bytes):
                raise TypeError("the answer is not bytes")
        except Exception as error:  # whatever became of the call, the training process is told
            late = isinstance(error.__cause__, TimeoutError) or "timed out" in str(error)
            said["failure"] = ["timeout" if late else "gone", str(error)[:500]]
            answer = b""
        try:
            connection.send(said, answer)
        except OSError:
            return

    return work


def _end_with_parent() -> None:
    """End this process when the one that started it has ended: nothing is left behind."""
    parent = int(os.environ[PARENT])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_GLANCE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="fedrec-watch").start()
