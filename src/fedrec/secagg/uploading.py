"""A party's masked values, block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping

import numpy as np

from fedrec.aggregation.packing import pack
from fedrec.errors import InputError
from fedrec.secagg.layout import Block, Layout
from fedrec.secagg.manifest import Manifest
from fedrec.secagg.masks import Masks, add_masks
from fedrec.secagg.primitives import digest
from fedrec.secagg.wire import HEADER_BYTES, Stage, header

__all__ = ["PAYLOAD_AT", "Values", "masked_blocks", "root_of"]

Values = Mapping[str, np.ndarray] | Callable[[Block], np.ndarray]

PAYLOAD_AT = HEADER_BYTES + 8


def reader(layout: Layout, values: Values) -> Callable[[Block], np.ndarray]:
    """A function that returns the integers of a block.

    Raises:
        InputError: if named arrays do not match the layout.
    """
    if callable(values):
        return values
    flat = layout.flat(values)
    return lambda block: flat[block.slot.name][block.start : block.stop]


def masked_blocks(
    manifest: Manifest, index: int, masks: Masks, read: Callable[[Block], np.ndarray]
) -> Generator[bytearray, None, bytes]:
    """Yield one frame per block; the generator returns the root of all blocks.

    Raises:
        InputError: if a block of values has another number or type of integers than the layout.
    """
    digests = hashlib.sha256()
    for block in manifest.layout:
        frame = bytearray(PAYLOAD_AT + block.nbytes)
        frame[:PAYLOAD_AT] = header(Stage.BLOCK, index, manifest.digest, 8 + block.nbytes) + _place(block.index)
        count, dtype = block.stop - block.start, block.slot.dtype
        packed = block.slot.ring < 8 * dtype.itemsize
        masked = np.empty(count, dtype) if packed else np.frombuffer(frame, dtype, offset=PAYLOAD_AT)
        given = read(block)
        if given.shape != masked.shape or given.dtype.kind not in "iu" or given.itemsize != masked.itemsize:
            raise InputError(
                f"block {block.index} of vector {block.slot.name!r} must have {len(masked)} integers of "
                f"{8 * masked.itemsize} bits, not {given.shape} of {given.dtype}"
            )
        masked[:] = given.view(masked.dtype)
        add_masks(masked, masks, block.index)
        if packed:
            frame[PAYLOAD_AT:] = pack(masked, block.slot.ring)
        digests.update(hashlib.sha256(memoryview(frame)[PAYLOAD_AT:]).digest())
        yield frame
    return root_of(digests.digest())


def root_of(blocks: bytes) -> bytes:
    """The digest that a party signs for its masked vector, from the SHA-256 of the digests of its blocks."""
    return digest(b"masked", blocks)


def _place(index: int) -> bytes:
    return index.to_bytes(8, "little")
