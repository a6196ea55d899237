"""Plots as small SVG files, to be read on light and on dark ground: nothing behind them, colours halfway between.

matplotlib is imported where it is used, so that `--check` needs nothing but Python.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#7d8590"
OURS = "#d1495b"
GOOD = "#2e9e6b"
COLOURS = ("#3b82c4", "#e08e2b", "#2e9e6b", "#a66bbe", "#b8862d", "#4aa8a8", "#c45b8a", "#8a8f3c", "#6f7fd1", "#c0704a")
MARKERS = "osD^vP<>Xh*"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small files, the reader's own font
    "svg.hashsalt": "s2pt",  # the same figures give the same file
    "font.size": 10,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "axes.titlecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
}


@contextmanager
def _plot(path: Path, width: float, height: float, panels: int = 1, across: int = 1) -> Iterator[list[Axes]]:
    """Open a figure of some panels in inches, and save it."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context(STYLE):
        figure: Figure = pyplot.figure(figsize=(width, height), layout="constrained")
        yield [figure.add_subplot(-(-panels // across), across, panel + 1) for panel in range(panels)]
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    # A hundredth of a point is finer than anybody sees; no figure that is printed has so many digits.
    path.write_text(re.sub(r"(\d\.\d\d)\d{3,}", r"\1", path.read_text()))


def _nanoseconds(value: float, _: object = None) -> str:
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if value >= factor:
            return f"{value / factor:g} {unit}"
    return f"{value:g} ns"


def shares(path: Path, title: str, rows: Sequence[tuple[str, float, str]]) -> None:
    """Draw a bar a row, from nothing to its share of a budget; each with what it stands for."""
    with _plot(path, 8.5, 0.34 * len(rows) + 1.0) as (axes,):
        for at, (_, share, said) in enumerate(rows):
            axes.barh(at, share, color=GOOD if share <= 1 else OURS, height=0.62)
            right = max(share, 1)  # clear of the dashed line
            axes.annotate(said, (right, at), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.axvline(1, color=GREY, linestyle="--", linewidth=1)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.15 * max(1.0, *(share for _, share, _ in rows)))
        axes.set_xlabel(f"{title} (dashed)")


def standings(
    path: Path, panels: Sequence[tuple[str, Sequence[tuple[str, dict[str, float | None]]], dict[str, float | None]]]
) -> None:
    """Draw panels of rows; in each row everybody's time, ours filled and large, and the limit as a bar."""
    most = max(len(rows) for _, rows, _ in panels)
    with _plot(path, 12, 0.36 * most * len(panels) + 1.2 * len(panels), len(panels)) as all_axes:
        for axes, (ours, rows, limits) in zip(all_axes, panels, strict=True):
            names = list(dict.fromkeys(name for _, times in rows for name in times))
            others = [name for name in names if name != ours]
            for at, (title, _) in enumerate(rows):
                limit = limits.get(title)
                if limit:
                    label = "limit of this machine" if at == 0 else None
                    axes.plot([limit] * 2, [at - 0.36, at + 0.36], color=GREY, linewidth=2, label=label)
                axes.axhline(at, color=GREY, alpha=0.2, linewidth=0.8, zorder=0)
            for number, name in enumerate(others):
                _dots(axes, rows, name, MARKERS[number % len(MARKERS)], COLOURS[number % len(COLOURS)], 28)
            _dots(axes, rows, ours, "o", OURS, 80)
            axes.set_yticks(range(len(rows)), [title for title, _ in rows])
            axes.invert_yaxis()
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(_nanoseconds)
            axes.set_title(f"{ours}, and others", loc="left", fontsize=11)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)


def _dots(
    axes: Axes, rows: Sequence[tuple[str, dict[str, float | None]]], name: str, marker: str, colour: str, area: float
) -> None:
    points = [(time, at) for at, (_, times) in enumerate(rows) if (time := times.get(name)) is not None]
    axes.scatter(
        [time for time, _ in points],
        [at for _, at in points],
        s=area,
        marker=marker,
        color=colour,
        edgecolors="none",
        label=name,
        zorder=3 if area > 50 else 2,
    )


def throughput(path: Path, rows: Sequence[tuple[str, Sequence[tuple[str, bool, float, float]]]]) -> None:
    """Draw a panel a row: for each contestant what he does alone (faint) and what all threads do (full)."""
    deep = max(len(entrants) for _, entrants in rows)
    with _plot(path, 12, (0.24 * deep + 0.9) * -(-len(rows) // 2), len(rows), 2) as all_axes:
        for axes, (title, entrants) in zip(all_axes, rows, strict=True):
            for at, (_, own, alone, together) in enumerate(entrants):
                colour = OURS if own else COLOURS[0]
                axes.barh(at + 0.2, alone, height=0.34, color=colour, alpha=0.4)
                axes.barh(at - 0.2, together, height=0.34, color=colour)
            axes.set_yticks(range(len(entrants)), [name for name, *_ in entrants], fontsize=8)
            axes.invert_yaxis()
            axes.set_title(textwrap.fill(title, 56), fontsize=10, loc="left")
            axes.set_xlabel("million/s (faint: one thread)", fontsize=9)


def curves(path: Path, panels: Sequence[tuple[str, dict[str, list[tuple[int, float]]]]]) -> None:
    """Draw cost by size, a panel for each kind of leaf, both axes logarithmic."""
    from reporting.text import size

    with _plot(path, 12, 5, len(panels), len(panels)) as all_axes:
        lowest = min(cost for _, lines in panels for points in lines.values() for _, cost in points)
        highest = max(cost for _, lines in panels for points in lines.values() for _, cost in points)
        for axes, (title, lines) in zip(all_axes, panels, strict=True):
            for number, (name, points) in enumerate(lines.items()):
                axes.plot(
                    [bytes_ for bytes_, _ in points],
                    [cost for _, cost in points],
                    label=name,
                    color=COLOURS[number % len(COLOURS)],
                    marker=MARKERS[number % len(MARKERS)],
                    markersize=4,
                    linestyle="--" if "per leaf" in name else "-",
                    linewidth=1.3,
                )
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_ylim(lowest / 1.5, highest * 1.5)
            axes.yaxis.set_major_formatter(_nanoseconds)
            first, last = (min(min(points) for points in lines.values())[0], max(max(p) for p in lines.values())[0])
            ticks = [1 << bit for bit in range(20, 50, 4) if first <= 1 << bit <= last]
            axes.set_xticks(ticks, [size(tick) for tick in ticks], rotation=45, ha="right", fontsize=8)
            axes.set_xlabel("guest memory mapped")
            axes.grid(visible=True)
            axes.set_title(title, loc="left", fontsize=11)
        all_axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)


def pauses(path: Path, rows: Sequence[tuple[str, float, float]]) -> None:
    """Draw the longest fault and the most work in one, in milliseconds, on a logarithmic axis."""
    with _plot(path, 8.5, 0.5 * len(rows) + 1.2) as (axes,):
        for at, (_, longest, work) in enumerate(rows):
            axes.barh(at - 0.2, longest, height=0.36, color=COLOURS[0], label="longest fault" if at == 0 else None)
            label = "most work in a fault" if at == 0 else None
            axes.barh(at + 0.2, work, height=0.36, color=COLOURS[1], label=label)
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: _nanoseconds(value * 1e6))
        axes.grid(visible=True, axis="x")
        axes.legend(fontsize=9)
