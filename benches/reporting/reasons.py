"""Why a budget is missed, by the id of the row; callgrind's annotated source said where the instructions go."""

from __future__ import annotations

GENERAL = (
    "granule, levels, concatenation and the descriptor's format are values of the table, looked up at each level: about"
    " 45 instructions a level (place of the entry, bounds of the arena, output address with the high bits that LPA2"
    " moves)"
)
EXCLUSIVE = (
    "exclusive access runs the shared code entry by entry, with plain stores in place of compare-exchanges; the budget"
    " takes a loop over a whole table that the compiler can vectorise"
)
WHY = {
    **dict.fromkeys(
        ("fault_page", "fault_page_batch", "relax_page"), f"{GENERAL}; attributes are encoded on every call"
    ),
    **dict.fromkeys(("lookup", "lookup_batch"), f"{GENERAL}; random pages of 1 GiB also miss the cache for the entry"),
    "write_protect_exclusive": EXCLUSIVE,
    "unmap_exclusive": EXCLUSIVE,
    "two_threads": "wall time of two hardware threads on a shared host: runs gave 1.86 to 2.04",
    "stalled": "48 threads' starts and waits in wall time on two cores of a shared host: runs gave 1.16 to 1.32",
}
UNKNOWN = "not looked into yet"


def explain(missed: list[tuple[str, str]]) -> list[str]:
    """Lay out why rows, given by id and title, miss their budgets; rows with one reason together."""
    rows: dict[str, list[str]] = {}
    for name, title in missed:
        rows.setdefault(WHY.get(name, UNKNOWN), []).append(title)
    return [f"- *{'*, *'.join(titles)}*: {why}." for why, titles in rows.items()]
