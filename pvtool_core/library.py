"""The identity library: who there is, on this machine and nowhere else.

    NAME/identity.toml  references/  faces/  embeddings.safetensors

Folders are private (0700). An identity appears, is renamed and goes by one rename of its folder, so it is there or
it is not; what is being written lies in a hidden folder beside it. The name is the folder's name and nothing else.
"""

import hashlib
import io
import json
import math
import operator
import shutil
import sys
import tarfile
from array import array
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import tomli_w

from pvtool_core.config import IdentityRef, from_table, read_toml, setting, to_table
from pvtool_core.errors import BadArchive, BrokenIdentity, Missing, NameTaken
from pvtool_core.leftovers import held_folder, sweep
from pvtool_core.paths import check_name, check_new_file, identities_dir, jobs_dir, nearest, replace_file

IDENTITY_FILE = "identity.toml"
EMBEDDINGS_FILE = "embeddings.safetensors"
FACES_FILE = "faces.json"
_MANIFEST = "manifest.json"
_FORMAT = "pv identity 1"
_MAX_ARCHIVE_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class StoredFace:
    """One photo of the person: the copy kept, the aligned crop, and where the face was.

    `bbox` is left, top, right, bottom; `landmarks` are eyes, nose and mouth corners, x and y in turn; in pixels of
    `reference`. `picture` is what the user's file was called.
    """

    picture: str
    reference: str
    face: str
    score: float
    bbox: tuple[float, ...]
    landmarks: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What identity.toml holds."""

    noun: str = setting("what prompts call them", "person", choices=("man", "woman", "person"))
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
        """Who this is, for a job; the same after a rename, another for another person of that name."""
        fingerprint = hashlib.sha256((self.folder / EMBEDDINGS_FILE).read_bytes()).hexdigest()[:16]
        return IdentityRef(name=self.name, noun=self.noun, folder=str(self.folder), fingerprint=fingerprint)

    @property
    def references(self) -> list[Path]:
        """The kept photos, in the order in which they were given."""
        return [self.folder / face.reference for face in self.record.faces]

    @property
    def faces(self) -> list[Path]:
        """The aligned 112 × 112 crops, in the same order; also that of the rows of the embeddings."""
        return [self.folder / face.face for face in self.record.faces]

    def similarities(self) -> tuple[tuple[float, ...], ...]:
        """How alike the photos' faces are: the cosine of their embeddings, the mean of all recognisers; row by row.

        Raises BrokenIdentity if the embeddings are damaged, or are not those of these photos.
        """
        path = self.folder / EMBEDDINGS_FILE
        each = [_cosines(rows) for rows in _read_embeddings(path).values()]
        if any(len(matrix) != len(self.faces) for matrix in each):
            raise BrokenIdentity(path, "is not about the photos that are kept")
        return tuple(tuple(_mean(values) for values in zip(*rows, strict=True)) for rows in zip(*each, strict=True))


def _read_embeddings(path: Path) -> dict[str, list[Sequence[float]]]:
    """Unit vectors of each recogniser, a row for each photo: a file of safetensors, read without that library.

    Eight bytes tell how long the JSON is that follows, which says where each tensor lies in the rest.
    """
    try:
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header: dict[str, Any] = json.loads(content[8:start])
        header.pop("__metadata__", None)
        found = {name: _rows(content[start:], about) for name, about in header.items()}
    except FileNotFoundError as error:
        raise BrokenIdentity(path, "is gone") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokenIdentity(path, "is damaged") from error
    if not found:
        raise BrokenIdentity(path, "is empty")
    return found


def _rows(content: bytes, about: dict[str, Any]) -> list[Sequence[float]]:
    """One tensor (photos, dimensions) as unit vectors. Raises ValueError if it is another thing."""
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


class Library:
    def __init__(self, root: Path | None = None) -> None:
        self.root = root or identities_dir()

    def names(self) -> list[str]:
        self.sweep()
        return sorted(path.parent.name for path in self.root.glob(f"[!.]*/{IDENTITY_FILE}"))

    def get(self, name: str) -> Identity:
        """The identity of that name. Raises Missing or BadName."""
        self.sweep()
        folder = self.root / check_name("an identity", name)
        if not (folder / IDENTITY_FILE).is_file():
            raise Missing("identity", name, "`pv identity list` shows all there are.", nearest(name, self.root))
        return Identity(folder.name, folder, from_table(Record, read_toml(folder / IDENTITY_FILE), str(folder)))

    def check_free(self, name: str) -> str:
        """Give back a name that a new identity may have. Raises BadName or NameTaken."""
        name = check_name("an identity", name)
        if (self.root / name).exists():
            raise NameTaken("an identity", name, f"Choose another name, or `pv identity remove {name}` first.")
        return name

    @contextmanager
    def staging(self) -> Generator[Path]:
        """A private folder in which an identity is prepared; gone afterwards unless it was adopted."""
        self.sweep()
        with held_folder(self.root, ".adding-") as folder:
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Delete what commands that were killed have left of people: photos, crops and embeddings."""
        sweep(self.root, ".adding-", ".removing-")
        if self.root == identities_dir():
            sweep(jobs_dir(), "")

    def adopt(self, staging: Path, name: str, noun: str, consent: str) -> Identity:
        """Make what an identify job left in `staging` the identity `name`, at once and whole. Raises NameTaken."""
        found: list[dict[str, Any]] = json.loads((staging / FACES_FILE).read_bytes())
        faces = tuple(from_table(StoredFace, _flat(face)) for face in found)
        record = Record(
            noun=noun, consent=consent, created=datetime.now(UTC).isoformat(timespec="seconds"), faces=faces
        )
        replace_file(staging / IDENTITY_FILE, tomli_w.dumps(to_table(record)).encode())
        (staging / FACES_FILE).unlink()
        return self._take_in(staging, name)

    def _take_in(self, folder: Path, name: str) -> Identity:
        target = self.root / self.check_free(name)
        folder.rename(target)
        return self.get(target.name)

    def rename(self, old: str, new: str) -> Identity:
        """Raises Missing, BadName or NameTaken, and then nothing has changed."""
        return self._take_in(self.get(old).folder, new)

    def remove(self, name: str) -> None:
        """Delete the identity and everything kept of the person. Raises Missing."""
        folder = self.get(name).folder
        with held_folder(self.root, ".removing-") as hidden:
            folder.rename(hidden / folder.name)
            shutil.rmtree(hidden)

    def export(self, name: str, archive: Path) -> None:
        """Write the identity as a private tar file with a manifest of sha256. Raises Missing or NameTaken."""
        folder = self.get(name).folder
        check_new_file(archive)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        content = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
        digests = {path: hashlib.sha256(data).hexdigest() for path, data in content.items()}
        manifest = {"format": _FORMAT, "name": name, "sha256": digests}
        replace_file(archive, _tar({_MANIFEST: json.dumps(manifest, indent=1).encode(), **content}), mode=0o600)

    def import_(self, archive: Path, name: str | None = None) -> Identity:
        """Take in what `export` wrote, under its own or another name.

        Raises Missing, BadArchive (damaged, or with files that it should not have), BadName or NameTaken.
        """
        content = _untar(archive)
        manifest = _check_manifest(archive, content)
        name = self.check_free(name or str(manifest["name"]))
        with self.staging() as staging:
            for path, data in content.items():
                (staging / path).parent.mkdir(mode=0o700, exist_ok=True)
                (staging / path).write_bytes(data)
            from_table(Record, read_toml(staging / IDENTITY_FILE), archive.name)
            return self._take_in(staging, name)


