"""Settings of notifications: the section `[notify]` of the user's own config.toml.

Nothing in a run folder can change them, since they name a program.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from pvtool_core.errors import Mistake, SettingsError
from pvtool_core.paths import config_dir
from pvtool_core.settings.schema import setting
from pvtool_core.settings.toml import from_table, read_toml

SECTION = "notify"
_OFF = "PV_NOTIFY"


@dataclass(frozen=True)
class NotifyConfig:
    """How the user is notified, and of which states."""

    on: tuple[str, ...] = setting(
        "states of which to notify",
        ("finished", "failed", "lost"),
        choices=("finished", "stopped", "failed", "lost"),
    )
    terminal: tuple[str, ...] = setting(
        "signals to the terminal of a command or dashboard",
        ("bell",),
        choices=("bell", "osc9", "osc777"),
    )
    command: tuple[str, ...] = setting("program and its arguments, started without a shell", ())
    webhook: str = setting("http or https address that receives JSON", "")

    def check(self) -> Iterable[Mistake]:
        """Yield mistakes."""
        from pvtool_core.web import is_web_address  # imported here for a fast start

        if self.webhook and not is_web_address(self.webhook):
            yield Mistake("notify.webhook", "is not a valid http or https address")
        if self.command and not self.command[0]:
            yield Mistake("notify.command", "has no program")


@dataclass(frozen=True)
class _Section:
    notify: NotifyConfig

    def check(self) -> Iterable[Mistake]:
        """Yield mistakes."""
        return self.notify.check()


def read_notify_config() -> NotifyConfig:
    """Return the settings: the defaults without a section, nothing with PV_NOTIFY=off.

    Raises SettingsError or RunFailed if config.toml is invalid or cannot be read.
    """
    if os.environ.get(_OFF) == "off":
        return NotifyConfig(on=(), terminal=())
    path = config_dir() / "config.toml"
    table = read_toml(path) if path.is_file() else {}
    try:
        return from_table(_Section, {SECTION: table.get(SECTION, {})}, str(path)).notify
    except SettingsError as error:
        error.hint = "docs/notifications.md describes these settings."
        raise
