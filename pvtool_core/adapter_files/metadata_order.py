"""Write safetensors files reproducibly: sort the metadata in their header.

The safetensors library keeps metadata in a hash map: two files with equal content can differ in the
order of its keys. Digests of such files are compared and are part of clip names, so the keys are
sorted here. Tensors already have a fixed order, and no length changes, so offsets stay valid.
"""

import json
from pathlib import Path
from typing import Any

_LENGTH_BYTES = 8  # a little-endian number in front of the header


def sort_metadata(path: Path) -> None:
    """Sort the metadata of a file by key: equal content gives equal bytes."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header = _sorted(file.read(length))
        file.seek(_LENGTH_BYTES)
        file.write(header)


def _sorted(header: bytes) -> bytes:
    """Return the header with its metadata sorted by key, at the same length."""
    entries: dict[str, Any] = json.loads(header)
    metadata = entries.pop("__metadata__", {})
    ordered = {"__metadata__": dict(sorted(metadata.items())), **entries}
    text = json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode()
    assert len(text) <= len(header), "sorting keys adds nothing"
    return text.ljust(len(header))
