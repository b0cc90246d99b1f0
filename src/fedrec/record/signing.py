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
    """A note in a run folder.

    Args:
        file: name of the note.
        checkpoint: number of the signed entries, and their root.
        by: keys that signed, as `name+hash`, for witnesses with the time.
    """

    file: str
    checkpoint: Checkpoint
    by: tuple[str, ...]


def checkpoint_of(leaves: Sequence[bytes], first: bytes, what: str) -> Checkpoint:
    """The checkpoint of a run's log.

    Args:
        leaves: hashes of all entries.
        first: hash of the first entry of the ledger, or of the list of files if there is no ledger, which names the
            run.
        what: `ledger` or `files`.
    """
    return Checkpoint(f"fedrec/{what}/{first.hex()[:32]}", len(leaves), root_of(leaves))


def check_against(name: str, earlier: Checkpoint, leaves: Sequence[bytes], present: Checkpoint, what: str) -> None:
    """Check that a log continues from an earlier checkpoint.

    Args:
        name: file with the earlier checkpoint.
        earlier: the earlier checkpoint.
        leaves: hashes of the present entries.
        present: checkpoint of the present entries.
        what: file with the present entries.

    Raises:
        DamagedError: if the checkpoint belongs to another run, or entries were removed or changed.
    """
    if earlier.origin != present.origin:
        raise DamagedError(f"{name}: this checkpoint belongs to {earlier.origin}, and the run is {present.origin}")
    if earlier.size > present.size:
        raise DamagedError(
            f"{what}, line {present.size + 1}: missing; {name} covers {earlier.size} entries, so the last "
            f"{earlier.size - present.size} entries were removed"
        )
    if root_of(leaves[: earlier.size]) != earlier.root:
        raise DamagedError(f"{what}: the first {earlier.size} entries differ from those in {name}; they were changed")


def signed_in(folder: Path, name: str, keys: Sequence[PublicKey], required: Sequence[PublicKey] = ()) -> Signed | None:
    """Read a note of a run folder and check all its signatures; `None` if there is no note.

    Args:
        folder: the run.
        name: name of the note.
        keys: keys that may have signed, usually those in the folder.
        required: keys that must have signed.

    Raises:
        DamagedError: if the file is not a note, a signature is wrong or of an unknown key, a required signature is
            missing, or two keys have the same id.
    """
    path = folder / name
    if not path.exists():
        if required:
            raise DamagedError(f"{name}: missing, and {required[0].name} must have signed it")
        return None
    by_id = _by_id(keys, required)
    note = _note_in(folder, name)
    try:
        checkpoint = Checkpoint.parse(note.text)
        signatures = note.signed_by(list(by_id.values()))
    except DamagedError as error:
        raise DamagedError(f"{name}: {error}") from None
    hashes = {(one.name, one.key_hash) for one in signatures}
    for one in note.signatures:
        if (one.name, one.key_hash) not in hashes:
            raise DamagedError(f"{name}: signed by {one.name}+{one.key_hash.hex()}, whose key is not in {KEYS}")
    for key in required:
        if (key.name, key.hash) not in hashes:
            raise DamagedError(f"{name}: not signed by {key.id}")
    return Signed(name, checkpoint, tuple(_words(one, by_id[one.name, one.key_hash]) for one in signatures))


def _by_id(keys: Sequence[PublicKey], required: Sequence[PublicKey]) -> dict[tuple[str, bytes], PublicKey]:
    """Keys by their ids, which are short enough that somebody could make another key with the same id.

    Raises:
        InputError: if two of the `required` keys have one id.
        DamagedError: if another key has the id of one of them.
    """
    by_id: dict[tuple[str, bytes], PublicKey] = {}
    for key in required:
        if by_id.setdefault((key.name, key.hash), key) != key:
            raise InputError(f"two required keys have the id {key.id}; check with one of them at a time")
    for key in keys:
        if by_id.setdefault((key.name, key.hash), key) != key:
            raise DamagedError(f"{KEYS}: two keys have the id {key.id}; the second was made to look like the first")
    return by_id


def _note_in(folder: Path, name: str) -> Note:
    try:
        return Note.parse(read_file(folder / name, MOST_SETTINGS))
    except (DamagedError, ValueError, OSError) as error:
        raise DamagedError(f"{name}: {error}") from None


def keys_in(folder: Path) -> list[PublicKey]:
    """The public keys in a run folder. Anybody can put keys there: compare them with keys that you trust.

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
        raise DamagedError(f"{KEYS}: the file does not have the format that fedrec writes")
    return keys


def sign_notes(folder: Path, checkpoints: dict[str, Checkpoint], key: SigningKey, witness_at: int | None) -> PublicKey:
    """Write notes of a run folder, or add a signature to existing notes.

    Args:
        folder: the run, which was verified before.
        checkpoints: checkpoints to sign, by the name of the note.
        key: the key that signs.
        witness_at: time of a witness's signature in seconds since 1970; `None` for the operator.

    Raises:
        InputError: if a witness signs a checkpoint that the operator has not signed.
    """
    public = key.public(LOG if witness_at is None else COSIGNATURE)
    notes = {}
    for name, checkpoint in checkpoints.items():
        earlier = _note_in(folder, name) if (folder / name).exists() else Note("")
        note = earlier if earlier.text == checkpoint.text else Note(checkpoint.text)
        if witness_at is None:
            notes[name] = sign(note, key)
        elif note.signatures:
            notes[name] = cosign(note, key, witness_at)
        else:
            raise InputError(
                f"{name}: the coordinator has not signed all entries yet; a witness signs after the coordinator"
            )
    keys = keys_in(folder)
    (folder / KEYS).parent.mkdir(exist_ok=True)
    replace_file(folder / KEYS, _keys(keys if public in keys else [*keys, public]))
    for name, note in notes.items():
        replace_file(folder / name, note.encode())
    return public


def add_cosignature(folder: Path, name: str, public: PublicKey, data: bytes) -> None:
    """Add the signature of a remote witness to a note of a run folder.

    Args:
        folder: the run.
        name: name of the note.
        public: the public key of the witness, of kind `COSIGNATURE`.
        data: the whole note that the witness returned.

    Raises:
        DamagedError: if the signature is wrong or missing; nothing is written then.
    """
    note, keys, other = _note_in(folder, name), keys_in(folder), Note.parse(data)
    if other.text != note.text:
        raise DamagedError(f"{name}: {public.name} signed another checkpoint")
    signatures = other.signed_by([public])
    if not signatures:
        raise DamagedError(f"{name}: {public.name} has not signed")
    replace_file(folder / KEYS, _keys(keys if public in keys else [*keys, public]))
    replace_file(folder / name, note.with_signature(signatures[0]).encode())


def _keys(keys: Sequence[PublicKey]) -> bytes:
    return "".join(f"{key}\n" for key in keys).encode()


def _words(one: Signature, key: PublicKey) -> str:
    seen = f" (witness, at {one.time})" if key.kind == COSIGNATURE else ""
    return f"{key.id}{seen}"
