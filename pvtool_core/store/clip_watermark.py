"""Watermark of a clip as its sidecar, its event and `--json` record it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

_LARGEST = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipWatermark:
    """An invisible watermark: its method, and its id, the first bits of the clip's key.

    `psnr` compares the marked with the unmarked frames, in dB; `seconds` is the time to mark them.
    """

    method: str
    id: str
    psnr: float
    seconds: float

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Self:
        """Return the watermark of a JSON object. Raises ValueError, TypeError or KeyError."""
        return cls(
            method=str(record["method"]),
            id=str(record["id"]),
            psnr=_number(record["psnr"]),
            seconds=_number(record["seconds"]),
        )

    def record(self) -> dict[str, Any]:
        """Return the watermark as a JSON object."""
        return asdict(self)

    def facts(self) -> dict[str, str]:
        """Return the part that rendering again reproduces, for the metadata of the file."""
        return {"method": self.method, "id": self.id}


def watermark_in(sidecar: Mapping[str, Any] | None) -> ClipWatermark | None:
    """Return the watermark in a sidecar; None without a valid one."""
    try:
        return ClipWatermark.parse(sidecar["watermark"]) if sidecar else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _number(value: Any) -> float:
    if isinstance(value, bool | str) or not -_LARGEST < value < _LARGEST:
        raise ValueError(f"{value!r} is not a number")
    return value
