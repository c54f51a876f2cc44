"""The file of `pv identity export`: a tar archive with a manifest of SHA-256 hashes.

Archives are untrusted. They are read into memory, within limits, and never decide where anything is
written; the library checks the content of the files.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pvtool_core.errors import BadArchive, Missing
from pvtool_core.store.encryption import decrypt, is_encrypted_file

MANIFEST = "manifest.json"
_FORMAT = "pv identity 1"
_MAX_BYTES = 1 << 30
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_FILES = 2003  # for a thousand photos
_MAX_NAME = 100


def pack(name: str, content: Mapping[str, bytes]) -> bytes:
    """Return an archive of an identity's files, which are named by their paths in its folder."""
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in content.items()}
    manifest = {"format": _FORMAT, "name": name, "sha256": digests}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in {MANIFEST: json.dumps(manifest, indent=1).encode(), **content}.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), 0o600
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def unpack(archive: Path, passphrase: str = "") -> tuple[str, dict[str, bytes]]:
    """Return the name of the identity and its files by path, as in the manifest.

    Raises Missing, BadArchive, and what `decrypt` does.
    """
    content = _read(archive, passphrase)
    try:
        text = content.pop(MANIFEST)
        if len(text) > _MAX_MANIFEST_BYTES:
            raise BadArchive(archive, "has a manifest that is too large")
        manifest: dict[str, Any] = json.loads(text)
        name, expected, form = manifest["name"], manifest["sha256"], manifest["format"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadArchive(archive, "is not an exported identity") from error
    if not isinstance(name, str) or form != _FORMAT:
        raise BadArchive(archive, "is not an exported identity")
    if expected != {path: hashlib.sha256(data).hexdigest() for path, data in content.items()}:
        raise BadArchive(archive, "is damaged: its files do not match its manifest")
    return name, content


def _read(archive: Path, passphrase: str) -> dict[str, bytes]:
    """Return the contents of all members. Raises Missing, BadArchive, and what `decrypt` does."""
    if not archive.is_file():
        raise Missing("file", str(archive), "Use a file written by `pv identity export`.")
    if archive.stat().st_size > _MAX_BYTES:
        raise BadArchive(archive, "is too large for an identity")
    encrypted = is_encrypted_file(archive)
    packed = decrypt(archive.read_bytes(), passphrase, archive) if encrypted else None
    content: dict[str, bytes] = {}
    try:
        with (
            io.BytesIO(packed) if packed is not None else archive.open("rb") as stream,
            tarfile.open(fileobj=stream, mode="r:") as tar,
        ):
            for member in tar:
                if len(content) >= _MAX_FILES:
                    raise BadArchive(archive, "contains too many files for an identity")
                name = _name_of(archive, member, content)
                content[name] = _data_of(archive, tar, member)
    except (
        tarfile.TarError,
        EOFError,
        ValueError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as error:
        raise BadArchive(archive, "is not a tar file, or is damaged") from error
    except OSError as error:  # seeking to an impossible size
        raise BadArchive(archive, "is not a tar file, or is damaged") from error
    return content


def _name_of(archive: Path, member: tarfile.TarInfo, known: Mapping[str, bytes]) -> str:
    """Return a member's name if it is a regular file that an identity may have."""
    name, parts = member.name, PurePosixPath(member.name).parts
    allowed = len(name) <= _MAX_NAME and name == "/".join(parts) and len(parts) <= 2
    hidden = any(part.startswith(".") for part in parts)
    if not allowed or hidden or name in known or not member.isreg() or member.issparse():
        raise BadArchive(archive, f"contains {name[:_MAX_NAME]!r}, not a file of an identity")
    return name


def _data_of(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if not 0 <= member.size <= _MAX_BYTES:
        raise BadArchive(archive, f"contains {member.name!r} of an impossible size")
    file = tar.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise BadArchive(archive, "is not a tar file, or is damaged")
    return data
