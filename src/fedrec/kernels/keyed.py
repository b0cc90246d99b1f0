"""Keyed hashing (SipHash-2-4, Aumasson & Bernstein 2012) and small random streams (SplitMix64, Steele et al. 2014).

`sip_word`, `next_word`, `below` and `normal` are inlined into other kernels.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from fedrec.kernels.threads import kernel

__all__ = ["below", "mix", "next_word", "normal", "normal_rows", "sip_bytes", "sip_word", "sip_words"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_A = np.uint64(0x736F6D6570736575)
_B = np.uint64(0x646F72616E646F6D)
_C = np.uint64(0x6C7967656E657261)
_D = np.uint64(0x7465646279746573)
_FF = np.uint64(0xFF)
_13, _32, _16, _21, _17 = np.uint64(13), np.uint64(32), np.uint64(16), np.uint64(21), np.uint64(17)
_51, _48, _43, _47 = np.uint64(51), np.uint64(48), np.uint64(43), np.uint64(47)


@numba.njit(inline="always")
def _round(v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    v0 += v1
    v1 = ((v1 << _13) | (v1 >> _51)) ^ v0
    v0 = (v0 << _32) | (v0 >> _32)
    v2 += v3
    v3 = ((v3 << _16) | (v3 >> _48)) ^ v2
    v0 += v3
    v3 = ((v3 << _21) | (v3 >> _43)) ^ v0
    v2 += v1
    v1 = ((v1 << _17) | (v1 >> _47)) ^ v2
    v2 = (v2 << _32) | (v2 >> _32)
    return v0, v1, v2, v3


@kernel("uint64(uint64, uint64, uint64)")
def sip_word(k0, k1, word):  # type: ignore[no-untyped-def]
    """SipHash-2-4 of the eight little-endian bytes of `word` under the key (k0, k1)."""
    v0, v1, v2, v3 = k0 ^ _A, k1 ^ _B, k0 ^ _C, k1 ^ _D
    v3 ^= word
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    v0 ^= word
    last = np.uint64(8) << np.uint64(56)
    v3 ^= last
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    v0 ^= last
    v2 ^= _FF
    for _ in range(4):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


@kernel("void(uint64, uint64, uint64[::1], uint64[::1])")
def sip_words(k0, k1, words, out):  # type: ignore[no-untyped-def]
    """Hash every word [n] into `out` [n]."""
    for index in range(len(words)):
        out[index] = sip_word(k0, k1, words[index])


@kernel("void(uint64, uint64, uint8[::1], int64[::1], uint64[::1])")
def sip_bytes(k0, k1, buffer, offsets, out):  # type: ignore[no-untyped-def]
    """Hash every byte string `buffer[offsets[i]:offsets[i + 1]]` into `out` [n]."""
    for index in range(len(out)):
        start, stop = offsets[index], offsets[index + 1]
        length = stop - start
        v0, v1, v2, v3 = k0 ^ _A, k1 ^ _B, k0 ^ _C, k1 ^ _D
        place = start
        while place + 8 <= stop:
            word = np.uint64(0)
            for byte in range(8):
                word |= np.uint64(buffer[place + byte]) << np.uint64(8 * byte)
            v3 ^= word
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
            v0 ^= word
            place += 8
        last = (np.uint64(length) & _FF) << np.uint64(56)
        for byte in range(stop - place):
            last |= np.uint64(buffer[place + byte]) << np.uint64(8 * byte)
        v3 ^= last
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0 ^= last
        v2 ^= _FF
        for _ in range(4):
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        out[index] = v0 ^ v1 ^ v2 ^ v3


@kernel("uint64(uint64)", inline=True)
def mix(state):  # type: ignore[no-untyped-def]
    """The SplitMix64 finaliser."""
    z = state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@numba.njit(inline="always")
def next_word(state):  # type: ignore[no-untyped-def]
    """Advance a stream: returns (new state, 64 random bits)."""
    state = state + GOLDEN
    return state, mix(state)


@numba.njit(inline="always")
def below(word, limit):  # type: ignore[no-untyped-def]
    """Turn 64 random bits into an integer in [0, limit), limit < 2^31; bias below 2^-32."""
    return np.int64(((word >> np.uint64(32)) * np.uint64(limit)) >> np.uint64(32))


@numba.njit(inline="always")
def normal(first, second):  # type: ignore[no-untyped-def]
    """A standard normal draw from two words of random bits (Box-Muller)."""
    u = (np.float64(first >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)
    v = np.float64(second >> np.uint64(11)) * (1.0 / 9007199254740992.0)
    return math.sqrt(-2.0 * math.log(u)) * math.cos(2.0 * math.pi * v)


@kernel("void(uint64[::1], float64, float32[:, ::1])")
def normal_rows(seeds, sd, out):  # type: ignore[no-untyped-def]
    """Fill row c of `out` [n, d] with normal draws of standard deviation `sd` from the stream of `seeds[c]`."""
    for row in range(out.shape[0]):
        state = seeds[row]
        for column in range(out.shape[1]):
            state, first = next_word(state)
            state, second = next_word(state)
            out[row, column] = np.float32(sd * normal(first, second))
