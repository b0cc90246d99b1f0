"""What a server bears: events per second, kills, newer models under load, too many requests, broken connections.

    python benchmarks/serving.py                    # everything, as a table
    python benchmarks/serving.py kills swaps        # some of it

    events     durable events per second at 1, 4 and 16 connections, with 1 and with 20 events in a request
    kills      the server is killed 20 times while clients send events; which acknowledged events are lost or double
    swaps      the model is replaced 50 times under load; requests that failed, answers of an unknown model
    overload   twice as many requests as the server bears, at a fixed rate; what they get, and how long they wait
    faults     a proxy between delays, cuts, floods with garbage and swallows; what others get meanwhile and after
    memory     100,000 requests; memory of the process before and after

`fedrec bench serve`, `serve-ials` and `serve-spectral` time lists.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fedrec as fr
from fedrec.benchmarks.serving import Server, ask, started

DATA = "synthetic:users=2000,items=1000,interactions_per_user=20"
USERS = [f"/v1/recommend?user={user}" for user in range(1, 1001)]


def made_run(folder: Path, reg: float) -> Path:
    """A run of ease."""
    fr.EASE(reg=reg).fit(fr.load_data(DATA)).save(folder)
    return folder


def event_bodies(prefix: str, requests: int, together: int) -> list[bytes]:
    """Bodies of requests with so many events in each."""
    return [
        json.dumps([click(f"{prefix}-{first + place}", first + place) for place in range(together)]).encode()
        for first in range(0, requests * together, together)
    ]


def click(event_id: str, number: int = 0) -> dict[str, Any]:
    return {"event_id": event_id, "user": number % 2000 + 1, "item": number % 1000 + 1, "kind": "click"}


def events(folder: Path, requests: int = 4000) -> dict[str, Any]:
    """Durable events per second."""
    run, facts = made_run(folder / "run", 100.0), {}
    with started(run, "--events", str(folder / "events.db")) as server:
        for connections in (1, 4, 16):
            for together, asked in ((1, requests), (20, requests // 10)):
                bodies = event_bodies(f"c{connections}-{together}", asked, together)
                load = asyncio.run(ask(server.port, ["/v1/events"], connections, asked, bodies))
                found = {"events_per_second": round(asked * together / load.whole), **load.facts()}
                facts[f"{connections} x {together}"] = {**found, "statuses": load.statuses}
    return facts


def kills(folder: Path, times: int = 20, patience: float = 0.5) -> dict[str, Any]:
    """Kill -9 while clients send events, each of which is sent until it is acknowledged."""
    run, log = made_run(folder / "run", 100.0), folder / "events.db"
    acknowledged: set[str] = set()
    sent_twice, chance, number = 0, random.Random(1), 0

    async def send(port: int, until: float) -> None:
        nonlocal number, sent_twice
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        try:
            while time.monotonic() < until:
                name = f"k{number}"
                number += 1
                again = chance.choice(sorted(acknowledged)[-50:]) if acknowledged and chance.random() < 0.2 else None
                sent_twice += again is not None
                listed = [name] if again is None else [name, again]
                body = json.dumps([click(event_id) for event_id in listed]).encode()
                head = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                head += f"Content-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                answer = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(answer.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
                if answer[9:12] == b"202":
                    acknowledged.add(name)
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def crowd(server: Server) -> None:
        clients = [asyncio.create_task(send(server.port, time.monotonic() + 60.0)) for _ in range(8)]
        await asyncio.sleep(patience * (0.2 + chance.random()))
        os.kill(server.process.pid, signal.SIGKILL)
        await asyncio.gather(*clients)

    for _ in range(times):
        with started(run, "--events", str(log)) as server:
            asyncio.run(crowd(server))
    with started(run, "--events", str(log)):  # opens the log again
        pass
    ids = [event_id for (event_id,) in sqlite3.connect(log).execute("SELECT event_id FROM events")]
    lost = acknowledged - set(ids)
    return {
        "kills": times,
        "acknowledged": len(acknowledged),
        "sent again": sent_twice,
        "lost": len(lost),
        "double": len(ids) - len(set(ids)),
    }


def swaps(folder: Path, times: int = 50) -> dict[str, Any]:
    """Replace the model under load; the lists of each model are known, so that a mixture is seen."""
    runs = [made_run(folder / f"run-{place}", reg) for place, reg in enumerate((10.0, 1000.0))]
    digests = {run: json.loads((run / "model/model.json").read_text())["shared"] for run in runs}
    library = {digests[run]: fr.load_model(run).recommend(list(range(1, 101)), n=10) for run in runs}
    lists = {
        digest: {user: rows["item_id"].to_list() for (user,), rows in table.group_by("user_id")}
        for digest, table in library.items()
    }
    latest = folder / "latest"
    latest.symlink_to(runs[0])
    seen: list[str] = []
    failed, mixed, answered = 0, 0, 0

    async def client(port: int, ended: asyncio.Event) -> None:
        nonlocal failed, mixed, answered
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        user = 0
        while not ended.is_set():
            user = user % 100 + 1
            writer.write(f"GET /v1/recommend?user={user} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            answered += 1
            if head[9:12] != b"200":
                failed += 1
                continue
            answer = json.loads(body)
            if not seen or seen[-1] != answer["model"]:
                seen.append(answer["model"])
            mixed += lists[answer["model"]][user] != [entry["item"] for entry in answer["items"]]
        writer.close()

    async def replace(port: int) -> None:
        ended = asyncio.Event()
        clients = [asyncio.create_task(client(port, ended)) for _ in range(4)]
        for number in range(times):
            aside = folder / "latest.new"
            aside.symlink_to(runs[(number + 1) % 2])
            os.replace(aside, latest)
            wanted = digests[runs[(number + 1) % 2]]
            while seen[-1:] != [wanted] and not any(task.done() for task in clients):
                await asyncio.sleep(0.02)
        ended.set()
        await asyncio.gather(*clients)

    with started(latest) as server:
        asyncio.run(replace(server.port))
    return {
        "swaps": times,
        "answered": answered,
        "failed": failed,
        "of two models": mixed,
        "models": len(set(seen) & set(digests.values())),
    }


async def at_a_rate(port: int, per_second: float, seconds: float, connections: int = 128) -> dict[str, Any]:
    """Requests of many clients, each at its share of a rate; a client waits for an answer before it asks again."""
    waits: dict[int, list[float]] = {}

    async def client(first: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began, pause = time.perf_counter() + first / per_second, connections / per_second
        for number in range(int(seconds / pause)):
            await asyncio.sleep(max(0.0, began + number * pause - time.perf_counter()))
            sent = time.perf_counter()
            path = USERS[(first + number) % len(USERS)]
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            waits.setdefault(int(head[9:12]), []).append(time.perf_counter() - sent)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client(place) for place in range(connections)))
    whole = time.perf_counter() - began
    return {
        "answers per second": {status: round(len(seen) / whole) for status, seen in waits.items()},
        "slowest ms": {status: round(1000 * max(seen)) for status, seen in waits.items()},
    }


def overload(folder: Path, seconds: float = 5.0) -> dict[str, Any]:
    """Twice what the server bears, and the time until it is as before."""
    with started(made_run(folder / "run", 100.0), "--most-waiting", "32", "--deadline", "0.5") as server:
        asyncio.run(ask(server.port, USERS, 4, 1000))
        alone = asyncio.run(ask(server.port, USERS, 64, 2000)).facts()["per_second"]
        crowd = asyncio.run(at_a_rate(server.port, 2 * alone, seconds))
        began = time.perf_counter()
        after = asyncio.run(ask(server.port, USERS, 1, 50))
        while set(after.statuses) != {200}:
            after = asyncio.run(ask(server.port, USERS, 1, 50))
        recovered = time.perf_counter() - began
    return {"bears per second": alone, "sent per second": 2 * alone, **crowd, "seconds to recover": round(recovered, 2)}


class Proxy:
    """Between clients and a server: delays, cuts, sends garbage, or swallows what clients send."""

    def __init__(self, port: int, fault: str) -> None:
        self.port, self.fault = port, fault

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", self.port)

        async def forth() -> None:
            while data := await reader.read(4096):
                if self.fault == "black hole":
                    continue
                if self.fault == "garbage":
                    data = os.urandom(len(data))
                if self.fault == "cut":
                    data = data[: len(data) // 2]
                if self.fault == "slow":
                    for place in range(0, len(data), 8):
                        outer.write(data[place : place + 8])
                        await asyncio.sleep(0.02)
                    continue
                outer.write(data)
                await outer.drain()
                if self.fault == "cut":
                    outer.transport.abort()

        async def back() -> None:
            while data := await inner.read(4096):
                writer.write(data)

        tasks = [asyncio.create_task(forth()), asyncio.create_task(back())]
        with suppress(asyncio.CancelledError):  # the study ends while a client is still there
            await asyncio.wait(tasks, timeout=3.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in (outer, writer):
            one.close()


def faults(folder: Path, clients: int = 50) -> dict[str, Any]:
    """What others get while broken clients are there, and whether anything of them stays."""
    facts: dict[str, Any] = {}

    async def broken(server: Server, fault: str) -> dict[int, int]:
        between = await asyncio.start_server(Proxy(server.port, fault), "127.0.0.1", 0)
        port = between.sockets[0].getsockname()[1]
        crowd = [asyncio.create_task(asyncio.wait_for(ask(port, USERS, 1, 3), 4.0)) for _ in range(clients)]
        await asyncio.sleep(0.3)
        others = await ask(server.port, USERS, 2, 200)
        await asyncio.gather(*crowd, return_exceptions=True)
        between.close()
        return others.statuses

    with started(made_run(folder / "run", 100.0), "--events", str(folder / "events.db")) as server:
        asyncio.run(ask(server.port, USERS, 4, 2000))
        before, handles = server.memory(), len(os.listdir(f"/proc/{server.process.pid}/fd"))
        for fault in ("slow", "cut", "garbage", "black hole"):
            facts[fault] = asyncio.run(broken(server, fault))
        time.sleep(12.0)  # heads that never end are given ten seconds
        facts["more MiB"] = round(server.memory() - before, 1)
        facts["more open files"] = len(os.listdir(f"/proc/{server.process.pid}/fd")) - handles
    return facts


def memory(folder: Path, requests: int = 100_000) -> dict[str, Any]:
    """Memory of the process before and after many requests."""
    with started(made_run(folder / "run", 100.0)) as server:
        asyncio.run(ask(server.port, USERS, 4, min(requests, 5000)))
        before = server.memory()
        load = asyncio.run(ask(server.port, USERS, 4, requests))
        return {
            "requests": requests,
            "statuses": load.statuses,
            "MiB before": round(before, 1),
            "MiB after": round(server.memory(), 1),
        }


STUDIES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "events": events, "kills": kills, "swaps": swaps, "overload": overload, "faults": faults, "memory": memory,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], help="default: all")
    for name in parser.parse_args().studies or STUDIES:
        with tempfile.TemporaryDirectory(prefix="fedrec-") as folder:
            for fact, value in STUDIES[name](Path(folder)).items():
                print(f"{name:10} {fact:22} {value}", flush=True)


if __name__ == "__main__":
    main()
