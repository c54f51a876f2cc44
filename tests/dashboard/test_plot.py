"""A plot as a person uses it: every key of its table, the mouse, and what can be read on it."""

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.events import MouseScrollUp
from textual.pilot import Pilot

from pvtool.dashboard import keys
from pvtool.dashboard.plot.paint import Painter
from pvtool.dashboard.plot.raster import glyphs_named
from pvtool.dashboard.plot.series import Series
from pvtool.dashboard.widgets.plot import Curve, Plot, View
from pvtool_core.errors import UsageError
from tests.support.screen_text import seen as screen_text

STEPS = 1000


def rising(steps: int = STEPS, missing: Sequence[int] = (), shift: float = 0.0) -> Series:
    """From 0.2 to 0.8, one step each two seconds."""
    series = Series()
    for step in range(steps):
        series.append(
            step, 5000 + 2 * step, None if step in missing else 0.2 + 0.6 * step / STEPS + shift
        )
    return series


class TwoPlots(App[None]):
    def __init__(self, first: Sequence[Curve], second: Sequence[Curve] = ()) -> None:
        super().__init__()
        self.view = View()
        self.view.weight = 0.0
        self.curves = first, second

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Plot("icr", self.view, (0, 1), id="first")
            yield Plot("loss", self.view, id="second")

    def on_mount(self) -> None:
        for plot, curves in zip(self.query(Plot), self.curves, strict=True):
            plot.show(curves)


class Seen:
    """What is on the screen, and hands on it."""

    def __init__(self, app: TwoPlots, pilot: Pilot[None]) -> None:
        self.app, self.pilot, self.view = app, pilot, app.view
        self.first, self.second = app.query_one("#first", Plot), app.query_one("#second", Plot)

    async def press(self, *pressed: str) -> None:
        await self.pilot.press(*pressed)
        await self.pilot.pause()

    def rows(self, plot: Plot) -> list[str]:
        """The plot's rows, without its border."""
        strips = self.app.screen._compositor.render_strips()  # pyright: ignore[reportPrivateUsage]
        region = plot.content_region
        return [strips[y].crop(region.x, region.right).text for y in range(region.y, region.bottom)]

    def text(self, plot: Plot) -> str:
        return "\n".join(self.rows(plot))

    def axis(self, plot: Plot) -> str:
        return self.rows(plot)[-1]


@asynccontextmanager
async def screen(
    first: Sequence[Curve] | None = None,
    second: Sequence[Curve] = (),
    size: tuple[int, int] = (80, 24),
) -> AsyncGenerator[Seen]:
    app = TwoPlots([Curve("icr", rising(), "main")] if first is None else first, second)
    async with app.run_test(size=size) as pilot:
        app.query_one("#first").focus()
        await pilot.pause()
        yield Seen(app, pilot)


def pressed(action: str) -> list[str]:
    """Every key that the table binds to an action."""
    bound = [
        binding
        for binding in keys.PLOT
        if isinstance(binding, Binding) and binding.action == action
    ]
    return [key for binding in bound for key in binding.key.split(",")]


async def test_the_newest_value_and_whether_it_is_followed_are_in_the_title() -> None:
    async with screen() as seen:
        assert seen.first.border_title == "icr 0.799 · live"
        await seen.press("plus")
        assert seen.first.border_title == "icr 0.799 · held"
        assert seen.second.border_title == "loss · held"


@pytest.mark.parametrize("key", pressed("zoom(1)"))
async def test_zooming_in_keeps_the_newest_value_in_sight_and_takes_all_plots_along(
    key: str,
) -> None:
    async with screen(second=[Curve("loss", rising(), "main")]) as seen:
        await seen.press(key)
        assert seen.view.shown() == pytest.approx((333, 999), abs=1)
        assert " 400 " in seen.axis(seen.first)
        assert seen.axis(seen.first) == seen.axis(seen.second)


@pytest.mark.parametrize("key", pressed("zoom(-1)"))
async def test_zooming_out_ends_with_everything_and_following_it(key: str) -> None:
    async with screen() as seen:
        await seen.press("plus", "plus", key)
        assert seen.view.range
        await seen.press(key)
        assert seen.view.range is None
        assert "live" in str(seen.first.border_title)


@pytest.mark.parametrize(("action", "moved"), [("pan(-1)", -1), ("pan(1)", 1)])
async def test_panning_moves_by_an_eighth_and_stops_at_the_ends(action: str, moved: int) -> None:
    for key in pressed(action):
        async with screen() as seen:
            seen.view.look(400, 480)
            await seen.press(key)
            assert seen.view.range == pytest.approx((400 + 10 * moved, 480 + 10 * moved))
            seen.view.look(*((15, 95) if moved < 0 else (904, 984)))
            await seen.press(key, key)
            assert seen.view.range == pytest.approx((0, 80) if moved < 0 else (919, 999))


