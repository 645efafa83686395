"""Reports as commands write them: text, JSON, Mermaid, a page for a browser, or a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from weft.frontend.client import Run
from weft.frontend.explanation import Explanation
from weft.frontend.report import RunReport

from .output import ERRORS, OUTPUT, print_json
from .problems import UsageProblem

__all__ = ["HtmlOption", "MermaidOption", "write_page", "write_report", "write_trace"]

HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a page for a browser; it needs no network."),
]
MermaidOption = Annotated[bool, typer.Option("--mermaid", help="Write Mermaid diagrams.")]


def write_report(report: Explanation | RunReport, *, html: Path | None, mermaid: bool, as_json: bool) -> None:
    """Write a report in the form that was asked for, else as text. Raises UsageProblem."""
    if html is not None:
        write_page(report, html)
    elif as_json:
        print_json(report.json())
    else:
        OUTPUT.out(report.mermaid() if mermaid else str(report), highlight=False)


def write_page(report: Explanation | RunReport, file: Path) -> None:
    """Write the page of a report. Raises UsageProblem if the file cannot be written."""
    try:
        report.html(file)
    except OSError as problem:
        raise UsageProblem(f"the page cannot be written to {str(file)!r}: {problem.strerror}") from None
    ERRORS.print(f"page: {file} (open it in a browser)", markup=False)


def write_trace(run: Run[Any], file: Path) -> None:
    """Write the trace of a run that is over. Raises UsageProblem if the file cannot be written."""
    try:
        file.write_text(json.dumps(run.trace()), encoding="utf-8")
    except OSError as problem:
        raise UsageProblem(f"the trace cannot be written to {str(file)!r}: {problem.strerror}") from None
    ERRORS.print(f"trace: {file} (open it at https://ui.perfetto.dev)", markup=False)
