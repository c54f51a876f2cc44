"""Bits of a watermark: the beginning of a clip's key, and check bits computed from it.

Check bits distinguish a mark from chance without a list of known clips.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.bool_]

MOST_LIKELY_BY_CHANCE = 1e-6
"""A mark is reported if unmarked frames would match as well with at most this probability."""


@dataclass(frozen=True)
class Code:
    """Number of bits of the id and of its check; `salt` distinguishes the check of each code."""

    salt: str
    id_bits: int
    check_bits: int

    @property
    def bits(self) -> int:
        return self.id_bits + self.check_bits

    def id_of(self, key: str) -> str:
        """Return the id of a key of hex digits: its first bits, as hex digits."""
        value = int(key, 16) >> (4 * len(key) - self.id_bits)
        return f"{value:0{-(-self.id_bits // 4)}x}"

    def encode(self, known_id: str) -> Bits:
        """Return the bits of an id."""
        value = int(known_id, 16)
        digest = hashlib.sha256(f"{self.salt} {known_id}".encode()).digest()
        check = np.unpackbits(np.frombuffer(digest, np.uint8))[: self.check_bits]
        first = [value >> place & 1 for place in reversed(range(self.id_bits))]
        return np.concatenate([np.array(first), check]).astype(bool)

    def _id_in(self, bits: Bits) -> str:
        value = int("".join("1" if bit else "0" for bit in bits[: self.id_bits]), 2)
        return f"{value:0{-(-self.id_bits // 4)}x}"

    def decode(self, candidates: Bits, tries: int) -> "Match":
        """Return the best match of bits (candidates, bits) with their own check bits.

        `tries` is the number of candidates so far, with those of earlier calls.
        """
        found = [self._id_in(bits) for bits in candidates]
        expected = np.stack([self.encode(each) for each in found])
        equal = (candidates == expected)[:, self.id_bits :].sum(axis=1)
        best = int(equal.argmax())
        chance = min(1.0, tries * chance_of(self.check_bits, int(equal[best])))
        return Match(found[best], int(equal[best]), self.check_bits, chance)

    def compare(self, candidates: Bits, ids: Sequence[str], tries: int) -> "Match":
        """Return the best match of bits (candidates, bits) with one of the known ids."""
        signs = candidates.astype(np.float32) * 2 - 1
        equal = (self.bits + signs @ _signs_of(self, tuple(ids)).T) / 2
        best = int(equal.argmax())
        count = round(float(equal.flat[best]))
        chance = min(1.0, tries * len(ids) * chance_of(self.bits, count))
        return Match(ids[best % len(ids)], count, self.bits, chance)


@lru_cache(maxsize=4)
def _signs_of(code: Code, ids: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the bits of ids as signs (ids, bits)."""
    return np.stack([code.encode(each) for each in ids]).astype(np.float32) * 2 - 1


@dataclass(frozen=True)
class Match:
    """An id, the number of matching bits of those compared, and the probability by chance."""

    id: str
    matching: int
    compared: int
    chance: float

    @property
    def is_mark(self) -> bool:
        return self.chance <= MOST_LIKELY_BY_CHANCE


def chance_of(bits: int, matching: int) -> float:
    """Return the probability that at least `matching` of `bits` random bits match (binomial)."""
    return sum(math.comb(bits, count) for count in range(matching, bits + 1)) / 2**bits
