"""A demonstration of a whole federation on one machine, with a real server, nodes and certificates, from the first
command to recommendations at each node. All processes are stopped at the end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fedrec.data.interactions import Interactions
from fedrec.data.partitions import partition
from fedrec.deploy.folder import FederationFolder
from fedrec.deploy.processes import unwound
from fedrec.errors import RunError
from fedrec.federation.coordinator import Progress
from fedrec.federation.data_plan import DataPlan
from fedrec.federation.plan import Plan
from fedrec.network.nvflare.admin import who_is_up
from fedrec.network.nvflare.post import NvflarePost
from fedrec.network.nvflare.supervised import PARENT
from fedrec.network.waiting import Waiting
from fedrec.owner.limits import ResourceLimits
from fedrec.owner.new_node import make_node
from fedrec.progress import doing
from fedrec.runs.federated import train_federated
from fedrec.runs.loading import load_plan_data, public_digest
from fedrec.runs.training import Placement, train_run

__all__ = ["Stage", "free_port", "owners_table", "play", "staged"]

_UP, _UP_EACH = 60.0, 10.0  # seconds to connect: for all nodes, and for each node in addition, as they share the cores
_STOP = 15.0
_SHOWN = 5


class Stage:
    """The processes of a federation on this machine, which end when this process ends.

    Args:
        folder: folder of all files.
        federation: the federation, with all nodes invited.
        threads: number of threads of each process; with `None`, `NUMBA_NUM_THREADS` or all cores.
    """

    def __init__(self, folder: Path, federation: FederationFolder, threads: int | None = None) -> None:
        self.folder = folder
        self.federation = federation
        self.threads = threads
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start_server(self) -> None:
        """Start the federation's server."""
        self._start("server", "federation", "start", str(self.federation.path))

    def start_node(self, name: str) -> None:
        """Start a node."""
        kit, config = self.federation.path / "kits" / name, self.folder / name / "node.toml"
        self._start(name, "node", "start", "--kit", str(kit), "--config", str(config))

    def wait(self, names: Sequence[str], seconds: float | None = None) -> None:
        """Wait until nodes are connected, by default for a minute plus ten seconds for each node.

        Raises:
            RunError: if a node is not connected in time, or a process ended.
        """
        seconds = _UP + _UP_EACH * len(names) if seconds is None else seconds
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    lines = (self.folder / f"{name}.txt").read_text(errors="replace").strip().splitlines()
                    raise RunError(f"the process of {name} ended: {lines[-1] if lines else process.returncode}")
            with contextlib.suppress(RunError):
                if set(names) <= set(who_is_up(self.federation.admin_kit)):
                    return
            time.sleep(1.0)
        raise RunError(f"{', '.join(names)} did not all connect within {seconds:g} s; the logs are in {self.folder}")

    def stop(self) -> None:
        """Stop all processes: first ask them to stop, then kill them."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        until = time.monotonic() + _STOP
        for process in self.processes.values():
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def _start(self, name: str, *words: str) -> None:
        threads = {"NUMBA_NUM_THREADS": os.environ.get("NUMBA_NUM_THREADS", str(os.cpu_count() or 1))}
        threads |= ResourceLimits(threads=self.threads).environment()
        with (self.folder / f"{name}.txt").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "fedrec", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **threads, PARENT: str(os.getpid())},
            )


def owners_table(data: Interactions) -> pl.DataFrame:
    """The data of an owner as a table. Ordered lists without times get their positions as times.

    Example:
        >>> import fedrec as fr
        >>> made = fr.load_data("synthetic:users=20,items=20,interactions_per_user=5,seed=1")
        >>> sorted(owners_table(made).columns)
        ['item_id', 'timestamp', 'user_id']
    """
    table = data.to_frame()
    if data.times is None and data.order.by == "sequence":
        return table.with_columns(timestamp=pl.int_range(pl.len(), dtype=pl.Int64))
    return table


@contextlib.contextmanager
def staged(
    folder: Path,
    data: Interactions,
    places: np.ndarray,
    n_max: int,
    secure: bool = False,
    threads: int | None = None,
) -> Iterator[Stage]:
    """A federation on this machine with users spread over its nodes; its processes are stopped at the end.

    Args:
        folder: folder of all files.
        data: all users.
        places: number of the node of each user [users].
        n_max: agreed maximum number of clients.
        secure: let sums leave nodes masked only.
        threads: number of threads of each process; all cores if `None`.
    """
    names = [f"node-{place}" for place in np.unique(places)]
    federation = FederationFolder.create(folder / "federation", "demo", "localhost", free_port(), n_max, data.catalog)
    coordinator = str(federation.key.public())
    keys = {}
    for name, place in zip(names, np.unique(places), strict=True):
        home = folder / name
        home.mkdir()
        owners_table(data.take_users(np.flatnonzero(places == place))).write_parquet(home / "interactions.parquet")
        reading = DataPlan(source=str((home / "interactions.parquet").absolute()))
        place = home.absolute() / "home"
        agreed = data.catalog.digests, n_max
        keys[name] = str(make_node(name, home / "node.toml", place, reading, coordinator, (), *agreed, required=False))
    for name in names:
        _agree(folder / name / "node.toml", list(keys.values()), secure)
    federation = federation.invite(keys)
    stage = Stage(folder, federation, threads)
    with unwound():
        try:
            stage.start_server()
            for name in names:
                stage.start_node(name)
            stage.wait(names)
            yield stage
        finally:
            stage.stop()


@unwound()
def play(
    plan: Plan,
    nodes: int,
    secure: bool,
    keep: Path | None,
    watch: Callable[[Progress], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Spread a data set over nodes, train, compute metrics, recommend at each node, and compare with one process.

    Returns:
        The report of the run, whose seconds start when the nodes are connected, with `recommended` by node,
        `same_as_local` (`None` if the plan does not promise equality: asynchronous or not reproducible) and
        `seconds_in_all`, from the start of the first process to the comparison.
    """
    began = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="fedrec-")) if keep is None else keep
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=False)
    try:
        source = load_plan_data(plan.data, folder, named=plan.data.source)
        data = source.interactions
        plan = plan.resolve(data, public_digest(plan, source.digest, folder))
        places = partition(data, "hash", nodes, plan.seed) if nodes > 1 else np.zeros(data.n_users, dtype=np.int64)
        assert plan.n_max is not None
        doing("starting the server and the nodes")
        with staged(folder, data, places, plan.n_max, secure, threads) as stage:
            names = [name for name in stage.processes if name != "server"]
            say(f"server and {len(names)} nodes started in {folder} after {time.perf_counter() - began:.0f} s")
            if plan.privacy is None:
                say("these nodes allow plans without privacy; nodes from 'fedrec node init' do not by default")
            post = NvflarePost(stage.federation.path, stage.federation.admin_kit, tell=say)
            try:
                report = train_federated(
                    plan, folder / "run", stage.federation.members, post, secure, Waiting(120.0), watch=watch, tell=say
                )
            finally:
                post.close()
            doing("recommending at each node, and stopping all processes")
            report["recommended"] = {name: _recommended(folder / name / "home" / "models" / "latest") for name in names}
        report["same_as_local"] = None  # in an asynchronous run the order of arrival decides the model
        if plan.asynchronous is None and plan.reproducible:
            local = train_run(plan, folder / "local", Placement(nodes, "hash"), source=source)
            pairs = [(folder / "run" / "model" / file, folder / "local" / "model" / file) for file in _FILES]
            report["same_as_local"] = all(one.read_bytes() == other.read_bytes() for one, other in pairs)
            report["local_seconds"] = local["seconds"]
        report["seconds_in_all"] = round(time.perf_counter() - began, 1)
        return report
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


_FILES = ("model.json", "shared.safetensors", "catalog.jsonl")


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _recommended(run: Path) -> list[dict[str, Any]]:
    """Recommendations of a node for its first user."""
    import fedrec as fr

    model = fr.load_model(run)
    user = model.opened.data.users.series[0]
    table = model.recommend([user], n=_SHOWN)
    rows: list[dict[str, Any]] = table.to_dicts()
    return rows


def _agree(path: Path, keys: Sequence[str], secure: bool) -> None:
    """Edit node.toml as its owner would: add the keys of all nodes, and set whether sums leave masked only."""
    text = path.read_text(encoding="utf-8")
    start = text.index("parties = [")
    end = text.index("]", start) + 1
    text = text[:start] + f"parties = {json.dumps(list(keys))}" + text[end:]
    text = text.replace("secure = true", f"secure = {str(secure).lower()}", 1)
    text = text.replace("distributed = true", f"distributed = {str(secure).lower()}", 1)
    path.write_text(text, encoding="utf-8")
