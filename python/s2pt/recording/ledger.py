"""What the checker knows while it plays a recording: tables, who holds which entry, what was found wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from s2pt.events import Event
from s2pt.recording.owed import Debtor, Region
from s2pt.recording.report import Violation
from s2pt.recording.setup import Setup
from s2pt.recording.tables import Place, Snapshot, Table, Tables

__all__ = ["Held", "Ledger", "Outputs", "Thread"]

Outputs = Callable[[int], "int | Collection[int]"]


@dataclass(slots=True, eq=False)
class Held:
    """An entry between break and make, or a frozen one."""

    thread: int
    step: int
    old: int
    region: Region | None = None


class Thread:
    """What a thread has under way."""

    def __init__(self, debtor: Debtor) -> None:
        self.debtor = debtor
        self.held: dict[int, Held] = {}
        self.unpublished: Event | None = None
        self.private: dict[int, Table] = {}
        self.unlinked: dict[int, Table] = {}
        self.idle = True


class Ledger:
    """The state of a check."""

    def __init__(self, setup: Setup, start: Snapshot | None, outputs: Outputs | None) -> None:
        self.setup = setup
        self.own = setup.source == "s2pt"
        self.outputs = outputs
        self.tables = Tables(setup, start)
        self.facts: Counter[str] = Counter()
        self.violations: dict[str, list[Violation]] = defaultdict(list)
        self.threads: dict[int, Thread] = {}
        self.holders: dict[int, Held] = {}
        self.sizes = {level: setup.geometry.size(level) for level in range(-1, 4)}
        self.leaf_levels = frozenset(level for level in self.sizes if setup.geometry.block_allowed(level))

    def thread(self, number: int) -> Thread:
        """Give what is known of a thread."""
        found = self.threads.get(number)
        if found is None:
            found = self.threads[number] = Thread(Debtor(self.setup.geometry.granule, self.sizes))
        return found

    def bad(self, invariant: str, steps: tuple[int, ...], entry: int | None, text: str, ipa: int | None = None) -> None:
        """Note a violation."""
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

    def hold(self, thread: Thread, entry: int, held: Held) -> None:
        """Note that a thread holds an entry from now on."""
        self.facts["I8"] += 1
        self.holders[entry] = thread.held[entry] = held

    def release(self, entry: int, held: Held | None) -> None:
        """Note that nobody holds an entry any longer."""
        if held is not None:
            self.holders.pop(entry, None)
            self.thread(held.thread).held.pop(entry, None)

    def below(self, place: Place, value: int) -> Table | None:
        """Give the table that an entry points to."""
        level = place.table.level
        if level is None or not self.setup.is_table(value, level):
            return None
        return self.tables.at(self.setup.address(value))

    def value(self, entry: int) -> int:
        """Give what an entry holds."""
        place = self.tables.place(entry)
        return 0 if place is None else int(place.table.values[place.index])
