"""Why a budget is missed or a peer is faster, by the id of the row; callgrind says where the instructions go."""

from __future__ import annotations

VALUES = (
    "granule, levels, roots and the descriptor's format are values of the table, and addresses are checked against its"
    " spaces and against the frames there are; a walk of a plain 4K table costs 24 instructions a level. Levels and"
    " format of page_table_multiarch are types, and it checks neither address nor alignment: it takes 60 in all for a"
    " translation"
)
LOOKUPS = f"{VALUES}; every entry of a random page is a cache line of its own besides"
CHAIN = (
    "a single call pins the epoch and exchanges the entry: more than 4 ns before its first load, which is what an"
    " uncontended lock costs too; in a stay the pin goes"
)
EXCHANGES = (
    "a compare-exchange an entry is what keeps the table right beside faults, and costs more than a pass of plain"
    " stores behind a lock; who has the table to himself uses exclusive access"
)
COUNTED = (
    "ours says how many bytes it removed, so it reads the entries, and zeroes frames as it frees them; the peer drops"
    " the subtree unread"
)
NEIGHBOURS = (
    "after a page has gone ours looks at its neighbours, and frees the table with the last one; the peer keeps empty"
    " tables"
)
HOST = (
    "wall time of two cores of a shared host: two processes that share nothing gave 1.34 x one in the same minute in"
    " which two threads gave 1.79 x; earlier runs gave 1.86 to 2.04"
)
PYTHON = ("map_many", "unmap_many", "translate_many", "touch", "vm_touch_fault")
WHY = {
    **dict.fromkeys(("fault_page", "fault_page_batch", "relax_page", "relax_batch"), f"{VALUES}; {CHAIN}"),
    **dict.fromkeys(("lookup", "lookup_batch", "peers_exclusive_translate", "peers_shared_translate"), LOOKUPS),
    **dict.fromkeys(
        ("peers_exclusive_fault", "peers_exclusive_fault_random", "peers_exclusive_relax"), f"as lookups: {VALUES}"
    ),
    **dict.fromkeys(("peers_shared_fault", "peers_shared_fault_random", "peers_shared_relax"), f"{VALUES}; {CHAIN}"),
    **dict.fromkeys(("peers_shared_write_protect", "peers_shared_unmap", "peers_shared_unmap_free"), EXCHANGES),
    **dict.fromkeys(("peers_exclusive_unmap", "peers_exclusive_unmap_free"), COUNTED),
    "peers_exclusive_unmap_page": f"{NEIGHBOURS}; otherwise {VALUES}",
    "peers_shared_unmap_page": f"{NEIGHBOURS}, behind a fence beside others; {CHAIN}",
    "two_threads": HOST,
    **dict.fromkeys([f"{name}_scaling" for name in PYTHON], f"from Python: {HOST}"),
    "call_map_keywords": "three keywords cost 350 instructions more than none: PyO3 compares each with each name",
    "call_vm_access_fault": "a fault, an entry in the dirty log and a result of two levels; 291 ns at best",
    **dict.fromkeys(
        ("peers_shared_map_pages", "peers_shared_map_blocks", "peers_shared_split"),
        "the same code on both sides, with one exchange a table here; the rest is noise: see four levels",
    ),
    "peers_shared_collapse": "512 exchanges freeze the table, so that no fault is lost; behind a lock none is due",
    "write_protect_exclusive": "a pass of Relaxed loads and stores; runs in one hour gave 0.43 to 0.63 ns",
    "unmap_exclusive": "what goes is counted and its frames are zeroed; runs in one hour gave 0.43 to 0.53 ns",
    "stalled": "48 threads' starts and waits in wall time on two cores of a shared host: runs gave 1.16 to 1.32",
}
UNKNOWN = "not looked into yet"


def explain(missed: list[tuple[str, str]]) -> list[str]:
    """Lay out why rows, given by id and title, miss their budgets; rows with one reason together."""
    rows: dict[str, list[str]] = {}
    for name, title in missed:
        rows.setdefault(WHY.get(name, UNKNOWN), []).append(title)
    return [f"- *{'*, *'.join(titles)}*: {why}." for why, titles in rows.items()]
