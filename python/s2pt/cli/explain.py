"""``s2pt explain``: one access followed through a dumped table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

import s2pt.image
from s2pt.cli.common import console, print_json, refuse
from s2pt.explain import Explanation, Step
from s2pt.types import Access

__all__ = ["explain"]


def explain(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A dump in format S2DUMP01, plain or .xz.")],
    ipa: Annotated[str, typer.Argument(metavar="IPA", help="Any address, in hex with 0x, or decimal.")],
    access: Annotated[Access, typer.Option("--access", "-a", help="Read, write or fetch.")] = Access.READ,
    json_: Annotated[bool, typer.Option("--json", help="Print the steps as JSON.")] = False,
) -> None:
    """Follow an access through a dumped table: each entry on its way, and what the MMU answers."""
    walk = s2pt.image.open(file).explain(_address(ipa), access)
    if json_:
        print_json(_plain(file, walk))
        return
    table = Table(box=box.SIMPLE)
    for name in ("level", "index", "entry at", "value", "decoded", "verdict"):
        left = name in ("decoded", "verdict")
        table.add_column(name, justify="left" if left else "right", no_wrap=not left)
    for row in walk.rows():
        table.add_row(*row)
    if walk.steps:
        console().print(table)
    print(walk.result)


def _address(text: str) -> int:
    try:
        number = int(text.replace("_", ""), 0)
    except ValueError:
        raise refuse(f"IPA {text!r} is not a number such as 0x80001234") from None
    if not 0 <= number < 1 << 64:
        raise refuse(f"IPA {text} is not in 0..0xffffffffffffffff")
    return number


def _plain(file: Path, walk: Explanation) -> dict[str, Any]:
    hit, fault = walk.translation, walk.fault
    return {
        "command": "explain",
        "file": file.name,
        "ipa": walk.ipa,
        "access": walk.access.value,
        "steps": [_plain_step(step) for step in walk.steps],
        "translation": None
        if hit is None
        else {"pa": hit.pa, "level": hit.level, "prot": str(hit.prot), "memtype": str(hit.memtype)},
        "fault": None if fault is None else {"kind": fault.kind, "level": fault.level},
    }


def _plain_step(step: Step) -> dict[str, Any]:
    return {
        "level": step.level,
        "index": step.index,
        "base": step.base,
        "size": step.size,
        "address": step.address,
        "value": step.value,
        "kind": step.kind,
        "table": step.table,
        "decoded": step.decoded,
        "verdict": step.verdict,
        "fault": step.fault,
    }
