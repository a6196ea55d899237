"""What all pictures have alike: colours, lines, sizes, and how times are written on an axis."""

from __future__ import annotations

import math
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from s2pt.types import Policy

__all__ = ["DODGE", "INK", "LINES", "STYLE", "figure", "panels", "time_axis", "time_text"]

INK = "#1f2430"
"""The colour of text and axes; in an HTML report the page's own takes its place."""

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#8a8f99",
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "s2pt",
    "savefig.dpi": 150,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
LINES: dict[Policy, dict[str, Any]] = {
    Policy.SERIAL: {"color": "#d55e00", "marker": "s", "linestyle": "-"},
    Policy.PARALLEL: {"color": "#0072b2", "marker": "o", "linestyle": "--"},
    Policy.LOCKLESS: {"color": "#009e73", "marker": "^", "linestyle": "-."},
}
WIDEST = 3  # panels in a row
DODGE = {Policy.SERIAL: 0, Policy.PARALLEL: -1, Policy.LOCKLESS: 1}  # so that bars do not hide one another


def figure(width: float, height: float) -> Figure:
    """Give an empty figure, in inches."""
    with mpl.rc_context(STYLE):
        return Figure(figsize=(max(4.6, min(width, 12)), height), layout="constrained")


def panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Give a figure with panels side by side, in rows of at most `WIDEST`; `height` is a row's."""
    rows = -(-count // WIDEST)
    columns = -(-count // rows)
    whole = figure(3.7 * columns, height * rows)
    axes = list(np.ravel(whole.subplots(rows, columns, squeeze=False)))
    for spare in axes[count:]:
        spare.set_axis_off()
    return whole, axes[:count]


def time_text(seconds: float) -> str:
    """Write a time with the unit that suits it.

    Examples
    --------
    >>> [time_text(seconds) for seconds in (1e-8, 0.00025, 0.1, 100)]
    ['10 ns', '250 us', '100 ms', '100 s']
    """
    for unit, name in ((1, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= unit * 0.9999:
            return f"{seconds / unit:.4g} {name}"
    return f"{seconds / 1e-9:.4g} ns"


def time_axis(axis: Axis, unit: float = 1.0) -> None:
    """Write times on a logarithmic axis at whole decades; a value of 1 is `unit` seconds."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low) if low > 0 else 1.0
    # With less than two decades in sight more between them, or there might be one name or none.
    if decades < 0.65:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    else:
        axis.set_major_locator(LogLocator(subs=(1.0,) if decades >= 2 else (1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: time_text(value * unit)))
    axis.set_minor_formatter(NullFormatter())
    if decades < 2:
        axis.set_minor_locator(NullLocator())
