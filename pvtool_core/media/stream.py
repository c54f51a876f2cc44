"""Write the frames of a clip as PPM images: `python -m pvtool_core.media.stream FILE COUNT`.

The dashboard shows formats with it that not every ffmpeg can read. The frame rate goes to stderr,
in the format of ffmpeg.
"""

import sys
from pathlib import Path

from PIL import Image

from pvtool_core.media.decode import frames_of
from pvtool_core.media.ffmpeg import ClipBroken
from pvtool_core.settings.formats import format_of
from pvtool_core.settings.references import load_named


def animation_rate(path: Path) -> float:
    """Return the mean frames per second of an animated image. Raises ClipBroken."""
    with Image.open(path) as image:
        count, milliseconds = getattr(image, "n_frames", 1), 0
        for number in range(count):
            image.seek(number)
            image.load()
            milliseconds += image.info.get("duration", 0)
    return 1000 * count / milliseconds if milliseconds else 10.0


def write_stream(path: Path, count: int) -> None:
    """Write the rate, then the first `count` frames. Raises ClipBroken."""
    form = format_of(path)
    if form is None or not form.rate_reader:
        raise ClipBroken(path, "its frame rate is unknown")
    rate: float = load_named(form.rate_reader)(path)
    sys.stderr.write(f"Video: {form.name}, {rate:g} fps\n")
    for frame in frames_of(path)[:count]:
        height, width, _ = frame.shape
        sys.stdout.buffer.write(b"P6\n%d %d\n255\n" % (width, height) + frame.tobytes())


if __name__ == "__main__":
    write_stream(Path(sys.argv[1]), int(sys.argv[2]))
