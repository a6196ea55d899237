"""Rules about ends: of a call, after which nothing may be left, and of the recording."""

from __future__ import annotations

from s2pt.recording.ledger import Ledger, Thread
from s2pt.recording.setup import is_frozen
from s2pt.recording.steps import number
from s2pt.recording.tables import LINKED, RETIRED

__all__ = ["call_ended", "finish", "left_to_caller"]


def call_ended(book: Ledger, thread: Thread, sequence: int | None) -> None:
    """Look at what is left of a call that is over: nothing may be."""
    steps = () if sequence is None else (sequence,)
    for entry, held in list(thread.held.items()):
        if book.own:
            word = "FROZEN" if is_frozen(book.value(entry)) else "LOCKED"
            book.bad("I5", (held.step, *steps), entry, f"left {word} by thread {held.thread}")
            book.release(entry, held)
            if held.region is not None:
                thread.debtor.settle(held.region)
    if book.own:
        book.facts["I5"] += 1
    for region in [region for region in thread.debtor.regions if not region.entry and not region.lax]:
        if not region.done:
            what = "gained" if region.local else "lost"
            missing = thread.debtor.missing(region)
            place = f"a leaf {what} a right, and {missing}"
            book.bad("I3", (region.step, *steps), None, place, region.start)
        thread.debtor.settle(region)
    if thread.unpublished is not None:
        event, thread.unpublished = thread.unpublished, None
        book.bad("R11", (event.sequence, *steps), number(event, "entry"), "it was made valid and never published")
    if book.own:
        book.facts["I7"] += 1
        for frame, table in thread.private.items():
            book.bad("I7", (table.since, *steps), frame, "a frame was taken, and neither linked nor given back")
        thread.private.clear()
        for frame, table in thread.unlinked.items():
            book.bad("I4", (table.since, *steps), frame, "a table was unlinked and not retired")
        thread.unlinked.clear()


def finish(book: Ledger) -> None:
    """Look at what is left at the end."""
    for thread in book.threads.values():
        if not thread.idle:
            call_ended(book, thread, None)
    if not book.own:
        return
    for table in book.tables:
        if table.state == LINKED:
            for index in book.tables.held(table):
                book.bad("I5", (), table.pa + 8 * index, f"it is {int(table.values[index]):#x} at the end")
            book.facts["I5"] += 1
        good = table.state in (LINKED, RETIRED)
        book.fact("I1", good, (table.since,), table.pa, f"a frame is {table.state} at the end")


def left_to_caller(book: Ledger) -> int:
    """Count the leaves whose TLBI the caller still owes."""
    owed = 0
    for thread in book.threads.values():
        for region in thread.debtor.regions:
            if region.lax and not region.done:
                owed += (region.end - region.start) // book.sizes[region.level]
    return owed
