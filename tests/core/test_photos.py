"""Photos of every kind become upright 8-bit sRGB, or are refused with a message."""

import io
import os
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from pvtool_core.backbones.control import read_frames
from pvtool_core.errors import BadPicture, InputRefused
from pvtool_core.faces.enroll import read_photo
from pvtool_core.media.photos import BLACK, natural_order, pictures_in, read_animation, read_picture
from pvtool_core.models.fingerprints import frames_fingerprint
from pvtool_core.settings.schema import ControlConfig

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def pixels(path: Path, **how: object) -> NDArray[np.uint8]:
    return np.asarray(read_picture(path, **how))  # pyright: ignore[reportArgumentType]


def grey(path: Path) -> NDArray[np.uint8]:
    """Return one channel, after checking that all three are equal."""
    found = pixels(path)
    assert (found == found[..., :1]).all()
    return found[..., 0]


# Depth


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("scale", [256, 257])
def test_16_bit_grey_keeps_its_upper_bits(tmp_path: Path, suffix: str, scale: int) -> None:
    Image.fromarray(RAMP.astype(np.uint16) * scale).save(tmp_path / f"depth.{suffix}")
    assert (grey(tmp_path / f"depth.{suffix}") == RAMP).all()


def test_16_bit_grey_of_other_byte_orders_and_programs_is_scaled_equally(tmp_path: Path) -> None:
    wide = RAMP.astype(np.uint16) * 257
    (tmp_path / "a.pgm").write_bytes(b"P5 16 16 65535\n" + wide.astype(">u2").tobytes())
    Image.frombytes("I;16B", (16, 16), wide.astype(">u2").tobytes()).save(tmp_path / "b.tif")
    for file in ("a.pgm", "b.tif"):
        assert (grey(tmp_path / file) == RAMP).all(), file


def png(colour_type: int, rows: NDArray[np.uint16], *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG with 16 bits per channel, which Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width = rows.shape[:2]
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    extra = b"".join(chunk(*each) for each in chunks)
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + extra
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def test_16_bit_colour_keeps_its_upper_bits_with_and_without_alpha(tmp_path: Path) -> None:
    (tmp_path / "rgb.png").write_bytes(png(2, NOISE.astype(np.uint16) * 257))
    full = np.dstack([NOISE, np.full(NOISE.shape[:2], 255, np.uint8)]).astype(np.uint16) * 257
    (tmp_path / "rgba.png").write_bytes(png(6, full))
    assert (pixels(tmp_path / "rgb.png") == NOISE).all()
    assert (pixels(tmp_path / "rgba.png") == NOISE).all()


def test_transparent_value_of_16_bit_grey_becomes_the_background(tmp_path: Path) -> None:
    wide = RAMP.astype(np.uint16) * 257
    (tmp_path / "a.png").write_bytes(png(0, wide, (b"tRNS", struct.pack(">H", 100 * 257))))
    assert (grey(tmp_path / "a.png") == np.where(RAMP == 100, 255, RAMP)).all()


@pytest.mark.parametrize(("kind", "words"), [(np.float32, "floating-point"), (np.int32, "32-bit")])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, kind: type, words: str) -> None:
    Image.fromarray(RAMP.astype(kind)).save(tmp_path / "depth.tif")
    with pytest.raises(BadPicture, match=f"{words} pixels without a known range"):
        read_picture(tmp_path / "depth.tif")


