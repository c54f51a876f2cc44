"""The HTML page of an evaluation: complete, escaped, without other files, usable by keyboard."""

import re
import stat
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pvtool_core.errors import UsageError
from pvtool_core.media import ffmpeg
from pvtool_core.report_page import write_page
from pvtool_core.report_page.curves import nice_ticks
from pvtool_core.report_page.gallery import spread
from pvtool_core.report_page.report_format import EvaluationReport, Mean
from tests.support.chromium import Tab, chromium, needs_browser
from tests.support.reports import (
    FPS,
    FRAMES,
    HOSTILE,
    WEIGHTS,
    grey_of,
    report_of,
    scored,
    write_counting_clip,
)


class Page(HTMLParser):
    """Text, elements and attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.text, self.tags = html, "", list[tuple[str, dict[str, str | None]]]()
        self._opened = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._opened = tag

    def handle_data(self, data: str) -> None:
        if self._opened not in ("script", "style"):
            self.text += f"{data} "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def page_of(report: EvaluationReport, out: Path, **photos: Path) -> Page:
    write_page(report, photos, out)
    return Page(out.read_text())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_counting_clip(tmp_path_factory.mktemp("clips") / "clip")


def test_the_page_has_all_parts_of_the_report(clip: Path, tmp_path: Path) -> None:
    clips = [scored(clip, "base", 0.02), scored(clip, "ann-1", 0.52)]
    page = page_of(report_of(clips), tmp_path / "page.html")
    for part in (
        "2 clips, 1 identity, 1 prompt, 1 seed",
        "Possible reward hacking.",
        "0.520 [0.510, 0.530]",
        "+0.500 [+0.400, +0.600] better",
        "−0.10 [−0.50, +0.30] not significant",
        "1 of 2 clips",
        "Distances of sets of clips from base KVD lower is better 0.250",
        "Rewards: optimised in training, so not evidence of quality Identity reward",
        "photos 0.460",
        "a <V> woman",
        "worst frame 6: 0.420",
        "/clips/broken.mp4 is corrupt",
        "pv models fetch raft-large",
        WEIGHTS,
    ):
        assert part in page.words, part
    assert page.words.index("Possible reward hacking.") < page.words.index("Results")
    assert len([each for each in page.all("svg") if each.get("aria-label")]) == 1  # a curve


def test_the_page_loads_nothing_and_is_private(clip: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (900, 600), "red").save(photo)
    page = page_of(report_of([scored(clip, "base", 0.1)]), tmp_path / "page.html", ada=photo)
    sources = [
        value
        for _, attributes in page.tags
        for name in ("src", "poster", "data-src", "href", "data")
        if (value := attributes.get(name)) is not None
    ]
    assert {value.partition(",")[0] for value in sources} == {
        "data:image/jpeg;base64", "data:video/mp4;base64", "#group-1",
    }  # fmt: skip
    policy = page.all("meta")[1]["content"] or ""
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in re.sub(r"base64,[^\"]*|http-equiv", "", page.html)
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600


def test_hostile_texts_are_text(clip: Path, tmp_path: Path) -> None:
    report = report_of([
        scored(clip, HOSTILE, 0.1, identity=HOSTILE, prompt=HOSTILE),
        scored(Path(f"/missing/{HOSTILE}"), HOSTILE, 0.1),
    ])  # fmt: skip
    means = report["methods"]["ann-1"]
    report["methods"] = {"base": report["methods"]["base"], HOSTILE: means}
    report["identities"] = {HOSTILE: {"methods": {HOSTILE: {HOSTILE: 1.0}}}}
    report["alarms"] = [HOSTILE]
    report["skipped"] = {HOSTILE: {"reason": HOSTILE, "command": HOSTILE}}
    report["failed"] = [{"file": HOSTILE, "reason": HOSTILE}]
    info = report["metrics"]["likeness"]
    info["label"] = info["description"] = HOSTILE
    info["weights"] = {HOSTILE: HOSTILE}
    write_page(report, {}, tmp_path / "page.html", title=HOSTILE)
    page = Page((tmp_path / "page.html").read_text())
    assert page.all("img") == []
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") for _, found in page.tags for name in found)


def test_numbers_that_are_missing_are_said_to_be(clip: Path, tmp_path: Path) -> None:
    report = report_of([scored(clip, "ann-1", None)])
    report["reference"] = None
    mean = Mean(mean=0.5, low=None, high=None, clips=1)
    unknown = Mean(mean=float("nan"), low=None, high=None, clips=1)
    report["methods"] = {
        "ann-1": {
            "clips": 1,
            "means": {"likeness": mean, "motion": unknown},
        },
        "b": {"clips": 1, "means": {}},
    }
    page = page_of(report, tmp_path / "page.html")
    assert "Likeness higher is better 0.500 not measured" in page.words
    assert "Likeness –" in page.words


def test_a_limited_page_has_the_worst_and_the_best_clips_and_names_others(
    clip: Path, tmp_path: Path
) -> None:
    files = [clip.with_name(f"{seed}.mp4") for seed in range(5)]
    for file in files:
        file.write_bytes(clip.read_bytes())
    clips = [scored(file, "ann-1", seed / 10, seed=seed) for seed, file in enumerate(files)]
    write_page(report_of(clips), {}, tmp_path / "page.html", most_clips=2)
    page = Page((tmp_path / "page.html").read_text())
    assert [group["data-place"] for group in page.all("article")] == ["1", "5"]
    assert "shows 2 of 5 groups" in page.words
    assert all(f"/{file.parent.name}/{file.name}" in page.words for file in files[1:4])
    assert str(tmp_path) not in page.words
    write_page(report_of(clips), {}, tmp_path / "page.html", most_megabytes=0)
    page = Page((tmp_path / "page.html").read_text())
    assert page.all("article") == []
    assert "5 clips left out" in page.words


def test_formats_that_a_page_cannot_pause_become_videos(clip: Path, tmp_path: Path) -> None:
    files = [write_counting_clip(tmp_path / form, form) for form in ("gif", "webp", "png")]
    files.append(tmp_path / "odd.avi")
    ffmpeg.ask(files[-1], "-i", str(clip), "-vf", "crop=31:31", "-c:v", "ffv1", str(files[-1]))
    clips = [scored(file, "ann-1", 0.5, seed=seed) for seed, file in enumerate(files)]
    page = page_of(report_of(clips), tmp_path / "page.html")
    videos = [video["data-src"] or "" for video in page.all("video")]
    assert len(videos) == len(files)
    assert all(video.startswith("data:video/mp4;base64,") for video in videos)
    assert page.words.count("encoded again") == len(files)


def test_clips_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "cut.gif").write_bytes(b"GIF89a")
    files = [tmp_path / name for name in ("secret.mp4", "folder.mp4", "cut.gif", "missing.mp4")]
    clips = [scored(file, "ann-1", 0.5, seed=seed) for seed, file in enumerate(files)]
    page = page_of(report_of(clips), tmp_path / "page.html", ada=tmp_path / "missing.png")
    assert page.all("video") == []
    for file in files:
        assert f"/{file.parent.name}/{file.name} {file.name} is corrupt or incomplete" in page.words
    assert "The reference photo of ada is not shown: missing.png cannot be read" in page.words


def test_a_report_of_another_version_is_refused(tmp_path: Path) -> None:
    report = report_of([])
    report["version"] = 1
    with pytest.raises(UsageError, match="Unsupported version 1 of the report: expected 2"):
        write_page(report, {}, tmp_path / "page.html")


@given(st.integers(0, 300))
def test_limits_take_clips_from_the_whole_range(count: int) -> None:
    order = list(spread(count))
    assert sorted(order) == list(range(count))
    assert {0, count - 1} == set(order[:2]) or not count
    for taken in range(2, count):
        gaps = [high - low for low, high in pairwise(sorted(order[:taken]))]
        assert max(gaps) <= 4 * count / taken


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_of_curves_enclose_the_values(low: float, width: float) -> None:
    ticks = nice_ticks(low, low + width)
    margin = 1e-9 * max(abs(low), width, 1)
    assert ticks[0] <= low + margin
    assert ticks[-1] >= low + width - margin
    assert 2 <= len(ticks) <= 7
    assert all(first < second for first, second in pairwise(ticks))


CURRENT = "document.querySelector('[aria-current]')"
VIDEOS = f"[...{CURRENT}.querySelectorAll('video')]"
GREYS = f"""{VIDEOS}.map(video => {{
    const canvas = new OffscreenCanvas(1, 1).getContext("2d");
    canvas.drawImage(video, 0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data[0];
}})"""


def is_shown(tab: Tab, frame: int) -> None:
    """Wait until both clips of the current group show a frame."""
    tab.wait_for(f"{VIDEOS}.every(video => video.paused && !video.seeking && video.readyState > 1)")
    tab.wait_for(f"{GREYS}.every(grey => Math.abs(grey - {grey_of(frame)}) < 10)")
    place = f"frame {frame + 1} of {FRAMES}, "
    assert tab.evaluate(f"{CURRENT}.querySelector('output').textContent").startswith(place)


def order(tab: Tab) -> list[str]:
    """Return the numbers of the listed groups."""
    return tab.evaluate(
        "[...document.querySelectorAll('.group:not([hidden])')].map(each => each.dataset.place)"
    )


def choose(tab: Tab, menu: str, option: str) -> None:
    """Focus a menu and choose an option below the current one by the arrow key."""
    tab.evaluate(f"document.querySelector('#{menu}').focus()")
    labels = tab.evaluate("[...document.activeElement.options].map(each => each.label)")
    current = tab.evaluate("document.activeElement.selectedIndex")
    tab.press(*["ArrowDown"] * (labels.index(option) - current))


@needs_browser
@pytest.mark.slow
def test_the_page_is_used_by_keyboard(clip: Path, tmp_path: Path) -> None:
    clips = [
        scored(clip, method, likeness, worst, identity=identity, seed=seed)
        for seed, (identity, adapted) in enumerate([("ada", 0.6), ("ada", 0.2), ("ben", 0.4)])
        for method, likeness, worst in (("base", 0.0, 2), ("ann-1", adapted, 5))
    ]
    write_page(report_of(clips), {}, tmp_path / "page.html")
    with chromium(tmp_path / "profile") as tab:
        tab.open(tmp_path / "page.html", prefers_color_scheme="dark")
        assert order(tab) == ["2", "3", "1"]  # the worst first
        tab.press("j")
        assert tab.evaluate(f"document.activeElement === {CURRENT}")
        assert tab.evaluate(f"{CURRENT}.dataset.place") == "2"
        is_shown(tab, 0)
        tab.press(".")
        tab.press(".")
        is_shown(tab, 2)
        tab.press(",")
        is_shown(tab, 1)
        tab.press("w")
        is_shown(tab, 5)  # of the adapter
        tab.press("w")
        is_shown(tab, 2)  # of the base model
        tab.press(" ")
        tab.wait_for(f"{VIDEOS}.every(video => !video.paused)")
        tab.wait_for(f"{CURRENT}.querySelector('input').value === '7'")
        tab.wait_for(f"{CURRENT}.querySelector('input').value === '1'")  # it starts again
        times = tab.evaluate(f"{VIDEOS}.map(video => video.currentTime)")
        assert abs(times[0] - times[1]) < 2 / FPS
        tab.press(" ")
        tab.wait_for(f"{VIDEOS}.every(video => video.paused)")

        tab.press("a")
        playing = "[...document.querySelectorAll('video')].filter(video => !video.paused).length"
        tab.wait_for(f"{playing} > 2")
        tab.press("a")
        tab.wait_for(f"{playing} === 0")
        tab.press("j")
        assert tab.evaluate(f"{CURRENT}.dataset.place") == "3"
        tab.press("k")
        assert tab.evaluate(f"{CURRENT}.dataset.place") == "2"
        tab.press("?")
        assert tab.evaluate("document.querySelector('#help').open")
        tab.press("Escape")
        tab.wait_for("!document.querySelector('#help').open")

        choose(tab, "order", "Likeness, best first")
        tab.wait_for("document.querySelector('.group').dataset.place === '1'")
        assert order(tab) == ["1", "3", "2"]
        choose(tab, "identity", "ben")
        tab.wait_for("document.querySelectorAll('.group:not([hidden])').length === 1")
        assert order(tab) == ["3"]
        assert tab.evaluate("document.querySelector('#count').textContent") == "1 of 3 groups"
        tab.evaluate("document.querySelector('.method').focus()")
        tab.press(" ")
        shown = "document.querySelectorAll('.group:not([hidden]) figure:not([hidden])').length"
        tab.wait_for(f"{shown} === 1")
        assert tab.complaints == []
