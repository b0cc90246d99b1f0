"""Signatures in a run folder: `record/ledger.note` over the log, `record/files.note` over the list of files, and the
public keys of both in `record/keys`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrec.documents import MOST_SETTINGS, read_file
from fedrec.errors import DamagedError, FedrecError, InputError
from fedrec.record.durable import replace_file
from fedrec.record.keys import COSIGNATURE, LOG, PublicKey, SigningKey
from fedrec.record.merkle import root_of
from fedrec.record.notes import Checkpoint, Note, Signature, cosign, sign

__all__ = [
    "FILES_NOTE",
    "KEYS",
    "LEDGER_NOTE",
    "Signed",
    "add_cosignature",
    "check_against",
    "checkpoint_of",
    "sign_notes",
    "signed_in",
]

LEDGER_NOTE = "record/ledger.note"
FILES_NOTE = "record/files.note"
KEYS = "record/keys"


@dataclass(frozen=True)
class Signed:
    """What a note in a run folder says.

    Args:
        file: which note.
        checkpoint: how many entries it is over, and their root.
        by: who signed, as `name+hash`, witnesses with their time.
    """

    file: str
    checkpoint: Checkpoint
    by: tuple[str, ...]


def checkpoint_of(leaves: Sequence[bytes], first: bytes, what: str) -> Checkpoint:
    """The checkpoint of a run's log.

    Args:
        leaves: hashes of all entries.
        first: hash of the first entry of the ledger (of the list of files, where there is no ledger), which names the
            run.
        what: `ledger` or `files`.
    """
    return Checkpoint(f"fedrec/{what}/{first.hex()[:32]}", len(leaves), root_of(leaves))


def check_against(name: str, known: Checkpoint, leaves: Sequence[bytes], mine: Checkpoint, what: str) -> None:
    """Check that a log goes on from a checkpoint that is known.

    Args:
        name: of the file with the checkpoint.
        known: the checkpoint.
        leaves: hashes of the entries that are there.
        mine: their checkpoint.
        what: file with the entries.

    Raises:
        DamagedError: if it is of another run, entries are gone, or were rewritten.
    """
    if known.origin != mine.origin:
        raise DamagedError(f"{name}: a checkpoint of {known.origin}, but this is {mine.origin}")
    if known.size > mine.size:
        raise DamagedError(
            f"{what}, line {mine.size + 1}: missing; {name} knows {known.size} entries, so the last "
            f"{known.size - mine.size} were taken away"
        )
    if root_of(leaves[: known.size]) != known.root:
        raise DamagedError(f"{what}: its first {known.size} entries are not those that {name} knows; it was rewritten")


def signed_in(folder: Path, name: str, keys: Sequence[PublicKey], required: Sequence[PublicKey] = ()) -> Signed | None:
    """Read a note of a run folder and check all its signatures; `None` where there is no note.

    Args:
        folder: the run.
        name: of the note.
        keys: of everybody who may have signed, most often those in the folder.
        required: keys of those who must have signed.

    Raises:
        DamagedError: if it is not a note, a signature does not fit or is of nobody known, a required one is missing, or
            two keys go by one id.
    """
    path = folder / name
    if not path.exists():
        if required:
            raise DamagedError(f"{name}: missing, and {required[0].name} must have signed it")
        return None
    known = _by_id(keys, required)
    note = _note_in(folder, name)
    try:
        checkpoint = Checkpoint.parse(note.text)
        found = note.signed_by(list(known.values()))
    except DamagedError as error:
        raise DamagedError(f"{name}: {error}") from None
    hashes = {(one.name, one.key_hash) for one in found}
    for one in note.signatures:
        if (one.name, one.key_hash) not in hashes:
            raise DamagedError(f"{name}: signed by {one.name}+{one.key_hash.hex()}, whose key is not in {KEYS}")
    for key in required:
        if (key.name, key.hash) not in hashes:
            raise DamagedError(f"{name}: not signed by {key.id}")
    return Signed(name, checkpoint, tuple(_words(one, known[one.name, one.key_hash]) for one in found))


def _by_id(keys: Sequence[PublicKey], required: Sequence[PublicKey]) -> dict[tuple[str, bytes], PublicKey]:
    """Keys by what signatures name them with, which is short enough to be met by a key made for it.

    Raises:
        InputError: if two of the `required` keys have one id.
        DamagedError: if another key has the id of one of them.
    """
    known: dict[tuple[str, bytes], PublicKey] = {}
    for key in required:
        if known.setdefault((key.name, key.hash), key) != key:
            raise InputError(f"two keys that must have signed go by {key.id}; check with one of them at a time")
    for key in keys:
        if known.setdefault((key.name, key.hash), key) != key:
            raise DamagedError(f"{KEYS}: a second key goes by {key.id}; it was made to be taken for the first")
    return known


def _note_in(folder: Path, name: str) -> Note:
    try:
        return Note.parse(read_file(folder / name, MOST_SETTINGS))
    except (DamagedError, ValueError, OSError) as error:
        raise DamagedError(f"{name}: {error}") from None


def keys_in(folder: Path) -> list[PublicKey]:
    """The public keys in a run folder. They are what the folder says of itself: compare them with what you know.

    Raises:
        DamagedError: if the file is not a list of keys.
    """
    try:
        data = read_file(folder / KEYS, MOST_SETTINGS)
        keys = [PublicKey.parse(line) for line in data.decode().split("\n")[:-1]]
    except FileNotFoundError:
        return []
    except (FedrecError, ValueError, OSError) as error:
        raise DamagedError(f"{KEYS}: {error}") from None
    if data != _keys(keys):
        raise DamagedError(f"{KEYS}: not written in the one way that keys are")
    return keys


def sign_notes(folder: Path, checkpoints: dict[str, Checkpoint], key: SigningKey, witness_at: int | None) -> PublicKey:
    """Write notes of a run folder, or add a signature to those that are there.

    Args:
        folder: the run, which was verified.
        checkpoints: what to sign, by the name of the note.
        key: whose signature.
        witness_at: seconds since 1970 where a witness signs, who signs no more than what the operator signed.

    Raises:
        InputError: if a witness is to sign what the operator has not signed.
    """
    public = key.public(LOG if witness_at is None else COSIGNATURE)
    notes = {}
    for name, checkpoint in checkpoints.items():
        there = _note_in(folder, name) if (folder / name).exists() else Note("")
        note = there if there.text == checkpoint.text else Note(checkpoint.text)
        if witness_at is None:
            notes[name] = sign(note, key)
        elif note.signatures:
            notes[name] = cosign(note, key, witness_at)
        else:
            raise InputError(f"{name}: there is no signature of all entries yet; a witness signs after the coordinator")
    keys = keys_in(folder)
    (folder / KEYS).parent.mkdir(exist_ok=True)
    replace_file(folder / KEYS, _keys(keys if public in keys else [*keys, public]))
    for name, note in notes.items():
        replace_file(folder / name, note.encode())
    return public


def add_cosignature(folder: Path, name: str, public: PublicKey, data: bytes) -> None:
    """Add the signature that a witness made elsewhere to a note of a run folder.

    Args:
        folder: the run.
        name: of the note.
        public: the key of the witness, as a witness.
        data: the whole note as it came back.

    Raises:
        DamagedError: if the signature does not fit; nothing is written then.
    """
    note, keys, other = _note_in(folder, name), keys_in(folder), Note.parse(data)
    if other.text != note.text:
        raise DamagedError(f"{name}: {public.name} signed another checkpoint")
    found = other.signed_by([public])
    if not found:
        raise DamagedError(f"{name}: {public.name} has not signed")
    replace_file(folder / KEYS, _keys(keys if public in keys else [*keys, public]))
    replace_file(folder / name, note.with_signature(found[0]).encode())


def _keys(keys: Sequence[PublicKey]) -> bytes:
    return "".join(f"{key}\n" for key in keys).encode()


def _words(one: Signature, key: PublicKey) -> str:
    seen = f" (witness, at {one.time})" if key.kind == COSIGNATURE else ""
    return f"{key.id}{seen}"
