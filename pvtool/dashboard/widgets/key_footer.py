"""Footer with the keys of the current screen that fit the terminal, most important first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from textual import events
from textual.binding import Binding
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget

from pvtool.dashboard import keys

_LAST = ("help", "quit")


@dataclass(frozen=True)
class Hint:
    """A label with its key, or with the keys of a group."""

    label: str
    bindings: tuple[Binding, ...]

    @property
    def names(self) -> list[str]:
        """Return the names of the keys, in the order of the bindings."""
        return [keys.display_names(binding.key) for binding in self.bindings]

    @property
    def width(self) -> int:
        """Return the cells that the hint takes, with the space after it."""
        return len("".join(self.names)) + len(self.label) + 2

    def binding_at(self, x: int) -> Binding:
        """Return the binding whose key is shown at a cell, or the last one for the label."""
        for binding, name in zip(self.bindings, self.names, strict=True):
            x -= len(name)
            if x < 0:
                return binding
        return self.bindings[-1]


class KeyFooter(Widget):
    """Keys of the focused widget, the screen and the application, in this order.

    Keys that move the selection are only in the help, as are those that do not fit. It is a single
    widget: Textual's own footer has several for each key, and replaces all at each change of focus.
    """

    ALLOW_SELECT = False
    DEFAULT_CSS = """
    KeyFooter {
        dock: bottom; height: 1; text-wrap: nowrap;
        color: $footer-foreground; background: $footer-background;
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._fitted: list[Hint] = []

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._on_bindings_updated)

    def _on_bindings_updated(self, screen: Screen[object]) -> None:
        if self.app.app_focus and self.is_attached and screen is self.screen:
            self._fit()

    def on_resize(self) -> None:
        """Show more or fewer keys at another width."""
        self._fit()

    def _fit(self) -> None:
        fitted = self._fitting()
        if fitted != self._fitted:
            self._fitted = fitted
            self.refresh()

    def render(self) -> Content:
        return Content.assemble(
            *(
                part
                for hint in self._fitted
                for part in (
                    ("".join(hint.names), "bold $footer-key-foreground"),
                    f" {hint.label} ",
                )
            )
        )

    def on_click(self, event: events.Click) -> None:
        """Press the key under the pointer."""
        if binding := self._binding_at(event.x):
            self.app.simulate_key(binding.key.partition(",")[0])

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Describe the key under the pointer."""
        binding = self._binding_at(event.x)
        self.tooltip = binding.tooltip if binding else None

    def _binding_at(self, x: int) -> Binding | None:
        for hint in self._fitted:
            if x < hint.width:
                return hint.binding_at(x)
            x -= hint.width
        return None

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
