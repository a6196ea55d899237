"""Our answers beside an oracle's, and every difference explained."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from s2pt.arch import explain_entry
from s2pt.errors import S2ptError
from s2pt.image import Image
from s2pt.testing.mmu.known import Applied
from s2pt.testing.mmu.table import ACCESSES, ANSWER, UNTOLD, AstrayError, Oracle, Table, answers_of
from s2pt.types import FaultCode

__all__ = ["Mismatch", "Report", "judge"]

_SHOWN = 5
"""Mismatches of one table that are explained."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A probe that we and the oracle answer differently; `str` explains it."""

    table: str
    text: str

    def __str__(self) -> str:
        return f"{self.table}: {self.text}"


@dataclass
class Report:
    """What was compared and what came of it.

    Attributes
    ----------
    configurations : set of str
        The shapes and kinds of tables.
    probes, mismatched : int
        How many probes were answered, and how many of them differently.
    mismatches : list of Mismatch
        Some of them, explained.
    outcomes : Counter of str
        Our answers by kind, to see what the probes reach.
    applied : Counter of Known
        How often each known fault of the oracle was excused.
    sweep : dict
        How many VTCR_EL2 values were tried, accepted by us, and judged differently; empty without a sweep.
    seconds : float
        Time for all.
    """

    configurations: set[str] = field(default_factory=set)
    probes: int = 0
    mismatched: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    applied: Applied = field(default_factory=Applied)
    outcomes: Counter[str] = field(default_factory=Counter)
    sweep: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def add(self, table: Table, ours: NDArray[np.void], wrong: int, explained: list[Mismatch]) -> None:
        """Count one table."""
        self.configurations.add(table.name)
        self.probes += len(ours)
        for fault, count in zip(*np.unique(ours["fault"], return_counts=True), strict=True):
            self.outcomes[_name(int(fault)) if fault else "hit"] += int(count)
        self.refuse(wrong, explained)

    def refuse(self, wrong: int, explained: list[Mismatch]) -> None:
        """Count mismatches."""
        self.mismatched += wrong
        self.mismatches += explained
        self.seconds = time.monotonic() - self.started

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        return {
            "configurations": sorted(self.configurations),
            "probes": self.probes,
            "mismatched": self.mismatched,
            "mismatches": [str(mismatch) for mismatch in self.mismatches],
            "outcomes": dict(self.outcomes),
            "sweep": self.sweep,
            "known_faults": {str(known): count for known, count in self.applied.items()},
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> str:
        """Return the result in a few lines."""
        lines = [
            f"{len(self.configurations)} configurations, {self.probes:,} probes, {self.mismatched:,} mismatches, "
            f"{self.seconds:.1f} s",
            "answers: " + ", ".join(f"{count:,} {name}" for name, count in self.outcomes.most_common()),
        ]
        if self.sweep:
            counts = [f"{count:,} {what}" for what, count in self.sweep.items()]
            lines.append("VTCR_EL2: " + ", ".join(counts))
        lines += [f"known fault, {count:,} times: {known}" for known, count in sorted(self.applied.items())]
        return "\n".join(lines)


def _name(fault: int) -> str:
    known = fault in set(FaultCode)
    return FaultCode(fault).name.lower().replace("_", " ") if known else f"unknown ({fault})"


def _outcome(fault: int, level: int, pa: int | None, mair: int) -> str:
    if fault:
        return f"{_name(fault)} fault at level {level}"
    where = "an address that it does not tell" if pa is None else f"{pa:#x}"
    return where + ("" if mair == UNTOLD else f" (memory attribute {mair:#x})")


def differing(table: Table, ours: NDArray[np.void], theirs: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which probes are answered differently, as far as the oracle tells."""
    told = theirs["known"]
    hit = (ours["fault"] == 0) & (theirs["fault"] == 0)
    wrong: NDArray[np.bool_] = np.where(
        told, ours["fault"] != theirs["fault"], (ours["fault"] == 0) != (theirs["fault"] == 0)
    )
    wrong |= told & (ours["fault"] != 0) & (ours["level"] != theirs["level"])
    wrong |= hit & theirs["pa_known"] & (ours["pa"] != theirs["pa"])
    wrong |= hit & (theirs["mair"] != UNTOLD) & (ours["mair"] != UNTOLD) & (ours["mair"] != theirs["mair"])
    return wrong


def path(image: Image, table: Table, ipa: int) -> Iterator[str]:
    """Explain the entries on the way to an address, a line each, the last one field by field."""
    shape = image.geometry
    try:
        entries = image.path(ipa)
    except S2ptError as error:  # beyond the IPA space, or a table in no memory
        yield f"  {error}"
        return
    for entry in entries:
        yield f"  level {entry.level}: {entry.raw:#018x} {entry.kind}, translates from {entry.base:#x}"
    last = entries[-1]
    rows = explain_entry(
        last.raw,
        level=last.level,
        granule=shape.granule,
        lpa2=shape.lpa2,
        xnx=table.shape.xnx,
        fwb=table.shape.fwb,
        pa_bits=shape.pa_bits,
    )
    yield "    " + "; ".join(f"{name} [{bits}] {meaning}" for bits, name, _, meaning in rows)


def explain(table: Table, image: Image, index: int, ours: NDArray[np.void], theirs: NDArray[np.void]) -> Mismatch:
    """Say everything about one difference."""
    probe, our, their = table.probes[index], ours[index], theirs[index]
    ipa = int(probe["ipa"])
    access = f"{ACCESSES[int(probe['access'])]} at EL{int(probe['el'])} of {ipa:#x}"
    we = _outcome(int(our["fault"]), int(our["level"]), int(our["pa"]), int(our["mair"]))
    if their["known"] or not their["fault"]:
        pa = int(their["pa"]) if their["pa_known"] else None
        they = _outcome(int(their["fault"]), int(their["level"]), pa, int(their["mair"]))
    else:
        they = "a fault of a kind that it does not tell"
    registers = f"  VTCR_EL2 {table.vtcr:#x}, VTTBR_EL2 {table.vttbr:#x}"
    lines = [f"{access}: ours {we}; the oracle's {they}", registers, *path(image, table, ipa)]
    return Mismatch(table.name, "\n".join(lines))


def judge(oracle: Oracle, table: Table, report: Report) -> NDArray[np.void]:
    """Ask the oracle and ourselves, compare, and add to the report; return the oracle's answers, faults excused."""
    theirs: NDArray[np.void]
    try:
        image = table.image()
        theirs = oracle.ask(table)
    except (S2ptError, AstrayError) as error:
        # Our own registers or walks are so wrong that nothing can be asked.
        report.add(table, np.zeros(0, [("fault", "<u8")]), 1, [Mismatch(table.name, str(error))])
        return np.zeros(0, ANSWER)
    ours = answers_of(image, table.probes)
    oracle.excuse(table, ours, theirs, report.applied)
    wrong = np.flatnonzero(differing(table, ours, theirs))
    explained = [explain(table, image, int(index), ours, theirs) for index in wrong[:_SHOWN]]
    report.add(table, ours, len(wrong), explained)
    others = oracle.check(table, ours)
    report.refuse(len(others), [Mismatch(table.name, text) for text in others[:_SHOWN]])
    return theirs
