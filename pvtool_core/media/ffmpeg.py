"""Run ffmpeg, and report its errors and codecs."""

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pvtool_core.errors import NO_ROOM, NotReady, PvError, UsageError
from pvtool_core.settings.formats import FORMATS
from pvtool_core.settings.jobs import EncodingConfig

_PATIENCE = 60.0  # seconds to wait for an answer
# Files of these kinds contain their frames themselves; playlists name other files or addresses.
CONTAINERS = ("-format_whitelist", "mov,matroska,webm,avi,mpeg,mpegts,ogg,asf,flv,ivf,y4m,h264")
ENCODERS = {"h264": "libx264", "h265": "libx265", "av1": "libsvtav1"}


class ClipBroken(PvError):
    """A corrupt or incomplete clip."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path.name} is corrupt or incomplete: {problem}.", "Render it again.")
        self.problem = problem


class CodecMissing(UsageError):
    """A codec that this machine's ffmpeg cannot write."""

    def __init__(self, codec: str) -> None:
        needed = f" that has {ENCODERS[codec]}" if codec in ENCODERS else ""
        hint = f"Choose another codec or format, or set IMAGEIO_FFMPEG_EXE to an ffmpeg{needed}."
        super().__init__(f"This machine's ffmpeg cannot write {codec}.", hint)


@dataclass(frozen=True)
class Answer:
    """Output and messages of ffmpeg."""

    output: bytes
    messages: str


def ask(path: Path, *words: str, stdin: bytes = b"") -> Answer:
    """Run ffmpeg for `path`. Raises ClipBroken, CodecMissing, or OSError on a full disk."""
    quiet = {**os.environ, "SVT_LOG": "1"}  # SVT-AV1 ignores ffmpeg's -v
    command = [executable(), "-hide_banner", "-v", "error", *words]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, env=quiet)
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise FfmpegMissing(command[0]) from error
    messages = done.stderr.decode(errors="replace")
    if done.returncode:
        raise _error_of(path, messages)
    return Answer(done.stdout, messages)


def _error_of(path: Path, messages: str) -> Exception:
    last = (messages.strip().splitlines() or ["ffmpeg gave no reason"])[-1]
    if full := next((number for number in NO_ROOM if os.strerror(number) in messages), None):
        return OSError(full, last, str(path))
    if unknown := re.search(r"Unknown encoder '(\w+)'", messages):
        return CodecMissing(
            next((codec for codec, name in ENCODERS.items() if name == unknown[1]), unknown[1])
        )
    return ClipBroken(path, last.rstrip("."))


class FfmpegMissing(NotReady):
    """No working ffmpeg was found."""

    def __init__(self, path: str) -> None:
        where = f"ffmpeg ({path} cannot be run)" if path else "ffmpeg"
        super().__init__(
            [where], "Install imageio-ffmpeg again, or set IMAGEIO_FFMPEG_EXE to a working ffmpeg."
        )


def require_formats(encoding: EncodingConfig) -> None:
    """Check that clips can be written with `encoding`. Raises FfmpegMissing or CodecMissing."""
    needed = [FORMATS[name].encoder.format(codec=encoding.codec) for name in encoding.formats]
    for codec in filter(None, needed):
        if ENCODERS.get(codec, codec) not in _encoders(executable()):
            raise CodecMissing(codec)


@cache
def codecs() -> frozenset[str]:
    """Return the available codecs for mp4 files. Raises FfmpegMissing."""
    there = _encoders(executable())
    return frozenset(codec for codec, encoder in ENCODERS.items() if encoder in there)


@cache
def _encoders(program: str) -> frozenset[str]:
    """Return the encoders of an ffmpeg. Raises FfmpegMissing, also if it lists none."""
    words = [program, "-hide_banner", "-encoders"]
    try:
        listed = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=_PATIENCE
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise FfmpegMissing(program) from error
    lines = re.findall(r"^ [A-Z.]{6} (\S+)", listed.stdout.decode(errors="replace"), re.MULTILINE)
    if not lines:
        raise FfmpegMissing(program)
    return frozenset(lines)


@cache
def executable() -> str:
    """Return the path of ffmpeg: IMAGEIO_FFMPEG_EXE, or the one of imageio-ffmpeg."""
    from imageio_ffmpeg import get_ffmpeg_exe

    try:
        return get_ffmpeg_exe()
    except RuntimeError as error:
        raise FfmpegMissing("") from error
