"""The checker: plays a recording again, step by step, and looks at each rule.

It knows the architecture's rules and this library's promises (docs/recordings.md), and none of the library's code.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from s2pt.errors import RecordingError
from s2pt.events import Event
from s2pt.recording.order import arrange
from s2pt.recording.owed import Debtor, Region
from s2pt.recording.report import INVARIANTS, Invariant, Report, Violation
from s2pt.recording.setup import IN_PLACE, LOCKED, VALID, Setup, freeze, is_frozen, thaw
from s2pt.recording.tables import LINKED, PRIVATE, RETIRED, UNLINKED, Place, Snapshot, Table, Tables

__all__ = ["Outputs", "check"]

Outputs = Callable[[int], "int | Collection[int]"]


@dataclass(slots=True, eq=False)
class _Held:
    """An entry between break and make, or a frozen one."""

    thread: int
    step: int
    old: int
    region: Region | None = None


class _Thread:
    """What a thread has under way."""

    def __init__(self, debtor: Debtor) -> None:
        self.debtor = debtor
        self.held: dict[int, _Held] = {}
        self.unpublished: Event | None = None
        self.private: dict[int, Table] = {}
        self.unlinked: dict[int, Table] = {}
        self.idle = True


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
    player = _Player(setup, start if not begun else None, outputs)
    known = player.tables

    def first_value(entry: int) -> int:
        place = known.place(entry)
        return 0 if place is None else int(place.table.values[place.index])

    arranged = arrange(events, setup, first_value)
    player.facts["history"] += arranged.chains
    for sequence, entry, text in arranged.broken:
        player.bad("history", (sequence,), entry, text)
    for event in arranged.events:
        player.play(event)
    player.finish()
    rows = tuple(
        Invariant(name, title, player.facts[name], tuple(player.violations[name])) for name, title in INVARIANTS.items()
    )
    return Report(
        len(events), len(player.threads), rows, arranged.moved, player.left_to_caller(), player.tables.snapshot()
    )


class _Player:
    def __init__(self, setup: Setup, start: Snapshot | None, outputs: Outputs | None) -> None:
        self.setup = setup
        self.own = setup.source == "s2pt"
        self.outputs = outputs
        self.tables = Tables(setup, start)
        self.facts: Counter[str] = Counter()
        self.violations: dict[str, list[Violation]] = defaultdict(list)
        self.threads: dict[int, _Thread] = {}
        self.holders: dict[int, _Held] = {}
        self.sizes = {level: setup.geometry.size(level) for level in range(-1, 4)}

    def thread(self, number: int) -> _Thread:
        found = self.threads.get(number)
        if found is None:
            found = self.threads[number] = _Thread(Debtor(self.setup.geometry.granule, self.sizes))
        return found

    def bad(self, invariant: str, steps: tuple[int, ...], entry: int | None, text: str, ipa: int | None = None) -> None:
        if ipa is None and entry is not None:
            place = self.tables.place(entry)
            ipa = None if place is None else self.tables.ipa(place)
        self.violations[invariant].append(Violation(invariant, steps, entry, ipa, text))

    def fact(self, invariant: str, holds: bool, steps: tuple[int, ...], entry: int | None, text: str) -> bool:
        """Look at one fact of an invariant."""
        self.facts[invariant] += 1
        if not holds:
            self.bad(invariant, steps, entry, text)
        return holds

    # --- steps -------------------------------------------------------------------------------------------------------

    def play(self, event: Event) -> None:
        thread = self.thread(event.thread)
        thread.idle = event.kind == "return"
        kind, fields = event.kind, event.fields
        if kind == "store":
            self.store(event, thread)
        elif kind.startswith("tlbi_"):
            if kind == "tlbi_range":
                text = "a range TLBI, and the CPU has none"
                self.fact("I2", self.setup.tlbi_range, (event.sequence,), None, text)
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
            self.back(thread, event.sequence)
        elif kind == "allocate":
            self.allocate(event, thread)
        elif kind == "fill":
            self.fill(event, thread)
        elif kind == "retire":
            self.retire(event, thread)
        elif kind == "free":
            self.free(event, thread)
        elif kind not in ("isb", "cache_data", "cache_instruction"):
            raise RecordingError(f"step {event.sequence} is of an unknown kind, {kind!r}")

    def allocate(self, event: Event, thread: _Thread) -> None:
        frame = _number(event, "frame")
        before = self.tables.at(frame)
        text = f"the frame was taken while it is {'' if before is None else before.state}"
        steps = (event.sequence,) if before is None else (before.since, event.sequence)
        self.fact("I1", before is None, steps, frame, text)
        table = self.tables.take(frame, event.thread, event.sequence)
        if table.state == PRIVATE:
            thread.private[frame] = table

    def fill(self, event: Event, thread: _Thread) -> None:
        entry, count = _number(event, "entry"), _number(event, "count")
        place = self.tables.place(entry)
        private = place is not None and place.table.state == PRIVATE and place.table.pa in thread.private
        if place is not None and place.index + count > len(place.table.values):
            raise RecordingError(f"step {event.sequence} fills {count} entries, more than there are")
        text = "a frame that is not the thread's own was filled"
        if self.fact("I4", private, (event.sequence,), entry, text) and place is not None:
            # Python's numbers: the sum may run past 64 bits, and wraps there.
            first, step = _number(event, "first"), _number(event, "step")
            values = [(first + each * step) % (1 << 64) for each in range(count)]
            place.table.values[place.index : place.index + count] = np.array(values, np.uint64)

    def retire(self, event: Event, thread: _Thread) -> None:
        frame, level = _number(event, "frame"), _number(event, "level")
        table = thread.unlinked.pop(frame, None)
        text = "a table was retired whose parent entry the thread has not made anew"
        if self.fact("I4", table is not None, (event.sequence,), frame, text) and table is not None:
            self.fact(
                "I4", table.level == level, (event.sequence,), frame, f"it is of level {table.level}, not {level}"
            )
            for each in self.tables.subtree(table):
                each.state, each.since = RETIRED, event.sequence

    def free(self, event: Event, thread: _Thread) -> None:
        frame = _number(event, "frame")
        table = self.tables.at(frame)
        steps = (event.sequence,) if table is None else (table.since, event.sequence)
        if self.fact("I1", table is not None, steps, frame, "a frame was freed that is free") and table is not None:
            own = thread.private.pop(frame, None) is not None
            good = table.state == RETIRED if self.own else self.cut_off(table)
            good = good or (table.state == PRIVATE and own)
            self.fact("I4", good, steps, frame, f"a frame was freed while it is {table.state}")
            self.tables.give_back(frame)

    def cut_off(self, table: Table) -> bool:
        """Tell whether no CPU can come to a table: as a log without retired tables tells it."""
        while table.state == LINKED and table.above is not None:
            above = Place(*table.above)
            held = self.holders.get(above.pa)
            if held is not None and held.region is not None and held.region.done:
                return True
            table = above.table
        return table.state == UNLINKED

    # --- stores ------------------------------------------------------------------------------------------------------

    def store(self, event: Event, thread: _Thread) -> None:
        entry, old, new = _number(event, "entry"), _number(event, "old"), _number(event, "new")
        place = self.tables.place(entry)
        linked = place is not None and place.table.state == LINKED
        state = "free" if place is None else place.table.state
        self.fact("I4", linked, (event.sequence,), entry, f"a store into a table that is {state}")
        if place is None:
            return
        found = int(place.table.values[place.index])
        if found != old:
            self.bad("history", (event.sequence,), entry, f"it holds {found:#x}, and the store found {old:#x}")
        place.table.values[place.index] = new
        if not linked:
            return
        held = self.holders.get(entry)
        if not self.own and held is not None:
            if new & VALID:  # in a log of another program whoever makes it valid makes it
                self.make(event, thread, place, held)
        elif old == LOCKED:
            mine = held is not None and held.thread == event.thread and not is_frozen(old)
            self._hold_ends(event, entry, held, mine, "was made")
            if held is not None:
                self.make(event, thread, place, held)
        elif is_frozen(old):
            mine = held is not None and held.thread == event.thread
            self._hold_ends(event, entry, held, mine, "was thawed")
            self.fact("I5", new == thaw(old), (event.sequence,), entry, "a thaw gives what the freeze took")
            self._release(entry, held)
        elif new == LOCKED or (not self.own and old & VALID and not new & VALID):
            self.lock(event, thread, place, old)
        elif is_frozen(new):
            self.freeze(event, thread, place, old, new)
        elif old & VALID:
            text = "a valid entry was emptied without a break"
            if self.fact("I2", bool(new & VALID), (event.sequence,), entry, text):
                self.in_place(event, thread, place, old, new)
        elif new & VALID:
            self.appear(event, thread, place, new)
        else:
            self.facts["I8"] += 1

    def _hold_ends(self, event: Event, entry: int, held: _Held | None, mine: bool, what: str) -> None:
        steps = (event.sequence,) if held is None else (held.step, event.sequence)
        who = "nobody held it" if held is None else f"thread {held.thread} held it"
        self.fact("I5", held is not None, steps, entry, f"an entry {what} by thread {event.thread}, and {who}")
        if held is not None:
            self.fact("I8", mine, steps, entry, f"an entry {what} by thread {event.thread}, and {who}")

    def _release(self, entry: int, held: _Held | None) -> None:
        if held is not None:
            self.holders.pop(entry, None)
            self.thread(held.thread).held.pop(entry, None)

    def _hold(self, event: Event, thread: _Thread, entry: int, held: _Held) -> None:
        self.facts["I8"] += 1
        self.holders[entry] = thread.held[entry] = held

    def lock(self, event: Event, thread: _Thread, place: Place, old: int) -> None:
        held = _Held(event.thread, event.sequence, old)
        table, ipa = place.table, self.tables.ipa(place)
        if old & VALID and table.level is not None and ipa is not None:
            below = self.below(place, old)
            size = self.sizes[table.level]
            held.region = Region(event.sequence, place.pa, ipa, ipa + size, table.level, below)
            thread.debtor.add(held.region)
        self._hold(event, thread, place.pa, held)

    def below(self, place: Place, value: int) -> Table | None:
        """Give the table that an entry points to."""
        level = place.table.level
        if level is None or not self.setup.is_table(value, level):
            return None
        return self.tables.at(self.setup.address(value))

    def freeze(self, event: Event, thread: _Thread, place: Place, old: int, new: int) -> None:
        entry, steps = place.pa, (event.sequence,)
        self.fact("I5", new == freeze(old), steps, entry, f"frozen it must still say that it was {old:#x}")
        top = place
        while top.table.above is not None:
            top = Place(*top.table.above)
            above = thread.held.get(top.pa)
            if above is not None and above.region is not None:
                # What is frozen is broken: the TLBI must come after the last of them.
                above.region.ready_at, above.region.stage2, above.region.done = None, False, False
                break
        else:
            self.bad("I5", steps, entry, "a table was frozen whose parent entry the thread does not hold LOCKED")
        self._hold(event, thread, entry, _Held(event.thread, event.sequence, old))

    def make(self, event: Event, thread: _Thread, place: Place, held: _Held) -> None:
        entry, new = place.pa, _number(event, "new")
        steps = (held.step, event.sequence)
        debtor = self.thread(held.thread).debtor
        called_off = new == held.old
        if held.region is not None:
            done = called_off or held.region.done
            text = "" if done else f"made too early: {debtor.missing(held.region)}"
            self.fact("I2", done, steps, entry, text)
            debtor.settle(held.region)
        self._release(entry, held)
        child = self.below(place, held.old) if held.old & VALID else None
        if child is not None and not called_off:
            self.unlink(event, thread, child)
        if called_off:
            if child is not None:
                frozen = [
                    each.pa + 8 * index for each in self.tables.subtree(child) for index in self.mine(each, thread)
                ]
                self.fact(
                    "I5", not frozen, steps, entry, "the unlink was called off, and entries below are still FROZEN"
                )
        elif new & VALID:
            self.appear(event, thread, place, new)

    def mine(self, table: Table, thread: _Thread) -> list[int]:
        """Give the entries of a table that a thread has frozen."""
        return [
            index
            for index in self.tables.held(table)
            if table.pa + 8 * index in thread.held and int(table.values[index]) != LOCKED
        ]

    def unlink(self, event: Event, thread: _Thread, top: Table) -> None:
        """Note that the last way to a table is gone."""
        for table in self.tables.subtree(top):
            table.state, table.owner, table.since = UNLINKED, event.thread, event.sequence
            if self.own and not self.setup.exclusive:
                frozen = (table.values >> np.uint64(63)) == 1
                text = f"{int((~frozen).sum())} entries of a table were not frozen when it was unlinked"
                self.fact("I4", bool(frozen.all()), (event.sequence,), table.pa, text)
            for entry in [entry for entry in thread.held if 0 <= entry - table.pa < 8 * len(table.values)]:
                self._release(entry, thread.held[entry])
        thread.unlinked[top.pa] = top

    def in_place(self, event: Event, thread: _Thread, place: Place, old: int, new: int) -> None:
        entry, steps = place.pa, (event.sequence,)
        level = place.table.level
        assert level is not None
        leaf = not self.setup.is_table(old, level)
        self.facts["I8"] += 1
        self.facts["I3"] += 1
        text = f"{old:#x} became {new:#x} without a break"
        if not self.fact("I2", leaf and not (old ^ new) & ~IN_PLACE, steps, entry, text):
            return
        self.leaves(event, place.table, place.index, place.index + 1)
        before, now = self.setup.rights(old), self.setup.rights(new)
        start = self.tables.ipa(place) or 0
        end = start + self.sizes[level]
        if not before <= now:
            # KVM's write protection leaves the TLBI to its caller.
            lax = self.setup.semantics == "kvm" and before - now == {"w"}
            thread.debtor.add(Region(event.sequence, 0, start, end, level, lax=lax))
        elif before < now:
            thread.debtor.add(Region(event.sequence, 0, start, end, level, local=True))

    def appear(self, event: Event, thread: _Thread, place: Place, new: int) -> None:
        """Look at an entry that became valid."""
        if self.own:
            self.facts["R11"] += 1
            if thread.unpublished is None:
                thread.unpublished = event
        level = place.table.level
        if level is None or not self.setup.is_table(new, level):
            self.leaves(event, place.table, place.index, place.index + 1)
            return
        address = self.setup.address(new)
        table = self.tables.at(address)
        state = "free" if table is None else table.state
        good = table is not None and state == PRIVATE
        steps = (event.sequence,)
        if not self.fact("I1", good, steps, place.pa, f"a table was linked at {address:#x}, which is {state}"):
            return
        todo = [(place, table)]
        while todo:
            above, child = todo.pop()
            if child is None or above.table.level is None:
                continue
            child.state, child.since = LINKED, event.sequence
            child.level, child.ipa, child.above = (
                above.table.level + 1,
                self.tables.ipa(above),
                (above.table, above.index),
            )
            for each in (thread, self.thread(child.owner)):
                each.private.pop(child.pa, None)
            self.leaves(event, child, 0, len(child.values))
            for index, below in self.tables.children(child):
                text = f"a table that was linked points to {below.pa:#x}, which is {below.state}"
                if self.fact("I1", below.state == PRIVATE, steps, child.pa + 8 * index, text):
                    todo.append((Place(child, index), below))

    def leaves(self, event: Event, table: Table, first: int, last: int) -> None:
        """Look at leaves that have become visible."""
        level, geometry = table.level, self.setup.geometry
        if level is None or table.ipa is None:
            return
        size = self.sizes[level]
        for index in np.flatnonzero(table.values[first:last] & np.uint64(VALID)):
            value = int(table.values[first + index])
            if self.setup.is_table(value, level):
                continue
            ipa, output = table.ipa + (first + int(index)) * size, self.setup.address(value)
            text = ""
            if (value & 2 != 0) != (level == 3) or not geometry.block_allowed(level):
                text = f"{value:#x} is no leaf of level {level}"
            elif output % size:
                text = f"the output {output:#x} is not aligned to {size:#x}"
            elif output + size > 1 << geometry.pa_bits:
                text = f"the output {output:#x} ends beyond {geometry.pa_bits} bits"
            elif self.outputs is not None:
                wanted = self.outputs(ipa)
                allowed = {wanted} if isinstance(wanted, int) else set(wanted)
                if output not in allowed:
                    text = f"it maps {output:#x}, not {' or '.join(map(hex, sorted(allowed)))}"
            self.fact("I6", not text, (event.sequence,), table.pa + 8 * (first + int(index)), text)

    # --- ends --------------------------------------------------------------------------------------------------------

    def back(self, thread: _Thread, sequence: int | None) -> None:
        """Look at what is left of a call that is over: nothing may be."""
        steps = () if sequence is None else (sequence,)
        for entry, held in list(thread.held.items()):
            if self.own:
                word = "FROZEN" if is_frozen(self.value(entry)) else "LOCKED"
                self.bad("I5", (held.step, *steps), entry, f"left {word} by thread {held.thread}")
                self._release(entry, held)
                if held.region is not None:
                    thread.debtor.settle(held.region)
        if self.own:
            self.facts["I5"] += 1
        for region in [region for region in thread.debtor.regions if not region.entry and not region.lax]:
            if not region.done:
                what = "gained" if region.local else "lost"
                missing = thread.debtor.missing(region)
                place = f"a leaf {what} a right, and {missing}"
                self.bad("I3", (region.step, *steps), None, place, region.start)
            thread.debtor.settle(region)
        if thread.unpublished is not None:
            event, thread.unpublished = thread.unpublished, None
            self.bad("R11", (event.sequence, *steps), _number(event, "entry"), "it was made valid and never published")
        if self.own:
            self.facts["I7"] += 1
            for frame, table in thread.private.items():
                self.bad("I7", (table.since, *steps), frame, "a frame was taken, and neither linked nor given back")
            thread.private.clear()
            for frame, table in thread.unlinked.items():
                self.bad("I4", (table.since, *steps), frame, "a table was unlinked and not retired")
            thread.unlinked.clear()

    def value(self, entry: int) -> int:
        """Give what an entry holds."""
        place = self.tables.place(entry)
        return 0 if place is None else int(place.table.values[place.index])

    def finish(self) -> None:
        """Look at what is left at the end."""
        for thread in self.threads.values():
            if not thread.idle:
                self.back(thread, None)
        if not self.own:
            return
        for table in self.tables:
            if table.state == LINKED:
                for index in self.tables.held(table):
                    self.bad("I5", (), table.pa + 8 * index, f"it is {int(table.values[index]):#x} at the end")
                self.facts["I5"] += 1
            good = table.state in (LINKED, RETIRED)
            self.fact("I1", good, (table.since,), table.pa, f"a frame is {table.state} at the end")

    def left_to_caller(self) -> int:
        """Count the leaves whose TLBI the caller still owes."""
        owed = 0
        for thread in self.threads.values():
            for region in thread.debtor.regions:
                if region.lax and not region.done:
                    owed += (region.end - region.start) // self.sizes[region.level]
        return owed


def _number(event: Event, name: str) -> int:
    value = event.fields.get(name)
    if not isinstance(value, int):
        raise RecordingError(f"step {event.sequence} ({event.kind}) has no {name}")
    return value
