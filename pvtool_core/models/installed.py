"""The models on this machine: their state, verification and removal.

<cache>/models/NAME/                 complete models, for presets and `models:NAME`
<cache>/models/.fetching/NAME/       partial downloads
<cache>/models/.manifests/NAME.toml  files with hashes, and the licence; kept separately,
                                     because NAME can be a link

"""

import dataclasses
import fcntl
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import tomli_w

from pvtool_core.errors import NO_ROOM, BrokenWeights, Busy, DiskFull, Missing, WeightsMissing
from pvtool_core.files import replace_file, sync_folder
from pvtool_core.hashes import has_digest, hash_of
from pvtool_core.models.integrity import PART, missing_parts, problems_of
from pvtool_core.models.registry import (
    Registry,
    RegistryEntry,
    model_folder,
    model_name,
    models_named_in,
)
from pvtool_core.paths import models_dir, nearest
from pvtool_core.settings.schema import Settings, setting
from pvtool_core.settings.toml import from_table, read_toml, to_table

_ROOM_HINT = "Free disk space and run the command again: it resumes. PV_HOME moves the cache."


class ModelState(StrEnum):
    HERE = "here"
    PARTIAL = "partial"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A downloaded or added file; `published` is true if its hash was published."""

    path: str
    size: int
    sha256: str
    published: bool = False


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of a model.

    `origin` is its source; `broken` are the files that `verify` found corrupt.
    """

    name: str
    origin: str
    licence: str
    commercial: str = setting(
        "whether commercial use is allowed", "conditions", choices=("yes", "no", "conditions")
    )
    added: str
    files: tuple[FileRecord, ...]
    broken: tuple[str, ...] = ()


