"""Named Ed25519 keys that sign records, in the format of C2SP signed notes.

A public key is text, `name+hash+base64`: the hash is 4 bytes over name and key, the base64 contains the kind of
signature (1: log operator, 4: witness) and the 32 bytes of the key. A key file holds the 32 secret bytes in hexadecimal
and is readable by its owner only. Signing needs `cryptography`, which is loaded when it is first used.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fedrec.documents import read_file
from fedrec.errors import DamagedError, InputError

__all__ = ["COSIGNATURE", "LOG", "PublicKey", "SigningKey"]

LOG = 1
"""Kind of the signatures of a log's operator."""
COSIGNATURE = 4
"""Kind of the signatures of a witness, who has seen the log; they contain the time."""
_KEY_BYTES = 32
_MOST_BYTES = 1024


@dataclass(frozen=True)
class PublicKey:
    """A public key, which checks signatures.

    Args:
        name: name of its owner; no spaces, no plus sign.
        key: 32 bytes.
        kind: `LOG` or `COSIGNATURE`.

    Example:
        >>> text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
        >>> key = PublicKey.parse(text)
        >>> key.name, key.kind, str(key) == text
        ('PeterNeumann', 1, True)
    """

    name: str
    key: bytes
    kind: int = LOG

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.key) != _KEY_BYTES or self.kind not in (LOG, COSIGNATURE):
            raise InputError(
                f"public key of {self.name!r}: not an Ed25519 key of {_KEY_BYTES} bytes, or of an unknown kind"
            )

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read `name+hash+base64`.

        Raises:
            InputError: if the text is not a public key, or its hash is wrong.
        """
        parts = text.strip().split("+", 2)
        data = from_base64(parts[2]) if len(parts) == 3 else None
        if not data:
            raise InputError(f"{text.strip()[:80]!r} is not a public key, which looks like name+hash+base64")
        key = cls(parts[0], data[1:], data[0])
        if key.hash.hex() != parts[1]:
            raise InputError(
                f"public key of {key.name!r}: the hash must be {key.hash.hex()}, not {parts[1]!r}; copy the key again"
            )
        return key

    @property
    def hash(self) -> bytes:
        """The 4 bytes with which signatures name the key."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.key).digest()[:4]

    @property
    def id(self) -> str:
        """`name+hash`, with which signatures name the key."""
        return f"{self.name}+{self.hash.hex()}"

    def check(self, message: bytes, signature: bytes) -> None:
        """Check a signature of 64 bytes.

        Raises:
            DamagedError: if it is not this key's signature of `message`.
        """
        invalid, ed25519 = _library()
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(self.key).verify(signature, message)
        except (invalid, ValueError):
            raise DamagedError(f"the signature of {self.name} is wrong for this text") from None

    def __str__(self) -> str:
        return f"{self.id}+{base64.b64encode(bytes([self.kind]) + self.key).decode()}"


@dataclass(frozen=True)
class SigningKey:
    """A secret key, which signs.

    Args:
        name: name of its owner; no spaces, no plus sign.
        secret: 32 bytes, the seed of RFC 8032.
    """

    name: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.secret) != _KEY_BYTES:
            raise InputError(
                f"signing key of {self.name!r}: the secret must have {_KEY_BYTES} bytes, not {len(self.secret)}"
            )

    @classmethod
    def make(cls, name: str, path: Path) -> SigningKey:
        """Make a key from the system's random generator and save it in a new file that only its owner may read.

        Raises:
            InputError: if the file exists, or cannot be created.
        """
        key = cls(name, secrets.token_bytes(_KEY_BYTES))
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise InputError(f"{path} exists already and is not overwritten; choose another file") from None
        except OSError as error:
            raise InputError(f"{path} cannot be created ({error.strerror}); choose another file") from None
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(key.secret.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        return key

    @classmethod
    def load(cls, name: str, path: Path) -> SigningKey:
        """Read the key in a file.

        Raises:
            InputError: if there is no such file, it is not a key, or other users may read it.
        """
        try:
            data, mode = read_file(path, _MOST_BYTES), path.stat().st_mode
        except OSError as error:
            raise InputError(f"key {path} cannot be read ({error.strerror}); --new-key makes a key") from None
        except ValueError as error:
            raise InputError(f"key {path} cannot be read: it is {error}") from None
        if mode & 0o077:
            raise InputError(f"other users may read key {path} (mode {mode & 0o777:o}); run 'chmod 600 {path}'")
        try:
            secret = bytes.fromhex(data.decode("ascii"))
        except ValueError:
            secret = b""
        if len(secret) != _KEY_BYTES:
            raise InputError(f"{path} is not a key file, which has {2 * _KEY_BYTES} hexadecimal digits")
        return cls(name, secret)

    def public(self, kind: int = LOG) -> PublicKey:
        """The public key, with which others check signatures."""
        return PublicKey(self.name, self._key.public_key().public_bytes_raw(), kind)

    def sign(self, message: bytes) -> bytes:
        """A signature of 64 bytes, which depends on key and message only."""
        signature: bytes = self._key.sign(message)
        return signature

    @cached_property
    def _key(self) -> Any:
        _, ed25519 = _library()
        return ed25519.Ed25519PrivateKey.from_private_bytes(self.secret)


def check_name(name: str) -> None:
    """Check the name of a key.

    Raises:
        InputError: if the name is empty, or has spaces, a plus sign or unprintable characters.
    """
    if not name or "+" in name or any(letter.isspace() or not letter.isprintable() for letter in name):
        raise InputError(f"the name of a key must be printable, without spaces and plus signs, not {name!r}")


def from_base64(text: str) -> bytes | None:
    """The bytes of a base64 text; `None` if the text is not canonical base64."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return data if base64.b64encode(data).decode() == text else None


def _library() -> tuple[type[Exception], Any]:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise InputError("signatures need cryptography; pip install 'fedrec[privacy]'") from None
    return InvalidSignature, ed25519
