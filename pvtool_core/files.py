"""Files: atomic replacement, publishing of finished files, hashes and permissions.

A reader sees the old file or the new one, never a part of one. Folders under the data folder and
the cache are 0700 and their files 0600, whatever the umask: they hold photos, prompts, clips and
adapters of identities. Clips in a folder that the user chose follow the user's umask.
"""

import errno
import hashlib
import itertools
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from pvtool_core.paths import cache_dir, data_dir, is_private, write_private
from pvtool_core.untrusted import (
    open_regular,
)

_STALE_SECONDS = 3600.0


@contextmanager
def working_folder(clip: Path) -> Generator[Path]:
    """Create a hidden folder of this process for the files of a clip, and delete those of dead
    processes.
    """
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
    """Return folders of processes that ended on this machine, and old folders of other machines."""
    if not clip.parent.is_dir():
        return []
    mine = re.compile(rf"\.{re.escape(clip.name)}\.(?P<host>.+)\.(?P<pid>\d+)\.writing")
    with os.scandir(clip.parent) as entries:
        found = [(entry, name) for entry in entries if (name := mine.fullmatch(entry.name))]
    return [
        Path(entry)
        for entry, name in found
        if _is_over(name["host"], int(name["pid"]), Path(entry))
    ]


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
    """Move finished files and folders into `folder`, safe against a power failure; return their new
    paths.
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
    """Move a folder to its place; an existing one is moved away first, since a rename cannot
    replace it.
    """
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


def sha256_of(path: Path, follow: bool = True) -> str:
    """Return the SHA-256 of a regular file; `follow` allows a link.

    Raises Irregular, and OSError as `open`.
    """
    with os.fdopen(open_regular(path, follow=follow), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_file(
    path: Path,
    content: bytes | Iterable[bytes],
    mode: int = 0o666,
    unless: Callable[[], bool] | None = None,
) -> None:
    """Write `content` to a temporary name, sync it and rename it to `path`: readers see the old or
    the new file.

    `mode` is the mode of a new file before the umask; in the data folder and the cache it is 0600.
    `unless` is called last: if it returns true, the old file stays. A link with the temporary name,
    which another user may have created, is replaced and not followed.
    """
    if is_private(path):
        mode &= 0o600
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
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
    """Copy a file to a new path: `target` appears complete, readable by its owner only, or not at
    all.

    Raises NameTaken if it exists, Missing without its folder, and OSError as copying does.
    """
    with source.open("rb") as content:
        write_private(target, content)


def rename_to_new(temporary: Path, target: Path) -> None:
    """Rename, but never over another file. Raises FileExistsError."""
    try:
        os.link(temporary, target)  # a rename would replace an existing file
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, such as exFAT
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        temporary.replace(target)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private(folder: Path) -> None:
    """Make a folder, and the missing ones above it, for their owner only."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def use_umask_for(out: Path | None, users: int) -> None:
    """Set the umask of a process that writes to `out`: the user's own if the user chose that
    folder.
    """
    os.umask(users if out is not None and not is_private(out) else _OTHERS)


def tighten_home() -> None:
    """Tighten permissions below the data folder and the cache if other users can enter one of them."""
    for root in (data_dir(), cache_dir()):
        with suppress(OSError):
            if root.stat().st_mode & _OTHERS:
                tighten(root)


def tighten(root: Path) -> None:
    """Remove all permissions of other users on a folder and its content; links and files of other
    owners are skipped.
    """
    for folder, _, files in os.walk(root):
        for path in (*(os.path.join(folder, name) for name in files), folder):  # noqa: PTH118 - many
            with suppress(OSError):
                mode = os.lstat(path).st_mode
                if (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and mode & _OTHERS:
                    os.chmod(path, stat.S_IMODE(mode) & ~_OTHERS)  # noqa: PTH101 - as above
    with suppress(OSError):
        root.chmod(stat.S_IMODE(root.stat().st_mode) & ~_OTHERS)
