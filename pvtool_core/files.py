"""Files: atomic replacement, and publishing of finished files.

A reader sees the old file or the new one, never a part of one.
"""

import errno
import itertools
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pvtool_core.errors import NameTaken
from pvtool_core.paths import check_new_file, is_private

WRITING = ".writing"
"""Suffix of unfinished files and folders, whose names begin with a dot."""
_STALE_SECONDS = 3600.0


@contextmanager
def working_folder(clip: Path) -> Generator[Path]:
    """Create a hidden folder of this process for a clip, and delete those of dead processes."""
    for folder in _left_behind(clip):
        shutil.rmtree(folder, ignore_errors=True)  # another attempt may be clearing up as well
    folder = clip.with_name(f".{clip.name}.{socket.gethostname()}.{os.getpid()}{WRITING}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _left_behind(clip: Path) -> list[Path]:
    """Return folders of processes that ended on this machine, and old folders of other machines."""
    if not clip.parent.is_dir():
        return []
    mine = re.compile(rf"\.{re.escape(clip.name)}\.(?P<host>.+)\.(?P<pid>\d+){re.escape(WRITING)}")
    with os.scandir(clip.parent) as entries:
        found = [(entry, name) for entry in entries if (name := mine.fullmatch(entry.name))]
    return [
        Path(entry)
        for entry, name in found
        if _is_over(name["host"], int(name["pid"]), Path(entry))
    ]


def _is_over(host: str, pid: int, folder: Path) -> bool:
    import psutil  # imported here for a fast start

    try:
        if host == socket.gethostname():
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        return abs(time.time() - folder.stat().st_mtime) > _STALE_SECONDS
    except psutil.NoSuchProcess:
        return True
    except FileNotFoundError:
        return False


def publish(made: Iterable[Path], folder: Path) -> list[Path]:
    """Move finished files and folders into `folder`, and return their new paths.

    This is safe against a power failure.
    """
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
    """Move a folder to its place.

    An existing one is moved away first, since a rename cannot replace it.
    """
    attempts = itertools.count()
    while True:
        try:
            return made.replace(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with suppress(FileNotFoundError):  # created by another process meanwhile
            place.replace(made.with_name(f"{made.name}.{next(attempts)}.old"))


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def replace_file(
    path: Path,
    content: bytes | Iterable[bytes],
    mode: int = 0o666,
    unless: Callable[[], bool] | None = None,
) -> None:
    """Write `content` to a temporary name, sync it and rename it to `path`.

    Readers see the old or the new file. `mode` is the mode of a new file before the umask; in the
    data folder and the cache it is 0600. `unless` is called last: if it returns true, the old file
    stays. A link with the temporary name, which another user may have created, is replaced and not
    followed.
    """
    if is_private(path):
        mode &= 0o600
    temporary = path.with_name(f".{path.name}.{os.getpid()}{WRITING}")
    temporary.unlink(missing_ok=True)
    try:
        with open(
            temporary, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, mode)
        ) as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        if unless and unless():
            temporary.unlink()
            return
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def copy_private(source: Path, target: Path) -> None:
    """Copy a file to a new path, complete or not at all, readable by its owner only.

    Raises NameTaken if it exists, Missing without its folder, and OSError of the copy.
    """
    with source.open("rb") as content:
        write_private(target, content)


def _rename_to_new(temporary: Path, target: Path) -> None:
    """Rename, but never over another file. Raises FileExistsError."""
    try:
        os.link(temporary, target)  # a rename would replace an existing file
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, such as exFAT
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        temporary.replace(target)


def sync_folder(folder: Path) -> None:
    """Sync renames in `folder` to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_private(target: Path, content: BinaryIO) -> None:
    """Write a stream to a new file, like `copy_private`.

    If the file system supports unnamed files, a killed process leaves nothing behind.
    """
    check_new_file(target)
    try:
        if not _write_unnamed(target, content):
            content.seek(0)
            _write_hidden(target, content)
    except FileExistsError as error:
        raise NameTaken("a file", target.name) from error
    sync_folder(target.parent)


def _write_unnamed(target: Path, content: BinaryIO) -> bool:
    """Write a file without a name, then link it; return False if this is not supported."""
    try:
        descriptor = os.open(target.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except (OSError, AttributeError):
        return False
    with os.fdopen(descriptor, "wb") as file:
        _copy(content, file)
        try:
            links = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.link(str(descriptor), target, src_dir_fd=links)
            finally:
                os.close(links)
        except FileExistsError:
            raise
        except OSError:
            return False
    return True


def _write_hidden(target: Path, content: BinaryIO) -> None:
    descriptor, name = tempfile.mkstemp(
        prefix=".pv-", suffix=WRITING, dir=target.parent
    )  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            _copy(content, file)
        _rename_to_new(Path(name), target)
    finally:
        Path(name).unlink(missing_ok=True)


def _copy(content: BinaryIO, file: BinaryIO) -> None:
    shutil.copyfileobj(content, file)
    file.flush()
    os.fsync(file.fileno())
