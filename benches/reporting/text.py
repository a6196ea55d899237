"""Figures, sizes and tables as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def figure(value: float | None) -> str:
    """Three digits that matter; nothing for nothing."""
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def size(count: float) -> str:
    """Bytes in the largest unit that leaves a number of one or more."""
    unit = 0
    while count >= 1024 and unit < len(UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.3g} {UNITS[unit]}"


def verdict(value: float, budget: float | None) -> str:
    """Say in a word how a measure stands to a budget that it should not exceed."""
    if budget is None:
        return ""
    return "kept" if value <= budget else f"**missed by {100 * (value / budget - 1):.0f} %**"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a table. A column whose title ends in `>` is set to the right."""
    titles = [title.removesuffix(">") for title in columns]
    rule = "|".join("--:" if title.endswith(">") else "---" for title in columns)
    return [f"| {' | '.join(titles)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)]


def paragraph(*sentences: str) -> list[str]:
    """Fill sentences into lines."""
    return textwrap.wrap(" ".join(sentences), 120, break_long_words=False, break_on_hyphens=False)


def picture(name: str, title: str) -> list[str]:
    """Show a plot of `docs/plots`."""
    return ["", f"![{title}](docs/plots/{name}.svg)", ""]
