"""Settings by name: `section.key=value` words, keys and help texts."""

import types
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from pvtool_core.errors import Mistake, SettingsError
from pvtool_core.settings.schema import Settings, shortened
from pvtool_core.settings.toml import WORDS, Table, hints, read_value, unknown
from pvtool_core.untrusted import parse_toml


def parse_overrides(assignments: Iterable[str]) -> Table:
    """Parse `section.key=value` arguments into nested tables, typed by their settings.

    Raises SettingsError with every unknown key and invalid value.
    """
    table: Table = {}
    mistakes: list[Mistake] = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        section, _, name = key.strip().partition(".")
        hint, limits = _setting(section, name)
        if not equals:
            mistakes.append(Mistake(assignment, "is not of the form section.key=value"))
        elif hint is None:
            mistakes.append(Mistake(key.strip(), unknown(key.strip(), setting_keys())))
        else:
            value = _parse_text(hint, text.strip(), key.strip(), mistakes)
            if value is not None:
                read_value(hint, value, key.strip(), limits, mistakes)
            table.setdefault(section, {})[name] = value
    if mistakes:
        raise SettingsError(mistakes, "--set")
    return table


def check_setting(key: str, value: Any, mistakes: list[Mistake]) -> None:
    """Check the value of `section.key`, as read from TOML, and add its mistakes."""
    section, _, name = key.partition(".")
    hint, limits = _setting(section, name)
    if hint is None:
        mistakes.append(Mistake(key, unknown(key, setting_keys())))
    else:
        read_value(hint, value, key, limits, mistakes)


def setting_keys() -> list[str]:
    """Return every `section.key`."""
    return [f"{section}.{name}" for section, cls in hints(Settings).items() for name in hints(cls)]


def setting_help() -> dict[str, str]:
    """Return the description of each `section.key`."""
    sections: dict[str, Any] = hints(Settings)
    return {
        f"{section}.{field.name}": field.metadata["help"]
        for section, cls in sections.items()
        for field in fields(cls)
    }


def _setting(section: str, name: str) -> tuple[Any, Mapping[str, Any]]:
    """Return type and limits of a setting; the type is None for an unknown one."""
    cls = hints(Settings).get(section)
    metadata = {field.name: field.metadata for field in fields(cls)} if cls else {}
    return (hints(cls)[name], metadata[name]) if name in metadata else (None, {})


def _parse_text(hint: Any, text: str, key: str, mistakes: list[Mistake]) -> Any:
    if hint is str:
        return text
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ValueError:
        wanted = (
            "a list such as [1, 2]"
            if isinstance(hint, types.GenericAlias)
            else WORDS.get(hint, "a value")
        )
        mistakes.append(Mistake(key, f"is {shortened(text)!r}, not {wanted}"))
        return None
    return value
