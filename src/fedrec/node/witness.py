"""A node as a witness of a run's record: it remembers every entry that it was told of, and signs no other past."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrec.errors import DamagedError, PlanError
from fedrec.record.durable import append_line, whole_lines
from fedrec.record.keys import PublicKey, SigningKey
from fedrec.record.notes import Checkpoint, Note, cosign, sign
from fedrec.record.signing import checkpoint_of

__all__ = ["Witness", "told"]

_LEAF = re.compile(r"[0-9a-f]{64}")


def told(leaves: Sequence[bytes], first: int, key: SigningKey) -> dict[str, Any]:
    """What a coordinator tells a node of its record: entries from number `first` on, and the signed checkpoint."""
    checkpoint = checkpoint_of(leaves, leaves[0], "ledger")
    note = sign(Note(checkpoint.text), key).encode().decode()
    return {"first": first, "leaves": [leaf.hex() for leaf in leaves[first:]], "note": note}


class Witness:
    """The entries of one run's ledger as a node knows them, by their hashes.

    Args:
        path: where they are kept, one a line; `None` for in memory.
        log: the coordinator's key.
        key: the node's.

    Raises:
        DamagedError: if the file holds something else.
    """

    def __init__(self, path: Path | None, log: PublicKey, key: SigningKey) -> None:
        self._path, self._log, self._key = path, log, key
        self._leaves: list[bytes] = []
        if path is not None and path.exists():
            lines = whole_lines(path).decode("ascii", "replace").split("\n")[:-1]
            if not all(_LEAF.fullmatch(line) for line in lines):
                raise DamagedError(f"{path} is damaged: it holds something else than hashes of entries")
            self._leaves = [bytes.fromhex(line) for line in lines]

    @property
    def seen(self) -> int:
        """How many entries it knows."""
        return len(self._leaves)

    def see(self, said: Any) -> Note:
        """Take in what a coordinator tells of its record; it is on the disk before anything else happens.

        Raises:
            PlanError: if the record does not go on from the one that this node knows, or is not signed.
            DamagedError: if what is told is not whole.
        """
        try:
            first, leaves, note = said["first"], said["leaves"], Note.parse(said["note"].encode())
            whole = type(first) is int and first >= 0 and all(_LEAF.fullmatch(leaf) for leaf in leaves)
        except (KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise DamagedError("what is told of the record is not whole")
        if first > self.seen:
            raise PlanError(f"the record is told from entry {first} on, and this node knows {self.seen}")
        told_of = [bytes.fromhex(leaf) for leaf in leaves]
        known = self._leaves[first : first + len(told_of)]
        if told_of[: len(known)] != known or first + len(told_of) < self.seen:
            raise PlanError(
                "the coordinator's record does not go on from the one that this node saw: entries were changed or "
                "taken out. The node takes no further part in this run"
            )
        everything = [*self._leaves[:first], *told_of]
        if not everything or Checkpoint.parse(note.text) != checkpoint_of(everything, everything[0], "ledger"):
            raise PlanError(
                "the coordinator's checkpoint is not that of the entries that this node saw and was told: entries were "
                "changed or taken out. The node takes no further part in this run"
            )
        if not note.signed_by([self._log]):
            raise PlanError(f"the checkpoint is not signed by {self._log.name}")
        fresh = everything[self.seen :]
        if self._path is not None and fresh:
            append_line(self._path, "\n".join(leaf.hex() for leaf in fresh))  # flushed once, however many are told
        self._leaves += fresh
        return note

    def sign(self, said: Any, time: int) -> bytes:
        """Take in what is told, and sign it; returns the whole note.

        Args:
            said: as of `see`.
            time: seconds since 1970.
        """
        return cosign(self.see(said), self._key, time).encode()
