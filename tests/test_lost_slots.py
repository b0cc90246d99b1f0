"""A node that was started anew has no mail slot in NVFlare's running job, which is noticed; a slow node has one."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("nvflare")

from fedrec.federation.messages import Frame
from fedrec.network.nvflare import post as nvflare_post
from fedrec.network.nvflare import relay_link
from fedrec.network.nvflare.mailslots import Trip, _bundled, _hand_over, _Sweep
from fedrec.network.nvflare.post import POST, NvflarePost
from fedrec.network.nvflare.relay_link import RelayLink
from fedrec.network.nvflare.sockets import Connection, connect, socket_path
from fedrec.network.post import Failure

FRAMES = {"node-0": Frame(b"ab", ()), "node-1": Frame(b"cd", ())}


class Slow:
    """A site whose node never answers in time; its slot is there or not."""

    def __init__(self, there: bool) -> None:
        self.there = there

    def __call__(self, timeout: float) -> Slow:
        return self

    def deliver(self, parcel: str, frame: bytes) -> bytes:
        raise TimeoutError("timed out")

    def knock(self) -> bool:
        if not self.there:
            raise TimeoutError("timed out")
        return True


def pair() -> tuple[Connection, Connection]:
    one, other = socket.socketpair()
    return Connection(one), Connection(other)


@pytest.mark.parametrize("there", [True, False])
def test_a_relay_tells_a_lost_slot_from_a_slow_node(there: bool) -> None:
    here, relay = pair()
    trip = Trip(Slow(there), "1", 5.0, threading.BoundedSemaphore(1))
    _hand_over(relay, trip, {"id": 1, "site": "node-1"}, (memoryview(b"frame"),), _Sweep())
    relay.close()
    said = []
    while (message := here.receive()) is not None:
        said.append(message[0])
    here.close()
    assert said[0]["failure"][0] == "timeout"
    assert said[1:] == ([] if there else [{"lost": "node-1"}])


def test_nobody_waits_for_an_answer_from_a_lost_slot() -> None:
    here, there = pair()
    relay = RelayLink(here, ("node-0", "node-1"))
    threading.Thread(target=relay.listen, daemon=True).start()

    def answer() -> None:
        while (message := there.receive()) is not None:
            for number, site, frame in _bundled(*message):
                there.send({"id": number, "site": site}, b"".join(frame)[::-1])

    threading.Thread(target=answer, daemon=True).start()
    assert relay.ask(FRAMES, 5.0, None) == {"node-0": b"ba", "node-1": b"dc"}
    there.send({"lost": "node-1"})
    until = time.monotonic() + 5.0
    while "node-1" in relay.reached and time.monotonic() < until:
        time.sleep(0.01)
    began = time.monotonic()
    answers = relay.ask(FRAMES, 30.0, None)
    assert answers == {"node-0": b"ba", "node-1": Failure("gone", "not connected")}
    assert time.monotonic() - began < 5.0
    relay.close()
    there.close()


def test_a_job_that_reaches_nobody_is_over() -> None:
    here, there = pair()
    relay = RelayLink(here, ("node-0", "node-1"))
    listening = threading.Thread(target=relay.listen, daemon=True)
    listening.start()
    there.send({"lost": "node-0"})
    there.send({"lost": "node-1"})
    listening.join(5.0)
    assert not relay.alive
    relay.close()
    there.close()


def test_what_goes_to_many_nodes_goes_to_the_relay_once() -> None:
    here, there = pair()
    relay = RelayLink(here, ("node-0", "node-1", "node-2"))
    threading.Thread(target=relay.listen, daemon=True).start()
    model, other = b"model" * 1000, b"part"
    frames = {
        "node-0": Frame(b"a", (model,)),
        "node-1": Frame(b"other", (other, model)),
        "node-2": Frame(b"ccc", (model,)),
    }
    messages = []

    def answer() -> None:
        while (message := there.receive()) is not None:
            messages.append(message)
            for number, site, frame in _bundled(*message):
                there.send({"id": number, "site": site}, b"".join(frame))

    threading.Thread(target=answer, daemon=True).start()
    assert relay.ask(frames, 5.0, None) == {name: frame.whole() for name, frame in frames.items()}
    assert sorted(body.count(b"model") for _, body in messages) == [1000, 1000]
    relay.close()
    there.close()


def test_a_relay_that_takes_nothing_any_longer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_link, "_STUCK", 0.5)
    here, there = pair()
    relay = RelayLink(here, ("node-0", "node-1"))
    listening = threading.Thread(target=relay.listen, daemon=True)
    listening.start()
    time.sleep(1.0)
    assert relay.alive, "it may be silent for as long as it likes"
    answers: list[object] = []
    frames = {"node-0": Frame(b"head", (bytes(4 << 20),))}
    asking = threading.Thread(target=lambda: answers.append(relay.ask(frames, 1.0, None)), daemon=True)
    asking.start()
    asking.join(10.0)
    assert answers == [{"node-0": ENDED}]
    assert not relay.alive
    listening.join(5.0)
    assert not listening.is_alive()
    there.close()


def send_if_there(connection: Connection, head: dict[str, Any], body: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.send(head, body)


class Server:
    """NVFlare's server without NVFlare: `play` is told of every job and plays its relay."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs, self.aborted, self.sessions = folder, list[str](), list[str](), 0
        self.play: Callable[[str], None] = self.answer
        self.status = "RUNNING"

    def session(self, admin: Path) -> Server:
        self.sessions += 1
        return self

    def submit_job(self, folder: str) -> str:
        config = json.loads(Path(folder, "app/config/config_fed_server.json").read_text())
        self.jobs.append(config["components"][0]["args"]["job"])
        threading.Thread(target=self.play, args=(self.jobs[-1],), daemon=True).start()
        return self.jobs[-1]

    def relay(self, job: str) -> Connection:
        """Connect as the relay of a job."""
        connection = connect(socket_path(self.folder, POST))
        connection.send({"job": job, "sites": sorted(FRAMES)})
        return connection

    def answer(self, job: str, work: float = 0.0, lost: str | None = None) -> None:
        """Answer every frame with the name of the job, after some work; one node's slot is lost from the start."""
        connection = self.relay(job)
        if lost is not None:
            connection.send({"lost": lost})
        while (message := connection.receive()) is not None:
            for number, site, _ in _bundled(*message):
                answer = (connection, {"id": number, "site": site}, job.encode())
                threading.Timer(work, send_if_there, answer).start()
        connection.close()

    def abort_job(self, job: str) -> None:
        self.aborted.append(job)

    def get_job_meta(self, job: str) -> dict[str, Any]:
        return {"status": self.status}

    def get_system_info(self) -> Any:
        return SimpleNamespace(client_info=[SimpleNamespace(name=name) for name in FRAMES])

    def close(self) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server(tmp_path)
    monkeypatch.setattr(nvflare_post, "admin_session", made.session)
    monkeypatch.setattr(nvflare_post, "_GLANCE", 0.1)
    return made


