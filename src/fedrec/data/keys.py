"""Randomness with names: every draw is keyed by a secret, a purpose, a round and a client."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field

import numpy as np

from fedrec.data.identifiers import Identifiers
from fedrec.kernels import keyed

__all__ = ["KeyedSource", "client_keys"]


@dataclass(frozen=True)
class KeyedSource:
    """A source of randomness that is a key, not a stream: the same names always give the same draws.

    Args:
        key: 16 secret bytes.

    Example:
        >>> source = KeyedSource.from_seed(7)
        >>> a = source.child("cohort", 3).generator().integers(100)
        >>> b = source.child("cohort", 3).generator().integers(100)
        >>> bool(a == b)
        True
    """

    key: bytes = field(repr=False)

    @classmethod
    def from_seed(cls, seed: int) -> KeyedSource:
        """The source of a seed: everybody with the same seed has the same source (reproducible mode)."""
        return cls(hashlib.blake2b(f"fedrec seed {seed}".encode(), digest_size=16).digest())

    @classmethod
    def from_system(cls) -> KeyedSource:
        """A source with a key from the operating system, which nobody else has."""
        return cls(secrets.token_bytes(16))

    def child(self, *names: str | int) -> KeyedSource:
        """The source for a purpose, a round, or any other path of names."""
        parts = [("str", name) if isinstance(name, str) else ("int", str(int(name))) for name in names]
        path = "".join(f"{kind}:{len(text)}:{text};" for kind, text in parts)
        return KeyedSource(hashlib.blake2b(path.encode(), key=self.key, digest_size=16).digest())

    @property
    def words(self) -> tuple[np.uint64, np.uint64]:
        """The key as two 64-bit words."""
        first, second = np.frombuffer(self.key, dtype="<u8")
        return np.uint64(first), np.uint64(second)

    def seeds(self, keys: np.ndarray) -> np.ndarray:
        """One seed per client key: [n] uint64 → [n] uint64 (SipHash-2-4)."""
        out = np.empty(len(keys), dtype=np.uint64)
        keyed.sip_words(*self.words, np.ascontiguousarray(keys, dtype=np.uint64), out)
        return out

    @property
    def seed(self) -> int:
        """A seed below 2⁶³ for draws of other libraries."""
        return int(self.generator().integers(2**63 - 1))

    def generator(self) -> np.random.Generator:
        """A NumPy generator for draws that belong to no client."""
        return np.random.Generator(np.random.Philox(key=np.frombuffer(self.key, dtype="<u8")))


def client_keys(source: KeyedSource, users: Identifiers) -> np.ndarray:
    """A keyed hash [users] uint64 of every user id with its type; the same at every node."""
    out = np.empty(len(users), dtype=np.uint64)
    if users.is_text:
        buffer = np.frombuffer(bytearray("".join(users.series.to_list()).encode()), dtype=np.uint8)
        offsets = np.zeros(len(users) + 1, dtype=np.int64)
        np.cumsum(users.series.str.len_bytes().to_numpy(), out=offsets[1:])
        keyed.sip_bytes(*source.child("client", "text").words, buffer, offsets, out)
        return out
    return source.child("client", "int64").seeds(users.series.to_numpy().astype(np.int64).view(np.uint64))
