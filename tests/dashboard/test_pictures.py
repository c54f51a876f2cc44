"""Clips and photos on a terminal: read from any file, drawn in any colours, played within a budget."""

import asyncio
import gc
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from textual.app import App, ComposeResult

from pvtool.dashboard.images import kitty
from pvtool.dashboard.images.decode import Box, Film, Frame, Unshowable, decode
from pvtool.dashboard.images.half_blocks import draw
from pvtool.dashboard.images.player import Budget, load_playback
from pvtool.dashboard.widgets.picture import ClipView
from pvtool.terminal import Colours, Pictures, Terminal
from tests.support.sample_data import BLUE, RED, clip
from tests.support.terminal import PlayedTerminal

BLOCKS = Terminal(Pictures.BLOCKS, False, "truecolor", bytes_per_second=10**9)


def picture(
    path: Path, colour: tuple[int, int, int] = RED, size: tuple[int, int] = (64, 48)
) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def read(path: Path, box: Box | None = None) -> Film:
    return asyncio.run(decode(path, box or Box(40, 22)))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif"])
def test_a_photo_is_read_as_small_as_it_is_drawn_and_keeps_its_shape(
    tmp_path: Path, suffix: str
) -> None:
    (frame,) = read(picture(tmp_path / f"a.{suffix}", size=(640, 480))).frames
    assert (frame.width, frame.height) == (29, 22)
    assert all(abs(value - wanted) < 12 for value, wanted in zip(frame.data[:3], RED, strict=True))
    (upright,) = read(picture(tmp_path / f"b.{suffix}", size=(100, 900))).frames
    assert (upright.width, upright.height) == (2, 22)


def test_a_tall_cell_makes_a_picture_wider_in_cells(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", size=(100, 100))
    assert read(path, Box(80, 40, tallness=1.25)).frames[0].width == 50


def test_a_clip_has_all_its_frames_and_its_rate(tmp_path: Path) -> None:
    film = read(clip(tmp_path / "a.gif"))
    assert (len(film.frames), film.fps, film.whole) == (6, 10.0, True)


def test_what_cannot_be_shown_is_said_in_a_sentence(tmp_path: Path) -> None:
    whole = picture(tmp_path / "whole.png", size=(300, 300)).read_bytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "garbage.mp4").write_bytes(os.urandom(50_000))
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "half.mp4").write_bytes(
        b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41\0\0\0\x08free\0\0\xff\xffmdat" + b"x" * 999
    )
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1\n/etc/hostname\n")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    os.mkfifo(tmp_path / "pipe.mp4")
    sentences = {
        "vanished.mp4": "is not there any more",
        "empty.mp4": "is empty",
        "garbage.mp4": "is no picture, or a broken one",
        "half.png": "is no picture, or a broken one",
        "half.mp4": "is no whole clip; it may still be written",
        "list.mp4": "is no picture, or a broken one",
        "huge.png": "is too large to be shown",
        "pipe.mp4": "is no file",
        "": "is no file",
    }
    for name, sentence in sentences.items():
        with pytest.raises(Unshowable) as refused:
            read(tmp_path / name)
        assert refused.value.message == f"{(tmp_path / name).name} {sentence}."


def test_no_file_name_means_anything_to_ffmpeg(tmp_path: Path) -> None:
    for name in ("-i %03d.png", "concat:a|b.png", "https:x.png", "a 'b'; c.png"):
        assert len(read(picture(tmp_path / name)).frames) == 1


def test_reading_is_given_up_with_its_process_when_it_is_no_longer_wanted(tmp_path: Path) -> None:
    async def scene() -> int:
        many = [
            asyncio.create_task(decode(clip(tmp_path / "a.gif", 60), Box(40, 22))) for _ in range(2)
        ]
        await asyncio.sleep(0.01)
        for task in many:
            task.cancel()
        done = await asyncio.gather(*many, return_exceptions=True)
        return sum(isinstance(result, asyncio.CancelledError) for result in done)

    assert asyncio.run(scene()) == 2


def plain(upper: tuple[int, int, int], lower: tuple[int, int, int], width: int = 4) -> Frame:
    return Frame(width, 2, bytes(upper) * width + bytes(lower) * width)


