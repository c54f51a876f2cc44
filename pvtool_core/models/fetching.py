"""Fetch a model: find the required files, download the missing ones, and verify them before use."""

import dataclasses
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pvtool_core.errors import BrokenWeights, InputRefused, Unreachable
from pvtool_core.hashes import SHA256_DIGITS, has_digest
from pvtool_core.models.base_models import check_taken_in
from pvtool_core.models.downloads import Remote, download, part_of
from pvtool_core.models.hub import (
    check_loadable,
    check_online,
    read_repository,
    stored_as,
    wanted_files,
)
from pvtool_core.models.installed import (
    Models,
    ModelState,
    check_room,
    files_under,
    is_intact,
    room_errors,
)
from pvtool_core.models.integrity import missing_parts, problems_of
from pvtool_core.models.registry import RegistryEntry, Source, is_hub_id, model_folder


@dataclass(frozen=True)
class Listener:
    """Receives progress.

    `say` gets a message; `update` a file, and the model's bytes so far and in total.
    """

    say: Callable[[str], None]
    update: Callable[[str, int, int], None]


@dataclass(frozen=True)
class WantedFile:
    """A file to fetch, and the paths that it provides: itself, or files of a .zip archive."""

    path: str
    remote: Remote
    brings: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    entry: RegistryEntry
    origin: str
    wanted: tuple[WantedFile, ...]


def fetch(
    models: Models,
    name: str,
    listener: Listener,
    endpoint: str | None = None,
    send_token: bool = False,
) -> bool:
    """Fetch a model completely; return False if it was complete already.

    `endpoint` replaces the hub.

    The user's token is sent to the hub only, and with `send_token` also to `endpoint` or
    HF_ENDPOINT.

    Partial downloads are kept for the next call. Raises Missing, BadName, Unreachable,
    BrokenWeights, InputRefused (a linked model), DiskFull, Busy, OSError.
    """
    if models.state(name) is ModelState.HERE:
        return False
    entry = models.registry.get(name)
    if model_folder(name).is_symlink():
        raise InputRefused(
            f"{name} is a link to your folder.",
            f"`pv models remove {name}` removes the link.",
        )
    with models.lock(name), room_errors(name):
        check_online()
        plan = _plan(entry, endpoint, send_token)
        _say_licence(plan.entry, listener)
        _fetch_all(models, plan, listener)
        _check_whole(models, name, plan.entry.purpose != "configs")
        models.finish(plan.entry, plan.origin, _digests(plan))
    return True


def _plan(entry: RegistryEntry, endpoint: str | None, send_token: bool) -> _Plan:
    """Return the files to fetch and their origin; later sources take precedence.

    Raises Unreachable.
    """
    wanted: dict[str, WantedFile] = {}
    origins: list[str] = []
    for source in entry.sources:
        if source.address:
            origins.append(source.address)
            found = [_at_address(source, entry)]
        else:
            repository = read_repository(source, endpoint, send_token)
            origins.append(f"{source.hub}@{repository.commit}")
            found = _in_repository(source, entry, repository.files)
            if is_hub_id(entry.name):  # its licence is known from its card only
                forbids = "-nc" in repository.licence or "noncommercial" in repository.licence
                commercial = "no" if forbids else entry.commercial
                entry = dataclasses.replace(
                    entry, licence=repository.licence or entry.licence, commercial=commercial
                )
        wanted.update({each.path: each for each in found})
    return _Plan(entry, ", ".join(origins), tuple(wanted.values()))


def _at_address(source: Source, entry: RegistryEntry) -> WantedFile:
    name = PurePosixPath(source.address).name
    path = str(PurePosixPath(source.into, name))
    is_archive = name.endswith(".zip")
    checks = (
        {"sha256": source.sha256.lower()}
        if source.sha256
        else {}
        if is_archive
        else entry.checks(path)
    )
    brings = (
        tuple(str(PurePosixPath(source.into, file)) for file in source.files)
        if is_archive
        else (path,)
    )
    return WantedFile(path, Remote(source.address, source.size or None, checks), brings)


def _in_repository(
    source: Source, entry: RegistryEntry, there: Mapping[str, Remote]
) -> list[WantedFile]:
    names = wanted_files(source, there)
    lacking = [file for file in source.files if not set("*?[") & set(file) and file not in names]
    if lacking or not names:
        what = ", ".join(lacking) or "any weights"
        raise Unreachable(
            f"{source.hub} does not hold {what}.",
            "Its files have changed: see its page on the hub.",
        )
    check_loadable(source.hub, [stored_as(name, names) for name in names])
    found: list[WantedFile] = []
    for name in names:
        path, remote = str(PurePosixPath(source.into, stored_as(name, names))), there[name]
        checks = {**remote.checks, **entry.checks(path)}
        found.append(WantedFile(path, dataclasses.replace(remote, checks=checks), (path,)))
    return found


def _say_licence(entry: RegistryEntry, listener: Listener) -> None:
    forbids = " It forbids commercial use." if entry.commercial == "no" else ""
    listener.say(f"The licence of {entry.name}: {entry.licence_line}.{forbids}")


