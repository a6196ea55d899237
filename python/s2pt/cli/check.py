"""``s2pt check``: a recording held against the rules of the protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

import s2pt.recording
from s2pt._checks import check_heeded
from s2pt.cli.common import console, print_json
from s2pt.recording import Report

__all__ = ["check"]

SHOWN = 20


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What Recording.save wrote, or a casemate log.")],
    casemate: Annotated[
        Path | None, typer.Option("--casemate", metavar="OUT", help="Write it as a casemate log too.")
    ] = None,
    leave_out_local: Annotated[
        bool,
        typer.Option("--leave-out-local", help="In that log, leave out TLBIs of one CPU instead of refusing them."),
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check the order of break, TLBI, make and free in a recording; exit code 1 if a rule is broken."""
    check_heeded("--leave-out-local", leave_out_local, False, casemate is not None, "it is of --casemate")
    recording = s2pt.recording.load(file)
    report = recording.check()
    if casemate is not None:
        casemate.write_text(recording.casemate(local="leave-out" if leave_out_local else "refuse"))
    if json_:
        print_json({"command": "check", "file": file.name, **report.to_json()})
    else:
        _print(report)
    if not report.ok:
        raise typer.Exit(1)


def _print(report: Report) -> None:
    table = Table(box=box.SIMPLE)
    for name, justify in (("", "left"), ("checked", "right"), ("broken", "right"), ("rule", "left")):
        table.add_column(name, justify=justify, no_wrap=name != "rule")  # type: ignore[arg-type]
    for row in report.invariants:
        table.add_row(row.name, str(row.checked), str(len(row.violations)), row.title)
    console().print(table)
    for violation in report.violations[:SHOWN]:
        print(violation)
    if len(report.violations) > SHOWN:
        print(f"and {len(report.violations) - SHOWN} more")
    print(f"{report.events} steps of {report.threads} threads: {'ok' if report.ok else 'refused'}")
