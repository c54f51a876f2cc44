"""What screens tell the application."""

from textual.message import Message


class OpenRun(Message):
    """Somebody wants to see a run."""

    def __init__(self, run: str) -> None:
        self.run = run
        super().__init__()
