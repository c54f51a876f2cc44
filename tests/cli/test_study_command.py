"""`pv study`: make a study, take it in a browser and in a terminal, and report it."""

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pvtool.cli.study_prompts import ask_in_terminal
from pvtool.output import Output
from pvtool_core.study.answers import write_answers
from pvtool_core.study.session import Session
from pvtool_core.study.study_items import read_study
from pvtool_core.study.study_key import Kind, read_key
from tests.support.chromium import Tab, chromium, needs_browser
from tests.support.commands import Pv
from tests.support.study import answer, photos, prefers, write_render


@pytest.fixture
def study(pv: Pv, tmp_path: Path) -> Path:
    """Make a study of two sets and two methods."""
    for name, brightness in (("ours", 90), ("base", 200)):
        write_render(tmp_path / name, seeds=1, brightness=brightness)
    pictures = [f"--photo={name}={path}" for name, path in photos(tmp_path).items()]
    methods = f"ours={tmp_path / 'ours'},base={tmp_path / 'base'}"
    made = pv("study", "make", "out", "--methods", methods, "--sets", "2", *pictures, "--json")
    assert made.status == 0, made.err
    assert "reference photos and clips of ada, mara" in made.err
    assert (made.json["sets"], made.json["checks"], made.json["repeats"]) == (2, 2, 1)
    assert made.json["methods"] == ["ours", "base"]
    return Path(made.json["page"]).parent


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def answer_pair(tab: Tab, study: Path) -> None:
    """Answer the shown pair by keys: ours is better, and the known answer in checks."""
    tab.wait_for("left.currentTime > 0 && right.currentTime > 0")
    shown = tab.evaluate("[left.src, right.src].map((name) => name.split('/').pop())")
    item = next(
        item
        for item in read_key(study.with_name("out.key.json")).items
        if item.kind is not Kind.REPEAT and set(item.clips) == set(shown)
    )
    best = item.right or next(name for name, method in item.clips.items() if method == "ours")
    chosen = "2" if item.kind is Kind.IDENTICAL else "1" if shown[0] == best else "3"
    tab.press(*chosen * 4)


@needs_browser
def test_the_page_is_answered_by_keys_to_the_end(pv: Pv, study: Path, tmp_path: Path) -> None:
    saved = tmp_path / "downloads"
    saved.mkdir()
    with chromium(tmp_path / "profile") as tab:
        tab.download_to(saved)
        tab.open(study / "index.html")
        tab.press("Enter")
        tab.wait_for("count.textContent === '1 of 5'")
        playing = "[left, right].every((view) => view.muted && view.loop && !view.paused)"
        tab.press("Enter")  # refused: no question is answered
        answer_pair(tab, study)
        assert tab.evaluate(playing)
        assert tab.evaluate("window.problem.textContent") == ""
        tab.press("Enter")
        tab.wait_for("count.textContent === '2 of 5'")
        tab.press("2")
        order = tab.evaluate("order.map((each) => [each.item.name, each.left])")
        tab.reload()
        tab.wait_for("count.textContent === '2 of 5'")
        assert tab.evaluate("order.map((each) => [each.item.name, each.left])") == order
        assert tab.evaluate("document.querySelectorAll(':checked').length") == 1
        tab.press("Backspace")
        tab.wait_for("count.textContent === '1 of 5'")
        assert tab.evaluate("document.querySelectorAll(':checked').length") == 4
        tab.press("Enter")
        for number in range(2, 6):
            tab.wait_for(f"count.textContent === '{number} of 5'")
            if number == 2:
                tab.evaluate("document.querySelector('fieldset').focus()")
            answer_pair(tab, study)
            tab.press("Enter")
        tab.wait_for("!window.end.hidden")
        tab.press("Enter")
        tab.wait_for("saved.textContent")
        rater = tab.evaluate("state.rater")
        file = saved / f"answers-{rater}.json"
        until(file.exists)
        assert tab.complaints == []
    found = pv("study", "report", str(study), str(file), "--json").json
    (row,) = found["raters"]
    assert row == {
        "rater": rater,
        "sets": 2,
        "checks": 2,
        "failed_checks": [],
        "repeats": 1,
        "equal_repeats": 1.0,
        "excluded": False,
    }
    for table in found["questions"].values():
        (pair,) = table["pairs"]
        assert (pair["a"], pair["wins"], pair["ties"], pair["losses"]) == ("ours", 2, 0, 0)


