"""The source of secrets and noise: the operating system or, for tests and rehearsals, a seed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Protocol

import numpy as np

from fedrec.data.keys import KeyedSource
from fedrec.documents import read_file
from fedrec.errors import DamagedError
from fedrec.record.durable import replace_file

__all__ = ["SYSTEM", "Chance", "SeededChance", "SystemChance", "blinded", "has_secret", "keep_secret", "kept_secret"]


class Chance(Protocol):
    """A source of random numbers on which privacy depends."""

    secure: bool
    """Whether nobody can predict or repeat the random numbers."""

    def secret(self, purpose: str) -> KeyedSource:
        """A fresh key."""

    def words(self, count: int, round: int, part: int) -> np.ndarray:
        """Random words [count] uint64 for one block of a round's noise."""


class SystemChance:
    """The operating system's random generator."""

    secure = True

    def secret(self, purpose: str) -> KeyedSource:
        """A fresh random key."""
        return KeyedSource.from_system()

    def words(self, count: int, round: int, part: int) -> np.ndarray:
        """Fresh random words."""
        return np.frombuffer(bytearray(os.urandom(8 * count)), dtype=np.uint64)


class SeededChance:
    """The same secrets and noise for the same seed. This protects nobody, and a run with it says so.

    Args:
        seed: any whole number.
    """

    secure = False

    def __init__(self, seed: int) -> None:
        self._source = KeyedSource.from_seed(seed).child("rehearsal")

    def secret(self, purpose: str) -> KeyedSource:
        """A key from the seed and the purpose."""
        return self._source.child("secret", purpose)

    def words(self, count: int, round: int, part: int) -> np.ndarray:
        """Words from the seed, the round and the part."""
        generator = self._source.child("noise", round, part).generator()
        return generator.integers(0, 2**64, count, dtype=np.uint64)


SYSTEM = SystemChance()
_FILE = "secret"
_MOST_SECRET = 1 << 10


def keep_secret(folder: Path, secret: KeyedSource) -> None:
    """Save a secret in `folder`, in a file that only its owner may read."""
    path = folder / _FILE
    replace_file(path, secret.key.hex().encode(), secret=True)


def has_secret(folder: Path) -> bool:
    """Whether `folder` has a secret."""
    return (folder / _FILE).exists()


def kept_secret(folder: Path | None, purpose: str, chance: Chance) -> KeyedSource:
    """The secret in `folder`, which is made the first time; without a folder a fresh secret.

    Raises:
        DamagedError: if the file is not a secret.
    """
    if folder is None:
        return chance.secret(purpose)
    path = folder / _FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        keep_secret(folder, chance.secret(purpose))
    try:
        key = bytes.fromhex(read_file(path, _MOST_SECRET).decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != 16:
        raise DamagedError(f"{path} is not a secret; restore the file, or start a new training in another folder")
    return KeyedSource(key)


def blinded(digest: str, secret: KeyedSource) -> str:
    """A digest of data, keyed with a secret, so that nobody without the secret can confirm a guess of the data."""
    return hashlib.sha256(secret.child("digest", digest).key).hexdigest()
