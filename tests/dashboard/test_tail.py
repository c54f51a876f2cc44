"""Reading what another process writes, whatever is in it."""

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
def test_however_the_writer_is_interrupted_every_line_is_read_once(
    lines: list[bytes], chance: random.Random
) -> None:
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


def test_a_file_that_begins_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("one\ntwo\n")
    tail = Tail(path)
    assert tail.read().lines == b"one\ntwo\n"
    (tmp_path / "new").write_text("three\nfour\nfive\n")
    (tmp_path / "new").rename(path)
    chunk = tail.read()
    assert (chunk.anew, chunk.lines) == (True, b"three\nfour\nfive\n")
    path.write_text("6\n")
    assert tail.read().anew


def test_a_vanished_file_is_an_empty_one_and_may_come_back(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert tail.read().lines == b""
    path.write_text("one\n")
    assert tail.read().lines == b"one\n"
    path.unlink()
    assert tail.read().anew
    path.write_text("two\n")
    assert tail.read().lines == b"two\n"


def test_a_line_without_an_end_is_gone_past(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"x" * (3 * CHUNK_BYTES) + b"\nlast\n")
    assert all_lines(Tail(path))[-1] == b"last"


def test_a_pipe_in_place_of_the_file_does_not_hold_us(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "events.jsonl")
    with pytest.raises(OSError, match="seek"):
        Tail(tmp_path / "events.jsonl").read()


GARBAGE = [
    {"time": 1.0, "type": "step"},
    {"time": 1.0, "type": "step", "step": "many", "icr": 0.5},
    {"time": 1.0, "type": "step", "step": 3, "icr": "low"},
    {"time": 1.0, "type": "gpu", "devices": [1]},
    {"time": 1.0, "type": "gpu"},
    {"time": 1.0, "type": "sample", "step": 1},
    {"time": 1.0, "type": "stage", "stage": "caching", "done": []},
    {"time": 1.0, "type": "warning"},
]


@pytest.mark.parametrize("event", GARBAGE, ids=str)
def test_an_event_of_other_things_than_it_should_hold_is_counted_and_harms_nothing(
    event: dict[str, object],
) -> None:
    history = RunHistory()
    history.add([step_event(1), event, step_event(2)])
    assert history.unreadable == 1
    assert history.curves["icr"].last == step_event(2)["icr"]


def test_a_loss_that_is_no_number_is_an_alarm_and_a_gap() -> None:
    history = RunHistory()
    history.add([step_event(1), step_event(2, loss=None, icr=None), step_event(3)])
    assert [alarm.message for alarm in history.alarms] == ["loss, icr of step 2 is no number."]
    assert history.curves["loss"].last == step_event(3)["loss"]


def test_every_accelerator_has_its_own_gauges_and_the_engine_too() -> None:
    history = RunHistory()
    history.add([gpu_event(1.0, devices=2), gpu_event(2.0, devices=2)])
    assert sorted(history.devices) == [0, 1]
    assert history.devices[1].gauges["temperature"].last == 61.0
    assert len(history.process["memory"]) == 2


def test_prompts_are_counted_as_they_are_drawn() -> None:
    history = RunHistory()
    history.add(step_event(step) for step in range(1, 8))
    assert sum(history.drawn.values()) == 7
    assert history.prompt == step_event(7)["prompt"]


def test_the_log_leaves_out_what_every_step_writes_unless_it_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    warning = {"time": 9.0, "type": "warning", "message": "3 of 12 pairs show no face"}
    path.write_text(
        "".join(json.dumps(event) + "\n" for event in (step_event(1), gpu_event(2.0), warning))
        + "{torn"
    )
    lines = LogLines(path, events=True)
    assert not lines.extend().more
    assert len(lines.numbers(everything=True)) == 3
    (rare,) = lines.texts(lines.numbers(everything=False))
    assert "3 of 12 pairs show no face" in rare
    assert lines.find("NO FACE", lines.numbers(everything=True), 0, 1) == 2
    assert lines.find("nowhere", lines.numbers(everything=True), 0, 1) is None
