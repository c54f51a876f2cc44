"""Clip files: frames and metadata can be read back, or no file is written."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image, ImageSequence

from pvtool_core.backbones.interface import to_pixels
from pvtool_core.errors import ExitStatus, UsageError
from pvtool_core.files import publish, working_folder
from pvtool_core.media import ffmpeg
from pvtool_core.media.decode import Pixels, enlarge, frames_of
from pvtool_core.media.encode import write_clip
from pvtool_core.media.ffmpeg import ClipBroken, CodecMissing, FfmpegMissing
from pvtool_core.media.metadata import AI_MADE, read_facts
from pvtool_core.settings.jobs import EncodingConfig

FACTS = {
    "prompt": "<V> man; 'runs' = \"fast\" #1 \\ 速い\nnext line",
    "seed": 3,
    "nested": {"a": [1, 2.5, None]},
}
FORMATS = ("mp4", "gif", "webp", "png")
TESTSRC = ("-f", "lavfi", "-i", "testsrc=size=64x64:duration=0.5:rate=8")


def moving_square(frames: int = 8, height: int = 48, width: int = 72) -> Pixels:
    clip = np.full((frames, height, width, 3), (40, 90, 160), np.uint8)
    for number in range(frames):
        clip[number, 12:28, 4 + 5 * number : 20 + 5 * number] = (220, 60, 30)
    return clip


def encoding(*formats: str, codec: str = "h264", loop: int = 0, upscale: int = 1) -> EncodingConfig:
    return EncodingConfig(formats=formats, codec=codec, loop=loop, upscale=upscale)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def facts_of(path: Path) -> str:
    return subprocess.run(
        [get_ffmpeg_exe(), "-i", str(path)], capture_output=True, text=True, check=False
    ).stderr


def shown_for(path: Path) -> list[int]:
    """Return how long each frame of a gif or webp is shown, in milliseconds."""
    shown: list[int] = []
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            frame.load()
            shown.append(frame.info["duration"])
    return shown


@pytest.mark.parametrize(
    ("suffix", "codec", "most"),
    [
        ("mp4", "h264", 2),
        ("mp4", "h265", 2),
        ("mp4", "av1", 2),
        ("gif", "", 1),
        ("webp", "", 2),
        ("png", "", 0),
    ],
)
def test_encoding_is_nearly_lossless_and_reproducible(
    tmp_path: Path, suffix: str, codec: str, most: float
) -> None:
    clip = enlarge(moving_square(), 2)
    how = encoding(suffix, codec=codec or "h264")
    (path,) = write_clip(tmp_path / "clip", clip, 8, FACTS, how)
    (again,) = write_clip(tmp_path / "again", clip, 8, FACTS, how)
    back = frames_of(path)
    assert back.shape == clip.shape
    assert (
        np.abs(back.astype(int) - clip).mean() <= most
    )  # a wrong colour matrix has errors of 5 and more
    assert np.abs(back[3, :16].astype(int).mean((0, 1)) - clip[3, :16].mean((0, 1))).max() < 3
    pairs = (
        zip(path.iterdir(), again.iterdir(), strict=True) if suffix == "png" else [(path, again)]
    )
    assert all(one.read_bytes() == other.read_bytes() for one, other in pairs)


def test_clip_is_written_in_all_selected_formats(tmp_path: Path) -> None:
    paths = write_clip(
        tmp_path / "far" / "clip.v2", moving_square(3), 8, FACTS, encoding(*FORMATS, upscale=2)
    )
    assert [path.name for path in paths] == [
        "clip.v2.mp4",
        "clip.v2.gif",
        "clip.v2.webp",
        "clip.v2",
    ]
    assert names(tmp_path / "far") == sorted(path.name for path in paths)
    assert names(tmp_path / "far" / "clip.v2") == ["0000.png", "0001.png", "0002.png"]
    assert all(frames_of(path).shape == (3, 96, 144, 3) for path in paths)


anything = st.text(st.characters(exclude_categories=[]), max_size=50)
long = 'She said: "it\'s 5 < 6 && 7 > 2"; \\n#=\r\n\t速い 👩🏽‍🚀 \x00\x85\u2028\ufffe]]>\n' * 500


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    facts=st.dictionaries(anything, anything | st.floats(allow_nan=False) | st.none(), max_size=5)
)
@example(facts={"prompt": long, "negative": "half a pair: \ud83d"})
def test_metadata_of_any_text_can_be_read_back(tmp_path: Path, facts: dict[str, object]) -> None:
    for path in write_clip(
        tmp_path / "clip", moving_square(2, 32, 32), 8, facts, encoding(*FORMATS)
    ):
        assert read_facts(path) == json.loads(json.dumps(facts))


def test_every_file_has_the_watermark(tmp_path: Path) -> None:
    mp4, gif, webp, png = write_clip(
        tmp_path / "clip", moving_square(2), 8, FACTS, encoding(*FORMATS)
    )
    mark = f"<Iptc4xmpExt:DigitalSourceType>{AI_MADE}</Iptc4xmpExt:DigitalSourceType>"
    words = (
        get_ffmpeg_exe(),
        "-v",
        "error",
        "-export_xmp",
        "1",
        "-i",
        str(mp4),
        "-f",
        "ffmetadata",
        "-",
    )
    in_mp4 = subprocess.run(words, capture_output=True, text=True, check=True).stdout.replace(
        "\\", ""
    )
    assert re.search(rf"^xmp=<\?xpacket.*{re.escape(mark)}", in_mp4, re.DOTALL | re.MULTILINE)
    assert f"digital_source_type={AI_MADE}" in in_mp4
    assert b"XMP DataXMP<?xpacket" in gif.read_bytes()
    assert mark in gif.read_bytes().decode(errors="replace")
    for picture in (webp, *png.iterdir()):
        with Image.open(picture) as image:
            assert mark in image.info["xmp"].decode()


def test_other_programs_can_read_the_metadata(tmp_path: Path) -> None:
    mp4, gif = write_clip(tmp_path / "clip", moving_square(2), 8, FACTS, encoding("mp4", "gif"))
    assert "速い" in facts_of(mp4)
    with Image.open(gif) as image:
        assert json.loads(image.info["comment"]) == FACTS


@pytest.mark.parametrize(("codec", "tag"), [("h264", "avc1"), ("h265", "hvc1"), ("av1", "av01")])
def test_mp4_has_player_metadata_and_can_be_streamed(tmp_path: Path, codec: str, tag: str) -> None:
    (path,) = write_clip(tmp_path / "clip", moving_square(), 8, FACTS, encoding("mp4", codec=codec))
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    assert all(
        words in facts_of(path) for words in (f"{tag} /", "yuv420p(tv, bt709", "72x48", "8 fps")
    )


@pytest.mark.parametrize("codec", ["h264", "h265", "av1"])
def test_an_mp4_names_its_matrix_primaries_and_transfer_in_stream_and_container(
    tmp_path: Path, codec: str
) -> None:
    (path,) = write_clip(tmp_path / "clip", moving_square(), 8, FACTS, encoding("mp4", codec=codec))
    assert "yuv420p(tv, bt709, progressive)" in facts_of(path) or "yuv420p(tv, bt709)" in facts_of(
        path
    )
    content = path.read_bytes()
    box = content.index(b"colrnclx") + len(b"colrnclx")
    assert content[box : box + 7] == bytes(
        [0, 1, 0, 1, 0, 1, 0]
    )  # BT.709 three times, limited range
    raw = tmp_path / {"h264": "raw.h264", "h265": "raw.h265", "av1": "raw.ivf"}[codec]
    copy = (get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-c", "copy", str(raw))
    subprocess.run(copy, check=True)
    assert "(tv, bt709" in facts_of(raw)
    assert "unknown" not in facts_of(raw)


@pytest.mark.parametrize(
    "program", ["nowhere/ffmpeg", "/etc/passwd", "/bin/false", "/bin/true", "/tmp"]
)
def test_ffmpeg_that_does_not_run_is_reported_before_rendering(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", program)
    ffmpeg.codecs.cache_clear()
    ffmpeg.executable.cache_clear()
    try:
        for suffix in ("mp4", "gif"):
            with pytest.raises(FfmpegMissing, match="Missing on this machine: ffmpeg") as refusal:
                ffmpeg.require_formats(encoding(suffix))
            assert refusal.value.status is ExitStatus.MISSING
            assert "IMAGEIO_FFMPEG_EXE" in refusal.value.hint
        ffmpeg.require_formats(encoding("png", "webp"))
    finally:
        ffmpeg.codecs.cache_clear()
        ffmpeg.executable.cache_clear()


@pytest.mark.parametrize(
    ("lacking", "lists"), [("h265", "libx264"), ("gif", "libx264"), ("h264", "libx264rgb")]
)
def test_missing_encoder_is_reported_before_rendering(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    lacking: str,
    lists: str,
) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(
        f"#!/bin/sh\necho ' V....D {lists:20} an encoder, not gif, libx264 or libx265'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    for known in (ffmpeg.codecs, ffmpeg.executable):
        known.cache_clear()
        request.addfinalizer(known.cache_clear)
    how = encoding("gif") if lacking == "gif" else encoding("mp4", codec=lacking)
    with pytest.raises(CodecMissing, match=f"cannot write {lacking}") as refusal:
        ffmpeg.require_formats(how)
    assert "IMAGEIO_FFMPEG_EXE" in refusal.value.hint


@pytest.mark.parametrize("codec", ["h264", "h265", "av1"])
def test_luma_and_chroma_match_the_tagged_matrix_and_range(tmp_path: Path, codec: str) -> None:
    """BT.709, limited range: Y = 16 + 219 (0.2126 R + 0.7152 G + 0.0722 B).

    C = 128 + 224 of the differences.
    """
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)):
        clip = np.full((2, 32, 32, 3), colour, np.uint8)
        (path,) = write_clip(
            tmp_path / f"{codec}-{colour}", clip, 8, FACTS, encoding("mp4", codec=codec)
        )
        words = (
            get_ffmpeg_exe(),
            "-v",
            "error",
            "-i",
            str(path),
            "-f",
            "rawvideo",
            "-pix_fmt",
            "yuv420p",
            "-",
        )
        raw = np.frombuffer(subprocess.run(words, capture_output=True, check=True).stdout, np.uint8)
        planes = raw[: 32 * 32 * 3 // 2]
        luma, blue, red = planes[:1024].mean(), planes[1024:1280].mean(), planes[1280:].mean()
        r, g, b = (each / 255 for each in colour)
        y = 0.2126 * r + 0.7152 * g + 0.0722 * b
        expected = (16 + 219 * y, 128 + 224 * (b - y) / 1.8556, 128 + 224 * (r - y) / 1.5748)
        assert (luma, blue, red) == pytest.approx(expected, abs=1.5)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
@pytest.mark.parametrize(("fps", "frames"), [(8, 8), (24, 13), (30, 9), (1, 2), (8, 1)])
def test_frames_have_their_durations(tmp_path: Path, suffix: str, fps: int, frames: int) -> None:
    (path,) = write_clip(tmp_path / "clip", moving_square(frames), fps, FACTS, encoding(suffix))
    assert frames_of(path).shape[0] == frames
    if frames > 1:
        assert sum(shown_for(path)) == pytest.approx(1000 * frames / fps, abs=10)
        assert max(shown_for(path)) - min(shown_for(path)) <= 10


def test_gif_frame_rate_is_limited_to_that_of_browsers(tmp_path: Path) -> None:
    (path,) = write_clip(tmp_path / "clip", moving_square(12), 120, FACTS, encoding("gif"))
    assert set(shown_for(path)) == {20}
    assert sum(shown_for(path)) == 100


def test_still_clip_is_complete_in_any_format(tmp_path: Path) -> None:
    still = moving_square(1).repeat(8, axis=0)
    shown = {
        path: frames_of(path)
        for path in write_clip(tmp_path / "clip", still, 8, FACTS, encoding(*FORMATS))
    }
    assert [len(frames) for frames in shown.values()] == [
        8,
        8,
        1,
        8,
    ]  # webp becomes a single picture
    assert all(np.abs(frames[-1].astype(int) - still[0]).mean() < 3 for frames in shown.values())


@pytest.mark.parametrize(("loop", "gif_repeats"), [(0, 0), (1, None), (3, 2)])
def test_number_of_loops(tmp_path: Path, loop: int, gif_repeats: int | None) -> None:
    gif, webp = write_clip(
        tmp_path / "clip", moving_square(3), 8, FACTS, encoding("gif", "webp", loop=loop)
    )
    with Image.open(gif) as image:
        assert (
            image.info.get("loop") == gif_repeats
        )  # the format counts repetitions after the first time
    with Image.open(webp) as image:
        assert image.info["loop"] == loop


def test_odd_sizes_are_refused_for_mp4_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"71×47 pixels: its sides must be even") as refusal:
        write_clip(tmp_path / "clip", moving_square(2, 47, 71), 8, FACTS, encoding("gif", "mp4"))
    assert refusal.value.status is ExitStatus.USAGE
    assert names(tmp_path) == []
    for path in write_clip(
        tmp_path / "clip", moving_square(2, 47, 71), 8, FACTS, encoding("gif", "webp", "png")
    ):
        assert frames_of(path).shape == (2, 47, 71, 3)
    write_clip(tmp_path / "clip", moving_square(2, 47, 71), 8, FACTS, encoding("mp4", upscale=2))


def test_error_names_missing_codec() -> None:
    assert "h264" in ffmpeg.codecs()
    ffmpeg.require_formats(EncodingConfig(codec="h264"))
    with pytest.raises(CodecMissing, match="cannot write vp8"):
        ffmpeg.require_formats(EncodingConfig(codec="vp8"))
    with pytest.raises(CodecMissing, match="cannot write libnone"):
        ffmpeg.ask(Path("clip.mp4"), *TESTSRC, "-c:v", "libnone", "-f", "mp4", "-y", "/dev/null")


@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_file_is_not_a_clip(tmp_path: Path, suffix: str) -> None:
    (path,) = write_clip(tmp_path / "clip", moving_square(), 8, FACTS, encoding(suffix))
    file = path / "0003.png" if suffix == "png" else path
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 4])
    with pytest.raises(ClipBroken, match=path.name):
        frames_of(path)


@pytest.mark.parametrize("suffix", ["mp4", "gif", "webp", "png"])
def test_file_of_another_program_has_no_metadata(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"other.{suffix}"
    one = ("-frames:v", "1", "-update", "1") if suffix == "png" else ()
    subprocess.run([get_ffmpeg_exe(), "-v", "error", *TESTSRC, *one, str(path)], check=True)
    with pytest.raises(ClipBroken, match="pv did not write it"):
        read_facts(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_failed_write_leaves_no_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / ("clip" if suffix == "png" else f"clip.{suffix}")
    with pytest.raises((ClipBroken, ValueError, SystemError)):
        write_clip(tmp_path / "clip", moving_square(height=0), 8, FACTS, encoding(suffix))
    path.touch() if suffix == "png" else path.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_clip(tmp_path / "clip", moving_square(), 8, FACTS, encoding(suffix))
    assert names(tmp_path) == [path.name]
    path.unlink() if suffix == "png" else path.rmdir()
    write_clip(tmp_path / "clip", moving_square(), 8, FACTS, encoding(suffix))
    assert names(tmp_path) == [path.name]


def test_a_folder_of_frames_is_replaced_by_another(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", moving_square(8), 8, FACTS, encoding("png"))
    write_clip(tmp_path / "clip", moving_square(3), 8, FACTS, encoding("png"))
    assert names(tmp_path) == ["clip"]
    assert names(tmp_path / "clip") == ["0000.png", "0001.png", "0002.png"]


def test_full_disk_is_recognised_from_ffmpegs_output() -> None:
    with pytest.raises(OSError, match=r"clip\.mp4") as full:
        ffmpeg.ask(Path("clip.mp4"), *TESTSRC, "-f", "matroska", "-y", "/dev/full")
    assert full.value.errno == errno.ENOSPC


@pytest.fixture
def dying_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    ffmpeg.executable.cache_clear()
    yield
    ffmpeg.executable.cache_clear()


@pytest.mark.usefixtures("dying_ffmpeg")
def test_killed_ffmpeg_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(ClipBroken, match="ffmpeg gave no reason"):
        write_clip(tmp_path / "out" / "clip", enlarge(moving_square(), 8), 8, FACTS)
    assert names(tmp_path / "out") == []


HALF_WAY = """
import sys, time
from pathlib import Path
from pvtool_core.files import working_folder
with working_folder(Path(sys.argv[1])) as folder:
    (folder / "clip.mp4").write_bytes(b"half")
    print("half-way", flush=True)
    time.sleep(600)
