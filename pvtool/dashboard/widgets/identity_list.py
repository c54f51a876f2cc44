"""The people of the library: a list of them, and how alike the photos of one are."""

from dataclasses import dataclass
from pathlib import Path

from textual.content import Content
from textual.widgets import Static
from textual.widgets.option_list import Option

SimilarityMatrix = tuple[tuple[float, ...], ...]
LOW = 0.2
"""Below this, `pv identity add` takes a photo for another person's."""


@dataclass(frozen=True, kw_only=True)
class ReferencePhoto:
    """A reference photo: its file, the face cut out of it, what the user called it, the detector's score."""

    reference: Path
    face: Path
    name: str
    score: float


@dataclass(frozen=True, kw_only=True)
class IdentityItem:
    """Somebody in the library. What a broken file keeps from us is empty, and `problem` says so."""

    name: str
    folder: Path
    noun: str = ""
    created: str = ""
    consent: str = ""
    photos: tuple[ReferencePhoto, ...] = ()
    runs: tuple[str, ...] = ()
    problem: str = ""

    @property
    def photos_in_words(self) -> str:
        """How many photos are kept."""
        return counted(len(self.photos), "photo")

    def option(self) -> Option:
        """As a line of the list."""
        if self.problem:
            return Option(
                Content.assemble((self.name, "bold"), "\n", ("cannot be read", "$text-error")),
                id=self.name,
            )
        runs = counted(len(self.runs), "run")
        about = f"{self.noun} · {self.photos_in_words} · {runs}"
        return Option(Content.assemble((self.name, "bold"), "\n", (about, "dim")), id=self.name)


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`, `no runs`."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


class SimilarityTable(Static):
    """How alike the photos are, each with each: numbers on a shade, the photo shown marked."""

    DEFAULT_CSS = "Likeness { height: auto; }"

    def __init__(self) -> None:
        super().__init__()
        self._rows: SimilarityMatrix = ()
        self._current = 0

    def show(self, rows: SimilarityMatrix, current: int) -> None:
        """Show similarities; `current` is the place of the photo shown."""
        self._rows, self._current = rows, current
        self.update(self._drawn())

    def on_resize(self) -> None:
        """As many numbers as fit."""
        self.update(self._drawn())

    def _drawn(self) -> Content:
        if len(self._rows) == 1:
            return Content.styled("One photo: there is nothing to compare it with.", "dim")
        numbers = 5 * len(self._rows) + 5 <= self.size.width
        lines = [
            Content.assemble(self._mark(place), *(_cell(value, numbers) for value in row))
            for place, row in enumerate(self._rows)
        ]
        head = [_head(len(self._rows), self._current)] if numbers else []
        return Content("\n").join([*head, *lines])

    def _mark(self, place: int) -> Content:
        here = place == self._current
        return Content.styled(
            f"{'▸' if here else ' '}{place + 1:>2} ", "bold $text-accent" if here else "dim"
        )


def _head(count: int, current: int) -> Content:
    cells = [
        Content.styled(f"{n + 1:^5}", "bold $text-accent" if n == current else "dim")
        for n in range(count)
    ]
    return Content.assemble("    ", *cells)


def _cell(value: float, number: bool) -> Content:
    style = "bold $text-error" if value < LOW else f"$text on $primary {_percent(value)}%"
    return Content.styled(f"{value:^5.2f}" if number else _shade(value), style)


def _percent(value: float) -> int:
    return round(10 + 60 * min(max(value, 0.0), 1.0))


def _shade(value: float) -> str:
    return "·░▒▓█"[min(int(max(value, 0.0) * 5), 4)] * 2
