"""A run as one HTML file that needs no network: options, figures as tables, pictures, the machine, the versions.

Light or dark is what the reader's system asks for. Pictures are SVG elements whose ink is that of the page.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import s2pt
from s2pt._checks import check_kind, check_pairs, check_type
from s2pt._steps import Report
from s2pt.errors import OptionError
from s2pt.lab.plots import INK, PASSES, Migrations, latencies, rounds, steps, svg_text, times
from s2pt.migrate import Migrate, MigrateReport
from s2pt.types import Policy, format_size, parse_size
from s2pt.vm import DirtyLogReport
from s2pt.workloads.common import Experiment

__all__ = ["dirty_log_page", "experiments_page", "machine", "migrations_page", "page"]

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: $ink; --card: #ffffff; --rule: #d5dae1; --faint: #5b6472; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ec; --card: #16191f; --rule: #3a414d; --faint: #a3acba; }
}
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: var(--ink); background: var(--card);
  font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p, dt { color: var(--faint); }
.wide { overflow-x: auto; }
svg { color: var(--ink); max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .87rem; }
summary { cursor: pointer; color: var(--faint); }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--faint); font-weight: 600; white-space: normal; vertical-align: bottom; }
th.text, td.text { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 0; } dd { margin: 0; }
</style>
</head>
<body>
<h1>$title</h1>
<p>$summary</p>
$body
</body>
</html>
""")

Row = Sequence[object]
LONG = 40
"""Tables with more rows are folded up."""


def page(
    title: str,
    summary: str,
    *,
    options: Mapping[str, object],
    tables: Iterable[tuple[str, Row, Iterable[Row]]],
    figures: Iterable[tuple[str, Figure]],
) -> str:
    """Make a page.

    Parameters
    ----------
    title, summary : str
        What was run, and what came of it, in plain text.
    options : mapping of str to object
        How it was run.
    tables : iterable of (str, sequence, iterable of sequence)
        Title, heads, rows. Cells that are text stand to the left; numbers must be texts already where they have units.
    figures : iterable of (str, Figure)
        Title and picture.
    """
    check_type(title, str, "title")
    check_type(summary, str, "summary")
    check_kind(options, Mapping, "options")
    figures = check_pairs(figures, str, Figure, "figures")
    kept = [_checked(one) for one in check_kind(tables, Iterable, "tables")]
    parts = [
        f'<h2>{escape(name)}</h2>\n<div class="wide">{_inline(figure, number)}</div>'
        for number, (name, figure) in enumerate(figures)
    ]
    for name, heads, rows in kept:
        table = f'<div class="wide">{_table(heads, rows)}</div>'
        if len(rows) > LONG:
            table = f"<details><summary>{len(rows)} rows</summary>\n{table}</details>"
        parts.append(f"<h2>{escape(name)}</h2>\n{table}")
    parts += [f"<h2>{name}</h2>\n{_list(what)}" for name, what in (("Options", options), ("Machine", machine()))]
    return PAGE.substitute(title=escape(title), summary=escape(summary), body="\n".join(parts), ink=INK)


def _checked(table: object) -> tuple[str, Row, list[Row]]:
    """Take a title, heads, and rows of as many cells."""
    if not isinstance(table, tuple | list) or len(table) != 3:
        raise TypeError("each of tables must be a title, heads and rows")
    name, heads = check_type(table[0], str, "title of a table"), check_kind(table[1], Sequence, "heads")
    rows = [check_kind(row, Sequence, "each of rows") for row in check_kind(table[2], Iterable, "rows")]
    if any(len(row) != len(heads) for row in rows):
        raise OptionError(f"the rows of {name!r:.40} must have {len(heads)} cells, as many as heads")
    return name, heads, rows


