"""A parallel kernel runs its iterations once each, on as many threads as its caller may use, in any process."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.kernels.scoring import dot_rows
from fedrec.kernels.threads import _ranges, limit_threads, parallel_kernel, thread_count

FORK = """
import os
import numpy as np
from fedrec.kernels.scoring import dot_rows

def right():
    scores = np.zeros((9, 4), dtype=np.float32)
    dot_rows(np.ones((9, 3), dtype=np.float32), np.ones((3, 4), dtype=np.float32), np.zeros(4, dtype=np.float32), scores)
    return bool((scores == 3.0).all())

before = right()
child = os.fork()
if child == 0:
    os._exit(0 if right() else 1)
print(before, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@parallel_kernel("void(int64, int64[::1])", over=lambda wrong, out: len(out))
def mark(begin, end, wrong, out):  # type: ignore[no-untyped-def]
    """Count every iteration in `out` [n]; iteration `wrong` fails."""
    for place in range(begin, end):
        if place == wrong:
            raise ValueError("this iteration fails")
        out[place] += 1


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 5), st.booleans())
def test_ranges_hold_every_iteration_once_and_in_order(work: list[int], threads: int, equal: bool) -> None:
    offsets = np.cumsum([3, *work])
    ranges = _ranges(len(work) if equal else offsets, threads)
    assert [place for begin, end in ranges for place in range(begin, end)] == list(range(len(work)))
    assert len(ranges) <= threads
    if not equal and ranges:
        shares = [offsets[end] - offsets[begin] for begin, end in ranges]
        assert max(shares) <= sum(work) / threads + max(work), "no range is more than one iteration above its share"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("wrong", [0, 99])
def test_an_error_on_any_thread_reaches_the_caller_when_all_threads_are_done(threads: int, wrong: int) -> None:
    out = np.zeros(100, dtype=np.int64)
    with limit_threads(threads), pytest.raises(ValueError, match="this iteration fails"):
        mark(wrong, out)
    if thread_count() >= threads == 2:
        np.testing.assert_array_equal(out, np.r_[np.zeros(50), np.ones(50)] if wrong == 0 else np.arange(100) != 99)
    with limit_threads(threads):
        mark(-1, out := np.zeros(100, dtype=np.int64))
    assert (out == 1).all()


def test_kernels_run_from_many_threads_at_once_each_with_a_limit_of_its_own() -> None:
    def scored(number: int) -> tuple[int, bool]:
        left, right = np.full((50, 8), number, dtype=np.float32), np.ones((8, 6), dtype=np.float32)
        scores = np.empty((50, 6), dtype=np.float32)
        with limit_threads(1 + number % 2):
            for _ in range(20):
                scores[:] = 0.0
                dot_rows(left, right, np.zeros(6, dtype=np.float32), scores)
            return thread_count(), bool((scores == 8.0 * number).all())

    most = thread_count()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(scored, range(16)))
    assert found == [(min(most, 1 + number % 2), True) for number in range(16)]
    assert thread_count() == most


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True 0\n", done.stderr
