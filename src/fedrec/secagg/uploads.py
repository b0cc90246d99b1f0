"""Masked vectors as their blocks arrive, in any order, twice or never; a complete vector must match its root."""

from __future__ import annotations

import hashlib
from collections.abc import MutableMapping

import numpy as np

from fedrec.aggregation.packing import unpack
from fedrec.errors import DamagedError
from fedrec.secagg.layout import Layout
from fedrec.secagg.uploading import root_of

__all__ = ["Spool", "Uploads"]

Spool = MutableMapping[tuple[int, int], bytes | memoryview]


class Uploads:
    """The sum of all complete masked vectors, and the blocks of incomplete ones.

    Args:
        layout: layout of the vectors.
        total: unsigned arrays by name to which vectors are added, for instance mapped from a file; zeros by default.
        spool: storage for blocks of incomplete vectors, by party and block; a dictionary by default.
    """

    def __init__(
        self,
        layout: Layout,
        total: dict[str, np.ndarray] | None = None,
        spool: Spool | None = None,
    ) -> None:
        self.total = layout.zeros() if total is None else layout.flat(total)
        self.roots: dict[int, bytes] = {}
        self.refused: set[int] = set()
        self._layout = layout
        self._spool: Spool = {} if spool is None else spool
        self._digests: dict[int, dict[int, bytes]] = {}
        self._claims: dict[int, bytes] = {}

    def add_block(self, party: int, body: memoryview) -> None:
        """Add one block; a repeated block is ignored.

        Raises:
            DamagedError: if the block is not in the layout, has a wrong size or differs from an earlier version, or if
                the completed vector does not match its signed root.
        """
        index = int.from_bytes(body[:8], "little")
        if len(body) < 8 or index >= len(self._layout) or len(body) - 8 != self._layout[index].nbytes:
            raise DamagedError(f"party {party} sent a block that the layout does not have")
        digest = hashlib.sha256(body[8:]).digest()
        digests = self._digests.setdefault(party, {})
        if digests.setdefault(index, digest) != digest:
            raise DamagedError(f"party {party} sent two versions of block {index}")
        if party in self.roots or party in self.refused or (party, index) in self._spool:
            return
        self._spool[party, index] = body[8:]
        self._finish(party)

    def close_vector(self, party: int, root: bytes) -> None:
        """Set the signed root of a vector; some of its blocks may arrive later.

        Raises:
            DamagedError: if all blocks have arrived and do not match the root, or the vector was refused before.
        """
        if party in self.refused:
            raise DamagedError(f"the masked vector of party {party} was refused before")
        self._claims[party] = root
        self._finish(party)

    def drop_unfinished(self) -> None:
        """Delete the blocks of incomplete vectors."""
        self._spool.clear()

    def _finish(self, party: int) -> None:
        digests = self._digests.get(party, {})
        if party not in self._claims or len(digests) < len(self._layout):
            return
        root = root_of(hashlib.sha256(b"".join(digests[index] for index in range(len(self._layout)))).digest())
        if root != self._claims[party]:
            self._discard(party)
            self.refused.add(party)
            raise DamagedError(f"the masked vector of party {party} does not match the root that the party signed")
        for block in self._layout:
            piece = self.total[block.slot.name][block.start : block.stop]
            piece += unpack(self._spool.pop((party, block.index)), len(piece), block.slot.ring)
        self.roots[party] = root

    def _discard(self, party: int) -> None:
        for block in self._layout:
            self._spool.pop((party, block.index), None)
