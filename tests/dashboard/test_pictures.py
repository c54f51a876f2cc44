"""Images on a terminal: decoding, drawing in any colours, playback within a budget."""

import asyncio
import base64
import gc
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from textual.app import App, ComposeResult

from pvtool.dashboard.images import kitty
from pvtool.dashboard.images.decode import Box, DecodedClip, DecodeError, Frame, decode
from pvtool.dashboard.images.half_blocks import draw
from pvtool.dashboard.images.player import Budget, KittyImage, load_playback
from pvtool.dashboard.widgets.picture import ClipView
from pvtool.terminal import Colours, Pictures, Terminal
from tests.support.sample_data import BLUE, RED, clip
from tests.support.terminal import SimulatedTerminal

BLOCKS = Terminal(Pictures.BLOCKS, False, "truecolor", bytes_per_second=10**9)


def still(path: Path, colour: tuple[int, int, int] = RED, size: tuple[int, int] = (64, 48)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def read(path: Path, box: Box | None = None) -> DecodedClip:
    return asyncio.run(decode(path, box or Box(40, 22)))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif"])
def test_photo_is_decoded_at_display_size_with_its_aspect_ratio(
    tmp_path: Path, suffix: str
) -> None:
    (frame,) = read(still(tmp_path / f"a.{suffix}", size=(640, 480))).frames
    assert (frame.width, frame.height) == (29, 22)
    assert all(abs(value - wanted) < 12 for value, wanted in zip(frame.data[:3], RED, strict=True))
    (upright,) = read(still(tmp_path / f"b.{suffix}", size=(100, 900))).frames
    assert (upright.width, upright.height) == (2, 22)


def test_tall_cells_make_an_image_wider_in_cells(tmp_path: Path) -> None:
    path = still(tmp_path / "a.png", size=(100, 100))
    assert read(path, Box(80, 40, pixel_height=1.25)).frames[0].width == 50


def test_clip_is_decoded_with_all_frames_and_its_rate(tmp_path: Path) -> None:
    decoded = read(clip(tmp_path / "a.gif"))
    assert (len(decoded.frames), decoded.fps, decoded.complete) == (6, 10.0, True)


@pytest.mark.parametrize("milliseconds", [100, 40])
def test_animated_webp_is_decoded_with_all_frames_and_its_rate(
    tmp_path: Path, milliseconds: int
) -> None:
    decoded = read(clip(tmp_path / "a.webp", milliseconds=milliseconds))
    assert (len(decoded.frames), decoded.fps, decoded.complete) == (6, 1000 / milliseconds, True)
    assert len({frame.data for frame in decoded.frames}) == 6
    size = {(frame.width, frame.height) for frame in decoded.frames}
    assert size == {(frame.width, frame.height) for frame in read(clip(tmp_path / "a.gif")).frames}


def test_cut_off_animated_webp_is_reported(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.webp")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DecodeError, match=r"a\.webp is not an image or is corrupt"):
        read(path)


def test_kitty_shows_photos_at_full_resolution_and_clips_at_half(tmp_path: Path) -> None:
    terminal = replace(BLOCKS, pictures=Pictures.KITTY)
    sizes = {}
    for name in ("photo.webp", "clip.webp", "photo.png", "clip.gif"):
        path = tmp_path / name
        clip(path, 1 if name.startswith("photo") else 3, size=(640, 480))
        image = asyncio.run(load_playback(path, 20, 20, terminal, dark=True)).images[0]
        assert isinstance(image, KittyImage)
        png = base64.b64decode("".join(re.findall(r"m=[01];([^\x1b]+)", image.transmit)))
        sizes[name] = int.from_bytes(png[16:20])
    width = 20 * terminal.cell[0]
    assert sizes == {
        "photo.webp": width,
        "clip.webp": width // 2,
        "photo.png": width,
        "clip.gif": width // 2,
    }


def test_invalid_files_are_reported_with_a_reason(tmp_path: Path) -> None:
    content = still(tmp_path / "whole.png", size=(300, 300)).read_bytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "garbage.mp4").write_bytes(os.urandom(50_000))
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "half.mp4").write_bytes(
        b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41\0\0\0\x08free\0\0\xff\xffmdat" + b"x" * 999
    )
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1\n/etc/hostname\n")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    os.mkfifo(tmp_path / "pipe.mp4")
    problems = {
        "vanished.mp4": "no longer exists",
        "empty.mp4": "is empty",
        "garbage.mp4": "is not an image or is corrupt",
        "half.png": "is not an image or is corrupt",
        "half.mp4": "is incomplete or still being written",
        "list.mp4": "is not an image or is corrupt",
        "huge.png": "is too large to display",
        "pipe.mp4": "is not a regular file",
        "": "is not a regular file",
    }
    for name, problem in problems.items():
        with pytest.raises(DecodeError) as raised:
            read(tmp_path / name)
        assert raised.value.message == f"{(tmp_path / name).name} {problem}."


