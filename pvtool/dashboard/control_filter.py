"""Filter that removes control characters from every rendered line.

It prevents text from sending commands to the terminal or reordering the line.
"""

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from pvtool.text import plain


class ControlCharacterFilter(LineFilter):
    """Line filter that blanks what `plain` escapes, because the line width is already fixed."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return the segments with control characters replaced by spaces."""
        if all(_is_plain(segment) for segment in segments):
            return segments
        return [segment if _is_plain(segment) else _blank_controls(segment) for segment in segments]


def _is_plain(segment: Segment) -> bool:
    return (segment.text.isascii() and segment.text.isprintable()) or plain(
        segment.text
    ) == segment.text


def _blank_controls(segment: Segment) -> Segment:
    """Return the segment with control characters replaced by spaces of the same width."""
    text = segment.text
    kept = (char if plain(f"a{char}a") == f"a{char}a" else " " * cell_len(char) for char in text)
    return Segment("".join(kept), segment.style, segment.control)
