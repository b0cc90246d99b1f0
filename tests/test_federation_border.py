"""What leaves a node: every reply is caught at its border and held against what may be in it."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from faults_in_test import Faulty
from federation_in_test import BEST, Federation, kind_of
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.wire import decode_sum
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.measuring import measuring_spec
from fedrec.federation.messages import open_reply, request_digest
from fedrec.federation.run import Run
from fedrec.network.post import Failure
from fedrec.network.remote import RemoteEngine


def test_what_leaves_a_node_plainly_is_a_sum_over_enough_clients(tmp_path: Path) -> None:
    """Every reply at the border of every node: a sum over `min_clients` or more, or words."""
    federation = Federation(tmp_path, BEST)
    replies = _captured(federation)
    assert {kind for kind, _, _ in replies} == {"open", "contribute", "evaluate", "keep", "finish"}
    engine = federation.engine(Faulty(federation).post, Run(federation.plan, None))
    for kind, call, reply in replies:
        assert len(reply.parts) == (kind in ("contribute", "evaluate")), kind
        for part in reply.parts:
            total = decode_sum(part, call.spec if kind == "contribute" else _measuring(engine, call))
            assert total.clients >= federation.policy["min_clients"]
        assert not set(reply.fields) - {
            "session", "commitments", "valid", "test", "seen", "min_clients",
        }, kind  # fmt: skip


def test_what_leaves_a_node_of_a_secure_run_says_nothing_of_fewer_than_the_floor(tmp_path: Path) -> None:
    """Besides masks, keys and shares there are only words and a number of clients, cut at the floor."""
    federation = Federation(tmp_path, BEST, secure=True)
    parts: list[np.ndarray] = []
    replies = _captured(federation, parts)
    floor = federation.policy["min_clients"]
    bodies = [part for _, _, reply in replies for part in reply.parts]
    assert all(kind == "mask" for kind, _, reply in replies if reply.parts)
    stages = {body[5] for body in bodies}
    assert stages == {2, 4, 6, 7, 9, 11}, "adverts, sealed shares, masked blocks, their root, consents, revealed shares"
    adverts = [body for body in bodies if body[5] == 2]
    said = {int.from_bytes(body[48 + 96 : 48 + 104], "little") for body in adverts}
    assert said == {floor}, "more is said of how many clients a node has than that it has enough"
    for _, _, reply in replies:
        assert not set(reply.fields) - {
            "session", "commitments", "valid", "test", "seen", "min_clients", "call", "among", "aborted",
        }  # fmt: skip
    blocks = b"".join(body[56:] for body in bodies if body[5] == 6)
    assert len(blocks) > 20_000
    _assert_like_noise(blocks)
    whole = b"".join(part for part in bodies)
    for array in parts:
        for start in range(0, array.size - 16, max(1, array.size // 50)):
            window = np.ascontiguousarray(array.reshape(-1)[start : start + 16])
            if np.count_nonzero(window) > 4:
                assert window.tobytes() not in whole, "a stretch of a node's own sum is on the wire"


def _captured(federation: Federation, sums: list[np.ndarray] | None = None) -> list[tuple[str, Any, Any]]:
    """(kind, call, reply) of everything that left any node in a run; also keeps what nodes summed, if asked."""
    post = Faulty(federation)
    found: list[tuple[str, Any, Any]] = []
    calls: dict[str, Any] = {}

    def interfere(name: str, frame: bytes, answer: Any) -> bytes | Failure:
        said: bytes = answer(frame)
        reply = open_reply(said, federation.public[name], request_digest(frame), 1 << 30)
        assert reply.problem is None, reply.fields
        opened = post.post.hosts[name]._opened
        if sums is not None and opened is not None and opened.party is not None and opened.party._held is not None:
            sums.extend(opened.party._held.total.arrays.values())
        found.append((kind_of(frame), calls.get("now"), reply))
        return said

    post.post.interfere = interfere
    run = Run(federation.plan, None)
    engine = federation.engine(post.post, run)
    for name in ("contribute", "evaluate"):
        plainly = getattr(engine, name)

        def watched(call: Any, plainly: Any = plainly) -> Any:
            calls["now"] = call
            return plainly(call)

        setattr(engine, name, watched)
    engine.open()
    Coordinator(federation.agreement, engine, run, engine.has_valid).train()
    return found


def _measuring(engine: RemoteEngine, call: Any) -> SumSpec:
    return measuring_spec(call.metrics, len(engine._agreement.catalog), call.n_max)


def _assert_like_noise(data: bytes) -> None:
    """Bytes are as often each value as chance makes them, and do not shrink when packed."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = len(data) / 256
    assert float(((counts - expected) ** 2 / expected).sum()) < 255 + 6 * (2 * 255) ** 0.5
    assert len(zlib.compress(data, 9)) >= len(data)
