"""Checkpoints: the state after a round, whole while a run goes on, and what `model/` lacks of it once it has ended."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedrec.documents import MOST_LINES, read_file
from fedrec.errors import DamagedError
from fedrec.federation.fitting import Fitting, naming
from fedrec.models.base import Arrays, State
from fedrec.record.durable import arrays_digest, load_arrays
from fedrec.record.files import LEDGER
from fedrec.record.ledger import read_lines

__all__ = [
    "SHARED",
    "checkpoint_path",
    "ended_state",
    "own_arrays_path",
    "packed",
    "server_arrays",
    "unpacked",
]

SHARED = "model/shared.safetensors"


def server_arrays(folder: Path, round: int, shared: Arrays, fitting: Fitting) -> dict[str, np.ndarray]:
    """The coordinator's own arrays of a finished run; none where it kept none.

    Raises:
        DamagedError: if they are of another model, are not the model's, or not what the ledger committed.
    """
    path, whole = own_arrays_path(folder, round), checkpoint_path(folder, round)
    if whole.exists():  # as runs of earlier versions kept them
        path, state = whole, unpacked(load_arrays(whole), str(whole))
        if arrays_digest(state.shared) != arrays_digest(shared):
            raise DamagedError(f"{path} is not of the model in {folder / 'model'}")
    else:
        state = _with_own(folder, round, shared)
    if not state.server:
        return {}
    with naming(path):
        fitting.check_state(state)
    if (folder / LEDGER).exists():
        lines, _ = read_lines(read_file(folder / LEDGER, MOST_LINES), str(folder / LEDGER), rooted=True)
        committed = [line.get("checkpoint") for line in lines if line["kind"] == "round" and line.get("round") == round]
        if committed != [arrays_digest(packed(state))]:
            raise DamagedError(f"{path} is not what the ledger committed")
    return dict(state.server)


def ended_state(folder: Path, round: int) -> State:
    """The state after the round that a run kept, from `model/` and what that lacks, not yet held against anything.

    Raises:
        DamagedError: if `model/` is gone.
    """
    if not (folder / SHARED).exists():
        raise DamagedError(f"{folder / SHARED} is missing; the run has ended, and only it has the model. Restore it")
    return _with_own(folder, round, load_arrays(folder / SHARED))


def _with_own(folder: Path, round: int, shared: Arrays) -> State:
    path = own_arrays_path(folder, round)
    own = unpacked(load_arrays(path), str(path)) if path.exists() else State({})
    if own.shared:
        raise DamagedError(f"{path} holds shared arrays, which are in model/")
    return State(shared, own.server)


def packed(state: State) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint, named `shared.…` and `server.…`."""
    named = {f"shared.{name}": array for name, array in state.shared.items()}
    return named | {f"server.{name}": array for name, array in state.server.items()}


def unpacked(arrays: Arrays, where: str) -> State:
    """A state from the arrays of its checkpoint, named `shared.…` and `server.…`.

    Raises:
        DamagedError: naming an array that is neither.
    """
    split: dict[str, dict[str, np.ndarray]] = {"shared": {}, "server": {}}
    for name, array in arrays.items():
        kind, _, rest = name.partition(".")
        if kind not in split:
            raise DamagedError(f"{where}: array {name!r} is neither a shared nor a server array")
        split[kind][rest] = array
    return State(split["shared"], split["server"])


def checkpoint_path(folder: Path, round: int) -> Path:
    """Where the state after a round is, until the run has ended."""
    return folder / "checkpoint" / f"round-{round:06d}.safetensors"


def own_arrays_path(folder: Path, round: int) -> Path:
    """Where the coordinator's own arrays of the kept round are, once the run has ended."""
    return folder / "checkpoint" / f"server-{round:06d}.safetensors"