# Modes and alpha


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_opaque_pictures_without_profile_equal_pillows_conversion(
    tmp_path: Path, mode: str
) -> None:
    picture = Image.fromarray(NOISE).convert(mode)
    picture.save(tmp_path / "a.tif")
    assert (pixels(tmp_path / "a.tif") == np.asarray(picture.convert("RGB"))).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_plain_photo_is_read_exactly(tmp_path: Path, suffix: str) -> None:
    large = np.random.default_rng(1).integers(0, 256, (40, 2100, 3), np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile in (("plain", None), ("tagged", srgb)):
        for size, data in (("small", NOISE), ("large", large)):
            path = tmp_path / f"{name}-{size}.{suffix}"
            Image.fromarray(data).save(path, icc_profile=profile)
            with Image.open(path) as image:
                wanted = ImageOps.exif_transpose(image).convert("RGB")
            wanted.thumbnail((2048, 2048), Image.Resampling.LANCZOS)
            assert (read_photo(path) == np.asarray(wanted)).all(), path.name


def with_alpha(mode: str) -> Image.Image:
    """Return a picture with an opaque left half and a transparent right half of random colours."""
    picture = Image.fromarray(NOISE).convert("RGBA")
    alpha = np.full(NOISE.shape[:2], 255, np.uint8)
    alpha[:, 16:] = 0
    picture.putalpha(Image.fromarray(alpha))
    if mode == "P":
        plain = Image.fromarray(np.repeat(np.arange(32, dtype=np.uint8)[None], 24, 0), "P")
        plain.putpalette(bytes(range(96)))
        plain.info["transparency"] = bytes([255] * 16 + [0] * 16)
        return plain
    return picture.convert(mode)


@pytest.mark.parametrize("background", [(255, 255, 255), BLACK])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_colours_of_transparent_pixels_are_removed(
    tmp_path: Path, mode: str, background: tuple[int, int, int]
) -> None:
    picture = with_alpha(mode)
    picture.save(
        tmp_path / "a.png",
        **({"transparency": picture.info["transparency"]} if mode == "P" else {}),
    )
    found = pixels(tmp_path / "a.png", background=background)
    assert (found[:, 16:] == background).all()
    assert (found[:, :16] == np.asarray(picture.convert("RGBA").convert("RGB"))[:, :16]).all()


@pytest.mark.parametrize(("mode", "clear"), [("L", 100), ("RGB", (1, 2, 3)), ("P", 5)])
def test_transparent_colour_becomes_the_background(
    tmp_path: Path, mode: str, clear: int | tuple[int, ...]
) -> None:
    picture = Image.new(mode, (8, 8), clear)
    picture.putpixel((0, 0), 0 if mode != "RGB" else (0, 0, 0))
    if mode == "P":
        picture.putpalette(bytes(range(96)))
    picture.save(tmp_path / "a.png", transparency=clear)
    found = pixels(tmp_path / "a.png")
    assert (found[0, 0] != 255).all()
    assert (found[1:] == 255).all()


def test_semitransparent_pixels_are_blended_with_the_background(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (200, 100, 0, 128)).save(
        tmp_path / "a.webp", lossless=True, exact=True
    )
    assert np.abs(pixels(tmp_path / "a.webp").astype(int) - (227, 177, 127)).max() <= 1


# Orientation and colours


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "I;16", "RGBA"])
def test_picture_is_rotated_by_its_orientation(tmp_path: Path, mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = Image.fromarray(RAMP.astype(np.uint16) * 257 if mode == "I;16" else RAMP)
    picture = plain if mode == "I;16" else plain.convert(mode)
    picture.save(tmp_path / "a.png", exif=exif)
    marked = Image.fromarray(RAMP)
    marked.getexif()[0x0112] = orientation
    assert (grey(tmp_path / "a.png") == np.asarray(ImageOps.exif_transpose(marked))).all()


def profile_of(gamma: float, primaries: tuple[float, ...]) -> bytes:
    """Return an RGB profile with a matrix and one gamma, such as Adobe RGB."""

    def s15(*numbers: float) -> bytes:
        return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)

    def colour(*xyz: float) -> bytes:
        return b"XYZ \0\0\0\0" + s15(*xyz)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {
        b"desc": text + b"\0",
        b"wtpt": colour(0.9642, 1, 0.8249),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
    }
    tags |= {
        name: colour(*primaries[3 * i : 3 * i + 3])
        for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))
    }
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        data = content + bytes(-len(content) % 4)
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(data))
        body += data
    head = struct.pack(
        ">I4sI4s4s4s", 128 + len(table) + len(body), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ "
    )
    head += bytes(12) + b"acsp" + bytes(28) + s15(0.9642, 1, 0.8249) + bytes(48)
    return head + table + body


ADOBE = profile_of(
    2.19921875, (0.60974, 0.31111, 0.01947, 0.20528, 0.62567, 0.06087, 0.14919, 0.06322, 0.74457)
)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_colours_of_another_profile_become_srgb(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (16, 16), (100, 150, 60)).save(
        tmp_path / f"a.{suffix}", icc_profile=ADOBE, quality=100
    )
    r, g, b = (int(value) for value in read_photo(tmp_path / f"a.{suffix}")[8, 8])
    assert abs(r - 70) < 12  # Adobe RGB has a smaller green value for this colour than sRGB
    assert abs(g - 151) < 6
    assert b < 60


