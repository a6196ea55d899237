"""``s2pt bench``: the budget table, measured on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

import s2pt
from s2pt._core import BenchJob
from s2pt.cli.common import UntilInterrupted, console, parse_list, print_json, size_option, watch
from s2pt.cli.machine import describe
from s2pt.types import format_size

__all__ = ["bench"]

GIB = 1 << 30
WIDE = 150
"""Columns of a terminal from which on rows are described and not only named."""


def bench(
    rows: Annotated[
        list[str] | None,
        typer.Option("--rows", metavar="ROW[,ROW..]", help="Only these rows, as in fault_page,lookup (default: all)."),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, max=0xFFFF, help="Each row is measured this often, the rows in turn.")
    ] = 51,
    size: Annotated[
        str, typer.Option("--size", metavar="SIZE", help="Guest memory, where the rows say 1 GiB: from 2MiB to 64GiB.")
    ] = "1GiB",
    json_: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> int:
    """Measure the rows of the budget table: what an operation costs here, and what it may cost.

    One thread, 4K granule, 40-bit IPA, a TLBI costs nothing. Times are processor time of the thread, in nanoseconds an
    operation. Budgets and the times of KVM's own code are of a machine whose two reference rows took 5.6 ns and 6.5 ns.
    An interrupt ends the measurement: what it has until then is told.
    """
    names = parse_list(rows, str) if rows else None
    bytes_ = size_option(size)
    machine = {"s2pt": s2pt.__version__, **describe()}  # before the measurement makes load of its own
    kept: list[dict[str, Any]] = []
    with UntilInterrupted() as interrupt:
        watch(BenchJob(rows=names, rounds=rounds, size=bytes_), "measuring", kept.append)
    result = kept[0] if kept else {"rows": []}
    interrupt.check(result["rows"])
    if json_:
        options = {"rows": names, "rounds": rounds, "size": bytes_}
        print_json({"command": "bench", "options": options, "machine": machine, **result})
    else:
        _print_table(result["rows"], rounds, bytes_, machine)
        if interrupt.seen:
            fewest = min(row["rounds"] for row in result["rows"])
            print(f"interrupted: {len(result['rows'])} rows were measured, {fewest} times at least")
    return interrupt.code()


def _print_table(rows: list[dict[str, Any]], rounds: int, size: int, machine: dict[str, str]) -> None:
    for name, value in machine.items():
        print(f"{name}: {value}")
    print(f"guest memory: {format_size(size)}{'' if size == GIB else ' (the budgets are for 1GiB)'}, {rounds} rounds")
    out = console()
    wide = out.width >= WIDE
    table = Table(title="\nNanoseconds an operation", box=box.SIMPLE, title_justify="left")
    table.add_column("row", no_wrap=True)
    if wide:
        table.add_column("operation", no_wrap=True)
    for title in ("KVM", "budget", "median", "minimum", "of budget"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["id"],
            *([row["title"]] if wide else []),
            figure(row["kvm_ns"]),
            figure(row["budget_ns"]),
            figure(row["median_ns"]),
            figure(row["minimum_ns"]),
            _ratio(row["median_ns"], row["budget_ns"]),
        )
    out.print(table)


def figure(value: float | None) -> str:
    """Print three digits that matter.

    Examples
    --------
    >>> figure(0.2236), figure(12.34), figure(20035.0), figure(None)
    ('0.224', '12.3', '20,035', '')
    """
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _ratio(median: float, budget: float | None) -> str:
    if budget is None:
        return ""
    ratio = f"{median / budget:.2f} x"
    return ratio if median <= budget else f"[bold]over {ratio}[/]"
