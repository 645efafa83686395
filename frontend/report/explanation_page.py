"""The page of an `Explanation`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from weft.graph.ir import Graph

from .graph_view import graph_view
from .markup import Child, Markup, join, tag
from .page import details, label, page, section, source, table
from .units import milliseconds

if TYPE_CHECKING:
    from weft.frontend.explanation import ExplainedPass, Explanation, Note

__all__ = ["explanation_page", "plan_sections"]


def explanation_page(explanation: Explanation) -> str:
    """The whole page: the graph before and after, the predictions, and what each pass did."""
    links = [
        ("before", "As written"),
        ("after", "After all passes"),
        ("nodes", "Nodes"),
        ("passes", "Passes"),
    ]
    return page(
        f"How program {explanation.program} is optimized",
        tag("p", _summary(explanation)),
        contents(links),
        list(plan_sections(explanation)),
    )


def contents(links: Iterable[tuple[str, str]]) -> Markup:
    """Links to the sections of a page, by anchor and title."""
    items = [tag("li", tag("a", title, href=f"#{anchor}")) for anchor, title in links]
    return tag("nav", tag("ul", items), aria_label="Sections")


def plan_sections(explanation: Explanation) -> Iterator[Markup]:
    """The sections on a program, for the page of a run of it too."""
    written, *passes = explanation.passes
    yield section("The graph as written", graph_view(written.graph, "The graph as written"), anchor="before")
    final = explanation.final.graph
    name = "The graph after all passes"
    yield section(
        name, *_legend(explanation), graph_view(final, name, explanation.predictions), anchor="after"
    )
    yield section("The nodes after all passes", _nodes(explanation), anchor="nodes")
    yield section("The passes", [_pass(step) for step in passes], anchor="passes")


def _summary(explanation: Explanation) -> str:
    written, final = explanation.passes[0].graph, explanation.final.graph
    took = sum(step.milliseconds for step in explanation.passes)
    text = (
        f"{_count(written)} as written, {_count(final)} after {len(explanation.passes) - 1} passes, "
        f"which took {milliseconds(took)}."
    )
    if not explanation.predictions:
        return text
    predicted = milliseconds(explanation.milliseconds)
    return f"{text} A run is predicted to take {predicted} if no engine ever makes it wait."


def _count(graph: Graph) -> str:
    return f"{len(graph.nodes)} node{'' if len(graph.nodes) == 1 else 's'}"


def _legend(explanation: Explanation) -> Iterator[Markup]:
    if explanation.predictions:
        yield tag(
            "p",
            "Each node with its predicted start and finish. The critical path is drawn in red: the run ends "
            "earlier only if something on it does.",
            class_="soft",
        )


def _nodes(explanation: Explanation) -> Markup:
    columns = ["node", "operands", "source", "starts", "ends", "critical", "objective", "depth"]
    return table("Nodes after all passes", columns, _node_rows(explanation), {"starts", "ends", "depth"})


def _node_rows(explanation: Explanation) -> Iterator[Sequence[Child]]:
    for node in explanation.final.graph:
        prediction = explanation.predictions.get(node.id)
        operands = ", ".join(f"{name} = {value}" for name, value in node.args.items())
        place: tuple[Child, ...] = ("", "", "", "", "")
        if prediction is not None:
            place = (
                milliseconds(prediction.start_ms),
                milliseconds(prediction.finish_ms),
                tag("span", "yes", class_="yes") if prediction.critical else "no",
                prediction.objective,
                prediction.depth,
            )
        yield (label(node.label()), label(operands), source(node.location), *place)


def _pass(step: ExplainedPass) -> Markup:
    title = tag("h3", step.name, " ", tag("span", milliseconds(step.milliseconds), class_="soft"))
    return join(
        title,
        tag("p", step.summary),
        _notes(f"What {step.name} changed", "change", step.changes),
        _notes(f"What {step.name} left alone", "left alone because", step.refusals),
        details(f"The graph after {step.name}", graph_view(step.graph, f"The graph after {step.name}")),
    )


def _notes(name: str, column: str, notes: Sequence[Note]) -> Markup:
    if not notes:
        return Markup("")
    rows = ((label(f"%{note.node}"), note.text, note.rule, source(note.location)) for note in notes)
    return join(tag("p", tag("strong", name)), table(name, ["node", column, "rule", "source"], rows))