def test_special_file_names_have_no_effect_on_ffmpeg(tmp_path: Path) -> None:
    for name in ("-i %03d.png", "concat:a|b.png", "https:x.png", "a 'b'; c.png", "-c.webp"):
        assert len(read(still(tmp_path / name)).frames) == 1


def test_cancelled_decoding_ends_its_process(tmp_path: Path) -> None:
    async def run() -> int:
        tasks = [
            asyncio.create_task(decode(clip(tmp_path / "a.gif", 60), Box(40, 22))) for _ in range(2)
        ]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        return sum(isinstance(result, asyncio.CancelledError) for result in done)

    assert asyncio.run(run()) == 2


def two_rows(upper: tuple[int, int, int], lower: tuple[int, int, int], width: int = 4) -> Frame:
    return Frame(width, 2, bytes(upper) * width + bytes(lower) * width)


def test_a_character_is_two_pixels_and_equal_neighbours_are_joined() -> None:
    (row,) = draw(two_rows(RED, BLUE), "truecolor")
    (segment,) = row.strip
    assert (
        segment.text == "▀▀▀▀" and segment.style and segment.style.color and segment.style.bgcolor
    )
    for shown, wanted in ((segment.style.color, RED), (segment.style.bgcolor, BLUE)):
        assert shown.triplet and all(
            abs(a - b) <= 4 for a, b in zip(shown.triplet, wanted, strict=True)
        )
    assert draw(two_rows(RED, RED), "truecolor")[0].strip.text == "    "


@pytest.mark.parametrize(
    ("colours", "levels"), [("256", {0, 95, 135, 175, 215, 255}), ("16", {0, 85, 170, 255})]
)
def test_dithering_keeps_the_brightness(colours: Colours, levels: set[int]) -> None:
    frame = Frame(16, 16, bytes((115, 115, 115)) * 256)
    shown = [
        channel
        for row in draw(frame, colours)
        for segment in row.strip
        for colour in (segment.style.color or segment.style.bgcolor, segment.style.bgcolor)  # type: ignore[union-attr]
        for channel in colour.triplet * len(segment.text)  # type: ignore[union-attr]
    ]
    assert set(shown) <= levels and len(set(shown)) == 2
    assert abs(sum(shown) / len(shown) - 115) < 8


def test_image_without_colours_is_a_character_ramp() -> None:
    frame = Frame(3, 2, bytes((0, 0, 0, 128, 128, 128, 255, 255, 255)) * 2)
    (row,) = draw(frame, "none")
    assert row.strip.text == " +@" and [segment.style for segment in row.strip] == [None]
    assert draw(frame, "none", dark=False)[0].strip.text == "@= "


def test_every_placeholder_encodes_image_row_and_column() -> None:
    rows = kitty.draw(0x123456, 30, 4)
    assert [row.strip.cell_length for row in rows] == [30] * 4
    (segment,) = rows[2].strip.crop(5, 7)
    marks = kitty.diacritics()
    assert segment.text == f"\U0010eeee{marks[2]}{marks[5]}\U0010eeee{marks[2]}{marks[6]}"
    assert (
        segment.style and segment.style.color and segment.style.color.triplet == (0x12, 0x34, 0x56)
    )
    assert len(set(marks)) == len(marks) == 245


