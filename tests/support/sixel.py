"""Decoder of sixel graphics, and a screen that shows them, written from the format's definition.

Source: VT330/VT340 Programmer Reference Manual, volume 2, chapter 14.
"""

import re

from PIL import Image

_COMMAND = re.compile(
    r"#(?P<define>\d+);2;(?P<red>\d+);(?P<green>\d+);(?P<blue>\d+)|#(?P<select>\d+)"
    r"|!(?P<count>\d+)(?P<repeated>[?-~])|(?P<single>[?-~])|(?P<control>[$-])"
)
_OUTPUT = re.compile(
    r"\x1bP0;1q(?P<sixel>[^\x1b]*)\x1b\\|\x1b\](?P<osc>[^\x07\x1b]*)\x07|\x1b\[(?P<line>\d+);(?P<column>\d+)H"
    r"|\x1b\[(?P<right>\d+)C|\x1b(?P<cursor>[78])|\x1b\[[^A-Za-z]*[A-Za-z]|\x1b.|(?P<text>[^\x00-\x1f])"
)


def decode_sixel(data: str) -> Image.Image:
    """Decode the data of a sixel command that follows `q`; pixels outside the raster fail."""
    raster = re.match(r'"1;1;(\d+);(\d+)', data)
    assert raster, data[:40]
    image = Image.new("RGB", (int(raster[1]), int(raster[2])), (1, 2, 3))  # not in any palette
    registers: dict[str, tuple[int, int, int]] = {}
    x = top = 0
    at, colour = raster.end(), (0, 0, 0)
    while at < len(data):
        command = _COMMAND.match(data, at)
        assert command, data[at : at + 20]
        at = command.end()
        if command["define"]:
            red, green, blue = (
                round(int(command[name]) * 255 / 100) for name in ("red", "green", "blue")
            )
            registers[command["define"]] = red, green, blue
        elif command["select"]:
            colour = registers[command["select"]]
        elif command["control"]:
            x, top = 0, top + 6 * (command["control"] == "-")
        else:
            bits = ord(command["repeated"] or command["single"]) - 63
            count = int(command["count"] or 1)
            for bit in range(6):
                for column in range(x, x + count if bits >> bit & 1 else x):
                    image.putpixel((column, top + bit), colour)
            x += count
    return image


class SixelScreen:
    """Screen of a terminal with sixel graphics; cells with text are black."""

    def __init__(self, size: tuple[int, int], cell: tuple[int, int]) -> None:
        self.cell = cell
        self.image = Image.new("RGB", (size[0] * cell[0], size[1] * cell[1]))
        self._line = self._column = 0
        self._saved = (0, 0)

    def feed(self, output: str) -> None:
        """Show the output of a program."""
        for token in _OUTPUT.finditer(output):
            if token["sixel"]:
                # The cursor ends somewhere else in each terminal, here far away.
                self.image.paste(decode_sixel(token["sixel"]), self._position())
                self._line, self._column = 0, 0
            elif token["line"]:
                self._line, self._column = int(token["line"]) - 1, int(token["column"]) - 1
            elif token["right"]:
                self._column += int(token["right"])
            elif token["cursor"] == "7":
                self._saved = self._line, self._column
            elif token["cursor"]:
                self._line, self._column = self._saved
            elif token["text"]:
                self.image.paste(Image.new("RGB", self.cell), self._position())
                self._column += 1

    def _position(self) -> tuple[int, int]:
        return self._column * self.cell[0], self._line * self.cell[1]