@needs_browser
def test_order_and_sides_on_the_page_differ_by_rater(study: Path, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as tab:
        tab.open(study / "index.html")
        orders = tab.evaluate(
            "[...Array(40).keys()].map((rater) => orderFor(`r${rater}`)"
            ".map((each) => [each.item.name, each.item.again, each.left, each.right]))"
        )
    assert len({json.dumps(order) for order in orders}) > 10
    lefts: set[str] = set()
    for order in orders:
        by_name = {name: (left, right) for name, _, left, right in order}
        (again,) = [row for row in order if row[1]]
        assert by_name[again[1]] == (again[3], again[2])
        lefts |= {left for left, _ in by_name.values()}
    assert lefts == {path.name for path in (study / "clips").iterdir()}


def test_pairs_are_answered_in_a_terminal_without_graphics(
    pv: Pv, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = tmp_path / "opened"
    player = tmp_path / "bin/xdg-open"
    opened.touch()
    player.parent.mkdir()
    player.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    player.chmod(0o755)
    monkeypatch.setenv("PATH", f"{player.parent}:{os.environ['PATH']}")
    session = Session(read_study(study), "me", tmp_path / "answers-me.json")
    for text in ("1\n2\nx\n3\nr\n1\nq\n", "2\n2\n2\n2\n" * 4):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        ask_in_terminal(session, Output())
        assert session.position == (1 if "q" in text else 5)
    wanted = 3 * (1 + 1 + 1 + 4)  # a replay, and the pair at which "q" stopped
    until(lambda: opened.read_text().count("\n") == wanted)
    folders = {Path(line).parent.name for line in opened.read_text().splitlines()}
    assert folders == {"clips", "photos"}
    refused = pv("study", "report", str(study), str(session.file))
    assert refused.status == 3
    assert "1 of 1 raters are excluded by the attention checks" in refused.err


def test_a_report_prints_tables_and_the_precision_to_expect(
    pv: Pv, study: Path, tmp_path: Path
) -> None:
    files: list[str] = []
    for number in range(3):
        file = tmp_path / f"{number}.json"
        judge = prefers({"ours": 3, "base": 1}, number)
        key = read_key(study.with_name("out.key.json"))
        write_answers(file, answer(read_study(study), key, f"r{number}", judge))
        files.append(str(file))
    moved = study.with_name("out.key.json").rename(tmp_path / "key.json")
    assert pv("study", "report", "out", *files).status == 4
    text = pv("study", "report", "out", *files, "--key", str(moved)).out
    assert "ours over base" in text
    assert "750 votes: ±3.5 points" in text
    assert "±5 to ±7" in text
    assert "0 of 2" in text


def test_errors_of_studies_have_their_exit_statuses(pv: Pv, study: Path, tmp_path: Path) -> None:
    methods = f"ours={tmp_path / 'ours'},base={tmp_path / 'base'}"
    for words, status, message in (
        (("make", "new", "--methods", "ours"), 2, "Invalid --methods 'ours'"),
        (("make", "new", "--methods", "a=b,a=c"), 2, "names 'a' twice"),
        (("make", "new", "--methods", "a=b,c=d"), 4, "No clip in the folder"),
        (("make", "new", "--methods", methods), 3, "2 sets in common, fewer than 50"),
        (("make", "out", "--methods", methods, "--sets", "2"), 3, "already exists"),
        (("take", "nothing"), 4, "No study in the folder"),
        (("take", "out"), 2, "needs a terminal"),
        (("report", "out", "nothing.json"), 3, "cannot be read"),
    ):
        refused = pv("study", *words)
        assert (refused.status, message in refused.err) == (status, True), refused.err
