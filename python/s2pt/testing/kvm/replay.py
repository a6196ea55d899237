"""Replays a case and compares it, operation by operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from s2pt.errors import S2ptError
from s2pt.testing.kvm import deviations, maintenance
from s2pt.testing.kvm.case import Case
from s2pt.testing.kvm.table import AGAIN, Answer, Table, is_table
from s2pt.types import WalkFlags

__all__ = ["Difference", "Outcome", "replay"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which the library is not as recorded."""

    case: str
    operation: int | None
    what: str

    def __str__(self) -> str:
        where = "at the end" if self.operation is None else f"operation {self.operation}"
        return f"{self.case}: {where}: {self.what}"


@dataclass(slots=True)
class Outcome:
    """What the replay of a case came to."""

    operations: int = 0
    differences: list[Difference] = field(default_factory=list)
    deviations: Counter[str] = field(default_factory=Counter)


def replay(case: Case, *, strict: bool = False, other_thread: bool = False) -> Outcome:
    """Replay a case.

    Parameters
    ----------
    case : Case
    strict : bool
        Compare the maintenance one by one.
    other_thread : bool
        Run what happens inside a TLBI on a thread of its own, while the TLBI waits for it.

    Returns
    -------
    Outcome
        Each difference, and how many operations each deviation explains.
    """
    return _Replay(case, strict=strict, other_thread=other_thread).run()


