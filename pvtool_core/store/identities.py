"""The identity library: identities on this machine.

NAME/identity.toml references/ faces/ embeddings.safetensors

Folders are private (0700). An identity is added, renamed and deleted by one rename of its folder,
so it is always complete or absent; unfinished ones are in a hidden folder beside it. The name of an
identity is the name of its folder.
"""

import hashlib
import io
import json
import math
import operator
import os
import re
import shutil
import sys
from array import array
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from pvtool_core.errors import (
    BadArchive,
    BrokenIdentity,
    Missing,
    NameTaken,
    RunFailed,
    SettingsError,
)
from pvtool_core.files import replace_file, sync_folder, write_private
from pvtool_core.paths import check_name, identities_dir, jobs_dir, nearest
from pvtool_core.settings.jobs import IdentityRef
from pvtool_core.settings.schema import setting
from pvtool_core.settings.toml import from_table, read_toml, to_table
from pvtool_core.store.identity_archive import pack, unpack
from pvtool_core.store.scratch import held_folder, sweep
from pvtool_core.untrusted import Irregular, TooLarge, parse_toml, read_regular

IDENTITY_FILE = "identity.toml"
EMBEDDINGS_FILE = "embeddings.safetensors"
FACES_FILE = "faces.json"
CROP_SIDE = 112
"""Side of aligned faces in pixels."""
LARGEST_SIDE = 2048
"""Largest side of stored photos in pixels."""
_MAX_RECORD_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 16
_MAX_EMBEDDINGS_BYTES = 1 << 26
_NOT_EMBEDDINGS = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)


@dataclass(frozen=True, kw_only=True)
class StoredFace:
    """One photo of an identity: the stored copy, the face crop and the face's position.

    `bbox` is left, top, right, bottom; `landmarks` are eyes, nose and mouth corners, x and y in
    turn; both in pixels of `reference`. `picture` is the name of the user's file.
    """

    picture: str
    reference: str
    face: str
    score: float
    bbox: tuple[float, ...]
    landmarks: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """Content of identity.toml."""

    noun: str = setting("class noun in prompts", "person", choices=("man", "woman", "person"))
    consent: str = ""
    created: str
    faces: tuple[StoredFace, ...]


@dataclass(frozen=True)
class Identity:
    name: str
    folder: Path
    record: Record

    @property
    def noun(self) -> str:
        return self.record.noun

    @property
    def ref(self) -> IdentityRef:
        """Return the reference for a job.

        It survives a rename and differs between identities of the same name.

        Raises BrokenIdentity without embeddings.
        """
        path = self.folder / EMBEDDINGS_FILE
        try:
            fingerprint = _fingerprint(path.read_bytes())
        except OSError as error:
            raise BrokenIdentity(path, "is missing or cannot be read") from error
        return IdentityRef(
            name=self.name, noun=self.noun, folder=str(self.folder), fingerprint=fingerprint
        )

    @property
    def references(self) -> list[Path]:
        """The stored photos, in the order in which they were given."""
        return [self.folder / face.reference for face in self.record.faces]

    @property
    def faces(self) -> list[Path]:
        """The aligned 112 × 112 crops, in the same order as the rows of the embeddings."""
        return [self.folder / face.face for face in self.record.faces]

    def similarities(self) -> tuple[tuple[float, ...], ...]:
        """Return the pairwise similarity of the photos, one row per photo.

        It is the cosine of their embeddings, averaged over all recognisers. Raises BrokenIdentity
        if the embeddings are damaged or belong to other photos.
        """
        path = self.folder / EMBEDDINGS_FILE
        each = [_cosines(rows) for rows in _read_embeddings(path).values()]
        if any(len(matrix) != len(self.faces) for matrix in each):
            raise BrokenIdentity(path, "does not belong to the stored photos")
        return tuple(
            tuple(_mean(values) for values in zip(*rows, strict=True))
            for rows in zip(*each, strict=True)
        )


def _read_embeddings(path: Path) -> dict[str, list[Sequence[float]]]:
    """Read unit vectors per recogniser, one row per photo, without the safetensors library.

    The first eight bytes are the length of the JSON header, which describes where each tensor is.
    """
    try:
        found = _parse_embeddings(path.read_bytes())
    except FileNotFoundError as error:
        raise BrokenIdentity(path, "is missing") from error
    except _NOT_EMBEDDINGS as error:
        raise BrokenIdentity(path, "is damaged") from error
    if not found:
        raise BrokenIdentity(path, "is empty")
    return found


def _parse_embeddings(content: bytes) -> dict[str, list[Sequence[float]]]:
    """Return unit vectors by recogniser. Raises one of `_NOT_EMBEDDINGS` for any other content."""
    length = int.from_bytes(content[:8], "little")
    if length > _MAX_HEADER_BYTES:
        raise ValueError(length)
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    data = content[8 + length :]
    spans = sorted(tuple(about["data_offsets"]) for about in header.values())
    ends = [0, *(end for _, end in spans)]
    if [begin for begin, _ in spans] != ends[:-1] or ends[-1] != len(data):
        raise ValueError("tensors overlap, or leave gaps")
    return {name: _rows(data, about) for name, about in header.items()}


