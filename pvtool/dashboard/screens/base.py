"""Base class of screens that poll files, which other processes may change."""

from textual.screen import Screen

POLL_SECONDS = 3.0


class PollingScreen(Screen[None]):
    """Screen that reads its files when it is shown and every few seconds, but not while hidden."""

    def on_mount(self) -> None:
        """Start polling."""
        self.set_interval(POLL_SECONDS, self.poll)

    def on_screen_resume(self) -> None:
        """Poll immediately."""
        self.poll()

    def poll(self) -> None:
        """Read the files, unless another screen is in front."""
        if self.app.screen is self:
            self.reload()

    def reload(self) -> object:
        """Read the files in a thread and show changes."""
        raise NotImplementedError
