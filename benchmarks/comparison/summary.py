"""What the rows say: ratios, the fastest system, and why weft is not it."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any, Final

from .measure import Row

__all__ = ["REFERENCE", "fastest", "merged", "overall", "reason", "text"]

Report = dict[str, Any]

REFERENCE: Final = "langgraph"
"""The system whose medians the others are compared with."""
_CLOSE: Final = 0.02  # medians that differ by less are called equal


def fastest(row: Row) -> str:
    """The system with the least median."""
    systems: Mapping[str, Any] = row["systems"]
    return min(systems, key=lambda name: float(systems[name]["p50"]))


def ratio(row: Row, system: str) -> float | None:
    """How many times as fast as the reference a system is, by medians."""
    if REFERENCE not in row["systems"] or system not in row["systems"]:
        return None
    return float(row["systems"][REFERENCE]["p50"] / row["systems"][system]["p50"])


def reason(row: Row) -> str:
    """Why weft is not the fastest, as far as what was counted tells; empty if it is, or was not run."""
    best = fastest(row)
    if best == "weft" or "weft" not in row["systems"]:
        return ""
    slower = row["systems"]["weft"]["p50"] / row["systems"][best]["p50"] - 1
    said = [f"{best} is {slower:.1%} faster" + (", which is within the noise" if slower < _CLOSE else "")]
    own, other = row["engine"]["weft"], row["engine"][best]
    more = own["computed"] - other["computed"]
    if abs(more) > 0.05 * max(own["computed"], other["computed"]):
        said.append(f"the engine read {own['computed']} tokens for weft, {other['computed']} for {best}")
    elif row["calls"] > 1:
        said.append(f"the engine read about as many tokens for both ({own['computed']}, {other['computed']})")
    if own["written"] != other["written"]:
        said.append(f"it wrote {own['written']} and {other['written']}")
    blame = sorted(own.get("blame", {}).items(), key=lambda item: -item[1])
    total = sum(ms for _, ms in blame)
    if total:
        parts = ", ".join(f"{name} {ms / total:.0%}" for name, ms in blame if ms / total >= 0.05)
        said.append(f"weft's critical path is {parts}")
    return "; ".join(said)


def overall(report: Report) -> dict[str, float]:
    """For each system the median, over the rows, of how many times as fast as the reference it is."""
    found: dict[str, float] = {}
    for system in report["systems"]:
        ratios = [value for row in report["rows"] if (value := ratio(row, system)) is not None]
        if ratios:
            found[system] = median(ratios)
    return found


def merged(older: Report, newer: Report) -> Report:
    """The rows of two reports of the same machine, model and versions; the newer's where both have one.

    Raises ValueError if they do not belong together.
    """
    for what in ("machine", "model", "seed", "systems", "versions"):
        if older[what] != newer[what]:
            raise ValueError(f"the reports differ in {what}: {older[what]!r} and {newer[what]!r}")
    measured = {row["workload"] for row in newer["rows"]}
    kept = [row for row in older["rows"] if row["workload"] not in measured]
    commands = dict.fromkeys([*older["command"].split("; "), newer["command"]])
    return newer | {"rows": kept + newer["rows"], "command": "; ".join(commands)}


def text(report: Report) -> str:
    """The table for a terminal: medians in milliseconds, P95 in brackets, ratios, then what needs words."""
    systems = report["systems"]
    lines = [_head(report), ""]
    lines.append(
        f"{'median (P95), ms':22}" + "".join(f"{name:>15}" for name in systems) + f"{'x ' + REFERENCE:>13}"
    )
    for row in report["rows"]:
        cells = "".join(f"{_cell(row, name, '*' if fastest(row) == name else ''):>15}" for name in systems)
        own = ratio(row, "weft")
        lines.append(f"{row['workload']:22}{cells}" + ("" if own is None else f"{own:13.2f}"))
    found = overall(report)
    if found:
        cells = "".join(f"{found[name]:15.2f}" if name in found else " " * 15 for name in systems)
        lines += ["", f"{'x ' + REFERENCE + ', median':22}{cells}"]
    lines += ["", *_words(report)]
    return "\n".join(lines)


def _head(report: Report) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return f"{report['machine']}, {report['date']}, model {report['model']}; {versions}\n{report['command']}"


def _cell(row: Row, system: str, mark: str) -> str:
    found = row["systems"].get(system)
    return f"{mark}{found['p50']:.0f} ({found['p95']:.0f})" if found else ""


def _words(report: Report) -> list[str]:
    lines: list[str] = []
    for row in report["rows"]:
        if row["differs"]:
            found = ", ".join(f"{name} in {count}" for name, count in row["differs"].items())
            lines.append(f"{row['workload']}: results differ from those of {report['systems'][0]}: {found}")
        if row["right"] is not None:
            lines.append(
                f"{row['workload']}: {row['right']['right']} of {row['right']['of']} answers are right"
            )
        if why := reason(row):
            lines.append(f"{row['workload']}: weft is not the fastest: {why}")
    return lines
