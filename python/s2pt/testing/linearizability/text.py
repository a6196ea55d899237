"""A counterexample as text: a line for each operation, drawn over the moments."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from s2pt.testing.linearizability.history import Operation
from s2pt.testing.linearizability.steps import Page, Request

__all__ = ["render"]


def render(operations: Sequence[Operation], failed: Request, before: Mapping[int, Collection[Page]]) -> str:
    """Show the operation that fits nowhere, with all that overlap it on the same pages."""
    last = failed.operation
    page = min((second - first for first, second in zip(failed.pages, failed.pages[1:], strict=False)), default=1)
    low, high = min(failed.pages, default=last.ipa), max(failed.pages, default=last.ipa) + page

    def meets(other: Operation) -> bool:
        reach = other.call.args[1] if len(other.call.args) > 1 and isinstance(other.call.args[1], int) else 1
        overlaps = other.invoked < last.returned and last.invoked < other.returned
        return overlaps and other.ipa < high and low < other.ipa + reach

    window = sorted((o for o in operations if meets(o)), key=lambda o: o.invoked)
    moments = sorted({moment for o in window for moment in (o.invoked, o.returned)})
    column = {moment: 2 * index for index, moment in enumerate(moments)}
    width = 2 * len(moments) - 1
    names = ", ".join(f"{ipa:#x}" for ipa in failed.pages)
    lines = [f"page{'s' if len(failed.pages) > 1 else ''} {names}: no order gives these results"]
    for ipa in failed.pages:
        states = " or ".join(sorted("nothing" if state is None else repr(state) for state in before[ipa]))
        which = "it" if len(failed.pages) == 1 else f"{ipa:#x}"
        lines.append(f"at moment {last.invoked} {which} can be: {states}")
    for o in window:
        start, end = column[o.invoked], column[o.returned]
        bar = (" " * start + "|" + "-" * (end - start - 1) + "|").ljust(width)
        mark = "  <- fits nowhere" if o is last else ""
        lines.append(f"  thread {o.thread}  {bar}  {o.invoked}..{o.returned}  {o!r}{mark}")
    return "\n".join(lines)
