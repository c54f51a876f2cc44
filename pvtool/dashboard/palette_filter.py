"""Filter that chooses colours of the 256-colour palette, for terminals without true colour.

Rich rounds dark greys with a blue tint to navy; here the nearest colour is chosen.
"""

from functools import lru_cache

from rich.color import Color as RichColor
from rich.color import ColorType
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter

_LEVELS = (0, 95, 135, 175, 215, 255)
_PALETTE = {
    **{
        16 + 36 * r + 6 * g + b: (_LEVELS[r], _LEVELS[g], _LEVELS[b])
        for r in range(6)
        for g in range(6)
        for b in range(6)
    },
    **{232 + i: (8 + 10 * i,) * 3 for i in range(24)},
}
"""Red, green and blue of the colours that terminals agree on: a cube, and a ramp of greys."""


class PaletteFilter(LineFilter):
    """Line filter that replaces true colours by the nearest ones of the palette."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return the segments in colours of the palette."""
        return [
            Segment(text, style and in_palette(style), control) for text, style, control in segments
        ]


@lru_cache(maxsize=4096)
def in_palette(style: Style) -> Style:
    """Return a style with the nearest colours of the palette."""
    return style + Style(color=_nearest(style.color), bgcolor=_nearest(style.bgcolor))


@lru_cache(maxsize=4096)
def _nearest(color: RichColor | None) -> RichColor | None:
    if color is None or color.type != ColorType.TRUECOLOR or color.triplet is None:
        return color
    wanted = color.triplet
    number = min(
        _PALETTE,
        key=lambda each: sum((a - b) ** 2 for a, b in zip(_PALETTE[each], wanted, strict=True)),
    )
    return RichColor.from_ansi(number)
