"""A stage-2 table made of dictionaries, and KVM's rules applied to it event by event.

It shares no code with the library's tables: what the trace reader says must be enough for it to arrive at the tables
that KVM had. Two ways to take a fault: `"calls"` does what the recorded call did, `"rule"` decides size and permissions
as KVM does, from the slot, the syndrome and the host's memory alone. `exact` keeps the rest of a block that is split.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from s2pt.trace import EventFlag, Kind, Outcome, SlotChange, Trace

X, W, R = 3, 4, 8


class Table:
    """Leaves and tables by level; `count` holds how many entries each table has in use."""

    def __init__(self, page: int, start: int) -> None:
        self.start = start
        stride = page.bit_length() - 4
        self.size = {level: page << (stride * (3 - level)) for level in range(start, 4)}
        self.level = {size: level for level, size in self.size.items()}
        self.leaf: dict[int, dict[int, list[int]]] = {level: {} for level in self.size}
        self.count: dict[int, dict[int, int]] = {level: {} for level in self.size}

    def walk(self, ipa: int) -> tuple[int, int, list[int] | None]:
        """Level, base and leaf (pa, prot, af) where the walk for `ipa` ends."""
        level = self.start
        while True:
            base = ipa - ipa % self.size[level]
            leaf = self.leaf[level].get(base)
            if leaf is not None or level == 3 or base not in self.count[level + 1]:
                return level, base, leaf
            level += 1

    def put(self, level: int, base: int, leaf: list[int]) -> None:
        """Install a leaf; what stood there, block or subtree, is gone."""
        if base not in self.leaf[level] and not (level < 3 and base in self.count[level + 1]):
            self._enter(level, base)
        if level < 3:
            self.drop(level + 1, base)
        self.leaf[level][base] = leaf

    def _enter(self, level: int, base: int) -> None:
        if level == self.start:
            return
        parent = base - base % self.size[level - 1]
        if parent not in self.count[level]:
            if parent in self.leaf[level - 1]:
                del self.leaf[level - 1][parent]  # a block becomes a table: its entry stays in use
            else:
                self._enter(level - 1, parent)
            self.count[level][parent] = 0
        self.count[level][parent] += 1

    def remove(self, level: int, base: int) -> None:
        """Take a leaf away, and every table that is empty then."""
        self.leaf[level].pop(base, None)
        while level > self.start:
            parent = base - base % self.size[level - 1]
            self.count[level][parent] -= 1
            if self.count[level][parent]:
                return
            del self.count[level][parent]
            level, base = level - 1, parent

    def drop(self, level: int, base: int) -> int:
        """Forget the subtree whose top table covers the entry at `base`; count its leaves."""
        if self.count[level].pop(base, None) is None:
            return 0
        gone = 0
        for entry in range(base, base + self.size[level - 1], self.size[level]):
            gone += self.leaf[level].pop(entry, None) is not None
            if level < 3:
                gone += self.drop(level + 1, entry)
        return gone

    def overlapping(self, ipa: int, size: int) -> list[tuple[int, int, list[int]]]:
        found, at = [], ipa
        while at < ipa + size:
            level, base, leaf = self.walk(at)
            if leaf is not None:
                found.append((level, base, leaf))
            at = base + self.size[level]
        return found

    def leaves(self) -> list[tuple[int, int, int, int, int]]:
        """(ipa, size, pa, prot, af), ascending."""
        return sorted(
            (base, self.size[level], *leaf) for level, leaves in self.leaf.items() for base, leaf in leaves.items()
        )


@dataclass
class Compared:
    """A dump against the simulated table."""

    name: str
    theirs: int = 0
    ours: int = 0
    only_theirs: list[int] = field(default_factory=list)
    only_ours: list[int] = field(default_factory=list)
    differ: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    """Of `only_ours`, those that an exact split kept."""


@dataclass
class Result:
    counts: Counter[str] = field(default_factory=Counter)
    levels: Counter[str] = field(default_factory=Counter)
    differing: list[int] = field(default_factory=list)
    dumps: list[Compared] = field(default_factory=list)


class Simulation:
    """Applies a trace to a `Table`."""

    def __init__(self, trace: Trace, *, sizes: str, exact: bool = False) -> None:
        assert sizes in ("calls", "rule")
        self.trace, self.sizes, self.exact = trace, sizes, exact
        self.table = Table(trace.shape.page_size, trace.shape.start_level)
        self.page = trace.shape.page_size
        self.slots: dict[int, tuple[int, int, int, int]] = {}
        self.kept: set[int] = set()
        self.result = Result()

    def run(self) -> Result:
        events = self.trace.events
        names = events.dtype.names or ()
        columns = [events[name].tolist() for name in names]
        for row in range(len(events)):
            event = {name: column[row] for name, column in zip(names, columns, strict=True)}
            self.step(row, event)
        return self.result

    def step(self, row: int, event: dict[str, int]) -> None:
        kind, ipa, size = Kind(event["kind"]), event["ipa"], event["size"]
        counts = self.result.counts
        if kind is Kind.FAULT:
            self.check_level(row, event)
        elif kind is Kind.HANDLED:
            self.handle(event)
        elif kind is Kind.SLOT:
            if event["ref"] == SlotChange.DELETE:
                self.slots.pop(event["slot"], None)
            else:
                self.slots[event["slot"]] = (ipa, size, event["hva"], event["flags"])
        elif kind is Kind.UNMAP:
            for level, base, _ in self.table.overlapping(ipa, size):
                self.table.remove(level, base)
                counts["unmapped"] += 1
        elif kind is Kind.WRPROTECT:
            for _, _, leaf in self.table.overlapping(ipa, size):
                counts["write-protected"] += bool(leaf[1] & W)
                leaf[1] &= ~W
        elif kind is Kind.AGE:
            for _, _, leaf in self.table.overlapping(ipa, size):
                leaf[2] &= not event["ref"]
        elif kind is Kind.SPLIT:
            for level, base, leaf in self.table.overlapping(ipa, size):
                self.split(level, base, leaf, 3)
        elif kind is Kind.MAP:
            if event["ret"] == 0:
                self.map(event["map_ipa"], event["map_size"], event["map_pa"], event["prot"])
        elif kind is Kind.DUMP:
            self.compare(event["ref"])

    # --- faults ----------------------------------------------------------------------------------------------------

    def check_level(self, row: int, event: dict[str, int]) -> None:
        esr = event["esr"]
        level, _, _ = self.table.walk(event["ipa"])
        status = esr & 0x3F
        if esr & 1 << 7 or status >> 2 not in (1, 2, 3):
            self.result.levels["stage 1"] += 1
        elif status & 3 == level:
            self.result.levels["agree"] += 1
        else:
            self.result.levels["differ"] += 1
            self.result.differing.append(row)

    def handle(self, event: dict[str, int]) -> None:
        esr, ipa, counts = event["esr"], event["ipa"], self.result.counts
        permission, walk = esr >> 2 & 0xF == 3, bool(esr & 1 << 7)
        write = permission if walk else esr >> 26 == 0x24 and bool(esr & 1 << 6)
        execute = esr >> 26 == 0x20 and not walk
        slot = next((slot for slot in self.slots.values() if slot[0] <= ipa < slot[0] + slot[1]), None)
        if slot is None or (slot[3] & 2 and write):
            counts["mmio"] += 1
        elif event["outcome"] == Outcome.RETRY:
            counts["retry"] += 1
        elif esr >> 2 & 0xF == 2:
            _, _, leaf = self.table.walk(ipa)
            counts["young"] += 1
            if leaf is not None:
                leaf[2] = 1
        elif self.sizes == "calls":
            self.recorded(event)
        else:
            self.rule(event, slot, write, execute, permission)

    def recorded(self, event: dict[str, int]) -> None:
        counts, outcome = self.result.counts, event["outcome"]
        if event["ret"]:
            counts["lost"] += 1
        elif outcome == Outcome.MAP:
            counts[f"map {event['map_size'] >> 10}K"] += 1
            self.map(event["map_ipa"], event["map_size"], event["map_pa"], event["prot"])
        elif outcome == Outcome.RELAX:
            _, _, leaf = self.table.walk(event["map_ipa"])
            assert leaf is not None
            counts["relax"] += 1
            leaf[1] |= event["prot"]

    def rule(
        self, event: dict[str, int], slot: tuple[int, int, int, int], write: bool, execute: bool, permission: bool
    ) -> None:
        counts, ipa = self.result.counts, event["ipa"]
        start, length, hva, flags = slot
        logging = bool(flags & 1)
        level, _, leaf = self.table.walk(ipa)
        needed = R | (W if write else 0) | (X if execute else 0)
        if leaf is not None and leaf[1] & needed == needed:
            counts["already"] += 1
            return
        host_writable = write or not event["flags"] & EventFlag.HOST_READ_ONLY
        writable = not flags & 2 and host_writable and (write or not logging)
        prot = R | (W if writable else 0) | (X if execute else 0)
        size, block = self.page, event["host_size"]
        base = ipa - ipa % block
        if not logging and (start - hva) % block == 0 and start <= base and base + block <= start + length:
            size = block
        if permission and leaf is not None and not logging:
            size = max(size, self.table.size[level])
        if permission and leaf is not None and self.table.size[level] == size:
            counts["relax"] += 1
            leaf[1] |= prot
            return
        if event["flags"] & EventFlag.NO_PA:
            counts["no address"] += 1
        pa = event["pa"] - event["pa"] % size
        if leaf is not None and self.table.size[level] == size and leaf[0] == pa:
            # Only permissions lack; KVM's map refuses that, and the guest's next, permission fault adds them.
            counts["lost"] += 1
            leaf[1] |= prot
            return
        counts[f"map {size >> 10}K"] += 1
        self.map(ipa - ipa % size, size, pa, prot)

    def map(self, ipa: int, size: int, pa: int, prot: int) -> None:
        level, base, leaf = self.table.walk(ipa)
        wanted = self.table.level[size]
        if leaf is not None and level < wanted:
            self.result.counts["blocks split"] += 1
            if self.exact:
                self.split(level, base, leaf, wanted)
        if wanted < 3:
            gone = sum(1 for _ in self.table.overlapping(ipa, size)) if ipa in self.table.count[wanted + 1] else 0
            self.result.counts["pages merged"] += gone
        self.kept.difference_update(range(ipa, ipa + size, self.page))
        self.table.put(wanted, ipa, [pa, prot, 1])

    def split(self, level: int, base: int, leaf: list[int], to: int) -> None:
        """Replace a block by leaves at level `to`."""
        size = self.table.size[to]
        for offset in range(0, self.table.size[level], size):
            self.table.put(to, base + offset, [leaf[0] + offset, leaf[1], leaf[2]])
            self.kept.update(range(base + offset, base + offset + size, self.page))

    # --- dumps -----------------------------------------------------------------------------------------------------

    def compare(self, index: int) -> None:
        dump = self.trace.dumps[index]
        theirs = {leaf[0]: leaf for leaf in map(tuple, dump.leaves.tolist())}
        ours = {leaf[0]: leaf for leaf in self.table.leaves()}
        compared = Compared(dump.name, len(theirs), len(ours))
        compared.only_theirs = sorted(theirs.keys() - ours.keys())
        compared.only_ours = sorted(ours.keys() - theirs.keys())
        compared.kept = sum(ipa in self.kept for ipa in compared.only_ours)
        for ipa in theirs.keys() & ours.keys():
            for position, what in enumerate(("ipa", "size", "pa", "prot", "af")):
                compared.differ[what] += theirs[ipa][position] != ours[ipa][position]
        self.result.dumps.append(compared)


def simulate(trace: Trace, *, sizes: str, exact: bool = False) -> Result:
    """Run a whole trace through the simulation."""
    assert np.all(trace.events["time_us"] > 0)
    return Simulation(trace, sizes=sizes, exact=exact).run()
