"""A replayed table against the one that KVM had, with the cause of each difference where it is known.

KVM drops more than it is told to: a 4 KiB map inside a block loses the other 511 pages, taking a page of a block back
loses the whole block, and the guest faults them in again. Our table keeps them. `History` follows what KVM dropped,
from the recorded calls (or, where none were recorded, from KVM's size rule), so that a leaf that only we have can be
told to be such a page, and not an error.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from s2pt.trace.events import EventFlag, Kind, Outcome, SlotChange
from s2pt.trace.load import Trace
from s2pt.trace.slots import LOG_DIRTY, Slot, SlotEvent, Slots

_NEAR = 2000
"""How many rows before and after a fault are searched for the calls that overlap it."""

__all__ = ["Cause", "Comparison", "Difference", "History", "LevelDifference", "compare"]


class Cause(StrEnum):
    """Why something differs."""

    KEPT = "kept by exact split"
    """KVM dropped this page with its block, our split kept it, and nobody touched it since."""
    FOLLOWS = "follows from a kept page"
    """KVM had dropped this page and mapped it anew, smaller, larger or with fewer permissions; ours was still there."""
    HARDWARE_AF = "access flag set by hardware"
    """After ageing, hardware set the flag again, which no event shows."""
    NO_ADDRESS = "address not recorded"
    """Nothing tells which host page lay here when the guest faulted."""
    IN_FLIGHT = "call of another vCPU in flight"
    """The hardware walk met the entry while another vCPU's call was between break and make."""
    NO_TIMES = "times of calls not recorded"
    """Another vCPU had faulted on the same block; when its call returned is not known."""
    HOST_CHANGED = "host memory changed before the dump"
    """What the host had here is known from the next dump only, and it took this memory back in between."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Difference:
    """One leaf that differs. `ours` and `theirs` are (size, pa, prot, af), None where that table has no leaf."""

    ipa: int
    what: str
    ours: tuple[int, int, int, int] | None
    theirs: tuple[int, int, int, int] | None
    cause: Cause


@dataclass(frozen=True, slots=True)
class LevelDifference:
    """A fault whose syndrome names another level than the one where our walk ended."""

    row: int
    ipa: int
    theirs: int
    ours: int
    cause: Cause


@dataclass(slots=True)
class Comparison:
    """One dump against our table at that moment.

    Attributes
    ----------
    name : str
        The dump.
    theirs, ours, same : int
        Leaves of KVM's table, of ours, and those equal in IPA, size, output address, permissions and access flag.
    differences : list of Difference
        All others, ascending IPA.
    """

    name: str
    theirs: int
    ours: int
    same: int
    differences: list[Difference] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Count the differences by what differs."""
        return dict(sorted(Counter(difference.what for difference in self.differences).items()))

    def causes(self) -> dict[str, int]:
        """Count the differences by cause."""
        return dict(sorted(Counter(difference.cause.value for difference in self.differences).items()))


