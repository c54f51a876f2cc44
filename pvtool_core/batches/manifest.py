"""Manifests of clips of other programs: CSV files with identity and prompt of each clip.

Columns: file (relative to the folder of clips), identity, prompt, seed, method.
"""

import csv
import io
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pvtool_core.errors import InputRefused, Missing, UsageError, printable
from pvtool_core.settings.jobs import ClipFile
from pvtool_core.untrusted import exists, read_regular

COLUMNS = ("file", "identity", "prompt", "seed", "method")
_MOST_BYTES = 64 << 20
_LONGEST = 10_000
"""Limit of a cell in characters."""


@dataclass(frozen=True)
class ManifestClips:
    """The clips of a manifest; `refused` are the other rows, each with its reason.

    `ignored` are unknown columns.
    """

    clips: tuple[ClipFile, ...]
    refused: Mapping[str, str]
    ignored: tuple[str, ...]


def read_manifest(manifest: Path, folder: Path, identities: Collection[str]) -> ManifestClips:
    """Return the clips of a CSV file; `identities` are the names that clips may show.

    Raises Missing if the file does not exist, InputRefused if it is not CSV or lacks a column,
    UsageError without a usable row.
    """
    try:
        text = read_regular(manifest, _MOST_BYTES, follow=True).decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except FileNotFoundError as error:
        raise Missing("manifest", str(manifest), f"Write one with {', '.join(COLUMNS)}.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "problem", None) or f"is not CSV in UTF-8 ({printable(str(error))})"
        raise InputRefused(f"{manifest} {why}.", "Use a CSV file with a header.") from error
    header = [name.strip() for name in rows[0]] if rows else []
    if lacking := [name for name in COLUMNS if name not in header]:
        raise InputRefused(
            f"{manifest} has no column {', '.join(lacking)}.",
            f"Its first line must name the columns {', '.join(COLUMNS)}.",
        )
    clips: list[ClipFile] = []
    refused: dict[str, str] = {}
    for number, cells in enumerate(rows[1:], 2):
        if not any(cells):
            continue
        row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        if problem := _problem(row, folder, identities):
            refused[f"{manifest.name}:{number}"] = problem
        else:
            clips.append(
                ClipFile(
                    file=str((folder / row["file"]).absolute()),
                    identity=row["identity"],
                    prompt=row["prompt"],
                    seed=int(row["seed"]),
                    method=row["method"],
                )
            )
    if not clips:
        first = next(iter(refused.values()), "it has no rows")
        raise UsageError(f"No usable clip in {manifest}: {first}.", "Correct the manifest.")
    ignored = tuple(dict.fromkeys(name for name in header if name not in COLUMNS))
    return ManifestClips(tuple(clips), refused, ignored)


def _problem(row: Mapping[str, str], folder: Path, identities: Collection[str]) -> str:
    """Return why a row cannot be used, as a phrase; empty if it can."""
    if empty := [name for name in COLUMNS if not row.get(name)]:
        return f"{', '.join(empty)} is empty"
    if long := [name for name in COLUMNS if len(row[name]) > _LONGEST]:
        return f"{long[0]} is longer than {_LONGEST} characters"
    if strange := [name for name in COLUMNS if not row[name].isprintable()]:
        return f"{strange[0]} contains control characters"
    file = PurePosixPath(row["file"])
    if file.is_absolute() or ".." in file.parts:
        return f"{printable(row['file'])} is not a path within {folder}"
    if not re.fullmatch(r"[0-9]{1,18}", row["seed"]):
        return f"the seed {printable(row['seed'])} is not a whole number below 10^18"
    if row["identity"] not in identities:
        return f"unknown identity {printable(row['identity'])}"
    if not exists(folder / file):
        return f"{printable(row['file'])} does not exist"
    if not (folder / file).is_file():
        return f"{printable(row['file'])} is not a regular file"
    return ""