def _rows(content: bytes, about: dict[str, Any]) -> list[Sequence[float]]:
    """Return one tensor (photos, dimensions) as unit vectors.

    Raises ValueError if it is invalid.
    """
    (count, length), (begin, end) = about["shape"], about["data_offsets"]
    values = array("f", content[begin:end])
    if sys.byteorder == "big":
        values.byteswap()
    if about["dtype"] != "F32" or len(values) != count * length:
        raise ValueError(about)
    return [_unit(values[row * length : (row + 1) * length]) for row in range(count)]


def _unit(vector: Sequence[float]) -> Sequence[float]:
    length = math.hypot(*vector)
    if not 0 < length < math.inf:  # also catches NaN
        raise ValueError(length)
    return [value / length for value in vector]


def _cosines(rows: list[Sequence[float]]) -> list[list[float]]:
    return [[math.fsum(map(operator.mul, one, other)) for other in rows] for one in rows]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def identity_in(folder: Path) -> Identity:
    """Return the identity in a folder, which jobs name.

    Raises Missing if it was removed, BrokenIdentity if its record is unreadable.
    """
    if not (folder / IDENTITY_FILE).is_file():
        raise Missing(
            "identity", folder.name, "It was removed; add it again with `pv identity add`."
        )
    return Identity(folder.name, folder, _stored_record(folder / IDENTITY_FILE))


def with_folder_here(ref: IdentityRef, *roots: Path) -> IdentityRef:
    """Return a recorded reference with the folder of the same identity in one of the libraries.

    The recorded folder is that of the machine and the place of the first training; a copied or
    moved data folder has the identity elsewhere.
    """
    for root in roots:
        folder = root / ref.name
        try:
            content = read_regular(folder / EMBEDDINGS_FILE, _MAX_EMBEDDINGS_BYTES)
        except (OSError, Irregular, TooLarge):
            continue
        if ref.fingerprint and _fingerprint(content) == ref.fingerprint:
            return replace(ref, folder=str(folder))
    return ref


def _fingerprint(embeddings: bytes) -> str:
    return hashlib.sha256(embeddings).hexdigest()[:16]


class Library:
    """The identity library: a folder for each identity, by default in the data folder."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or identities_dir()

    def names(self) -> list[str]:
        self.sweep()
        return sorted(path.parent.name for path in self.root.glob(f"[!.]*/{IDENTITY_FILE}"))

    def get(self, name: str) -> Identity:
        """Return the identity of that name.

        Raises Missing, BadName, or BrokenIdentity if its record is unreadable.
        """
        self.sweep()
        folder = self.root / check_name("an identity", name)
        if not (folder / IDENTITY_FILE).is_file():
            raise Missing(
                "identity",
                name,
                "See `pv identity list`.",
                nearest(name, self.root),
            )
        return Identity(folder.name, folder, _stored_record(folder / IDENTITY_FILE))

    def check_free(self, name: str) -> str:
        """Return a name that a new identity may have. Raises BadName or NameTaken."""
        name = check_name("an identity", name)
        if (self.root / name).exists():
            raise NameTaken(
                "an identity", name, f"Choose another name, or `pv identity remove {name}` first."
            )
        return name

    @contextmanager
    def staging(self) -> Generator[Path]:
        """Create a private folder in which to prepare an identity.

        It is deleted on exit unless it was adopted.
        """
        self.sweep()
        with held_folder(self.root, ".adding-") as folder:
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Delete photos, crops and embeddings that killed commands left behind."""
        sweep(self.root, ".adding-", ".removing-")
        if self.root == identities_dir():
            sweep(jobs_dir(), "")

    def adopt(self, staging: Path, name: str, noun: str, consent: str) -> Identity:
        """Turn the result of an enrolment job in `staging` into the identity `name`.

        This is one rename. Raises NameTaken.
        """
        found: list[dict[str, Any]] = json.loads((staging / FACES_FILE).read_bytes())
        faces = tuple(from_table(StoredFace, _flat(face)) for face in found)
        record = Record(
            noun=noun,
            consent=consent,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            faces=faces,
        )
        replace_file(staging / IDENTITY_FILE, tomli_w.dumps(to_table(record)).encode())
        (staging / FACES_FILE).unlink()
        return self._take_in(staging, name)

    def _take_in(self, folder: Path, name: str) -> Identity:
        target = self.root / self.check_free(name)
        _sync_all(folder)
        folder.rename(target)
        sync_folder(self.root)
        return self.get(target.name)

    def rename(self, old: str, new: str) -> Identity:
        """Rename an identity.

        Raises Missing, BadName or NameTaken, and changes nothing in that case.
        """
        return self._take_in(self.get(old).folder, new)

    def remove(self, name: str) -> None:
        """Delete the identity and all its files. Raises Missing."""
        folder = self.get(name).folder
        with held_folder(self.root, ".removing-") as hidden:
            folder.rename(hidden / folder.name)
            shutil.rmtree(hidden)

    def export(self, name: str, archive: Path) -> None:
        """Write the identity as a private tar file with a manifest of SHA-256 hashes.

        Raises Missing or NameTaken.
        """
        folder = self.get(name).folder
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        content = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
        write_private(archive, io.BytesIO(pack(name, content)))

    def import_(self, archive: Path, name: str | None = None) -> Identity:
        """Import a file that `export` wrote, under its own or another name.

        Raises Missing, BadArchive (damaged, or with unexpected files), BadName or NameTaken.
        """
        own_name, content = unpack(archive)
        name = self.check_free(name or own_name)
        _check_content(archive, content)
        with self.staging() as staging:
            _write_all(staging, content)
            return self._take_in(staging, name)