class _Replay:
    def __init__(self, case: Case, *, strict: bool, other_thread: bool) -> None:
        self.case = case
        self.strict = strict
        self.table = Table(case, other_thread=other_thread)
        self.outcome = Outcome()
        # Frames that KVM took and gave back and the library did not touch.
        self.not_taken = 0

    def run(self) -> Outcome:
        for number, (operation, result) in enumerate(zip(self.case.operations, self.case.results, strict=True)):
            self.outcome.operations += 1
            try:
                wrong = list(self._step(operation, result))
            except S2ptError as error:
                wrong = [f"refused: {type(error).__name__}: {error}"]
            self._note(number, operation, wrong)
        self._note(None, [], list(self._end()))
        return self.outcome

    def _note(self, number: int | None, operation: list[Any], wrong: list[str]) -> None:
        for what in wrong:
            text = f"{_show(operation)}: {what}" if operation else what
            self.outcome.differences.append(Difference(self.case.seed, number, text))

    def _step(self, operation: list[Any], kvm: dict[str, Any]) -> Iterator[str]:
        table = self.table
        table.events.clear()
        inner: list[Answer] = []
        outer = operation
        if operation[0] == "nest":
            _, number, outer, within = operation
            seen = deviations.before(table, outer)
            ours = table.run_inside_tlbi(number, lambda: inner.extend(map(table.run, within)), lambda: table.run(outer))
            yield from _compare_inner(kvm["inner"], inner)
        else:
            seen = deviations.before(table, operation)
            ours = table.run(operation)
        name, ours = deviations.apply(table, outer, seen, kvm, ours)
        table.settle()
        if ours.r != kvm["r"]:
            yield f"result {ours.r}, KVM's {kvm['r']}"
        yield from _compare_extra(ours, kvm)
        if name is None or name in ("device-split", "mark-lost"):
            yield from maintenance.compare(self.case.shift, kvm, table.events, strict=self.strict)
        if name is None and not _silent(outer):
            yield from maintenance.breaks_without_tlbi(table.events)
        losers = self._losers(kvm, seen, [ours, *inner])
        if losers:
            name = name or "no-frame-for-a-loser"
        if name is not None:
            self.outcome.deviations[name] += 1
        found = table.allocated + self.not_taken, table.freed + self.not_taken
        if found != (kvm["alloc"], kvm["freed"]):
            yield f"{found[0]} frames taken and {found[1]} freed so far, KVM's {kvm['alloc']} and {kvm['freed']}"
            self.not_taken = kvm["alloc"] - table.allocated  # once is enough
        checksum = table.checksum()
        if checksum != kvm["crc"]:
            yield f"checksum of the leaves {checksum:#x}, KVM's {kvm['crc']:#x}"

    def _losers(self, kvm: dict[str, Any], seen: deviations.Before, answers: list[Answer]) -> int:
        """Frames that KVM took for maps that met a held entry: at most one for each operation that met one."""
        more = kvm["alloc"] - self.table.allocated - self.not_taken
        freed = kvm["freed"] - self.table.freed - self.not_taken
        met = len(answers) if seen.locked else sum(answer.r == AGAIN for answer in answers)
        if more == freed and 0 < more <= met:
            self.not_taken += more
            return int(more)
        return 0

    def _end(self) -> Iterator[str]:
        table, final = self.table, self.case.final
        s2 = table.s2
        geometry = s2.geometry
        for what, ours, kvm in (
            ("VTCR_EL2", s2.vtcr, final["vtcr"]),
            ("start level", geometry.start_level, final["start_level"]),
            ("root pages", geometry.root_frames, final["pgd_pages"]),
            ("frames in use", s2.frames_in_use - geometry.root_frames, final["in_use"]),
        ):
            if ours != kvm:
                yield f"{what} {ours:#x}, KVM's {kvm:#x}"
        yield from self._compare_leaves()
        yield from self._compare_tables()
        table.events.clear()
        table.close()
        if table.allocated != table.freed:
            yield f"{table.allocated} frames taken and {table.freed} freed"

    def _compare_leaves(self) -> Iterator[str]:
        ours = self.table.leaves().tolist()
        runs = iter(ours)
        for ipa, level, raw, n in self.case.final["leaves"]:
            size = 1 << (self.case.shift - 3) * (4 - level) + 3
            for i in range(n):
                wanted = ipa + i * size, level, raw + (i * size if raw & 1 else 0)
                found = next(runs, None)
                if found != wanted:
                    yield f"leaf {_show(found)}, KVM's {_show(wanted)}"
                    return
        if (found := next(runs, None)) is not None:
            yield f"leaf {_show(found)}, and KVM has no more"

    def _compare_tables(self) -> Iterator[str]:
        stride, page_shift = self.case.shift - 3, self.case.shift
        entries = self.table.entries()
        span = {level: page_shift + stride * (4 - level) for level in range(-1, 4)}
        root_level = self.table.s2.geometry.start_level
        root_span = 1 << span[root_level]
        ours = {(i * root_span, root_level): 0 for i in range(self.table.s2.geometry.root_frames)}
        tables = entries[is_table(entries)]
        ours.update({(ipa, level + 1): 0 for ipa, level, _ in tables.tolist()})
        for level in range(-1, 4):
            of_level = entries[entries["level"] == level]
            bases, counts = np.unique(of_level["ipa"] >> np.uint64(span[level]), return_counts=True)
            for base, count in zip(bases.tolist(), counts.tolist(), strict=True):
                ours[base << span[level], level] = count
        kvm = {
            (ipa + (i << span[level]), level): nonzero
            for ipa, level, nonzero, n in self.case.final["tables"]
            for i in range(n)
        }
        if ours != kvm:
            wrong = sorted(ours.items() ^ kvm.items())[:1]
            (ipa, level), _ = wrong[0]
            yield (
                f"table at {ipa:#x} level {level}: {ours.get((ipa, level))} entries, "
                f"KVM's {kvm.get((ipa, level))} ({len(ours)} tables, KVM's {len(kvm)})"
            )


def _silent(operation: list[Any]) -> bool:
    """Whether the operation was asked to break without a TLBI."""
    return operation[0] == "map" and bool(operation[5] & WalkFlags.SKIP_BBM_TLBI)


def _compare_extra(ours: Answer, kvm: dict[str, Any]) -> Iterator[str]:
    for name, value in ours.extra:
        if name in kvm and value != kvm[name]:
            yield f"{name} {value:#x}, KVM's {kvm[name]:#x}"


def _compare_inner(kvm: list[dict[str, Any]], ours: list[Answer]) -> Iterator[str]:
    if len(kvm) != len(ours):
        yield f"{len(ours)} inner operations ran, KVM's {len(kvm)}: there was no such TLBI"
        return
    for number, (theirs, mine) in enumerate(zip(kvm, ours, strict=True)):
        if theirs["r"] != mine.r:
            yield f"inner operation {number}: result {mine.r}, KVM's {theirs['r']}"
        for what in _compare_extra(mine, theirs):
            yield f"inner operation {number}: {what}"


def _show(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_show(item) for item in value) + "]"
    if isinstance(value, int) and abs(value) > 4095:
        return hex(value)
    return str(value)
