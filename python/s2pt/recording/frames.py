"""Rules about table frames.

A frame is taken when it is free, filled by its owner alone, retired when it is unlinked, and freed when nobody comes to
it any more.
"""

from __future__ import annotations

import numpy as np

from s2pt.errors import RecordingError
from s2pt.events import Event
from s2pt.recording.ledger import Ledger, Thread
from s2pt.recording.steps import number
from s2pt.recording.tables import LINKED, PRIVATE, RETIRED, UNLINKED, Place, Table

__all__ = ["allocate", "fill", "free", "retire"]


def allocate(book: Ledger, event: Event, thread: Thread) -> None:
    """Look at a frame that is taken."""
    frame = number(event, "frame")
    before = book.tables.at(frame)
    text = f"the frame was taken while it is {'' if before is None else before.state}"
    steps = (event.sequence,) if before is None else (before.since, event.sequence)
    book.fact("I1", before is None, steps, frame, text)
    table = book.tables.take(frame, event.thread, event.sequence)
    if table.state == PRIVATE:
        thread.private[frame] = table


def fill(book: Ledger, event: Event, thread: Thread) -> None:
    """Look at entries that are written where nobody can come yet."""
    entry, count = number(event, "entry"), number(event, "count")
    place = book.tables.place(entry)
    private = place is not None and place.table.state == PRIVATE and place.table.pa in thread.private
    if place is not None and place.index + count > len(place.table.values):
        raise RecordingError(f"step {event.sequence} fills {count} entries, more than there are")
    text = "a frame that is not the thread's own was filled"
    if book.fact("I4", private, (event.sequence,), entry, text) and place is not None:
        # Python's numbers: the sum may run past 64 bits, and wraps there.
        first, step = number(event, "first"), number(event, "step")
        values = [(first + each * step) % (1 << 64) for each in range(count)]
        place.table.values[place.index : place.index + count] = np.array(values, np.uint64)


def retire(book: Ledger, event: Event, thread: Thread) -> None:
    """Look at a table that is given to the collector."""
    frame, level = number(event, "frame"), number(event, "level")
    table = thread.unlinked.pop(frame, None)
    text = "a table was retired whose parent entry the thread has not made anew"
    if book.fact("I4", table is not None, (event.sequence,), frame, text) and table is not None:
        book.fact("I4", table.level == level, (event.sequence,), frame, f"it is of level {table.level}, not {level}")
        for each in book.tables.subtree(table):
            each.state, each.since = RETIRED, event.sequence


def free(book: Ledger, event: Event, thread: Thread) -> None:
    """Look at a frame that goes back."""
    frame = number(event, "frame")
    table = book.tables.at(frame)
    steps = (event.sequence,) if table is None else (table.since, event.sequence)
    if book.fact("I1", table is not None, steps, frame, "a frame was freed that is free") and table is not None:
        own = thread.private.pop(frame, None) is not None
        good = table.state == RETIRED if book.own else _cut_off(book, table)
        good = good or (table.state == PRIVATE and own)
        book.fact("I4", good, steps, frame, f"a frame was freed while it is {table.state}")
        book.tables.give_back(frame)


def _cut_off(book: Ledger, table: Table) -> bool:
    """Tell whether no CPU can come to a table: as a log without retired tables tells it."""
    while table.state == LINKED and table.above is not None:
        above = Place(*table.above)
        held = book.holders.get(above.pa)
        if held is not None and held.region is not None and held.region.done:
            return True
        table = above.table
    return table.state == UNLINKED
