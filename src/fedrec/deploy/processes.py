"""NVFlare's programs as child processes, which are restarted when they end and stopped with their parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

from fedrec.network.nvflare.kits import config_name
from fedrec.network.nvflare.supervised import PARENT

__all__ = ["Child", "until_stopped", "unwound"]

_PATIENCE = 10.0
_MOST_WAIT = 60.0
_GLANCE = 0.2


class Child:
    """NVFlare's parent process of a server or a client.

    Args:
        workspace: folder with the unpacked startup kit.
        server: whether the process is a server or a client.
        settings: settings for NVFlare's command line.
        environment: environment variables in addition to those of this process.
        tell: receives a warning when the process ended by itself and is restarted.
    """

    def __init__(
        self,
        workspace: Path,
        server: bool,
        settings: Mapping[str, str],
        environment: Mapping[str, str],
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        role = "server" if server else "client"
        words = ["secure_train=true", *(f"{key}={value}" for key, value in settings.items()), "config_folder=config"]
        self._command = [
            sys.executable,
            "-u",
            "-m",
            "fedrec.network.nvflare.supervised",
            f"nvflare.private.fed.app.{role}.{role}_train",
            "-m",
            str(workspace),
            "-s",
            config_name(server),
            "--set",
            *words,
        ]
        # NVFlare logs every call to files of its own; its standard output goes to a file too.
        self._environment = {**os.environ, "MALLOC_ARENA_MAX": "2", **environment}
        self._workspace = workspace
        self._tell = tell
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._start()
        threading.Thread(target=self._keep, daemon=True, name="fedrec-child").start()

    @property
    def pid(self) -> int | None:
        """Process number of the running process; `None` if there is none."""
        return None if self._process is None else self._process.pid

    @property
    def log(self) -> Path:
        """Path of NVFlare's log."""
        return self._workspace / "log.txt"

    def stop(self) -> None:
        """End the process and wait for its end."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self) -> None:
        with (self._workspace / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _keep(self) -> None:
        wait = 1.0
        while not self._stopping.is_set():
            assert self._process is not None
            began = time.monotonic()
            code = self._wait()
            if self._stopping.is_set():
                return
            wait = 1.0 if time.monotonic() - began > _MOST_WAIT else min(2 * wait, _MOST_WAIT)
            self._tell(f"NVFlare ended with code {code} (see {self.log}); restarting in {wait:g} s")
            if not self._stopping.wait(wait):
                self._start()

    def _wait(self) -> int | None:
        """The exit code, by polling: a child must be started by a thread that lives as long as the child."""
        assert self._process is not None
        while not self._stopping.is_set():
            code = self._process.poll()
            if code is not None:
                return code
            time.sleep(_GLANCE)
        return None


def until_stopped(stop: Callable[[], None]) -> None:
    """Wait for SIGTERM, SIGINT or the end of the parent process named in the environment, then call `stop`."""
    stopping = threading.Event()

    def ask(signum: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    parent = os.environ.get(PARENT)
    while not stopping.wait(1.0) and parent in (None, str(os.getppid())):
        pass
    stop()


@contextlib.contextmanager
def unwound() -> Iterator[None]:
    """Let SIGTERM end the block like an error, so that open resources are closed; further SIGTERMs are ignored.

    Has an effect in the main thread only, which receives the signals.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is _unwind:
        yield
        return
    before = signal.signal(signal.SIGTERM, _unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _unwind(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + signum)
