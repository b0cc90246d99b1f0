"""Where secrets and noise come from: the operating system, or, for tests and rehearsals, a seed."""

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
    """Randomness that privacy rests on."""

    secure: bool
    """Whether nobody can know or repeat it."""

    def secret(self, purpose: str) -> KeyedSource:
        """A fresh key."""

    def words(self, count: int, round: int, part: int) -> np.ndarray:
        """Random words [count] uint64 for one block of a round's noise."""


class SystemChance:
    """The operating system's generator."""

    secure = True

    def secret(self, purpose: str) -> KeyedSource:
        """A key that nobody else can have."""
        return KeyedSource.from_system()

    def words(self, count: int, round: int, part: int) -> np.ndarray:
        """Words that nobody can know or repeat."""
        return np.frombuffer(bytearray(os.urandom(8 * count)), dtype=np.uint64)


class SeededChance:
    """The same secrets and noise whenever the seed is the same: it protects nothing, and a run so made says so.

    Args:
        seed: any whole number.
    """

    secure = False

    def __init__(self, seed: int) -> None:
        self._source = KeyedSource.from_seed(seed).child("rehearsal")

    def secret(self, purpose: str) -> KeyedSource:
        """The key of the seed and the purpose."""
        return self._source.child("secret", purpose)

    def words(self, count: int, round: int, part: int) -> np.ndarray:
        """Words of the seed, the round and the part."""
        generator = self._source.child("noise", round, part).generator()
        return generator.integers(0, 2**64, count, dtype=np.uint64)


SYSTEM = SystemChance()
_FILE = "secret"
_MOST_SECRET = 1 << 10


def keep_secret(folder: Path, secret: KeyedSource) -> None:
    """Put a secret in `folder`, for its owner's eyes."""
    path = folder / _FILE
    replace_file(path, secret.key.hex().encode(), secret=True)


def has_secret(folder: Path) -> bool:
    """Whether a secret was put in `folder`."""
    return (folder / _FILE).exists()


def kept_secret(folder: Path | None, purpose: str, chance: Chance) -> KeyedSource:
    """The secret in `folder`, made there the first time; a fresh one where there is no folder.

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
        raise DamagedError(f"{path} is not a secret; restore it, or train anew in another folder")
    return KeyedSource(key)


def blinded(digest: str, secret: KeyedSource) -> str:
    """A digest of data that says nothing to who has not the secret: the plain one would tell who guesses the data."""
    return hashlib.sha256(secret.child("digest", digest).key).hexdigest()
