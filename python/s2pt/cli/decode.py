"""``s2pt decode``: an entry or a register value, field by field."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from s2pt._checks import check_heeded
from s2pt._core import explain_entry, explain_esr, explain_vtcr, explain_vttbr
from s2pt.cli.common import console, print_json, refuse, size_option

__all__ = ["decode", "print_fields"]

Fields = list[tuple[str, str, int, str]]


class What(StrEnum):
    """What a value is."""

    ENTRY = "entry"
    VTCR = "vtcr"
    VTTBR = "vttbr"
    ESR = "esr"


class Dialect(StrEnum):
    """Who wrote an entry: invalid entries mean different things."""

    OWN = "own"
    KVM6 = "kvm6"
    KVM7 = "kvm7"


def _value(text: str, what: str) -> int:
    try:
        value = int(text.replace("_", ""), 0 if text[:2].lower() in ("0x", "0b", "0o") else 16)
    except ValueError:
        raise refuse(f"{what} {text!r} is not a hex number such as 0x400000400007fd") from None
    if not 0 <= value < 1 << 64:
        raise refuse(f"{what} {text} does not fit in 64 bits")
    return value


def decode(
    what: Annotated[What, typer.Argument(help="What the value is.")],
    value: Annotated[str, typer.Argument(help="In hex, with or without 0x.")],
    level: Annotated[int, typer.Option("--level", "-l", min=-1, max=3, help="entry: the level of its table.")] = 3,
    granule: Annotated[str, typer.Option("--granule", help="entry: 4KiB, 16KiB or 64KiB.")] = "4KiB",
    lpa2: Annotated[bool, typer.Option("--lpa2", help="entry: 52-bit format (VTCR_EL2.DS = 1).")] = False,
    xnx: Annotated[bool, typer.Option("--xnx", help="entry: execute in two halves (FEAT_XNX).")] = False,
    fwb: Annotated[bool, typer.Option("--fwb", help="entry: HCR_EL2.FWB = 1.")] = False,
    pa_bits: Annotated[int, typer.Option("--pa-bits", min=32, max=52, help="entry: output address bits.")] = 48,
    dialect: Annotated[Dialect, typer.Option("--dialect", help="entry: whose table.")] = Dialect.OWN,
    vtcr: Annotated[str | None, typer.Option("--vtcr", metavar="HEX", help="vttbr: the VTCR_EL2 beside it.")] = None,
    far: Annotated[str | None, typer.Option("--far", metavar="HEX", help="esr: FAR_EL2.")] = None,
    hpfar: Annotated[str | None, typer.Option("--hpfar", metavar="HEX", help="esr: HPFAR_EL2.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the fields as JSON.")] = False,
) -> None:
    """Explain a stage-2 entry, VTCR_EL2, VTTBR_EL2 or ESR_EL2 field by field."""
    number = _value(value, what.value)
    fields: Fields
    shape = ("--level", level, 3), ("--granule", granule, "4KiB"), ("--lpa2", lpa2, False), ("--xnx", xnx, False)
    other = ("--fwb", fwb, False), ("--pa-bits", pa_bits, 48), ("--dialect", dialect, Dialect.OWN)
    of = {What.ENTRY: shape + other, What.VTTBR: (("--vtcr", vtcr, None),)}
    of[What.ESR] = ("--far", far, None), ("--hpfar", hpfar, None)
    for kind, options in of.items():
        for option, given, default in options:
            check_heeded(option, given, default, what is kind, f"it is about {kind.value}")
    if what is What.ENTRY:
        fields = explain_entry(
            number,
            level=level,
            granule=size_option(granule),
            lpa2=lpa2,
            xnx=xnx,
            fwb=fwb,
            pa_bits=52 if lpa2 and pa_bits == 48 else pa_bits,
            dialect=dialect.value,
        )
    elif what is What.VTCR:
        fields = explain_vtcr(number)
    elif what is What.VTTBR:
        fields = explain_vttbr(number, vtcr=None if vtcr is None else _value(vtcr, "--vtcr"))
    else:
        fields = explain_esr(
            number,
            far=None if far is None else _value(far, "--far"),
            hpfar=None if hpfar is None else _value(hpfar, "--hpfar"),
        )
    if json_:
        rows = [dict(zip(("bits", "name", "value", "meaning"), row, strict=True)) for row in fields]
        print_json({"command": "decode", "what": what.value, "value": number, "fields": rows})
    else:
        print_fields(f"{what.value} {number:#x}", fields)


def print_fields(title: str, fields: Fields) -> None:
    """Print a table of fields."""
    table = Table(title=title, box=box.SIMPLE, title_justify="left")
    table.add_column("bits", justify="right")
    table.add_column("field")
    table.add_column("value", justify="right")
    table.add_column("meaning")
    for bits, name, value, meaning in fields:
        table.add_row(bits, name, hex(value) if bits else "", meaning)
    console().print(table)