def _stored_record(path: Path) -> Record:
    try:
        if path.stat().st_size > _MAX_RECORD_BYTES:
            raise BrokenIdentity(path, "is too large")
        return from_table(Record, read_toml(path), str(path.parent))
    except (SettingsError, RunFailed) as error:
        raise BrokenIdentity(path, f"cannot be used: {error.message.rstrip('.')}") from error


def _flat(face: dict[str, Any]) -> dict[str, Any]:
    """Flatten landmarks, which TOML and the record store as one list of numbers."""
    return {**face, "landmarks": [number for point in face["landmarks"] for number in point]}


def _check_content(archive: Path, content: Mapping[str, bytes]) -> None:
    """Check the files of an imported identity. Raises BadArchive.

    The files are exactly those named in identity.toml, photos and crops decode, and the embeddings
    match them.
    """
    record = _read_record(archive, content.get(IDENTITY_FILE, b""))
    named = [path for face in record.faces for path in (face.reference, face.face)]
    if not record.faces or len(set(named)) != len(named):
        raise BadArchive(archive, "contains no face, or one file for two faces")
    if problem := next(filter(None, map(_problem_of, record.faces)), ""):
        raise BadArchive(archive, problem)
    if set(content) != {IDENTITY_FILE, EMBEDDINGS_FILE, *named}:
        other = sorted(set(content) ^ {IDENTITY_FILE, EMBEDDINGS_FILE, *named})[0]
        raise BadArchive(archive, f"has an unlisted file or lacks a listed one: {other!r}")
    for face in record.faces:
        _check_picture(archive, face.reference, content[face.reference])
        _check_picture(archive, face.face, content[face.face], (CROP_SIDE, CROP_SIDE))
    try:
        embeddings = _parse_embeddings(content[EMBEDDINGS_FILE])
    except _NOT_EMBEDDINGS as error:
        raise BadArchive(archive, "contains corrupt embeddings") from error
    if not embeddings or any(len(rows) != len(record.faces) for rows in embeddings.values()):
        raise BadArchive(archive, "contains embeddings of other photos")


def _read_record(archive: Path, content: bytes) -> Record:
    if len(content) > _MAX_RECORD_BYTES:
        raise BadArchive(archive, "holds a record that is too large")
    try:
        return from_table(Record, parse_toml(content.decode()), archive.name)
    except (ValueError, SettingsError) as error:
        raise BadArchive(archive, f"contains no valid {IDENTITY_FILE}") from error


def _problem_of(face: StoredFace) -> str:
    """Return the problem of a face in a record, or None."""
    if not re.fullmatch(r"references/\w[\w.-]*\.png", face.reference) or not re.fullmatch(
        r"faces/\w[\w.-]*\.png", face.face
    ):
        return f"names the files {face.reference[:60]!r} and {face.face[:60]!r}, invalid names"
    if len(face.bbox) != 4 or len(face.landmarks) != 10:
        return "contains a face without its position"
    return (
        ""
        if all(map(math.isfinite, (face.score, *face.bbox, *face.landmarks)))
        else "contains a coordinate that is not a number"
    )


def _check_picture(
    archive: Path, name: str, content: bytes, size: tuple[int, int] | None = None
) -> None:
    """Check that a file is a PNG of the right size that decodes. Raises BadArchive."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if max(image.size) > LARGEST_SIDE or (size and image.size != size):
                raise BadArchive(
                    archive, f"contains {name!r} of {image.width} × {image.height} pixels"
                )
            if image.mode != "RGB":
                raise BadArchive(archive, f"contains {name!r}, which is not an RGB picture")
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadArchive(archive, f"contains {name!r}, which is not a PNG picture") from error


def _write_all(folder: Path, content: Mapping[str, bytes]) -> None:
    """Write files into a new folder."""
    for path, data in content.items():
        (folder / path).parent.mkdir(mode=0o700, exist_ok=True)
        (folder / path).write_bytes(data)


def _sync_all(folder: Path) -> None:
    """Sync everything in a folder to disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)