"""


def test_partial_files_of_killed_processes_are_removed_and_those_of_live_ones_kept(
    tmp_path: Path,
) -> None:
    writing = subprocess.Popen(
        [sys.executable, "-c", HALF_WAY, str(tmp_path / "clip")], stdout=subprocess.PIPE
    )
    assert writing.stdout
    assert writing.stdout.readline() == b"half-way\n"
    write_clip(tmp_path / "clip", moving_square(2), 8, FACTS)
    hidden, clip = names(tmp_path)
    assert (hidden.startswith(".clip."), clip) == (True, "clip.mp4")
    writing.kill()
    writing.communicate()
    write_clip(tmp_path / "other", moving_square(2), 8, FACTS)
    assert names(tmp_path) == [hidden, "clip.mp4", "other.mp4"]
    write_clip(tmp_path / "clip", moving_square(2), 8, FACTS)
    assert names(tmp_path) == ["clip.mp4", "other.mp4"]


AGAIN_AND_AGAIN = """
import sys
from pathlib import Path
from pvtool_core.files import publish, working_folder
for _ in range(40):
    with working_folder(Path(sys.argv[1])) as folder:
        (folder / "clip").mkdir()
        (folder / "clip" / "0000.png").write_bytes(b"whole")
        publish([folder / "clip"], Path(sys.argv[1]).parent)
