"""The table of watermark methods; mark the frames of a clip, and read marks."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pvtool_core.media.decode import Pixels
from pvtool_core.settings.jobs import WATERMARKS
from pvtool_core.store.clip_watermark import ClipWatermark
from pvtool_core.watermark import spread_spectrum
from pvtool_core.watermark.payload import Bits, Code, Match

_LARGEST_PSNR = 99.0


@dataclass(frozen=True)
class Method:
    """A watermark: the code of its bits for given frames, and how to write and read them.

    `candidates` yields arrays of bits (candidates, bits) that marked frames may have, with their
    code, the likeliest first.
    """

    code_for: Callable[[Pixels], Code]
    mark: Callable[[Pixels, Bits], Pixels]
    candidates: Callable[[Pixels], Iterator[tuple[Code, Bits]]]


METHODS: dict[str, Method] = {
    "spread": Method(spread_spectrum.code_for, spread_spectrum.mark, spread_spectrum.candidates)
}
assert set(METHODS) == set(WATERMARKS), "settings and methods name the same watermarks"


def mark(frames: Pixels, method: str, key: str) -> tuple[Pixels, ClipWatermark]:
    """Mark frames with the beginning of a key of hex digits, as many bits as the method has."""
    began = time.monotonic()
    chosen = METHODS[method]
    code = chosen.code_for(frames)
    known_id = code.id_of(key)
    marked = chosen.mark(frames, code.encode(known_id))
    seconds = round(time.monotonic() - began, 3)
    quality = round(psnr(frames, marked), 2)
    return marked, ClipWatermark(method=method, id=known_id, psnr=quality, seconds=seconds)


@dataclass(frozen=True)
class Reading:
    """The best match of frames with a watermark: the method and code of its bits."""

    method: str
    code: Code
    match: Match

    def record(self) -> dict[str, Any]:
        """Return the mark as a JSON object; `chance` is the probability of a false positive."""
        return {"method": self.method, **asdict(self.match)}


def read(frames: Pixels, keys: Sequence[str] = (), crops: bool = True) -> Reading | None:
    """Return the mark of frames, or None if chance explains the best match.

    Bits are compared with their check bits, then with the ids of the known `keys`, which tolerates
    more errors. Without `crops` only whole frames are searched.
    """
    for name, method in METHODS.items():
        tries: dict[Code, int] = {}
        ids: dict[Code, list[str]] = {}
        for code, bits in method.candidates(frames):
            if code in tries and not crops:
                break
            tries[code] = tries.get(code, 0) + len(bits)
            count = sum(tries.values())
            found = code.decode(bits, count)
            if not found.is_mark and keys:
                ids[code] = ids.get(code) or sorted({code.id_of(key) for key in keys})
                found = code.compare(bits, ids[code], count)
            if found.is_mark:
                return Reading(name, code, found)
    return None


def psnr(before: Pixels, after: Pixels) -> float:
    """Return the peak signal-to-noise ratio of all frames in dB."""
    pairs = zip(before, after, strict=True)
    error = float(np.mean([np.square(one.astype(np.float32) - two).mean() for one, two in pairs]))
    return min(_LARGEST_PSNR, 10 * float(np.log10(255**2 / max(error, 1e-9))))
