"""Locations of files, and valid names for them."""

import difflib
import os
import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote_to_bytes

import platformdirs

from pvtool_core.errors import BadName, Missing, NameTaken, UsageError, is_utf8, printable

_NAME = re.compile(r"[^\W_][\w.-]{0,63}")
_NAME_BYTES = 200  # 255, without suffixes of temporary names and run numbers
_FILE_URL = "file://"


def data_dir() -> Path:
    """Return the folder of identities and runs: PV_HOME/data, or the platform's."""
    return _home("data") or check_utf8(Path(platformdirs.user_data_dir("pv", appauthor=False)))


def cache_dir() -> Path:
    """Return the folder of reproducible files: PV_HOME/cache, or the platform's."""
    return _home("cache") or check_utf8(Path(platformdirs.user_cache_dir("pv", appauthor=False)))


def config_dir() -> Path:
    """Return the folder of the user's settings, presets and prompt banks.

    It is PV_HOME/config, or the platform's.
    """
    return _home("config") or check_utf8(Path(platformdirs.user_config_dir("pv", appauthor=False)))


def presets_dir() -> Path:
    """Return the folder of shipped presets: inside the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "presets"
    return inside if inside.is_dir() else package.parent / "presets"


def identities_dir() -> Path:
    return data_dir() / "identities"


def runs_dir() -> Path:
    return data_dir() / "runs"


def batches_dir() -> Path:
    return data_dir() / "batches"


def sweeps_dir() -> Path:
    """Return the folder of sweeps: the results of each, and the scores of its cells."""
    return data_dir() / "sweeps"


def sweep_clips_dir() -> Path:
    """Return the folder of the evaluation clips of all sweeps, which share them."""
    return data_dir() / "sweep-clips"


def models_dir() -> Path:
    """Return the folder of downloaded weights, one folder per model."""
    return cache_dir() / "models"


def run_index_file() -> Path:
    """Return the file in which summaries of ended runs are cached."""
    return cache_dir() / "runs.json"


def jobs_dir() -> Path:
    """Return the folder of temporary folders of short jobs."""
    return cache_dir() / "jobs"


def trajectories_dir() -> Path:
    """Return the trajectory cache, one folder per trajectory."""
    return cache_dir() / "trajectories"


def is_private(path: Path) -> bool:
    """Return whether a path is in the data folder or the cache, which are closed to other users."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - links stay links
    return any(absolute.is_relative_to(root) for root in (data_dir(), cache_dir()))


def _home(part: str) -> Path | None:
    home = os.environ.get("PV_HOME")
    return (
        check_utf8(user_path(home).resolve(), "Set PV_HOME to another folder.") / part
        if home
        else None
    )


def check_utf8(path: Path, hint: str = "Rename it, or choose another location.") -> Path:
    """Return a path that can be written into records, which are UTF-8. Raises UsageError."""
    if not is_utf8(str(path)):
        raise UsageError(
            f"Cannot use {printable(path, whole=True)}: its path is not valid UTF-8.", hint
        )
    return path


def path_text(path: Path) -> str:
    """Return an absolute path as text for a record; a file URL if it is not UTF-8.

    `path_of` reads both.
    """
    return str(path) if is_utf8(str(path)) else path.as_uri()


def path_of(text: str) -> Path:
    """Return the path that `path_text` wrote."""
    if text.startswith(_FILE_URL):
        return Path(os.fsdecode(unquote_to_bytes(text.removeprefix(_FILE_URL))))
    return Path(text)


def exists(path: Path) -> bool:
    """Return whether a file or folder exists; false for invalid paths.

    A too long text is an invalid path.
    """
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def user_path(text: str) -> Path:
    """Return a path as the user wrote it, with `~` and `~USER` expanded if possible."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises for unknown users


def check_name(what: str, name: str) -> str:
    """Return `name` in Unicode's composed form if it is a valid file name everywhere.

    `what` is the noun with its article, such as "an identity". Raises BadName.
    """
    composed = unicodedata.normalize("NFC", name)
    fits = len(composed.encode(errors="replace")) <= _NAME_BYTES
    if not _NAME.fullmatch(composed) or ".." in composed or composed.endswith(".") or not fits:
        raise BadName(what, name)
    return composed


def check_new_file(path: Path) -> Path:
    """Return a path at which a file can be created.

    Raises NameTaken if it exists, Missing without its folder, UsageError if the path is not UTF-8.
    """
    check_utf8(path)
    if exists(path):
        raise NameTaken("a file", printable(path))
    if not path.parent.is_dir():
        raise Missing("folder", str(path.parent), "Create it first.")
    return path


def nearest(name: str, folder: Path) -> str | None:
    """Return the name in `folder` that is most similar to `name`, or None."""
    there = [path.name.removesuffix(".toml") for path in folder.glob("[!.]*")]
    return next(iter(difflib.get_close_matches(name, there, n=1)), None)
