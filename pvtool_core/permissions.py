"""Permissions of the data folder and the cache: folders 0700, files 0600, whatever the umask.

They contain photos, prompts, clips and adapters of identities. Clips in a folder that the user
chose follow the user's umask.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from pvtool_core.paths import cache_dir, data_dir, is_private

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private(folder: Path) -> None:
    """Make a folder, and the missing ones above it, for their owner only."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def use_umask_for(out: Path | None, users: int) -> None:
    """Set the umask of a process that writes to `out`.

    It is the user's own if the user chose that folder.
    """
    os.umask(users if out is not None and not is_private(out) else _OTHERS)


def tighten_home() -> None:
    """Tighten permissions of the data folder and the cache if other users have access."""
    for root in (data_dir(), cache_dir()):
        with suppress(OSError):
            if root.stat().st_mode & _OTHERS:
                tighten(root)


def tighten(root: Path) -> None:
    """Remove all permissions of other users on a folder and its content.

    Links and files of other owners are skipped.
    """
    for folder, _, files in os.walk(root):
        for path in (*(os.path.join(folder, name) for name in files), folder):  # noqa: PTH118 - many
            with suppress(OSError):
                mode = os.lstat(path).st_mode
                if (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and mode & _OTHERS:
                    os.chmod(path, stat.S_IMODE(mode) & ~_OTHERS)  # noqa: PTH101 - as above
    with suppress(OSError):
        root.chmod(stat.S_IMODE(root.stat().st_mode) & ~_OTHERS)
