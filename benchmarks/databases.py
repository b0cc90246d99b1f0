"""Seconds and memory of loading the same rows from PostgreSQL, from SQLite and from a Parquet file.

    python benchmarks/databases.py                    # 1 million rows, about a minute
    python benchmarks/databases.py --rows 10000000

A PostgreSQL server of its own is started in a temporary folder, on this machine only, and stopped at the end. Every
measurement is a process of its own. `read` iterates over the rows as they come from the source and keeps none; `load`
makes interactions of them. CPU is this process's, without the server's. Memory is the peak above what the process held
before, without the interactions.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fedrec.benchmarks.timing import machine

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

FIELDS = ("user_id", "item_id", "rating", "timestamp")


def made(rows: int, text: bool) -> pl.DataFrame:
    """50,000 users, 20,000 items, half stars, and a time for every row, at random."""
    rng = np.random.default_rng(0)
    table = pl.DataFrame(
        {
            "user_id": rng.integers(0, 50_000, rows),
            "item_id": rng.integers(0, 20_000, rows),
            "rating": rng.integers(1, 11, rows) / 2,
            "timestamp": rng.permutation(rows) * 1_000_000 + 1_700_000_000_000_000,
        }
    ).with_columns(pl.col("timestamp").cast(pl.Datetime("us")))
    names = [
        pl.format(f"{word}-number-{{}}", name).alias(name)
        for name, word in (("user_id", "customer"), ("item_id", "article"))
    ]
    return table.with_columns(names) if text else table


def memory(key: str) -> float:
    """MiB of this process, from Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key))) / 1024


def measured(source: str, work: str) -> dict[str, Any]:
    """Seconds, peak memory and digest of reading or loading a source in this process."""
    import importlib

    from fedrec.data.databases.urls import database_of, is_url
    from fedrec.data.sources import load_source

    for name in (
        "pyarrow",
        "adbc_driver_postgresql.dbapi",
        "fedrec.data.databases.postgresql",
        "fedrec.data.databases.sqlite",
    ):
        importlib.import_module(name)
    load_source("synthetic:users=50,items=50,interactions_per_user=5")
    if work == "read" and not is_url(source):
        return {}
    before, start, worked = memory("VmRSS"), time.perf_counter(), time.process_time()
    Path("/proc/self/clear_refs").write_text("5")
    if work == "read":
        database = database_of(source)
        reader = importlib.import_module(f"fedrec.data.databases.{database.kind}")
        for _ in reader.read_rows(database, lambda found: {name: name for name in FIELDS}):
            pass
        spent = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - worked}
        return {**spent, "peak": memory("VmHWM") - before}
    loaded = load_source(source)
    spent = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - worked}
    data = loaded.interactions
    arrays = [array for array in (data.indptr, data.items, data.values, data.times) if array is not None]
    kept = (sum(array.nbytes for array in arrays) + data.users.series.estimated_size()) / 2**20
    return {**spent, "peak": memory("VmHWM") - before, "kept": kept, "digest": loaded.digest}


def in_a_process(source: str, work: str, turns: int) -> dict[str, Any]:
    """The median of several processes."""
    found = []
    for _ in range(turns):
        done = subprocess.run([sys.executable, __file__, "--measure", work, source], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        found.append(json.loads(done.stdout))
    return {key: sorted(one[key] for one in found)[turns // 2] for key in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=3, help="processes per figure; the median counts")
    parser.add_argument("--measure", nargs=2, metavar=("WORK", "SOURCE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measured(chosen.measure[1], chosen.measure[0])))
        return
    from postgres_in_test import postgres

    here = machine()
    print(f"{chosen.rows:,} rows. {here['processor']}, {here['cores']} cores, load {here['load']}.\n")
    print("| ids | source | read, s | CPU, s | peak, MiB | load, s | CPU, s | peak, MiB | interactions, MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    with postgres() as server, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for ids in ("whole numbers", "text"):
            table = made(chosen.rows, ids == "text")
            table.write_parquet(folder / f"{ids}.parquet")
            with sqlite3.connect(folder / f"{ids}.db") as file:
                file.execute("CREATE TABLE clicks (user_id, item_id, rating REAL, timestamp TEXT)")
                texts = table.with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%d %H:%M:%S"))
                file.executemany("INSERT INTO clicks VALUES (?, ?, ?, ?)", texts.iter_rows())
            file.close()
            with server.connect() as connection, connection.cursor() as cursor:
                cursor.adbc_ingest(ids, table.to_arrow())
            digests = set()
            for kind, source in {
                "PostgreSQL": server.socket_url(table=ids),
                "SQLite": f"sqlite:///{folder}/{ids}.db?table=clicks",
                "Parquet": str(folder / f"{ids}.parquet"),
            }.items():
                read, load = in_a_process(source, "read", chosen.turns), in_a_process(source, "load", chosen.turns)
                digests.add(load["digest"])
                alone = f"{read['seconds']:.1f} | {read['cpu']:.1f} | {read['peak']:.0f}" if read else "– | – | –"
                all_of_it = f"{load['seconds']:.1f} | {load['cpu']:.1f} | {load['peak'] - load['kept']:.0f}"
                print(f"| {ids} | {kind} | {alone} | {all_of_it} | {load['kept']:.0f} |", flush=True)
            if len(digests) > 1:
                sys.exit("the same rows gave different interactions")


if __name__ == "__main__":
    main()
