"""Messages from screens to the application."""

from textual.message import Message


class OpenBatch(Message):
    """Request to show a batch of clips."""

    def __init__(self, batch: str) -> None:
        self.batch = batch
        super().__init__()


class NewBatch(Message):
    """Request to open the form for new clips, with an identity selected if it has a name."""

    def __init__(self, identity: str = "") -> None:
        self.identity = identity
        super().__init__()


class NewRun(Message):
    """Request to open the form for a new run."""


class OpenRun(Message):
    """Request to show a run."""

    def __init__(self, run: str) -> None:
        self.run = run
        super().__init__()
