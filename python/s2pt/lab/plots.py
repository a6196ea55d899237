"""Pictures of runs: times over vCPUs, latencies, rounds of a migration, the address space. Needs the extra ``lab``.

Each function takes typed reports and gives a matplotlib `Figure`, to be shown in a notebook or written by `save`.
Policies differ by colour, marker and line, in colours that the colour-blind can tell apart.

Examples
--------
>>> from s2pt import Stage2
>>> s2 = Stage2()
>>> s2.map(0x4000_0000, "64MiB", pa=0x8000_0000)
Mapped(bytes=64MiB, kept=0B)
>>> figure = address_space(s2)
>>> [axes.get_title(loc="left") for axes in figure.axes]
['Page size', 'State']
>>> picture_format("costs.pdf")
Traceback (most recent call last):
    ...
s2pt.errors.OptionError: a picture is written to a file that ends in .svg or .png, not to costs.pdf
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from numpy.typing import NDArray

from s2pt._core import Image, Stage2
from s2pt.errors import OptionError
from s2pt.migrate import Migrate, MigrateReport
from s2pt.types import Policy, Prot, format_size
from s2pt.view import LEVEL_COLOURS, Leaves, leaves_of
from s2pt.vm import DirtyLogReport, Vm

if TYPE_CHECKING:
    from s2pt.lab.predict import Prediction

__all__ = ["INK", "address_space", "latencies", "migrations", "picture_format", "rounds", "save", "svg_text", "times"]

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
DODGE = {Policy.SERIAL: 0, Policy.PARALLEL: -1, Policy.LOCKLESS: 1}  # so that bars do not hide one another
SENT, FOUND = "#0072b2", "#e69f00"
UNMAPPED = "#dde1e7"
STATES = {"unmapped": UNMAPPED, "read-only": "#56b4e9", "writable": "#0072b2", "dirty": "#e69f00"}
COLUMNS, ROWS = 64, 32

Migrations = Sequence[tuple[Migrate, MigrateReport]]
Table = Stage2 | Image | Vm


def picture_format(path: Path | str) -> str:
    """Say what is written to a file of this name.

    Returns
    -------
    str
        ``"svg"`` or ``"png"``.

    Raises
    ------
    OptionError
        The name ends in something else.
    """
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise OptionError(f"a picture is written to a file that ends in .svg or .png, not to {path}")
    return kind


def save(figure: Figure, path: Path | str) -> None:
    """Write a figure; the same figure gives the same bytes."""
    kind = picture_format(path)
    with mpl.rc_context(STYLE):
        figure.savefig(path, format=kind, metadata=_metadata(kind))


def svg_text(figure: Figure) -> str:
    """Give a figure as an SVG element without a background, to stand in a page."""
    text = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(text, format="svg", transparent=True, metadata=_metadata("svg"))
    return text.getvalue()[text.getvalue().index("<svg") :]


def _metadata(kind: str) -> dict[str, str | None]:
    return {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}


@mpl.rc_context(STYLE)
def times(runs: Iterable[tuple[Policy | str, DirtyLogReport]] = (), predictions: Iterable[Prediction] = ()) -> Figure:
    """Draw what populating and dirtying the memory takes, over the number of vCPUs, a line for each policy.

    Parameters
    ----------
    runs : iterable of (Policy or str, DirtyLogReport)
        Measured. Of several runs with the same policy and vCPUs the median is drawn, and a bar from least to most.
        The dirty pass is the last iteration: with manual protection only that one meets write-protected memory.
    predictions : iterable of Prediction
        Predicted, with their ranges as bars; hollow markers.
    """
    points: dict[tuple[str, bool, Policy], dict[int, list[tuple[float, float, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for policy, report in runs:
        passes = {phase.phase.split()[0]: phase.elapsed_ns / 1e9 for phase in report.phases if phase.complete}
        if not report.complete and not any(phase.complete and phase.phase == "dirty 2" for phase in report.phases):
            passes.pop("dirty", None)  # the first one may not have met write-protected memory
        for name in ("populate", "dirty"):
            if name in passes:
                points[name, False, Policy(policy)][report.vcpus].append((passes[name],) * 3)
    for one in predictions:
        points[one.pass_, True, one.policy][one.vcpus].append((one.low, one.seconds, one.high))
    titles = {"populate": "Populate memory", "dirty": "Dirty write-protected memory"}
    shown = [name for name in titles if any(key[0] == name for key in points)]
    if not shown:
        raise OptionError("there are no times to draw")
    both = len({key[1] for key in points}) == 2
    figure, panels = _panels(len(shown), 3.4)
    for axes, name in zip(panels, shown, strict=True):
        drawn = [key for predicted in (False, True) for one in Policy if (key := (name, predicted, one)) in points]
        for key in drawn:
            counts, (_, predicted, policy) = points[key], key
            label = policy.value + (", predicted" if predicted and both else "")
            x = sorted(counts)
            middle = [median(value for _, value, _ in counts[count]) for count in x]
            low = [at - min(one[0] for one in counts[count]) for at, count in zip(middle, x, strict=True)]
            high = [max(one[2] for one in counts[count]) - at for at, count in zip(middle, x, strict=True)]
            look = LINES[policy] | ({"markerfacecolor": "white", "alpha": 0.75} if predicted and both else {})
            bars = [low, high] if any(low + high) else None
            beside = [count * 1.02 ** DODGE[policy] for count in x]
            axes.errorbar(beside, middle, yerr=bars, capsize=2.5, markersize=4.5, linewidth=1.4, label=label, **look)
        axes.set(title=titles[name], xlabel="vCPUs", xscale="log", yscale="log")
        _count_ticks(axes, sorted({count for key, counts in points.items() if key[0] == name for count in counts}))
        # Whole decades, so that two ticks at least have a name.
        least, most = axes.get_ylim()
        axes.set_ylim(10 ** math.floor(math.log10(least)), 10 ** math.ceil(math.log10(most)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend()
    panels[0].set_ylabel("seconds")
    return figure


def _count_ticks(axes: Axes, counts: list[int]) -> None:
    """Name the counts that there are, but none too close to the one before."""
    ticks: list[int] = []
    for count in counts:
        if not ticks or count >= ticks[-1] * max(1.2, (counts[-1] / counts[0]) ** (1 / 13)):
            ticks.append(count)
    axes.set_xlim(counts[0] / 1.3, counts[-1] * 1.3)
    axes.set_xticks(ticks, [f"{count:,}" for count in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


@mpl.rc_context(STYLE)
def latencies(runs: Migrations) -> Figure:
    """Draw how long faults took while the memory was copied: which part of them took longer than so long.

    Parameters
    ----------
    runs : sequence of (Migrate, MigrateReport)
        A panel for each kind of log, a line for each policy. Runs with both alike are added up.
    """
    figure = _figure(3.7 * len(_logs(runs)), 3.2)
    _draw_latencies(figure, runs)
    return figure


def _draw_latencies(figure: Figure | SubFigure, runs: Migrations) -> None:
    logs = _logs(runs)
    panels = figure.subplots(1, len(logs), sharex=True, sharey=True, squeeze=False)[0]
    for axes, log in zip(panels, logs, strict=True):
        _latencies(axes, [run for run in runs if run[0].log == log])
        axes.set(title=f"Faults, {log} log", xlabel="latency, us")
    panels[0].set_ylabel("part of faults that took longer")


def _latencies(axes: Axes, runs: Migrations) -> None:
    total: dict[Policy, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for options, report in runs:
        buckets = total[Policy(options.policy)]
        for end, count in report.latency_buckets:
            buckets[end] += count
    for policy, buckets in total.items():
        if not buckets:
            continue  # hardware's notes: there may be no fault at all
        ends = np.array(sorted(buckets), dtype=float)
        counts = np.array([buckets[int(end)] for end in ends])
        # Longer than a bucket's end; the last line falls out of the picture, to zero.
        longer = 1 - np.cumsum(counts) / counts.sum()
        longer[-1] = 1e-12
        x, y = np.append(ends[0] / 1.25, ends) / 1e3, np.append(1.0, longer)
        look = {name: value for name, value in LINES[policy].items() if name != "marker"}
        axes.step(x, y, where="post", label=policy.value, linewidth=1.5, **look)
    most = max((sum(buckets.values()) for buckets in total.values()), default=0)
    if not most:
        axes.text(0.5, 0.5, "no faults", transform=axes.transAxes, ha="center")
        return
    axes.set(xscale="log", yscale="log", ylim=(0.5 / most, 1.3))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    axes.legend()


@mpl.rc_context(STYLE)
def rounds(runs: Migrations) -> Figure:
    """Draw the pages that each round sent and found dirty, and those that were sent while the guest stood.

    Parameters
    ----------
    runs : sequence of (Migrate, MigrateReport)
        A panel for each kind of log and policy, of the first run of its kind.
    """
    figure = _figure(2.9 * len(_policies(runs)), 2.5 * len(_logs(runs)))
    _draw_rounds(figure, runs)
    return figure


def _draw_rounds(figure: Figure | SubFigure, runs: Migrations) -> None:
    logs, policies = _logs(runs), _policies(runs)
    first = {(str(options.log), Policy(options.policy)): report for options, report in reversed(runs)}
    panels = figure.subplots(len(logs), len(policies), sharey=True, squeeze=False)
    for row, log in zip(panels, logs, strict=True):
        for axes, policy in zip(row, policies, strict=True):
            if (log, policy) in first:
                _rounds(axes, first[log, policy])
                axes.set_title(f"{log} log, {policy}")
            else:
                axes.set_axis_off()
        row[0].set_ylabel("pages")
    for axes in panels[-1]:
        axes.set_xlabel("round")
    panels[0][0].legend()


def _rounds(axes: Axes, report: MigrateReport) -> None:
    count = len(report.rounds)
    at = np.arange(count + 1)
    sent = [entry.pages for entry in report.rounds] + [report.last_pages]
    found = [entry.found for entry in report.rounds]
    axes.bar(at - 0.2, sent, width=0.38, color=SENT, label="sent")
    axes.bar(at[:count] + 0.2, found, width=0.38, color=FOUND, label="found dirty after it")
    step = count // 8 + 1
    ticks = [*range(0, count - step + 1, step), count]
    axes.set_xticks(ticks, [*(str(tick + 1) for tick in ticks[:-1]), "stop"])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


@mpl.rc_context(STYLE)
def migrations(runs: Migrations) -> Figure:
    """Draw latencies above rounds, for one file."""
    lower = 2.3 * len(_logs(runs))
    figure = _figure(max(7.5, 2.9 * max(len(_logs(runs)), len(_policies(runs)))), 3.0 + lower)
    parts = np.ravel(np.array(figure.subfigures(2, 1, height_ratios=[3.0, lower]), dtype=object))
    _draw_latencies(parts[0], runs)
    _draw_rounds(parts[1], runs)
    return figure


@mpl.rc_context(STYLE)
def address_space(
    table: Table, *, ipa: int | None = None, size: int | None = None, dirty: NDArray[np.uint64] | None = None
) -> Figure:
    """Draw the address space of a table row by row, coloured by page size, and by state.

    A cell is a power of two of bytes, and has the colour of what most of its bytes are.

    Parameters
    ----------
    table : Stage2, Image or Vm
        Of an image, what cannot be read is left out.
    ipa, size : int, optional
        Where to begin, and how many bytes to draw; all that is mapped by default.
    dirty : array of uint64, optional
        IPAs of dirty pages, ascending: ``slot.ipa + granule * numpy.flatnonzero(bits)``.
    """
    array = table.leaves_array() if isinstance(table, Vm) else leaves_of(table)
    leaves, shape = Leaves.of(array), table.geometry
    if len(leaves.start) == 0 and (ipa is None or size is None):
        raise OptionError("the table maps nothing")
    start = int(leaves.start[0]) if ipa is None else ipa
    end = int(leaves.end[-1]) if size is None else start + size
    if end <= start:
        raise OptionError("there is nothing to draw from there on")
    cell = max(shape.granule, 1 << (-(-(end - start) // (COLUMNS * ROWS)) - 1).bit_length())
    start -= start % cell
    rows = -(-(end - start) // (cell * COLUMNS))
    edges = start + cell * np.arange(rows * COLUMNS + 1, dtype=np.int64)

    def share(chosen: Leaves) -> NDArray[np.int64]:
        return np.diff(chosen.below(edges))

    levels = sorted({int(level) for level in leaves.level}, reverse=True)
    by_level = [share(leaves.only(leaves.level == level)) for level in levels]
    writable = share(leaves.only(leaves.prot & int(Prot.W) != 0))
    readonly = share(leaves.only(leaves.prot & int(Prot.W) == 0))
    by_state = [cell - writable - readonly, readonly, writable]
    unmapped = by_state[0]
    if dirty is not None:
        # Each dirty page leaves the state that its mapping has.
        first = dirty.astype(np.int64)
        states_of = _states(leaves, first)
        none = np.zeros(len(first), np.int64)
        pages = Leaves(first, first + shape.granule, none, none)
        written = [share(pages.only(states_of == state)) for state in range(3)]
        by_state = [bytes_ - part for bytes_, part in zip(by_state, written, strict=True)]
        by_state.append(np.sum(written, axis=0))
    figure, panels = _panels(2, min(1.6 + 0.14 * rows, 5.2))
    sizes = {f"{format_size(shape.size(level))}, level {level}": LEVEL_COLOURS[level] for level in levels}
    states = dict(list(STATES.items())[: len(by_state)])
    _heat(panels[0], "Page size", [unmapped, *by_level], {"unmapped": UNMAPPED, **sizes}, rows)
    _heat(panels[1], "State", by_state, states, rows)
    for axes in panels:
        ticks = np.arange(0, COLUMNS + 1, 16)
        axes.set_xticks(ticks - 0.5, [format_size(int(tick) * cell) if tick else "0" for tick in ticks])
        axes.set_xlabel(f"offset in the row (a cell is {format_size(cell)})")
        every = rows // 12 + 1
        axes.set_yticks(range(0, rows, every), [f"{start + row * COLUMNS * cell:#x}" for row in range(0, rows, every)])
    panels[0].set_ylabel("IPA of the row")
    return figure


def _states(leaves: Leaves, ipas: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the index in `STATES` of what each address is mapped as."""
    if len(leaves.start) == 0:
        return np.zeros(len(ipas), np.int64)
    at = np.searchsorted(leaves.start, ipas, side="right") - 1
    mapped = (at >= 0) & (ipas < leaves.end[at])
    return np.where(mapped, np.where(leaves.prot[at] & int(Prot.W) != 0, 2, 1), 0)


def _heat(axes: Axes, title: str, parts: list[NDArray[np.int64]], colours: dict[str, str], rows: int) -> None:
    most = np.argmax(np.stack(parts), axis=0).reshape(rows, COLUMNS)
    axes.imshow(
        most, cmap=ListedColormap(list(colours.values())), vmin=-0.5, vmax=len(colours) - 0.5,
        aspect="auto", interpolation="nearest",
    )  # fmt: skip
    axes.grid(visible=False)
    axes.set_title(title, pad=36)
    patches = [Patch(color=colour, label=name) for name, colour in colours.items()]
    axes.legend(handles=patches, loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=2, fontsize=8)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(max(4.6, min(width, 12)), height), layout="constrained")


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Give a figure with panels side by side."""
    figure = _figure(3.7 * count, height)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _logs(runs: Migrations) -> list[str]:
    if not runs:
        raise OptionError("there are no runs to draw")
    return list(dict.fromkeys(options.log for options, _ in runs))


def _policies(runs: Migrations) -> list[Policy]:
    return list(dict.fromkeys(Policy(options.policy) for options, _ in runs))
