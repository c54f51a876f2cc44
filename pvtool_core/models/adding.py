"""Add weights of the user: checked like downloaded ones, copied or linked."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from pvtool_core.errors import BrokenWeights, InputRefused, Missing, NameTaken, is_utf8, printable
from pvtool_core.models.base_models import check_taken_in
from pvtool_core.models.downloads import part_of
from pvtool_core.models.installed import Models, check_room, files_under, hash_problems, room_errors
from pvtool_core.models.integrity import missing_parts, problems_of
from pvtool_core.models.onnx_files import external_files
from pvtool_core.models.registry import RegistryEntry, is_inside, model_folder

_ORIGIN = "added by hand"


def add(
    models: Models, name: str, given: Sequence[Path], link: bool = False, licence: str = ""
) -> list[str]:
    """Add a folder or files as the model `name`; return the paths that are still missing.

    A model of the registry must have the registered names and hashes, and may be added file by
    file; other names accept any files. Raises Missing, BadName, NameTaken, InputRefused,
    BrokenWeights, DiskFull, Busy, OSError.
    """
    folder = model_folder(name)
    if folder.exists() or folder.is_symlink():
        raise NameTaken("a model", name, f"Remove it with `pv models remove {name}`.")
    entry = models.registry.find(name) or RegistryEntry(name=name, title="of your own", sources=())
    entry = dataclasses.replace(entry, licence=licence, terms="") if licence else entry
    files = _given_files(entry, given)
    lacking = [path for path in models.lacking(name) if path not in files]
    whole_folder = given[0].is_dir()
    if whole_folder:
        _check_complete(given[0], [*lacking, *missing_parts(files)], name)
    if problems := problems_of(files) or hash_problems(entry, files):
        words = [f"{path} {problem}" for path, problem in problems.items()]
        raise BrokenWeights(words, "Download it again, as safetensors if available.")
    if not lacking:
        check_taken_in(
            files, str(given[0]) if whole_folder else name, weights=entry.purpose != "configs"
        )
    with models.lock(name), room_errors(name):
        if link and whole_folder:
            models.root.mkdir(parents=True, exist_ok=True)
            folder.symlink_to(given[0].absolute())
            models.record(entry, _ORIGIN, entry.digests())
            return []
        _take(models, name, files, link)
        if not lacking:
            models.finish(entry, _ORIGIN, entry.digests())
    return lacking


def _given_files(entry: RegistryEntry, given: Sequence[Path]) -> dict[str, Path]:
    """Return the source of each file by its path in the model folder.

    Raises Missing, InputRefused.
    """
    if gone := [path for path in given if not path.exists()]:
        raise Missing("file or folder", str(gone[0]), "Use a local file or folder.")
    if len(given) > 1 and any(path.is_dir() for path in given):
        raise InputRefused("Several paths, one of them a folder.", "Use one folder, or only files.")
    files = files_under(given[0]) if given[0].is_dir() else _single_files(entry, given)
    if not files:
        raise InputRefused(f"No files in {given[0]}.", "Use the folder that contains the weights.")
    if wrong := next((path for path in files if not is_utf8(path)), None):
        raise InputRefused(
            f"The name of {printable(wrong, whole=True)} is not valid UTF-8.", "Rename it."
        )
    return files


def _single_files(entry: RegistryEntry, given: Sequence[Path]) -> dict[str, Path]:
    """Return single files, and for ONNX models the files with their weights.

    Raises InputRefused.
    """
    beside = {
        path.parent / name
        for path in given
        if path.suffix == ".onnx"
        for name in external_files(path)
    }
    files: dict[str, Path] = {}
    for path in given:
        if path in beside:
            continue
        place = _path_of(path, entry)
        files[place] = path
        for name in external_files(path) if path.suffix == ".onnx" else ():
            if not is_inside(name):
                words = f"{path.name} has its weights in a file outside its folder: {name[:80]!r}"
                raise BrokenWeights([words], "Export it again, with its weights beside it.")
            if not (path.parent / name).is_file():
                hint = "Put the file beside it, or export the model with external_data=False."
                raise InputRefused(
                    f"{path.name} keeps its weights in {name}, which is missing.", hint
                )
            files[str(PurePosixPath(place).parent / name)] = path.parent / name
    return files


def _path_of(file: Path, entry: RegistryEntry) -> str:
    """Return the destination of a single file: its registered path, or the top of the folder."""
    known = {PurePosixPath(path).name: path for path in entry.required()}
    if known and file.name not in known:
        hint = f"Its files are {', '.join(known)}. To add any file, use another model name."
        raise InputRefused(f"{file.name} is not a file of {entry.name}.", hint)
    return known.get(file.name, file.name)


def _check_complete(folder: Path, lacking: Sequence[str], name: str) -> None:
    if lacking:
        raise InputRefused(
            f"{folder} lacks {', '.join(lacking)}.",
            f"`pv models show {name}` lists its files.",
        )


def _take(models: Models, name: str, files: Mapping[str, Path], link: bool) -> None:
    staging = models.staging(name)
    if models.registry.find(name) is None:  # existing files are those of a killed attempt
        shutil.rmtree(staging, ignore_errors=True)
    check_room(
        models.root, 0 if link else sum(path.stat().st_size for path in files.values()), name
    )
    staging.mkdir(parents=True, exist_ok=True)
    for path, source in files.items():
        target = staging / path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(target)
        part.unlink(missing_ok=True)
        if link:
            part.symlink_to(source.absolute())
        else:
            shutil.copyfile(source, part)
        part.replace(target)
