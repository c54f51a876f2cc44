"""Export of curves as CSV and PNG."""

import csv
import math
from pathlib import Path
from typing import cast

import pytest
from PIL import Image

from pvtool.dashboard.plot.export import new_files, write_csv, write_png
from pvtool.dashboard.plot.series import Series
from pvtool.dashboard.plot.view import Curve, View

ORANGE = (0xD5, 0x5E, 0x00)
BLUE = (0x00, 0x72, 0xB2)
RED = (0xC0, 0x39, 0x2B)


def series_of(points: dict[float, float | None], weight: float = 0.0) -> Series:
    series = Series()
    for step, value in points.items():
        series.append(step, 1000 + step / 2, value)
    series.smooth(weight, len(series))
    return series


def wave(steps: int = 500, weight: float = 0.0) -> Series:
    return series_of({step: math.sin(step / 40) for step in range(steps)}, weight)


def pixels_like(path: Path, colour: tuple[int, int, int]) -> int:
    """Return the number of pixels with almost this colour."""
    with Image.open(path) as picture:
        found = cast(
            "list[tuple[int, tuple[int, int, int]]]", picture.convert("RGB").getcolors(1 << 24)
        )
    return sum(
        count
        for count, seen in found
        if all(abs(one - other) < 12 for one, other in zip(seen, colour, strict=True))
    )


def test_csv_has_a_row_per_step_and_empty_cells_for_missing_values(
    tmp_path: Path,
) -> None:
    loss, gpu = series_of({1: 0.5, 2: math.nan, 3: 1 / 3}), series_of({1: 61, 4: 62.5})
    write_csv(tmp_path / "curves.csv", {"loss": loss, "GPU, GiB": gpu})
    rows = list(csv.reader((tmp_path / "curves.csv").open()))
    assert rows == [
        ["step", "time", "loss", "GPU, GiB"],
        ["1", "1000.5", "0.5", "61"],
        ["2", "1001", "", ""],
        ["3", "1001.5", "0.3333333333333333", ""],
        ["4", "1002", "", "62.5"],
    ]


def test_failed_write_keeps_the_old_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "curves.csv"
    target.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_csv(target, {"loss": wave()})
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_png_has_a_plot_per_quantity_with_overlays(tmp_path: Path) -> None:
    curves = [Curve("icr", wave(), "main"), Curve("anna-2", wave(400), "overlay")]
    write_png(tmp_path / "one.png", "ada-1", {"identity": curves}, View())
    write_png(tmp_path / "four.png", "ada-1", dict.fromkeys(("a", "b", "c"), curves[:1]), View())
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "four.png") as four:
        assert four.width == 2 * one.width
        assert four.height > 1.5 * one.height
    assert pixels_like(tmp_path / "one.png", BLUE) > 400
    assert pixels_like(tmp_path / "one.png", ORANGE) > 200
    assert pixels_like(tmp_path / "four.png", ORANGE) == 0


def test_raw_values_are_light_behind_smoothed_ones(tmp_path: Path) -> None:
    view, light = View(), (191, 220, 235)
    noisy = series_of({step: math.sin(step * 12.9898) for step in range(500)}, 0.9)
    write_png(tmp_path / "both.png", "ada-1", {"icr": [Curve("icr", noisy)]}, view)
    assert pixels_like(tmp_path / "both.png", light) > 1000
    assert pixels_like(tmp_path / "both.png", BLUE) > 400
    view.raw = False
    write_png(tmp_path / "smooth.png", "ada-1", {"icr": [Curve("icr", noisy)]}, view)
    assert (
        pixels_like(tmp_path / "smooth.png", light) < pixels_like(tmp_path / "both.png", light) / 4
    )


def test_png_shows_the_visible_range_and_marks_non_finite_values(
    tmp_path: Path,
) -> None:
    view = View()
    curves = {
        "icr": [
            Curve("icr", series_of({step: None if step == 50 else step for step in range(100)}))
        ]
    }
    write_png(tmp_path / "all.png", "ada-1", curves, view)
    assert pixels_like(tmp_path / "all.png", RED) > 5
    view.range = 0, 20
    write_png(tmp_path / "part.png", "ada-1", curves, view)
    assert pixels_like(tmp_path / "part.png", RED) == 0
    assert (tmp_path / "all.png").read_bytes() != (tmp_path / "part.png").read_bytes()


def test_run_without_values_gives_an_empty_png(tmp_path: Path) -> None:
    write_png(tmp_path / "none.png", "ada-1", {"icr": [Curve("icr", Series())]}, View())
    write_csv(tmp_path / "none.csv", {"icr": Series()})
    assert (tmp_path / "none.png").stat().st_size > 0
    assert (tmp_path / "none.csv").read_text() == "step,time,icr\n"


def test_existing_files_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "ada-1.png").write_text("mine")
    (tmp_path / "ada-1-curves-2.csv").symlink_to("nowhere")
    with new_files(tmp_path, "ada-1", (".csv", ".png")) as paths:
        assert [path.name for path in paths] == ["ada-1-curves-3.csv", "ada-1-curves-3.png"]
    assert (tmp_path / "ada-1.png").read_text() == "mine"
    assert not (tmp_path / "ada-1.csv").exists()


def test_failed_export_removes_its_files(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), new_files(tmp_path, "ada-1", (".csv", ".png")):
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []
