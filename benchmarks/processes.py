"""Processes by whose they are: memory, processor time and bytes on the wire, and a certain end for all of them.

Memory is the proportional set size: pages that processes share count in parts, so that parts add up. On machines of
their own, nodes share less; the resident size, which counts every page for every process, is beside it as the upper
end.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_SOCKET = re.compile(r"pid=(\d+),")
_SENT, _GOT = re.compile(r"bytes_sent:(\d+)"), re.compile(r"bytes_received:(\d+)")


@dataclass
class Use:
    """What one owner's processes have used.

    Args:
        pss, rss: peak of the sum over its processes, in MiB.
        count: processes at that peak.
        kinds: peak of each kind of process, in MiB of proportional size.
        cpu: seconds by process.
        sent, got: bytes by TCP connection to another owner.
    """

    pss: float = 0.0
    rss: float = 0.0
    count: int = 0
    kinds: dict[str, float] = field(default_factory=dict)
    cpu: dict[tuple[int, float], float] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    got: dict[str, int] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget peaks of memory; processor time and bytes go on."""
        self.pss = self.rss = 0.0
        self.kinds = {}

    @property
    def seconds(self) -> float:
        """Processor seconds so far."""
        return sum(self.cpu.values())

    @property
    def up(self) -> int:
        """Bytes sent so far, everything above TCP included (TLS, HTTP/2, heartbeats)."""
        return sum(self.sent.values())

    @property
    def down(self) -> int:
        """Bytes received so far."""
        return sum(self.got.values())


def family(root: int) -> list[psutil.Process]:
    """A process and all that it started."""
    try:
        top = psutil.Process(root)
        return [top, *top.children(recursive=True)]
    except psutil.Error:
        return []


def kind(process: psutil.Process) -> str:
    """What a process is, by its command line."""
    line = " ".join(process.cmdline())
    known = {
        "runner_process": "job at the coordinator",
        "server_train": "server",
        "worker_process": "job at the node",
        "client_train": "client",
    }
    for word, name in known.items():
        if word in line:
            return name
    return " ".join(Path(part).name if "/" in part else part for part in process.cmdline()[1:4])


class Watch:
    """Looks at processes again and again, in a thread.

    Args:
        owners: process ids by name; may grow meanwhile.
        seconds: between looks.
        port: the port that nodes call; connections to it are between owners.
    """

    def __init__(self, owners: Mapping[str, list[int]], port: int, seconds: float = 2.0) -> None:
        self.owners, self.seconds, self.port = owners, seconds, port
        self.uses: dict[str, Use] = {}
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._go, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def look(self) -> None:
        """Look once, now."""
        with self._lock:
            owner_of = {}
            for name, roots in list(self.owners.items()):
                found = [process for root in list(roots) for process in family(root)]
                self._memory(self.uses.setdefault(name, Use()), found)
                owner_of |= {process.pid: name for process in found}
            self._wire(owner_of)

    def marks(self) -> dict[str, tuple[float, int, int]]:
        """Processor seconds, bytes up and down by owner, after a look."""
        self.look()
        return {name: (use.seconds, use.up, use.down) for name, use in self.uses.items()}

    def _go(self) -> None:
        while not self._end.wait(self.seconds):
            self.look()

    def _memory(self, use: Use, processes: list[psutil.Process]) -> None:
        pss = rss = 0.0
        parts: dict[str, float] = {}
        for process in processes:
            with contextlib.suppress(psutil.Error):
                memory, times = process.memory_full_info(), process.cpu_times()
                use.cpu[process.pid, process.create_time()] = times.user + times.system
                own = memory.pss / 2**20
                pss, rss = pss + own, rss + memory.rss / 2**20
                name = kind(process)
                parts[name] = parts.get(name, 0.0) + own
        for name, size in parts.items():
            use.kinds[name] = max(use.kinds.get(name, 0.0), size)
        if pss > use.pss:
            use.pss, use.count = pss, len(processes)
        use.rss = max(use.rss, rss)

    def _wire(self, owner_of: Mapping[int, str]) -> None:
        done = subprocess.run(["ss", "-tinpHO", "state", "established"], capture_output=True, text=True)
        for line in done.stdout.splitlines():
            cells, who = line.split(), _SOCKET.search(line)
            if who is None or int(who[1]) not in owner_of or len(cells) < 4:
                continue
            if not cells[3].endswith(f":{self.port}"):
                continue
            use, key = self.uses[owner_of[int(who[1])]], f"{cells[2]} {cells[3]}"
            for pattern, home in ((_SENT, use.sent), (_GOT, use.got)):
                if (found := pattern.search(line)) is not None:
                    home[key] = max(home.get(key, 0), int(found[1]))


def stop(roots: list[int], patience: float = 20.0) -> list[str]:
    """End these processes and all that they started: they are asked, then killed; says what had to be killed."""
    known = {process.pid: process for root in roots for process in family(root)}
    for root in roots:
        with contextlib.suppress(psutil.Error):
            psutil.Process(root).send_signal(signal.SIGTERM)
    end = time.monotonic() + patience
    _, left = psutil.wait_procs(list(known.values()), timeout=max(0.0, end - time.monotonic()))
    killed = []
    for process in left:
        with contextlib.suppress(psutil.Error):
            killed.append(kind(process))
            process.kill()
    psutil.wait_procs(left, timeout=5)
    return killed


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that whatever is `finally` happens."""

    def raise_(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, raise_)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
