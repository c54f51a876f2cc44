"""Files, names and options cannot send control sequences to the terminal or reorder text."""

import json
import re
from pathlib import Path

import pytest
import tomli_w

from pvtool.output import BarProgress, LineProgress, Output
from pvtool.text import plain, plain_lines
from pvtool_core.errors import BadPicture, BatchRefused, InputRefused, PvError
from pvtool_core.settings.toml import read_toml
from pvtool_core.store.event_log import EventWriter
from pvtool_core.store.events import WarningEvent
from pvtool_core.store.identities import Library
from pvtool_core.store.runs import RunFolder
from tests.support.commands import Answer, Pv

HOSTILE = "a\x1b[2J\x1b]52;c;aGk=\x07\x9b31m\x7f\u202egnp\u2066\u200b\u2028\nError: faked\r\tz"
HARMFUL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def check(answer: Answer) -> None:
    shown = answer.out + answer.err
    assert not HARMFUL.search(shown)
    assert "\\x1b[2J" in shown
    assert "\nError: faked" not in shown


def test_control_characters_only_are_escaped() -> None:
    assert plain("\x1b[2J\n\u202e\udcff\U000e0041") == "\\x1b[2J\\n\\u202e\\xff\\U000e0041"
    kept = "né 日本 👩\u200d🚀 می\u200cخواهم 🏳\ufe0f"
    assert plain(kept) == kept
    assert plain("pass\u200dword") == "pass\\u200dword"
    assert plain_lines("one\ttwo\n\x1b[0m") == "one     two\n\\x1b[0m"


def test_fields_of_a_run_are_escaped(pv: Pv, run: RunFolder) -> None:
    table = read_toml(run.config)
    run.config.write_text(tomli_w.dumps({**table, "preset": HOSTILE}))
    check(pv("runs", "list"))  # settings with control characters are refused with a quotation
    check(pv("runs", "show", run.name))
    assert pv("runs", "list", "--json").json["runs"][0]["preset"] == ""


def test_events_and_the_engines_log_are_escaped(pv: Pv, run: RunFolder) -> None:
    with EventWriter(run.events) as events:
        events.write(WarningEvent(message=HOSTILE))
    check(pv("runs", "logs", run.name))
    run.log.write_text("before \x1b[2J\x07 after\nnext line\n")
    answer = pv("runs", "logs", run.name, "--engine")
    assert answer.out.splitlines()[:2] == ["before \\x1b[2J\\x07 after", "next line"]


def test_fields_of_an_imported_identity_are_escaped(pv: Pv, mara: str) -> None:
    record = Library().get(mara).folder / "identity.toml"
    table = read_toml(record)
    table["faces"][0]["picture"] = HOSTILE
    record.write_text(tomli_w.dumps({**table, "created": HOSTILE, "consent": HOSTILE}))
    check(pv("identity", "list"))
    check(pv("identity", "show", mara))


def test_names_of_files_and_options_are_escaped_in_errors(pv: Pv, mara: str) -> None:
    photo = HOSTILE.replace("/", "")
    check(pv("identity", "add", "nora", photo, "--adult", "--consent", "yes"))
    check(pv("identity", "add", "nora", photo, "--adult", "--consent", "yes", "--debug"))
    check(pv(HOSTILE))
    check(pv("runs", "list", f"--{HOSTILE}"))
    check(pv("identity", "show", HOSTILE))
    check(pv("train", mara, "--set", f"training.{HOSTILE}=1"))
    check(pv("identity", "add", "nora", photo, "--face", HOSTILE))


def test_prompts_of_a_bank_are_escaped_on_one_line_each(pv: Pv, home: Path) -> None:
    (home / "config/prompts").mkdir(parents=True)
    without_brackets = HOSTILE.replace("[", "").replace(
        "]", ""
    )  # which are refused as syntax of another program
    bank = {"description": HOSTILE, "prompts": [f"<V> {without_brackets}", "<V> two"]}
    (home / "config/prompts/mine.toml").write_text(tomli_w.dumps(bank))
    check(pv("prompts", "list"))
    shown = pv("prompts", "show", "mine")
    assert not HARMFUL.search(shown.out + shown.err)
    assert "\\x1b2J" in shown.out
    assert len(shown.out.splitlines()) == 2


def test_errors_of_a_batch_are_escaped_on_one_line_each(capfd: pytest.CaptureFixture[str]) -> None:
    mistakes = [
        ("rows.csv, line 1", InputRefused(HOSTILE)),
        (HOSTILE, BadPicture(HOSTILE, "not found")),
    ]
    Output().error(BatchRefused(mistakes, 2))
    captured = capfd.readouterr()
    answer = Answer(3, captured.out, captured.err)
    check(answer)
    assert len(answer.err.splitlines()) == 3


@pytest.mark.parametrize("kind", [LineProgress, BarProgress])
def test_progress_escapes_events_and_ignores_markup(
    kind: type[LineProgress] | type[BarProgress],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    with kind() as progress:
        progress.update(
            f"[red]stage[/] {HOSTILE}", 1, 2, "[link=file:///etc]note[/link] \x1b]0;mine\x07"
        )
        progress.say(f"[bold]said[/] :skull: {HOSTILE}")
    shown = "".join(capfd.readouterr())
    assert "\x1b]" not in shown
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    assert "[red]stage[/]" in shown
    assert "[bold]said[/] :skull:" in shown


def test_errors_are_escaped_on_the_terminal_and_unchanged_in_json(
    capfd: pytest.CaptureFixture[str],
) -> None:
    Output(as_json=True).error(PvError(HOSTILE, "Do this."))
    out, err = capfd.readouterr()
    assert json.loads(out)["error"]["message"] == HOSTILE
    assert not HARMFUL.search(err)
    assert err.splitlines()[1] == "Do this."
