"""The cryptography in use: Ed25519, X25519, HKDF-SHA256 and ChaCha20-Poly1305, each with a label of its own.

It comes from the package `cryptography`, which is imported when the first key is made or read.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from types import SimpleNamespace
from typing import Any

from fedrec.errors import DamagedError, InputError

__all__ = ["KEY_BYTES", "SEAL_BYTES", "SIGNATURE_BYTES", "ExchangeKey", "Identity", "commitment", "derive", "digest"]

KEY_BYTES = 32
SIGNATURE_BYTES = 64
SEAL_BYTES = 16
_PROTOCOL = b"fedrec-secagg/v1|"


@functools.cache
def library() -> Any:
    """The parts of the package `cryptography` that are used.

    Raises:
        InputError: if the package is not installed.
    """
    try:
        from cryptography.exceptions import InvalidSignature, InvalidTag
        from cryptography.hazmat.primitives import ciphers, hashes
        from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError:
        raise InputError("secure aggregation needs the package cryptography; pip install 'fedrec[secure]'") from None
    return SimpleNamespace(
        InvalidSignature=InvalidSignature,
        InvalidTag=InvalidTag,
        ciphers=ciphers,
        hashes=hashes,
        ed25519=ed25519,
        x25519=x25519,
        seal=ChaCha20Poly1305,
        HKDF=HKDF,
    )


class Identity:
    """A long-term Ed25519 key pair, with which a party or the coordinator signs its messages.

    >>> one = Identity(bytes(32))
    >>> verify(one.public, one.sign(b"text"), b"text"), verify(one.public, one.sign(b"text"), b"other")
    (True, False)
    >>> one
    Identity(fingerprint='3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29')
    """

    __slots__ = ("_key", "public")

    def __init__(self, secret: bytes | None = None) -> None:
        """Make a new key pair, or the key pair of 32 secret bytes."""
        kind = library().ed25519.Ed25519PrivateKey
        self._key = kind.generate() if secret is None else kind.from_private_bytes(secret)
        self.public: bytes = self._key.public_key().public_bytes_raw()

    def sign(self, *parts: bytes) -> bytes:
        """Sign the parts as one text."""
        signature: bytes = self._key.sign(b"".join(parts))
        return signature

    @property
    def fingerprint(self) -> str:
        """The public key in hexadecimal, which owners compare in person or by telephone."""
        return self.public.hex()

    def __repr__(self) -> str:
        return f"Identity(fingerprint={self.fingerprint!r})"


def verify(public: bytes, signature: bytes, *parts: bytes) -> bool:
    """Whether the signature matches the text and the key; `False` for malformed keys."""
    try:
        library().ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, b"".join(parts))
    except (library().InvalidSignature, ValueError):
        return False
    return True


class ExchangeKey:
    """An X25519 key pair of one sum, whose secret of 32 bytes can be split into shares and recovered."""

    __slots__ = ("_key", "public")

    def __init__(self, secret: bytes) -> None:
        self._key = library().x25519.X25519PrivateKey.from_private_bytes(secret)
        self.public: bytes = self._key.public_key().public_bytes_raw()

    def agree(self, other: bytes) -> bytes:
        """The secret that both parties compute.

        Raises:
            DamagedError: if the other key is one of the weak keys that make the secret predictable.
        """
        try:
            shared: bytes = self._key.exchange(library().x25519.X25519PublicKey.from_public_bytes(other))
        except ValueError:
            raise DamagedError("the public key of a party is too weak for a key exchange") from None
        return shared

    def __repr__(self) -> str:
        return "ExchangeKey(…)"


def fresh_secret() -> bytes:
    """32 random bytes from the operating system."""
    return secrets.token_bytes(KEY_BYTES)


def derive(secret: bytes, purpose: bytes, *context: bytes) -> bytes:
    """A key of 32 bytes for one purpose: HKDF-SHA256 with the purpose and the context in its info.

    >>> derive(bytes(32), b"a", b"bc") == derive(bytes(32), b"a", b"b", b"c")
    False
    """
    tools = library()
    info = _PROTOCOL + _framed(purpose, *context)
    key: bytes = tools.HKDF(algorithm=tools.hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)
    return key


def digest(purpose: bytes, *parts: bytes) -> bytes:
    """SHA-256 of the parts with their lengths, under a label."""
    return hashlib.sha256(_PROTOCOL + _framed(purpose, *parts)).digest()


def commitment(secret: bytes, context: bytes, index: int) -> bytes:
    """The commitment of a party to the seed of its own mask; it reveals nothing about 32 random bytes."""
    return digest(b"commitment", context, index.to_bytes(4, "little"), secret)


def seal(key: bytes, text: bytes, context: bytes) -> bytes:
    """Encrypt and authenticate. A key seals one text only, so the nonce is zero."""
    sealed: bytes = library().seal(key).encrypt(bytes(12), text, context)
    return sealed


def unseal(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """Decrypt a text of `seal`.

    Raises:
        DamagedError: if the text was changed, or has another key or context.
    """
    try:
        text: bytes = library().seal(key).decrypt(bytes(12), sealed, context)
    except library().InvalidTag:
        raise DamagedError("a sealed share was changed, or is for another party") from None
    return text


def _framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)