class History:
    """What KVM dropped of its blocks, up to a moment that `advance` moves on.

    Parameters
    ----------
    trace : Trace
        The recorded run.
    keeps : bool
        Whether our table keeps what KVM drops; with KVM's semantics it does not, and nothing is excused by that.
    """

    def __init__(self, trace: Trace, keeps: bool = True) -> None:
        self.trace, self.keeps = trace, keeps
        self.page, self.block = trace.shape.page_size, trace.shape.block_size
        self.dropped: set[int] = set()
        """Pages that KVM dropped and has not mapped since."""
        self.ever: set[int] = set()
        """Pages that KVM dropped at some time."""
        self.unknown_address: set[int] = set()
        self.aged: set[int] = set()
        self._blocks: set[int] = set()
        self._slots = Slots()
        self._next = 0

    def advance(self, row: int) -> None:
        """Take in every event before `row`."""
        part = self.trace.events[self._next : row]
        self._next = max(self._next, row)
        wanted = part[~np.isin(part["kind"], (Kind.FAULT, Kind.MARK, Kind.DUMP))]
        wanted = wanted[(wanted["kind"] != Kind.HANDLED) | (wanted["outcome"] != Outcome.MMIO)]
        names = wanted.dtype.names or ()
        for values in wanted.tolist():
            self._step(dict(zip(names, values, strict=True)))
        if not self.keeps:
            self.dropped.clear()
            self.ever.clear()

    def _step(self, event: dict[str, int]) -> None:
        kind, ipa, size = event["kind"], event["ipa"], event["size"]
        if kind in (Kind.HANDLED, Kind.MAP):
            if event["flags"] & EventFlag.NO_PA:
                self.unknown_address.add(ipa)
            if event["outcome"] == Outcome.MAP or kind == Kind.MAP:
                if event["ret"] == 0:
                    self._mapped(event["map_ipa"], event["map_size"])
            elif event["outcome"] == Outcome.UNKNOWN:
                size = self._size_by_rule(event)
                self._mapped(ipa - ipa % size, size)
        elif kind == Kind.UNMAP:
            self._taken_back(ipa, size)
        elif kind == Kind.SLOT:
            slot = Slot(event["slot"], ipa, size, event["hva"], event["flags"])
            self._slots.apply(SlotEvent(event["time_us"], SlotChange(event["ref"]), slot))
        elif kind == Kind.AGE and event["ref"] == 1:
            self.aged.update(range(ipa - ipa % self.block, ipa + size, self.block))

    def _size_by_rule(self, event: dict[str, int]) -> int:
        """Give the size at which KVM maps: a block if the host has one, the slot is congruent and does not log."""
        slot = self._slots.at(event["ipa"])
        size = event["host_size"]
        if slot is None or slot.flags & LOG_DIRTY or size < self.block or (slot.ipa - slot.hva) % size:
            return self.page
        base = event["ipa"] - event["ipa"] % size
        return size if slot.ipa <= base and base + size <= slot.ipa + slot.size else self.page

    def _pages(self, base: int) -> range:
        return range(base, base + self.block, self.page)

    def _mapped(self, ipa: int, size: int) -> None:
        if size >= self.block:
            for base in range(ipa, ipa + size, self.block):
                self._blocks.add(base)
                self.dropped.difference_update(self._pages(base))
            return
        base = ipa - ipa % self.block
        if base in self._blocks:
            self._drop(base)
        self.dropped.difference_update(range(ipa, ipa + size, self.page))

    def _taken_back(self, ipa: int, size: int) -> None:
        end = ipa + size
        for base in range(ipa - ipa % self.block, end, self.block):
            if base in self._blocks:
                self._drop(base)
        self.dropped.difference_update(range(ipa, end, self.page))

    def _drop(self, base: int) -> None:
        self._blocks.discard(base)
        self.dropped.update(self._pages(base))
        self.ever.update(self._pages(base))

    def _any(self, pages: set[int], ipa: int, size: int) -> bool:
        return any(page in pages for page in range(ipa, ipa + size, self.page))

    def cause_of_leaf(self, ipa: int, what: str, ours: _Leaf, theirs: _Leaf) -> Cause:
        """Say why a leaf differs at the moment reached."""
        if what == "only ours" and ours is not None and ours[0] == self.page and ipa in self.dropped:
            return Cause.KEPT
        if what == "af" and self.trace.shape.hardware_af and ipa - ipa % self.block in self.aged:
            return Cause.HARDWARE_AF
        size = max(leaf[0] for leaf in (ours, theirs) if leaf is not None)
        if what == "pa" and self._any(self.unknown_address, ipa, size):
            return Cause.NO_ADDRESS
        lost = ours is None or (theirs is not None and theirs[0] <= ours[0] and theirs[2] & ~ours[2])
        if what in ("size", "prot", "only ours") and self._any(self.ever, ipa, size) and not lost:
            return Cause.FOLLOWS
        return Cause.UNKNOWN

    def cause_of_level(self, row: int, theirs: int) -> Cause:
        """Say why the fault at `row` speaks of level `theirs`; every event before it must have been taken in."""
        fault = self.trace.events[row]
        ipa, time_us = int(fault["ipa"]), fault["time_us"]
        # What another vCPU did beneath the entry that the hardware walk had ended at.
        span = self.trace.shape.level_size(theirs)
        near = self.trace.events[max(row - _NEAR, 0) : row + _NEAR]
        near = near[(near["kind"] == Kind.HANDLED) & (near["vcpu"] != fault["vcpu"])]
        there = (near["outcome"] != Outcome.MMIO) & (near["ipa"] // span == ipa // span)
        if self.trace.has_calls:
            if np.any(there & (near["begin_us"] <= time_us) & (time_us <= near["time_us"])):
                return Cause.IN_FLIGHT
        else:
            # It is not known when its call returned, but it was not seen to go on since.
            before = near["time_us"] <= time_us
            last = {int(vcpu): index for index, vcpu in enumerate(near["vcpu"]) if before[index]}
            if any(there[index] for index in last.values()):
                return Cause.NO_TIMES
        base = ipa - ipa % self.block
        if self._any(self.dropped, base, self.block):
            return Cause.KEPT
        if self._any(self.ever, base, self.block):
            return Cause.FOLLOWS
        return Cause.HOST_CHANGED if self._host_changed(row, base) else Cause.UNKNOWN

    def _host_changed(self, row: int, base: int) -> bool:
        """Whether the host took memory of this block back after `row`, before the dump that tells what lay there."""
        if self.trace.has_sizes:
            return False
        later = self.trace.events[row:]
        dumps = np.flatnonzero(later["kind"] == Kind.DUMP)
        later = later[: dumps[0] if len(dumps) else len(later)]
        unmaps = later[later["kind"] == Kind.UNMAP]
        return bool(np.any((unmaps["ipa"] < base + self.block) & (unmaps["ipa"] + unmaps["size"] > base)))


_Leaf = tuple[int, int, int, int] | None


def compare(
    trace: Trace,
    snapshots: Iterable[tuple[int, int, npt.NDArray[np.uint64]]],
    levels: Iterable[tuple[int, int, int, int]] = (),
    keeps: bool = True,
) -> tuple[list[Comparison], list[LevelDifference]]:
    """Compare a replay with what was recorded.

    Parameters
    ----------
    trace : Trace
        The recorded run.
    snapshots : iterable of (row, dump index, leaves)
        Our table at each dump: rows of 64-bit words ipa, size, pa, prot, af, ascending IPA.
    levels : iterable of (row, ipa, theirs, ours)
        Faults whose levels differ.
    keeps : bool
        Whether our table keeps what KVM drops, as it does with exact semantics.

    Returns
    -------
    comparisons : list of Comparison
        One for each snapshot.
    levels : list of LevelDifference
        The same with their causes.
    """
    history = History(trace, keeps)
    comparisons, explained = [], []
    # Both kinds are asked for in the order of time, so one history serves all.
    waiting = deque(sorted(levels))
    for row, index, leaves in [*sorted(snapshots, key=lambda entry: entry[0]), (len(trace.events), -1, None)]:
        while waiting and waiting[0][0] < row:
            at, ipa, theirs, ours = waiting.popleft()
            history.advance(at)
            explained.append(LevelDifference(at, ipa, theirs, ours, history.cause_of_level(at, theirs)))
        if leaves is not None:
            history.advance(row)
            dump = trace.dumps[index]
            comparisons.append(_compare_dump(history, dump.name, dump.leaves, leaves))
    return comparisons, explained


def _compare_dump(
    history: History, name: str, theirs: npt.NDArray[np.void], ours: npt.NDArray[np.uint64]
) -> Comparison:
    their_leaves = {values[0]: values[1:] for values in theirs.tolist()}
    our_leaves = {values[0]: tuple(values[1:]) for values in ours.tolist()}
    result = Comparison(name, len(their_leaves), len(our_leaves), 0)
    for ipa in sorted(their_leaves.keys() | our_leaves.keys()):
        our, their = our_leaves.get(ipa), their_leaves.get(ipa)
        if our == their:
            result.same += 1
            continue
        for what in _what(our, their):
            result.differences.append(Difference(ipa, what, our, their, history.cause_of_leaf(ipa, what, our, their)))
    return result


def _what(ours: _Leaf, theirs: _Leaf) -> Iterator[str]:
    if ours is None or theirs is None:
        yield "only theirs" if ours is None else "only ours"
        return
    for name, our, their in zip(("size", "pa", "prot", "af"), ours, theirs, strict=True):
        if our != their:
            yield name
