"""Peak memory of reading a source to its end, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import importlib, sys
from pathlib import Path
from fedrec.data.databases.urls import database_of

def memory(key):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(key))) * 1024

database = database_of(sys.argv[1], query=sys.argv[2])
reader = importlib.import_module(f"fedrec.data.databases.{database.kind}")
wanted = {"user_id": "user_id", "item_id": "item_id"}
for rows in reader.read_rows(database_of(sys.argv[1], query=sys.argv[3]), lambda found: wanted):
    pass
before, count, size = memory("VmRSS"), 0, 0
Path("/proc/self/clear_refs").write_text("5")
for rows in reader.read_rows(database, lambda found: wanted):
    count += rows.table.height
    size += rows.table["item_id"].str.len_bytes().sum()
print(count, size, memory("VmHWM") - before)
"""


def peak_of(source: str, query: str, warm_up: str) -> tuple[int, int, int]:
    """Rows read, bytes of text in `item_id`, and the peak of memory above what the process had after `warm_up`."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is measured with Linux's /proc")
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, source, query, warm_up], capture_output=True, text=True, check=True
    )
    rows, size, peak = map(int, done.stdout.split())
    return rows, size, peak
