"""A folder beside a clip in which its files are made, so that under their names they are whole or absent."""

import errno
import itertools
import os
import re
import shutil
import socket
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from pvtool_core.paths import sync_folder

_STALE_SECONDS = 3600.0


@contextmanager
def workshop(clip: Path) -> Generator[Path]:
    """A hidden folder of this process's own for the files of a clip; what dead ones left of theirs goes with it."""
    for folder in _left_behind(clip):
        shutil.rmtree(folder, ignore_errors=True)  # another attempt may be clearing up as well
    folder = clip.with_name(f".{clip.name}.{socket.gethostname()}.{os.getpid()}.writing")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _left_behind(clip: Path) -> list[Path]:
    """Folders of processes that ended on this machine, and old ones of other machines, of which nothing is known."""
    if not clip.parent.is_dir():
        return []
    mine = re.compile(rf"\.{re.escape(clip.name)}\.(?P<host>.+)\.(?P<pid>\d+)\.writing")
    with os.scandir(clip.parent) as entries:
        found = [(entry, name) for entry in entries if (name := mine.fullmatch(entry.name))]
    return [Path(entry) for entry, name in found if _is_over(name["host"], int(name["pid"]), Path(entry))]


def _is_over(host: str, pid: int, folder: Path) -> bool:
    try:
        if host == socket.gethostname():
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        return abs(time.time() - folder.stat().st_mtime) > _STALE_SECONDS
    except psutil.NoSuchProcess:
        return True
    except FileNotFoundError:
        return False


def publish(made: Iterable[Path], folder: Path) -> list[Path]:
    """Move finished files and folders into `folder`, safe against a power cut; where they lie now."""
    places = [_put(each, folder / each.name) for each in made]
    sync_folder(folder)
    return places


def _put(made: Path, place: Path) -> Path:
    if not made.is_dir():
        _sync(made)
        return made.replace(place)
    for file in made.iterdir():
        _sync(file)
    sync_folder(made)
    return _put_folder(made, place)


def _put_folder(made: Path, place: Path) -> Path:
    """A rename replaces no folder that holds something: an earlier one is moved away first, as often as it takes."""
    attempts = itertools.count()
    while True:
        try:
            return made.replace(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with suppress(FileNotFoundError):  # another process was as quick
            place.replace(made.with_name(f"{made.name}.{next(attempts)}.old"))


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
