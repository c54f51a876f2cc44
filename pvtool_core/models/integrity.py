"""Whether model files are what they are called, and whole: looked at from the outside, nothing is loaded into memory.

Pickles are the exception: only torch can say whether one holds nothing but tensors, in a process of its own.
"""

import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

PART = ".part"
"""How the name of a file ends that has not wholly come."""
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_LARGEST_HEADER = 100 * 2**20
_CHUNK = 2**22
# Parts of a pipeline that may be named in model_index.json and left out of the folder.
_OPTIONAL = {"safety_checker", "feature_extractor", "image_encoder"}


def problem_of(path: Path) -> str | None:
    """What is wrong with a file of that suffix, as a phrase that follows its name; None if nothing is seen."""
    check = _CHECKS.get(path.suffix)
    return check(path) if check else None


def problems_of(files: Mapping[str, Path]) -> dict[str, str]:
    """What is wrong with the files of a model, by their path in it; pickles are tried only where nothing else is."""
    found = {name: problem for name, path in files.items() if (problem := problem_of(path))}
    return found or _pickle_problems(files)


def missing_parts(files: Mapping[str, Path]) -> list[str]:
    """Paths that the files of a model speak of and that are not among them: parts of a pipeline, shards of weights."""
    there = {str(parent) for name in files for parent in (PurePosixPath(name), *PurePosixPath(name).parents)}
    spoken = (part for name, path in files.items() for part in _spoken_of(PurePosixPath(name), path))
    return sorted({part for part in spoken if part not in there})


def _pickle_problems(files: Mapping[str, Path]) -> dict[str, str]:
    """Which of `files` are pickles that hold more than tensors; all are tried in one process of the engine's side."""
    pickles = {name: path for name, path in files.items() if path.suffix in PICKLES}
    if not pickles:
        return {}
    words = [sys.executable, "-P", "-m", "pvtool_core.models.pickles", *map(str, pickles.values())]
    asked = subprocess.run(words, capture_output=True, text=True, check=True)
    answers: dict[str, str] = json.loads(asked.stdout.splitlines()[-1])
    return {name: answers[str(path)] for name, path in pickles.items() if str(path) in answers}


def digest_of(path: Path, algorithm: str) -> str:
    """Hex digest of a file; `git` is how git, and so the hub, names small files."""
    with path.open("rb") as file:
        if algorithm != "git":
            return hashlib.file_digest(file, algorithm).hexdigest()
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        return digest.hexdigest()


def _spoken_of(name: PurePosixPath, path: Path) -> Iterable[str]:
    """Parts that model_index.json names, shards that an index names."""
    if not name.name.endswith(("model_index.json", ".index.json")):
        return
    table: Any = json.loads(path.read_bytes())
    if name.name == "model_index.json":
        yield from (str(name.parent / part) for part, value in table.items() if _is_part(part, value))
    else:
        yield from (str(name.parent / shard) for shard in table.get("weight_map", {}).values())


def _is_part(name: str, value: Any) -> bool:
    return isinstance(value, list) and value != [None, None] and name not in _OPTIONAL


def _check_json(path: Path) -> str | None:
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return "is no JSON, or is truncated"
    return None


def _check_safetensors(path: Path) -> str | None:
    """The header says where each tensor ends, and so how long the file must be."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= _LARGEST_HEADER:
            return "is no safetensors file"
        text = file.read(length)
    if len(text) < length:
        return "is truncated" if text.startswith(b"{") else "is no safetensors file"
    try:
        header: dict[str, Any] = json.loads(text)
        end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
        wanted = 8 + length + int(end)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError):
        return "is no safetensors file"
    if size < wanted:
        return f"is truncated: {size} of {wanted} bytes are there"
    return None if size == wanted else f"is {size - wanted} bytes longer than its header says"


def _check_onnx(path: Path) -> str | None:
    """ONNX is a protobuf message: fields that each say their length must end where the file ends."""
    size = path.stat().st_size
    if not size:
        return "is empty"
    with path.open("rb") as file:
        while file.tell() < size:
            if (kind := _varint(file)) is None:
                return "is truncated"
            if kind >> 3 not in range(1, 27) or kind & 7 not in (0, 1, 2, 5):
                return "is no ONNX file"
            if not _skip(file, kind & 7) or file.tell() > size:
                return "is truncated"
    return None


def _skip(file: BinaryIO, wire_type: int) -> bool:
    length = {1: 8, 5: 4}.get(wire_type)
    if length is None:
        length = _varint(file)
        if wire_type == 0:
            return length is not None
    if length is None:
        return False
    file.seek(length, os.SEEK_CUR)
    return True


def _varint(file: BinaryIO) -> int | None:
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None


_CHECKS: dict[str, Callable[[Path], str | None]] = {
    ".json": _check_json,
    ".safetensors": _check_safetensors,
    ".onnx": _check_onnx,
}
