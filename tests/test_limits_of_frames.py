"""Bytes that come before a signature can be checked: how many of them are held, and who is told of the others."""

from __future__ import annotations

import gzip
import logging
import os
import random
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import given, settings

from fedrec.data.reading import files
from fedrec.data.reading.files import line_chunks
from fedrec.data.reading.readers import read_interactions
from fedrec.errors import InputError
from fedrec.federation.messages import Frame
from fedrec.network.nvflare.names import NODE_MOST, NODE_SOCKET
from fedrec.network.nvflare.parcels import PIECE, Parcels, held_bytes, most_bytes
from fedrec.network.nvflare.relay_link import RelayLink
from fedrec.network.nvflare.sockets import Connection, Listener, connect
from fedrec.network.nvflare.supervised import PARENT
from fedrec.network.post import Failure


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a socket, closed afterwards."""
    near, far = socket.socketpair()
    yield near, far
    near.close()
    far.close()


Ends = tuple[socket.socket, socket.socket]

# --- parcels --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 300)), max_size=80), st.integers(300, 2000))
@settings(max_examples=200, deadline=None)
def test_what_is_held_never_exceeds_the_limit_whatever_comes(pieces: list[tuple[int, int]], most: int) -> None:
    parcels, sent = Parcels(most), dict[str, bytes]()
    for number, (name, size) in enumerate(pieces):
        piece = bytes([number % 256]) * size
        before = len(sent.get(str(name), b""))
        try:
            parcels.add(str(name), piece)
        except ValueError:
            assert before + size > most
            sent.pop(str(name), None)
            continue
        sent[str(name)] = sent.get(str(name), b"") + piece
        assert parcels.size <= most
        held = {other: data for other, data in sent.items() if other in parcels._held}
        assert len(held) <= 8
        assert str(name) in held
        sent = held
        assert {other: bytes(data) for other, data in parcels._held.items()} == held
    for name, data in sent.items():
        assert bytes(parcels.take(name)) == data
    assert parcels.size == 0


def test_a_parcel_that_is_too_long_is_gone_and_the_others_stay() -> None:
    parcels = Parcels(10 * PIECE)
    parcels.add("other", b"x")
    for _ in range(10):
        parcels.add("long", bytes(PIECE))
    assert bytes(parcels.take("other")) == b"", "the oldest one made room"
    parcels.add("other", b"y")
    for _ in range(10):
        parcels.add("longer", bytes(PIECE))
    with pytest.raises(ValueError, match=r"more than 10,485,760 bytes, .* limits\.memory_gb in its node\.toml"):
        parcels.add("longer", b"x")
    assert parcels.size <= 1
    with pytest.raises(ValueError, match="more than"):
        parcels.keep("answer", bytes(10 * PIECE + 1))


@pytest.mark.parametrize("piece", [b"", bytes(PIECE + 1), "text", 5, None, bytearray(3)])
def test_a_piece_is_bytes_of_a_piece(piece: Any) -> None:
    with pytest.raises(ValueError, match="a piece must have from 1 to 1048576 bytes"):
        Parcels(1 << 30).add("1", piece)
    with pytest.raises(ValueError, match="may have at most 64 letters"):
        Parcels(1 << 30).add("1" * 65, b"x")


def test_what_nobody_touches_is_let_go_in_time() -> None:
    now = [0.0]
    parcels = Parcels(100, lambda: now[0])
    parcels.add("left", b"abc")
    now[0] = 3000.0
    parcels.add("new", b"d")
    assert parcels.size == 4
    now[0] = 3700.0
    parcels.add("new", b"e")
    assert parcels.size == 2


@pytest.mark.parametrize("start", [-1, 3 * PIECE, 10**30, 1.5, "0", None, True])
def test_an_answer_has_the_pieces_that_it_has(start: Any) -> None:
    parcels = Parcels(1 << 30)
    parcels.keep("1", bytes(3 * PIECE))
    with pytest.raises(ValueError, match="no such piece"):
        parcels.cut("1", start)
    with pytest.raises(ValueError, match="no such piece"):
        parcels.cut("2", 0)
    assert len(parcels.cut("1", PIECE)) == PIECE
    assert len(parcels.cut("1", 2 * PIECE)) == PIECE
    assert parcels.size == 0


def test_a_node_takes_frames_of_half_its_memory() -> None:
    assert held_bytes(0.5) == 1 << 28
    assert held_bytes() <= 1 << 29
    assert 1 << 28 < most_bytes() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# --- the mail slot --------------------------------------------------------------------------------------------------


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What the node's process hears of its mail slot, which may hold four mebibytes."""
    messages: list[Any] = []

    def serve(connection: Connection) -> None:
        while (message := connection.receive()) is not None:
            messages.append(message)
            if "refused" not in message[0]:
                connection.send({}, message[1][:10])

    monkeypatch.setenv(PARENT, str(os.getppid()))
    monkeypatch.setenv(NODE_SOCKET, str(tmp_path / "s"))
    monkeypatch.setenv(NODE_MOST, str(4 * PIECE))
    listener = Listener(tmp_path / "s", serve)
    yield messages
    listener.close()


