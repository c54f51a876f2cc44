"""Plots: keys, mouse and visible values."""

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
from tests.support.screen_text import screen_text

STEPS = 1000


def rising(steps: int = STEPS, missing: Sequence[int] = (), shift: float = 0.0) -> Series:
    """Return values from 0.2 to 0.8, with one step every two seconds."""
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


class PlotPilot:
    """Plots on the screen, with methods to use and read them."""

    def __init__(self, app: TwoPlots, pilot: Pilot[None]) -> None:
        self.app, self.pilot, self.view = app, pilot, app.view
        self.first, self.second = app.query_one("#first", Plot), app.query_one("#second", Plot)

    async def press(self, *pressed: str) -> None:
        await self.pilot.press(*pressed)
        await self.pilot.pause()

    def rows(self, plot: Plot) -> list[str]:
        """Return the rows of a plot without its border."""
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
) -> AsyncGenerator[PlotPilot]:
    app = TwoPlots([Curve("icr", rising(), "main")] if first is None else first, second)
    async with app.run_test(size=size) as pilot:
        app.query_one("#first").focus()
        await pilot.pause()
        yield PlotPilot(app, pilot)


def keys_of(action: str) -> list[str]:
    """Return the keys of an action."""
    bound = [
        binding
        for binding in keys.PLOT
        if isinstance(binding, Binding) and binding.action == action
    ]
    return [key for binding in bound for key in binding.key.split(",")]


async def test_title_shows_the_newest_value_and_the_state() -> None:
    async with screen() as plots:
        assert plots.first.border_title == "icr 0.799 · live"
        await plots.press("plus")
        assert plots.first.border_title == "icr 0.799 · zoomed"
        assert plots.second.border_title == "loss · zoomed"


@pytest.mark.parametrize("key", keys_of("zoom(1)"))
async def test_zooming_in_keeps_the_newest_value_visible_in_all_plots(
    key: str,
) -> None:
    async with screen(second=[Curve("loss", rising(), "main")]) as plots:
        await plots.press(key)
        assert plots.view.visible_range() == pytest.approx((333, 999), abs=1)
        assert " 400 " in plots.axis(plots.first)
        assert plots.axis(plots.first) == plots.axis(plots.second)


@pytest.mark.parametrize("key", keys_of("zoom(-1)"))
async def test_zooming_out_ends_with_the_live_full_range(key: str) -> None:
    async with screen() as plots:
        await plots.press("plus", "plus", key)
        assert plots.view.range
        await plots.press(key)
        assert plots.view.range is None
        assert "live" in str(plots.first.border_title)


@pytest.mark.parametrize(("action", "moved"), [("pan(-1)", -1), ("pan(1)", 1)])
async def test_panning_moves_by_an_eighth_and_stops_at_the_ends(action: str, moved: int) -> None:
    for key in keys_of(action):
        async with screen() as plots:
            plots.view.show_range(400, 480)
            await plots.press(key)
            assert plots.view.range == pytest.approx((400 + 10 * moved, 480 + 10 * moved))
            plots.view.show_range(*((15, 95) if moved < 0 else (904, 984)))
            await plots.press(key, key)
            assert plots.view.range == pytest.approx((0, 80) if moved < 0 else (919, 999))


@pytest.mark.parametrize("key", keys_of("fit"))
async def test_fit_shows_the_full_range_and_follows_new_values(key: str) -> None:
    async with screen() as plots:
        await plots.press("plus", "comma", key)
        assert plots.view.range is None
        assert "step" not in plots.text(plots.first)


@pytest.mark.parametrize("key", keys_of("axis"))
async def test_axis_switches_to_elapsed_time_at_the_same_range(key: str) -> None:
    async with screen() as plots:
        plots.view.show_range(300, 600)
        await plots.press(key)
        assert plots.view.range == (600, 1200)
        assert " 14m " in plots.axis(plots.first)
        await plots.press(key)
        assert plots.view.range == (300, 600)


@pytest.mark.parametrize("key", keys_of("log"))
async def test_log_scale_is_per_plot_and_omits_values_below_zero(key: str) -> None:
    decades = Series()
    for step in range(100):
        decades.append(step, step, 0.0 if 40 <= step < 60 else 10 ** (-step / 20))
    async with screen([Curve("loss", decades, "main")], [Curve("loss", decades, "main")]) as plots:
        await plots.press(key)
        assert [row[:5].strip() for row in plots.rows(plots.first) if row[:5].strip()] == [
            "0.1",
            "1e-3",
            "1e-5",
        ]
        assert "1e-5" not in plots.text(plots.second)
        middle = [row[6:][30:43] for row in plots.rows(plots.first)[:-1]]
        assert not any(_braille(row) for row in middle)