def test_profiles_of_pictures_with_alpha_or_grey_are_applied(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (16, 16), (100, 150, 60, 255))
    picture.paste((100, 150, 60, 0), (8, 0, 16, 16))
    picture.save(tmp_path / "a.png", icc_profile=ADOBE)
    Image.new("RGB", (16, 16), (100, 150, 60)).save(tmp_path / "b.png", icc_profile=ADOBE)
    assert (pixels(tmp_path / "a.png")[:, :8] == pixels(tmp_path / "b.png")[:, :8]).all()
    assert (pixels(tmp_path / "a.png")[:, 8:] == 255).all()
    Image.new("L", (16, 16), 30).save(tmp_path / "c.png", icc_profile=ADOBE)
    assert (grey(tmp_path / "c.png") != 30).all()


@pytest.mark.parametrize("profile", [b"no profile", ADOBE[:200], bytes(128)])
def test_unusable_profile_is_reported(tmp_path: Path, profile: bytes) -> None:
    Image.fromarray(NOISE).save(tmp_path / "a.png", icc_profile=profile)
    said: list[str] = []
    assert (read_photo(tmp_path / "a.png", said.append) == NOISE).all()
    assert said == ["The colour profile of a.png cannot be used; sRGB is assumed."]


# Animations, hostile and other files


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_first_picture_of_an_animated_photo_is_used_with_a_warning(
    tmp_path: Path, suffix: str
) -> None:
    first, second = Image.fromarray(NOISE), Image.fromarray(NOISE[::-1])
    first.save(
        tmp_path / f"a.{suffix}", save_all=True, append_images=[second], lossless=True, duration=100
    )
    said: list[str] = []
    assert (read_photo(tmp_path / f"a.{suffix}", said.append) == NOISE).all()
    assert said == [f"a.{suffix} is animated: only its first image is used."]
    with pytest.raises(BadPicture, match="is animated"):
        read_picture(tmp_path / f"a.{suffix}")
    frames = [np.asarray(frame) for frame in read_animation(tmp_path / f"a.{suffix}")]
    assert (np.stack(frames) == np.stack([NOISE, NOISE[::-1]])).all()


def bomb(path: Path) -> None:
    Image.new("1", (30_000, 30_000)).save(path, "PNG")


def text_bomb(path: Path) -> None:
    told = PngImagePlugin.PngInfo()
    told.add_text("a", "x" * 70_000_000, zip=True)
    Image.new("L", (8, 8)).save(path, "PNG", pnginfo=told)


