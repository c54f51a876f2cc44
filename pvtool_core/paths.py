"""Where things lie, what they may be called, and how a file is replaced without ever being half-written."""

import difflib
import os
import re
import unicodedata
from pathlib import Path

import platformdirs

from pvtool_core.errors import BadName, Missing, NameTaken

_NAME = re.compile(r"[^\W_][\w.-]{0,63}")


def data_dir() -> Path:
    """Identities and runs: PV_HOME/data, or the platform's folder for a user's data."""
    return _home("data") or Path(platformdirs.user_data_dir("pv", appauthor=False))


def cache_dir() -> Path:
    """What can be made or fetched again: PV_HOME/cache, or the platform's cache."""
    return _home("cache") or Path(platformdirs.user_cache_dir("pv", appauthor=False))


def config_dir() -> Path:
    """The user's own settings, presets and prompt banks: PV_HOME/config, or the platform's folder."""
    return _home("config") or Path(platformdirs.user_config_dir("pv", appauthor=False))


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
    return Path(home).expanduser().resolve() / part if home else None


def check_name(what: str, name: str) -> str:
    """Give back `name`, in Unicode's composed form, if it can be a file name everywhere; raise BadName otherwise.

    `what` is the noun with its article, such as "an identity".
    """
    composed = unicodedata.normalize("NFC", name)
    if not _NAME.fullmatch(composed) or ".." in composed or composed.endswith("."):
        raise BadName(what, name)
    return composed


def check_new_file(path: Path) -> Path:
    """Give back a path at which a file can be made. Raises NameTaken if there is one, Missing without its folder."""
    if path.exists():
        raise NameTaken("a file", path.name)
    if not path.parent.is_dir():
        raise Missing("folder", str(path.parent), "Make it first.")
    return path


def nearest(name: str, folder: Path) -> str | None:
    """The name in `folder` that `name` may have been meant to be."""
    there = [path.name.removesuffix(".toml") for path in folder.glob("[!.]*")]
    return next(iter(difflib.get_close_matches(name, there, n=1)), None)


def replace_file(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write `content` under a temporary name, sync it, and rename it to `path`: readers see the old or the new file.

    `mode` is that of a new file, less what the umask takes away; in the data folder and the cache it is 0600.
    """
    if is_private(path):
        mode &= 0o600
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
