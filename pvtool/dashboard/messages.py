"""What screens tell the application."""

from textual.message import Message


class OpenBatch(Message):
    """Somebody wants to see a batch of clips."""

    def __init__(self, batch: str) -> None:
        self.batch = batch
        super().__init__()


class NewRun(Message):
    """Open the form of a new run."""


class OpenRun(Message):
    """Somebody wants to see a run."""

    def __init__(self, run: str) -> None:
        self.run = run
        super().__init__()
