"""Rules about stores: which step an entry takes, and who may take it."""

from __future__ import annotations

import numpy as np

from s2pt.events import Event
from s2pt.recording.ledger import Held, Ledger, Thread
from s2pt.recording.owed import Region
from s2pt.recording.setup import LOCKED, VALID, freeze, is_frozen, thaw
from s2pt.recording.steps import number
from s2pt.recording.tables import LINKED, UNLINKED, Place, Table
from s2pt.recording.visible import appear, change_in_place

__all__ = ["store"]


def store(book: Ledger, event: Event, thread: Thread) -> None:
    """Look at a store: what it found, and which step of the protocol it is."""
    entry, old, new = number(event, "entry"), number(event, "old"), number(event, "new")
    place = book.tables.place(entry)
    linked = place is not None and place.table.state == LINKED
    state = "free" if place is None else place.table.state
    book.fact("I4", linked, (event.sequence,), entry, f"a store into a table that is {state}")
    if place is None:
        return
    found = int(place.table.values[place.index])
    if found != old:
        book.bad("history", (event.sequence,), entry, f"it holds {found:#x}, and the store found {old:#x}")
    place.table.values[place.index] = new
    if not linked:
        return
    held = book.holders.get(entry)
    if not book.own and held is not None:
        if new & VALID:  # in a log of another program whoever makes it valid makes it
            _make(book, event, thread, place, held)
    elif old == LOCKED:
        mine = held is not None and held.thread == event.thread and not is_frozen(old)
        _hold_ends(book, event, entry, held, mine, "was made")
        if held is not None:
            _make(book, event, thread, place, held)
    elif is_frozen(old):
        mine = held is not None and held.thread == event.thread
        _hold_ends(book, event, entry, held, mine, "was thawed")
        book.fact("I5", new == thaw(old), (event.sequence,), entry, "a thaw gives what the freeze took")
        book.release(entry, held)
    elif new == LOCKED or (not book.own and old & VALID and not new & VALID):
        _lock(book, event, thread, place, old)
    elif is_frozen(new):
        _freeze(book, event, thread, place, old, new)
    elif old & VALID:
        text = "a valid entry was emptied without a break"
        if book.fact("I2", bool(new & VALID), (event.sequence,), entry, text):
            change_in_place(book, event, thread, place, old, new)
    elif new & VALID:
        appear(book, event, thread, place, new)
    else:
        book.facts["I8"] += 1


def _hold_ends(book: Ledger, event: Event, entry: int, held: Held | None, mine: bool, what: str) -> None:
    steps = (event.sequence,) if held is None else (held.step, event.sequence)
    who = "nobody held it" if held is None else f"thread {held.thread} held it"
    book.fact("I5", held is not None, steps, entry, f"an entry {what} by thread {event.thread}, and {who}")
    if held is not None:
        book.fact("I8", mine, steps, entry, f"an entry {what} by thread {event.thread}, and {who}")


def _lock(book: Ledger, event: Event, thread: Thread, place: Place, old: int) -> None:
    held = Held(event.thread, event.sequence, old)
    table, ipa = place.table, book.tables.ipa(place)
    if old & VALID and table.level is not None and ipa is not None:
        below = book.below(place, old)
        size = book.sizes[table.level]
        held.region = Region(event.sequence, place.pa, ipa, ipa + size, table.level, below)
        thread.debtor.add(held.region)
    book.hold(thread, place.pa, held)


def _freeze(book: Ledger, event: Event, thread: Thread, place: Place, old: int, new: int) -> None:
    entry, steps = place.pa, (event.sequence,)
    book.fact("I5", new == freeze(old), steps, entry, f"frozen it must still say that it was {old:#x}")
    top = place
    while top.table.above is not None:
        top = Place(*top.table.above)
        above = thread.held.get(top.pa)
        if above is not None and above.region is not None:
            # What is frozen is broken: the TLBI must come after the last of them.
            above.region.ready_at, above.region.stage2, above.region.done = None, False, False
            break
    else:
        book.bad("I5", steps, entry, "a table was frozen whose parent entry the thread does not hold LOCKED")
    book.hold(thread, entry, Held(event.thread, event.sequence, old))


def _make(book: Ledger, event: Event, thread: Thread, place: Place, held: Held) -> None:
    entry, new = place.pa, number(event, "new")
    steps = (held.step, event.sequence)
    debtor = book.thread(held.thread).debtor
    called_off = new == held.old
    if held.region is not None:
        done = called_off or held.region.done
        text = "" if done else f"made too early: {debtor.missing(held.region)}"
        book.fact("I2", done, steps, entry, text)
        debtor.settle(held.region)
    book.release(entry, held)
    child = book.below(place, held.old) if held.old & VALID else None
    if child is not None and not called_off:
        _unlink(book, event, thread, child)
    if called_off:
        if child is not None:
            frozen = [each.pa + 8 * index for each in book.tables.subtree(child) for index in _mine(book, each, thread)]
            book.fact("I5", not frozen, steps, entry, "the unlink was called off, and entries below are still FROZEN")
    elif new & VALID:
        appear(book, event, thread, place, new)


def _mine(book: Ledger, table: Table, thread: Thread) -> list[int]:
    """Give the entries of a table that a thread has frozen."""
    return [
        index
        for index in book.tables.held(table)
        if table.pa + 8 * index in thread.held and int(table.values[index]) != LOCKED
    ]


def _unlink(book: Ledger, event: Event, thread: Thread, top: Table) -> None:
    """Note that the last way to a table is gone."""
    for table in book.tables.subtree(top):
        table.state, table.owner, table.since = UNLINKED, event.thread, event.sequence
        if book.own and not book.setup.exclusive:
            frozen = (table.values >> np.uint64(63)) == 1
            text = f"{int((~frozen).sum())} entries of a table were not frozen when it was unlinked"
            book.fact("I4", bool(frozen.all()), (event.sequence,), table.pa, text)
        for entry in [entry for entry in thread.held if 0 <= entry - table.pa < 8 * len(table.values)]:
            book.release(entry, thread.held[entry])
    thread.unlinked[top.pa] = top
