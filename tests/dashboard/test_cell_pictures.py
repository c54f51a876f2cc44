"""Sixel and iTerm2 pictures: parts of them replace placeholders in what Textual paints."""

import asyncio
import base64
import io
import random
from pathlib import Path
from time import monotonic, sleep

import pytest
from PIL import Image
from rich.console import Console
from rich.segment import Segment
from textual.strip import Strip

from pvtool.dashboard.images.cell_pictures import CellPicture, replace_placeholders
from pvtool.dashboard.images.decode import Frame
from pvtool.dashboard.images.half_blocks import dither
from pvtool.dashboard.images.iterm2 import ITerm2Image
from pvtool.dashboard.images.player import load_playback
from pvtool.dashboard.images.sixel import SixelImage
from pvtool.terminal import Pictures, Terminal
from tests.support.sample_data import clip
from tests.support.sixel import SixelScreen, decode_sixel
from tests.support.terminal import SimulatedTerminal

LEVELS = (0, 51, 102, 153, 204, 255)
SIXEL = {
    "\x1b[>0q": "\x1bP>|XTerm(390)\x1b\\",
    "\x1b[16t": "\x1b[6;18;9t",
    "\x1b[c": "\x1b[?64;1;4;22c",
}


def noise(width: int, height: int) -> Frame:
    """Return a smooth gradient with noise, so that many colours occur."""
    source = random.Random(5)
    pixels = (
        min(255, position % width * 200 // width + source.randrange(56))
        for position in range(width * height)
        for _ in range(3)
    )
    return Frame(width, height, bytes(pixels))


def as_image(frame: Frame, pixels: bytes) -> Image.Image:
    return Image.frombytes("RGB", (frame.width, frame.height), pixels)


def sixel(command: str) -> Image.Image:
    return decode_sixel(command.removeprefix("\x1bP0;1q").removesuffix("\x1b\\"))


def inline_image(command: str) -> Image.Image:
    data = base64.b64decode(command.removesuffix("\x07").partition(":")[2])
    assert f"size={len(data)};" in command
    return Image.open(io.BytesIO(data)).convert("RGB")


@pytest.mark.parametrize(("cell", "scale"), [((10, 20), 1), ((9, 17), 1), ((10, 18), 2)])
def test_sixel_rows_reproduce_the_dithered_frame(cell: tuple[int, int], scale: int) -> None:
    columns, rows = 5, 2
    frame = noise(columns * cell[0] // scale, rows * cell[1] // scale)
    image = SixelImage.of(frame, cell, scale)
    wanted = as_image(frame, dither(frame, LEVELS)).resize(
        (columns * cell[0], rows * cell[1]), Image.Resampling.NEAREST
    )
    for row in range(rows):
        box = (0, row * cell[1], columns * cell[0], (row + 1) * cell[1])
        assert sixel(image.part(row, 0, columns)).tobytes() == wanted.crop(box).tobytes()
        part = (2 * cell[0], row * cell[1], 4 * cell[0], (row + 1) * cell[1])
        assert sixel(image.part(row, 2, 4)).tobytes() == wanted.crop(part).tobytes()


def test_repeated_pixels_fit_cells_of_odd_size() -> None:
    frame = noise(2 * 5, 9)
    shown = sixel(SixelImage.of(frame, (9, 17), 2).part(0, 0, 2))
    source = as_image(frame, dither(frame, LEVELS))
    assert shown.size == (18, 17)
    for x in range(18):
        place = x // 9 * 5 + x % 9 // 2
        assert [shown.getpixel((x, y)) for y in range(17)] == [
            source.getpixel((place, y // 2)) for y in range(17)
        ]


def test_dithering_keeps_the_brightness_of_a_picture() -> None:
    colour = (115, 70, 200)
    frame = Frame(40, 20, bytes(colour) * 800)
    shown = sixel(SixelImage.of(frame, (10, 20), 1).part(0, 0, 4))
    mean = shown.resize((1, 1), Image.Resampling.BOX).tobytes()
    assert all(abs(value - wanted) < 8 for value, wanted in zip(mean, colour, strict=True))


def test_iterm2_receives_a_png_of_exactly_the_cells() -> None:
    frame = noise(40, 40)
    command = ITerm2Image.of(frame, (10, 20)).part(1, 1, 3)
    assert command.startswith("\x1b]1337;File=inline=1;size=")
    assert "width=2;height=1;preserveAspectRatio=0;" in command
    wanted = as_image(frame, frame.data).crop((10, 20, 30, 40))
    shown = inline_image(command)
    assert shown.size == wanted.size
    pairs = zip(shown.tobytes(), wanted.tobytes(), strict=True)
    assert max(abs(value - source) for value, source in pairs) <= 4


def painted(*strips: Strip, line: int = 1) -> str:
    console = Console(color_system="truecolor", force_terminal=True)
    return f"\x1b[{line};1H" + "".join(strip.render(console) for strip in strips)


def test_covered_cells_are_not_drawn() -> None:
    frame = noise(80, 20)
    picture = CellPicture(SixelImage.of(frame, (10, 20), 1), 8, 1)
    (row,) = picture.draw()
    dialog = Strip([Segment("OK")])
    text = painted(row.strip.crop(0, 3), dialog, row.strip.crop(5, 8))
    screen = SixelScreen((8, 3), (10, 20))
    screen.feed(replace_placeholders(text, {picture.image_id: picture}, 3))
    wanted = as_image(frame, dither(frame, LEVELS))
    wanted.paste(Image.new("RGB", (20, 20)), (30, 0))
    assert screen.image.crop((0, 0, 80, 20)).tobytes() == wanted.tobytes()


def test_pictures_never_scroll_the_screen_and_unknown_ones_are_blank() -> None:
    frame = noise(20, 20)
    six = CellPicture(SixelImage.of(frame, (10, 20), 1), 2, 1)
    png = CellPicture(ITerm2Image.of(frame, (10, 20)), 2, 1)
    known = {picture.image_id: picture for picture in (six, png)}
    for picture, line, drawn in ((six, 3, False), (six, 2, True), (png, 3, True)):
        text = painted(picture.draw()[0].strip, line=line)
        assert (picture.part(0, 0, 2) in replace_placeholders(text, known, 3)) is drawn
        blank = replace_placeholders(text, {}, 3)
        assert "\U0010eeee" not in blank and "m  \x1b[0m" in blank


@pytest.mark.parametrize("pictures", [Pictures.SIXEL, Pictures.ITERM2])
def test_photos_have_the_full_resolution_and_clips_half(tmp_path: Path, pictures: Pictures) -> None:
    terminal = Terminal(pictures, False, "truecolor", cell=(9, 17))
    for name, frames, size in (("a.png", 1, (9, 17)), ("a.gif", 3, (5, 9))):
        path = clip(tmp_path / name, frames, size=(640, 480))
        playback = asyncio.run(load_playback(path, 20, 20, terminal, dark=True))
        assert len(playback.images) == frames and len(playback.drawings[0]) == 8
        picture = playback.images[0]
        assert isinstance(picture, CellPicture)
        command = picture.part(0, 0, 20)
        if pictures is Pictures.SIXEL:
            assert sixel(command).size == (20 * 9, 17)
        else:
            assert inline_image(command).size == (20 * size[0], size[1])


def test_rows_that_do_not_change_between_frames_are_equal(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.gif", 3)
    terminal = Terminal(Pictures.SIXEL, False, "truecolor")
    first, second, _ = asyncio.run(load_playback(path, 40, 20, terminal, dark=True)).drawings
    same = [one.pixels == other.pixels for one, other in zip(first, second, strict=True)]
    assert any(same) and not all(same)


COVERED = """
import sys
from pathlib import Path
from pvtool.terminal import prepare, probe
terminal = probe()
prepare(terminal)
from textual.app import App
from textual.widgets import Static
from pvtool.dashboard.driver import make_driver_class
from pvtool.dashboard.widgets.picture import ClipView

class Covered(App):
    CSS = '''
    Screen { layers: pictures dialogs; }
    Static { layer: dialogs; width: 10; height: 4; offset: 18 5; display: none; }
    '''
    BINDINGS = [("q", "quit", "End"), ("d", "dialog", "Dialog")]
    def compose(self):
        yield ClipView()
        yield Static("visible")
    def on_mount(self):
        self.terminal = terminal
        self.query_one(ClipView).show(Path(sys.argv[1]))
    def action_dialog(self):
        self.query_one(Static).display = not self.query_one(Static).display
Covered(driver_class=make_driver_class(terminal)).run()
"""


def test_dialog_over_a_picture_covers_only_its_own_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise_image = noise(64, 48)
    as_image(noise_image, noise_image.data).resize((640, 480)).save(path)

    size = (40, 12)
    screen = SixelScreen(size, (9, 18))
    with SimulatedTerminal(COVERED, str(path), answers=SIXEL, size=size) as terminal:
        before, end = show_next(screen, terminal, 0, 11)
        terminal.type("d")
        covered, end = show_next(screen, terminal, end, 4)
        terminal.type("d")
        after, _ = show_next(screen, terminal, end, 4)
        terminal.type("q")
        terminal.result()
        assert "\U0010eeee" not in terminal.written
    wanted = before.copy()
    wanted.paste(Image.new("RGB", (90, 72)), (162, 90))
    assert covered.tobytes() == wanted.tobytes() != before.tobytes()
    assert after.tobytes() == before.tobytes()


def show_next(
    screen: SixelScreen, terminal: SimulatedTerminal, start: int, pictures: int
) -> tuple[Image.Image, int]:
    """Show what follows the start, once it has this many pictures and the end of a frame."""
    deadline = monotonic() + 20
    while True:
        new = terminal.written[start:]
        if new.count("\x1bP0;1q") >= pictures and new.endswith("\x1b[1;1H"):
            break
        assert monotonic() < deadline, new[-500:]
        sleep(0.02)
    screen.feed(new)
    return screen.image.copy(), start + len(new)