@pytest.mark.parametrize("key", keys_of("smooth"))
async def test_smoothing_increases_and_then_is_off(key: str) -> None:
    async with screen() as plots:
        weights: list[float] = []
        for _ in range(6):
            await plots.press(key)
            weights.append(plots.view.weight)
        assert weights == [0.6, 0.9, 0.97, 0.99, 0.0, 0.6]
        assert "smoothed 0.6" in str(plots.first.border_subtitle)


@pytest.mark.parametrize("key", keys_of("raw"))
async def test_raw_curve_can_be_hidden(key: str) -> None:
    spiky = Series()
    for step in range(STEPS):
        spiky.append(step, step, 1.0 if step == 500 else 0.1)
    async with screen([Curve("norm", spiky, "main")]) as plots:
        await plots.press("m", "m")
        assert _braille(plots.rows(plots.first)[0])
        await plots.press(key)
        assert not _braille(plots.rows(plots.first)[0])


@pytest.mark.parametrize("key", keys_of("autoscale"))
async def test_autoscale_ignores_the_bounds_of_a_reward(key: str) -> None:
    async with screen() as plots:
        assert "1.0" in plots.rows(plots.first)[0]
        await plots.press(key)
        assert "0.8" in plots.rows(plots.first)[0]
        await plots.press(key)
        assert "1.0" in plots.rows(plots.first)[0]


async def test_cursor_moves_from_value_to_value() -> None:
    async with screen(second=[Curve("loss", rising(shift=1), "main")]) as plots:
        await plots.press(*keys_of("cursor(-1)"))
        assert "step 999 · icr 0.799" in plots.axis(plots.first)
        assert "step 999 · loss 1.80" in plots.axis(plots.second)
        plots.view.show_range(100, 120)
        await plots.press(*keys_of("cursor(-1)"))
        before = plots.view.cursor
        assert before is not None
        await plots.press(*keys_of("cursor(1)"))
        assert plots.view.cursor == before + 1


async def test_cursor_moves_by_cells_between_dense_values() -> None:
    async with screen() as plots:
        await plots.press("comma", "comma")
        assert plots.view.cursor == pytest.approx(999 - 999 / 72, abs=2)


async def test_cursor_beyond_the_edge_moves_the_view() -> None:
    async with screen() as plots:
        plots.view.show_range(500, 510)
        await plots.press("comma", *["comma"] * 14)
        assert plots.view.cursor == 496
        first, last = plots.view.visible_range()
        assert first <= 496 <= last


@pytest.mark.parametrize("key", keys_of("enlarge"))
async def test_plot_is_enlarged_and_restored(key: str) -> None:
    async with screen() as plots:
        height = plots.first.size.height
        await plots.press(key)
        assert plots.first.size.height > 1.5 * height
        await plots.press(key)
        assert plots.first.size.height == height


async def test_every_listed_key_has_an_action() -> None:
    async with screen() as plots:
        for binding in keys.PLOT:
            assert isinstance(binding, Binding)
            if binding.action.startswith("app."):
                continue
            assert hasattr(plots.first, f"action_{binding.action.partition('(')[0]}")


async def test_mouse_wheel_zooms_at_the_pointer() -> None:
    async with screen() as plots:
        await plots.pilot._post_mouse_events([MouseScrollUp], plots.first, offset=(7, 3), button=0)  # pyright: ignore[reportPrivateUsage]
        await plots.pilot.pause()
        assert plots.view.visible_range()[0] == pytest.approx(0, abs=15)
        assert plots.view.visible_range()[1] == pytest.approx(666, abs=15)


async def test_dragging_pans() -> None:
    async with screen() as plots:
        plots.view.show_range(400, 472)
        await plots.pilot.mouse_down(plots.first, offset=(40, 4))
        await plots.pilot.hover(plots.first, offset=(30, 4))
        await plots.pilot.mouse_up(plots.first, offset=(30, 4))
        assert plots.view.range == pytest.approx((410, 482), abs=0.5)


