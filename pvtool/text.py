"""Format events, durations and paths, and escape control characters in text for a terminal."""

import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtool_core.settings.sample_metrics import LIKENESS, SAMPLE_METRICS

if TYPE_CHECKING:
    from pvtool_core.store.events import Record


def describe(record: "Record") -> str:
    """Format an event, given as its JSON object, as a line of a log."""
    rest = {key: value for key, value in record.items() if key not in {"time", "type"}}
    values = "  ".join(f"{key}={_short(value)}" for key, value in rest.items())
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["time"]))
    return plain(f"{when}  {record['type']:<10}  {values}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def describe_scores(scores: Mapping[str, float], base: Mapping[str, float]) -> str:
    """Format the scores of samples, beside or against those of the base model's clips."""
    parts: list[str] = []
    for name, metric in SAMPLE_METRICS.items():
        value = metric.shown(scores.get(name), base.get(name))
        if value is None:
            continue
        number = {"ratio": f"{value:.2f} of base", "difference": f"{value:+.2f} from base"}.get(
            metric.against, f"{value:.3f}"
        )
        parts.append(f"{metric.info.label} {number}")
        if name == LIKENESS and name in base:
            parts[-1] += f" (base {base[name]:.3f})"
    return "  ".join(parts)


def describe_effect(rms: Mapping[str, float]) -> str:
    """Format the effect of an adapter by kind of layer."""
    numbers = "  ".join(f"{kind} {value:.2g}" for kind, value in rms.items())
    return f"median rms of B·A: {numbers}"


def duration(seconds: float) -> str:
    """Format seconds: `95` as `1:35`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def figures(value: float, digits: int = 2) -> str:
    """Format a number with so many significant digits: `0.0318` as `0.032`, `1234` as `1200`."""
    decimals = digits - 1 - math.floor(math.log10(abs(value))) if value else 0
    return f"{round(value, decimals):.{max(0, decimals)}f}"


def moment(time: str) -> str:
    """Format a recorded time: `2026-11-28T00:36:53+00:00` as `2026-11-28 00:36`."""
    return time[:16].replace("T", " ")


def shown(path: Path) -> str:
    """Format a path relative to the current folder if it is below it."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the current folder was deleted
        return plain(str(path))
    return plain(str(path.relative_to(here)) if path.is_relative_to(here) else str(path))


_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1: ESC and CSI among them
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the display order of a line
    # invisible characters and line separators
    "\xad\u180e\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"  # undecodable bytes of a file name; invisible tags
    # joiners next to ASCII; emoji and some scripts need them
    "|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def plain(text: str) -> str:
    """Escape the characters that a terminal would execute or that reorder the line."""
    return _CONTROLS.sub(_escape, text)


def plain_lines(text: str) -> str:
    """Apply `plain` to each line of a text; tabs become spaces."""
    return "\n".join(plain(line.expandtabs()) for line in text.split("\n"))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that could not be decoded
        code -= 0xDC00
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return _SHORT.get(found[0]) or (f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}")
