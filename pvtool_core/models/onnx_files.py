"""External weight files of ONNX models, such as `rec.onnx.data`, without loading the model."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pvtool_core.models.registry import is_inside

# Fields of ONNX's protobuf messages that lead to tensors.
_MODEL: Final = {7: "graph", 20: "training", 25: "function"}
_TRAINING: Final = {1: "graph", 2: "graph"}
_GRAPH: Final = {1: "node", 5: "tensor", 15: "sparse"}
_SPARSE: Final = {1: "tensor", 2: "tensor"}
_FUNCTION: Final = {7: "node"}
_NODE: Final = {5: "attribute"}
_ATTRIBUTE: Final = {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"}
_FIELDS: Final = {
    "model": _MODEL,
    "training": _TRAINING,
    "graph": _GRAPH,
    "sparse": _SPARSE,
    "function": _FUNCTION,
    "node": _NODE,
    "attribute": _ATTRIBUTE,
}
_DEEPEST = 40
_EXTERNAL = 13


_INVALID = "has an invalid location for its weights"


class InvalidPlaces(ValueError):
    """An ONNX model with an invalid location of tensors."""


@dataclass(frozen=True)
class External:
    """Location of a tensor in another file, relative to the model's folder.

    `length` 0 means that it is not given.
    """

    location: str
    offset: int
    length: int


def external_data(onnx: Path) -> list[External]:
    """Return the external locations of a model's tensors.

    Raises ValueError if the file is unreadable.
    """
    if not onnx.stat().st_size:
        return []
    with onnx.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return list(_tensors(content, 0, len(content), "model", 0))


def external_files(onnx: Path) -> list[str]:
    """Return the names of a model's external files; none for a file that is not ONNX."""
    try:
        return sorted({each.location for each in external_data(onnx)})
    except (ValueError, FileNotFoundError):
        return []


def external_problem(onnx: Path) -> str | None:
    """Return the problem of a model's external files as a phrase, except missing files."""
    try:
        found = external_data(onnx)
    except InvalidPlaces as error:
        return str(error)
    except ValueError:  # invalid ONNX files are reported elsewhere
        return None
    for each in found:
        if not is_inside(each.location):
            return f"has its weights in a file outside its folder: {each.location[:80]!r}"
        path = onnx.parent / each.location
        if not path.exists():
            continue
        if not path.is_file():
            return f"keeps its weights in {each.location}, which is not a regular file"
        if not _is_beside(each.location, path, onnx):
            return f"keeps its weights in {each.location}, which is a link out of its folder"
        if path.stat().st_size < each.offset + each.length:
            return f"keeps its weights in {each.location}, which is truncated"
    return None


def missing_external(onnx: Path) -> list[str]:
    """Return the names of files with a model's tensors that are not beside it."""
    return [name for name in external_files(onnx) if not (onnx.parent / name).is_file()]


def _is_beside(location: str, path: Path, onnx: Path) -> bool:
    """Return whether a file is in the model's folder and not a link.

    If the model is a link itself, both targets must share a folder.
    """
    return path.resolve() == onnx.resolve().parent / location


def _tensors(content: mmap.mmap, start: int, end: int, kind: str, depth: int) -> Iterator[External]:
    if depth > _DEEPEST:
        raise InvalidPlaces("is nested too deeply")
    if kind == "tensor":
        if found := _external_of(content, start, end):
            yield found
        return
    known = _FIELDS[kind]
    for number, first, last in _fields(content, start, end):
        if number in known:
            yield from _tensors(content, first, last, known[number], depth + 1)


def _external_of(content: mmap.mmap, start: int, end: int) -> External | None:
    entries = [
        _entry(content, first, last)
        for number, first, last in _fields(content, start, end)
        if number == _EXTERNAL
    ]
    about = dict(entries)
    if "location" not in about:
        return None
    numbers = [about.get(key, "0") for key in ("offset", "length")]
    if not all(number.isdecimal() and len(number) < 20 for number in numbers):
        raise InvalidPlaces(_INVALID)
    return External(about["location"], int(numbers[0]), int(numbers[1]))


def _entry(content: mmap.mmap, start: int, end: int) -> tuple[str, str]:
    """Return a key and its value."""
    try:
        texts = {
            number: content[first:last].decode()
            for number, first, last in _fields(content, start, end)
        }
    except UnicodeDecodeError as error:
        raise InvalidPlaces(_INVALID) from error
    return texts.get(1, ""), texts.get(2, "")


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, first byte and end of each field with a length; other fields are skipped."""
    at = start
    while at < end:
        tag, at = _varint(content, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == 2:
            length, at = _varint(content, at, end)
            if at + length > end:
                raise ValueError("is truncated")
            yield number, at, at + length
            at += length
        elif wire == 0:
            _, at = _varint(content, at, end)
        elif wire in {1, 5}:
            at += 8 if wire == 1 else 4
        else:
            raise ValueError("is not an ONNX file")


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("is truncated")