@pytest.mark.parametrize("key", pressed("fit"))
async def test_fit_shows_all_and_follows_again(key: str) -> None:
    async with screen() as seen:
        await seen.press("plus", "comma", key)
        assert seen.view.range is None
        assert "step" not in seen.text(seen.first)


@pytest.mark.parametrize("key", pressed("axis"))
async def test_the_axis_turns_to_elapsed_time_at_the_same_place(key: str) -> None:
    async with screen() as seen:
        seen.view.look(300, 600)
        await seen.press(key)
        assert seen.view.range == (600, 1200)
        assert " 14m " in seen.axis(seen.first)
        await seen.press(key)
        assert seen.view.range == (300, 600)


@pytest.mark.parametrize("key", pressed("log"))
async def test_log_is_each_plots_own_and_leaves_out_what_is_not_above_zero(key: str) -> None:
    decades = Series()
    for step in range(100):
        decades.append(step, step, 0.0 if 40 <= step < 60 else 10 ** (-step / 20))
    async with screen([Curve("loss", decades, "main")], [Curve("loss", decades, "main")]) as seen:
        await seen.press(key)
        assert [row[:5].strip() for row in seen.rows(seen.first) if row[:5].strip()] == [
            "0.1",
            "1e-3",
            "1e-5",
        ]
        assert "1e-5" not in seen.text(seen.second)
        middle = [row[6:][30:43] for row in seen.rows(seen.first)[:-1]]
        assert not any(_braille(row) for row in middle)


@pytest.mark.parametrize("key", pressed("smooth"))
async def test_smoothing_grows_and_then_is_none(key: str) -> None:
    async with screen() as seen:
        weights: list[float] = []
        for _ in range(6):
            await seen.press(key)
            weights.append(seen.view.weight)
        assert weights == [0.6, 0.9, 0.97, 0.99, 0.0, 0.6]
        assert "smoothed 0.6" in str(seen.first.border_subtitle)


@pytest.mark.parametrize("key", pressed("raw"))
async def test_the_raw_curve_behind_the_smooth_one_can_be_left_out(key: str) -> None:
    spiky = Series()
    for step in range(STEPS):
        spiky.append(step, step, 1.0 if step == 500 else 0.1)
    async with screen([Curve("norm", spiky, "main")]) as seen:
        await seen.press("m", "m")
        assert _braille(seen.rows(seen.first)[0])
        await seen.press(key)
        assert not _braille(seen.rows(seen.first)[0])


@pytest.mark.parametrize("key", pressed("autoscale"))
async def test_a_reward_is_shown_in_its_bounds_until_asked_otherwise(key: str) -> None:
    async with screen() as seen:
        assert "1.0" in seen.rows(seen.first)[0]
        await seen.press(key)
        assert "0.8" in seen.rows(seen.first)[0]
        await seen.press(key)
        assert "1.0" in seen.rows(seen.first)[0]


async def test_values_are_read_one_after_the_other() -> None:
    async with screen(second=[Curve("loss", rising(shift=1), "main")]) as seen:
        await seen.press(*pressed("cursor(-1)"))
        assert "step 999 · icr 0.799" in seen.axis(seen.first)
        assert "step 999 · loss 1.80" in seen.axis(seen.second)
        seen.view.look(100, 120)
        await seen.press(*pressed("cursor(-1)"))
        before = seen.view.cursor
        assert before is not None
        await seen.press(*pressed("cursor(1)"))
        assert seen.view.cursor == before + 1


async def test_one_cell_at_a_time_where_values_lie_closer_than_cells() -> None:
    async with screen() as seen:
        await seen.press("comma", "comma")
        assert seen.view.cursor == pytest.approx(999 - 999 / 72, abs=2)


async def test_reading_past_the_edge_moves_the_view() -> None:
    async with screen() as seen:
        seen.view.look(500, 510)
        await seen.press("comma", *["comma"] * 14)
        assert seen.view.cursor == 496
        first, last = seen.view.shown()
        assert first <= 496 <= last


@pytest.mark.parametrize("key", pressed("enlarge"))
async def test_a_plot_takes_the_screen_and_gives_it_back(key: str) -> None:
    async with screen() as seen:
        height = seen.first.size.height
        await seen.press(key)
        assert seen.first.size.height > 1.5 * height
        await seen.press(key)
        assert seen.first.size.height == height


async def test_every_key_of_the_table_does_something() -> None:
    async with screen() as seen:
        for binding in keys.PLOT:
            assert isinstance(binding, Binding)
            if binding.action.startswith("app."):
                continue
            assert hasattr(seen.first, f"action_{binding.action.partition('(')[0]}")


