"""HTML and SVG as Python values. Whatever is not markup already is text, and escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

__all__ = ["Child", "Markup", "join", "tag"]

_VOID: Final = frozenset({"meta", "rect", "path", "line", "col"})
"""Elements that have no content here."""


class Markup(str):
    """Text that is HTML or SVG already."""

    __slots__ = ()


Child = str | int | Iterable["Child"]
"""What may stand in an element: text, markup, or several of them."""


def join(*children: Child) -> Markup:
    """The markup of several children, one after the other."""
    return Markup("".join(_text(child) for child in children))


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """An element. `class_` stands for `class`, and `_` within a name for `-`.

    An attribute that is True has no value, and one that is None or False is left out. Numbers have at most
    two decimals.
    """
    shown = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID and not children:
        return Markup(f"<{name}{shown}/>")
    return Markup(f"<{name}{shown}>{join(*children)}</{name}>")


def _text(child: Child) -> str:
    if isinstance(child, Markup):
        return child
    if isinstance(child, str | int):
        return escape(str(child))
    return join(*child)


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{escape(shown)}"'