def test_a_slot_takes_no_more_than_its_owner_allows_and_tells_both_sides(heard: list[Any]) -> None:
    pytest.importorskip("nvflare")
    from fedrec.network.nvflare.mailslots import Mailbox

    mailbox, piece = Mailbox(), os.urandom(PIECE)
    tracemalloc.start()
    try:
        for name in ("1", "2", "3"):
            for _ in range(10):
                for _ in range(4):
                    mailbox.bring(name, piece)
                with pytest.raises(
                    RuntimeError, match="refused the frame: a frame or answer has more than 4,194,304 bytes"
                ):
                    mailbox.bring(name, piece)
        for number in range(1000):
            mailbox.bring(str(number), piece)
        assert tracemalloc.get_traced_memory()[1] < 12 * PIECE
    finally:
        tracemalloc.stop()
    with pytest.raises(RuntimeError, match="in one piece may have at most 1048576 bytes"):
        mailbox.deliver("9", bytes(PIECE + 1))
    until = time.monotonic() + 5.0
    while not heard and time.monotonic() < until:
        time.sleep(0.01)
    assert len(heard) == 1, "the owner hears of it once in a while, not each time"
    assert "limits.memory_gb" in heard[0][0]["refused"]
    mailbox.bring("a", b"0123456789")
    assert mailbox.deliver("a", b"") == b"0123456789"


def test_the_owner_reads_in_the_log_what_was_refused(caplog: pytest.LogCaptureFixture, ends: Ends) -> None:
    pytest.importorskip("nvflare")
    from fedrec.deploy.node_process import NodeProcess

    one, other = map(Connection, ends)
    one.send({"refused": "too long\x1b[2J"})
    one.close()
    with caplog.at_level(logging.WARNING, "fedrec.node"):
        NodeProcess._serve(object.__new__(NodeProcess), other)
    assert [record.getMessage() for record in caplog.records] == ["the mail slot refused a message: too long [2J"]


# --- sockets --------------------------------------------------------------------------------------------------------


def test_a_length_that_is_only_said_takes_no_memory(ends: Ends) -> None:
    near, far = ends
    connection = Connection(near)
    tracemalloc.start()
    try:
        far.sendall(struct.pack("<IQ", 2, 1 << 33) + b"{}" + bytes(1000))
        far.close()
        assert connection.receive() is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 3])
def test_a_body_of_any_length_arrives_as_it_was_sent(size: int, ends: Ends) -> None:
    near, far = map(Connection, ends)
    body = random.Random(size).randbytes(size)
    sender = threading.Thread(target=far.send, args=({"n": 1}, body), daemon=True)
    sender.start()
    assert near.receive() == ({"n": 1}, body)
    sender.join()


def test_a_body_longer_than_the_owner_allows_is_not_read(tmp_path: Path) -> None:
    got: list[Any] = []
    ended = threading.Event()

    def serve(connection: Connection) -> None:
        got.append(connection.receive())
        ended.set()

    listener = Listener(tmp_path / "s", serve, 1000)
    link = socket.socket(socket.AF_UNIX)
    link.connect(str(tmp_path / "s"))
    link.sendall(struct.pack("<IQ", 2, 1001) + b"{}")
    assert ended.wait(5.0)
    assert got == [None]
    listener.close()
    link.close()


@pytest.mark.parametrize("head", ["[]", "5", '"x"', "null", "[" * 100_000, '{"a": 1, "a": 2}', "9" * 5000])
def test_a_head_that_is_no_mapping_ends_the_connection(head: str, ends: Ends) -> None:
    near, far = ends
    connection = Connection(near)
    far.sendall(struct.pack("<IQ", len(head), 0) + head.encode())
    assert connection.receive() is None


@pytest.mark.parametrize(
    "head", [{"id": []}, {"id": "0"}, {"id": {"a": 1}}, {"id": True}, {"lost": ["a"]}, {}, {"id": 10**30}]
)
def test_a_relay_that_talks_nonsense_ends_no_wait(head: dict[str, Any], ends: Ends) -> None:
    near, far = map(Connection, ends)
    link = RelayLink(near, ("shop",))
    listener = threading.Thread(target=link.listen, daemon=True)
    listener.start()

    def answer() -> None:
        far.receive()
        far.send(head)
        far.send({"id": 0, "failure": 7})

    relay = threading.Thread(target=answer, daemon=True)
    relay.start()
    assert link.ask({"shop": Frame(b"x", ())}, 5.0, None) == {"shop": Failure("gone", "7")}
    assert link.alive
    relay.join()
    far.close()
    listener.join()


def test_an_ended_listener_is_gone(tmp_path: Path) -> None:
    listener = Listener(tmp_path / "s", lambda connection: None, 10)
    listener.close()
    with pytest.raises(OSError, match=r".+"):
        connect(tmp_path / "s")


# --- compressed files -----------------------------------------------------------------------------------------------


def bomb(path: Path, kind: str, size: int = 40_000_000) -> Path:
    """A table of equal lines, which compresses to a thousandth or less."""
    line = b"1,2,3,4\n"
    if kind == "zstd":
        rows = size // len(line)
        table = pl.select(pl.repeat(value, rows).alias(name) for name, value in zip("abcd", (1, 2, 3, 4), strict=True))
        table.write_csv(path, include_header=False, compression="zstd", check_extension=False)
    else:
        with gzip.open(path, "wb") as file:
            text = line * (size // len(line))
            file.write(text.decode().encode("utf-16") if kind == "wide" else text)
    return path


@pytest.mark.parametrize("kind", ["gzip", "wide", "zstd"])
def test_a_file_that_grows_beyond_measure_is_refused_before_it_fills_the_memory(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_FREE", 1 << 20)
    monkeypatch.setattr(files, "_CHUNK", 1 << 18)
    path = bomb(tmp_path / "clicks.csv.gz", kind)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"grows to more than .* bytes when it is decompressed"):
            for _ in line_chunks(path, "utf-16" if kind == "wide" else "utf-8", 1 << 18):
                pass
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()
    with pytest.raises(InputError, match="grows to more than"):
        read_interactions(path, encoding="utf-16" if kind == "wide" else "utf-8")


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_table_that_compresses_well_is_read(kind: str, tmp_path: Path) -> None:
    path = bomb(tmp_path / "clicks.csv.gz", kind, 800_000)
    assert sum(len(lines.texts) for lines in line_chunks(path)) == 100_000