async def test_the_wheel_zooms_where_the_mouse_is() -> None:
    async with screen() as seen:
        await seen.pilot._post_mouse_events([MouseScrollUp], seen.first, offset=(7, 3), button=0)  # pyright: ignore[reportPrivateUsage]
        await seen.pilot.pause()
        assert seen.view.shown()[0] == pytest.approx(0, abs=15)
        assert seen.view.shown()[1] == pytest.approx(666, abs=15)


async def test_dragging_pans() -> None:
    async with screen() as seen:
        seen.view.look(400, 472)
        await seen.pilot.mouse_down(seen.first, offset=(40, 4))
        await seen.pilot.hover(seen.first, offset=(30, 4))
        await seen.pilot.mouse_up(seen.first, offset=(30, 4))
        assert seen.view.range == pytest.approx((410, 482), abs=0.5)


async def test_the_mouse_reads_the_value_under_it_on_all_plots_until_it_leaves() -> None:
    async with screen(second=[Curve("loss", rising(shift=1), "main")]) as seen:
        await seen.pilot.hover(seen.first, offset=(43, 4))
        await seen.pilot.pause()
        assert "icr 0.5" in seen.axis(seen.first)
        assert "loss 1.5" in seen.axis(seen.second)
        assert "│" in seen.text(seen.second)
        await seen.pilot.hover(seen.first, offset=(43, 0))
        seen.view.read(None)
        await seen.pilot.pause()
        assert "step" not in seen.text(seen.second)


async def test_a_value_that_is_no_number_is_a_gap_with_a_mark() -> None:
    async with screen([Curve("icr", rising(20, missing=[10]), "main")]) as seen:
        assert "×" in seen.axis(seen.first)
        mark = seen.axis(seen.first).index("×")
        assert " 10 " not in seen.axis(seen.first)
        assert not any(_braille(row[mark]) for row in seen.rows(seen.first)[:-1])
        seen.view.read(10)
        await seen.pilot.pause()
        assert "icr not a number" in seen.axis(seen.first)


async def test_another_run_is_laid_over_with_other_dots_a_letter_and_its_name() -> None:
    curves = [Curve("icr", rising(), "main"), Curve("anna-2", rising(shift=-0.15), "overlay")]
    async with screen(curves) as seen:
        assert [row[-1] for row in seen.rows(seen.first) if row[-1] in "AB"] == ["A", "B"]
        assert "A icr · B anna-2" in screen_text(seen.app)
        dots = [ord(sign) - 0x2800 for sign in seen.text(seen.first) if _braille(sign)]
        assert any(bits & 0xB8 for bits in dots)
        assert sum(1 for bits in dots if not bits & 0xB8) > 30
        seen.view.read(500)
        await seen.pilot.pause()
        assert "icr 0.500 · anna-2 0.350" in seen.axis(seen.first)


async def test_a_run_that_ended_earlier_is_not_read_past_its_end() -> None:
    async with screen(
        [Curve("icr", rising(), "main"), Curve("short", rising(500), "overlay")]
    ) as seen:
        seen.view.read(400)
        await seen.pilot.pause()
        assert "short 0.440" in seen.axis(seen.first)
        seen.view.read(700)
        await seen.pilot.pause()
        assert "icr 0.620" in seen.axis(seen.first)
        assert "short" not in seen.axis(seen.first)


async def test_new_points_are_followed_but_do_not_move_what_is_held() -> None:
    series = rising()
    async with screen([Curve("icr", series, "main")]) as seen:
        series.append(1999, 9000, 0.9)
        seen.first.refresh_data()
        await seen.pilot.pause()
        assert "1 500" in seen.axis(seen.first)
        seen.view.look(100, 200)
        series.append(2999, 9000, 0.1)
        seen.first.refresh_data()
        await seen.pilot.pause()
        assert seen.view.range == (100, 200)
        assert seen.first.border_title == "icr 0.100 · held"


async def test_a_long_curve_is_smoothed_in_pieces_until_it_is_whole() -> None:
    series = Series()
    for step in range(60_000):
        series.append(step, step, math.sin(step))
    async with screen([Curve("icr", series, "main")]) as seen:
        await seen.press("m")
        for _ in range(100):
            if series.smoothed:
                break
            await seen.pilot.pause(0.01)
        assert series.smoothed
        assert len(series.smoothed.track) == 60_000


async def test_no_values_yet_is_said() -> None:
    async with screen([Curve("icr", Series(), "main")]) as seen:
        assert "no values yet" in seen.text(seen.first)
        assert seen.first.border_title == "icr – · live"
        await seen.press("plus", "minus", "h", "comma", "full_stop", "t", "y", "m", "w", "a", "0")
        assert "no values yet" in seen.text(seen.first)


