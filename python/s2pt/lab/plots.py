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
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, NullLocator

from s2pt._checks import check_each, check_pairs, check_type
from s2pt._steps import Report
from s2pt.errors import OptionError
from s2pt.lab.space import address_space
from s2pt.lab.style import DODGE, INK, LINES, STYLE, time_axis
from s2pt.lab.style import figure as new_figure
from s2pt.lab.style import panels as panels_of
from s2pt.migrate import Migrate, MigrateReport
from s2pt.types import Policy
from s2pt.vm import DirtyLogReport
from s2pt.workloads import Memslots, MemslotsReport
from s2pt.workloads.common import Experiment

if TYPE_CHECKING:
    from s2pt.lab.predict import Prediction

__all__ = [
    "INK",
    "address_space",
    "latencies",
    "migrations",
    "picture_format",
    "rounds",
    "save",
    "steps",
    "svg_text",
    "times",
]

SENT, FOUND = "#0072b2", "#e69f00"

Migrations = Sequence[tuple[Migrate, MigrateReport]]


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
    check_type(figure, Figure, "figure")
    kind = picture_format(path)
    with mpl.rc_context(STYLE):
        figure.savefig(path, format=kind, metadata=_metadata(kind))


def svg_text(figure: Figure) -> str:
    """Give a figure as an SVG element without a background, to stand in a page."""
    check_type(figure, Figure, "figure")
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
    points: _Points = defaultdict(lambda: defaultdict(list))
    for policy, report in check_pairs(runs, str, DirtyLogReport, "runs"):
        passes = {phase.phase.partition(" ")[0]: phase.elapsed_ns / 1e9 for phase in report.phases if phase.complete}
        if not report.complete and not any(phase.complete and phase.phase == "dirty 2" for phase in report.phases):
            passes.pop("dirty", None)  # the first one may not have met write-protected memory
        for name in ("populate", "dirty"):
            if passes.get(name):
                points[name, False, Policy(policy)][report.vcpus].append((passes[name],) * 3)
    for one in _predictions(predictions):
        points[one.pass_, True, one.policy][one.vcpus].append((one.low, one.seconds, one.high))
    return _over_vcpus(points, {"populate": "Populate memory", "dirty": "Dirty write-protected memory"})


PASSES = {
    "populate": "Populate memory",
    "write": "Write it again",
    "mark idle 1": "Mark it idle",
    "write idle": "Write to idle memory",
    "create": "Create mappings",
    "update": "Break them up under logging",
    "adjust": "Make them again",
    "guest": "Get all pages",
}


@mpl.rc_context(STYLE)
def steps(runs: Iterable[tuple[Experiment[Any], Report]]) -> Figure:
    """Draw what the passes of KVM's other tests take over the number of vCPUs, a panel each, a line for each policy.

    Of `Memslots` it is what an iteration takes, a panel for each of its tests.

    Parameters
    ----------
    runs : iterable of (experiment, report)
        Experiments of `s2pt.workloads` with their reports. Of several runs with the same policy and vCPUs the median is
        drawn, and a bar from least to most. Passes that were cut short are left out.
    """
    points: _Points = defaultdict(lambda: defaultdict(list))
    titles = dict(PASSES)
    for experiment, report in check_pairs(runs, Experiment, Report, "runs"):  # type: ignore[type-abstract]
        took: dict[str, float] = {step.phase: step.elapsed_ns for step in report.phases if step.complete}
        if isinstance(experiment, Memslots) and isinstance(report, MemslotsReport):
            titles[experiment.test] = f"An iteration of {experiment.test}"
            took = {experiment.test: report.ns_per_iteration} if report.iterations else {}
        for name, ns in took.items():
            if name in titles and ns:
                points[name, False, Policy(experiment.policy)][report.vcpus].append((ns / 1e9,) * 3)
    return _over_vcpus(points, titles)


_Points: TypeAlias = dict[tuple[str, bool, Policy], dict[int, list[tuple[float, float, float]]]]
"""By name, whether it is predicted, and policy: for each number of vCPUs least, middle and most, in seconds."""


def _over_vcpus(points: _Points, titles: Mapping[str, str]) -> Figure:
    """Draw a panel for each name that has points, in the order of the titles."""
    shown = [name for name in titles if any(key[0] == name for key in points)]
    if not shown:
        raise OptionError("there are no times to draw")
    both = len({key[1] for key in points}) == 2
    figure, panels = panels_of(len(shown), 3.4)
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
        time_axis(axes.yaxis)
    for axes in panels:
        place = axes.get_subplotspec()
        if place is not None and place.is_first_col():
            axes.set_ylabel("time")
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside upper center", ncols=3)
    return figure


def _predictions(given: Iterable[Prediction]) -> list[Prediction]:
    """Take predictions; what makes them need not be installed where there are none."""
    kept = check_each(given, object, "predictions")
    if not kept:
        return []
    from s2pt.lab.predict import Prediction

    return check_each(kept, Prediction, "predictions")


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
    runs = _checked(runs)
    figure = new_figure(3.7 * len(_logs(runs)), 3.2)
    _draw_latencies(figure, runs)
    return figure


def _draw_latencies(figure: Figure | SubFigure, runs: Migrations) -> None:
    logs = _logs(runs)
    panels = figure.subplots(1, len(logs), sharex=True, sharey=True, squeeze=False)[0]
    for axes, log in zip(panels, logs, strict=True):
        _latencies(axes, [run for run in runs if run[0].log == log])
        axes.set(title=f"Faults, {log} log", xlabel="latency")
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
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    time_axis(axes.xaxis, 1e-6)
    axes.legend()


@mpl.rc_context(STYLE)
def rounds(runs: Migrations) -> Figure:
    """Draw the pages that each round sent and found dirty, and those that were sent while the guest stood.

    Parameters
    ----------
    runs : sequence of (Migrate, MigrateReport)
        A panel for each kind of log and policy, of the first run of its kind.
    """
    runs = _checked(runs)
    figure = new_figure(2.9 * len(_policies(runs)), 2.5 * len(_logs(runs)))
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
    # What is sent while the guest stands has nothing beside it.
    axes.bar(np.append(at[:count] - 0.2, count), sent, width=0.38, color=SENT, label="sent")
    axes.bar(at[:count] + 0.2, found, width=0.38, color=FOUND, label="found dirty after it")
    step = count // 8 + 1
    ticks = [*range(0, count - step + 1, step), count]
    axes.set_xticks(ticks, [*(str(tick + 1) for tick in ticks[:-1]), "stop"])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


@mpl.rc_context(STYLE)
def migrations(runs: Migrations) -> Figure:
    """Draw latencies above rounds, for one file."""
    runs = _checked(runs)
    lower = 2.3 * len(_logs(runs))
    figure = new_figure(max(7.5, 2.9 * max(len(_logs(runs)), len(_policies(runs)))), 3.0 + lower)
    parts = np.ravel(np.array(figure.subfigures(2, 1, height_ratios=[3.0, lower]), dtype=object))
    _draw_latencies(parts[0], runs)
    _draw_rounds(parts[1], runs)
    return figure


def _checked(runs: Migrations) -> Migrations:
    """Take migrations to draw, one at least."""
    kept = check_pairs(runs, Migrate, MigrateReport, "runs")
    if not kept:
        raise OptionError("there are no runs to draw")
    return kept


def _logs(runs: Migrations) -> list[str]:
    return list(dict.fromkeys(options.log for options, _ in runs))


def _policies(runs: Migrations) -> list[Policy]:
    return list(dict.fromkeys(Policy(options.policy) for options, _ in runs))
