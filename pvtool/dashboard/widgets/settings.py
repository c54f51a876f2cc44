"""Settings of a run, and the differences from another run."""

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from pvtool.dashboard.follow.run import RunView
from pvtool_core.settings.jobs import flat_settings


class SettingsPane(VerticalScroll):
    """All resolved settings; with an overlaid run, the differences first."""

    DEFAULT_CSS = """
    SettingsPane { padding: 0 1; }
    """

    def compose(self) -> ComposeResult:
        yield Static(markup=False)

    def show(self, run: RunView) -> None:
        """List the settings."""
        if run.job is None:
            self.query_one(Static).update(run.summary.problem or "No settings yet.")
            return
        other = flat_settings(run.overlay_job) if run.overlay_job else None
        own = flat_settings(run.job)
        lines = [Content.styled(str(run.path / "config.toml"), "$text-muted")]
        if other is not None:
            lines.append(Content.styled(f"Different in {run.overlay_name}:", "$text-warning"))
            lines += [
                _line(key, own, other) for key in {**own, **other} if own.get(key) != other.get(key)
            ]
            lines.append(Content())
        lines += [_line(key, own, own) for key in own]
        self.query_one(Static).update(Content("\n").join(lines))


def _line(key: str, own: dict[str, str], other: dict[str, str]) -> Content:
    line = Content.assemble(
        (f"  {key:<38}", "$text-muted"), own.get(key, "not set") or ("–", "$text-muted")
    )
    differs = own.get(key) != other.get(key)
    return (
        line + Content.styled(f"  ≠  {other.get(key, 'not set')}", "$text-warning")
        if differs
        else line
    )
