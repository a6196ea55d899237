"""The parts, and the document that they make together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from reporting import budget, peers, python_rows, sizes, threads
from reporting.reasons import explain
from reporting.run import machine
from reporting.text import paragraph, table


class Part(Protocol):
    """What a module of a part offers."""

    TITLE: str
    HOW: tuple[str, ...]

    def measure(self, quick: bool) -> dict[str, Any]: ...
    def render(self, data: dict[str, Any]) -> list[str]: ...
    def missed(self, data: dict[str, Any]) -> list[tuple[str, str]]: ...
    def draw(self, data: dict[str, Any], folder: Path) -> None: ...


PARTS: dict[str, Part] = {
    "budget": budget,
    "peers": peers,
    "threads": threads,
    "sizes": sizes,
    "python": python_rows,
}
"""In the order of the document."""


def write(measured: dict[str, dict[str, Any]]) -> str:
    """Put the parts that were measured together: for each its `data` and the `moment` at which it was taken."""
    lines = ["# Benchmarks", "", "Written by `python benches/report.py`; do not edit by hand.", ""]
    missed = []
    for name, part in PARTS.items():
        if name in measured:
            data = measured[name]["data"]
            lines += [f"## {part.TITLE}", "", *part.render(data), ""]
            missed += part.missed(data)
    if missed:
        lines += ["## What was missed, and why", "", *explain(missed), ""]
    moments = [
        [name, *(measured[name]["moment"][what] for what in ("date", "commit", "load"))]
        for name in PARTS
        if name in measured
    ]
    lines += [
        "## How it was measured",
        "",
        *table(["", ""], [[name, value] for name, value in machine()]),
        "",
        *table(["part", "date", "commit", "load before it>"], moments),
        "",
        *(line for name, part in PARTS.items() if name in measured for line in [*paragraph(*part.HOW), ""]),
    ]
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.rstrip() + "\n"


def draw(measured: dict[str, dict[str, Any]], folder: Path) -> None:
    """Make the plots of the parts that were measured."""
    for name, part in PARTS.items():
        if name in measured:
            part.draw(measured[name]["data"], folder)
