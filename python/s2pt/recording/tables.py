"""The frames of a table while its recording is played again: what each holds, where it hangs, what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2pt.errors import RecordingError
from s2pt.recording.setup import FROZEN, FROZEN_VALID, LOCKED, VALID, Setup

__all__ = ["LINKED", "PRIVATE", "RETIRED", "UNLINKED", "Place", "Snapshot", "Table", "Tables", "maps_nothing"]

Words = NDArray[np.uint64]
PRIVATE, LINKED, UNLINKED, RETIRED = "private", "linked", "unlinked", "retired"


class Table:
    """One table: a frame, or the frames of the root."""

    __slots__ = ("above", "ipa", "level", "owner", "pa", "since", "state", "values")

    def __init__(self, pa: int, values: Words, owner: int, since: int) -> None:
        self.pa = pa
        self.values = values
        self.owner = owner  # who took the frame; later: who unlinked the table
        self.since = since  # the step that brought it into its state
        self.state = PRIVATE
        self.level: int | None = None
        self.ipa: int | None = None
        self.above: tuple[Table, int] | None = None


@dataclass(slots=True)
class Place:
    """An entry."""

    table: Table
    index: int

    @property
    def pa(self) -> int:
        """Its physical address."""
        return self.table.pa + 8 * self.index


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the tables held at some moment at which no call was under way.

    Attributes
    ----------
    linked : dict
        For each table in the tree, by address: its level, the first IPA that it translates, and its entries.
    retired : dict
        The same for what is unlinked and not free yet.
    """

    linked: dict[int, tuple[int, int, Words]] = field(default_factory=dict, repr=False)
    retired: dict[int, tuple[int, int, Words]] = field(default_factory=dict, repr=False)


def maps_nothing(table: Table) -> bool:
    """Tell whether nothing in a table is valid, frozen entries by what they were."""
    return not bool(np.any(table.values & np.uint64(VALID | FROZEN_VALID)))


def is_entry_table(values: Words) -> NDArray[np.bool_]:
    """Tell which entries of a table above level 3 point to tables, frozen ones included."""
    as_is = (values & np.uint64(3)) == 3
    state = np.uint64(FROZEN | FROZEN_VALID | 3)
    frozen = (values & state) == np.uint64(FROZEN | FROZEN_VALID | 2)
    return np.asarray(as_is | frozen)


def _kept(pa: Any, kept: Any) -> tuple[int, int, Words]:
    """Take one table of a snapshot, which need not be ours."""
    if isinstance(pa, int) and isinstance(kept, tuple) and len(kept) == 3:
        level, ipa, values = kept
        words = isinstance(values, np.ndarray) and values.dtype == np.uint64 and values.ndim == 1
        if isinstance(level, int) and -1 <= level <= 3 and isinstance(ipa, int) and words:
            return level, ipa, values
    raise RecordingError("the snapshot holds something else than tables: level, IPA, entries")


class Tables:
    """All frames that are out."""

    def __init__(self, setup: Setup, start: Snapshot | None) -> None:
        self.setup = setup
        self._of_frame = -setup.geometry.granule
        self._sizes = {level: setup.geometry.size(level) for level in range(-1, 4)}
        self._by_frame: dict[int, Table] = {}
        if start is not None:
            for state, tables in ((LINKED, start.linked), (RETIRED, start.retired)):
                for pa, kept in tables.items():
                    level, ipa, values = _kept(pa, kept)
                    table = self.take(pa, -1, -1)
                    if values.shape != table.values.shape:
                        raise RecordingError(f"the snapshot has {len(values)} entries of the table at {pa:#x}")
                    table.values[:] = values
                    table.state, table.level, table.ipa = state, level, ipa
            for table in list(self):
                for index, child in self.children(table):
                    child.above = (table, index)

    def __iter__(self) -> Iterator[Table]:
        """Each table once."""
        return iter({id(table): table for table in self._by_frame.values()}.values())

    def at(self, frame: int) -> Table | None:
        """Give the table at a frame's address."""
        return self._by_frame.get(frame)

    def place(self, entry: int) -> Place | None:
        """Find the entry at a physical address."""
        table = self._by_frame.get(entry & self._of_frame)
        return None if table is None else Place(table, (entry - table.pa) // 8)

    def take(self, frame: int, thread: int, sequence: int) -> Table:
        """Take a frame out: zeros. The root's come together, and are linked."""
        setup = self.setup
        root = frame == setup.root
        frames = setup.geometry.root_frames if root else 1
        table = Table(frame, np.zeros(frames * setup.entries, np.uint64), thread, sequence)
        if root:
            table.state, table.level, table.ipa = LINKED, setup.geometry.start_level, 0
        for each in range(frames):
            self._by_frame[frame + each * setup.geometry.granule] = table
        return table

    def give_back(self, frame: int) -> None:
        """Free a frame."""
        self._by_frame.pop(frame, None)

    def ipa(self, place: Place) -> int | None:
        """Give the first address that an entry translates, if that is known."""
        table = place.table
        if table.ipa is None or table.level is None:
            return None
        return table.ipa + place.index * self._sizes[table.level]

    def children(self, table: Table) -> Iterator[tuple[int, Table]]:
        """Give the tables that the entries of one point to, frozen entries included."""
        if table.level is None or table.level >= 3:
            return
        for index in np.flatnonzero(is_entry_table(table.values)):
            child = self._by_frame.get(self.setup.address(int(table.values[index])))
            if child is not None and child.level in (None, table.level + 1):
                yield int(index), child

    def subtree(self, top: Table) -> Iterator[Table]:
        """Give a table and all below it, from the top."""
        todo, seen = [top], {id(top)}
        while todo:
            table = todo.pop()
            yield table
            for _, child in self.children(table):
                if id(child) not in seen:
                    seen.add(id(child))
                    todo.append(child)

    def snapshot(self) -> Snapshot:
        """Keep what is linked and what is retired."""
        kept = Snapshot()
        for table in self:
            where = {LINKED: kept.linked, RETIRED: kept.retired}.get(table.state)
            if where is not None and table.level is not None and table.ipa is not None:
                where[table.pa] = (table.level, table.ipa, table.values.copy())
        return kept

    def held(self, table: Table) -> list[int]:
        """Give the indices of entries that are LOCKED or FROZEN."""
        values = table.values
        frozen = (values & np.uint64(FROZEN | VALID)) == np.uint64(FROZEN)
        return [int(index) for index in np.flatnonzero(frozen | (values == np.uint64(LOCKED)))]
