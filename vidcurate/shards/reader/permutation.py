"""A seeded shuffle of any size that is never written down: any part of it is computed alone.

A Feistel network (Luby and Rackoff, 1988) over numbers of two digits, whose bases are near the
square root of the size, so that nearly every result lies within the size; the few that do not are
sent through again ("cycle walking", Black and Rogaway, 2002). Its results depend on no version of
numpy, as those of its random generators would.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from vidcurate.shards.reader.shapes import Rows

_ROUNDS = 8
_SMALL = 1 << 14  # up to here a whole permutation is drawn: a network is not uniform enough
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key_of(*parts: Any) -> int:
    """A key (64 bits) from plain values: strings and numbers."""
    text = json.dumps(parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def hashed(places: Rows, key: int) -> npt.NDArray[np.uint64]:
    """A pseudo-random number of 64 bits for each place (SplitMix64; Steele et al., 2014)."""
    x = np.asarray(places).astype(np.uint64) * _GOLDEN + np.uint64(key)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(31)
    return x


def permute(places: Rows, size: int, key: int) -> Rows:
    """What a shuffle of range(size) has at these places: time and memory as of the places.

    places: int64 (N,), each in range(size). key: see `key_of`; another key, another shuffle.
    """
    if size <= _SMALL:
        everything = np.arange(size, dtype=np.int64)
        return np.argsort(hashed(everything, key), kind="stable").astype(np.int64)[places]
    base = math.isqrt(size - 1) + 1
    bases = (np.uint64(base), np.uint64(-(-size // base)))
    keys = [int(k) for k in hashed(np.arange(_ROUNDS, dtype=np.int64), key)]
    found = _network(np.asarray(places).astype(np.uint64), bases, keys)
    while (outside := np.flatnonzero(found >= size)).size:
        found[outside] = _network(found[outside], bases, keys)
    return found.astype(np.int64)


def _network(
    x: npt.NDArray[np.uint64], bases: tuple[np.uint64, np.uint64], keys: list[int]
) -> npt.NDArray[np.uint64]:
    digits = [x // bases[1], x % bases[1]]
    for number, key in enumerate(keys):
        changed = number % 2
        mixed = hashed(digits[1 - changed].astype(np.int64), key)
        digits[changed] = (digits[changed] + mixed % bases[changed]) % bases[changed]
    return digits[0] * bases[1] + digits[1]
