"""The folder of a run: what is committed, what a crash leaves, what a later process goes on from."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.aggregation.specs import SumSpec
from fedrec.documents import parse_json
from fedrec.errors import DamagedError, RunError, suggestion
from fedrec.federation.agreement import Agreement
from fedrec.federation.checkpoints import SHARED, checkpoint_path, ended_state, own_arrays_path, packed, unpacked
from fedrec.federation.fitting import Fitting, check_sum, naming
from fedrec.federation.ledger_fields import check_fields
from fedrec.federation.model_folder import save_shared
from fedrec.federation.plan import Plan
from fedrec.federation.versions import check_versions
from fedrec.models.base import Arrays, State
from fedrec.privacy.accounting import Charge
from fedrec.record.durable import (
    UNFINISHED,
    arrays_digest,
    check_plain,
    hold,
    load_arrays,
    map_file,
    named_on_error,
    remove_unfinished,
    replace_file,
    save_arrays,
    whole_lines,
)
from fedrec.record.files import FILES, LEDGER, LOCK, entries_of, file_digest, list_files
from fedrec.record.layout import arrays_in
from fedrec.record.ledger import Ledger
from fedrec.record.signing import FILES_NOTE

__all__ = ["PRIVATE_ASIDE", "PUBLIC", "Run"]

PUBLIC = ("plan.yaml", "model/catalog.jsonl", "model/model.json", SHARED)
"""What a finished run publishes besides its ledger, whose last line has the digests."""

PRIVATE_ASIDE = ".private"
"""Where the private folder of a run is made, before the run has a plan."""

_REPORT = "report.json"
_CALL = "call"
_PARTS = "parts"


class Run:
    """Plan, ledger, checkpoints and results of one training run; in memory only where there is no folder.

    A round is committed by its ledger line. Before that line its state is on the disk as a checkpoint; after it, older
    checkpoints go, but for the best round's. The lines are the entries of a Merkle log; the last one has the digests of
    what is published. When all is done, the run is closed with a list of its files.

    Args:
        plan: the resolved plan.
        folder: where the run lives, or `None`.

    `fitting`, which whoever knows the catalog sets, says what the arrays of checkpoints must look like; `beginning`
    what the first line of the ledger says besides the plan.
    """

    def __init__(self, plan: Plan, folder: Path | None) -> None:
        self.plan = plan
        self.folder = folder
        busy = f"another process is working on {folder}; wait for it, or choose another folder"
        if folder is not None:
            check_plain(folder)
        self._lock = None if folder is None else hold(folder / LOCK, busy)
        try:
            if folder is not None:
                remove_unfinished(folder)
            self.ledger = Ledger(None if folder is None else folder / LEDGER, rooted=True)
            if folder is not None:
                _check_ledger(plan, self.ledger)
        except BaseException:
            self.close()
            raise
        self.fitting: Fitting | None = None
        self.beginning: Mapping[str, Any] = {}
        self._states: dict[int, State] = {}

    @classmethod
    def create(cls, plan: Plan, folder: Path) -> Run:
        """Begin a run in a new or empty folder.

        Raises:
            RunError: if something is there already.
        """
        check_free(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder} cannot be made ({error.strerror}); choose another folder") from None
        run = cls(plan, folder)
        try:
            replace_file(folder / "plan.yaml", plan.to_yaml().encode())
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open a run that exists.

        Raises:
            RunError: if it is not a run, or another process works on it.
            DamagedError: if its plan or ledger was changed.
        """
        plan = read_plan(folder)
        if plan.n_max is None or plan.catalog is None:
            raise DamagedError(f"{folder / 'plan.yaml'} lacks n_max or catalog, which a run's plan has; it was changed")
        return cls(plan, folder)

    def discard(self) -> None:
        """Close the run and, if no round was committed, remove all that was written of it."""
        self.close()
        if self.folder is not None and not self.ledger.of_kind("round"):
            shutil.rmtree(self.folder)

    def close(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def checkpoint(self, round: int, state: State) -> dict[str, str]:
        """Put the state after `round` on the disk, not yet committed; returns the digests of the shared arrays and, on
        a disk, of the whole checkpoint."""
        if self.folder is None:
            self._states[round] = state
            return {"model": arrays_digest(state.shared)}
        path = self._checkpoint(round)
        path.parent.mkdir(exist_ok=True)
        return {"model": arrays_digest(state.shared), "checkpoint": save_arrays(path, packed(state))}

    def keep_noised(
        self, round: int, spec: SumSpec, shared: Arrays, arrays: Arrays, parts: Mapping[str, Sequence[str]]
    ) -> None:
        """Put the noised sum of a round that is not yet committed on the disk, with what the ledger will say of its
        parts."""
        if self.folder is not None:
            path = self._noised(round)
            path.parent.mkdir(exist_ok=True)
            words = np.frombuffer(json.dumps(parts).encode(), dtype=np.uint8)
            save_arrays(path, {**arrays, _CALL: _call(spec, shared), _PARTS: words})

    def noised(
        self, round: int, spec: SumSpec, shared: Arrays
    ) -> tuple[dict[str, np.ndarray], dict[str, list[str]]] | None:
        """The noised sum that a crash left of a round, and what the ledger says of its parts.

        Raises:
            DamagedError: if it is of another call, or its arrays are not those of such a sum.
        """
        if self.folder is None or not self._noised(round).exists():
            return None
        arrays = load_arrays(self._noised(round))
        if not np.array_equal(arrays.pop(_CALL, np.zeros(0)), _call(spec, shared)):
            raise DamagedError(f"{self._noised(round)} is not the noised sum of this round; the run was changed")
        path = str(self._noised(round))
        try:
            parts = parse_json(arrays.pop(_PARTS, np.zeros(0, np.uint8)).tobytes())
        except ValueError:
            parts = None
        if not isinstance(parts, dict) or not all(
            isinstance(said, list) and all(isinstance(word, str) for word in said) for said in parts.values()
        ):
            raise DamagedError(f"{path}: what is said of its parts is damaged; the run cannot go on")
        check_sum(arrays, spec, path)
        return arrays, parts

    def state(self, round: int) -> State:
        """The state after a committed round; of a run that has ended, after the round that it kept.

        Raises:
            DamagedError: if the checkpoint is missing, is not what the ledger committed, or its arrays are not the
                model's.
        """
        if self.folder is None:
            return self._states[round]
        path = self._checkpoint(round)
        if path.exists() or not self.ledger.of_kind("end"):
            file = map_file(path)
            state, digest = unpacked(arrays_in(file.data, str(path)), str(path)), file.digest
        else:
            state = ended_state(self.folder, round)
            path, digest = self.folder / SHARED, arrays_digest(packed(state))
        committed = [line for line in self.ledger.of_kind("round") if line["round"] == round]
        if not committed or committed[-1].get("checkpoint") != digest:
            raise DamagedError(f"{path} is not the model that the ledger committed")
        if self.fitting is not None:
            with naming(path):
                self.fitting.check_state(state)
        return state

    def prune(self, keep: set[int]) -> None:
        """Remove the checkpoints of all other rounds."""
        if self.folder is None:
            self._states = {round: state for round, state in self._states.items() if round in keep}
            return
        for path in (self.folder / "checkpoint").glob("noised-*.safetensors"):
            path.unlink()
        for path in (self.folder / "checkpoint").glob("round-*.safetensors"):
            number = path.stem.removeprefix("round-")
            if number.isdecimal() and int(number) not in keep:
                path.unlink()

    def slim(self, round: int, server: Arrays) -> None:
        """Keep of the checkpoints of a run that has ended only what `model/` lacks: the coordinator's own arrays of the
        round that was kept."""
        if self.folder is None:
            self._states = {}
            return
        if server:
            save_arrays(own_arrays_path(self.folder, round), packed(State({}, server)))
        self.prune(set())

    def publish(self, agreement: Agreement, state: State, round: int) -> None:
        """Write `model/` (shared arrays of the kept round, settings, catalog) and the last line of the ledger.

        Raises:
            DamagedError: if the ledger ended with another model.
        """
        if self.folder is None:
            return
        ended = self.ledger.of_kind("end")
        if ended and all((self.folder / name).is_file() for name in PUBLIC):
            files = {name: file_digest(self.folder / name) for name in PUBLIC}
            if files == ended[0].get("files"):
                return
        save_shared(self.folder / "model", agreement, state, round)
        files = {name: file_digest(self.folder / name) for name in PUBLIC}
        if not ended:
            self.ledger.append("end", kept=round, files=files)
        elif ended[0].get("files") != files:
            changed = next((name for name in PUBLIC if ended[0]["files"].get(name) != files[name]), PUBLIC[0])
            raise DamagedError(f"{self.folder / changed} is not the one that the run's ledger ended with")

    def digests(self) -> dict[str, dict[str, Any]]:
        """What the list of files will say of those that are there by now."""
        return {} if self.folder is None else entries_of(self.folder)

    def seal(self, known: Mapping[str, dict[str, Any]] | None = None) -> None:
        """Close the run with a list of its files; `known` are the `digests` of those that have not changed since."""
        if self.folder is not None:
            list_files(self.folder, {name: said for name, said in (known or {}).items() if name != _REPORT})

    def unseal(self) -> None:
        """Take the list of files away, with its signatures, before files change."""
        if self.folder is not None:
            for name in (FILES_NOTE, FILES):
                (self.folder / name).unlink(missing_ok=True)

    def report(self, report: dict[str, Any]) -> None:
        """Write `report.json`."""
        if self.folder is not None:
            replace_file(self.folder / _REPORT, json.dumps(report, indent=1).encode() + b"\n")

    def progress(self, entry: dict[str, Any]) -> None:
        """Append to `progress.jsonl`: for people and plots, nothing depends on it."""
        if self.folder is not None:
            with named_on_error(self.folder / "progress.jsonl") as path, path.open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def complete_progress(self, entry: dict[str, Any]) -> None:
        """After a crash: take an incomplete last line of `progress.jsonl` away, and append that of the last round if it
        is missing."""
        if self.folder is None:
            return
        path = self.folder / "progress.jsonl"
        last = whole_lines(path).splitlines()[-1:] if path.exists() else []
        begins = json.dumps({"round": entry["round"]})[:-1].encode()  # the line may be anybody's: it is not parsed
        if not last or not last[0].startswith(begins + b","):
            self.progress(entry)

    def _noised(self, round: int) -> Path:
        assert self.folder is not None
        return self.folder / "checkpoint" / f"noised-{round:06d}.safetensors"

    def _checkpoint(self, round: int) -> Path:
        assert self.folder is not None
        return checkpoint_path(self.folder, round)


def _check_ledger(plan: Plan, ledger: Ledger) -> None:
    """Check that a run can go on from the lines of its ledger: one start, rounds in order, validations of them.

    Raises:
        DamagedError: naming the line and the field.
    """
    check_fields(ledger.lines)
    rounds = [(f"{LEDGER}, line {number}", line) for number, line in enumerate(ledger.lines, 1) if "round" in line]
    done = 0
    for where, line in rounds:
        committed = line["kind"] == "round"
        if not (line["round"] == done if committed else 0 <= line["round"] < done):
            raise DamagedError(f"{where}: {line['kind']} {line['round']} is out of order; the run was changed")
        done += committed
    if ledger.lines and (ledger.lines[0]["kind"] != "start" or len(ledger.of_kind("start")) != 1):
        raise DamagedError(f"{LEDGER}, line 1: a ledger has one start, in its first line")
    metrics = [value for line in ledger.of_kind("validation") for value in line["metrics"].values()]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in metrics):
        raise DamagedError(f"{LEDGER}: a validation holds something else than numbers")
    if any(line["plan"] != plan.digest for line in ledger.of_kind("start")):
        raise DamagedError(f"{LEDGER}, line 1: it began with another plan than the one in plan.yaml; restore that")
    if plan.privacy is not None:
        for line in ledger.of_kind("start"):
            if not isinstance(line.get("run"), str) or not isinstance(line.get("noise_is_secret"), bool):
                raise DamagedError(f"{LEDGER}, line 1: the number of a private run is missing or wrong")
        for line in ledger.of_kind("round"):
            Charge.from_json(line.get("charge"))
    if plan.asynchronous is not None:
        check_versions(plan.asynchronous, [place for place in rounds if place[1]["kind"] == "round"])