async def test_mouse_moves_the_cursor_of_all_plots() -> None:
    async with screen(second=[Curve("loss", rising(shift=1), "main")]) as plots:
        await plots.pilot.hover(plots.first, offset=(43, 4))
        await plots.pilot.pause()
        assert "icr 0.5" in plots.axis(plots.first)
        assert "loss 1.5" in plots.axis(plots.second)
        assert "│" in plots.text(plots.second)
        await plots.pilot.hover(plots.first, offset=(43, 0))
        plots.view.move_cursor(None)
        await plots.pilot.pause()
        assert "step" not in plots.text(plots.second)


async def test_non_finite_value_is_a_marked_gap() -> None:
    async with screen([Curve("icr", rising(20, missing=[10]), "main")]) as plots:
        assert "×" in plots.axis(plots.first)
        mark = plots.axis(plots.first).index("×")
        assert " 10 " not in plots.axis(plots.first)
        assert not any(_braille(row[mark]) for row in plots.rows(plots.first)[:-1])
        plots.view.move_cursor(10)
        await plots.pilot.pause()
        assert "icr not a number" in plots.axis(plots.first)


async def test_overlay_has_its_own_dots_letter_and_label() -> None:
    curves = [Curve("icr", rising(), "main"), Curve("anna-2", rising(shift=-0.15), "overlay")]
    async with screen(curves) as plots:
        assert [row[-1] for row in plots.rows(plots.first) if row[-1] in "AB"] == ["A", "B"]
        assert "A icr · B anna-2" in screen_text(plots.app)
        dots = [ord(sign) - 0x2800 for sign in plots.text(plots.first) if _braille(sign)]
        assert any(bits & 0xB8 for bits in dots)
        assert sum(1 for bits in dots if not bits & 0xB8) > 30
        plots.view.move_cursor(500)
        await plots.pilot.pause()
        assert "icr 0.500 · anna-2 0.350" in plots.axis(plots.first)


async def test_shorter_run_has_no_value_past_its_end() -> None:
    async with screen(
        [Curve("icr", rising(), "main"), Curve("short", rising(500), "overlay")]
    ) as plots:
        plots.view.move_cursor(400)
        await plots.pilot.pause()
        assert "short 0.440" in plots.axis(plots.first)
        plots.view.move_cursor(700)
        await plots.pilot.pause()
        assert "icr 0.620" in plots.axis(plots.first)
        assert "short" not in plots.axis(plots.first)


async def test_new_points_do_not_move_a_zoomed_view() -> None:
    series = rising()
    async with screen([Curve("icr", series, "main")]) as plots:
        series.append(1999, 9000, 0.9)
        plots.first.refresh_data()
        await plots.pilot.pause()
        assert "1 500" in plots.axis(plots.first)
        plots.view.show_range(100, 200)
        series.append(2999, 9000, 0.1)
        plots.first.refresh_data()
        await plots.pilot.pause()
        assert plots.view.range == (100, 200)
        assert plots.first.border_title == "icr 0.100 · zoomed"


async def test_long_curve_is_smoothed_completely_in_parts() -> None:
    series = Series()
    for step in range(60_000):
        series.append(step, step, math.sin(step))
    async with screen([Curve("icr", series, "main")]) as plots:
        await plots.press("m")
        for _ in range(100):
            if series.smoothed:
                break
            await plots.pilot.pause(0.01)
        assert series.smoothed
        assert len(series.smoothed.track) == 60_000


async def test_plot_without_values_shows_a_message() -> None:
    async with screen([Curve("icr", Series(), "main")]) as plots:
        assert "no values yet" in plots.text(plots.first)
        assert plots.first.border_title == "icr – · live"
        await plots.press("plus", "minus", "h", "comma", "full_stop", "t", "y", "m", "w", "a", "0")
        assert "no values yet" in plots.text(plots.first)


@pytest.mark.parametrize("size", [(20, 12), (38, 14), (80, 24), (300, 80)])
async def test_every_row_fills_the_plot_at_any_size(size: tuple[int, int]) -> None:
    curves = [Curve("icr", rising(missing=[3]), "main"), Curve("other", rising(), "overlay")]
    async with screen(curves, [Curve("loss", rising(3), "main")], size) as plots:
        for plot in (plots.first, plots.second):
            plots.view.move_cursor(2)
            await plots.pilot.pause()
            assert {len(row) for row in plots.rows(plot)} == {plot.size.width}


