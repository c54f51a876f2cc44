"""The reference of settings and presets, generated from the settings' dataclasses."""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from markdown_tables import escape, table
from pvtool_core.settings.presets import Preset, Presets
from pvtool_core.settings.schema import Settings

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def shipped_presets() -> list[Preset]:
    """Return the presets shipped with pv, without those of this machine's user."""
    with tempfile.TemporaryDirectory() as empty:
        presets = Presets(own=Path(empty))
        return [presets.get(name) for name in presets.names()]


def presets() -> str:
    """Return a table of the shipped presets."""
    rows = [
        [f"`{each.name}`", escape(each.description), escape(each.needs), escape(each.licence)]
        for each in shipped_presets()
    ]
    return table(["preset", "description", "requirements", "licence"], rows)


def settings() -> str:
    """Return a section with a table for each table of settings."""
    return "\n\n".join(
        f"## `[{name}]`\n\n{_table(kind)}" for name, kind in section_types(Settings).items()
    )


def section_types(kind: type[Any], prefix: str = "") -> dict[str, type[Any]]:
    """Return the dataclass of each table of settings, nested ones after their parents."""
    found: dict[str, type[Any]] = {}
    for name, value in get_type_hints(kind).items():
        if section := _dataclass_of(value):
            path = f"{prefix}{name}"
            found |= {path: section, **section_types(section, f"{path}.")}
    return found


def _dataclass_of(kind: Any) -> type[Any] | None:
    """Return the dataclass of a field, alone or in a tuple; None for other types."""
    item = get_args(kind)[0] if get_origin(kind) is tuple else kind
    return item if isinstance(item, type) and dataclasses.is_dataclass(item) else None


def _table(kind: type[Any]) -> str:
    hints = get_type_hints(kind)
    rows = [
        [f"`{field.name}`", _default(field), _values(field, hints[field.name]), _help(field)]
        for field in dataclasses.fields(kind)
        if not (_dataclass_of(hints[field.name]) and get_origin(hints[field.name]) is not tuple)
    ]
    return table(["key", "default", "values", "description"], rows)


def _help(field: "dataclasses.Field[Any]") -> str:
    return escape(str(field.metadata.get("help", "")))


def _default(field: "dataclasses.Field[Any]") -> str:
    value: Any = field.default
    if value is dataclasses.MISSING:
        return "required"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{list(value)}`" if get_origin(field.type) is tuple else f"`{value}`"


def _values(field: "dataclasses.Field[Any]", kind: Any) -> str:
    metadata = field.metadata
    if choices := metadata.get("choices"):
        return ", ".join(f'`"{choice}"`' for choice in choices)
    if get_origin(kind) is tuple:
        return f"list of {_TYPES.get(get_args(kind)[0], 'table')}s"
    text = _TYPES[kind]
    if metadata.get("low") is not None:
        text += f", {metadata['low']} to {metadata['high']}"
    if metadata.get("multiple_of", 1) > 1:
        text += f", multiple of {metadata['multiple_of']}"
    return text


def preset_schema() -> dict[str, Any]:
    """Return the JSON schema of a preset file, for editors that check TOML."""
    about = {key: {"type": "string"} for key in sorted(_preset_keys())}
    schema = _schema(Settings)
    schema["properties"]["preset"] = {
        "type": "object",
        "properties": about,
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pv preset",
        **schema,
    }


def _preset_keys() -> set[str]:
    names = {field.name for field in dataclasses.fields(Preset)} - {"name", "table", "own"}
    return names | {"extends"}


def _schema(kind: Any) -> dict[str, Any]:
    """Return the schema of a field's type; keys are optional, since presets can extend others."""
    if get_origin(kind) is tuple:
        return {"type": "array", "items": _schema(get_args(kind)[0])}
    if kind in _TYPES:
        return {"type": _TYPES[kind]}
    hints = get_type_hints(kind)
    properties = {
        field.name: {**_schema(hints[field.name]), **_limits(field.metadata)}
        for field in dataclasses.fields(kind)
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _limits(metadata: Mapping[Any, Any]) -> dict[str, Any]:
    limits = {
        "description": metadata.get("help"),
        "enum": list(metadata.get("choices", ())) or None,
        "minimum": metadata.get("low"),
        "maximum": metadata.get("high"),
        "multipleOf": metadata["multiple_of"] if metadata.get("multiple_of", 1) > 1 else None,
    }
    return {key: value for key, value in limits.items() if value is not None}
