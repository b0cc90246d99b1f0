"""How the coordinator removes the masks from a sum: from shares to seeds and keys, and from these to masks."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fedrec.errors import DamagedError
from fedrec.secagg.bodies import Advert
from fedrec.secagg.layout import Block
from fedrec.secagg.manifest import Manifest
from fedrec.secagg.masks import add_masks, pair_key, pair_sign, self_key
from fedrec.secagg.primitives import ExchangeKey, commitment
from fedrec.secagg.reasons import AbortError, Reason
from fedrec.secagg.shamir import recover

__all__ = ["masks_left", "take_off"]

_AT_ONCE = 1024
_ALONE = 1 << 24


def masks_left(
    manifest: Manifest,
    adverts: Mapping[int, Advert],
    alive: Collection[int],
    dead: Mapping[int, Collection[int]],
    shares: Mapping[int, Mapping[int, bytes]],
) -> tuple[list[tuple[int, bytes]], frozenset[int]]:
    """The masks to add to the sum of masked vectors to get the plain sum, and the parties that revealed false shares.

    Args:
        manifest: manifest of the sum.
        adverts: adverts of all parties.
        alive: parties whose vectors were summed.
        dead: dropped parties that share masks with surviving parties, and these surviving parties.
        shares: shares by owner and holder: of the seed of a surviving party, or of the key of a dropped party.

    Raises:
        AbortError: if the secret of a party cannot be recovered.
    """
    masks: list[tuple[int, bytes]] = []
    liars: set[int] = set()
    for owner in (*alive, *dead):
        advert = adverts[owner]

        def fits(secret: bytes, owner: int = owner, advert: Advert = advert) -> bool:
            if owner in dead:
                return ExchangeKey(secret).public == advert.mask_key
            return commitment(secret, manifest.digest, owner) == advert.commitment

        try:
            secret, false = recover(shares.get(owner, {}), manifest.threshold, fits)
        except DamagedError as error:
            raise AbortError(Reason.SECRETS_LOST, f"party {owner}: {error}") from None
        liars |= false
        if owner in dead:
            key = ExchangeKey(secret)
            for other in dead[owner]:
                shared = key.agree(adverts[other].mask_key)
                masks.append((-pair_sign(other, owner), pair_key(shared, manifest.digest, owner, other)))
        else:
            masks.append((-1, self_key(secret, manifest.digest, owner)))
    return masks, frozenset(liars)


def take_off(manifest: Manifest, total: Mapping[str, np.ndarray], masks: list[tuple[int, bytes]]) -> None:
    """Remove all masks in place, block by block, on all processor cores; what is left is in the rings."""

    def clear(block: Block) -> None:
        piece = total[block.slot.name][block.start : block.stop]
        for start in range(0, len(masks), _AT_ONCE):
            add_masks(piece, masks[start : start + _AT_ONCE], block.index)
        block.slot.reduce(piece)

    workers = min(len(manifest.layout), os.cpu_count() or 1)
    if workers == 1 or len(masks) * manifest.layout.nbytes < _ALONE:
        for block in manifest.layout:
            clear(block)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(clear, manifest.layout):
            pass