def test_a_character_is_two_pixels_and_equal_neighbours_are_one_piece() -> None:
    (row,) = draw(plain(RED, BLUE), "truecolor")
    (segment,) = row.strip
    assert (
        segment.text == "▀▀▀▀" and segment.style and segment.style.color and segment.style.bgcolor
    )
    for shown, wanted in ((segment.style.color, RED), (segment.style.bgcolor, BLUE)):
        assert shown.triplet and all(
            abs(a - b) <= 4 for a, b in zip(shown.triplet, wanted, strict=True)
        )
    assert draw(plain(RED, RED), "truecolor")[0].strip.text == "    "


@pytest.mark.parametrize(
    ("colours", "levels"), [("256", {0, 95, 135, 175, 215, 255}), ("16", {0, 85, 170, 255})]
)
def test_few_colours_are_mixed_so_that_the_whole_has_the_right_brightness(
    colours: Colours, levels: set[int]
) -> None:
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


def test_without_colours_a_picture_is_greys_of_characters() -> None:
    frame = Frame(3, 2, bytes((0, 0, 0, 128, 128, 128, 255, 255, 255)) * 2)
    (row,) = draw(frame, "none")
    assert row.strip.text == " +@" and [segment.style for segment in row.strip] == [None]
    assert draw(frame, "none", dark=False)[0].strip.text == "@= "


def test_a_placeholder_names_picture_row_and_column_in_every_cell() -> None:
    rows = kitty.draw(0x123456, 30, 4)
    assert [row.strip.cell_length for row in rows] == [30] * 4
    (segment,) = rows[2].strip.crop(5, 7)
    marks = kitty.marks()
    assert segment.text == f"\U0010eeee{marks[2]}{marks[5]}\U0010eeee{marks[2]}{marks[6]}"
    assert (
        segment.style and segment.style.color and segment.style.color.triplet == (0x12, 0x34, 0x56)
    )
    assert len(set(marks)) == len(marks) == 245


def test_a_picture_is_sent_in_pieces_and_through_tmux_as_one_wrapped_message() -> None:
    frame = Frame(10, 10, os.urandom(5000))
    said = kitty.transmission(frame, 7, 20, 5, tmux=False)
    first, second = said.removesuffix("\x1b\\").split("\x1b\\")
    assert first.startswith("\x1b_Ga=T,U=1,f=100,t=d,i=7,c=20,r=5,q=2,m=1;") and second.startswith(
        "\x1b_Gq=2,m=0;"
    )
    assert len(first.partition(";")[2]) == 4096
    wrapped = kitty.transmission(frame, 7, 20, 5, tmux=True)
    assert wrapped == "\x1bPtmux;" + said.replace("\x1b", "\x1b\x1b") + "\x1b\\"


def test_a_long_clip_is_kept_whole_but_for_a_terminal_that_keeps_its_pictures(
    tmp_path: Path,
) -> None:
    path = clip(tmp_path / "a.gif", 90)
    reel = asyncio.run(load_playback(path, 60, 20, BLOCKS, dark=True))
    assert (reel.total, reel.stride, len(reel.drawings), reel.fps) == (90, 1, 90, 10.0)
    kept = asyncio.run(
        load_playback(path, 60, 20, replace(BLOCKS, pictures=Pictures.KITTY), dark=True)
    )
    assert (kept.total, kept.stride, len(kept.sheets), kept.fps) == (90, 3, 30, 10.0 / 3)


def test_a_budget_makes_who_spent_too_much_wait() -> None:
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


async def settle(app: Gallery, wanted: str) -> None:
    for _ in range(200):
        if wanted in app.text():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{wanted!r} is not on the screen:\n{app.text()}")


def test_a_clip_moves_by_itself_and_holds_and_steps_when_told(tmp_path: Path) -> None:
    async def scene() -> None:
        app = Gallery()
        async with app.run_test(size=(60, 20)) as pilot:
            app.clip.show(clip(tmp_path / "a.gif"))
            await settle(app, "1 of 6, playing")
            await settle(app, "4 of 6, playing")
            app.clip.playing = False
            await settle(app, "held")
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

    asyncio.run(scene())


def test_only_rows_that_changed_are_painted_again(tmp_path: Path) -> None:
    async def scene() -> None:
        app = Gallery()
        async with app.run_test(size=(60, 20)) as pilot:
            app.clip.playing = False
            app.clip.show(clip(tmp_path / "a.gif"))
            await settle(app, "1 of 6, held")
            await pilot.pause()
            app.clip.frame(1)
            regions = app.clip._repaint_regions  # pyright: ignore[reportPrivateUsage]
            assert 0 < sum(region.height for region in regions) < 8

    asyncio.run(scene())