def test_image_is_sent_in_chunks_and_wrapped_for_tmux() -> None:
    frame = Frame(10, 10, os.urandom(5000))
    command = kitty.transmit_command(frame, 7, 20, 5, tmux=False)
    first, second = command.removesuffix("\x1b\\").split("\x1b\\")
    assert first.startswith("\x1b_Ga=T,U=1,f=100,t=d,i=7,c=20,r=5,q=2,m=1;") and second.startswith(
        "\x1b_Gq=2,m=0;"
    )
    assert len(first.partition(";")[2]) == 4096
    wrapped = kitty.transmit_command(frame, 7, 20, 5, tmux=True)
    assert wrapped == "\x1bPtmux;" + command.replace("\x1b", "\x1b\x1b") + "\x1b\\"


def test_long_clip_is_subsampled_only_for_kitty(
    tmp_path: Path,
) -> None:
    path = clip(tmp_path / "a.gif", 90)
    playback = asyncio.run(load_playback(path, 60, 20, BLOCKS, dark=True))
    assert (playback.total, playback.stride, len(playback.drawings), playback.fps) == (
        90,
        1,
        90,
        10.0,
    )
    kept = asyncio.run(
        load_playback(path, 60, 20, replace(BLOCKS, pictures=Pictures.KITTY), dark=True)
    )
    assert (kept.total, kept.stride, len(kept.images), kept.fps) == (90, 3, 30, 10.0 / 3)


def test_exceeded_budget_requires_waiting() -> None:
    budget = Budget(1000)
    assert budget.wait() == 0
    budget.spend(100)
    budget.spend(400)
    assert 0.4 < budget.wait() <= 0.5


class Gallery(App[None]):
    CSS = "ClipView { border: round gray; }"

    def __init__(self, terminal: Terminal = BLOCKS) -> None:
        super().__init__()
        self.terminal = terminal

    def compose(self) -> ComposeResult:
        yield ClipView("step 100")

    @property
    def clip(self) -> ClipView:
        return self.query_one(ClipView)

    def text(self) -> str:
        return "\n".join(strip.text for strip in self.screen._compositor.render_strips())  # pyright: ignore[reportPrivateUsage]


async def wait_for(app: Gallery, wanted: str) -> None:
    for _ in range(200):
        if wanted in app.text():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{wanted!r} is not on the screen:\n{app.text()}")


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_clip_plays_pauses_and_steps(tmp_path: Path, suffix: str) -> None:
    async def run() -> None:
        app = Gallery()
        async with app.run_test(size=(60, 20)) as pilot:
            app.clip.show(clip(tmp_path / f"a.{suffix}"))
            await wait_for(app, "1 of 6, playing")
            await wait_for(app, "4 of 6, playing")
            app.clip.playing = False
            await wait_for(app, "paused")
            app.clip.frame(1)
            await pilot.pause()
            before = app.text()
            await asyncio.sleep(0.3)
            assert app.text() == before
            app.clip.frame(-1)
            app.clip.frame(-1)
            await pilot.pause()
            assert app.text() != before
            await pilot.click(ClipView)
            assert app.clip.playing and "step 100" in app.text() and app.clip.frames == 6

    asyncio.run(run())


def test_only_changed_rows_are_repainted(tmp_path: Path) -> None:
    async def run() -> None:
        app = Gallery()
        async with app.run_test(size=(60, 20)) as pilot:
            app.clip.playing = False
            app.clip.show(clip(tmp_path / "a.gif"))
            await wait_for(app, "1 of 6, paused")
            await pilot.pause()
            app.clip.frame(1)
            regions = app.clip._repaint_regions  # pyright: ignore[reportPrivateUsage]
            assert 0 < sum(region.height for region in regions) < 8

    asyncio.run(run())


def test_still_image_is_fitted_again_after_a_resize(tmp_path: Path) -> None:
    async def run() -> None:
        app = Gallery()
        async with app.run_test(size=(60, 20)) as pilot:
            app.clip.show(still(tmp_path / "a.png"), title="ada.png")
            await wait_for(app, "ada.png")
            await wait_for_height(app, 16)
            await pilot.resize_terminal(30, 40)
            await wait_for_height(app, 11)

    async def wait_for_height(app: Gallery, height: int) -> None:
        for _ in range(100):
            playback = app.clip._playback  # pyright: ignore[reportPrivateUsage]
            if playback and len(playback.drawings[0]) == height:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the image was not drawn again")

    asyncio.run(run())


