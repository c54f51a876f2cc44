"""A record of exported adapters and identities, to find them when consent is revoked.

`<data>/exports.jsonl` has a line for each file, and does not notice when it is copied or moved.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pvtool_core.files import replace_file
from pvtool_core.paths import data_dir, path_of, path_text
from pvtool_core.permissions import make_private
from pvtool_core.untrusted import JOB_BYTES, open_regular, parse_json, read_regular

Kind = Literal["adapter", "identity"]


@dataclass(frozen=True)
class Export:
    """An exported file that still exists."""

    kind: str
    path: Path


def record_export(kind: Kind, fingerprint: str, path: Path) -> None:
    """Record a file of the identity with this fingerprint."""
    make_private(data_dir())
    record = {"kind": kind, "fingerprint": fingerprint, "path": path_text(path)}
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with os.fdopen(open_regular(_file(), flags, alone=True), "ab") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(json.dumps(record).encode() + b"\n")


def exports_of(fingerprint: str) -> list[Export]:
    """Return the existing exports of an identity, the newest last."""
    try:
        lines = read_regular(_file(), JOB_BYTES).splitlines()
    except FileNotFoundError:
        return []
    found: dict[Export, None] = {}
    for line in lines:
        try:
            record = parse_json(line)
            export = Export(str(record["kind"]), path_of(str(record["path"])))
        except (ValueError, KeyError, TypeError):  # a line that a full disk has cut
            continue
        if record.get("fingerprint") == fingerprint and export.path.is_file():
            found[export] = None
    return list(found)


def forget_exports(fingerprint: str) -> None:
    """Remove the records of an identity, whose name may be in the paths."""
    try:
        lines = read_regular(_file(), JOB_BYTES).splitlines(keepends=True)
    except FileNotFoundError:
        return
    left = [line for line in lines if fingerprint.encode() not in line]
    if left:
        replace_file(_file(), left, mode=0o600)
    else:
        _file().unlink()


def _file() -> Path:
    return data_dir() / "exports.jsonl"