def machine() -> dict[str, str]:
    """Say where this runs: system, cores, model of the CPU as far as it is told, versions."""
    model = "not told"
    try:
        told = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        model = told[1].strip() if told else platform.processor() or model
    except OSError:
        model = platform.processor() or model
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": platform.platform(),
        "CPU": model,
        "cores": f"{os.cpu_count()}, of them usable here {usable}",
        "s2pt": s2pt.__version__,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "numpy, matplotlib": f"{np.__version__}, {mpl.__version__}",
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def migrations_page(runs: Migrations) -> str:
    """Make the page of ``s2pt migrate``.

    Parameters
    ----------
    runs : sequence of (Migrate, MigrateReport)
        With options that differ in log, policy and seed.
    """
    runs = check_pairs(runs, Migrate, MigrateReport, "runs")
    if not runs:
        raise OptionError("there are no runs to tell of")
    first = runs[0][0]
    varied = {"log": "logs", "policy": "policies", "seed": "seeds"}
    options: dict[str, object] = {
        name: getattr(first, name) for name in first.__dataclass_fields__ if name not in varied
    }
    for name, many in varied.items():
        options[many] = ", ".join(dict.fromkeys(_plain(getattr(one, name)) for one, _ in runs))
    options["memory"] = format_size(parse_size(first.memory))
    options["bandwidth"] = f"{format_size(parse_size(first.bandwidth))} a second" if first.bandwidth else "no limit"
    lost, wrong, broken = (
        sum(getattr(found, name) or 0 for _, found in runs) for name in ("lost_bytes", "wrong_reads", "violations")
    )
    heads = ["log", "policy", "seed", "bytes lost", "rounds", "pages sent", "downtime ms", "guest before /s",
             "guest meanwhile /s", "faults", "p50 us", "p99 us", "p99.9 us", "longest us", "lock held ms"]  # fmt: skip
    steps = [
        [one.log, _plain(one.policy), one.seed, number + 1, f"{entry.pages:,}", f"{entry.sent_ns / 1e6:.2f}",
         f"{entry.harvested_ns / 1e6:.2f}", f"{entry.found:,}"]
        for one, found in runs for number, entry in enumerate(found.rounds)
    ]  # fmt: skip
    return page(
        "s2pt migrate",
        f"{len(runs)} migrations of {options['memory']} with {first.vcpus} vCPUs: {lost:,} bytes lost, "
        f"{wrong:,} wrong reads, {broken:,} rules broken.{_early(report for _, report in runs)}",
        options=options,
        tables=[
            ("Runs", heads, [_migration(*run) for run in runs]),
            ("Rounds", ["log", "policy", "seed", "round", "pages", "sent ms", "harvest ms", "found dirty"], steps),
        ],
        figures=[("How long faults took", latencies(runs)), ("Pages in each round", rounds(runs))],
    )


def _migration(options: Migrate, found: MigrateReport) -> list[object]:
    took = found.latency
    return [
        options.log,
        _plain(options.policy),
        options.seed,
        "-" if found.lost_bytes is None else f"{found.lost_bytes:,}",
        len(found.rounds),
        f"{found.pages_sent:,}",
        f"{found.downtime_ns / 1e6:.2f}",
        f"{found.before.per_second:,.0f}",
        f"{found.during.per_second:,.0f}",
        f"{took.count:,}",
        *(f"{time / 1e3:,.1f}" for time in (took.p50_ns, took.p99_ns, took.p999_ns, took.max_ns)),
        f"{found.longest_hold_ns / 1e6:.2f}",
    ]


def dirty_log_page(runs: Sequence[tuple[Policy | str, DirtyLogReport]], options: Mapping[str, object]) -> str:
    """Make the page of ``s2pt dirty-log``.

    Parameters
    ----------
    runs : sequence of (Policy or str, DirtyLogReport)
        What was measured.
    options : mapping of str to object
        What all runs have alike.
    """
    check_kind(options, Mapping, "options")
    kept = [(Policy(policy), report) for policy, report in check_pairs(runs, str, DirtyLogReport, "runs")]
    passes = {name: name for _, report in kept for step in report.phases if _is_pass(name := step.phase)}
    return _steps_page(
        "s2pt dirty-log",
        "Dirty logging",
        [("", policy, report) for policy, report in kept],
        options=options,
        found="dirty pages",
        passes=passes,
        figure=times(runs),
    )


def _is_pass(name: str) -> bool:
    return name.startswith(("populate", "dirty"))


def experiments_page(title: str, runs: Sequence[tuple[Experiment[Any], Report]]) -> str:
    """Make the page of one of KVM's other tests, as of ``s2pt access-tracking``.

    Parameters
    ----------
    title : str
        The command.
    runs : sequence of (experiment, report)
        Experiments of one class of `s2pt.workloads`, with options that differ in vCPUs, policy and test.
    """
    kept = check_pairs(runs, Experiment, Report, "runs")  # type: ignore[type-abstract]
    if not kept:
        raise OptionError("there are no runs to tell of")
    first = kept[0][0]
    varied = ("vcpus", "policy", "test")
    options = {name: getattr(first, name) for name in first.__dataclass_fields__ if name not in varied}
    own = [name for name in kept[0][1].__dataclass_fields__ if name not in Report.__dataclass_fields__]
    rows: list[Row] = [[_test(run), _plain(run.policy), report.vcpus, *(_number(getattr(report, name)) for name in own)]
            for run, report in kept]  # fmt: skip
    return _steps_page(
        title,
        title.removeprefix("s2pt ").replace("-", " ").capitalize(),
        [(_test(run), Policy(run.policy), report) for run, report in kept],
        options=options,
        found="found",
        passes=PASSES | {"turns": "all iterations"},
        figure=steps(runs),
        more=[("Runs", ["test", "policy", "vCPUs", *(name.replace("_", " ") for name in own)], rows)] if own else [],
    )


