"""The last look at every line that the dashboard draws: no text may command the terminal or reorder the line."""

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from pvtool.text import plain


class ControlCharacterFilter(LineFilter):
    """Removes from text what `plain` escapes: by now the width of the line is fixed."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return the segments, those with control characters replaced; most lines are returned as they are."""
        if all(_is_harmless(segment) for segment in segments):
            return segments
        return [segment if _is_harmless(segment) else _cleaned(segment) for segment in segments]


def _is_harmless(segment: Segment) -> bool:
    return (segment.text.isascii() and segment.text.isprintable()) or plain(
        segment.text
    ) == segment.text


def _cleaned(segment: Segment) -> Segment:
    """Return the segment with spaces, as wide as they were, instead of control characters."""
    text = segment.text
    kept = (char if plain(f"a{char}a") == f"a{char}a" else " " * cell_len(char) for char in text)
    return Segment("".join(kept), segment.style, segment.control)
