"""The documentation site describes the current program.

`python -m tests` builds it with --strict.
"""

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import command_reference
import error_reference
import hooks
import json_reference
import settings_reference
from pvtool_core.errors import ExitStatus
from pvtool_core.paths import presets_dir
from pvtool_core.settings.schema import Settings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_pages_use_every_generator_and_no_other() -> None:
    used = [name for page in DOCS.rglob("*.md") for name in hooks.MARKER.findall(page.read_text())]
    assert sorted(used) == sorted(hooks.GENERATORS)


def test_the_command_reference_has_every_option_and_no_local_path() -> None:
    reference = command_reference.commands()
    for path, command in command_reference.walk():
        assert f"`{path}`\n" in reference
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in reference
    assert "`pv runs resume`" in reference
    assert "`--dry-run`" in reference
    assert not hooks.names_local_folder(reference)


def test_the_settings_reference_has_every_section() -> None:
    reference = settings_reference.settings()
    sections = settings_reference.section_types(Settings)
    assert {"model", "model.loras", "model.control", "training"} <= set(sections)
    assert all(f"## `[{name}]`" in reference for name in sections)
    assert "| `iterations` | `800` |" in reference


@pytest.mark.parametrize(
    "preset", sorted(presets_dir().glob("*.toml")), ids=lambda preset: preset.stem
)
def test_shipped_presets_match_the_schema(preset: Path) -> None:
    check(tomllib.loads(preset.read_text()), settings_reference.preset_schema(), preset.stem)


def check(value: Any, schema: dict[str, Any], place: str) -> None:
    """Assert that a value matches the parts of JSON schema that the preset schema uses."""
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    assert issubclass(type(value), kinds.get(schema["type"], (int, float))), place
    assert value in schema.get("enum", [value]), place
    if schema["type"] in {"integer", "number"}:
        assert schema.get("minimum", value) <= value <= schema.get("maximum", value), place
    if schema["type"] == "object":
        for key, item in value.items():
            assert key in schema["properties"], f"{place}.{key}"
            check(item, schema["properties"][key], f"{place}.{key}")
    if schema["type"] == "array":
        for item in value:
            check(item, schema["items"], place)


def test_every_error_of_the_engine_is_listed_with_its_status() -> None:
    listed = {kind.__name__ for kind in error_reference.error_types()} | {"PvError", "Reported"}
    assert {"FaceRefused", "CodecMissing"} <= listed
    for path in (ROOT / "pvtool_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                assert node.name in listed or not bases & listed, node.name
    statuses = re.findall(r"^\| `(\d+)`", error_reference.exit_statuses(), re.MULTILINE)
    assert sorted(map(int, statuses)) == sorted(ExitStatus)


def test_recorded_events_fulfil_the_schemas_of_their_classes() -> None:
    names = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
    for file in ("batch", "training-run"):
        recorded = json.loads((ROOT / f"tests/golden/{file}.json").read_text())["events"]
        for name, shape in recorded.items():
            schema = json_reference.event_schemas()[name]
            assert set(schema["required"]) <= shape.keys(), name
            for key, kind in shape.items():
                known = schema["properties"].get(key) or schema["additionalProperties"]
                if isinstance(kind, str) and "type" in known:
                    assert names[kind] in known["type"] or known["type"] == "number", (name, key)


def test_every_event_is_explained() -> None:
    page = (DOCS / "reference/events.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
    explained = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert {"run", "step", "clip"} <= set(json_reference.event_schemas()) <= explained


def test_schemas_describe_recorded_output() -> None:
    schemas = json_reference.command_schemas()
    cache = schemas["pv cache show --json"]
    assert cache["properties"]["bytes"] == {"type": "integer"}
    assert cache["properties"]["oldest_use"] == {}
    error = schemas["any command that fails"]["properties"]["error"]
    assert error["required"] == ["hint", "kind", "message", "status"]
    assert json_reference.event_schemas()["step"]["properties"]["type"] == {"const": "step"}
    assert json.loads(json.dumps(json_reference.event_document()))["oneOf"]


def test_the_glossary_is_sorted() -> None:
    rows = re.findall(r"^\| (.+?) \| .+ \|$", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert len(rows) > 40
    assert rows[1:] == sorted(rows[1:], key=str.lower)


@pytest.mark.parametrize(("text", "named"), [("{}/build", True), ("pvtool{}", False)])
def test_pages_with_a_local_path_are_recognised(text: str, named: bool) -> None:
    assert hooks.names_local_folder(f"<p>{text.format(ROOT)}</p>") is named
