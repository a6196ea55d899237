"""``s2pt diff``: where two tables differ, whatever form they come in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

import s2pt.image
from s2pt._checks import check_heeded
from s2pt.cli.common import console, print_json
from s2pt.image import Difference, Ptdump, Side
from s2pt.types import format_size

__all__ = ["diff"]

SHOWN = 40
_FILE = "A dump in format S2DUMP01 or KVM's stage2_page_tables text, plain or .xz."


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help=_FILE)],
    b: Annotated[Path, typer.Argument(metavar="B", help="The other one, of either kind.")],
    limit: Annotated[int, typer.Option("--limit", min=0, help="Print so many differences; 0: all of them.")] = SHOWN,
    json_: Annotated[bool, typer.Option("--json", help="Print all differences as JSON.")] = False,
) -> None:
    """Compare two tables; exit code 0 if they are equal, 1 if they differ, 2 after an error."""
    check_heeded("--limit", limit, SHOWN, not json_, "--json prints all differences")
    first, second = s2pt.image.load(a), s2pt.image.load(b)
    found = first.diff(second)
    texts = [one for one in (first, second) if isinstance(one, Ptdump)]
    end = min((one.end for one in texts), default=None)
    if json_:
        print_json(_plain(a, b, found, end))
    else:
        _print(a, b, found, limit)
        if end is not None:
            print(f"compared up to {end:#x}, where the text ends, and only what it shows (no output addresses)")
    if found:
        raise typer.Exit(1)


def _print(a: Path, b: Path, found: list[Difference], limit: int) -> None:
    if not found:
        print("no differences")
        return
    table = Table(title=Text(f"{a.name} (a) and {b.name} (b)"), box=box.SIMPLE, title_justify="left")
    for name in ("ipa", "end", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("a", "b", "differs in"):
        table.add_column(name)
    for one in found[: limit or None]:
        size = format_size(one.size)
        table.add_row(hex(one.ipa), hex(one.ipa + one.size), size, _side(one.a), _side(one.b), _what(one))
    console().print(table)
    if 0 < limit < len(found):
        print(f"... and {len(found) - limit:,} more (--limit 0 prints all)\n")
    total = format_size(sum(one.size for one in found))
    print(f"{len(found):,} {'difference' if len(found) == 1 else 'differences'}, {total} in all")


def _side(side: Side | None) -> str:
    return "-" if side is None else str(side)


def _what(one: Difference) -> str:
    """Name what is not plain from the columns beside it."""
    words = {
        "only_a": "mapped in a only",
        "only_b": "mapped in b only",
        "af": "access flag",
        "invalid": "invalid entries",
    }
    if "attributes" in one.what or "af" in one.what:
        return one.text
    return ", ".join(words.get(word, word) for word in one.what)


def _plain(a: Path, b: Path, found: list[Difference], end: int | None) -> dict[str, Any]:
    return {
        "command": "diff",
        "a": a.name,
        "b": b.name,
        "equal": not found,
        "compared_up_to": end,
        "differences": [
            {
                "ipa": one.ipa,
                "size": one.size,
                "what": list(one.what),
                "a": _plain_side(one.a),
                "b": _plain_side(one.b),
            }
            for one in found
        ],
    }


def _plain_side(side: Side | None) -> dict[str, Any] | None:
    if side is None:
        return None
    names = ("memtype", "shareability", "dbm", "contiguous", "software")
    attributes = side.attributes or (None,) * len(names)
    return {
        "level": side.level,
        "leaf_size": side.leaf_size,
        "pa": side.pa,
        "prot": str(side.prot),
        "af": side.af,
        **dict(zip(names, attributes, strict=True)),
        "invalid": side.invalid,
    }
