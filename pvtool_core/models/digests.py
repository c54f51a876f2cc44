"""A cache of the SHA-256 hashes of large files: reading a model of 40 GB takes minutes."""

import json
from pathlib import Path
from typing import Any

from pvtool_core.files import replace_file
from pvtool_core.models.integrity import digest_of
from pvtool_core.paths import cache_dir
from pvtool_core.untrusted import RECORD_BYTES, parse_json, read_regular

LARGE = 64 * 2**20
"""Smallest size in bytes of files whose hash is cached."""


def sha256_remembered(file: Path) -> str:
    """Return the SHA-256 of a file; for a large file from the cache if it is unchanged.

    A file is unchanged if size, time and inode are.
    """
    now = file.stat()
    if now.st_size < LARGE:
        return digest_of(file, "sha256")
    path, state = str(file.resolve()), [now.st_size, now.st_mtime_ns, now.st_ino]
    known = _read().get(path)
    if isinstance(known, list) and known[:-1] == state and isinstance(known[-1], str):
        return known[-1]
    digest = digest_of(file, "sha256")
    _file().parent.mkdir(parents=True, exist_ok=True)
    replace_file(
        _file(), json.dumps({**_read(), path: [*state, digest]}).encode()
    )  # read again: other processes may have added hashes
    return digest


def _file() -> Path:
    return cache_dir() / "digests.json"


def _read() -> dict[str, Any]:
    try:
        known = parse_json(read_regular(_file(), RECORD_BYTES))
    except (OSError, ValueError):  # it can be deleted at any time
        return {}
    return known if isinstance(known, dict) else {}
