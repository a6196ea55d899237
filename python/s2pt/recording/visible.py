"""Rules about what CPUs can see at once: an entry that became valid, or changed while it was."""

from __future__ import annotations

import numpy as np

from s2pt.events import Event
from s2pt.recording.ledger import Ledger, Thread
from s2pt.recording.owed import Region
from s2pt.recording.setup import IN_PLACE, VALID
from s2pt.recording.tables import LINKED, PRIVATE, Place, Table

__all__ = ["appear", "change_in_place"]


def change_in_place(book: Ledger, event: Event, thread: Thread, place: Place, old: int, new: int) -> None:
    """Look at an entry that changed while it was valid."""
    entry, steps = place.pa, (event.sequence,)
    level = place.table.level
    assert level is not None
    leaf = not book.setup.is_table(old, level)
    book.facts["I8"] += 1
    book.facts["I3"] += 1
    text = f"{old:#x} became {new:#x} without a break"
    if not book.fact("I2", leaf and not (old ^ new) & ~IN_PLACE, steps, entry, text):
        return
    _leaf(book, event, place, new)
    before, now = book.setup.rights(old), book.setup.rights(new)
    start = book.tables.ipa(place) or 0
    end = start + book.sizes[level]
    if not before <= now:
        # KVM's write protection leaves the TLBI to its caller.
        lax = book.setup.semantics == "kvm" and before - now == {"w"}
        thread.debtor.add(Region(event.sequence, 0, start, end, level, lax=lax))
    elif before < now:
        thread.debtor.add(Region(event.sequence, 0, start, end, level, local=True))


def appear(book: Ledger, event: Event, thread: Thread, place: Place, new: int) -> None:
    """Look at an entry that became valid."""
    if book.own:
        book.facts["R11"] += 1
        if thread.unpublished is None:
            thread.unpublished = event
    level = place.table.level
    if level is None or not book.setup.is_table(new, level):
        _leaf(book, event, place, new)
        return
    address = book.setup.address(new)
    table = book.tables.at(address)
    state = "free" if table is None else table.state
    good = table is not None and state == PRIVATE
    steps = (event.sequence,)
    if not book.fact("I1", good, steps, place.pa, f"a table was linked at {address:#x}, which is {state}"):
        return
    todo = [(place, table)]
    while todo:
        above, child = todo.pop()
        if child is None or above.table.level is None:
            continue
        child.state, child.since = LINKED, event.sequence
        child.level, child.ipa, child.above = (
            above.table.level + 1,
            book.tables.ipa(above),
            (above.table, above.index),
        )
        for each in (thread, book.thread(child.owner)):
            each.private.pop(child.pa, None)
        _leaves(book, event, child)
        for index, below in book.tables.children(child):
            text = f"a table that was linked points to {below.pa:#x}, which is {below.state}"
            if book.fact("I1", below.state == PRIVATE, steps, child.pa + 8 * index, text):
                todo.append((Place(child, index), below))


def _leaves(book: Ledger, event: Event, table: Table) -> None:
    """Look at the leaves of a table that has become visible."""
    for index in np.flatnonzero(table.values & np.uint64(VALID)):
        _leaf(book, event, Place(table, int(index)), int(table.values[index]))


def _leaf(book: Ledger, event: Event, place: Place, value: int) -> None:
    """Look at a leaf that has become visible; an entry that leads to a table is none."""
    level, ipa = place.table.level, book.tables.ipa(place)
    if level is None or ipa is None or book.setup.is_table(value, level):
        return
    size, output, pa_bits = book.sizes[level], book.setup.address(value), book.setup.geometry.pa_bits
    text = ""
    if (value & 2 != 0) != (level == 3) or level not in book.leaf_levels:
        text = f"{value:#x} is no leaf of level {level}"
    elif output % size:
        text = f"the output {output:#x} is not aligned to {size:#x}"
    elif output + size > 1 << pa_bits:
        text = f"the output {output:#x} ends beyond {pa_bits} bits"
    elif book.outputs is not None:
        wanted = book.outputs(ipa)
        allowed = {wanted} if isinstance(wanted, int) else set(wanted)
        if output not in allowed:
            text = f"it maps {output:#x}, not {' or '.join(map(hex, sorted(allowed)))}"
    book.fact("I6", not text, (event.sequence,), place.pa, text)
