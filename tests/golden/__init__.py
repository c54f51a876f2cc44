"""Recorded contracts: `compare` checks a value against a JSON file in this folder."""

import json
import os
from pathlib import Path
from typing import Any, cast

FOLDER = Path(__file__).parent


def compare(name: str, found: Any) -> None:
    """Assert that `found` equals the recorded `name`.json.

    With PV_WRITE_GOLDEN=1 it is recorded instead.
    """
    file = FOLDER / f"{name}.json"
    text = json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if os.environ.get("PV_WRITE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), (
        f"{file.name} differs: PV_WRITE_GOLDEN=1 records the new one"
    )


def shape(value: Any) -> Any:
    """Return the structure of a JSON value: keys and types, without values.

    The structure of a list is that of its first item.
    """
    if isinstance(value, dict):
        return {str(key): shape(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [shape(item) for item in list(cast("list[Any]", value))[:1]]
    return type(value).__name__
