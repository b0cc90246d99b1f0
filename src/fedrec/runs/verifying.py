"""The record of a run held against all that it covers: the first thing that does not fit is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any

from fedrec.documents import MOST_LINES, MOST_SETTINGS, read_file
from fedrec.errors import DamagedError, FedrecError, InputError
from fedrec.federation.ledger_fields import check_fields
from fedrec.federation.plan import Plan
from fedrec.federation.run import PUBLIC, is_run
from fedrec.privacy.accounting import Epsilons
from fedrec.record.durable import remove_unfinished
from fedrec.record.files import FILES, LEDGER, LOCK, check_file, check_files, names_in, read_files
from fedrec.record.keys import LOG, PublicKey, SigningKey
from fedrec.record.ledger import read_lines
from fedrec.record.notes import Checkpoint, Note
from fedrec.record.receipts import RECEIPTS, Receipt, read_receipts
from fedrec.record.signing import (
    FILES_NOTE,
    KEYS,
    LEDGER_NOTE,
    check_against,
    checkpoint_of,
    keys_in,
    sign_notes,
    signed_in,
)
from fedrec.runs.ledger_check import (
    check_chain,
    check_charges,
    check_checkpoints,
    check_model,
    check_report,
    of_kind,
)

__all__ = ["Verdict", "sign_run", "verify_run"]


@dataclass
class Verdict:
    """What verifying found.

    Args:
        wrong: the first thing that does not fit; `None` where all fits.
        entries: of the ledger.
        root: over them, in hexadecimal.
        rounds: committed.
        finished: whether the run ended.
        files: checked against the list of files.
        receipts: of nodes, checked.
        signatures: who signed what.
        trusted: whose word was asked for and covers all: the ledger to its end and, but for a published copy, the list
            of files.
        epsilons: of a private run, recomputed.
        remarks: what was not checked, or rests on trust.
    """

    wrong: str | None = None
    entries: int = 0
    root: str = ""
    rounds: int = 0
    finished: bool = False
    files: int = 0
    receipts: int = 0
    signatures: list[str] = field(default_factory=list)
    trusted: list[str] = field(default_factory=list)
    epsilons: Epsilons | None = None
    remarks: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """For a machine."""
        cost = None if self.epsilons is None else self.epsilons.to_json()
        return {"fits": self.wrong is None, **vars(self), "epsilons": cost}


def verify_run(
    folder: Path,
    keys: Sequence[PublicKey] = (),
    checkpoints: Sequence[Path] = (),
    receipts: Sequence[Path] = (),
    published: bool = False,
) -> Verdict:
    """Hold a run folder against its record. Nothing is written.

    Args:
        folder: the run.
        keys: of those who are trusted. Each must have signed the ledger of a run that has ended, all of it, and each
            operator the list of files too; a witness signs no list, so that witnesses alone vouch for a published copy
            only, which holds nothing else.
        checkpoints: notes of earlier checkpoints that somebody kept.
        receipts: files of receipts that nodes kept elsewhere.
        published: the folder has only what is published: plan, ledger, `model/` and signatures.

    Raises:
        InputError: if there is no run, a file that was named is not there, two trusted keys go by one id, or a library
            is missing.
    """
    if not folder.is_dir() or not (is_run(folder) or (folder / LEDGER).exists() or (folder / FILES).exists()):
        raise InputError(f"{folder} is not a run: the folder has neither a plan nor a ledger")
    for path in (*checkpoints, *receipts):
        if not path.is_file():
            raise InputError(f"{path} does not exist")
    check = _Check(folder, Verdict())
    try:
        check.names = names_in(folder)
        check.ledger()
        check.files(published)
        check.notes(keys, checkpoints, published)
        if keys:
            check.trust(keys, published)
        check.training(published)
        check.receipts(receipts)
        check.verdict.trusted = [key.id for key in keys]
    except DamagedError as error:
        check.verdict.wrong = str(error)
    return check.verdict


def sign_run(folder: Path, key: SigningKey, witness: bool = False) -> PublicKey:
    """Sign the ledger and, as its operator, the list of files of a run that verifies.

    Args:
        folder: the run.
        key: whose signature.
        witness: sign as a node or anybody else who saw the ledger, after its operator.

    Raises:
        DamagedError: if the run does not verify; nothing is signed then.
        InputError: if a witness is to sign what has no ledger, or what the operator has not signed.
    """
    if (folder / KEYS).parent.is_dir():
        remove_unfinished((folder / KEYS).parent)
    verdict = verify_run(folder)
    if verdict.wrong is not None:
        raise DamagedError(f"{folder} cannot be signed, as the run does not verify: {verdict.wrong}")
    check = _Check(folder, Verdict())
    check.ledger()
    checkpoints = {LEDGER_NOTE: check.log} if check.leaves else {}
    if witness and not checkpoints:
        raise InputError(f"{folder} has no ledger, and a witness can sign only a ledger")
    if (folder / FILES).exists() and not witness:
        checkpoints[FILES_NOTE] = check.of_files(read_files(folder)[1])
    return sign_notes(folder, checkpoints, key, int(time()) if witness else None)


class _Check:
    """The steps of verifying, each on what the ones before it found to fit."""

    def __init__(self, folder: Path, verdict: Verdict) -> None:
        self.folder = folder
        self.verdict = verdict
        self.names: list[str] = []
        self.lines: list[dict[str, Any]] = []
        self.asynchronous = False
        self.leaves: list[bytes] = []

    @property
    def log(self) -> Checkpoint:
        return checkpoint_of(self.leaves, self.leaves[0], "ledger")

    def of_files(self, leaves: list[bytes]) -> Checkpoint:
        return checkpoint_of(leaves, (self.leaves or leaves)[0], "files")

    def ledger(self) -> None:
        path = self.folder / LEDGER
        if not path.exists():
            return
        self.lines, self.leaves = read_lines(_bytes_of(path, LEDGER, MOST_LINES), LEDGER, rooted=True)
        if not self.lines:
            raise DamagedError(f"{LEDGER}: empty")
        check_fields(self.lines)
        self.verdict.entries, self.verdict.root = len(self.lines), self.log.root.hex()
        self.verdict.rounds = len(of_kind(self.lines, "round"))
        self.verdict.finished = bool(of_kind(self.lines, "end"))

    def files(self, published: bool) -> None:
        """Digests of what is published, in the ledger's last line; and the list of all files."""
        for where, line in of_kind(self.lines, "end"):
            known = line["files"]
            if sorted(known) != sorted(PUBLIC):
                raise DamagedError(f"{where}: the digests of {', '.join(PUBLIC)} are missing")
            for name in PUBLIC:
                check_file(self.folder, name, known[name], "the ledger")
        beside = self._beside() if published else []
        if beside:
            self.verdict.remarks.append(
                f"not checked, as these files are not part of a published copy: {', '.join(beside)}"
            )
        if published or (self.lines and not self.verdict.finished and not (self.folder / FILES).exists()):
            if not self.verdict.finished:
                self.verdict.remarks.append(
                    "the run has not ended: private files, reports and progress can be verified only after its end"
                )
            return
        files, _ = read_files(self.folder)
        strangers = check_files(self.folder, files)
        self.verdict.files = len(files)
        if LEDGER not in files:
            self.verdict.remarks.append("the folder is a saved model without a ledger: its training cannot be verified")
        if strangers:
            self.verdict.remarks.append(f"files that are not part of the run: {', '.join(strangers)}")

    def notes(self, required: Sequence[PublicKey], checkpoints: Sequence[Path], published: bool) -> None:
        """Signatures, and that the ledger goes on from every checkpoint that is known."""
        keys = keys_in(self.folder)
        if self.leaves:
            signed = signed_in(self.folder, LEDGER_NOTE, keys, required)
            if signed is not None:
                check_against(LEDGER_NOTE, signed.checkpoint, self.leaves, self.log, LEDGER)
                self.verdict.signatures += [f"{LEDGER}, first {signed.checkpoint.size}: {one}" for one in signed.by]
        elif LEDGER_NOTE in self.names:
            raise DamagedError(f"{LEDGER}: missing, but {LEDGER_NOTE} has a signature of the ledger")
        files = None if published else signed_in(self.folder, FILES_NOTE, keys)
        if files is not None:
            leaves = read_files(self.folder)[1]
            if files.checkpoint != self.of_files(leaves):
                raise DamagedError(f"{FILES_NOTE}: the signed list of files is not the list in {FILES}")
            self.verdict.signatures += [f"{FILES}: {one}" for one in files.by]
        for path in checkpoints:
            self._known(path, [*keys, *required])
        if not self.verdict.signatures:
            self.verdict.remarks.append(
                "not signed: hashes detect errors and changes of single files, but not a record that was rewritten as "
                "a whole"
            )
        elif not required:
            self.verdict.remarks.append(
                "the keys come from the folder itself: compare them with keys that you trust, or give --trust"
            )

    def trust(self, keys: Sequence[PublicKey], published: bool) -> None:
        """What the trusted keys signed is all that there is, and all that there will be."""
        who, ledger = keys[0].id, signed_in(self.folder, LEDGER_NOTE, keys_in(self.folder)) if self.leaves else None
        if ledger is not None and ledger.checkpoint.size < len(self.leaves):
            raise DamagedError(
                f"{LEDGER_NOTE}: {who} signed the first {ledger.checkpoint.size} of {len(self.leaves)} entries; "
                "the other entries may be forged"
            )
        if ledger is not None and not self.verdict.finished:
            raise DamagedError(
                f"{LEDGER}: the run has not ended, or the last entry was removed; {who} signed these "
                f"{len(self.leaves)} entries, but not the model, the report or later files"
            )
        beside = self._beside() if published else []
        if published and not self.leaves:
            raise DamagedError(f"{LEDGER}: missing; a signature of a published copy covers the ledger only")
        if beside:
            raise DamagedError(
                f"{beside[0]}: this file is not part of a published copy, and the signature does not cover it. Remove "
                "the file, or verify the whole run, without --published"
            )
        operators = [key for key in keys if key.kind == LOG]
        if not published and not operators:
            raise DamagedError(
                f"{FILES_NOTE}: not signed by a trusted key: {who} is a witness, who signs only the ledger, which does "
                "not cover report, progress and private files. Give the operator's key too, or verify only what is "
                "published, with --published"
            )
        if not published:
            signed_in(self.folder, FILES_NOTE, keys_in(self.folder), operators)

    def _beside(self) -> list[str]:
        """What is there and not in a published copy; checkpoints of committed rounds are covered by their lines."""
        rounds = {f"checkpoint/round-{line['round']:06d}.safetensors" for _, line in of_kind(self.lines, "round")}
        rounds |= {f"checkpoint/server-{line['kept']:06d}.safetensors" for _, line in of_kind(self.lines, "end")}
        return [name for name in self.names if name not in {*PUBLIC, LEDGER, LEDGER_NOTE, KEYS, LOCK} | rounds]

    def _known(self, path: Path, keys: Sequence[PublicKey]) -> None:
        try:
            note = Note.parse(_bytes_of(path, str(path), MOST_SETTINGS))
            known = Checkpoint.parse(note.text)
            by = note.signed_by(keys)
        except DamagedError as error:
            raise DamagedError(f"{path}: {error}") from None
        if not self.leaves:
            raise DamagedError(f"{LEDGER}: missing, but {path} is a checkpoint of {known.size} of its entries")
        check_against(str(path), known, self.leaves, self.log, LEDGER)
        if not by:
            self.verdict.remarks.append(
                f"{path} is not signed by a known key; its content was used without a signature"
            )

    def training(self, published: bool) -> None:
        """The plan, the chain of rounds and models, charges and epsilon."""
        if not is_run(self.folder):
            raise DamagedError("plan.yaml: missing")
        try:
            plan = Plan.read(self.folder / "plan.yaml")
        except FedrecError as error:
            raise DamagedError(f"plan.yaml: {error}") from None
        self.asynchronous = plan.asynchronous is not None
        if not plan.reproducible:
            self.verdict.remarks.append(
                "reproducible: false: training this plan again gives the same model up to rounding errors, not the "
                "same bits"
            )
        if self.lines:
            check_chain(plan, self.lines)
            self.verdict.remarks += check_checkpoints(self.folder, self.lines, published)
            self.verdict.epsilons = check_charges(plan, self.lines)
            check_report(self.folder, self.verdict.epsilons)
        check_model(self.folder, plan, self.lines)

    def receipts(self, paths: Sequence[Path]) -> None:
        """Every sum that a node has a receipt for is in the line of its round, which went on from what it was shown."""
        found = [(path, path.relative_to(self.folder).as_posix()) for path in self.folder.glob(f"private/*/{RECEIPTS}")]
        for path, name in [*sorted(found), *((path, str(path)) for path in paths)]:
            known = read_receipts(path, name)
            newest = max((receipt.round for receipt in known), default=0)
            for number, receipt in enumerate(known, 1):
                self._receipt(receipt, f"{name}, line {number}", path in paths, receipt.round == newest)
                self.verdict.receipts += 1

    def _receipt(self, receipt: Receipt, name: str, kept_elsewhere: bool, newest: bool) -> None:
        rounds = of_kind(self.lines, "round")
        if self.asynchronous and newest and not _used(receipt, rounds):
            return  # on its way when the run ended, or as far as the run has come
        if receipt.round >= len(rounds):
            if kept_elsewhere or self.verdict.finished:
                raise DamagedError(f"{LEDGER}: round {receipt.round} is missing, but {name} has a receipt of it")
            return
        where, line = rounds[receipt.round]
        if receipt.commitment not in line["sums"] and not (self.asynchronous and _used(receipt, rounds)):
            raise DamagedError(f"{where}: the line does not have the sum of the receipt in {name}")
        if receipt.round and rounds[receipt.round - 1][1]["model"] != receipt.model:
            raise DamagedError(
                f"{name}: in round {receipt.round} the node received another model than the ledger recorded before"
            )


def _bytes_of(path: Path, name: str, most: int) -> bytes:
    try:
        return read_file(path, most)
    except (OSError, ValueError) as error:
        raise DamagedError(f"{name}: {error}") from None


def _used(receipt: Receipt, rounds: Sequence[tuple[str, dict[str, Any]]]) -> bool:
    """Whether a sum that may wait for a round is in one, or is recorded as too late for it."""
    return any(
        receipt.commitment in sums
        for _, line in rounds[receipt.round :]
        for sums in (line["sums"], *(late.get("sums", ()) for late in line["late"]))
    )