def test_hidden_clip_pauses_until_it_is_visible(tmp_path: Path) -> None:
    async def run() -> None:
        app = Gallery()
        async with app.run_test(size=(60, 20)):
            app.clip.show(clip(tmp_path / "a.gif"))
            await wait_for(app, "2 of 6")
            app.clip.display = False
            await asyncio.sleep(0.1)
            index = app.clip._index  # pyright: ignore[reportPrivateUsage]
            await asyncio.sleep(0.5)
            assert app.clip._index == index  # pyright: ignore[reportPrivateUsage]
            app.clip.display = True
            await wait_for(app, f"{(index + 2) % 6 + 1} of 6")

    asyncio.run(run())


def test_clips_respect_the_limit_of_bytes_per_second(tmp_path: Path) -> None:
    async def run() -> None:
        app = Gallery(replace(BLOCKS, bytes_per_second=1501))
        async with app.run_test(size=(60, 20)):
            app.clip.show(clip(tmp_path / "a.gif"))
            await wait_for(app, "1 of 6")
            await wait_for(app, "2 of 6")
            await asyncio.sleep(0.5)
            assert "2 of 6" in app.text() or "3 of 6" in app.text()

    asyncio.run(run())


def test_missing_files_and_disabled_images_are_reported_on_the_screen(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        app = Gallery()
        async with app.run_test(size=(60, 20)):
            app.clip.show(tmp_path / "gone.mp4")
            await wait_for(app, "gone.mp4 no longer exists.")
            app.clip.show(None)
            await asyncio.sleep(0.1)
            assert "gone.mp4" not in app.text()
            app.terminal = replace(BLOCKS, pictures=Pictures.OFF)
            app.clip.show(still(tmp_path / "a.png"))
            await wait_for(app, "Images are disabled.")

    asyncio.run(run())


SHOWING = """
import sys
from pathlib import Path
from pvtool.terminal import prepare, probe
terminal = probe()
prepare(terminal)
from textual.app import App
from pvtool.dashboard.driver import make_driver_class
from pvtool.dashboard.widgets.picture import ClipView

class Showing(App):
    BINDINGS = [("q", "quit", "End"), ("n", "next", "Next"), ("t", "theme", "Theme")]
    def compose(self):
        yield ClipView()
    def on_mount(self):
        self.terminal = terminal
        self.query_one(ClipView).show(Path(sys.argv[1]))
    def action_next(self):
        self.query_one(ClipView).show(Path(sys.argv[2]))
Showing(driver_class=make_driver_class(terminal)).run()
"""


def test_kitty_receives_each_image_once_and_all_are_deleted_at_exit(tmp_path: Path) -> None:
    animated, image = clip(tmp_path / "a.gif", 3), still(tmp_path / "b.png")
    with SimulatedTerminal(SHOWING, str(animated), str(image)) as terminal:
        terminal.wait_for(r"3 of 3[\s\S]*1 of 3[\s\S]*3 of 3")
        terminal.type("n")
        terminal.wait_for(r"(a=T[\s\S]*){4}")
        terminal.type("q")
        terminal.result()
        sent = sorted(part.split(",")[4] for part in terminal.written.split("\x1b_Ga=T")[1:])
        freed = sorted(part.split(",")[2] for part in terminal.written.split("\x1b_Ga=d")[1:])
        assert len(sent) == 4 and len(set(sent)) == 4 and sent == freed
        assert "a=d" not in terminal.written.partition("\x1b[?1049l")[2]
        assert "\U0010eeee" in terminal.written


async def test_file_replaced_before_loading_is_never_read(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    app = Gallery()
    async with app.run_test(size=(60, 20)):
        app.clip.show(tmp_path / "first.png")
        app.clip.show(still(tmp_path / "second.png"), "second")
        async with asyncio.timeout(60):
            while not app.clip.frames:
                await asyncio.sleep(0.02)
        assert app.clip.title == "second" and "no longer exists" not in app.text()
    gc.collect()  # objects of other tests may warn, too
    assert not [one for one in recwarn if "'ClipView._load' was never" in str(one.message)]
