"""Where things lie, what they may be called, and how a file is replaced without ever being half-written."""

import difflib
import os
import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote_to_bytes

import platformdirs

from pvtool_core.errors import BadName, Missing, NameTaken, UsageError, is_utf8, printable

_NAME = re.compile(r"[^\W_][\w.-]{0,63}")
_NAME_BYTES = 200  # a file system's 255, less what temporary names and numbers of runs add
_FILE_URL = "file://"


def data_dir() -> Path:
    """Identities and runs: PV_HOME/data, or the platform's folder for a user's data."""
    return _home("data") or check_utf8(Path(platformdirs.user_data_dir("pv", appauthor=False)))


def cache_dir() -> Path:
    """What can be made or fetched again: PV_HOME/cache, or the platform's cache."""
    return _home("cache") or check_utf8(Path(platformdirs.user_cache_dir("pv", appauthor=False)))


def config_dir() -> Path:
    """The user's own settings, presets and prompt banks: PV_HOME/config, or the platform's folder."""
    return _home("config") or check_utf8(Path(platformdirs.user_config_dir("pv", appauthor=False)))


def presets_dir() -> Path:
    """The data shipped with the program; beside the package, in a checkout and in a wheel alike."""
    return Path(__file__).resolve().parent.parent / "presets"


def identities_dir() -> Path:
    return data_dir() / "identities"


def runs_dir() -> Path:
    return data_dir() / "runs"


def batches_dir() -> Path:
    return data_dir() / "batches"


def models_dir() -> Path:
    """Fetched weights, one folder a model."""
    return cache_dir() / "models"


def run_index_file() -> Path:
    """Return the file in which summaries of ended runs are cached."""
    return cache_dir() / "runs.json"


def jobs_dir() -> Path:
    """Working folders of short jobs."""
    return cache_dir() / "jobs"


def trajectories_dir() -> Path:
    """What training and rendering share, one folder a trajectory."""
    return cache_dir() / "trajectories"


def is_private(path: Path) -> bool:
    """Return whether a path lies in the data folder or the cache, where nothing is for other users."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - links stay links
    return any(absolute.is_relative_to(root) for root in (data_dir(), cache_dir()))


def _home(part: str) -> Path | None:
    home = os.environ.get("PV_HOME")
    return (
        check_utf8(Path(home).expanduser().resolve(), "Set PV_HOME to another folder.") / part
        if home
        else None
    )


def check_utf8(path: Path, hint: str = "Rename it, or choose another place.") -> Path:
    """Give back a path that can be written into records, which are UTF-8. Raises UsageError."""
    if not is_utf8(str(path)):
        raise UsageError(
            f"Cannot use {printable(path, whole=True)}: its path is not valid UTF-8.", hint
        )
    return path


def path_text(path: Path) -> str:
    """An absolute path for a record: itself, or a file URL where it is not UTF-8. `path_of` reads both."""
    return str(path) if is_utf8(str(path)) else path.as_uri()


def path_of(text: str) -> Path:
    """The path that `path_text` wrote."""
    if text.startswith(_FILE_URL):
        return Path(os.fsdecode(unquote_to_bytes(text.removeprefix(_FILE_URL))))
    return Path(text)


def exists(path: Path) -> bool:
    """Whether there is a file or folder; also for what can be no path, such as a text that is far too long."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def check_name(what: str, name: str) -> str:
    """Give back `name`, in Unicode's composed form, if it can be a file name everywhere; raise BadName otherwise.

    `what` is the noun with its article, such as "an identity".
    """
    composed = unicodedata.normalize("NFC", name)
    fits = len(composed.encode(errors="replace")) <= _NAME_BYTES
    if not _NAME.fullmatch(composed) or ".." in composed or composed.endswith(".") or not fits:
        raise BadName(what, name)
    return composed


def check_new_file(path: Path) -> Path:
    """Give back a path at which a file can be made.

    Raises NameTaken if there is one, Missing without its folder, UsageError if the path is not UTF-8.
    """
    check_utf8(path)
    if exists(path):
        raise NameTaken("a file", printable(path))
    if not path.parent.is_dir():
        raise Missing("folder", str(path.parent), "Make it first.")
    return path


def nearest(name: str, folder: Path) -> str | None:
    """The name in `folder` that `name` may have been meant to be."""
    there = [path.name.removesuffix(".toml") for path in folder.glob("[!.]*")]
    return next(iter(difflib.get_close_matches(name, there, n=1)), None)
