"""Footer with the keys of the current screen that fit the terminal, most important first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import Footer
from textual.widgets._footer import FooterKey, FooterLabel, KeyGroup

from pvtool.dashboard import keys

_LAST = ("help", "quit")


@dataclass(frozen=True)
class Hint:
    """A label with its key, or with the keys of a group."""

    label: str
    bindings: tuple[Binding, ...]

    @property
    def width(self) -> int:
        """Return the cells that the hint takes, with the space after it."""
        names = sum(len(keys.display_names(binding.key)) for binding in self.bindings)
        return names + len(self.label) + 2


class KeyFooter(Footer):
    """Keys of the focused widget, the screen and the application, in this order.

    Keys that move the selection are only in the help, as are those that do not fit.
    """

    def __init__(self) -> None:
        super().__init__(show_command_palette=False, compact=True)
        self._fitted: list[Hint] = []

    def compose(self) -> ComposeResult:
        """Yield a key or a group of keys for each hint."""
        self._fitted = self._fitting()
        for hint in self._fitted:
            grouped = len(hint.bindings) > 1
            made = [
                FooterKey(
                    binding.key,
                    keys.display_names(binding.key),
                    "" if grouped else hint.label,
                    binding.action,
                    tooltip=binding.tooltip,
                    classes="-grouped" if grouped else "",
                ).data_bind(compact=Footer.compact)
                for binding in hint.bindings
            ]
            if grouped:
                yield KeyGroup(*made, classes="-compact")
                yield FooterLabel(hint.label)
            else:
                yield from made

    def on_resize(self) -> None:
        """Show more or fewer keys at another width."""
        if self._fitting() != self._fitted:
            self.call_after_refresh(self.recompose)

    def _fitting(self) -> list[Hint]:
        own = {each.key: each for each in self.screen.BINDINGS if isinstance(each, Binding)}
        active = [
            each.binding if each.binding.tooltip in keys.HINTED else own.get(key, each.binding)
            for key, each in self.screen.active_bindings.items()
        ]
        return fitting(list(hints(active)), self.app.size.width)


def hints(active: Sequence[Binding]) -> Iterator[tuple[bool, Hint]]:
    """Yield each hint, and whether its keys are always shown if there is room."""
    seen: set[str] = set()
    for binding in active:
        label = binding.group.description if binding.group else binding.description
        if binding.tooltip not in keys.HINTED or label in seen:
            continue
        seen.add(label)
        same = (each for each in active if each.group and each.group is binding.group)
        first_keys = {each.action: each for each in reversed([binding, *same])}
        yield binding.show, Hint(label, tuple(reversed(first_keys.values())))


def fitting(found: Sequence[tuple[bool, Hint]], width: int) -> list[Hint]:
    """Return the hints that fit: those always shown, then the others, and last help and quit."""
    last = [hint for _, hint in found if hint.bindings[0].action in _LAST]
    rest = [(shown, hint) for shown, hint in found if hint not in last]
    ordered = [hint for shown, hint in rest if shown] + [hint for shown, hint in rest if not shown]
    room = width - sum(hint.width for hint in last)
    fitted: list[Hint] = []
    for hint in ordered:
        room -= hint.width
        if room < 0:
            break
        fitted.append(hint)
    return [*fitted, *last]