@given(
    st.integers(1, 60),
    st.integers(1, 9),
    st.booleans(),
    st.sampled_from(["braille", "blocks", "ascii"]),
    st.lists(st.none() | st.floats(-1e9, 1e9), max_size=80),
)
def test_any_values_can_be_painted_at_any_size(
    width: int, height: int, log: bool, style: str, values: list[float | None]
) -> None:
    series, view = Series(), View()
    for step, value in enumerate(values):
        series.append(step, step, value)
    view.range = 0, max(len(values) - 1, 1)
    curves = [Curve("icr", series), Curve("again", series, "overlay")]
    series.smooth(0.9, 40)
    picture = Painter(curves, view, None, log, glyphs_named(style), width, height).paint()
    rows = ["".join(text for text, _ in runs) for runs in picture.rows]
    assert len(rows) == height
    if width >= 16:
        assert {len(row) for row in rows} <= {width, width - 2}


@pytest.mark.parametrize(
    ("style", "solid", "dotted"), [("blocks", "▄▀▛▞", "▖▘▌"), ("ascii", ".-'|", ",~:")]
)
async def test_plots_without_braille_use_blocks_or_ascii(
    style: str, solid: str, dotted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PV_PLOT", style)
    async with screen(
        [Curve("icr", rising(), "main"), Curve("b", rising(shift=-0.2), "overlay")]
    ) as plots:
        text = "".join(row[6:-2] for row in plots.rows(plots.first)[:-1])
        assert not any(_braille(sign) for sign in text)
        assert set(text) & set(solid)
        assert set(text) & set(dotted)


def test_unknown_plot_style_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PV_PLOT", "crayon")
    with pytest.raises(UsageError, match="crayon"):
        Plot("icr", View())


def _braille(text: str) -> bool:
    return any(0x2800 < ord(sign) < 0x2900 for sign in text)


async def test_resized_plot_is_drawn_at_its_new_height() -> None:
    async with screen() as plots:
        for height in (6, 9, 5):
            plots.second.styles.height = height
            await plots.pilot.pause()
            assert plots.first.content_size.height == 24 - height - 2
            assert " 200 " in plots.axis(plots.first), plots.text(plots.first)


async def test_cursor_stays_visible_after_zooming_and_panning() -> None:
    async with screen() as plots:
        await plots.press("0", "plus", "plus", "plus", "h", "h")
        before = plots.view.visible_range()
        read: list[float] = []
        for _ in range(5):
            await plots.press("comma")
            first, last = plots.view.visible_range()
            assert plots.view.cursor is not None and first <= plots.view.cursor <= last
            read.append(plots.view.cursor)
        assert plots.view.visible_range() == before
        assert read == sorted(set(read), reverse=True)


async def test_cursor_outside_of_the_view_returns() -> None:
    async with screen() as plots:
        plots.view.show_range(800, 900)
        await plots.press("comma")
        plots.view.show_range(100, 200)
        await plots.press("comma")
        assert plots.view.visible_range() == (100, 200)
        assert plots.view.cursor is not None and 100 <= plots.view.cursor <= 200


async def test_title_of_a_smoothed_curve_shows_mean_and_trend() -> None:
    async with screen() as plots:
        await plots.press("m")
        assert plots.first.border_title == "icr 0.794↑ · live"


async def test_ended_run_is_not_live() -> None:
    async with screen(second=[Curve("loss", Series(), "main")]) as plots:
        plots.view.live = False
        plots.view.fit()
        await plots.pilot.pause()
        assert plots.first.border_title == "icr 0.799"
        assert "live" not in str(plots.second.border_title)
        assert "yet" not in plots.text(plots.second)


def test_dense_noise_is_a_mean_line_on_a_dim_band() -> None:
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


class Drawn:
    """A plot that counts how often it is drawn."""

    on_current_pane = True

    def __init__(self, steps: Sequence[int]) -> None:
        self.series = Series()
        self.curves = [Curve("ICR", self.series)]
        self.count = 0
        for step in steps:
            self.series.append(step, float(step), 0.5)

    def view_changed(self) -> None:
        self.count += 1

    def weight_changed(self) -> None: ...

    def cursor_moved(self) -> None: ...


def test_all_plots_are_drawn_again_once_a_curve_extends_their_range() -> None:
    view, loss = View(), Drawn(range(1, 181))
    view.add_viewer(loss)
    view.data_changed()
    view.data_changed()
    assert loss.count == 1
    view.add_viewer(Drawn([0, 50, 100, 150]))
    view.data_changed()
    assert loss.count == 2
