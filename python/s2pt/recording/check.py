"""The checker: plays a recording again, step by step, and looks at each rule.

It knows the architecture's rules and this library's promises (docs/recordings.md), and none of the library's code. The
rules stand in `frames`, `stores`, `visible` and `ends`; `owed` keeps what a thread owes in TLBIs and barriers, `ledger`
all else.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from s2pt.errors import RecordingError
from s2pt.events import Event
from s2pt.recording.ends import call_ended, finish, left_to_caller
from s2pt.recording.frames import allocate, fill, free, retire
from s2pt.recording.ledger import Ledger, Outputs
from s2pt.recording.order import arrange
from s2pt.recording.report import INVARIANTS, Invariant, Report
from s2pt.recording.setup import Setup
from s2pt.recording.stores import store
from s2pt.recording.tables import Snapshot

__all__ = ["Outputs", "check"]


def check(
    events: Sequence[Event], setup: Setup, start: Snapshot | None = None, outputs: Outputs | None = None
) -> Report:
    """Check a recording; see `s2pt.recording.Recording.check`."""
    for one, other in itertools.pairwise(events):
        if one.sequence >= other.sequence:
            raise RecordingError(f"step {other.sequence} comes after step {one.sequence}")
    begun = any(event.kind == "allocate" and event.fields.get("frame") == setup.root for event in events)
    if events and not begun and start is None:
        raise RecordingError("the recording does not begin with the table: say with which snapshot it begins")
    book = Ledger(setup, start if not begun else None, outputs)
    known = book.tables

    def first_value(entry: int) -> int:
        place = known.place(entry)
        return 0 if place is None else int(place.table.values[place.index])

    arranged = arrange(events, setup, first_value)
    book.facts["history"] += arranged.chains
    for sequence, entry, text in arranged.broken:
        book.bad("history", (sequence,), entry, text)
    for event in arranged.events:
        play(book, event)
    finish(book)
    rows = tuple(
        Invariant(name, title, book.facts[name], tuple(book.violations[name])) for name, title in INVARIANTS.items()
    )
    return Report(len(events), len(book.threads), rows, arranged.moved, left_to_caller(book), book.tables.snapshot())


def play(book: Ledger, event: Event) -> None:
    """Take one step."""
    thread = book.thread(event.thread)
    thread.idle = event.kind == "return"
    kind, fields = event.kind, event.fields
    if kind == "store":
        store(book, event, thread)
    elif kind.startswith("tlbi_"):
        if kind == "tlbi_range":
            text = "a range TLBI, and the CPU has none"
            book.fact("I2", book.setup.tlbi_range, (event.sequence,), None, text)
        thread.debtor.tlbi(event)
    elif kind == "dsb":
        domain = str(fields.get("domain"))
        thread.debtor.dsb(domain)
        if domain in ("ish", "ishst"):
            thread.unpublished = None
    elif kind == "publish":
        thread.unpublished = None
        thread.debtor.dsb("ishst")
    elif kind == "return":
        call_ended(book, thread, event.sequence)
    elif kind == "allocate":
        allocate(book, event, thread)
    elif kind == "fill":
        fill(book, event, thread)
    elif kind == "retire":
        retire(book, event, thread)
    elif kind == "free":
        free(book, event, thread)
    elif kind not in ("isb", "cache_data", "cache_instruction"):
        raise RecordingError(f"step {event.sequence} is of an unknown kind, {kind!r}")