def _flat(face: dict[str, Any]) -> dict[str, Any]:
    """TOML and the record keep landmarks as one list of numbers."""
    return {**face, "landmarks": [number for point in face["landmarks"] for number in point]}


def _tar(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in content.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), 0o600
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _untar(archive: Path) -> dict[str, bytes]:
    """Contents by path, read into memory: nothing in the archive decides where anything is written."""
    if not archive.is_file():
        raise Missing("file", str(archive), "Give a file written by `pv identity export`.")
    try:
        with tarfile.open(archive, mode="r:") as tar:
            members = tar.getmembers()
            if sum(member.size for member in members) > _MAX_ARCHIVE_BYTES:
                raise BadArchive(archive, "is far too large for an identity")
            return {member.name: _read_member(archive, tar, member) for member in members}
    except (tarfile.TarError, EOFError) as error:
        raise BadArchive(archive, "is no tar file, or is damaged") from error


def _read_member(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member) if member.isreg() and _allowed(member.name) else None
    if file is None:
        raise BadArchive(archive, f"holds {member.name!r}, which no identity has")
    return file.read()


def _allowed(name: str) -> bool:
    parts = PurePosixPath(name).parts
    known = parts in {(_MANIFEST,), (IDENTITY_FILE,), (EMBEDDINGS_FILE,)}
    in_folder = len(parts) == 2 and parts[0] in {"references", "faces"} and not parts[1].startswith(".")
    return name == "/".join(parts) and (known or in_folder)


def _check_manifest(archive: Path, content: dict[str, bytes]) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(content.pop(_MANIFEST))
        expected: dict[str, str] = manifest["sha256"]
        named = isinstance(manifest["name"], str) and manifest["format"] == _FORMAT
    except (KeyError, TypeError, ValueError) as error:
        raise BadArchive(archive, "is no export of an identity") from error
    if not named or IDENTITY_FILE not in content:
        raise BadArchive(archive, "is no export of an identity")
    if expected != {path: hashlib.sha256(data).hexdigest() for path, data in content.items()}:
        raise BadArchive(archive, "is damaged: its files are not those of its manifest")
    return manifest
