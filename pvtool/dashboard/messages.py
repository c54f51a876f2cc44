"""Messages from screens to the application."""

from collections.abc import Sequence

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


class OpenComparison(Message):
    """Request to compare runs."""

    def __init__(self, runs: Sequence[str]) -> None:
        self.runs = tuple(runs)
        super().__init__()


class OpenRun(Message):
    """Request to show a run."""

    def __init__(self, run: str) -> None:
        self.run = run
        super().__init__()
