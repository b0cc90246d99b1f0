"""Shamir's sharing of secrets of 32 bytes over the prime field of 2^521 - 1.

Any t shares give the secret; t - 1 shares reveal nothing, even to unlimited computing power. Shares are used once.
Python's integers do not take constant time, so this does not protect against somebody who can measure the time of
single operations on the party's machine.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence

from fedrec.errors import DamagedError

__all__ = ["PRIME", "SHARE_BYTES", "combine", "recover", "split"]

PRIME = 2**521 - 1
SHARE_BYTES = 66
_SECRET_BYTES = 32
_CHOICES = 512


def split(secret: bytes, threshold: int, places: Sequence[int]) -> dict[int, bytes]:
    """Split a secret into one share per place; any `threshold` shares recover the secret.

    Args:
        secret: 32 bytes.
        threshold: t, from 1 to the number of places.
        places: distinct numbers of at least 0 (the polynomial is evaluated at place + 1, so no share is the secret).

    Example:
        >>> shares = split(bytes(range(32)), 2, [0, 4, 7])
        >>> combine({place: shares[place] for place in (0, 7)}) == bytes(range(32))
        True
    """
    if len(secret) != _SECRET_BYTES or not 1 <= threshold <= len(set(places)) or len(set(places)) != len(places):
        raise ValueError("the secret must have 32 bytes, and there must be at least `threshold` distinct places")
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)] + [int.from_bytes(secret, "little")]
    shares = {}
    for place in places:
        x, value = place + 1, 0
        for coefficient in coefficients:
            value = (value * x + coefficient) % PRIME
        shares[place] = value.to_bytes(SHARE_BYTES, "little")
    return shares


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret from exactly t shares by place.

    Raises:
        DamagedError: if the value at 0 of the polynomial through the shares has more than 32 bytes.
    """
    value = _value(shares, 0)
    if value >> (8 * _SECRET_BYTES):
        raise DamagedError("shares do not give a secret of 32 bytes")
    return value.to_bytes(_SECRET_BYTES, "little")


def recover(shares: Mapping[int, bytes], threshold: int, fits: Callable[[bytes], bool]) -> tuple[bytes, frozenset[int]]:
    """The secret from t or more shares, some of which may be false, and the places of detected false shares.

    Args:
        shares: shares by place.
        threshold: t.
        fits: whether a candidate matches what the owner of the secret published.

    Raises:
        DamagedError: if there are fewer than t shares, or no choice of t shares matches (512 choices are tried).
    """
    places = sorted(shares)
    for trial, chosen in enumerate(_choices(places, threshold)):
        part = {place: shares[place] for place in chosen}
        try:
            secret = combine(part)
        except DamagedError:
            continue
        if fits(secret):
            spare = [place for place in places if trial and place not in part]
            return secret, frozenset(
                place for place in spare if _value(part, place + 1) != _read(shares[place]) % PRIME
            )
    raise DamagedError(f"{len(shares)} shares do not recover the secret of a party; {threshold} true shares are needed")


def _choices(places: list[int], threshold: int) -> Iterator[list[int]]:
    """The first t places, then other choices in a fixed pseudorandom order."""
    if len(places) < threshold:
        return
    yield places[:threshold]
    if len(places) > threshold:
        drawn = random.Random(0)
        for _ in range(_CHOICES - 1):
            yield drawn.sample(places, threshold)


def _read(share: bytes) -> int:
    return int.from_bytes(share, "little")


def _value(shares: Mapping[int, bytes], x: int) -> int:
    """The value at `x` of the polynomial of lowest degree through the shares (Lagrange, with one inversion)."""
    points = [place + 1 for place in shares]
    tops, bottoms = [], []
    for point in points:
        top, bottom = 1, 1
        for other in points:
            if other != point:
                top = top * (x - other) % PRIME
                bottom = bottom * (point - other) % PRIME
        tops.append(top)
        bottoms.append(bottom)
    total = 0
    for share, top, inverse in zip(shares.values(), tops, _inverses(bottoms), strict=True):
        total += _read(share) * top % PRIME * inverse
    return total % PRIME


def _inverses(values: list[int]) -> list[int]:
    """Inverses of all values, with one modular power."""
    running, product = [], 1
    for value in values:
        running.append(product)
        product = product * value % PRIME
    inverse = pow(product, -1, PRIME)
    inverses = [0] * len(values)
    for index in range(len(values) - 1, -1, -1):
        inverses[index] = inverse * running[index] % PRIME
        inverse = inverse * values[index] % PRIME
    return inverses
