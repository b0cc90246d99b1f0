"""The post over NVFlare: frames to nodes on other machines, under mutual TLS, through mail slots that hold nothing.

An NVFlare job is only the road: its processes hand frames on between this process and the nodes' own. When a job
fails, as it does when one site's job process dies, or when a node comes back that it does not reach, the next is
submitted with whoever is up, and the training goes on.
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
"""Seconds between jobs that are started for a node which each loses again, or while others are at work."""
_JOB = "fedrec"
_SLOTS = "fedrec.network.nvflare.mailslots"


class NvflarePost:
    """Carries frames through NVFlare jobs.

    Args:
        folder: of the federation; the server's processes find this one by a socket there.
        admin: the coordinator's admin kit.
        start: seconds for a job to start.
        tell: told in words what becomes of jobs.

    Raises:
        RunError: if another training uses the federation, or its server is not up.
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
        self._lock = hold(folder / ".training", f"another training uses the federation {folder}; wait for its end")
        self._listener: Listener | None = None
        try:
            self._session = admin_session(admin)
            self._listener = Listener(socket_path(folder, POST), self._welcome, most_bytes())
        except BaseException:
            self.close()
            raise

    def ask(self, frames: Mapping[str, Frame], seconds: float, enough: int | None = None) -> dict[str, bytes | Failure]:
        """Hand one frame to each of some nodes; starts a job where there is none, or a better one can be had."""
        with self._building:
            relay = None if self._closed else self._road(frames)
        if relay is None:
            return {name: Failure("gone", "it is not up") for name in frames}
        return relay.ask(frames, seconds, enough)

    def close(self) -> None:
        """End the job and the connection to the server; whoever asks or waits is told that nobody is up."""
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
        """The job in use, or a new one: after a failure, and when somebody is up whom this one does not reach.

        A new job ends what others are asked in the old one, so those are waited for, for some minutes; and a node that
        is lost from job after job gets a new one less and less often.
        """
        relay = self._relay
        if relay is None or not relay.alive:
            if relay is not None:
                self._tell("NVFlare's job ended; a new one is started with the nodes that are up")
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
        self._tell(f"{', '.join(back)}: back, but not in NVFlare's job; a new one is started")
        return self._begin()

    def _begin(self) -> RelayLink | None:
        """Submit a job, in the place of the one before, and wait until its relay is there."""
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
                    self._tell(f"NVFlare could not start the job: {status}; the logs of server and nodes say more")
                    return None
        except Exception as error:  # NVFlare raises what it likes
            self._tell(f"NVFlare could not start the job: {error}")
            return None
        if not self._closed:
            self._tell(f"NVFlare's job did not start within {self._start:g} s")
            self._end_job()
        return None

    def _up(self) -> list[str]:
        """Who is up; nobody while the server is not, which may be back for the next question."""
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
        """A relay connects: its first message says whom it reaches; then it brings answers until it ends."""
        first = connection.receive()
        awaited = self._awaited
        if first is None or awaited is None or first[0].get("job") != awaited[0]:
            return  # of a job that was given up; it ends, as nobody listens to it
        relay = RelayLink(connection, tuple(str(site) for site in first[0].get("sites", ())))
        awaited[1].put(relay)
        relay.listen()


def job_files(nodes: list[str], number: str) -> dict[str, str]:
    """The job, by file name: it names the two mail slots of the installed fedrec and carries no code.

    Args:
        nodes: that take part.
        number: by which the relay of this job is known.
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
