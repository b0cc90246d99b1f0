"""A node that was started anew has no mail slot in NVFlare's running job, which is noticed; a slow node has one."""

from __future__ import annotations

import socket
import threading
import time

import pytest

pytest.importorskip("nvflare")

from fedrec.deploy.mailslots import Trip, _bundled, _hand_over, _Sweep
from fedrec.deploy.sockets import Connection
from fedrec.engines import nvflare
from fedrec.engines.nvflare import _Relay
from fedrec.engines.post import Failure
from fedrec.federation.messages import Frame

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
    relay = _Relay(here, ("node-0", "node-1"))
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
    assert answers == {"node-0": b"ba", "node-1": Failure("gone", "it is not up")}
    assert time.monotonic() - began < 5.0
    relay.close()
    there.close()


def test_a_job_that_reaches_nobody_is_over() -> None:
    here, there = pair()
    relay = _Relay(here, ("node-0", "node-1"))
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
    relay = _Relay(here, ("node-0", "node-1", "node-2"))
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
    monkeypatch.setattr(nvflare, "_STUCK", 0.5)
    here, there = pair()
    relay = _Relay(here, ("node-0", "node-1"))
    listening = threading.Thread(target=relay.listen, daemon=True)
    listening.start()
    time.sleep(1.0)
    assert relay.alive, "it may be silent for as long as it likes"
    answers: list[object] = []
    frames = {"node-0": Frame(b"head", (bytes(4 << 20),))}
    asking = threading.Thread(target=lambda: answers.append(relay.ask(frames, 1.0, None)), daemon=True)
    asking.start()
    asking.join(10.0)
    assert answers == [{"node-0": Failure("gone", "NVFlare's job ended before it answered")}]
    assert not relay.alive
    listening.join(5.0)
    assert not listening.is_alive()
    there.close()
