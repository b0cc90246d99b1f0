"""A parallel kernel runs its iterations once each, on as many threads as its caller may use, in any process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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
    left, right, bias = (np.ones(shape, dtype=np.float32) for shape in ((9, 3), (3, 4), 4))
    scores = np.zeros((9, 4), dtype=np.float32)
    dot_rows(left, right, bias, scores)
    return bool((scores == 4.0).all())

before = right()
child = os.fork()
if child == 0:
    os._exit(0 if right() else 1)
print(before, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def mark() -> Iterator[Callable[[int, np.ndarray], None]]:
    """A kernel that counts every iteration in its second argument, and fails in the iteration that the first names."""

    def mark(begin, end, wrong, out):  # type: ignore[no-untyped-def]
        for place in range(begin, end):
            if place == wrong:
                raise ValueError("this iteration fails")
            out[place] += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedrec.kernels.threads.cache_folder", lambda: None)
        yield parallel_kernel("void(int64, int64[::1])", over=lambda wrong, out: len(out))(mark)


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
def test_an_error_on_any_thread_reaches_the_caller_when_all_threads_are_done(
    threads: int, wrong: int, mark: Callable[[int, np.ndarray], None]
) -> None:
    out = np.zeros(100, dtype=np.int64)
    with limit_threads(threads):
        with pytest.raises(ValueError, match="this iteration fails"):
            mark(wrong, out)
        done = 100 - 100 // thread_count() if wrong == 0 else 99
        assert out.sum() == done, "a range ends at its error, the others run to their ends"
        mark(-1, out)
    assert out.sum() == done + 100


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