@pytest.fixture
def post(server: Server, tmp_path: Path) -> Iterator[NvflarePost]:
    made = NvflarePost(tmp_path, tmp_path, start=1.0)
    yield made
    made.close()


GONE = Failure("gone", "not connected")
ENDED = Failure("gone", "NVFlare's job ended before the node answered")


def asked(post: NvflarePost, frames: dict[str, Frame]) -> tuple[threading.Thread, list[object]]:
    """A thread that asks and is waiting for the answers, and where it puts them."""
    answers: list[object] = []
    asking = threading.Thread(target=lambda: answers.append(post.ask(frames, 30.0)))
    asking.start()
    until = time.monotonic() + 5.0
    while not (post._relay and post._relay.busy) and time.monotonic() < until:
        time.sleep(0.01)
    return asking, answers


def test_a_relay_that_comes_late_is_not_taken_for_the_next_jobs(server: Server, post: NvflarePost) -> None:
    server.play = lambda job: None
    assert post.ask(FRAMES, 5.0) == dict.fromkeys(FRAMES, GONE)
    assert server.aborted == server.jobs
    late = server.relay(server.jobs[0])
    assert late.receive() is None, "its job was given up"
    held: list[Connection] = []

    def play(job: str) -> None:
        held.append(server.relay(server.jobs[0]))
        server.answer(job)

    server.play = play
    second = post.ask(FRAMES, 5.0)
    assert second == dict.fromkeys(FRAMES, server.jobs[1].encode())
    assert held[0].receive() is None
    for connection in (late, *held):
        connection.close()


def test_a_relay_that_ended_at_once_is_no_road(server: Server, post: NvflarePost) -> None:
    def play(job: str) -> None:
        server.relay(job).close()
        time.sleep(0.3)
        server.status = "FINISHED:EXECUTION_EXCEPTION"

    server.play = play
    while_ended = post.ask(FRAMES, 5.0)
    assert set(while_ended.values()) <= {GONE, ENDED}
    server.play, server.status = server.answer, "RUNNING"
    assert post.ask(FRAMES, 5.0) == dict.fromkeys(FRAMES, server.jobs[1].encode())
    assert server.aborted == server.jobs[:1]


def test_a_post_that_is_closed_opens_nothing(server: Server, post: NvflarePost) -> None:
    server.play = lambda job: server.answer(job, work=3.0)
    asking, answers = asked(post, FRAMES)
    post.close()
    asking.join(2.0)
    assert answers == [dict.fromkeys(FRAMES, ENDED)]
    assert post.ask(FRAMES, 5.0) == dict.fromkeys(FRAMES, GONE)
    assert (len(server.jobs), server.sessions) == (1, 1)
    post.close()


def ask_for(post: NvflarePost, name: str, seconds: float) -> None:
    """Ask one node again and again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        post.ask({name: FRAMES[name]}, 5.0)
        time.sleep(0.01)


@pytest.mark.parametrize("patience", [60.0, 0.5])
def test_a_job_for_a_lost_node_waits_a_while_for_the_work_of_others(
    patience: float, server: Server, post: NvflarePost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvflare_post, "_ASK_AGAIN", 0.05)
    monkeypatch.setattr(nvflare_post, "_LONGEST_PAUSE", patience)
    server.play = lambda job: server.answer(job, work=2.0, lost="node-1")
    asking, answers = asked(post, {"node-0": FRAMES["node-0"]})
    ask_for(post, "node-1", 1.0)
    asking.join(5.0)
    if patience > 1.0:
        assert answers == [{"node-0": server.jobs[0].encode()}]
        assert len(server.jobs) == 1
        ask_for(post, "node-1", 0.2)
        assert len(server.jobs) > 1, "nobody is at work now"
    else:
        assert answers == [{"node-0": ENDED}]
        assert len(server.jobs) > 1, "work without an end is not waited for"


def test_a_node_that_every_job_loses_gets_a_new_one_less_and_less_often(
    server: Server, post: NvflarePost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvflare_post, "_ASK_AGAIN", 0.1)
    server.play = lambda job: server.answer(job, lost="node-1")
    ask_for(post, "node-1", 3.0)
    assert 3 <= len(server.jobs) <= 6, "after 0.1, 0.1, 0.2, 0.4, 0.8, 1.6, … seconds"
    assert post.ask({"node-0": FRAMES["node-0"]}, 5.0) == {"node-0": server.jobs[-1].encode()}