def _test(run: Experiment[Any]) -> str:
    return str(getattr(run, "test", ""))


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "-" if value is None else _plain(value)


_Run: TypeAlias = tuple[str, Policy, Report]
"""Which of several tests, or nothing; how; what came of it."""


def _steps_page(
    title: str,
    what: str,
    runs: Sequence[_Run],
    *,
    options: Mapping[str, object],
    found: str,
    passes: Mapping[str, str],
    figure: Figure,
    more: Iterable[tuple[str, Row, list[Row]]] = (),
) -> str:
    """Make the page of runs that report step by step; `passes` are the steps whose times are compared."""
    heads = ["test", "policy", "vCPUs", "step", "seconds", "faults", "table frames", found]
    rows: list[Row] = [
        [test, _plain(policy), report.vcpus, step.phase + ("" if step.complete else " (cut short)"),
         f"{step.elapsed_ns / 1e9:.6f}", f"{sum(step.faults.values()):,}", f"{step.frames:,}",
         "" if step.found is None else f"{step.found:,}"]
        for test, policy, report in runs for step in report.phases
    ]  # fmt: skip
    options = {name: value for name, value in options.items() if value is not None}
    if (memory := options.get("bytes_per_vcpu")) is not None:
        options["bytes_per_vcpu"] = format_size(parse_size(memory)) if isinstance(memory, int | str) else memory
    counts = ", ".join(dict.fromkeys(str(report.vcpus) for _, _, report in runs))
    policies = ", ".join(dict.fromkeys(_plain(policy) for _, policy, _ in runs))
    tables: list[tuple[str, Row, list[Row]]] = [*more, *_seconds(runs, passes), ("Steps", heads, rows)]
    return page(
        title,
        f"{what} with {counts} vCPUs under {policies}.{_early(report for _, _, report in runs)}",
        options={"vcpus": counts, "policies": policies, **options},
        tables=[_without_empty(*table) for table in tables],
        figures=[("Time over vCPUs", figure)],
    )


def _without_empty(name: str, heads: Row, rows: list[Row]) -> tuple[str, Row, list[Row]]:
    """Leave out columns that no row has anything in."""
    shown = [at for at in range(len(heads)) if any(row[at] != "" for row in rows)]
    return name, [heads[at] for at in shown], [[row[at] for at in shown] for row in rows]


def _seconds(runs: Sequence[_Run], passes: Mapping[str, str]) -> Iterable[tuple[str, Row, list[Row]]]:
    """Tables of what the passes took: a row for each test and number of vCPUs, a column for each policy."""
    policies = list(dict.fromkeys(_plain(policy) for _, policy, _ in runs))
    took: dict[tuple[str, str, int, str], float] = {}
    for test, policy, report in runs:
        for step in report.phases:
            if step.complete and step.phase in passes:
                took[step.phase, test, report.vcpus, _plain(policy)] = step.elapsed_ns / 1e9
    for name in dict.fromkeys(name for name, _, _, _ in took):
        rows: list[Row] = []
        for test, count in dict.fromkeys((test, report.vcpus) for test, _, report in runs):
            seconds = [took.get((name, test, count, policy)) for policy in policies]
            rows.append([test, count, *("-" if time is None else f"{time:.6f}" for time in seconds)])
        yield f"Seconds, {passes[name]}", ["test", "vCPUs", *policies], rows


def _early(reports: Iterable[Report | MigrateReport]) -> str:
    return "" if all(report.complete for report in reports) else " The last run was ended early: it has what was done."


def _inline(figure: Figure, number: int) -> str:
    """Give the SVG with names of its own, as several share a page, and the page's ink."""
    text = svg_text(figure).replace(INK, "currentColor")
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>p{number}-", text)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(getattr(value, "value", value))


def _table(heads: Row, rows: Iterable[Row]) -> str:
    kept = [list(row) for row in rows]
    texts = [any(re.search(r"[a-z]", _plain(row[at])) for row in kept) for at in range(len(heads))]

    def line(cells: Row, tag: str) -> str:
        return "".join(
            f"<{tag}{' class=text' if text else ''}>{escape(_plain(cell))}</{tag}>"
            for cell, text in zip(cells, texts, strict=True)
        )

    body = "\n".join(f"<tr>{line(row, 'td')}</tr>" for row in kept)
    return f"<table><thead><tr>{line(heads, 'th')}</tr></thead>\n<tbody>{body}</tbody></table>"


def _list(items: Mapping[str, object]) -> str:
    rows = (f"<dt>{escape(str(name))}</dt><dd>{escape(_plain(value))}</dd>" for name, value in items.items())
    return f"<dl>{''.join(rows)}</dl>"
