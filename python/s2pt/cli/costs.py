"""The options that say what steps cost, alike for all commands that have them."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from s2pt._checks import check_heeded
from s2pt.cli.common import refuse
from s2pt.costs import Cost, Costs
from s2pt.errors import OptionError

__all__ = ["Allocation", "Cache", "Copy", "Exit", "Spin", "Tlbi", "cost", "read"]

_PANEL = "What steps cost (TIME, TIME:sleep or TIME:spin)"

Tlbi = Annotated[
    str, typer.Option("--stall-tlbi", metavar="COST", help="A TLBI, for its core: 200us.", rich_help_panel=_PANEL)
]
Exit = Annotated[
    str, typer.Option("--exit-cost", metavar="COST", help="The exit of a fault: 1.5us:spin.", rich_help_panel=_PANEL)
]
Copy = Annotated[str, typer.Option("--copy-cost", metavar="COST", help="Copying a page.", rich_help_panel=_PANEL)]
Cache = Annotated[
    str, typer.Option("--cache-cost", metavar="COST", help="A cache operation, for each 4KiB.", rich_help_panel=_PANEL)
]
Allocation = Annotated[
    str, typer.Option("--allocation-cost", metavar="COST", help="Taking a table frame.", rich_help_panel=_PANEL)
]
Spin = Annotated[
    bool,
    typer.Option("--spin", help="Costs that do not say it burn the core, not give it up.", rich_help_panel=_PANEL),
]


def read(
    *,
    tlbi: str = "0ns",
    exit: str = "0ns",
    copy: str = "0ns",
    cache: str = "0ns",
    allocation: str = "0ns",
    spin: bool = False,
    beside: str = "0ns",
) -> Costs:
    """Read them; a mistake is a mistake in the option. `beside` is one more that `spin` is about."""
    texts = (tlbi, exit, copy, cache, allocation, beside)
    left_open = any(":" not in text and cost(text).ns for text in texts)
    check_heeded("--spin", spin, False, left_open, "no cost leaves it open")
    tlbis, exits, copies, caches, frames = (cost(text, spin=spin) for text in (tlbi, exit, copy, cache, allocation))
    return Costs(tlbis, exits, copies, caches, frames)


def cost(text: str, *, spin: bool = False) -> Cost:
    """Read one; a mistake is a mistake in the option."""
    how: Literal["sleep", "spin"] = "spin" if spin else "sleep"
    try:
        return Cost.parse(text, how)
    except OptionError as error:
        raise refuse(str(error)) from None
