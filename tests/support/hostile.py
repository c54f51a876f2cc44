"""Hostile files in folders, and checks that they are harmless."""

import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from pvtool_core import supervisor
from pvtool_core.store.events import Event
from pvtool_core.store.runs import RunFolder

DEEP_JSON = b"[" * 30_000
_SECONDS = 60


class Outside:
    """A folder and a file outside, and links to them; neither may be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "stop"  # the name of a request file
        folder.mkdir()
        self.file.write_text("precious")

    def put_in_place_of(self, path: Path) -> None:
        """Replace `path` by a link to the file, or to the folder if `path` is a folder."""
        is_folder = path.is_dir() or (
            not path.suffix and path.parent.name in {"samples", "checkpoints", "mara-1"}
        )
        if path.is_dir():
            path.rmdir()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(self.folder if is_folder and not path.name.startswith(".") else self.file)

    def assert_untouched(self) -> None:
        assert self.file.read_text() == "precious"
        assert {path.name for path in self.folder.iterdir()} <= {"stop", ".a.1.writing"}


def to_end(folder: RunFolder) -> None:
    """Run an engine to its end and ignore its output."""
    supervisor.run_to_end(folder, list[Event]().append)


def link_to_device(path: Path) -> None:
    """Create a link to an endless device."""
    path.symlink_to("/dev/zero")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.fixture
def deadline() -> Generator[None]:
    """Fail the test after some seconds: it must not block on a pipe or read a device forever."""

    def too_late(*_: object) -> None:
        raise TimeoutError("this takes too long")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
