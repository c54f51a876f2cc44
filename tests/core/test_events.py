"""Events: what engines write is what readers get, and no line of a stranger raises."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtool_core.store.clip_likeness import ClipLikeness, WorstFrame
from pvtool_core.store.clip_watermark import ClipWatermark
from pvtool_core.store.event_log import EventWriter, read_events, read_records
from pvtool_core.store.events import (
    EVENTS,
    CheckpointEvent,
    DeviceReading,
    Event,
    HostReading,
    SampleEvent,
    ScoredSample,
    UnknownEvent,
    UnreadableEvent,
    ValuesEvent,
    parse_event,
)

numbers = st.none() | st.floats(-1e9, 1e9)
scalars = st.dictionaries(st.sampled_from(["loss", "icr", "lr", "grad_norm"]), numbers)
strategies: dict[Any, st.SearchStrategy[Any]] = {
    float: st.floats(0, 1e10),
    int: st.integers(0, 2**53),
    str: st.text(),
    float | None: numbers,
    int | None: st.none() | st.integers(0, 2**53),
    bool | None: st.none() | st.booleans(),
    tuple[str, ...]: st.lists(st.text()).map(tuple),
    Mapping[str, float]: st.dictionaries(st.text(), st.floats(-1e9, 1e9)),
    PurePosixPath: st.from_regex(r"[a-z]{1,9}/[a-z]{1,9}", fullmatch=True).map(PurePosixPath),
}
worst_frames = st.builds(
    WorstFrame, frame=st.integers(0, 10**6), time=st.floats(0, 1e6), value=st.floats(-1, 1)
)
strategies[ClipLikeness | None] = st.none() | st.builds(
    ClipLikeness,
    mean=st.floats(-1, 1),
    found=st.none() | st.floats(-1, 1),
    faces_found=st.floats(0, 1),
    worst=worst_frames,
    recognizer=st.text(),
    frames=st.integers(1, 100),
)
strategies[ClipWatermark | None] = st.none() | st.builds(
    ClipWatermark,
    method=st.text(),
    id=st.text(),
    psnr=st.floats(0, 99),
    seconds=st.floats(0, 1e6),
)
metrics = strategies[Mapping[str, float]]
strategies[tuple[ScoredSample, ...]] = st.lists(
    st.builds(ScoredSample, prompt=st.text(), seed=st.integers(0, 9), scores=metrics, base=metrics),
    max_size=3,
).map(tuple)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=5,
)


def fields_of(cls: type) -> dict[str, st.SearchStrategy[Any]]:
    hints = get_type_hints(cls)
    own = {
        "scalars": scalars,
        "values": st.just({"weights": 3}),
        "devices": st.lists(readings(DeviceReading), max_size=3).map(tuple),
        "host": st.none() | readings(HostReading),
    }
    return {
        one.name: own.get(one.name) or strategies[hints[one.name]]
        for one in dataclasses.fields(cls)
    }


def readings(cls: type) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls)
    return st.builds(cls, **{name: strategies[hint] for name, hint in hints.items()})


events = st.one_of([st.builds(cls, **fields_of(cls)) for cls in EVENTS.values()])


@given(event=events)
def test_written_event_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, event: Event
) -> None:
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    with EventWriter(path) as writer:
        writer.write(event)
    (read,), _ = read_events(path)
    assert read == dataclasses.replace(event, time=read.time)
    (record,), _ = read_records(path)
    assert json.loads(json.dumps(read.record())) == record


@given(
    kind=st.sampled_from([*EVENTS, "unreadable", "other"]),
    fields=st.dictionaries(
        st.sampled_from(["step", "path", "devices", "stage", "done", "message", "prompt", "loss"]),
        json_values,
    ),
)
def test_any_json_object_becomes_an_event(kind: str, fields: dict[str, Any]) -> None:
    event = parse_event({**fields, "time": 1.0, "type": kind})
    assert event.time == 1.0
    json.dumps(event.record())


@pytest.mark.parametrize("path", ["/etc/passwd", "../other/clip.mp4", 3, None])
@pytest.mark.parametrize("cls", [SampleEvent, CheckpointEvent])
def test_path_outside_the_run_folder_makes_an_event_unreadable(cls: type[Event], path: Any) -> None:
    record = {"time": 1.0, "type": cls.type, "step": 1, "prompt": "", "seed": 0, "path": path}
    assert isinstance(parse_event(record), UnreadableEvent)


def test_event_of_a_newer_version_keeps_its_fields() -> None:
    record = {"time": 1.0, "type": "likeness", "value": 0.5}
    event = parse_event(record)
    assert isinstance(event, UnknownEvent)
    assert event.record() == record


def test_every_class_of_events_is_in_the_table() -> None:
    classes = {cls.__name__ for cls in (*Event.__subclasses__(), *ValuesEvent.__subclasses__())}
    not_written = {"ValuesEvent", "UnknownEvent", "UnreadableEvent"}
    assert classes - not_written == {cls.__name__ for cls in EVENTS.values()}


def test_log_without_a_file_is_empty(tmp_path: Path) -> None:
    assert read_events(tmp_path / "events.jsonl") == ([], 0)
