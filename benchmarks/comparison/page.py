"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Final

from . import plots
from .measure import Row
from .summary import REFERENCE, Report, fastest, overall, ratio, reason

__all__ = ["page"]

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
td.best { font-weight: 700; }
small, .about { opacity: .75; }
code { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
svg text { font-size: 10px; fill: currentColor; }
svg .title { font-size: 12px; font-weight: 600; }
.legend span { margin-right: 1rem; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; }
.plots svg { max-width: 100%; height: auto; }
"""


def page(report: Report) -> str:
    """The table, what needs words, and the plots."""
    colours = dict(zip(report["systems"], plots.COLOURS, strict=False))
    rows = report["rows"]
    parts = [
        "<h1>weft beside what people use instead</h1>",
        _table(report),
        _words(report),
        "<h2>Latency</h2>",
        plots.legend(colours),
        _plots(_latency(row, colours) for row in rows),
        "<h2>Throughput under Poisson arrivals</h2>",
        _plots(_throughput(row, colours) for row in rows if row.get("load")),
        "<h2>Prompt tokens found in the prefix cache</h2>",
        "<p>In one more run of each system. A prompt that weft reads in pieces finds its earlier pieces.</p>",
        _hits(rows, colours),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>weft: benchmark suite</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _table(report: Report) -> str:
    systems = report["systems"]
    compared = (f"weft × {REFERENCE}",) if REFERENCE in systems else ()
    head = "".join(f"<th>{escape(name)}</th>" for name in ("workload", *systems, *compared))
    lines = "\n".join(_line(row, systems) for row in report["rows"])
    found = overall(report)
    last = "".join(f"<td>{found[name]:.2f}</td>" if name in found else "<td></td>" for name in systems)
    foot = f"<tr><td>× {REFERENCE}, median</td>{last}<td></td></tr>" if compared else ""
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{lines}\n{foot}</tbody></table>"
    return f'<div class="wide">{table}</div><p class="about">{_about(report)}</p>'


def _line(row: Row, systems: list[str]) -> str:
    best, own = fastest(row), ratio(row, "weft")
    cells = []
    for name in systems:
        found = row["systems"].get(name)
        kind = ' class="best"' if name == best else ""
        value = f"{found['p50']:.0f} <small>{found['p95']:.0f}</small>" if found else ""
        cells.append(f"<td{kind}>{value}</td>")
    title = f"{row['paper']}: {row['shape']}"
    if own is not None:
        cells.append(f"<td>{own:.2f}</td>")
    return f'<tr><td title="{escape(title)}">{escape(row["workload"])}</td>{"".join(cells)}</tr>'


def _about(report: Report) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    said = (
        "Medians of one run at a time in milliseconds, P95 smaller beside them; the best of a row is bold. "
        f"{report['machine']}, {report['date']}, model {report['model']}, {versions}."
    )
    return f"{escape(said)}<br><code>{escape(report['command'])}</code>"


def _words(report: Report) -> str:
    said: list[str] = []
    for row in report["rows"]:
        name = escape(row["workload"])
        if row["differs"]:
            found = ", ".join(f"{system} in {count}" for system, count in row["differs"].items())
            said.append(
                f"<b>{name}</b>: results differ from those of {report['systems'][0]}: {escape(found)}"
            )
        if why := reason(row):
            said.append(f"<b>{name}</b>: weft is not the fastest: {escape(why)}")
    if not said:
        return "<p>All results are equal, and weft is the fastest in every row.</p>"
    return "<ul>" + "".join(f"<li>{line}</li>" for line in said) + "</ul>"


def _plots(drawn: Any) -> str:
    found = "\n".join(drawn)
    return f'<div class="plots">{found}</div>' if found else "<p>Not measured.</p>"


def _latency(row: Row, colours: Mapping[str, str]) -> str:
    series = {name: found["ms"] for name, found in row["systems"].items()}
    return plots.cdf(row["workload"], "ms", series, colours)


def _throughput(row: Row, colours: Mapping[str, str]) -> str:
    done: dict[str, list[tuple[float, float]]] = {}
    late: dict[str, list[tuple[float, float]]] = {}
    for point in row["load"]:
        done.setdefault(point["system"], []).append((point["offered per s"], point["done per s"]))
        late.setdefault(point["system"], []).append((point["offered per s"], point["p95"]))
    name = row["workload"]
    first = plots.lines(f"{name}: runs done in a second", "runs offered in a second", "done", done, colours)
    return first + plots.lines(f"{name}: P95 latency", "runs offered in a second", "ms", late, colours)


def _hits(rows: list[Row], colours: Mapping[str, str]) -> str:
    groups = {
        row["workload"]: {name: found["hit rate"] for name, found in row["engine"].items()} for row in rows
    }
    width = 70 + 52 * len(groups)
    drawn = plots.bars("hit rate", "share", groups, colours, width=width)
    return f'<div class="wide">{drawn}</div>'
