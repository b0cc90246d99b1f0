"""Merkle trees of RFC 6962: roots, and proofs that an entry is in a log and that a log only grew.

Hashes are SHA-256: a leaf is H(0x00 ‖ entry), a node H(0x01 ‖ left ‖ right), and the tree without entries has the
hash of the empty text. A proof is a list of 32-byte hashes; checking a proof needs only roots that the checker trusts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from fedrec.errors import DamagedError

__all__ = [
    "Tree",
    "check_consistency",
    "check_inclusion",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "root_of",
]

HASH_BYTES = 32


def leaf_hash(entry: bytes) -> bytes:
    """The hash of an entry.

    >>> leaf_hash(b"").hex()[:16]
    '6e340b9cffb37a98'
    """
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees side by side."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree that grows entry by entry, in log(n) memory: it keeps the roots of its full subtrees, largest first.

    Example:
        >>> tree = Tree()
        >>> tree.append(leaf_hash(b""))
        >>> tree.size, tree.root().hex()[:16]
        (1, '6e340b9cffb37a98')
    """

    def __init__(self) -> None:
        self.size = 0
        self._full: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Add the hash of one more entry."""
        size, joined = self.size, leaf
        while size & 1:
            joined = node_hash(self._full.pop(), joined)
            size >>= 1
        self._full.append(joined)
        self.size += 1

    def root(self) -> bytes:
        """The root over all entries so far."""
        if not self._full:
            return hashlib.sha256(b"").digest()
        root = self._full[-1]
        for left in reversed(self._full[:-1]):
            root = node_hash(left, root)
        return root

    def copy(self) -> Tree:
        """An independent copy of the tree."""
        other = Tree()
        other.size, other._full = self.size, list(self._full)
        return other


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over the hashes of entries."""
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The proof that entry `index` is in the tree over `leaves` (RFC 6962, 2.1.1).

    Raises:
        IndexError: if there is no such entry.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"entry {index} of a log of {len(leaves)}")
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*inclusion_proof(leaves[:split], index), root_of(leaves[split:])]
    return [*inclusion_proof(leaves[split:], index - split), root_of(leaves[:split])]


def consistency_proof(leaves: Sequence[bytes], old: int) -> list[bytes]:
    """The proof that the tree over `leaves` begins with its first `old` entries (RFC 6962, 2.1.2).

    Raises:
        IndexError: if the log has fewer than `old` entries.
    """
    if not 0 <= old <= len(leaves):
        raise IndexError(f"{old} entries of a log of {len(leaves)}")
    return [] if old in (0, len(leaves)) else _subproof(leaves, old, True)


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that `leaf` is entry `index` of the log of `size` entries with this root (RFC 9162, 2.1.3.2).

    Raises:
        DamagedError: if the proof does not show that.
    """
    wrong = DamagedError(f"the proof does not show that entry {index} is in the log of {size} entries")
    if not 0 <= index < size:
        raise wrong
    place, last, node = index, size - 1, leaf
    for part in proof:
        if last == 0 or len(part) != HASH_BYTES:
            raise wrong
        if place & 1 or place == last:
            node = node_hash(part, node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = node_hash(node, part)
        place, last = place >> 1, last >> 1
    if last or node != root:
        raise wrong


def check_consistency(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Check that the log of `new` entries begins with the log of `old` entries (RFC 9162, 2.1.4.2).

    Raises:
        DamagedError: if the proof does not show it.
    """
    wrong = DamagedError(f"the proof does not show that the log of {new} entries begins with its {old} earlier entries")
    if not 0 <= old <= new or any(len(part) != HASH_BYTES for part in proof):
        raise wrong
    if old == 0 or old == new:
        if proof or old_root != (new_root if old else root_of(())):
            raise wrong
        return
    parts = list(proof) if old & (old - 1) else [old_root, *proof]
    if not parts:
        raise wrong
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = parts[0]
    for part in parts[1:]:
        if last == 0:
            raise wrong
        if place & 1 or place == last:
            before, after = node_hash(part, before), node_hash(part, after)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            after = node_hash(after, part)
        place, last = place >> 1, last >> 1
    if last or before != old_root or after != new_root:
        raise wrong


def _subproof(leaves: Sequence[bytes], old: int, whole: bool) -> list[bytes]:
    if old == len(leaves):
        return [] if whole else [root_of(leaves)]
    split = _split(len(leaves))
    if old <= split:
        return [*_subproof(leaves[:split], old, whole), root_of(leaves[split:])]
    return [*_subproof(leaves[split:], old - split, False), root_of(leaves[:split])]


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1
