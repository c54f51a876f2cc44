"""Identities of the library: list entries, and the similarity table of the photos."""

from dataclasses import dataclass
from pathlib import Path

from textual.content import Content
from textual.widgets import Static
from textual.widgets.option_list import Option

SimilarityMatrix = tuple[tuple[float, ...], ...]
LOW = 0.2
"""Similarity below which `pv identity add` assumes another identity."""


@dataclass(frozen=True, kw_only=True)
class ReferencePhoto:
    """Reference photo: file, face crop, original file name and detection score."""

    reference: Path
    face: Path
    name: str
    score: float


@dataclass(frozen=True, kw_only=True)
class IdentityItem:
    """Identity in the library; if a file is broken, `problem` is set and other fields are empty.

    `consent_state` is that of the consent record, `consent_terms` describes its terms.
    """

    name: str
    folder: Path
    noun: str = ""
    created: str = ""
    consent: str = ""
    consent_state: str = ""
    consent_terms: tuple[str, ...] = ()
    photos: tuple[ReferencePhoto, ...] = ()
    runs: tuple[str, ...] = ()
    problem: str = ""

    @property
    def photo_count(self) -> str:
        """Return the number of photos, with its noun."""
        return count_noun(len(self.photos), "photo")

    def option(self) -> Option:
        """Return an entry of the list."""
        if self.problem:
            return Option(
                Content.assemble((self.name, "bold"), "\n", ("cannot be read", "$text-error")),
                id=self.name,
            )
        runs = count_noun(len(self.runs), "run")
        details = f"{self.noun} · {self.photo_count} · {runs}"
        refused = f"  {self.consent_state}" if self.is_refused else ""
        return Option(
            Content.assemble((self.name, "bold"), (refused, "$text-error"), "\n", (details, "dim")),
            id=self.name,
        )

    @property
    def is_refused(self) -> bool:
        """Return whether the identity cannot be trained or rendered."""
        return self.consent_state in {"revoked", "expired"}

    def consent_content(self) -> Content:
        """Return the consent statement and its terms."""
        terms = " · ".join(self.consent_terms)
        style = "$text-error" if self.is_refused else "dim"
        return Content("\n").join(
            [Content(self.consent or "No consent record."), Content.styled(terms, style)]
        )


def count_noun(number: int, noun: str) -> str:
    """Format a number with its noun: `1 run`, `2 runs`, `no runs`."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


class SimilarityTable(Static):
    """Pairwise similarities of the photos, as numbers on shades; the shown photo is marked."""

    DEFAULT_CSS = "SimilarityTable { height: auto; }"

    def __init__(self) -> None:
        super().__init__()
        self._rows: SimilarityMatrix = ()
        self._current = 0

    def show(self, rows: SimilarityMatrix, current: int) -> None:
        """Show similarities; `current` is the index of the shown photo."""
        self._rows, self._current = rows, current
        self.update(self._table())

    def on_resize(self) -> None:
        """Show as many numbers as fit."""
        self.update(self._table())

    def _table(self) -> Content:
        if len(self._rows) == 1:
            return Content.styled("Only one photo: nothing to compare.", "dim")
        numbers = 5 * len(self._rows) + 5 <= self.size.width
        lines = [
            Content.assemble(self._row_label(row), *(_cell(value, numbers) for value in values))
            for row, values in enumerate(self._rows)
        ]
        header = [_header(len(self._rows), self._current)] if numbers else []
        return Content("\n").join([*header, *lines])

    def _row_label(self, row: int) -> Content:
        current = row == self._current
        return Content.styled(
            f"{'▸' if current else ' '}{row + 1:>2} ", "bold $text-accent" if current else "dim"
        )


def _header(count: int, current: int) -> Content:
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
