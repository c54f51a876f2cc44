"""Check that model files are complete and of the right format, without loading them.

Pickles are the exception: torch checks in a separate process whether they contain only tensors.
"""

import json
import math
import os
import re
import struct
import subprocess
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from pvtool_core.models.onnx_files import external_files, external_problem

PART = ".part"
"""Suffix of an incomplete file."""
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_LARGEST_HEADER = 100 * 2**20
_INDEX = re.compile(r"\.index(\.\w+)?\.json$")
_LARGEST_JSON = 128 * 2**20
_NOT_SAFETENSORS = "is not a safetensors file"
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(
        ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8
    ),
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
"""Bits of a number by its format in safetensors."""
_CHUNK = 2**22
# Parts of a pipeline that can be in model_index.json and missing in the folder.
_OPTIONAL = {"safety_checker", "feature_extractor", "image_encoder"}


def problem_of(path: Path) -> str | None:
    """Return the problem of a file of this suffix, as a phrase after its name; None if valid."""
    if not path.is_file():  # a pipe or a device could be endless
        return "is not a regular file"
    check = _CHECKS.get(path.suffix)
    return check(path) if check else None


def problems_of(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the problems of a model's files by their path.

    Pickles are checked only if no other file has problems.
    """
    found = {name: problem for name, path in files.items() if (problem := problem_of(path))}
    return found or _pickle_problems(files)


def missing_parts(files: Mapping[str, Path]) -> list[str]:
    """Return missing paths that the files of a model refer to: components, shards of weights."""
    there = {
        str(parent)
        for name in files
        for parent in (PurePosixPath(name), *PurePosixPath(name).parents)
    }
    spoken = (
        part for name, path in files.items() for part in _spoken_of(PurePosixPath(name), path)
    )
    return sorted({part for part in spoken if part not in there})


def _pickle_problems(files: Mapping[str, Path]) -> dict[str, str]:
    """Return which of `files` are pickles with more than tensors, with one process for all."""
    pickles = {name: path for name, path in files.items() if path.suffix in PICKLES}
    if not pickles:
        return {}
    words = [sys.executable, "-P", "-m", "pvtool_core.models.pickles", *map(str, pickles.values())]
    checked = subprocess.run(words, capture_output=True, text=True, check=False)
    if checked.returncode:  # a file that crashes the process that reads it
        return dict.fromkeys(pickles, "does not load as a file of tensors")
    answers: dict[str, str] = json.loads(checked.stdout.splitlines()[-1])
    return {name: answers[str(path)] for name, path in pickles.items() if str(path) in answers}


def _spoken_of(name: PurePosixPath, path: Path) -> Iterable[str]:
    """Return paths in model_index.json, shards in an index, and external files of an ONNX model."""
    if name.suffix == ".onnx":
        yield from (str(name.parent / file) for file in external_files(path))
    if name.name != "model_index.json" and not _INDEX.search(name.name):
        return
    try:
        table = read_table(path)
        _check_weight_map(path, table)
    except ValueError:  # reported by `problem_of`
        return
    if name.name == "model_index.json":
        yield from (
            str(name.parent / part) for part, value in table.items() if _is_part(part, value)
        )
    else:
        yield from (str(name.parent / shard) for shard in table.get("weight_map", {}).values())


def _is_part(name: str, value: Any) -> bool:
    return isinstance(value, list) and value != [None, None] and name not in _OPTIONAL


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises ValueError if it is invalid, too large or too deep.
    """
    with path.open("rb") as file:
        content = file.read(_LARGEST_JSON + 1)
    if len(content) > _LARGEST_JSON:
        raise ValueError(f"is larger than {_LARGEST_JSON >> 20} MiB")
    return _parsed(content, "is not JSON, or is truncated")


def read_table(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises ValueError for other values."""
    table = read_json(path)
    if not isinstance(table, dict):
        raise ValueError("is not a JSON object")
    return typing.cast("dict[str, Any]", table)


def _parsed(content: bytes, otherwise: str) -> Any:
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("is JSON that is nested too deeply") from error
    except ValueError as error:
        raise ValueError(otherwise) from error


def _check_json(path: Path) -> str | None:
    try:
        table = read_json(path)
        if path.name == "model_index.json" or _INDEX.search(path.name):
            read_table(path)
            _check_weight_map(path, table)
    except ValueError as error:
        return str(error)
    return None


def _check_weight_map(path: Path, table: dict[str, Any]) -> None:
    """Raise ValueError if the shards in an index are not file names."""
    shards = table.get("weight_map", {}) if path.name != "model_index.json" else {}
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        raise ValueError("has an invalid weight_map")


class Header(NamedTuple):
    """The header of a .safetensors file: shapes of its tensors by name, and its metadata."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Return the header of a .safetensors file.

    As the format requires, tensors fill the rest of the file: no gap, no overlap, nothing after the
    last one. Raises ValueError, a phrase that follows the file name.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= _LARGEST_HEADER:
            raise ValueError(_NOT_SAFETENSORS)
        text = file.read(length)
    if len(text) < length:
        raise ValueError("is truncated" if text.startswith(b"{") else _NOT_SAFETENSORS)
    table: Any = _parsed(text, _NOT_SAFETENSORS)
    if not isinstance(table, dict):
        raise ValueError(_NOT_SAFETENSORS)
    known = typing.cast("dict[str, Any]", table)
    metadata = known.pop("__metadata__", None) or {}
    if not _is_metadata(metadata):
        raise ValueError("has invalid metadata: it must map text to text")
    tensors = {name: _tensor_of(name, entry) for name, entry in known.items()}
    _check_places(tensors, size - 8 - length, size)
    return Header({name: shape for name, (shape, _, _) in tensors.items()}, metadata)


def _is_metadata(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]


def _tensor_of(name: str, entry: Any) -> tuple[tuple[int, ...], int, int]:
    """Return shape, first byte and end of a tensor. Raises ValueError."""
    try:
        kind, shape, places = entry["dtype"], entry["shape"], entry["data_offsets"]
        first, end = places
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(_NOT_SAFETENSORS) from error
    numbers = [*shape, first, end] if isinstance(shape, list) else [None]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers) or first > end:
        raise ValueError(f"has an invalid shape or place for the tensor {name[:80]!r}")
    bits = _BITS.get(kind) if isinstance(kind, str) else None
    if bits is None:
        raise ValueError(
            f"has an unknown number format for the tensor {name[:80]!r}: {str(kind)[:20]!r}"
        )
    if math.prod(shape) * bits != (end - first) * 8:
        raise ValueError(f"gives the tensor {name[:80]!r} more or fewer bytes than its shape has")
    return tuple(shape), first, end


def _check_places(
    tensors: Mapping[str, tuple[tuple[int, ...], int, int]], room: int, size: int
) -> None:
    """Raise ValueError unless the tensors are contiguous and end at the end of the file."""
    reached = 0
    for name, (_, first, end) in sorted(tensors.items(), key=lambda item: item[1][1:]):
        if first != reached:
            what = "overlap" if first < reached else "leave a gap"
            raise ValueError(f"is corrupt: its tensors {what} at {name[:80]!r}")
        reached = end
    if room < reached:
        raise ValueError(f"is truncated: {size} of {size - room + reached} bytes exist")
    if room > reached:
        raise ValueError(f"is {room - reached} bytes longer than its header says")


def _check_safetensors(path: Path) -> str | None:
    try:
        read_header(path)
    except ValueError as error:
        return str(error)
    return None


def _check_onnx(path: Path) -> str | None:
    """Check that the fields of the protobuf message end at the end of the file."""
    size = path.stat().st_size
    if not size:
        return "is empty"
    with path.open("rb") as file:
        while file.tell() < size:
            if (kind := _varint(file)) is None:
                return "is truncated"
            if kind >> 3 not in range(1, 27) or kind & 7 not in (0, 1, 2, 5):
                return "is not an ONNX file"
            if not _skip(file, kind & 7) or file.tell() > size:
                return "is truncated"
    return external_problem(path)


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