@pytest.mark.parametrize("size", [(20, 12), (38, 14), (80, 24), (300, 80)])
async def test_every_row_fills_the_plot_at_any_size(size: tuple[int, int]) -> None:
    curves = [Curve("icr", rising(missing=[3]), "main"), Curve("other", rising(), "overlay")]
    async with screen(curves, [Curve("loss", rising(3), "main")], size) as seen:
        for plot in (seen.first, seen.second):
            seen.view.read(2)
            await seen.pilot.pause()
            assert {len(row) for row in seen.rows(plot)} == {plot.size.width}


@given(
    st.integers(1, 60),
    st.integers(1, 9),
    st.booleans(),
    st.sampled_from(["braille", "blocks", "ascii"]),
    st.lists(st.none() | st.floats(-1e9, 1e9), max_size=80),
)
def test_any_values_can_be_painted_into_any_room(
    width: int, height: int, log: bool, way: str, values: list[float | None]
) -> None:
    series, view = Series(), View()
    for step, value in enumerate(values):
        series.append(step, step, value)
    view.range = 0, max(len(values) - 1, 1)
    curves = [Curve("icr", series), Curve("again", series, "overlay")]
    series.smooth(0.9, 40)
    picture = Painter(curves, view, None, log, glyphs_named(way), width, height).paint()
    rows = ["".join(text for text, _ in runs) for runs in picture.rows]
    assert len(rows) == height
    if width >= 16:
        assert {len(row) for row in rows} <= {width, width - 2}


@pytest.mark.parametrize(
    ("way", "solid", "other"), [("blocks", "▄▀▛▞", "▖▘▌"), ("ascii", ".-'|", ",~:")]
)
async def test_without_braille_there_are_blocks_and_plain_characters(
    way: str, solid: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PV_PLOT", way)
    async with screen(
        [Curve("icr", rising(), "main"), Curve("b", rising(shift=-0.2), "overlay")]
    ) as seen:
        text = "".join(row[6:-2] for row in seen.rows(seen.first)[:-1])
        assert not any(_braille(sign) for sign in text)
        assert set(text) & set(solid)
        assert set(text) & set(other)


def test_an_unknown_way_to_draw_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PV_PLOT", "crayon")
    with pytest.raises(UsageError, match="crayon"):
        Plot("icr", View())


def _braille(text: str) -> bool:
    return any(0x2800 < ord(sign) < 0x2900 for sign in text)


async def test_a_plot_that_was_given_another_height_is_drawn_for_it() -> None:
    async with screen() as seen:
        for height in (6, 9, 5):
            seen.second.styles.height = height
            await seen.pilot.pause()
            assert seen.first.content_size.height == 24 - height - 2
            assert " 200 " in seen.axis(seen.first), seen.text(seen.first)


async def test_the_cursor_stays_in_view_and_moves_after_zooming_and_panning() -> None:
    async with screen() as seen:
        await seen.press("0", "plus", "plus", "plus", "h", "h")
        before = seen.view.shown()
        read: list[float] = []
        for _ in range(5):
            await seen.press("comma")
            first, last = seen.view.shown()
            assert seen.view.cursor is not None and first <= seen.view.cursor <= last
            read.append(seen.view.cursor)
        assert seen.view.shown() == before
        assert read == sorted(set(read), reverse=True)


async def test_a_cursor_that_was_panned_out_of_view_comes_back_into_it() -> None:
    async with screen() as seen:
        seen.view.look(800, 900)
        await seen.press("comma")
        seen.view.look(100, 200)
        await seen.press("comma")
        assert seen.view.shown() == (100, 200)
        assert seen.view.cursor is not None and 100 <= seen.view.cursor <= 200


async def test_the_title_of_a_smoothed_curve_is_its_mean_with_the_trend() -> None:
    async with screen() as seen:
        await seen.press("m")
        assert seen.first.border_title == "icr 0.794↑ · live"


async def test_an_ended_run_is_not_called_live() -> None:
    async with screen(second=[Curve("loss", Series(), "main")]) as seen:
        seen.view.live = False
        seen.view.fit()
        await seen.pilot.pause()
        assert seen.first.border_title == "icr 0.799"
        assert "live" not in str(seen.second.border_title)
        assert "yet" not in seen.text(seen.second)


def test_long_noise_is_a_mean_line_before_a_dim_band_and_not_a_block() -> None:
    series, view = Series(exact=True), View()
    for step in range(40_000):
        series.append(step, step, 60 + step * 7919 % 1000 / 1000)
    picture = Painter(
        [Curve("memory", series)], view, (0, 80), False, glyphs_named("braille"), 80, 12
    ).paint()
    bright = [
        len(text.strip()) for row in picture.rows for text, style in row if style == "plot--curve-1"
    ]
    assert sum(bright) <= picture.columns
    view.range = 0, 79
    near = Painter(
        [Curve("memory", series)], view, None, False, glyphs_named("braille"), 80, 12
    ).paint()
    assert not any(style == "plot--raw-1" for row in near.rows for _, style in row)
