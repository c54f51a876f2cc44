"""Commands report truncated prompts: on stderr, in JSON, and by row."""

import json
from pathlib import Path

import pytest

from pvtool.cli.progress import ClipProgress
from pvtool_core.store.events import WarningEvent
from pvtool_core.store.runs import RunFolder
from tests.support.commands import Pv
from tests.support.run_files import finished_run

RAIN = "dancing in the rain at night " * 10
LONG = f"<V> woman {RAIN}in a blue coat"


def test_json_contains_the_truncated_part_of_a_prompt(pv: Pv, mara: str) -> None:
    finished_run(mara)
    cut, whole = pv("render", mara, LONG, "<V> woman waving", "--dry-run", "--json").lines
    assert cut["prompt_cut"].endswith("in a blue coat")
    assert cut["prompt"].endswith(cut["prompt_cut"])
    assert "prompt_cut" not in whole


def test_row_with_truncated_keyword_or_noun_is_reported_and_others_rendered(
    pv: Pv, mara: str
) -> None:
    finished_run(mara)
    fits = "red " * 23
    rows = [
        "<V> woman waving",
        f"{RAIN}<V> woman",
        f"{fits}<V> woman",
        f"{fits}red red <V> {{noun}}",
    ]
    Path("rows.jsonl").write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    refused = pv("render", mara, "--prompts", "rows.jsonl", "--dry-run")
    assert refused.status == 3
    assert "rows.jsonl, line 2: The keyword <V> is cut off" in refused.err
    assert "line 1" not in refused.err
    others = pv("render", mara, "--prompts", "rows.jsonl", "--dry-run", "--json", "--keep-going")
    assert others.status == 6
    assert "rows.jsonl, line 2: The keyword <V> is cut off" in others.err
    assert rows[0] in [clip["prompt"] for clip in others.lines if "prompt" in clip]
    assert rows[1] not in [clip["prompt"] for clip in others.lines if "prompt" in clip]


def test_truncated_negative_prompt_is_reported_once(pv: Pv, mara: str) -> None:
    finished_run(mara)
    answer = pv(
        "render",
        mara,
        "<V> woman waving",
        "<V> woman asleep",
        "--negative",
        f"ugly {RAIN}",
        "--dry-run",
    )
    assert answer.status == 0
    assert answer.err.count("of the negative prompt 'ugly") == 1


def test_bank_with_too_long_prompts_is_saved_with_a_warning(pv: Pv, home: Path) -> None:
    Path("bank.txt").write_text(
        f"<V> {{noun}} waving\n<V> {{noun}} {'dancing in the rain ' * 20}in a blue coat\n"
    )
    answer = pv("prompts", "import", "long", "bank.txt", "--json")
    assert (answer.status, answer.json["prompts"]) == (0, 2)
    assert answer.err.count("The text encoder of AnimateDiff reads 75 tokens") == 1
    assert "in a blue coat'" in answer.err
    assert pv("prompts", "add", "short", "<V> {noun} waving").err == ""


def test_starting_a_detached_run_prints_warnings_of_its_prompts(
    pv: Pv, mara: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[RunFolder] = []
    monkeypatch.setattr("pvtool.cli.training.start_detached", started.append)

    def ready(_: RunFolder) -> None:
        pass

    monkeypatch.setattr("pvtool.cli.training.check_training", ready)
    assert pv("prompts", "add", "long", LONG).status == 0
    answer = pv("train", mara, "--preset", "tiny", "--prompts", "long", "--detach")
    assert (answer.status, len(started)) == (0, 1)
    assert "in a blue coat'" in answer.err


def test_prompt_warnings_are_printed_once_for_all_engines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ClipProgress(2) as progress:
        progress.on_event(WarningEvent(message="a prompt is cut off", cut="asleep"))
        progress.on_event(WarningEvent(message="the cache is full"))
    said = capsys.readouterr().err
    assert "cut off" not in said
    assert "the cache is full" in said