def test_a_still_fits_its_room_and_fits_it_again_after_a_resize(tmp_path: Path) -> None:
    async def scene() -> None:
        app = Gallery()
        async with app.run_test(size=(60, 20)) as pilot:
            app.clip.show(picture(tmp_path / "a.png"), title="ada.png")
            await settle(app, "ada.png")
            await settled_height(app, 16)
            await pilot.resize_terminal(30, 40)
            await settled_height(app, 11)

    async def settled_height(app: Gallery, height: int) -> None:
        for _ in range(100):
            reel = app.clip._reel  # pyright: ignore[reportPrivateUsage]
            if reel and len(reel.drawings[0]) == height:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the picture was not drawn anew")

    asyncio.run(scene())


def test_a_hidden_clip_holds_and_goes_on_when_it_is_seen_again(tmp_path: Path) -> None:
    async def scene() -> None:
        app = Gallery()
        async with app.run_test(size=(60, 20)):
            app.clip.show(clip(tmp_path / "a.gif"))
            await settle(app, "2 of 6")
            app.clip.display = False
            await asyncio.sleep(0.1)
            at = app.clip._at  # pyright: ignore[reportPrivateUsage]
            await asyncio.sleep(0.5)
            assert app.clip._at == at  # pyright: ignore[reportPrivateUsage]
            app.clip.display = True
            await settle(app, f"{(at + 2) % 6 + 1} of 6")

    asyncio.run(scene())


def test_moving_pictures_keep_to_their_bytes_a_second(tmp_path: Path) -> None:
    async def scene() -> None:
        app = Gallery(replace(BLOCKS, bytes_per_second=1501))
        async with app.run_test(size=(60, 20)):
            app.clip.show(clip(tmp_path / "a.gif"))
            await settle(app, "1 of 6")
            await settle(app, "2 of 6")
            await asyncio.sleep(0.5)
            assert "2 of 6" in app.text() or "3 of 6" in app.text()

    asyncio.run(scene())


def test_a_broken_file_a_vanished_one_and_no_pictures_are_said_on_the_screen(
    tmp_path: Path,
) -> None:
    async def scene() -> None:
        app = Gallery()
        async with app.run_test(size=(60, 20)):
            app.clip.show(tmp_path / "gone.mp4")
            await settle(app, "gone.mp4 is not there any more.")
            app.clip.show(None)
            await asyncio.sleep(0.1)
            assert "gone.mp4" not in app.text()
            app.terminal = replace(BLOCKS, pictures=Pictures.OFF)
            app.clip.show(picture(tmp_path / "a.png"))
            await settle(app, "Pictures are off.")

    asyncio.run(scene())


SHOWING = """
import sys
from pathlib import Path
from pvtool.terminal import prepare, probe
terminal = probe()
prepare(terminal)
from textual.app import App
from pvtool.dashboard.driver import patient_driver
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
Showing(driver_class=patient_driver(terminal)).run()
"""


def test_kitty_gets_each_picture_once_and_frees_all_before_it_is_left(tmp_path: Path) -> None:
    moving, still = clip(tmp_path / "a.gif", 3), picture(tmp_path / "b.png")
    with PlayedTerminal(SHOWING, str(moving), str(still)) as terminal:
        terminal.wait_for(r"3 of 3[\s\S]*1 of 3[\s\S]*3 of 3")
        terminal.type("n")
        terminal.wait_for(r"(a=T[\s\S]*){4}")
        terminal.type("q")
        terminal.said()
        sent = sorted(part.split(",")[4] for part in terminal.written.split("\x1b_Ga=T")[1:])
        freed = sorted(part.split(",")[2] for part in terminal.written.split("\x1b_Ga=d")[1:])
        assert len(sent) == 4 and len(set(sent)) == 4 and sent == freed
        assert "a=d" not in terminal.written.partition("\x1b[?1049l")[2]
        assert "\U0010eeee" in terminal.written


@pytest.mark.filterwarnings("error")
async def test_a_clip_told_of_another_file_before_it_began_on_the_first_reads_only_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    app = Gallery()
    async with app.run_test(size=(60, 20)):
        app.clip.show(tmp_path / "first.png")
        app.clip.show(picture(tmp_path / "second.png"), "second")
        async with asyncio.timeout(10):
            while not app.clip.frames:
                await asyncio.sleep(0.02)
        assert app.clip.title == "second" and "not there" not in app.text()
    gc.collect()
    assert not lost
