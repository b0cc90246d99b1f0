"""Shares of secrets, keys and seals."""

from __future__ import annotations

import builtins
import secrets
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import DamagedError, InputError
from fedrec.secagg import primitives
from fedrec.secagg.shamir import PRIME, SHARE_BYTES, combine, recover, split

SECRETS = st.binary(min_size=32, max_size=32)


@st.composite
def sharings(draw: st.DrawFn) -> tuple[bytes, int, list[int], list[int]]:
    places = draw(st.lists(st.integers(0, 9_999), min_size=1, max_size=12, unique=True))
    threshold = draw(st.integers(1, len(places)))
    return draw(SECRETS), threshold, places, draw(st.permutations(places))[:threshold]


@given(sharings())
@settings(max_examples=100, deadline=None)
def test_any_threshold_of_shares_gives_the_secret(sharing: tuple[bytes, int, list[int], list[int]]) -> None:
    secret, threshold, places, some = sharing
    shares = split(secret, threshold, places)
    assert {len(share) for share in shares.values()} == {SHARE_BYTES}
    assert combine({place: shares[place] for place in some}) == secret


@given(SECRETS, SECRETS, st.integers(2, 8))
@settings(max_examples=50, deadline=None)
def test_one_share_less_fits_every_secret(secret: bytes, other: bytes, threshold: int) -> None:
    """For t - 1 shares and any secret there is exactly one t-th share that makes it: they exclude nothing."""
    shares = split(secret, threshold, range(threshold))
    known = {place + 1: int.from_bytes(share, "little") for place, share in list(shares.items())[:-1]}
    points = {0: int.from_bytes(other, "little"), **known}
    missing = _lagrange(points, threshold) % PRIME
    forged = {place - 1: value.to_bytes(SHARE_BYTES, "little") for place, value in known.items()}
    assert combine({**forged, threshold - 1: missing.to_bytes(SHARE_BYTES, "little")}) == other


def _lagrange(points: dict[int, int], x: int) -> int:
    """Plain interpolation with one inversion per point: a second implementation."""
    total = 0
    for here, value in points.items():
        for there in points:
            if there != here:
                value = value * (x - there) * pow(here - there, -1, PRIME) % PRIME
        total += value
    return total % PRIME


def test_shares_lie_on_the_polynomial_that_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([7, 5])  # 7x² + 5x + secret
    monkeypatch.setattr(secrets, "randbelow", lambda below: next(drawn) if below == PRIME else -1)
    shares = split((11).to_bytes(32, "little"), 3, [0, 1, 9])
    assert [int.from_bytes(share, "little") for share in shares.values()] == [23, 49, 761]


def test_false_shares_are_found_and_named() -> None:
    secret = secrets.token_bytes(32)
    shares = split(secret, 5, range(9))
    shares[1] = secrets.token_bytes(SHARE_BYTES)
    shares[3] = shares[4]
    found, false = recover(shares, 5, secret.__eq__)
    assert found == secret
    assert false == {1, 3}
    with pytest.raises(DamagedError, match="do not recover the secret"):
        recover({place: shares[place] for place in range(5)}, 5, secret.__eq__)
    with pytest.raises(DamagedError, match="4 shares do not recover"):
        recover({place: shares[place] for place in (0, 2, 4, 5)}, 5, secret.__eq__)


def test_impossible_splits() -> None:
    for secret, threshold, places in ((b"short", 1, [1]), (bytes(32), 3, [1, 2]), (bytes(32), 2, [1, 1, 2])):
        with pytest.raises(ValueError, match="must have 32 bytes"):
            split(secret, threshold, places)


def test_published_key_exchange() -> None:
    """RFC 7748, section 6.1."""
    alice = primitives.ExchangeKey(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4dd6ae17a7dcc9d3ab8e0f2a5b6f2a"))
    bob = primitives.ExchangeKey(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    assert alice.agree(bob.public) == bob.agree(alice.public)
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"


def test_keys_that_give_away_the_outcome_are_refused() -> None:
    with pytest.raises(DamagedError, match="too weak for a key exchange"):
        primitives.ExchangeKey(bytes(range(32))).agree(bytes(32))


def test_seals_open_only_in_their_context() -> None:
    key = bytes(range(32))
    sealed = primitives.seal(key, b"shares", b"from 1 to 2")
    assert len(sealed) == len(b"shares") + primitives.SEAL_BYTES
    assert primitives.unseal(key, sealed, b"from 1 to 2") == b"shares"
    for other_key, text, context in (
        (bytes(32), sealed, b"from 1 to 2"),
        (key, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"from 1 to 2"),
        (key, sealed, b"from 2 to 1"),
        (key, b"", b"from 1 to 2"),
    ):
        with pytest.raises(DamagedError):
            primitives.unseal(other_key, text, context)


def test_labels_and_contexts_give_unlike_keys() -> None:
    made = {
        primitives.derive(bytes(32), purpose, *context)
        for purpose in (b"pair mask", b"self mask", b"channel")
        for context in ((), (b"",), (b"a",), (b"b",), (b"a", b"b"), (b"ab",))
    }
    assert len(made) == 18


def test_no_signature_of_nonsense() -> None:
    assert not primitives.verify(bytes(31), bytes(64), b"text")
    assert not primitives.verify(bytes([255]) * 32, bytes(64), b"text")
    assert not primitives.verify(primitives.Identity().public, b"", b"text")


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return plain(name, *rest, **more)

    primitives.library.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"fedrec\[secure\]"):
        primitives.Identity()
