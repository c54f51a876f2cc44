"""What watermarks survive, what they cost, and false positives: the tables of docs/misuse.md.

    python -m tests.benchmarks.watermark [--clips 12] [--unmarked 1000] [--tiny FOLDER]

Clips are synthetic scenes of 512×512, 256×256 and 64×64 pixels, and, with --tiny, mp4 files of the
tiny preset (64×64) in a folder. `bits` is the mean share of right bits of the whole frame, with the
crop's place found for crops; `read` is the share of clips whose id is read without a list of known
clips, `known` with a list of --known ids. Unmarked clips are read with that list, too: each mark
found in them is a false positive.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from pvtool.tables import Table
from pvtool_core.media.decode import Pixels, sample_of
from pvtool_core.watermark.payload import MOST_LIKELY_BY_CHANCE, chance_of
from pvtool_core.watermark.watermark_methods import METHODS, mark, read
from tests.support.watermark_attacks import ATTACKS, scene

SIDES = (512, 256, 64)


def keys(count: int) -> list[str]:
    """Return keys of clips, drawn from a fixed seed."""
    draw = np.random.default_rng(7)
    return [draw.bytes(16).hex() for _ in range(count)]


def right_bits(method: str, frames: Pixels, key: str) -> float:
    """Return the share of right bits of the likeliest candidate."""
    chosen = METHODS[method]
    best = 0.0
    for code, bits in chosen.candidates(frames):
        wanted = code.encode(code.id_of(key))
        best = max(best, float((bits == wanted).mean(axis=1).max()))
        if best == 1:
            break
    return best


def survival(method: str, clips: Sequence[Pixels], known: Sequence[str], title: str) -> None:
    """Print a table: a row for each attack."""
    own = keys(len(clips))
    made = [mark(frames, method, key) for frames, key in zip(clips, own, strict=True)]
    quality = [watermark.psnr for _, watermark in made]
    seconds = fmean(watermark.seconds for _, watermark in made)
    print(
        f"\n{title}, {method}: {len(clips)} clips, PSNR {fmean(quality):.1f} dB "
        f"(least {min(quality):.1f}), {seconds:.2f} s to mark a clip of {len(clips[0])} frames"
    )
    rows: list[list[str]] = []
    for name, attack in ATTACKS.items():
        bits: list[float] = []
        alone: list[bool] = []
        listed: list[bool] = []
        for (frames, watermark), key in zip(made, own, strict=True):
            changed = attack(frames)
            first, second = read(changed), read(changed, [*known, key])
            bits.append(right_bits(method, changed, key))
            alone.append(first is not None and first.match.id == watermark.id)
            listed.append(second is not None and second.match.id == watermark.id)
        shares = [f"{fmean(share):.0%}" for share in (alone, listed)]
        rows.append([name, f"{fmean(bits):.1%}", *shares])
    print(Table(["attack", "bits", "read", "known"], rows), flush=True)


def false_positives(clips: Iterator[Pixels], known: Sequence[str]) -> None:
    """Print how many unmarked clips have a mark, and the seconds to read one."""
    total = found = 0
    began = time.process_time()
    for frames in clips:
        total += 1
        found += read(frames, known) is not None
        if total % 100 == 0:
            print(f"{found} false positives in {total} unmarked clips", file=sys.stderr, flush=True)
    seconds = (time.process_time() - began) / max(1, total)
    print(
        f"\nUnmarked: {found} false positives in {total} clips, compared with {len(known)} known "
        f"ids; {seconds:.2f} CPU seconds a clip. A mark is reported if chance explains it with a "
        f"probability of at most {MOST_LIKELY_BY_CHANCE:g}."
    )


def probabilities() -> None:
    """Print the probability that random bits match, for one try."""
    rows = [
        [str(bits), str(matching), f"{chance_of(bits, matching):.1e}"]
        for bits, least in ((28, 26), (40, 36), (64, 56))
        for matching in range(least, bits + 1, 2)
    ]
    print(Table(["bits compared", "matching", "by chance, per try"], rows))


def unmarked(side: int, count: int, tiny: Sequence[Path]) -> Iterator[Pixels]:
    """Yield unmarked clips: the tiny ones, then scenes."""
    yield from (sample_of(path) for path in itertools.islice(tiny, count))
    for seed in range(max(0, count - len(tiny))):
        yield scene(10_000 + seed, side, 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--unmarked", type=int, default=1000)
    parser.add_argument("--known", type=int, default=200)
    parser.add_argument("--tiny", type=Path)
    words = parser.parse_args()
    tiny = sorted(words.tiny.rglob("*.mp4")) if words.tiny else []
    known = keys(10_000)[-words.known :]
    sources: dict[str, Callable[[int], Pixels]] = {
        f"{side}×{side}": lambda seed, side=side: scene(seed, side) for side in SIDES
    }
    if tiny:
        sources["tiny preset, 64×64"] = lambda seed: sample_of(tiny[seed])
    for method in METHODS:
        for title, source in sources.items():
            count = min(words.clips, len(tiny)) if title.startswith("tiny") else words.clips
            survival(method, [source(seed) for seed in range(count)], known, title)
    probabilities()
    false_positives(unmarked(96, words.unmarked, tiny), known)


if __name__ == "__main__":
    main()