def cut_off(path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(NOISE).save(content, "PNG")
    path.write_bytes(content.getvalue()[:1500])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("text"), "unknown image format"),
    "empty": (lambda path: path.touch(), "unknown image format"),
    "cut": (cut_off, "corrupt or truncated"),
    "bomb": (bomb, "too large"),
    "text-bomb": (text_bomb, "corrupt or truncated"),
    "script": (
        lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "unknown image format",
    ),
    "pipe": (os.mkfifo, "is not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    "folder": (Path.mkdir, "is a folder"),
    "gone": (lambda path: path.symlink_to("nowhere"), "No such file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_files_that_are_not_pictures_are_refused(tmp_path: Path, kind: str) -> None:
    make, words = BAD[kind]
    make(tmp_path / f"{kind}.png")
    with pytest.raises(BadPicture, match=words) as refused:
        read_picture(tmp_path / f"{kind}.png")
    assert refused.value.message.startswith(f"{kind}.png ")
    assert refused.value.status == 3


def test_a_picture_with_random_damage_is_read_or_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM"):
        content = io.BytesIO()
        Image.fromarray(NOISE).save(content, form)
        for _ in range(40):
            broken = bytearray(content.getvalue())
            for place in random.integers(0, len(broken), 4):
                broken[place] = random.integers(256)
            (tmp_path / "a").write_bytes(broken)
            try:
                assert read_picture(tmp_path / "a").mode == "RGB"
            except BadPicture as error:
                assert error.hint


# ControlNet


def shown(source: Path, count: int) -> list[NDArray[np.uint8]]:
    return [
        np.asarray(picture) for picture in read_frames(ControlConfig(frames=str(source)), count)
    ]


def test_file_names_are_sorted_by_numeric_value() -> None:
    wanted = [
        "1.png",
        "02.png",
        "2.png",
        "3.jpg",
        "10.png",
        "10 b.png",
        "100.png",
        "a.png",
        "A1b2.png",
        "a1b10.png",
    ]
    wanted += [
        "depth_9.png",
        "depth_0010.png",
        "shot 2 - 1.png",
        "shot 2 - 10.png",
        "shot 10 - 1.png",
    ]
    found = [path.name for path in natural_order(map(Path, reversed(wanted)))]
    assert found == wanted


def test_frames_of_a_folder_are_its_pictures_in_natural_order(tmp_path: Path) -> None:
    for number in range(1, 13):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    for other in (".DS_Store", ".hidden.png", "Thumbs.db", "notes.txt", "0000.json"):
        (tmp_path / other).write_text("no picture")
    (tmp_path / "0.png").mkdir()
    assert [int(frame[0, 0, 0]) for frame in shown(tmp_path, 12)] == list(range(1, 13))
    Image.new("L", (8, 8), 13).save(tmp_path / "13", "PNG")  # no suffix: recognised by its content
    assert [path.name for path in pictures_in(tmp_path)][-1] == "13"
    with pytest.raises(InputRefused, match="has 13 pictures for 14 frames"):
        shown(tmp_path, 14)


def test_fingerprint_of_frames_depends_on_pictures_and_order(tmp_path: Path) -> None:
    for number in range(1, 12):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    before = frames_fingerprint(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert frames_fingerprint(tmp_path) == before
    (tmp_path / "11.png").rename(tmp_path / "0.png")
    assert frames_fingerprint(tmp_path) != before


def test_a_depth_pass_of_16_bits_with_alpha_is_not_white(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "1.png")
    with_alpha("RGBA").save(tmp_path / "2.png")
    depth, pose = shown(tmp_path, 2)
    assert (depth == RAMP[..., None]).all()
    assert (pose[:, 16:] == 0).all()


WIDE = np.tile(np.linspace(0, 65535, 256).round().astype("<u2"), (2, 16, 1))
VIDEOS = {
    "16-bit grey": ("mkv", "ffv1", "gray16le"),
    "10-bit grey": ("mkv", "ffv1", "gray10le"),
    "10-bit H.265": ("mp4", "libx265", "yuv420p10le"),
    "full range": ("mp4", "libx264", "yuvj420p"),
    "48-bit png": ("mov", "png", "rgb48be"),
}


@pytest.mark.parametrize("kind", VIDEOS)
def test_control_videos_of_any_depth_and_range_keep_their_values(tmp_path: Path, kind: str) -> None:
    suffix, codec, form = VIDEOS[kind]
    path = tmp_path / f"depth.{suffix}"
    raw = ("-f", "rawvideo", "-pix_fmt", "gray16le", "-s", "256x16", "-r", "8", "-i", "pipe:0")
    how = ("-c:v", codec, "-pix_fmt", form, *(("-crf", "0") if codec.startswith("lib") else ()))
    subprocess.run(
        [get_ffmpeg_exe(), "-v", "error", *raw, *how, str(path)], input=WIDE.tobytes(), check=True
    )
    for frame in shown(path, 2):
        assert np.abs(frame[8].astype(int) - np.arange(256)[:, None]).max() <= 3
    with pytest.raises(InputRefused, match="has 2 pictures for 3 frames"):
        shown(path, 3)


@pytest.mark.parametrize("codec", ["png", "qtrle"])
def test_transparent_pixels_of_a_control_video_are_black(tmp_path: Path, codec: str) -> None:
    frames = np.tile(np.asarray(with_alpha("RGBA")), (2, 1, 1, 1))
    raw = (
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgba",
        "-s",
        "32x24",
        "-r",
        "8",
        "-i",
        "pipe:0",
        "-c:v",
        codec,
    )
    video = str(tmp_path / "a.mov")
    subprocess.run(
        [get_ffmpeg_exe(), "-v", "error", *raw, video], input=frames.tobytes(), check=True
    )
    first, _ = shown(tmp_path / "a.mov", 2)
    assert (first[:, 16:] == 0).all()
    assert (first[:, :16] == NOISE[:, :16]).all()


def test_file_that_is_not_a_video_is_refused(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.gif", "a"):
        (tmp_path / name).write_text("no video")
        with pytest.raises(BadPicture, match="cannot be read") as refused:
            shown(tmp_path / name, 2)
        assert refused.value.status == 3
