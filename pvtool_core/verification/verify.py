"""Verify files: how each is marked as AI-generated, and whether this library knows it.

Files are untrusted: they are opened without following links or blocking, their size and the number
of decoded frames are limited, and an unreadable file does not stop the others. Nothing is fetched.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pvtool_core.batches.clips import clip_sha256, read_sidecar
from pvtool_core.errors import BadPicture, Missing, PvError, printable
from pvtool_core.hashes import sha256_of
from pvtool_core.media.c2pa_reader import FoundCredentials, read_credentials_of
from pvtool_core.media.decode import SAMPLED_FRAMES, Pixels, sample_of
from pvtool_core.media.ffmpeg import ClipBroken
from pvtool_core.media.metadata import read_facts
from pvtool_core.media.photos import SUFFIXES, natural_order
from pvtool_core.models.integrity import read_header
from pvtool_core.settings.formats import format_of
from pvtool_core.untrusted import Irregular, open_regular
from pvtool_core.verification.known_clips import (
    KnownClip,
    KnownClips,
    adapters_by_sha256,
    read_known_clips,
)
from pvtool_core.watermark.watermark_methods import Reading, read

MOST_FILES = 100_000
MOST_BYTES = 4 << 30
MOST_IMAGE_BYTES = 1 << 28
ADAPTER = ".safetensors"
VIDEOS = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv"})
_XMP_BEGINS, _XMP_ENDS = b"<x:xmpmeta", b"</x:xmpmeta>"
_FIRST_FRAME = "0000.png"
_LONGEST_TEXT = 2000
_GENERATED = re.compile(rb"digitalsourcetype/\w*trainedAlgorithmicMedia", re.IGNORECASE)
_XMP_BYTES = 1 << 26
_ADAPTER_FORMAT = "pv adapter "


@dataclass(frozen=True)
class Verified:
    """What was found in a file.

    `metadata` are those of pv, or `{}` if another program says that AI generated the file.
    `known` is the clip or the adapter in this library. `problem` says why the file, or its frames,
    cannot be read.
    """

    path: Path
    kind: str
    credentials: FoundCredentials | None = None
    metadata: Mapping[str, Any] | None = None
    watermark: Reading | None = None
    known: Mapping[str, Any] | None = None
    problem: str = ""

    @property
    def is_marked(self) -> bool:
        signed = self.credentials is not None and self.credentials.is_mark
        return signed or self.metadata is not None or self.watermark is not None

    def record(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "marked": self.is_marked,
            "credentials": self.credentials and self.credentials.record(),
            "metadata": None if self.metadata is None else dict(self.metadata),
            "watermark": self.watermark and self.watermark.record(),
            "known": None if self.known is None else dict(self.known),
            "problem": self.problem,
        }


@dataclass
class Verifier:
    """Verifies files; this library is searched once, and only if a file needs it."""

    crops: bool = True
    _adapters: dict[str, str] | None = field(default=None, init=False)

    @cached_property
    def _known(self) -> KnownClips:
        return read_known_clips()

    def verify(self, path: Path) -> Verified:
        """Verify a file, or a folder of frames. Raises nothing, whatever it contains."""
        kind = kind_of(path)
        try:
            _check_size(path)
            return self._adapter(path) if kind == "adapter" else self._clip(path, kind)
        except Exception as error:  # whatever a parser raises for the file of a stranger
            return Verified(path, kind, problem=_sentence(path, error))

    def _clip(self, path: Path, kind: str) -> Verified:
        first = path / _FIRST_FRAME if path.is_dir() else path
        credentials, metadata = read_credentials_of(first), _metadata_of(path, first)
        watermark, problem = None, ""
        try:
            watermark = read(_frames(path), list(self._known.by_key), self.crops)
        except Exception as error:  # as in `verify`; its metadata may say enough
            problem = _sentence(path, error)
        known = self._known_clip(path, metadata, watermark)
        return Verified(
            path=path,
            kind=kind,
            credentials=credentials,
            metadata=metadata,
            watermark=watermark,
            known=known and known.record(),
            problem=problem,
        )

    def _known_clip(
        self, path: Path, metadata: Mapping[str, Any] | None, watermark: Reading | None
    ) -> KnownClip | None:
        """Return the clip of this library by its watermark, metadata, or sidecar beside it."""
        if watermark:
            code = watermark.code
            if found := self._known.of_id(watermark.match.id, code.id_bits):
                return found
        if metadata and (found := self._known.of_facts(metadata)):
            return found
        record = read_sidecar(path.with_suffix(""))
        recorded = record and record["files"].get(path.name)
        if recorded and recorded["sha256"] == clip_sha256(path):
            return KnownClip.of_sidecar(path.with_suffix(""))
        return None

    def _adapter(self, path: Path) -> Verified:
        found = read_header(path).metadata
        ours = found.get("format", "").startswith(_ADAPTER_FORMAT)
        if self._adapters is None:
            self._adapters = adapters_by_sha256()
        run = self._adapters.get(sha256_of(path, follow=True))
        return Verified(
            path=path,
            kind="adapter",
            metadata={name: _short(text) for name, text in found.items()} if ours else None,
            known={"run": run} if run else None,
        )


def files_in(path: Path) -> Iterator[Path]:
    """Yield the files to verify: the path itself, or those of a folder and its subfolders.

    A folder of frames is one clip. Hidden files and links in folders are skipped. Raises Missing.
    """
    if not os.path.lexists(path):
        raise Missing("file", printable(path, whole=True), "Check the path.")
    if not path.is_dir() or _is_clip(path):
        yield path
        return
    yield from islice(_walk(path), MOST_FILES)


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        here = Path(root)
        for name in sorted(folders):
            if name.startswith(".") or (here / name).is_symlink():
                folders.remove(name)
            elif _is_clip(here / name):
                folders.remove(name)
                yield here / name
        folders.sort()
        for name in sorted(names):
            file = here / name
            if not name.startswith(".") and not file.is_symlink() and kind_of(file) != "other":
                yield file


def _is_clip(folder: Path) -> bool:
    return (folder / _FIRST_FRAME).is_file()


def kind_of(path: Path) -> str:
    """Return the kind of a file by its suffix: clip, image, adapter or other."""
    suffix = path.suffix.lower()
    if suffix == ADAPTER:
        return "adapter"
    if suffix in VIDEOS or path.is_dir():
        return "clip"
    return "image" if suffix in SUFFIXES else "other"


def _check_size(path: Path) -> None:
    """Raise Irregular, OSError or ValueError for a file that cannot be read safely."""
    if path.is_dir() and _is_clip(path):
        return
    descriptor = open_regular(path, follow=True)
    try:
        most = MOST_IMAGE_BYTES if kind_of(path) in {"image", "other"} else MOST_BYTES
        if os.fstat(descriptor).st_size > most:
            raise ValueError(f"is larger than {most >> 20} MiB")
    finally:
        os.close(descriptor)


def _frames(path: Path) -> Pixels:
    if not path.is_dir():
        return sample_of(path)
    frames: list[Pixels] = []
    for image in natural_order(path.glob("[!.]*.png"))[:SAMPLED_FRAMES]:
        _check_size(image)
        frames.append(sample_of(image)[0])
    return np.stack(frames)


def _metadata_of(path: Path, first: Path) -> dict[str, Any] | None:
    """Return the metadata of pv; `{}` if only a mark of another program was found, else None."""
    if format_of(path):
        try:
            facts = read_facts(path)
            if isinstance(facts, dict) and facts.get("generated_by_ai") is True:  # pyright: ignore[reportUnnecessaryIsInstance]  # from a file
                return facts
        except (PvError, OSError, ValueError, RecursionError):
            pass
    with os.fdopen(open_regular(first, follow=True), "rb") as file:
        content = file.read(_XMP_BYTES)
        if file.seek(0, os.SEEK_END) > _XMP_BYTES:
            file.seek(-_XMP_BYTES, os.SEEK_END)
            content += file.read(_XMP_BYTES)
    return {} if any(map(_GENERATED.search, _packets(content))) else None


def _packets(content: bytes) -> Iterator[bytes]:
    """Yield the XMP packets, in one pass: a file may begin many and end none."""
    start = content.find(_XMP_BEGINS)
    while start >= 0 and (end := content.find(_XMP_ENDS, start)) >= 0:
        yield content[start:end]
        start = content.find(_XMP_BEGINS, end)


def _sentence(path: Path, error: Exception) -> str:
    """Return the reason why a file cannot be read, as one sentence."""
    name = printable(path)
    if isinstance(error, ClipBroken | BadPicture):
        return error.message
    if isinstance(error, Irregular):
        return f"{name} {error.problem}."
    if isinstance(error, PvError):
        return error.message
    if isinstance(error, OSError):
        return f"{name} cannot be read: {(error.strerror or str(error)).lower()}."
    return f"{name} {str(error)[:_LONGEST_TEXT] or 'cannot be read'}."


def _short(text: str) -> str:
    return text[:_LONGEST_TEXT]
