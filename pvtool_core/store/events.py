"""Events of an engine: one class for each type, written by engines and parsed once by readers.

In events.jsonl an event is a JSON object with `time`, `type` and the fields of its class. Fields
that are None or empty are omitted where the class allows it.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import PurePosixPath
from typing import Any, ClassVar, Self, cast, get_type_hints

from pvtool_core.store.clip_likeness import ClipLikeness
from pvtool_core.store.clip_watermark import ClipWatermark

Record = dict[str, Any]
"""An event as a JSON object."""
Number = float | None
_END_OF_TIME = 1e11  # seconds since 1970; beyond the range of calendars
_LARGEST = 1e300


def _omitted(default: Any) -> Any:
    """Return a field that is not written while it has its default value."""
    return field(default=default, metadata={"omitted": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base class of all events. `time` is in seconds since 1970, set when the event is written."""

    type: ClassVar[str] = ""
    time: float = 0.0

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Self:
        """Return the event of a JSON object. Raises ValueError, TypeError or KeyError."""
        values: dict[str, Any] = {}
        for name, convert, required in _readers(cls):
            if required or name in record:
                values[name] = convert(record[name])
        return cls(**values)

    def record(self) -> Record:
        """Return the event as a JSON object."""
        record: Record = {"time": self.time, "type": self.type}
        for name, default, omitted in _writers(type(self)):
            value = getattr(self, name)
            if not (omitted and value == default):
                record[name] = str(value) if isinstance(value, PurePosixPath) else value
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent(Event):
    """State change of the engine: started, resumed, paused, finished, stopped or failed."""

    type = "run"
    state: str
    step: int | None = _omitted(None)
    reason: str = _omitted("")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEvent(Event):
    """A phase begins or advances: `done` of `total` items, if they are counted."""

    type = "stage"
    stage: str
    done: int | None = _omitted(None)
    total: int | None = _omitted(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvent(Event):
    """One training iteration.

    `eta` is the remaining time in seconds. `scalars` are fields of their own in the JSON object:
    the losses of the objective, the learning rate `lr`, `grad_norm` and `seconds`.
    """

    type = "step"
    step: int
    prompt: str = ""
    seed: int = 0
    eta: Number = None
    face_found: bool | None = _omitted(None)
    scalars: Mapping[str, Number] = field(default_factory=dict[str, Number])

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Self:
        """Return the event of a JSON object. Raises ValueError, TypeError or KeyError."""
        return cls.of(record["step"], record, record["time"])

    @classmethod
    def of(cls, step: int, values: Mapping[str, Any], time: float = 0.0) -> Self:
        """Return the event of an iteration with these values. Raises ValueError or TypeError."""
        scalars = {
            name: None if value is None else _number(value)
            for name, value in values.items()
            if name not in _STEP_FIELDS
        }
        get = values.get
        return cls(
            time=time,
            step=_integer(step),
            prompt=_text(get("prompt", "")),
            seed=_integer(get("seed", 0)),
            eta=_optional_number(get("eta")),
            face_found=_optional_bool(get("face_found")),
            scalars=scalars,
        )

    def record(self) -> Record:
        """Return the event as a JSON object."""
        record = Event.record(self)
        scalars = record.pop("scalars")
        return record | scalars


_STEP_FIELDS = frozenset({"time", "type", "step", "prompt", "seed", "eta", "face_found"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEvent(Event):
    """A sample clip was written to `path`, relative to the run folder."""

    type = "sample"
    step: int
    path: PurePosixPath
    prompt: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSample:
    """Scores of one sample clip by metric, and those of the base model's clip."""

    prompt: str
    seed: int
    scores: Mapping[str, float]
    base: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresEvent(Event):
    """Scores of the samples of a step, by models that training does not use.

    `scores` are means over the `clips` sample clips by metric, `base` those of the base model's
    clips of the same prompts and seeds. A clip without a value, such as the motion of a face that
    is not found, is left out of both means. `samples` are the scores of each clip.
    """

    type = "scores"
    step: int
    clips: int
    scores: Mapping[str, float]
    base: Mapping[str, float]
    samples: tuple[ScoredSample, ...] = _omitted(())

    def record(self) -> Record:
        """Return the event as a JSON object."""
        record = Event.record(self)
        if self.samples:
            record["samples"] = list(map(asdict, self.samples))
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointEvent(Event):
    """A checkpoint was written to `path`, relative to the run folder."""

    type = "checkpoint"
    step: int
    path: PurePosixPath


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipEvent(Event):
    """Result of one clip of a batch.

    `path` is the path of the clip without suffix, `files` are the names of its files. `status` is
    done, skipped (it exists), elsewhere (another engine renders it) or failed, with the `reason`.
    `run` and `step` are those of its adapter, which was trained on the base model `adapter_base`,
    or `method` is its encoder method. `base_model` is the one of the clip. `seconds` is the
    rendering time. `likeness` is that to the identity, if it was measured, `watermark` the
    invisible one, if it has one.
    """

    type = "clip"
    path: str
    files: tuple[str, ...] = ()
    identity: str = ""
    prompt: str = ""
    seed: int = 0
    run: str = ""
    step: int = 0
    method: str = _omitted("")
    base_model: str = ""
    adapter_base: str = _omitted("")
    strength: Number = _omitted(1.0)  # noqa: RUF009 - a field
    status: str
    seconds: Number = 0.0
    reason: str = _omitted("")
    likeness: ClipLikeness | None = _omitted(None)  # noqa: RUF009 - a field
    watermark: ClipWatermark | None = _omitted(None)  # noqa: RUF009 - a field

    def record(self) -> Record:
        """Return the event as a JSON object."""
        record = Event.record(self)
        if self.likeness:
            record["likeness"] = self.likeness.record()
        if self.watermark:
            record["watermark"] = self.watermark.record()
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningEvent(Event):
    """A message for the user. `cut` is the end of a prompt that a text encoder cannot read."""

    type = "warning"
    message: str
    step: int | None = _omitted(None)
    cut: str = _omitted("")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraEvent(Event):
    """A LoRA file was loaded: `matched` of its `keys` tensors have a place in the model.

    `role` is adapter or style LoRA. `name` is RUN@STEP of an adapter, and the file name of a style
    LoRA. `unmatched` are names of other tensors, at most ten.
    """

    type = "lora"
    role: str
    name: str
    keys: int
    matched: int
    unmatched: tuple[str, ...] = _omitted(())


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """Measured values of an accelerator: bytes, percent, °C and W; None if it reports none."""

    index: int
    name: str
    memory_used: Number = None
    memory_total: Number = None
    utilisation: Number = None
    temperature: Number = None
    power: Number = None
    power_limit: Number = _omitted(None)  # noqa: RUF009 - a field


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReading:
    """Measured values of the computer: bytes, and CPU load in percent of all its `cores`.

    `disk_free` and `disk_total` are those of the file system with the run folder.
    """

    memory_used: Number = None
    memory_total: Number = None
    cpu: Number = None
    cores: int | None = None
    disk_free: Number = None
    disk_total: Number = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryEvent(Event):
    """Telemetry, every few seconds: accelerators, and memory (bytes) and load of the engine.

    `cpu` is in percent of one core. `own` is the index of the accelerator that the engine uses, if
    it is known.
    """

    type = "gpu"
    devices: tuple[DeviceReading, ...]
    process_memory: Number = None
    cpu: Number = None
    host: HostReading | None = _omitted(None)  # noqa: RUF009 - a field
    own: int | None = _omitted(None)

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Self:
        """Return the event of a JSON object. Raises ValueError, TypeError or KeyError."""
        host = record.get("host")
        return cls(
            time=record["time"],
            devices=tuple(_reading(DeviceReading, device) for device in record["devices"]),
            process_memory=_optional_number(record.get("process_memory")),
            cpu=_optional_number(record.get("cpu")),
            host=None if host is None else _reading(HostReading, host),
            own=_optional_integer(record.get("own")),
        )

    def record(self) -> Record:
        """Return the event as a JSON object."""
        record = {**Event.record(self), "devices": list(map(_values, self.devices))}
        if self.host:
            record["host"] = _values(self.host)
        return record


def _reading(kind: Any, record: Mapping[str, Any]) -> Any:
    """Return the reading of a JSON object. Raises ValueError, TypeError or KeyError."""
    return kind(
        **{
            name: convert(record[name])
            for name, convert, required in _readers(kind)
            if required or name in record
        }
    )


def _values(reading: DeviceReading | HostReading) -> Record:
    """Return a reading as a JSON object."""
    return {
        name: getattr(reading, name)
        for name, default, omitted in _writers(type(reading))
        if not (omitted and getattr(reading, name) == default)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuesEvent(Event):
    """Base class of events whose `values` are fields of their own in the JSON object."""

    values: Mapping[str, Any]

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Self:
        """Return the event of a JSON object."""
        rest = {name: value for name, value in record.items() if name not in {"time", "type"}}
        return cls(time=record["time"], values=rest)

    def record(self) -> Record:
        """Return the event as a JSON object."""
        return {"time": self.time, "type": self.type, **self.values}


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineEvent(ValuesEvent):
    """Devices of the machine, for `pv train --plan`."""

    type = "machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class CountsEvent(ValuesEvent):
    """Counted operations and memory of a model, for `pv train --plan`."""

    type = "counts"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(Event):
    """An event of a type that this version does not know; `fields` is the whole JSON object."""

    fields: Mapping[str, Any]

    def record(self) -> Record:
        """Return the event as a JSON object."""
        return dict(self.fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableEvent(Event):
    """A line that is not a valid event, with the beginning of its `text`."""

    type = "unreadable"
    text: str


Report = Callable[[Event], None]
"""Function to which the parts of an engine report events."""


def ignore(_: Event) -> None:
    """Ignore an event."""


EVENTS: dict[str, type[Event]] = {
    cls.type: cls
    for cls in (
        RunEvent,
        StageEvent,
        StepEvent,
        SampleEvent,
        ScoresEvent,
        CheckpointEvent,
        ClipEvent,
        WarningEvent,
        LoraEvent,
        TelemetryEvent,
        MachineEvent,
        CountsEvent,
    )
}
"""The class of each type of event that engines write."""


def parse_event(record: Record) -> Event:
    """Return the event of a JSON object; an UnreadableEvent if fields are missing or invalid."""
    cls = EVENTS.get(record["type"])
    if record["type"] == UnreadableEvent.type:
        return UnreadableEvent(time=record["time"], text=str(record.get("text", "")))
    if cls is None:
        return UnknownEvent(time=record["time"], fields=record)
    try:
        return cls.parse(record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        text = f"{record['type']}: {type(error).__name__} {error}"
        return UnreadableEvent(time=record["time"], text=text[:200])


def is_record(value: Any) -> bool:
    """Return whether a JSON value has the type and the time of an event."""
    if not isinstance(value, dict):
        return False
    record = cast("Record", value)
    kind, time = record.get("type"), record.get("time")
    return isinstance(kind, str) and isinstance(time, int | float) and 0 <= time < _END_OF_TIME


@cache
def _readers(cls: type) -> tuple[tuple[str, Callable[[Any], Any], bool], ...]:
    """Return name, converter and whether it is required, for each field."""
    hints = get_type_hints(cls)
    return tuple(
        (
            one.name,
            _CONVERTERS[hints[one.name]],
            one.default is MISSING and one.default_factory is MISSING,
        )
        for one in fields(cls)
    )


@cache
def _writers(cls: type) -> tuple[tuple[str, Any, bool], ...]:
    """Return name, default and whether the default is omitted, for each field but `time`."""
    return tuple(
        (one.name, one.default, "omitted" in one.metadata)
        for one in fields(cls)
        if one.name != "time"
    )


def _integer(value: Any) -> int:
    number = int(value)
    if isinstance(value, bool | str) or number != value:
        raise ValueError(f"{value!r} is not an integer")
    return number


def _number(value: Any) -> float:
    if isinstance(value, bool) or not -_LARGEST < value < _LARGEST:
        raise ValueError(f"{value!r} is not a number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _optional_number(value: Any) -> Number:
    return None if value is None else _number(value)


def _optional_integer(value: Any) -> int | None:
    return None if value is None else _integer(value)


def _optional_bool(value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{value!r} is not true or false")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_text, value))


def _numbers(value: Any) -> dict[str, float]:
    return {_text(name): _number(each) for name, each in value.items()}


def _scored_samples(value: Any) -> tuple[ScoredSample, ...]:
    return tuple(
        ScoredSample(
            prompt=_text(each["prompt"]),
            seed=_integer(each["seed"]),
            scores=_numbers(each["scores"]),
            base=_numbers(each["base"]),
        )
        for each in value
    )


def _relative_path(value: Any) -> PurePosixPath:
    """Return a path below the run folder. Raises ValueError if it leads out of it."""
    path = PurePosixPath(_text(value))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{value!r} is not below the run folder")
    return path


_CONVERTERS: dict[Any, Callable[[Any], Any]] = {
    float: _number,
    int: _integer,
    str: _text,
    Number: _optional_number,
    int | None: _optional_integer,
    bool | None: _optional_bool,
    tuple[str, ...]: _texts,
    Mapping[str, float]: _numbers,
    tuple[ScoredSample, ...]: _scored_samples,
    PurePosixPath: _relative_path,
    ClipLikeness | None: ClipLikeness.parse,
    ClipWatermark | None: ClipWatermark.parse,
}
