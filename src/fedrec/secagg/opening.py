"""How the coordinator takes the masks off a sum: from shares to seeds and keys, from these to masks."""

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
    """What to add to the sum of masked vectors so that only the sum is left, and who revealed false shares.

    Args:
        manifest: of the sum.
        adverts: of all parties.
        alive: whose vectors were summed.
        dead: who masked with somebody alive but sent no vector, and with whom.
        shares: by owner and holder: of the seed of somebody alive, of the key of somebody dead.

    Raises:
        AbortError: if somebody's secret does not come out.
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
    """Take all masks off, in place, block by block; as many blocks at once as there are cores."""

    def clear(block: Block) -> None:
        piece = total[block.slot.name][block.start : block.stop]
        for start in range(0, len(masks), _AT_ONCE):
            add_masks(piece, masks[start : start + _AT_ONCE], block.index)

    workers = min(len(manifest.layout), os.cpu_count() or 1)
    if workers == 1 or len(masks) * manifest.layout.nbytes < _ALONE:
        for block in manifest.layout:
            clear(block)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(clear, manifest.layout):
            pass