"""


def test_processes_that_write_the_same_clip_do_not_disturb_each_other(tmp_path: Path) -> None:
    words = [sys.executable, "-c", AGAIN_AND_AGAIN, str(tmp_path / "clip")]
    assert [process.wait() for process in [subprocess.Popen(words) for _ in range(3)]] == [0, 0, 0]
    assert names(tmp_path) == ["clip"]
    assert (tmp_path / "clip" / "0000.png").read_bytes() == b"whole"


def test_unfinished_files_are_not_visible(tmp_path: Path) -> None:
    with working_folder(tmp_path / "clip") as folder:
        (folder / "clip.mp4").touch()
        assert all(name.startswith(".") for name in names(tmp_path))
        publish([folder / "clip.mp4"], tmp_path)
    assert names(tmp_path) == ["clip.mp4"]


def test_frames_are_converted_to_pixels() -> None:
    frames = torch.tensor([0.0, 0.5, 1.2]).view(1, 3, 1, 1).expand(2, 3, 4, 6)
    pixels = to_pixels(frames)
    assert pixels.shape == (2, 4, 6, 3)
    assert pixels[0, 0, 0].tolist() == [0, 128, 255]


def test_upscaling_repeats_pixels() -> None:
    clip = moving_square()
    large = enlarge(clip, 3)
    assert large.shape == (8, 144, 216, 3)
    assert (large[:, 1::3, 2::3] == clip).all()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "frames/0000.png"])
def test_pipe_instead_of_clip_is_refused_without_blocking(name: str, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    os.mkfifo(tmp_path / name)
    path = tmp_path / name.split("/", maxsplit=1)[0]
    with pytest.raises(ClipBroken):
        read_facts(path)
