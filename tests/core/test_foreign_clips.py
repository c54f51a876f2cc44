"""Clips of other programs: their manifest, and reading videos of any rate and container."""

from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from pvtool_core.batches.manifest import ManifestClips, read_manifest
from pvtool_core.errors import InputRefused, Missing, PvError, UsageError
from pvtool_core.evaluation.clip import read_clip
from pvtool_core.media import decode, ffmpeg
from pvtool_core.media.decode import footage_of
from pvtool_core.media.ffmpeg import ClipBroken
from pvtool_core.settings.jobs import ClipFile

HEADER = "file,identity,prompt,seed,method\n"
Read = Callable[[str], ManifestClips]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read a manifest of a folder with the file `a.mp4`; `ann` is in the library."""

    def parse(text: str) -> ManifestClips:
        (tmp_path / "a.mp4").touch()
        (tmp_path / "clips.csv").write_text(text)
        return read_manifest(tmp_path / "clips.csv", tmp_path, ["ann"])

    return parse


def test_manifest_says_what_each_clip_shows(read: Read, tmp_path: Path) -> None:
    found = read('method,file,seed,prompt,identity\nMagicMe,a.mp4,7,"walks, fast",ann\n')
    assert found.clips == (
        ClipFile(
            file=f"{tmp_path}/a.mp4", identity="ann", prompt="walks, fast", seed=7, method="MagicMe"
        ),
    )
    assert not found.refused
    assert not found.ignored


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("b.mp4,ann,walks,0,x", "b.mp4 does not exist"),
        ("../a.mp4,ann,walks,0,x", "is not a path within"),
        ("/etc/passwd,ann,walks,0,x", "is not a path within"),
        ("a.mp4,eve,walks,0,x", "unknown identity eve"),
        ("a.mp4,ann,walks,1.5,x", "the seed 1.5 is not a whole number"),
        ("a.mp4,ann,walks,²,x", "is not a whole number"),
        ("a.mp4,ann,walks,9999999999999999999,x", "is not a whole number below"),
        ("a\0.mp4,ann,walks,0,x", "file contains control characters"),
        (".,ann,walks,0,x", "is not a regular file"),
        ("a.mp4,ann,,0,x", "prompt is empty"),
        ("a.mp4,ann", "prompt, seed, method is empty"),
        (f"a.mp4,ann,{'w' * 10_001},0,x", "prompt is longer than 10000 characters"),
    ],
)
def test_unusable_row_is_named_and_the_others_are_kept(read: Read, row: str, reason: str) -> None:
    found = read(f"{HEADER}{row}\na.mp4,ann,walks,0,x\n")
    assert len(found.clips) == 1
    ((where, why),) = found.refused.items()
    assert where == "clips.csv:2"
    assert reason in why


def test_unknown_columns_are_ignored_by_name(read: Read) -> None:
    assert read(f"{HEADER.strip()},fps\na.mp4,ann,walks,0,x,8\n").ignored == ("fps",)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", InputRefused, "has no column file, identity, prompt, seed, method"),
        ("file,identity\n", InputRefused, "has no column prompt, seed, method"),
        (HEADER, UsageError, "it has no rows"),
        (f"{HEADER}b.mp4,ann,walks,0,x\n", UsageError, "b.mp4 does not exist"),
        (f'{HEADER}"a.mp4', InputRefused, "is not CSV"),
    ],
)
def test_manifest_without_clips_is_refused(
    read: Read, text: str, error: type[PvError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read(text)


def test_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        read_manifest(tmp_path / "clips.csv", tmp_path, [])


def colours(count: int, side: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Return frames that differ: (count, height, width, 3)."""
    levels = np.linspace(0, 255, count).astype(np.uint8)
    return np.stack([np.full((*side, 3), level, np.uint8) for level in levels])


@pytest.mark.parametrize(
    ("name", "codec", "fps"),
    [("a.mp4", "libx264", 24), ("a.mkv", "libx264", 30), ("a.webm", "libvpx-vp9", 12),
     ("a.avi", "mpeg4", 25), ("a.mov", "libx264", 29.97)],
)  # fmt: skip
def test_videos_of_any_container_have_their_rate_and_size(
    tmp_path: Path, name: str, codec: str, fps: float
) -> None:
    iio.imwrite(tmp_path / name, colours(6), plugin="FFMPEG", fps=fps, codec=codec,
                macro_block_size=1)  # fmt: skip
    footage = footage_of(tmp_path / name)
    assert footage.frames.shape == (6, 48, 64, 3)
    assert footage.fps == pytest.approx(fps, rel=0.01)
    assert footage.notes == ()
    levels = footage.frames.mean((1, 2, 3))
    assert levels == pytest.approx(np.linspace(0, 255, 6), abs=8)


def test_animation_has_its_rate(tmp_path: Path) -> None:
    pictures = [Image.fromarray(frame) for frame in colours(5)]
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=40, loop=0
    )
    footage = footage_of(tmp_path / "a.gif")
    assert (len(footage.frames), footage.fps) == (5, pytest.approx(25))


def test_variable_rate_is_said(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "even.mp4", colours(8), plugin="FFMPEG", fps=10, macro_block_size=1)
    ffmpeg.ask(
        tmp_path / "even.mp4", "-i", str(tmp_path / "even.mp4"), "-vf",
        "select='not(eq(n,3)+eq(n,4))'", "-fps_mode", "vfr", str(tmp_path / "uneven.mkv"),
    )  # fmt: skip
    footage = footage_of(tmp_path / "uneven.mkv")
    assert len(footage.frames) == 6
    assert footage.fps == pytest.approx(5 / 0.7, rel=0.01)
    (note,) = footage.notes
    assert "varies from 3.33 to 10 per second" in note


def test_clip_of_one_frame_can_be_read(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.mp4", colours(1), plugin="FFMPEG", fps=8, macro_block_size=1)
    footage = footage_of(tmp_path / "a.mp4")
    assert (len(footage.frames), footage.notes) == (1, ())


def test_end_of_a_long_clip_is_cut_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MOST_FRAMES", 4)
    iio.imwrite(tmp_path / "a.mp4", colours(6), plugin="FFMPEG", fps=8, macro_block_size=1)
    footage = footage_of(tmp_path / "a.mp4")
    assert len(footage.frames) == 4
    assert footage.notes == ("a.mp4 has more than 4 frames; the rest is not scored.",)


@pytest.mark.parametrize("content", [b"", b"no video", b"\x1aE\xdf\xa3" + bytes(99)])
def test_file_that_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ClipBroken):
        footage_of(tmp_path / "a.mp4")


def test_playlist_is_not_followed(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "secret.mp4", colours(2), plugin="FFMPEG", fps=8, macro_block_size=1)
    (tmp_path / "a.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path}/secret.mp4\n")
    with pytest.raises(ClipBroken):
        footage_of(tmp_path / "a.mp4")


def test_image_that_claims_to_be_enormous_is_refused(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.gif")
    with pytest.raises(PvError):
        footage_of(tmp_path / "a.gif")


def test_folder_of_images_has_no_rate(tmp_path: Path) -> None:
    about = ClipFile(file=str(tmp_path), identity="ann", prompt="", seed=0, method="x")
    with pytest.raises(ClipBroken, match="has no frame rate"):
        read_clip(about)
