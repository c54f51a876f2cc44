"""HTML that is escaped by construction: only `element` and `join` return markup."""

import html
from collections.abc import Iterable
from typing import TypeAlias

_VOID = frozenset(("img", "input", "meta"))


class Html(str):
    """Markup; every other string is text, and is escaped where it becomes part of markup."""

    __slots__ = ()


Attribute: TypeAlias = str | float | bool | None


def element(tag: str, *children: str, **attributes: Attribute) -> Html:
    """Return an element with its children, of which those that are not Html are escaped.

    `data_x` is written as `data-x`, and `class_` as `class`. An attribute that is True has no
    value, and one that is False or None is left out.
    """
    start = f"<{tag}{''.join(_attribute(*pair) for pair in attributes.items())}>"
    return Html(start if tag in _VOID else f"{start}{join(children)}</{tag}>")


def join(parts: Iterable[str]) -> Html:
    """Return parts one after the other, of which those that are not Html are escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    written = name.rstrip("_").replace("_", "-")
    return f" {written}" if value is True else f' {written}="{html.escape(_text(value))}"'


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
