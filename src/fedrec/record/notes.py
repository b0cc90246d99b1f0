"""Signed notes and checkpoints of a log, in the formats of C2SP (signed-note, tlog-checkpoint, tlog-cosignature).

A note is text, an empty line, and signature lines `— name base64`. A checkpoint's text is three lines: the origin
(which log), the number of entries, the root in base64. The log's operator signs the text; a witness signs a time
and the text, after it has checked that the log continues from the checkpoint that it signed before.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fedrec.errors import DamagedError, InputError
from fedrec.record.keys import COSIGNATURE, PublicKey, SigningKey, from_base64
from fedrec.record.merkle import HASH_BYTES, check_consistency

__all__ = ["Checkpoint", "Note", "Signature", "cosign", "sign", "witness"]

_HASH = 4
_TIME = 8
_SIGNATURE = 64
_LARGEST_NOTE = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """The state of a log at one moment.

    Args:
        origin: name of the log.
        size: number of entries.
        root: root over the entries, 32 bytes.

    Example:
        >>> checkpoint = Checkpoint("example.org/log", 1, bytes(32))
        >>> Checkpoint.parse(checkpoint.text) == checkpoint
        True
    """

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read the lines of a checkpoint.

        Raises:
            DamagedError: if a line is malformed; the text names the line.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not lines[0] or not lines[0].isprintable():
            raise DamagedError("a checkpoint must have three lines: origin, number of entries, root")
        if not re.fullmatch("0|[1-9][0-9]{0,18}", lines[1]):
            raise DamagedError(f"the number of entries in a checkpoint must be a whole number, not {lines[1][:20]!r}")
        root = from_base64(lines[2])
        if root is None or len(root) != HASH_BYTES:
            raise DamagedError("the root in a checkpoint is not 32 bytes in base64")
        return cls(lines[0], int(lines[1]), root)


@dataclass(frozen=True)
class Signature:
    """One signature line: name and 4-byte hash of the key, and the signature, for a witness after a time."""

    name: str
    key_hash: bytes
    data: bytes

    @property
    def time(self) -> int:
        """Time of a witness's signature, in seconds since 1970."""
        return int.from_bytes(self.data[:_TIME], "big")


@dataclass(frozen=True)
class Note:
    """A text with its signatures.

    Example:
        >>> text = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6R"
        >>> body = "If you think cryptography is the answer to your problem,\\n"
        >>> body += "then you don't know what your problem is.\\n"
        >>> note = Note.parse((body + "\\n" + text + "yyBwJnAM=\\n").encode())
        >>> key = PublicKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
        >>> [signature.name for signature in note.signed_by([key])]
        ['PeterNeumann']
    """

    text: str
    signatures: tuple[Signature, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """Read a note.

        Raises:
            DamagedError: if the bytes are not a note; the text names the line.
        """
        try:
            text, end, lines = data[:_LARGEST_NOTE].decode().rpartition("\n\n")
        except UnicodeDecodeError:
            raise DamagedError("not a signed note: not text") from None
        if not end or not lines.endswith("\n") or len(data) > _LARGEST_NOTE:
            raise DamagedError("not a signed note, which has a text, an empty line and lines of signatures")
        signatures = tuple(_signature(line) for line in lines[:-1].split("\n"))
        return cls(text + "\n", signatures)

    def encode(self) -> bytes:
        """The bytes of the note."""
        lines = (f"— {one.name} {base64.b64encode(one.key_hash + one.data).decode()}\n" for one in self.signatures)
        return (self.text + "\n" + "".join(lines)).encode()

    def signed_by(self, keys: Sequence[PublicKey]) -> list[Signature]:
        """The signatures of the given keys, which are checked. Signatures of other keys are ignored.

        Raises:
            DamagedError: if a signature of one of the keys is wrong; the text names the first such key.
        """
        by_id = {(key.name, key.hash): key for key in keys}
        checked = []
        for one in self.signatures:
            key = by_id.get((one.name, one.key_hash))
            if key is not None:
                cosigned = key.kind == COSIGNATURE
                message = _cosigned(self.text, one.time) if cosigned else self.text.encode()
                if len(one.data) != _SIGNATURE + _TIME * cosigned:
                    raise DamagedError(f"the signature of {one.name} has a wrong length of {len(one.data)} bytes")
                key.check(message, one.data[_TIME * cosigned :])
                checked.append(one)
        return checked

    def with_signature(self, one: Signature) -> Note:
        """The note with a signature, which replaces an earlier one of the same key."""
        others = (old for old in self.signatures if (old.name, old.key_hash) != (one.name, one.key_hash))
        return Note(self.text, (*others, one))


def sign(note: Note, key: SigningKey) -> Note:
    """The note with the signature of the log's operator."""
    return note.with_signature(Signature(key.name, key.public().hash, key.sign(note.text.encode())))


def cosign(note: Note, key: SigningKey, time: int) -> Note:
    """The note with a witness's signature.

    Args:
        note: note of a checkpoint.
        key: the witness's key.
        time: seconds since 1970.

    Raises:
        DamagedError: if the text is not a checkpoint.
        InputError: if the time is out of range.
    """
    Checkpoint.parse(note.text)
    if not 0 <= time < 1 << 63:
        raise InputError(f"a cosignature needs a time in seconds since 1970, not {time}")
    data = time.to_bytes(_TIME, "big") + key.sign(_cosigned(note.text, time))
    return note.with_signature(Signature(key.name, key.public(COSIGNATURE).hash, data))


def witness(
    earlier: Checkpoint | None, note: Note, proof: Sequence[bytes], log: PublicKey, key: SigningKey, time: int
) -> Note:
    """Cosign a new checkpoint, if the log's operator signed it and it continues from the witness's last checkpoint.

    Args:
        earlier: the last checkpoint that this witness signed; `None` for the first time.
        note: the new checkpoint, signed by the log's operator.
        proof: proof that it continues from `earlier` (`fedrec.record.merkle.consistency_proof`).
        log: the operator's key.
        key: the witness's key.
        time: seconds since 1970.

    Raises:
        DamagedError: if the operator did not sign it, or the log was rewritten.
    """
    new = Checkpoint.parse(note.text)
    if not note.signed_by([log]):
        raise DamagedError(f"the checkpoint of {new.origin} is not signed by {log.name}")
    if earlier is not None:
        if earlier.origin != new.origin:
            raise DamagedError(f"the checkpoint is of log {new.origin}, the earlier checkpoint of log {earlier.origin}")
        check_consistency(earlier.size, new.size, proof, earlier.root, new.root)
    return cosign(note, key, time)


def _cosigned(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def _signature(line: str) -> Signature:
    parts = line.split(" ")
    sound = len(parts) == 3 and parts[0] == "—" and parts[1] != "" and parts[1].isprintable() and "+" not in parts[1]
    data = from_base64(parts[2]) if sound else None
    if data is None or len(data) <= _HASH:
        raise DamagedError(f"not a signature line: {line[:60]!r}")
    return Signature(parts[1], data[:_HASH], data[_HASH:])
