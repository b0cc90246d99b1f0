"""A fingerprint of interactions: equal data, equal digest."""

from __future__ import annotations

import hashlib

import numpy as np

from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions

__all__ = ["digest_of"]


def digest_of(data: Interactions) -> str:
    """SHA-256 over typed user ids, the catalog and every array in order; features are not part of it.

    >>> from fedrec.data.reading.frames import interactions_from
    >>> one = interactions_from({"user_id": [1, 2], "item_id": ["a", "b"]})
    >>> other = interactions_from({"user_id": [2, 1], "item_id": ["b", "a"]})
    >>> text = interactions_from({"user_id": ["1", "2"], "item_id": ["a", "b"]})
    >>> digest_of(one) == digest_of(other), digest_of(one) == digest_of(text)
    (True, False)
    """
    state = hashlib.sha256(b"fedrec interactions 1\n")
    _add_ids(state, data.users)
    state.update(data.catalog.digest.encode())
    arrays = {
        "indptr": (data.indptr, "<i8"),
        "items": (data.items, "<i4"),
        "values": (data.values, "<f4"),
        "times": (data.times, "<f8"),
        "part": (data.part, "<i1"),
    }
    for name, (array, kind) in arrays.items():
        if array is None:
            state.update(f"\n{name} none\n".encode())
            continue
        state.update(f"\n{name} {len(array)}\n".encode())
        state.update(np.ascontiguousarray(array, dtype=kind).data)
    return state.hexdigest()


def _add_ids(state: hashlib._Hash, ids: Identifiers) -> None:
    state.update(f"{'text' if ids.is_text else 'int64'} {len(ids)}\n".encode())
    if ids.is_text:
        state.update(ids.series.str.len_bytes().to_numpy().astype("<u4").tobytes())
        state.update("".join(ids.series.to_list()).encode())
    else:
        state.update(ids.series.to_numpy().astype("<i8").tobytes())
