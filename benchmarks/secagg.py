"""What a secure aggregation costs, and how it behaves under many schedules and many spoiled bytes.

    python benchmarks/secagg.py                         # client and server, both rings, 100 parties, 10 dropped
    python benchmarks/secagg.py --stream 200000000      # memory of a party that streams so many coordinates
    python benchmarks/secagg.py --schedules 1000        # random schedules against the oracle
    python benchmarks/secagg.py --fuzz 1000000          # spoiled frames for parties and coordinator at every stage

Times of parties are of the one core that does the work (processor time of the thread, so that others on the machine do
not count); the coordinator uses all cores, and its time is by the clock on the wall.
"""

from __future__ import annotations

import argparse
import collections
import random
import re
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedrec.errors import DamagedError
from fedrec.secagg.layout import Layout, Slot
from fedrec.secagg.wire import Stage

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from secagg_in_test import Cohort, check_schedule, machines, spoil


class Watch:
    """Adds up time: of this thread's processor, or by the clock on the wall."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self.seconds, self.clock = 0.0, clock

    def __enter__(self) -> None:
        self._start = self.clock()

    def __exit__(self, *_: object) -> None:
        self.seconds += self.clock() - self._start


def costs(parties: int, coordinates: int, dropped: int, ring: int) -> None:
    """One whole sum; each party's and the coordinator's own time."""
    layout = Layout((Slot("x", coordinates, ring),))
    cohort = Cohort(parties, layout=layout)
    shape, values, server, on_server = cohort.manifest.topology, cohort.values, cohort.server, Watch(time.perf_counter)
    own = [Watch() for _ in range(parties)]
    sent = [0] * parties
    got = [0] * parties
    lost = set(range(0, parties, parties // dropped)) if dropped else set()
    with on_server:
        frames = server.invite()
    while frames:
        for index, frame in frames:
            client = cohort.clients[index]
            got[index] += len(frame)
            with own[index]:
                answers = list(client.receive(frame))
            if client.wants_values and index in lost:
                continue
            if client.wants_values:
                with own[index]:
                    answers = list(client.upload(values[index]))
            sent[index] += sum(map(len, answers))
            for answer in answers:
                with on_server:
                    server.receive(answer)
        with on_server:
            frames = server.close()
    assert server.result is not None, server.aborted
    expected = cohort.plain_sum(server.survivors)["x"]
    assert np.array_equal(server.result["x"], expected)
    times = sorted(1e3 * own[index].seconds for index in server.survivors)
    print(
        f"ring 2^{ring}  {coordinates:,} coordinates  {shape}\n"
        f"  party   {times[len(times) // 2]:6.1f} ms (median; slowest {times[-1]:.1f})"
        f"   up {max(sent):,} bytes = {max(sent) / layout.nbytes:.4f} x the vector   down {max(got):,} bytes\n"
        f"  server  {1e3 * on_server.seconds:6.0f} ms, {len(lost)} of {parties} parties dropped after sharing"
    )


def stream(coordinates: int, parties: int, ring: int) -> None:
    """A party's upload, block by block, with nothing kept; the memory is the whole process's."""
    cohort = Cohort(parties, layout=Layout((Slot("x", coordinates, ring),)))
    index, frame = cohort.until(Stage.DELIVERY)[0]
    client = cohort.clients[index]
    client.receive(frame)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ones = np.ones(1 << 18, np.uint64).view(f"u{ring // 8}")
    watch, size = Watch(), 0
    with watch:
        for part in client.upload(lambda block: ones[: block.stop - block.start]):
            size += len(part)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"ring 2^{ring}  {coordinates:,} coordinates, {cohort.manifest.neighbours} neighbours: {size:,} bytes in "
        f"{watch.seconds:.1f} s; peak memory {after / 1024:.0f} MiB, of which {before / 1024:.0f} MiB before the upload"
    )


def schedules(count: int) -> None:
    """Random schedules against the oracle; a wrong outcome stops with its seed."""
    start, outcomes = time.perf_counter(), collections.Counter(check_schedule(seed) for seed in range(count))
    print(
        f"{count} schedules: {outcomes['sum']} exact sums, {outcomes['abort']} aborts that were due, 0 wrong "
        f"({time.perf_counter() - start:.0f} s)"
    )


def fuzz(count: int) -> None:
    """Spoiled frames: each is refused with the one class of error, or is no different from a fair one."""
    dice, start = random.Random(0), time.perf_counter()
    largest, refused, kinds = 0, 0, collections.Counter[str]()
    tracemalloc.start()
    for number in range(count):
        if number % 50_000 == 0:
            stages = machines()
        machine, frames = stages[number % len(stages)]
        frame = spoil(frames[number // len(stages) % len(frames)], dice)
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        try:
            machine.receive(frame)
        except DamagedError as error:
            refused += 1
            kinds[re.sub(r"\d+", "n", str(error))] += 1
        largest = max(largest, tracemalloc.get_traced_memory()[1] - held)
    tracemalloc.stop()
    print(
        f"{count:,} spoiled frames: {refused:,} refused in {len(kinds)} ways, {count - refused:,} taken, 0 crashes, "
        f"at most {largest:,} bytes allocated for one ({time.perf_counter() - start:.0f} s)"
    )


def main() -> None:
    """Read the options and run what was asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parties", type=int, default=100, help="parties (100: 32 neighbours each)")
    options.add_argument("--coordinates", type=int, default=1_000_000)
    options.add_argument("--dropped", type=int, default=10, help="parties lost after sharing")
    options.add_argument("--ring", type=int, choices=(32, 64), help="one ring only")
    options.add_argument("--stream", type=int, metavar="N", help="memory of one party that streams N coordinates")
    options.add_argument("--schedules", type=int, metavar="N", help="random schedules")
    options.add_argument("--fuzz", type=int, metavar="N", help="spoiled frames")
    chosen = options.parse_args()
    rings = (chosen.ring,) if chosen.ring else (32, 64)
    if chosen.stream:
        for ring in rings:
            stream(chosen.stream, chosen.parties, ring)
    elif chosen.schedules:
        schedules(chosen.schedules)
    elif chosen.fuzz:
        fuzz(chosen.fuzz)
    else:
        for ring in rings:
            costs(chosen.parties, chosen.coordinates, chosen.dropped, ring)


if __name__ == "__main__":
    main()
