"""What all pages are made of: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape

from .markup import Child, Markup, join, tag
from .style import STYLE
from .units import brief_location

__all__ = [
    "code",
    "details",
    "figure",
    "framed",
    "label",
    "legend",
    "page",
    "section",
    "source",
    "swatch",
    "table",
]


def page(title: str, *content: Child) -> str:
    """A whole document."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    body = tag("body", tag("main", tag("h1", title), *content))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def framed(document: str, title: str) -> str:
    """A document as a part of another one, such as a notebook, whose styles it leaves alone."""
    style = "width: 100%; height: 42rem; border: 0"
    return f'<iframe title="{escape(title)}" style="{style}" srcdoc="{escape(document)}"></iframe>'


def section(title: str, *content: Child, anchor: str) -> Markup:
    """A part of a page that can be linked to."""
    return tag("section", tag("h2", title, id=anchor), *content, aria_labelledby=anchor)


def figure(drawing: Markup, name: str, *caption: Child) -> Markup:
    """A drawing that scrolls in a box of its own, by keyboard too."""
    box = tag("div", drawing, class_="scroll", tabindex=0, role="region", aria_label=name)
    return tag("figure", box, tag("figcaption", *caption) if caption else "")


def code(text: str, name: str) -> Markup:
    """Lines of text that scroll in a box of their own."""
    return tag("div", tag("pre", text), class_="scroll", tabindex=0, role="region", aria_label=name)


def details(summary: Child, *content: Child, shown: bool = False) -> Markup:
    """What is shown when the reader asks for it."""
    return tag("details", tag("summary", summary), *content, open_=shown)


def legend(entries: Iterable[tuple[str, str]]) -> Markup:
    """What colours mean: of each the class that has it, and the words."""
    items = [tag("li", swatch(name), text) for name, text in entries]
    return tag("ul", items, class_="legend")


def swatch(name: str) -> Markup:
    """A small area in the colour of a class."""
    return tag("span", class_=f"swatch {name}", aria_hidden="true")


def label(text: str) -> Markup:
    """How a node is called, or a part of what it says."""
    return tag("code", text)


def source(location: str) -> Markup:
    """A place in the source, in full where the pointer rests on it."""
    return tag("code", brief_location(location), title=location) if location else Markup("")


def table(
    name: str, columns: Sequence[str], rows: Iterable[Sequence[Child]], numeric: Collection[str] = ()
) -> Markup:
    """A table; on narrow screens each row stands as a block, with the names of the columns before the cells.

    Roles are given in full because blocks would lose those that tables have by nature.
    """
    kinds = ["number" if column in numeric else None for column in columns]
    heads = [
        tag("th", column, scope="col", role="columnheader", class_=kind)
        for column, kind in zip(columns, kinds, strict=True)
    ]
    lines = (
        [
            tag("td", tag("div", cell), role="cell", class_=kind, data_label=column)
            for column, kind, cell in zip(columns, kinds, row, strict=True)
        ]
        for row in rows
    )
    body = join(tag("tr", line, role="row") for line in lines)
    whole = tag(
        "table",
        tag("thead", tag("tr", heads, role="row"), role="rowgroup"),
        tag("tbody", body, role="rowgroup"),
        role="table",
        aria_label=name,
    )
    return tag("div", whole, class_="table")
