"""Who may ask for what: tokens in a file, of which the file has the hashes only."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from fedrec.documents import MOST_SETTINGS, parse_toml, read_file
from fedrec.errors import InputError

__all__ = ["SCOPES", "Scope", "Token", "Tokens", "hashed", "new_token"]

Scope = Literal["read", "events", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""What a token may allow: lists and reasons, sending events, figures for Prometheus; `admin` is all of these, and
removing users."""


class Token(BaseModel):
    """A token as the file has it.

    Args:
        name: for figures and messages.
        sha256: of the token.
        scopes: what it allows.
        rate: requests per second that it allows; `None` for as many as anybody.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=64)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    rate: PositiveFloat | None = None

    def allows(self, scope: Scope) -> bool:
        """Whether requests of a scope are allowed.

        >>> Token(name="shop", sha256=hashed("x"), scopes=["admin"]).allows("read")
        True
        """
        return scope in self.scopes or "admin" in self.scopes


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    token: tuple[Token, ...]


@dataclass(frozen=True)
class Tokens:
    """The tokens of a server, by their hashes."""

    by_hash: Mapping[str, Token]

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Read a file of tokens.

        Raises:
            InputError: if it is missing or damaged; the message never shows what is in it.
        """
        try:
            tokens = _File.model_validate(parse_toml(read_file(path, MOST_SETTINGS).decode("utf-8"))).token
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; 'fedrec token NAME --to {path}' makes it") from None
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None
        by_hash = {token.sha256: token for token in tokens}
        if len(by_hash) < len(tokens) or len({token.name for token in tokens}) < len(tokens):
            raise InputError(f"{path}: two tokens have the same name or the same hash; remove one of them")
        return cls(by_hash)

    def of(self, authorization: bytes | None, by_browser: bool = False) -> Token | None:
        """The token that a header `Authorization: Bearer …` has; `None` for no token of these.

        Args:
            authorization: the header.
            by_browser: whether `Basic …` is taken too, with the token as the password and any name.
        """
        kind, _, text = (authorization or b"").partition(b" ")
        if kind.lower() == b"basic" and by_browser:
            try:
                text = base64.b64decode(text.strip(), validate=True).partition(b":")[2]
            except ValueError:
                return None
        elif kind.lower() != b"bearer":
            return None
        return self.by_hash.get(hashlib.sha256(text.strip()).hexdigest())


def hashed(token: str) -> str:
    """The hash of a token in a file."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token(name: str, scopes: tuple[Scope, ...], rate: float | None, path: Path) -> str:
    """Make a token, append its hash to a file, and return it; it cannot be read from the file.

    Raises:
        InputError: if the file has a token of this name, or cannot be written.
    """
    text = secrets.token_urlsafe(32)
    try:
        entry = Token(name=name, sha256=hashed(text), scopes=scopes, rate=rate)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"token {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if path.exists() and any(token.name == name for token in Tokens.read(path).by_hash.values()):
        raise InputError(f"{path} has a token called {name!r} already; take another name, or remove that one")
    shown = name.replace("\\", "\\\\").replace('"', '\\"')
    listed = ", ".join(f'"{scope}"' for scope in scopes)
    lines = ["[[token]]", f'name = "{shown}"', f'sha256 = "{entry.sha256}"', f"scopes = [{listed}]"]
    if rate is not None:
        lines.append(f"rate = {rate!r}")
    try:
        path.touch(mode=0o600, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    return text
