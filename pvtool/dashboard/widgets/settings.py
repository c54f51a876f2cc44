"""Settings of a run: marked where they differ from the preset, searched, and compared."""

from collections.abc import Mapping
from pathlib import Path

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from pvtool.dashboard import keys
from pvtool.dashboard.follow.run import RunView
from pvtool_core.settings.jobs import TrainJob, flat_settings

_CHANGED = "●"


class SettingsList(VerticalScroll):
    """Scrolled list of settings."""

    BINDINGS = keys.SETTINGS

    def action_search(self) -> None:
        if isinstance(self.parent, SettingsPane):
            self.parent.open_search()

    def action_clear(self) -> None:
        if isinstance(self.parent, SettingsPane):
            self.parent.close_search("")


class SettingsPane(Vertical):
    """All resolved settings; with an overlaid run, the differences first."""

    DEFAULT_CSS = """
    SettingsPane {
        SettingsList { padding: 0 1; }
        Input { display: none; height: 1; border: none; padding: 0 1; &.-shown { display: block; } }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._run: RunView | None = None

    def compose(self) -> ComposeResult:
        with SettingsList():
            yield Static(markup=False)
        yield Input(placeholder="search settings", compact=True)

    def show(self, run: RunView) -> None:
        """List the settings that match the search."""
        self._run = run
        self._list()

    def open_search(self) -> None:
        """Show and focus the search field."""
        field = self.query_one(Input)
        field.add_class("-shown")
        field.focus()

    def close_search(self, words: str) -> None:
        """Search for some words, and focus the list."""
        field = self.query_one(Input)
        field.value = words
        field.set_class(bool(words), "-shown")
        self.query_one(SettingsList).focus()

    @on(Input.Submitted)
    def submit(self, event: Input.Submitted) -> None:
        """Keep the search, and focus the list."""
        self.close_search(event.value)

    @on(Input.Changed)
    def search(self) -> None:
        """Search while typing."""
        self._list()

    def on_key(self, event: events.Key) -> None:
        if event.key == "escape" and self.query_one(Input).has_focus:
            event.stop()
            self.close_search("")

    def _list(self) -> None:
        run = self._run
        if run is None:
            return
        if run.job is None:
            self.query_one(Static).update(run.summary.problem or "No settings yet.")
            return
        words = self.query_one(Input).value.lower().split()
        lines = [Content.styled(str(run.path / "config.toml"), "$text-muted")]
        lines += settings_lines(run, run.job, words)
        self.query_one(Static).update(Content("\n").join(lines))


def settings_lines(run: RunView, job: TrainJob, words: list[str]) -> list[Content]:
    """Return the settings with all `words` in their name or value, one line each."""
    own, preset = flat_settings(job), run.snapshot.preset
    shown = {
        key: value
        for key, value in own.items()
        if all(word in f"{key} {value}".lower() for word in words)
    }
    changed = {key for key in own if differs(key, own, preset)}
    lines: list[Content] = []
    if preset is not None:
        text = (
            f"{_CHANGED} {len(changed)} of {len(preset)} settings differ from preset {job.preset}."
        )
        lines.append(Content.styled(text, "$text-accent" if changed else "$text-muted"))
    if words:
        lines.append(Content.styled(f"{len(shown)} of {len(own)} settings match.", "$text-muted"))
    other = flat_settings(run.overlay_job) if run.overlay_job else None
    if other is not None:
        lines.append(Content.styled(f"Different in {run.overlay_name}:", "$text-warning"))
        lines += [
            _line(key, own, other)
            for key in {**own, **other}
            if own.get(key) != other.get(key) and all(word in key for word in words)
        ]
        lines.append(Content())
    return [*lines, *(_line(key, own, own, preset if key in changed else None) for key in shown)]


def differs(key: str, own: Mapping[str, str], preset: Mapping[str, str] | None) -> bool:
    """Return whether a setting is not that of the preset.

    Names of weights such as `models:NAME` equal the path that they were resolved to; fingerprints
    are never part of a preset.
    """
    if preset is None or key not in preset or key.endswith("fingerprint"):
        return False
    value, wanted = own[key], preset[key]
    kind, _, name = wanted.partition(":")
    if kind in {"preset", "models"} and name.rpartition("/")[2] in Path(value).parts:
        return False
    return value != wanted


def _line(
    key: str,
    own: Mapping[str, str],
    other: Mapping[str, str],
    preset: Mapping[str, str] | None = None,
) -> Content:
    """Return a setting, with its other value if it differs, and the preset's if one is given."""
    line = Content.assemble(
        (f"{_CHANGED if preset else ' '} ", "$text-accent"),
        (f"{key:<38}", "" if preset else "$text-muted"),
        own.get(key, "not set") or ("–", "$text-muted"),
    )
    if own.get(key) != other.get(key):
        return line + Content.styled(f"  ≠  {other.get(key, 'not set')}", "$text-warning")
    if preset:
        return line + Content.styled(f"  preset: {preset.get(key) or '–'}", "$text-muted")
    return line
