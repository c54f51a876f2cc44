"""Read untrusted files: only regular files, and only up to a size limit.

A run folder can be a copy from anywhere. A link in it leads out of it, a pipe or a device blocks
its reader forever, and a small file can contain JSON or TOML that takes hours to parse. Each of
these is refused here.
"""

import errno
import json
import os
import re
import shutil
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SMALL_BYTES = 1 << 16
"""Limit for heartbeats and leases."""
RECORD_BYTES = 1 << 20
"""Limit for exit records, manifests and sidecars."""
SETTINGS_BYTES = 1 << 20
"""Limit for the settings of a run, mostly prompts."""
JOB_BYTES = 1 << 28
"""Limit for other jobs, which list files."""

_NEVER_WAIT = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# More dotted names than in any setting: tomllib needs quadratic time and memory for them.
_DEEP_KEY = re.compile(
    r"""(?<![\w.\-"'])(?:(?:[\w-]++|"(?:[^"\\\n]++|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){8}"""
)


class Irregular(OSError):
    """Not a regular file, or one with several names where that matters.

    `problem` is a phrase that follows its name.
    """

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(errno.EINVAL, f"it {problem}", str(path))
        self.problem = problem


class TooLarge(OSError):
    """It is a regular file, but larger than it may be; `problem` is a phrase after its name."""

    def __init__(self, path: Path, most: int) -> None:
        self.problem = f"is larger than {most >> 10} KiB"
        super().__init__(errno.EINVAL, f"it {self.problem}", str(path))


def open_regular(
    path: Path, flags: int = os.O_RDONLY, *, follow: bool = False, alone: bool = False
) -> int:
    """Return a descriptor of a regular file, opened without blocking.

    `follow` allows `path` to be a link to one. With `alone`, for writing, the file must have a
    single name. Raises Irregular, and OSError as `os.open`.
    """
    try:
        _check(
            path, path.stat(follow_symlinks=follow), alone
        )  # before opening, which has side effects on some devices
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    descriptor = os.open(path, flags | _NEVER_WAIT | (0 if follow else os.O_NOFOLLOW), 0o644)
    try:
        _check(path, os.fstat(descriptor), alone)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check(path: Path, found: os.stat_result, alone: bool) -> None:
    if problem := problem_of(found, alone):
        raise Irregular(path, problem)


def problem_of(found: os.stat_result, alone: bool = False) -> str:
    """Return why this is not a regular file, as a phrase that follows its name; empty if it is."""
    if not stat.S_ISREG(found.st_mode):
        return f"is {_KINDS.get(stat.S_IFMT(found.st_mode), 'not a regular file')}"
    return "is a hard link: the same file has another name" if alone and found.st_nlink > 1 else ""


def read_regular(path: Path, most: int, *, follow: bool = False) -> bytes:
    """Return the content of a regular file. Raises Irregular, TooLarge, and OSError as `open`."""
    with os.fdopen(open_regular(path, follow=follow), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise TooLarge(path, most)
    return content


def parse_json(content: bytes | str) -> Any:
    """Parse JSON. Raises ValueError for any invalid input."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _check_keys(text: str) -> None:
    """Raise ValueError if a key has so many parts that parsing would take too long."""
    if _DEEP_KEY.search(text):
        raise ValueError("a key is nested too deeply")


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML in linear time. Raises ValueError for any invalid input."""
    _check_keys(text)
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # of Python's int(), with an irrelevant hint
        raise ValueError("a number has too many digits") from error


def exists(path: Path) -> bool:
    """Return whether anything of that name exists, including entries that cannot be examined."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def is_folder(path: Path) -> bool:
    """Return whether this is a folder and not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Return whether this is a regular file and not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def foreign_things(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield everything under a folder that is neither a file nor a folder, with a description.

    Links are not followed, but the folder itself may be reached through one.
    """
    waiting = [folder]
    while waiting:
        for path in _entries(waiting.pop()):
            try:
                found = path.lstat()
            except FileNotFoundError:  # a live engine writes and removes files
                continue
            if stat.S_ISDIR(found.st_mode):
                waiting.append(path)
            elif problem := problem_of(found):
                yield path, problem


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with its content; the target of a link stays."""
    if is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
