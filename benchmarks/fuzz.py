"""Coverage-guided fuzzing of all that reads bytes from elsewhere: sums, manifests, frames, their bodies, machines.

    python -m venv benchmarks/.venvs/fuzz
    benchmarks/.venvs/fuzz/bin/pip install -c constraints.txt atheris '.[secure]'
    benchmarks/.venvs/fuzz/bin/python benchmarks/fuzz.py -runs=1000000 -max_len=4096 -malloc_limit_mb=64

An input is a target's number and its bytes. A target may raise `DamagedError` and nothing else; a single allocation
above the limit ends the run with its input. Options are libFuzzer's.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from fedrec.aggregation import wire
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.errors import DamagedError

with atheris.instrument_imports(include=["fedrec.secagg"]):
    from fedrec.secagg import bodies
    from fedrec.secagg.manifest import decode_manifest
    from fedrec.secagg.wire import limits, parse
    from secagg_in_test import Cohort, machines

PARTIES = 12
for name in ("decode_sum", "_read_header", "_plan", "_decode_array"):  # kernels beside them cannot be instrumented
    setattr(wire, name, atheris.instrument_func(getattr(wire, name)))
SPEC = SumSpec((ArraySpec("table", "rows", (50, 3), 1.0, 8), ArraySpec("x", "dense", (7,), 1.0, 8))).fit(1000)
MANIFEST = Cohort(PARTIES).manifest
STAGES = machines()

TARGETS: list[Callable[[bytes], object]] = [
    lambda data: wire.decode_sum(data, SPEC),
    decode_manifest,
    lambda data: parse(data, limits(None), None),
    lambda data: parse(data, limits(MANIFEST), MANIFEST.digest),
    lambda data: bodies.decode_advert(data, bytes(64)),
    lambda data: bodies.decode_roster(data, PARTIES),
    lambda data: bodies.decode_sealed(data, range(PARTIES)),
    lambda data: bodies.decode_delivery(data, PARTIES, range(PARTIES)),
    lambda data: bodies.Survivors.decode(data, PARTIES),
    lambda data: bodies.decode_signatures(data, PARTIES),
    lambda data: bodies.decode_shares(data, range(PARTIES)),
    *(machine.receive for machine, _ in STAGES),
]


def one(data: bytes) -> None:
    """Hand the bytes after the first to the target that the first one names."""
    if data:
        with contextlib.suppress(DamagedError):
            TARGETS[data[0] % len(TARGETS)](data[1:])


def seeds(folder: Path) -> None:
    """A fair input of every target, to begin with."""
    folder.mkdir(parents=True, exist_ok=True)
    fair = [wire.encode_sum(Sum.zeros(SPEC)), MANIFEST.body, STAGES[0][1][0], STAGES[2][1][0]]
    offset = len(TARGETS) - len(STAGES)
    found = list(enumerate(fair)) + [(offset + at, frame) for at, (_, frames) in enumerate(STAGES) for frame in frames]
    found += [(at, frame[56:-64]) for at in range(len(fair), offset) for _, frames in STAGES for frame in frames]
    for number, (target, body) in enumerate(found):
        (folder / f"seed-{number}").write_bytes(bytes([target]) + bytes(body))


if __name__ == "__main__":
    corpus = Path(__file__).parent / ".work" / "corpus"
    seeds(corpus)
    atheris.Setup([*sys.argv, str(corpus)], one)
    atheris.Fuzz()
