"""Frames to nodes on other machines over NVFlare, under mutual TLS, through mail slots that store nothing.

The processes of an NVFlare job only pass frames between this process and the nodes' own. A job fails when the job
process of one site ends, and cannot reach a node that connects later. Then a new job is submitted with all connected
nodes, and the training continues.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fedrec.errors import RunError
from fedrec.network.nvflare.admin import admin_session, nodes_up
from fedrec.network.nvflare.parcels import most_bytes
from fedrec.network.nvflare.relay_link import RelayLink
from fedrec.network.nvflare.sockets import Connection, Listener, socket_path
from fedrec.network.post import Failure
from fedrec.record.durable import hold

if TYPE_CHECKING:
    from fedrec.federation.messages import Frame

__all__ = ["POST", "NvflarePost", "job_files"]

POST = "post.sock"
_GLANCE = 1.0
_ASK_AGAIN = 20.0
_LONGEST_PAUSE = 300.0
"""Maximum seconds between new jobs for a node that every job loses, or while other nodes are busy."""
_JOB = "fedrec"
_SLOTS = "fedrec.network.nvflare.mailslots"


class NvflarePost:
    """Carries frames through NVFlare jobs.

    Args:
        folder: folder of the federation, with the socket through which the server's processes reach this process.
        admin: the coordinator's admin kit.
        start: seconds for a job to start.
        tell: receives messages about jobs.

    Raises:
        RunError: if another training uses the federation, or the server is not running.
    """

    def __init__(
        self, folder: Path, admin: Path, start: float = 90.0, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self._admin, self._start, self._tell, self._folder = admin, start, tell, folder
        self._awaited: tuple[str, queue.Queue[RelayLink]] | None = None
        self._relay: RelayLink | None = None
        self._job = ""
        self._asked_last = 0.0
        self._back_since: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._building = threading.Lock()
        self._closed = False
        self._lock = hold(folder / ".training", f"another training uses the federation {folder}; wait until it ends")
        self._listener: Listener | None = None
        try:
            self._session = admin_session(admin)
            self._listener = Listener(socket_path(folder, POST), self._welcome, most_bytes())
        except BaseException:
            self.close()
            raise

    def ask(self, frames: Mapping[str, Frame], seconds: float, enough: int | None = None) -> dict[str, bytes | Failure]:
        """Send one frame to each of some nodes; starts a new job if there is none, or if a node is not in the job."""
        with self._building:
            relay = None if self._closed else self._road(frames)
        if relay is None:
            return {name: Failure("gone", "not connected") for name in frames}
        return relay.ask(frames, seconds, enough)

    def close(self) -> None:
        """End the job and the connection to the server; waiting requests fail."""
        if self._closed:
            return
        self._closed = True
        with self._building:
            self._end_job()
        if self._listener is not None:
            self._listener.close()
        session = getattr(self, "_session", None)
        if session is not None:
            with contextlib.suppress(Exception):
                session.close()
        os.close(self._lock)

    def _road(self, wanted: Collection[str]) -> RelayLink | None:
        """The present job, or a new one after a failure or when a node is connected that the present job lacks.

        A new job ends requests of the old one, so busy nodes get some minutes first; and a node that is lost from job
        after job causes new jobs less and less often.
        """
        relay = self._relay
        if relay is None or not relay.alive:
            if relay is not None:
                self._tell("NVFlare's job ended; starting a new job with all connected nodes")
            return self._begin()
        missing, now = set(wanted) - relay.reached, time.monotonic()
        if not missing or now - self._asked_last < _ASK_AGAIN:
            return relay
        self._asked_last = now
        back = sorted(missing & set(self._up()))
        waited = {name: now - self._back_since.setdefault(name, now) for name in back}
        pauses = {name: _LONGEST_PAUSE if relay.busy else self._pauses.get(name, 0.0) for name in back}
        if not any(waited[name] >= pauses[name] for name in back):
            return relay
        for name in back:
            self._pauses[name] = min(2 * self._pauses.get(name, _ASK_AGAIN / 2), _LONGEST_PAUSE)
        self._tell(f"{', '.join(back)}: connected again, but not in NVFlare's job; starting a new job")
        return self._begin()

    def _begin(self) -> RelayLink | None:
        """Submit a job that replaces the present one, and wait until its relay connects."""
        self._end_job()
        self._asked_last = time.monotonic()
        self._back_since = {}
        until = time.monotonic() + self._start
        up = self._up()
        if not up:
            return None
        folder, number = self._folder / "job", secrets.token_hex(8)
        arriving: queue.Queue[RelayLink] = queue.Queue()
        self._awaited = number, arriving
        for name, text in job_files(up, number).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        try:
            self._job = self._session.submit_job(str(folder.absolute()))
            while time.monotonic() < until and not self._closed:
                with contextlib.suppress(queue.Empty):
                    relay = arriving.get(timeout=_GLANCE)
                    if relay.alive:
                        self._relay = relay
                        return relay
                status = str(self._session.get_job_meta(self._job).get("status", ""))
                if status.startswith("FINISHED"):
                    self._tell(f"NVFlare could not start the job: {status}; see the logs of the server and the nodes")
                    return None
        except Exception as error:  # NVFlare raises what it likes
            self._tell(f"NVFlare could not start the job: {error}")
            return None
        if not self._closed:
            self._tell(f"NVFlare's job did not start within {self._start:g} s")
            self._end_job()
        return None

    def _up(self) -> list[str]:
        """Names of the connected nodes; empty while the server is not running."""
        for _ in range(2):
            try:
                return nodes_up(self._session)
            except RunError:
                with contextlib.suppress(Exception):
                    self._session.close()
                try:
                    self._session = admin_session(self._admin)
                except RunError as error:
                    self._tell(str(error))
                    return []
        return []

    def _end_job(self) -> None:
        if self._relay is not None:
            self._relay.close()
            self._relay = None
        if self._job:
            with contextlib.suppress(Exception):
                self._session.abort_job(self._job)
            self._job = ""
        self._awaited = None

    def _welcome(self, connection: Connection) -> None:
        """Serve a relay that connects: its first message names the nodes it reaches, further ones are answers."""
        first = connection.receive()
        awaited = self._awaited
        if first is None or awaited is None or first[0].get("job") != awaited[0]:
            return  # the relay of an abandoned job, which ends without an answer
        relay = RelayLink(connection, tuple(str(site) for site in first[0].get("sites", ())))
        awaited[1].put(relay)
        relay.listen()


def job_files(nodes: list[str], number: str) -> dict[str, str]:
    """The files of the job by name, which name the two mail slots of the installed fedrec and contain no code.

    Args:
        nodes: names of the nodes that take part.
        number: identifier of the relay of this job.
    """
    server = {
        "format_version": 2,
        "workflows": [
            {
                "id": "controller",
                "path": "nvflare.collab.runtime.controller.CollabController",
                "args": {"server_obj_id": "relay", "sync_task_timeout": 30},
            }
        ],
        "components": [{"id": "relay", "path": f"{_SLOTS}.Relay", "args": {"job": number}}],
    }
    client = {
        "format_version": 2,
        "executors": [
            {
                "tasks": ["*"],
                "executor": {
                    "path": "nvflare.collab.runtime.executor.CollabExecutor",
                    "args": {"client_obj_id": "mailbox"},
                },
            }
        ],
        "components": [{"id": "mailbox", "path": f"{_SLOTS}.Mailbox", "args": {}}],
    }
    meta = {
        "name": _JOB,
        "min_clients": 1,
        "resource_spec": {},
        "deploy_map": {"app": ["server", *nodes]},
    }
    texts = {
        "meta.json": meta,
        "app/config/config_fed_server.json": server,
        "app/config/config_fed_client.json": client,
    }
    return {name: json.dumps(data, indent=1) for name, data in texts.items()}
