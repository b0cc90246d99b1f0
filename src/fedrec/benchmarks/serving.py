"""Requests per second of `fedrec serve`: a server in a process of its own, and clients that ask one after another."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.benchmarks.timing import Timing
from fedrec.data.sources import LoadedSource
from fedrec.engines.local import LocalEngine
from fedrec.errors import FedrecError
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.runs.finished import OpenedRun
from fedrec.runs.saved import save_run
from fedrec.runs.training import train_here

__all__ = ["Load", "Server", "ask", "serving_times", "started", "trained_run"]

CONNECTIONS = 4
REQUESTS = 2_000
_SECONDS_TO_START = 120.0


@dataclass(frozen=True)
class Server:
    """A running server.

    Args:
        process: of the server.
        port: where it listens on this machine.
        seconds_to_ready: from the start of the process to the first answer.
    """

    process: subprocess.Popen[str]
    port: int
    seconds_to_ready: float

    def memory(self) -> float:
        """Memory of the process now, in MiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def cpu_seconds(self) -> float:
        """Processor time of the process so far."""
        words = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(eq=False)
class Load:
    """What clients saw.

    Args:
        seconds: of each request that was answered.
        statuses: how many answers had each status; 0 for connections that ended without an answer.
        digests: models that answered.
        whole: seconds of all requests together.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    digests: set[str] = field(default_factory=set)
    whole: float = 0.0

    def facts(self) -> dict[str, float]:
        """Requests per second, and milliseconds of a request: median and 99 %."""
        p50, p99 = np.quantile(self.seconds, [0.5, 0.99])
        return {
            "per_second": round(len(self.seconds) / self.whole, 1),
            "p50_ms": round(1000 * float(p50), 2),
            "p99_ms": round(1000 * float(p99), 2),
        }


@contextmanager
def started(run: Path, *options: str, tls: ssl.SSLContext | None = None, log: Path | None = None) -> Iterator[Server]:
    """A server of a run, on a free port of this machine; it ends with the block.

    Args:
        run: a folder.
        options: of `fedrec serve`.
        tls: what clients trust, if the options name a certificate of `localhost`.
        log: file of what the server says; by default it goes where this process says it.

    Raises:
        FedrecError: if it does not start.
    """
    began = time.perf_counter()
    command = [sys.executable, "-m", "fedrec", "serve", str(run), "--port", "0", "--json", *options]
    with nullcontext() if log is None else log.open("a", encoding="utf-8") as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise FedrecError(f"the server did not start; see {log or 'the message above'}")
        port = int(json.loads(line)["url"].rpartition(":")[2])
        while 200 not in asyncio.run(ask(port, ["/readyz"], 1, 1, tls=tls)).statuses:
            if time.perf_counter() - began > _SECONDS_TO_START:
                raise FedrecError(f"the server was not ready after {_SECONDS_TO_START:g} seconds")
            time.sleep(0.01)
        yield Server(process, port, time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


async def ask(
    port: int,
    paths: Sequence[str],
    connections: int,
    requests: int,
    bodies: Sequence[bytes] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Load:
    """Clients that each ask, wait for the answer, and ask again.

    Args:
        port: of the server.
        paths: asked in turn, by GET.
        connections: clients at the same time.
        requests: of all clients together.
        bodies: sent in turn by POST, as JSON.
        tls: what clients trust, of a server with a certificate.
    """
    load, began = Load(), time.perf_counter()
    left = iter(range(requests))
    await asyncio.gather(*(_client(port, paths, bodies, left, load, tls) for _ in range(connections)))
    load.whole = time.perf_counter() - began
    return load


async def _client(
    port: int,
    paths: Sequence[str],
    bodies: Sequence[bytes] | None,
    left: Iterator[int],
    load: Load,
    tls: ssl.SSLContext | None,
) -> None:
    def ended() -> None:
        load.statuses[0] = load.statuses.get(0, 0) + 1

    try:
        reader, writer = await asyncio.open_connection("localhost" if tls else "127.0.0.1", port, ssl=tls)
    except OSError:
        ended()
        return
    try:
        for number in left:
            path, body = paths[number % len(paths)], None if bodies is None else bodies[number % len(bodies)]
            began = time.perf_counter()
            writer.write(_request(path, body))
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(answer.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            load.seconds.append(time.perf_counter() - began)
            status = int(answer[9:12])
            load.statuses[status] = load.statuses.get(status, 0) + 1
            load.digests.add(answer.partition(b"fedrec-model: ")[2].partition(b"\r\n")[0].decode())
    except (OSError, asyncio.IncompleteReadError):
        ended()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _request(path: str, body: bytes | None) -> bytes:
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: localhost\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + (body or b"")


def trained_run(source: LoadedSource, plan: Plan, folder: Path) -> None:
    """Train a plan and save it as a run."""
    plan = plan.resolve(source.interactions, source.digest)
    engine = LocalEngine.build(source.interactions, plan)
    coordinator, trained = train_here(engine, source.interactions, Run(plan, None))
    assert isinstance(coordinator, Coordinator)
    save_run(OpenedRun.here(coordinator.agreement, trained, engine, source.interactions), folder)


def serving_times(source: LoadedSource, plan: Plan, warmup: int, repeats: int) -> dict[str, Any]:
    """Seconds of 2,000 requests for lists, each of another user, at 4 connections, repeated.

    Returns:
        `seconds` and `spread`, `serving` with requests per second, p50 and p99 in ms, processor milliseconds of the
        server per request, its memory beside that of the model's files in MiB, and seconds until it was ready.
    """
    with tempfile.TemporaryDirectory(prefix="fedrec-") as place:
        folder = Path(place) / "run"
        trained_run(source, plan, folder)
        users = source.interactions.users.series.head(1_000).to_list()
        paths = [f"/v1/recommend?user={user}" for user in users]
        with started(folder) as server:
            for _ in range(max(1, warmup)):
                asyncio.run(ask(server.port, paths, CONNECTIONS, REQUESTS))
            before = server.cpu_seconds()
            loads = [asyncio.run(ask(server.port, paths, CONNECTIONS, REQUESTS)) for _ in range(repeats)]
            cpu = (server.cpu_seconds() - before) / (repeats * REQUESTS)
            together = Load(
                [spent for load in loads for spent in load.seconds], whole=sum(load.whole for load in loads)
            )
            statuses = {status for load in loads for status in load.statuses}
            if statuses != {200}:
                raise FedrecError(f"the server answered with status {', '.join(map(str, sorted(statuses)))}")
            model = (folder / "model" / "shared.safetensors").stat().st_size / 2**20
            facts = {
                **together.facts(),
                "cpu_ms_per_request": round(1000 * cpu, 3),
                "memory_mib": round(server.memory(), 1),
                "model_mib": round(model, 1),
                "seconds_to_ready": round(server.seconds_to_ready, 2),
            }
    timing = Timing(tuple(load.whole for load in loads), max(1, warmup))
    return {"seconds": round(timing.median, 6), "spread": timing.facts(), "serving": facts}
