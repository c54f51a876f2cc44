"""JSON schemas of events, from their classes, and of records and `--json`, from tests/golden.

Tests compare the files in tests/golden with those that pv writes.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePosixPath
from types import NoneType
from typing import Any, cast, get_args, get_origin, get_type_hints

from pvtool_core.store.events import EVENTS, Event

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_JSON_TYPES: dict[Any, str] = {
    str: "string",
    PurePosixPath: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    NoneType: "null",
}
_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_RECORDS = ("status.json", "exit.json", "checkpoints/step-000002/manifest.json")


def schema_of(shape: Any) -> dict[str, Any]:
    """Return the JSON schema of a recorded structure.

    A value recorded as null may have any type.
    """
    if isinstance(shape, Mapping):
        properties = {
            name: schema_of(value) for name, value in cast("Mapping[str, Any]", shape).items()
        }
        return {"type": "object", "properties": properties, "required": sorted(properties)}
    if isinstance(shape, list):
        items = cast("list[Any]", shape)
        return {"type": "array", **({"items": schema_of(items[0])} if items else {})}
    return {"type": _TYPES[shape]} if shape in _TYPES else {}


def event_schemas() -> dict[str, dict[str, Any]]:
    """Return the schema of each type of event, by its name, from the classes of events."""
    return {name: _event_schema(cls) for name, cls in sorted(EVENTS.items())}


def _event_schema(cls: type[Event]) -> dict[str, Any]:
    """Return the schema of the JSON objects of a class of events, described by its docstring."""
    properties = _properties(cls)
    required = [one.name for one in fields(cls) if "omitted" not in one.metadata]
    schema: dict[str, Any] = {
        "type": "object",
        "description": inspect.cleandoc(cls.__doc__ or ""),
        "properties": {"type": {"const": cls.type}, **properties},
    }
    for spread in properties.keys() & {"scalars", "values"}:  # fields of their own
        del properties[spread]
        del schema["properties"][spread]
        required.remove(spread)
        schema["additionalProperties"] = {"type": ["number", "null"]} if spread == "scalars" else {}
    return {**schema, "required": sorted(["type", *required])}


def _properties(cls: type) -> dict[str, dict[str, Any]]:
    hints = get_type_hints(cls)
    return {one.name: _value_schema(hints[one.name]) for one in fields(cls)}


def _value_schema(hint: Any) -> dict[str, Any]:
    """Return the schema of a field by its annotation."""
    if get_origin(hint) is tuple:
        return {"type": "array", "items": _value_schema(get_args(hint)[0])}
    if is_dataclass(hint):
        properties = _properties(cast("type", hint))
        return {"type": "object", "properties": properties, "required": sorted(properties)}
    if get_origin(hint) is Mapping:
        values = _value_schema(get_args(hint)[1])
        return {"type": "object", "additionalProperties": values}
    if args := get_args(hint):
        return {"type": [_JSON_TYPES.get(arg, "object") for arg in args]}
    return {"type": _JSON_TYPES[hint]} if hint in _JSON_TYPES else {}


def command_schemas() -> dict[str, dict[str, Any]]:
    """Return the schema of the objects that each command prints with `--json`, by command line."""
    recorded = _golden("cli-json")
    error = _golden("cli-error")["runs show nobody"]
    return {
        **{
            f"pv {words} --json": _merged([schema_of(shape) for shape in shapes])
            for words, shapes in recorded.items()
        },
        "any command that fails": schema_of(error),
    }


def record_schemas() -> dict[str, dict[str, Any]]:
    """Return the schemas of the JSON files of a run folder and of sidecars, by file name."""
    run = _golden("training-run")
    schemas = {name: schema_of(run[name]) for name in _RECORDS}
    return {**schemas, "sidecar of a clip": schema_of(_golden("batch")["sidecar"])}


def events() -> str:
    """Return the schemas of events as Markdown."""
    return _blocks(event_schemas())


def commands() -> str:
    """Return the schemas of `--json` as Markdown."""
    return _blocks(command_schemas())


def records() -> str:
    """Return the schemas of records as Markdown."""
    return _blocks(record_schemas())


def run_files() -> str:
    """Return the files of a recorded run, as a code block."""
    return "```text\n" + "\n".join(_golden("training-run")["files"]) + "\n```"


def event_document() -> dict[str, Any]:
    """Return one schema that any event fulfils."""
    return {"$schema": DIALECT, "title": "pv event", "oneOf": list(event_schemas().values())}


def _golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def _merged(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the schema itself, or a choice between several different ones."""
    different = [schema for i, schema in enumerate(schemas) if schema not in schemas[:i]]
    return different[0] if len(different) == 1 else {"oneOf": different}


def _blocks(schemas: Mapping[str, dict[str, Any]]) -> str:
    """Return a collapsed block for each schema."""
    return "\n\n".join(
        f'??? info "`{name}`"\n\n    ```json\n{_indented(schema)}\n    ```'
        for name, schema in schemas.items()
    )


def _indented(schema: dict[str, Any]) -> str:
    lines = json.dumps(schema, indent=2, ensure_ascii=False).splitlines()
    return "\n".join(f"    {line}" for line in lines)
