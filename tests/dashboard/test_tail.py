"""Reading files that another process appends to."""

import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtool.dashboard.follow.log_lines import LogLines
from pvtool.dashboard.follow.run_history import RunHistory
from pvtool.dashboard.follow.tail import CHUNK_BYTES, Tail
from pvtool_core.store.events import parse_event
from tests.support.run_files import gpu_event, step_event


def all_lines(tail: Tail) -> list[bytes]:
    lines: list[bytes] = []
    while (chunk := tail.read()).lines or chunk.more:
        lines += chunk.lines.splitlines()
    return lines


@given(
    st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line and b"\r" not in line)),
    st.randoms(),
)
def test_interrupted_writes_are_read_once(lines: list[bytes], chance: random.Random) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"pv-tail-{os.getpid()}"
    path.write_bytes(b"")
    tail, read = Tail(path), list[bytes]()
    for line in lines:
        cut = chance.randint(0, len(line))
        for part in (line[:cut], line[cut:] + b"\n"):
            with path.open("ab") as file:
                file.write(part)
            read += tail.read().lines.split(b"\n")[:-1]
    path.unlink()
    assert read == lines


def test_replaced_or_truncated_file_is_read_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("one\ntwo\n")
    tail = Tail(path)
    assert tail.read().lines == b"one\ntwo\n"
    (tmp_path / "new").write_text("three\nfour\nfive\n")
    (tmp_path / "new").rename(path)
    chunk = tail.read()
    assert (chunk.restarted, chunk.lines) == (True, b"three\nfour\nfive\n")
    path.write_text("6\n")
    assert tail.read().restarted


def test_missing_file_counts_as_empty_and_may_reappear(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert tail.read().lines == b""
    path.write_text("one\n")
    assert tail.read().lines == b"one\n"
    path.unlink()
    assert tail.read().restarted
    path.write_text("two\n")
    assert tail.read().lines == b"two\n"


def test_overlong_line_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"x" * (3 * CHUNK_BYTES) + b"\nlast\n")
    assert all_lines(Tail(path))[-1] == b"last"


def test_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "events.jsonl")
    with pytest.raises(OSError, match="it is a named pipe"):
        Tail(tmp_path / "events.jsonl").read()


MALFORMED = [
    {"time": 1.0, "type": "step"},
    {"time": 1.0, "type": "step", "step": "many", "icr": 0.5},
    {"time": 1.0, "type": "step", "step": 3, "icr": "low"},
    {"time": 1.0, "type": "gpu", "devices": [1]},
    {"time": 1.0, "type": "gpu"},
    {"time": 1.0, "type": "sample", "step": 1},
    {"time": 1.0, "type": "stage", "stage": "caching", "done": []},
    {"time": 1.0, "type": "warning"},
]


@pytest.mark.parametrize("event", MALFORMED, ids=str)
def test_malformed_event_is_counted_and_skipped(
    event: dict[str, object],
) -> None:
    history = RunHistory()
    history.add(map(parse_event, [step_event(1), event, step_event(2)]))
    assert history.unreadable == 1
    assert history.curves["icr"].last == step_event(2)["icr"]


def test_non_finite_loss_is_an_alarm_and_a_gap() -> None:
    history = RunHistory()
    history.add(
        map(parse_event, [step_event(1), step_event(2, loss=None, icr=None), step_event(3)])
    )
    assert [alarm.message for alarm in history.alarms] == [
        "Not a finite number at step 2: loss, icr."
    ]
    assert history.curves["loss"].last == step_event(3)["loss"]


def test_accelerators_and_engine_have_gauges() -> None:
    history = RunHistory()
    history.add(map(parse_event, [gpu_event(1.0, devices=2), gpu_event(2.0, devices=2)]))
    assert sorted(history.devices) == [0, 1]
    assert history.devices[1].gauges["temperature"].last == 61.0
    assert len(history.process["memory"]) == 2


def test_drawn_prompts_are_counted() -> None:
    history = RunHistory()
    history.add(parse_event(step_event(step)) for step in range(1, 8))
    assert sum(history.prompt_counts.values()) == 7
    assert history.prompt == step_event(7)["prompt"]


def test_log_omits_frequent_events_by_default(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    warning = {"time": 9.0, "type": "warning", "message": "3 of 12 pairs show no face"}
    path.write_text(
        "".join(json.dumps(event) + "\n" for event in (step_event(1), gpu_event(2.0), warning))
        + "{torn"
    )
    lines = LogLines(path, events=True)
    assert not lines.extend().more
    assert len(lines.numbers(everything=True)) == 3
    (line,) = lines.texts(lines.numbers(everything=False))
    assert "3 of 12 pairs show no face" in line.text and line.level == "W"
    assert lines.find("NO FACE", lines.numbers(everything=True), 0, 1) == 2
    assert lines.find("nowhere", lines.numbers(everything=True), 0, 1) is None
