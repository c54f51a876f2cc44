"""What screens of files have in common: they look at these again and again, as others may change them."""

from textual.screen import Screen

LOOK_SECONDS = 3.0


class PollingScreen(Screen[None]):
    """Looks when it is shown and every few seconds; nothing is read for a screen that is hidden."""

    def on_mount(self) -> None:
        """Begin to look."""
        self.set_interval(LOOK_SECONDS, self.look)

    def on_screen_resume(self) -> None:
        """See what has changed meanwhile."""
        self.look()

    def look(self) -> None:
        """Look now, unless another screen lies in front."""
        if self.app.screen is self:
            self.read_again()

    def read_again(self) -> object:
        """Read the files, in a thread, and show what is otherwise."""
        raise NotImplementedError