def _call(spec: SumSpec, shared: Arrays) -> np.ndarray:
    """What identifies the call that a noised sum answers."""
    return np.frombuffer(f"{spec.digest}{arrays_digest(shared)}".encode(), dtype=np.uint8)


def read_plan(folder: Path) -> Plan:
    """The plan of a run.

    Raises:
        RunError: if `folder` is not a run.
    """
    if not is_run(folder):
        there = folder.parent.iterdir() if folder.parent.is_dir() and not folder.exists() else ()
        near = suggestion(folder.name, [path.name for path in there if is_run(path)])
        raise RunError(f"{folder} is not a run: it has no plan.yaml{near}. 'fedrec train --out {folder}' makes one")
    return Plan.read(folder / "plan.yaml")


def check_free(folder: Path) -> None:
    """Check that a run can begin in `folder`. A run that ends before its first round is removed with its folder, so
    nothing may be there but what such a run leaves.

    Raises:
        RunError: if something is there already, or the folder cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(not _is_left(path.name) for path in folder.iterdir())):
        on = f", or go on with the run: 'fedrec train --resume --out {folder}'" if is_run(folder) else ""
        raise RunError(f"{folder} exists already; choose another folder{on}")
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        why = "is no folder" if not place.is_dir() else "cannot be written to"
        raise RunError(f"{folder} cannot be made ({place} {why}); choose another folder")


def _is_left(name: str) -> bool:
    """Whether a run that was killed before it had a plan leaves such a file."""
    return name in (LOCK, PRIVATE_ASIDE) or fnmatch(name, UNFINISHED)


def is_run(folder: Path) -> bool:
    """Whether `folder` looks like a run."""
    return (folder / "plan.yaml").is_file()


def next_folder(base: Path, model: str) -> Path:
    """`base`/model-N for the first N that is free.

    >>> next_folder(Path("runs-that-do-not-exist"), "ease").name
    'ease-1'
    """
    taken = [int(match[1]) for path in base.glob(f"{model}-*") if (match := re.fullmatch(rf"{model}-(\d+)", path.name))]
    return base / f"{model}-{max(taken, default=0) + 1}"