class Models:
    """All models: registered, downloaded and added ones."""

    def __init__(self, registry: Registry | None = None) -> None:
        self.registry = registry or Registry()
        self.root = models_dir()

    def names(self) -> list[str]:
        """Return the names in the registry and on this machine."""
        there = [
            path.name
            for root in (self.root, self.root / ".fetching")
            for path in root.glob("[!.]*")
        ]
        return sorted({*self.registry.names(), *map(model_name, there)})

    def entry(self, name: str) -> RegistryEntry:
        """Return the registry entry of a model. Raises Missing, BadName."""
        manifest, entry = self.manifest(name), self.registry.find(name)
        begun = model_folder(name).exists() or self.staging(name).exists()
        if entry is None and manifest is None and not begun:
            return self.registry.get(name)
        entry = entry or RegistryEntry(name=name, title="of your own", sources=())
        if manifest is None:
            return entry
        size = sum(file.size for file in manifest.files)
        return dataclasses.replace(
            entry, licence=manifest.licence, terms="", commercial=manifest.commercial, size=size
        )

    def manifest(self, name: str) -> Manifest | None:
        path = self._manifest_path(name)
        return from_table(Manifest, read_toml(path), str(path)) if path.is_file() else None

    def state(self, name: str) -> ModelState:
        """Return the state by names and sizes; `verify` reads the content."""
        folder = model_folder(name)
        if not folder.exists():
            return ModelState.PARTIAL if files_under(self.staging(name)) else ModelState.MISSING
        return ModelState.PARTIAL if self.lacking(name) else ModelState.HERE

    def lacking(self, name: str) -> list[str]:
        """Return paths that are missing or known to be corrupt."""
        folder, entry = model_folder(name), self.registry.find(name)
        if folder.exists() and (manifest := self.manifest(name)):
            return [file.path for file in manifest.files if not is_intact(folder, file, manifest)]
        there = files_under(self.staging(name)) | files_under(folder)
        return [path for path in (entry.required() if entry else ()) if path not in there]

    def size(self, name: str) -> int:
        """Return the bytes on this machine, including partial downloads."""
        roots = (model_folder(name), self.staging(name))
        return sum(path.stat().st_size for root in roots for path in files_under(root).values())

    def verify(self, name: str) -> list[FileRecord]:
        """Read and check every file of a model; return its manifest.

        Corrupt files are recorded, so that `fetch` replaces them. Raises WeightsMissing for missing
        files, BrokenWeights for corrupt ones, Missing or BadName for an unknown model.
        """
        folder = model_folder(name)
        mend = (
            f"Download them with `pv models fetch {name}`."
            if self.registry.find(name)
            else "Add the model again."
        )
        if not folder.exists():
            self.registry.get(name)
            raise WeightsMissing(name, mend)
        manifest = self.manifest(name) or self._adopt(name, folder, mend)
        gone = [file.path for file in manifest.files if not (folder / file.path).is_file()]
        whole = [file for file in manifest.files if file.path not in gone]
        wrong = {file.path: problem for file in whole if (problem := _change(folder, file))}
        self.save(dataclasses.replace(manifest, broken=tuple(sorted([*gone, *wrong]))))
        missing = dict.fromkeys(gone, "is missing")
        if wrong:
            raise BrokenWeights(
                [f"{name}/{path} {words}" for path, words in {**wrong, **missing}.items()], mend
            )
        if gone:
            raise WeightsMissing(", ".join(f"{name}/{path}" for path in gone), mend)
        return list(manifest.files)

    def _adopt(self, name: str, folder: Path, mend: str) -> Manifest:
        """Create the manifest of a folder that the user placed there.

        Raises BrokenWeights, WeightsMissing.
        """
        entry, files = self.entry(name), files_under(folder)
        if lacking := [*self.lacking(name), *missing_parts(files)]:
            raise WeightsMissing(", ".join(f"{name}/{path}" for path in lacking), mend)
        problems = problems_of(files) or hash_problems(entry, files)
        if problems:
            raise BrokenWeights(
                [f"{name}/{path} {words}" for path, words in problems.items()], mend
            )
        return self.record(entry, "copied by hand", entry.digests())

    def remove(self, name: str) -> None:
        """Delete a model, complete or partial; for a linked folder, only the link.

        Raises Missing, Busy, BadName.
        """
        self.check_here(name)
        folder = model_folder(name)
        with self.lock(name):
            if folder.is_symlink() or folder.is_file():
                folder.unlink()
            elif folder.exists():
                shutil.rmtree(folder)
            shutil.rmtree(self.staging(name), ignore_errors=True)
            self._manifest_path(name).unlink(missing_ok=True)

    def check_here(self, name: str) -> None:
        """Raise Missing if nothing of a model is on this machine, or BadName."""
        if self.state(name) is ModelState.MISSING and not model_folder(name).is_symlink():
            raise Missing(
                "model on this machine",
                name,
                "See `pv models list`.",
                nearest(name, self.root),
            )

    def finish(self, entry: RegistryEntry, origin: str, digests: Mapping[str, str]) -> Manifest:
        """Move a complete model to its place and write its manifest.

        `digests` are the verified published hashes.
        """
        staging, folder = self.staging(entry.name), model_folder(entry.name)
        for name, path in files_under(staging).items():
            if name.endswith(PART):  # left by a killed fetch, and not needed any more
                path.unlink()
        if folder.exists():  # only the missing files were fetched
            for name, path in files_under(staging).items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                path.replace(folder / name)
            shutil.rmtree(staging, ignore_errors=True)
        else:
            staging.replace(folder)
        sync_folder(self.root)
        return self.record(entry, origin, digests)

    def record(self, entry: RegistryEntry, origin: str, digests: Mapping[str, str]) -> Manifest:
        """Write the manifest of a model in its place."""
        manifest = Manifest(
            name=entry.name,
            origin=origin,
            licence=entry.licence_line,
            commercial=entry.commercial,
            added=datetime.now(UTC).isoformat(timespec="seconds"),
            files=tuple(
                _record(*file, digests) for file in files_under(model_folder(entry.name)).items()
            ),
        )
        self.save(manifest)
        return manifest

    def save(self, manifest: Manifest) -> None:
        path = self._manifest_path(manifest.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, tomli_w.dumps(to_table(manifest)).encode())

    def staging(self, name: str) -> Path:
        """Return the folder of a model while it is incomplete."""
        return self.root / ".fetching" / model_folder(name).name

    def _manifest_path(self, name: str) -> Path:
        return self.root / ".manifests" / f"{model_folder(name).name}.toml"

    @contextmanager
    def lock(self, name: str) -> Generator[None]:
        """Hold a model for one process, until it ends in any way. Raises Busy."""
        path = self.root / ".locks" / model_folder(name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(
                    name,
                    "Another process is fetching, adding or removing",
                    "Wait until it has finished.",
                ) from error
            yield


def licences(settings: Settings) -> tuple[str, ...]:
    """Return `name: licence (allowed use)` for each model of the settings with a known licence."""
    models = Models()
    known = [
        name
        for name in models_named_in(settings)
        if models.manifest(name) or models.registry.find(name)
    ]
    return tuple(f"{name}: {models.entry(name).licence_line}" for name in known)


def missing_models(settings: Settings) -> list[str]:
    """Return incomplete models of the settings that `pv models fetch` can download."""
    models = Models()
    used = [name for name in models_named_in(settings) if models.registry.find(name)]
    return [name for name in used if models.state(name) is not ModelState.HERE]


def files_under(folder: Path) -> dict[str, Path]:
    """Return every file under a folder, or a link to one, by its relative path."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in found}


def is_intact(folder: Path, file: FileRecord, manifest: Manifest) -> bool:
    """Return whether a file has its size and `verify` did not find it corrupt."""
    path = folder / file.path
    return path.is_file() and path.stat().st_size == file.size and file.path not in manifest.broken


def hash_problems(entry: RegistryEntry, files: Mapping[str, Path]) -> dict[str, str]:
    """Return which of `files` differ from the published hash, by their path in the model."""
    wanted = [
        (name, algorithm, digest)
        for name in files
        for algorithm, digest in entry.checks(name).items()
    ]
    wrong = [
        (name, algorithm)
        for name, algorithm, digest in wanted
        if not has_digest(files[name], algorithm, digest)
    ]
    return {name: f"does not have the published {algorithm}" for name, algorithm in wrong}


def check_room(folder: Path, needed: int, name: str) -> None:
    """Raise DiskFull if the disk of `folder` has fewer than `needed` bytes left."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        figures = (
            f"{name} needs {in_words(needed)} more in {folder}, but only {in_words(free)} are free."
        )
        raise DiskFull(hint=f"{figures} {_ROOM_HINT}")


def in_words(size: int) -> str:
    """Format a number of bytes."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"


@contextmanager
def room_errors(name: str) -> Generator[None]:
    """Convert errors of a full disk into DiskFull."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull(name, _ROOM_HINT) from error
        raise


def _change(folder: Path, file: FileRecord) -> str | None:
    path = folder / file.path
    size = path.stat().st_size
    if size != file.size:
        problem = "truncated" if size < file.size else "too long"
        return f"is {problem}: it has {size} bytes, not {file.size}"
    return None if hash_of(path, "sha256") == file.sha256 else "does not have its original sha256"


def _record(name: str, path: Path, digests: Mapping[str, str]) -> FileRecord:
    """Return the record of a file; its hash is reused if it was just computed."""
    digest = digests.get(name) or hash_of(path, "sha256")
    return FileRecord(path=name, size=path.stat().st_size, sha256=digest, published=name in digests)
