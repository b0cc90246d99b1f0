"""Receipts that a node keeps of every sum that it sends, to check the coordinator's record later.

A receipt has the round, the digests of the model and the spec that the node received, the digest of the sum, and a
commitment, SHA-256(salt ‖ digest of the sum), with a salt that only the node knows. The commitment is sent with the sum
and is part of the round's ledger line. It reveals nothing about the sum, and no other sum has the same commitment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.documents import MOST_LINES, parse_json, read_file
from fedrec.errors import DamagedError
from fedrec.record.ledger import Ledger, read_lines
from fedrec.record.merkle import HASH_BYTES, check_inclusion, inclusion_proof, leaf_hash
from fedrec.record.notes import Checkpoint

__all__ = [
    "RECEIPTS",
    "Receipt",
    "ReceiptProof",
    "Receipts",
    "commitment",
    "prove_receipt",
    "read_receipts",
    "sum_digest",
]

RECEIPTS = "receipts.jsonl"
"""File name in the private folder of a node."""


@dataclass(frozen=True)
class Receipt:
    """A node's receipt of one sum.

    Args:
        round: number of the round.
        model: digest of the shared arrays that the node received.
        spec: digest of the requested spec.
        sum: digest of the sum that left the node.
        salt: salt of the commitment, in hexadecimal; only the node knows it.
    """

    round: int
    model: str
    spec: str
    sum: str
    salt: str

    @property
    def commitment(self) -> str:
        """The commitment in the ledger line of the round."""
        return commitment(bytes.fromhex(self.salt), bytes.fromhex(self.sum))

    @classmethod
    def from_line(cls, line: Mapping[str, Any], where: str) -> Receipt:
        """From a line of a receipts file.

        Raises:
            DamagedError: if the line is not a receipt.
        """
        texts = [line.get(key) for key in ("model", "spec", "sum", "salt")]
        try:
            if line.get("kind") != "receipt" or type(line.get("round")) is not int:
                raise ValueError
            receipt = cls(line["round"], *(str(text) for text in texts))
            if len(bytes.fromhex(receipt.sum)) != HASH_BYTES or not bytes.fromhex(receipt.salt):
                raise ValueError
        except ValueError:
            raise DamagedError(f"{where}: not a receipt") from None
        return receipt


class Receipts:
    """A node's receipts, one line each, written before the sum leaves; kept in memory only if there is no file.

    Example:
        >>> receipts = Receipts(None)
        >>> receipt = Receipt(0, "ab", "cd", "00" * 32, "11" * 16)
        >>> receipts.keep(receipt) == receipts.keep(receipt) == receipt.commitment
        True
        >>> len(receipts.of_round(0))
        1
    """

    def __init__(self, path: Path | None) -> None:
        self._lines = Ledger(path, rooted=True)
        self._by_round: dict[int, list[Receipt]] = {}
        for number, line in enumerate(self._lines.lines, 1):
            receipt = Receipt.from_line(line, f"{path}, line {number}")
            self._by_round.setdefault(receipt.round, []).append(receipt)

    def keep(self, receipt: Receipt) -> str:
        """Write a receipt, once; returns its commitment."""
        if receipt not in self.of_round(receipt.round):
            self._lines.append("receipt", **vars(receipt))
            self._by_round.setdefault(receipt.round, []).append(receipt)
        return receipt.commitment

    def of_round(self, round: int) -> list[Receipt]:
        """The receipts of one round."""
        return self._by_round.get(round, [])


@dataclass(frozen=True)
class ReceiptProof:
    """A proof that the line of a round is in the log.

    Args:
        index: index of the entry, from 0.
        entry: bytes of the entry, without the root at the end of its line.
        proof: inclusion proof of the entry.
    """

    index: int
    entry: bytes
    proof: tuple[bytes, ...]

    def check(self, receipt: Receipt, checkpoint: Checkpoint) -> None:
        """Check that the log of a trusted checkpoint contains the sum of a receipt.

        Raises:
            DamagedError: if the log does not contain the sum.
        """
        check_inclusion(leaf_hash(self.entry), self.index, checkpoint.size, self.proof, checkpoint.root)
        try:
            line = parse_json(self.entry)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            raise DamagedError(f"entry {self.index + 1} of the log is malformed")
        if line.get("kind") != "round" or line.get("round") != receipt.round:
            raise DamagedError(f"entry {self.index + 1} of the log is not of round {receipt.round}")
        if receipt.commitment not in line.get("sums", []):
            raise DamagedError(f"the log has round {receipt.round} without the sum of this receipt")


def prove_receipt(ledger: bytes, receipt: Receipt) -> ReceiptProof:
    """The proof for a receipt, from the bytes of `ledger.jsonl`.

    Raises:
        DamagedError: if the ledger was changed, or has no such round.
    """
    lines, leaves = read_lines(ledger, "ledger.jsonl", rooted=True)
    for index, line in enumerate(lines):
        if line["kind"] == "round" and line["round"] == receipt.round:
            text = ledger.split(b"\n")[index]
            entry = text[: text.rindex(b',"root":"')] + b"}"
            return ReceiptProof(index, entry, tuple(inclusion_proof(leaves, index)))
    raise DamagedError(f"ledger.jsonl: round {receipt.round} is missing, and a node has a receipt for it")


def read_receipts(path: Path, name: str) -> list[Receipt]:
    """All receipts in a file.

    Raises:
        DamagedError: if a line was changed; the text names the line.
    """
    try:
        data = read_file(path, MOST_LINES)
    except (OSError, ValueError) as error:
        raise DamagedError(f"{name}: {error}") from None
    lines, _ = read_lines(data, name, rooted=True)
    return [Receipt.from_line(line, f"{name}, line {number}") for number, line in enumerate(lines, 1)]


def commitment(salt: bytes, digest: bytes) -> str:
    """SHA-256(salt ‖ digest) in hexadecimal."""
    return hashlib.sha256(salt + digest).hexdigest()


def sum_digest(spec: str, counts: Sequence[int], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a sum: of its spec, its counts, and its integers, little endian, by name.

    Args:
        spec: digest of the spec, which has all shapes.
        counts: round, number of clients and further counts.
        arrays: integers of any shape.
    """
    digest = hashlib.sha256(f"{spec} {' '.join(map(str, counts))} {' '.join(sorted(arrays))}\n".encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()
