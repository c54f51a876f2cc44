"""Likeness of a clip as its sidecar, its event and `--json` record it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

_LARGEST = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstFrame:
    """The frame with the lowest cosine: its index in the clip, its time in seconds, the value."""

    frame: int
    time: float
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """A clip of one seed among several: its mean likeness, and its name in the same folder."""

    seed: int
    mean: float
    clip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLikeness:
    """Similarity of a clip's faces to its identity, by a recogniser that training does not use.

    `mean` counts frames without a face as 0, `found` is the mean over frames with a face, null
    without any; `faces_found` is the share of frames with a face. `frames` is the number of scored
    frames: all, or evenly spaced ones of a long clip. `tries` are the seeds rendered for
    `--min-likeness`, the clip's own first; none if it was the only one.
    """

    mean: float
    found: float | None
    faces_found: float
    worst: WorstFrame
    recognizer: str
    frames: int
    tries: tuple[Try, ...] = ()

    @property
    def best(self) -> Try | None:
        """The try with the highest mean; None without tries."""
        return max(self.tries, key=lambda one: one.mean, default=None)

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Self:
        """Return the likeness of a JSON object. Raises ValueError, TypeError or KeyError."""
        worst, found = record["worst"], record["found"]
        return cls(
            mean=_number(record["mean"]),
            found=None if found is None else _number(found),
            faces_found=_number(record["faces_found"]),
            worst=WorstFrame(
                frame=int(_number(worst["frame"])),
                time=_number(worst["time"]),
                value=_number(worst["value"]),
            ),
            recognizer=str(record["recognizer"]),
            frames=int(_number(record["frames"])),
            tries=tuple(
                Try(seed=int(one["seed"]), mean=_number(one["mean"]), clip=str(one["clip"]))
                for one in record.get("tries", ())
            ),
        )

    def record(self) -> dict[str, Any]:
        """Return the likeness as a JSON object."""
        worst, best = self.worst, self.best
        tries = [{"seed": one.seed, "mean": one.mean, "clip": one.clip} for one in self.tries]
        return {
            "mean": self.mean,
            "found": self.found,
            "faces_found": self.faces_found,
            "worst": {"frame": worst.frame, "time": worst.time, "value": worst.value},
            "recognizer": self.recognizer,
            "frames": self.frames,
            **({"tries": tries, "best": best.clip} if best else {}),
        }


def likeness_in(sidecar: Mapping[str, Any] | None) -> ClipLikeness | None:
    """Return the likeness in a sidecar; None without a valid one."""
    try:
        return ClipLikeness.parse(sidecar["likeness"]) if sidecar else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _number(value: Any) -> float:
    if isinstance(value, bool | str) or not -_LARGEST < value < _LARGEST:
        raise ValueError(f"{value!r} is not a number")
    return value
