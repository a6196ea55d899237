"""``s2pt inspect``: a dumped table: geometry, registers, leaves, counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

import s2pt.image
from s2pt._checks import check_heeded
from s2pt._core import Image, explain_vtcr, explain_vttbr
from s2pt.cli import pictures
from s2pt.cli.common import console, print_json, refuse
from s2pt.cli.decode import print_fields
from s2pt.types import DumpStyle, Mapping, Prot, format_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["inspect"]

SHOWN = 40


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A dump in format S2DUMP01, plain or .xz.")],
    limit: Annotated[int, typer.Option("--limit", min=0, help="Print so many runs of leaves; 0: all of them.")] = SHOWN,
    json_: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    dump: Annotated[bool, typer.Option("--dump", help="Print only the text of KVM's stage2_page_tables.")] = False,
    style: Annotated[
        DumpStyle, typer.Option("--style", help="--dump: exact, or what Linux 6.12 or 7 prints, quirks and all.")
    ] = DumpStyle.EXACT,
    plot: pictures.Plot = None,
) -> None:
    """Show a dumped table: registers decoded, geometry, runs of leaves, counts by size and permission."""
    if dump and json_:
        raise refuse("--dump prints text, --json prints JSON: choose one")
    check_heeded("--style", style, DumpStyle.EXACT, dump, "it is of --dump")
    check_heeded("--limit", limit, SHOWN, not (dump or json_), "--dump and --json print everything")
    pictures.check(plot)
    image = s2pt.image.open(file)
    pictures.write(plot, lambda: _draw(image))
    if dump:
        print(image.dump(style), end="")
        return
    leaves = list(image.leaves())
    invalid = [(ipa, level, raw, text) for ipa, level, raw, text in image.invalid()]
    if json_:
        print_json(_plain(file, image, leaves, invalid))
        return
    print_fields(f"VTCR_EL2 {image.vtcr:#x}", explain_vtcr(image.vtcr))
    print_fields(f"VTTBR_EL2 {image.vttbr:#x}", explain_vttbr(image.vttbr, vtcr=image.vtcr))
    print(f"geometry: {image.geometry}")
    print("tables: " + ", ".join(f"{count} at level {level}" for level, count in sorted(image.tables.items())))
    yes = {True: "yes", False: "no"}
    print(f"read as: FWB {yes[image.fwb]}, XNX {yes[image.xnx]}, invalid entries of {image.dialect}")
    _print_runs(_runs(leaves), limit)
    _print_counts(leaves)
    if invalid:
        print(f"{len(invalid):,} invalid entries that are not empty")
        for ipa, level, raw, text in invalid[: limit or None]:
            print(f"  {ipa:#x} level {level}: {raw:#x} {text}")


def _draw(image: Image) -> Figure:
    from s2pt.lab.plots import address_space

    return address_space(image)


def _alike(a: Mapping, b: Mapping) -> bool:
    """Whether `b` goes on where `a` ends: same size and attributes, next IPA, next output address."""
    return (b.ipa, b.pa, b.size) == (a.ipa + a.size, a.pa + a.size, a.size) and (
        b.prot,
        b.memtype,
        b.af,
        b.software,
    ) == (a.prot, a.memtype, a.af, a.software)


def _runs(leaves: list[Mapping]) -> list[list[Mapping]]:
    runs: list[list[Mapping]] = []
    for leaf in leaves:
        if runs and _alike(runs[-1][-1], leaf):
            runs[-1].append(leaf)
        else:
            runs.append([leaf])
    return runs


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in ("prot", "memory", "flags") else "right")
    return table


def _flags(leaf: Mapping) -> str:
    return " ".join(["" if leaf.af else "old", f"sw={leaf.software:#x}" if leaf.software else ""]).strip()


def _print_runs(runs: list[list[Mapping]], limit: int) -> None:
    table = _table("runs of leaves", "ipa", "end", "pa", "leaves", "level", "prot", "memory", "flags")
    for run in runs[: limit or None]:
        first, last = run[0], run[-1]
        table.add_row(
            hex(first.ipa),
            hex(last.ipa + last.size),
            hex(first.pa),
            f"{len(run):,} x {format_size(first.size)}",
            str(first.level),
            str(first.prot),
            str(first.memtype),
            _flags(first),
        )
    console().print(table)
    if 0 < limit < len(runs):
        print(f"... and {len(runs) - limit:,} more runs (--limit 0 prints all)\n")


def _counts(leaves: list[Mapping]) -> list[tuple[int, Prot, int, int]]:
    """Count leaves by size and permission: (size, prot, count, bytes), largest size first."""
    found = Counter((leaf.size, leaf.prot) for leaf in leaves)
    return [(size, prot, count, size * count) for (size, prot), count in sorted(found.items(), reverse=True)]


def _print_counts(leaves: list[Mapping]) -> None:
    table = _table("leaves by size and permission", "size", "prot", "leaves", "bytes")
    for size, prot, count, total in _counts(leaves):
        table.add_row(format_size(size), str(prot), f"{count:,}", format_size(total))
    total = sum(leaf.size for leaf in leaves)
    table.add_row("all", "", f"{len(leaves):,}", format_size(total))
    console().print(table)


def _plain(
    file: Path, image: s2pt.image.Image, leaves: list[Mapping], invalid: list[tuple[int, int, int, str]]
) -> dict[str, Any]:
    shape = image.geometry
    return {
        "command": "inspect",
        "file": file.name,
        "vtcr": image.vtcr,
        "vttbr": image.vttbr,
        "geometry": {
            "granule": shape.granule,
            "ipa_bits": shape.ipa_bits,
            "pa_bits": shape.pa_bits,
            "start_level": shape.start_level,
            "root_frames": shape.root_frames,
            "lpa2": shape.lpa2,
        },
        "tables": {str(level): count for level, count in sorted(image.tables.items())},
        "counts": [
            {"size": size, "prot": str(prot), "leaves": count, "bytes": total}
            for size, prot, count, total in _counts(leaves)
        ],
        "leaves": [
            {
                "ipa": leaf.ipa,
                "size": leaf.size,
                "pa": leaf.pa,
                "level": leaf.level,
                "prot": str(leaf.prot),
                "memtype": str(leaf.memtype),
                "af": leaf.af,
                "software": leaf.software,
                "raw": leaf.raw,
            }
            for leaf in leaves
        ],
        "invalid": [{"ipa": ipa, "level": level, "raw": raw, "meaning": text} for ipa, level, raw, text in invalid],
    }