def _fetch_all(models: Models, plan: _Plan, listener: Listener) -> None:
    staging = models.staging(plan.entry.name)
    staging.mkdir(parents=True, exist_ok=True)
    _forget_others(staging, plan.wanted)
    lacking = [
        each
        for each in plan.wanted
        if not all(_is_here(models, plan.entry, each, path) for path in each.brings)
    ]
    total = sum(each.remote.size or 0 for each in lacking)
    archives = [each.remote.size or 0 for each in lacking if each.path not in each.brings]
    check_room(
        models.root, total + max(archives, default=0) - _begun(staging, lacking), plan.entry.name
    )
    done = 0
    for each in lacking:
        _fetch_one(
            each,
            staging,
            lambda there, done=done, file=each.path: listener.update(file, done + there, total),
        )
        done += each.remote.size or 0


def _fetch_one(wanted: WantedFile, staging: Path, report: Callable[[int], None]) -> None:
    path = staging / wanted.path
    download(wanted.remote, path, report)
    if wanted.path not in wanted.brings:
        _unpack(path, wanted.brings, staging)
        path.unlink()


def _forget_others(staging: Path, wanted: Iterable[WantedFile]) -> None:
    """Delete partial downloads of an earlier fetch that this one does not need.

    They remain if the source changed.
    """
    known = {path for each in wanted for path in (each.path, *each.brings)}
    for name, path in files_under(staging).items():
        if name.removesuffix(".part") not in known:
            path.unlink()


def _begun(staging: Path, wanted: Iterable[WantedFile]) -> int:
    parts = [part_of(staging / each.path) for each in wanted]
    return sum(part.stat().st_size for part in parts if part.is_file())


def _is_here(models: Models, entry: RegistryEntry, wanted: WantedFile, path: str) -> bool:
    """Return whether a file exists and is correct by the manifest or the published hash."""
    folder, manifest = model_folder(entry.name), models.manifest(entry.name)
    record = (
        next((file for file in manifest.files if file.path == path), None) if manifest else None
    )
    if manifest and record and is_intact(folder, record, manifest):
        return True
    alone = path == wanted.path
    checks = wanted.remote.checks if alone else entry.checks(path)
    places = [models.staging(entry.name) / path] + ([] if record else [folder / path])
    return any(_is_right(place, wanted.remote.size if alone else None, checks) for place in places)


def _is_right(path: Path, size: int | None, checks: Mapping[str, str]) -> bool:
    """Return whether a file has the published hash; without one any file is accepted."""
    if not path.is_file() or (size is not None and path.stat().st_size != size):
        return False
    return all(has_digest(path, algorithm, digest) for algorithm, digest in checks.items())


def _unpack(archive: Path, brings: Sequence[str], folder: Path) -> None:
    """Extract files from a .zip archive by name, regardless of folders. Raises BrokenWeights."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {PurePosixPath(member).name: member for member in opened.namelist()}
            for path in (folder / each for each in brings):
                path.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(members[path.name]) as source, part_of(path).open("wb") as file:
                    shutil.copyfileobj(source, file, 2**20)
                part_of(path).replace(path)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        KeyError,
        RuntimeError,
    ) as error:  # the last one: encrypted, or an unknown method
        archive.unlink()
        problem = "cannot be unpacked: it is corrupt or encrypted"
        if isinstance(error, zipfile.BadZipFile | KeyError):
            problem = f"lacks {error}" if isinstance(error, KeyError) else "is not a zip file"
        hint = "It was deleted. Add the files from another source: `pv models add NAME FILE...`."
        raise BrokenWeights([f"{archive.name} {problem}"], hint) from error


def _check_whole(models: Models, name: str, weights: bool) -> None:
    """Raise BrokenWeights for corrupt files, which are deleted, or InputRefused.

    InputRefused means another kind of model.
    """
    staged = files_under(models.staging(name))
    problems = problems_of(staged)
    for path in problems:
        staged[path].unlink()
    lacking = missing_parts({**files_under(model_folder(name)), **staged}) if not problems else []
    if problems:
        words = [f"{path} {problem}" for path, problem in problems.items()]
        raise BrokenWeights(
            words, "They were deleted. Use another source: --from, or `pv models add`."
        )
    if lacking:
        words = [f"{path}, which other files use, is missing in the repository" for path in lacking]
        raise BrokenWeights(words, "Use another source: --from, or `pv models add`.")
    check_taken_in({**files_under(model_folder(name)), **staged}, name, weights)


def _digests(plan: _Plan) -> dict[str, str]:
    """Return the published SHA-256 of each path.

    Empty if only another hash, its first digits, or that of the archive is published.
    """
    published = [(path, each) for each in plan.wanted for path in each.brings]
    found: dict[str, str] = {}
    for path, each in published:
        if each.remote.checks or plan.entry.checks(path):
            hub = each.remote.checks.get("sha256", "") if path == each.path else ""
            whole = hub if len(hub) == SHA256_DIGITS else ""
            found[path] = plan.entry.digests().get(path) or whole
    return found
