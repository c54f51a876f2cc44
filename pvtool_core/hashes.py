"""Hashes of files; those of large files are cached, as reading a model of 40 GB takes minutes."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pvtool_core.files import replace_file
from pvtool_core.paths import cache_dir
from pvtool_core.untrusted import RECORD_BYTES, open_regular, parse_json, read_regular

SHA256_DIGITS = 64
LARGE = 64 * 2**20
"""Size in bytes from which a hash is cached on disk."""
_CHUNK_BYTES = 1 << 20


def hash_of(path: Path, algorithm: str) -> str:
    """Return the hex digest of a file by an algorithm of hashlib, or by `git`.

    `git` is the hash of a blob, by which git and the hub identify small files.
    """
    with path.open("rb") as file:
        if algorithm != "git":
            return hashlib.file_digest(file, algorithm).hexdigest()
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
        return digest.hexdigest()


def has_digest(path: Path, algorithm: str, digest: str) -> bool:
    """Return whether a file has a hex digest by `hash_of`, of which the first digits are enough."""
    return hash_of(path, algorithm).startswith(digest)


def sha256_of(path: Path, follow: bool = True) -> str:
    """Return the SHA-256 of a regular file; `follow` allows a link.

    Raises Irregular, and OSError as `open`.
    """
    with os.fdopen(open_regular(path, follow=follow), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_folder(folder: Path) -> str:
    """Return the SHA-256 of all files of a folder and of their names."""
    files = sorted(folder.iterdir())
    listed = "".join(f"{file.name} {hash_of(file, 'sha256')}\n" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def cached_sha256(file: Path) -> str:
    """Return the SHA-256 of a file; large files are cached by size, time and inode."""
    now = file.stat()
    if now.st_size < LARGE:
        return hash_of(file, "sha256")
    path, state = str(file.resolve()), [now.st_size, now.st_mtime_ns, now.st_ino]
    known = _read_cache().get(path)
    if isinstance(known, list) and known[:-1] == state and isinstance(known[-1], str):
        return known[-1]
    digest = hash_of(file, "sha256")
    _cache_file().parent.mkdir(parents=True, exist_ok=True)
    # read again: hashing took a while
    replace_file(_cache_file(), json.dumps({**_read_cache(), path: [*state, digest]}).encode())
    return digest


def _cache_file() -> Path:
    return cache_dir() / "digests.json"


def _read_cache() -> dict[str, Any]:
    try:
        known = parse_json(read_regular(_cache_file(), RECORD_BYTES))
    except (OSError, ValueError):  # it may be deleted at any time
        return {}
    return known if isinstance(known, dict) else {}
