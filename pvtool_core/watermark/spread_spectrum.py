"""A watermark without weights: one pattern per bit in the mean luma of a clip.

Spread spectrum with informed embedding (Malvar and Florêncio, "Improved spread spectrum", 2003):
each bit is the sign of the projection of the clip onto a pattern of middle frequencies, and only
as much of a pattern is added as that sign needs. The patterns are stretched to the frame, so
resizing keeps them, and equal in all frames, so a video codec keeps them, too. A cropped clip is
read by trying offsets and sizes.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft

from pvtool_core.media.decode import Pixels
from pvtool_core.watermark.payload import Bits, Code

Plane = NDArray[np.float32]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601, as most codecs
_PASSES = 3
_KEPT = 0.85  # of the lowest frequency of patterns, in crops
_ENOUGH = 0.8  # of the margin, after rounding to 8 bits


@dataclass(frozen=True)
class Layout:
    """Patterns on a square of `side` pixels, with DCT frequencies from `low` to `high`.

    `margin` is the least projection after marking, `most_cut` the most that is cut from a side of
    the square, in its pixels.
    """

    code: Code
    side: int
    low: int
    high: int
    margin: float
    most_cut: int

    @cached_property
    def _places(self) -> NDArray[np.intp]:
        """Indices of the frequencies in the flat square."""
        steps = np.arange(self.side)
        radius = np.hypot(steps[:, None], steps[None, :])
        inside = (radius >= self.low) & (radius <= self.high)
        return np.flatnonzero(inside & (steps[:, None] > 0) & (steps[None, :] > 0))

    @cached_property
    def _patterns(self) -> Plane:
        """Orthonormal patterns (bits, frequencies); their signs are a hash, the same for ever."""
        count = self.code.bits * len(self._places)
        stream = hashlib.shake_256(self.code.salt.encode()).digest(-(-count // 8))
        signs = np.unpackbits(np.frombuffer(stream, np.uint8))[:count] * 2.0 - 1
        signs = signs.reshape(self.code.bits, -1)
        return np.linalg.solve(np.linalg.cholesky(signs @ signs.T), signs).astype(np.float32)

    @cached_property
    def _spectra(self) -> NDArray[np.complex64]:
        """Conjugate Fourier transforms of the patterns in pixels, to search for crops."""
        planes = np.stack([self._plane(pattern) for pattern in self._patterns])
        return np.asarray(fft.rfft2(planes)).conj()

    def _plane(self, frequencies: Plane) -> Plane:
        square = np.zeros(self.side**2, np.float32)
        square[self._places] = frequencies
        cosines = _cosines(self.side)
        return _f32(cosines.T @ square.reshape(self.side, self.side) @ cosines)

    def project(self, luma: Plane) -> Plane:
        """Return the projection of a plane of any size onto the pattern of each bit."""
        cosines = _cosines(self.side)
        square = cosines @ _fit(luma, self.side, self.side) @ cosines.T
        return _f32(self._patterns @ square.ravel()[self._places])

    def pattern(self, change: Plane, height: int, width: int) -> Plane:
        """Return a plane that changes the projections by `change`."""
        return _fit(self._plane(change @ self._patterns), height, width)

    def project_crops(self, luma: Plane) -> Iterator[Plane]:
        """Yield the projections (offsets, bits) as if the plane were cropped, for each size."""
        for cut in range(1, self.most_cut + 1):
            size = self.side - cut
            part = _without_low(_fit(luma, size, size), _KEPT * self.low)
            square = np.zeros((self.side, self.side), np.float32)
            square[:size, :size] = part
            # Projection for an offset (y, x) of the crop: the correlation at minus that offset.
            product = np.conj(np.asarray(fft.rfft2(square)) * self._spectra)
            found = np.asarray(fft.irfft2(product, s=square.shape))[:, : cut + 1, : cut + 1]
            yield found.reshape(self.code.bits, -1).T.astype(np.float32)


SMALL = Layout(Code("pv spread small 1", 12, 28), 64, 6, 26, 28.0, 7)
LARGE = Layout(Code("pv spread large 1", 24, 40), 128, 12, 56, 28.0, 14)
_LARGE_FROM = 128
"""Shorter side in pixels from which frames have the large layout."""


def _layout_of(frames: Pixels) -> Layout:
    return LARGE if min(frames.shape[1:3]) >= _LARGE_FROM else SMALL


def code_for(frames: Pixels) -> Code:
    """Return the code of the bits that frames of this size can have."""
    return _layout_of(frames).code


def mark(frames: Pixels, bits: Bits) -> Pixels:
    """Return the frames with the bits of the code for their size."""
    layout = _layout_of(frames)
    signs = np.where(bits, np.float32(1), np.float32(-1))
    height, width = frames.shape[1:3]
    pattern = np.zeros((height, width), np.float32)
    marked = frames
    for _ in range(_PASSES):
        strength = layout.project(_mean_luma(marked)) * signs
        if strength.min() >= _ENOUGH * layout.margin:
            break
        missing = np.maximum(layout.margin - strength, 0) * signs
        pattern += layout.pattern(missing, height, width)
        marked = np.clip(np.rint(frames + pattern[None, ..., None]), 0, 255).astype(np.uint8)
    return marked


def candidates(frames: Pixels) -> Iterator[tuple[Code, Bits]]:
    """Yield the bits that the frames may have, (candidates, bits), with their code.

    First those of the whole frame, then those of crops.
    """
    luma = _mean_luma(frames)
    for layout in (LARGE, SMALL):
        yield layout.code, layout.project(luma)[None] > 0
    for layout in (LARGE, SMALL):
        for found in layout.project_crops(luma):
            yield layout.code, found > 0


def _f32(plane: NDArray[Any]) -> Plane:
    return plane.astype(np.float32)


@cache
def _cosines(side: int) -> Plane:
    """Return the matrix of the orthonormal discrete cosine transform (DCT-II)."""
    steps = np.arange(side)
    matrix = np.cos(np.pi / side * (steps[None, :] + 0.5) * steps[:, None])
    matrix *= np.where(steps == 0, np.sqrt(1 / side), np.sqrt(2 / side))[:, None]
    return matrix.astype(np.float32)


def _without_low(plane: Plane, low: float) -> Plane:
    """Return a square plane without its low frequencies, whose edges would look like patterns."""
    cosines = _cosines(len(plane))
    steps = np.arange(len(plane))
    kept = np.hypot(steps[:, None], steps[None, :]) >= low
    return _f32(cosines.T @ ((cosines @ plane @ cosines.T) * kept) @ cosines)


def _mean_luma(frames: Pixels) -> Plane:
    return _f32(frames.mean(axis=0, dtype=np.float32) @ _LUMA)


def _fit(plane: Plane, height: int, width: int) -> Plane:
    size = (width, height)
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS))
