"""Every value of the fields of VTCR_EL2 that shape a table: the hardware refuses what our validator refuses.

Hardware does not refuse a register. A walk with a shape that it does not accept ends in a translation fault at level 0
before any entry is read (Arm ARM, `AArch64.S2Walk`: S2InvalidSL, S2InconsistentSL), so that is what "refused" means.
Each value is tried on tables that tell an accepted shape by its answer, whatever the shape:

- *loop*: every entry of 16 root frames points to the first of them, which at level 3 is a page: an accepted walk comes
  through, at the first address of the IPA space and at the last;
- *empty*: every entry is zero: an accepted walk faults at the start level, so that this is compared too;
- beyond the last address of an accepted shape there is a translation fault at level 0 in any case.

AT S12E1R asks. Where the architecture leaves the choice to the implementation, nothing is compared, and that is
counted: TG0 = 3 and PS = 7 are reserved and behave as some other value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s2pt.errors import S2ptError
from s2pt.image import Image
from s2pt.testing.mmu import qemu
from s2pt.testing.mmu.guest import QemuOracle, shapes_for
from s2pt.testing.mmu.judge import Mismatch, Report
from s2pt.testing.mmu.known import Known
from s2pt.testing.mmu.qemu import ARENA, Batch
from s2pt.testing.mmu.table import Words
from s2pt.types import Geometry

__all__ = ["sweep", "values"]

_LOOP_ENTRY = 0b11 | 1 << 10 | 1 << 6 | 0xF << 2
_LOOP, _EMPTY = ARENA, ARENA + (16 << 20)
_ROOT = 16 << 16
"""16 root frames of the largest granule."""
_PA_SIZES = (32, 36, 40, 42, 44, 48, 52, 0)
_PAMAX = 52


@dataclass(frozen=True, slots=True)
class Expected:
    """What a value should do: the geometry if our validator accepts it; None if the choice is the implementation's."""

    vtcr: int
    geometry: Geometry | None
    undefined: bool


def values() -> list[int]:
    """Return every value of T0SZ, SL0, SL2, TG0, PS and DS."""
    found = []
    for bits in range(1 << 15):
        t0sz, sl0, tg0, ps = bits & 63, bits >> 6 & 3, bits >> 8 & 3, bits >> 10 & 7
        ds, sl2 = bits >> 13 & 1, bits >> 14
        found.append(0x8000_3500 | t0sz | sl0 << 6 | tg0 << 14 | ps << 16 | ds << 32 | sl2 << 33)
    return found


def expected(vtcr: int) -> Expected:
    """Ask our validator."""
    tg0, ps = vtcr >> 14 & 3, vtcr >> 16 & 7
    try:
        geometry = Image(b"", vtcr, 0, fwb=False, xnx=False, dialect="own").geometry
    except S2ptError:
        geometry = None
    return Expected(vtcr, geometry, tg0 == 3 or ps == 7)


_SHAPES = frozenset((1 << s.page_bits, s.ipa_bits, s.start, s.lpa2) for s in shapes_for())


def _exists(geometry: Geometry) -> bool:
    """Whether the list of shapes, which is not ours to excuse, has such a table."""
    return (geometry.granule, geometry.ipa_bits, geometry.start_level, geometry.lpa2) in _SHAPES


def _ask(oracle: QemuOracle, root: int, vtcrs: list[int], ipas: list[int]) -> NDArray[np.void]:
    raw = np.zeros(len(vtcrs), qemu.RAW_PROBE)
    raw["ipa"], raw["vtcr"], raw["what"] = ipas, vtcrs, qemu.ONLY_AT
    parts = []
    for start in range(0, len(raw), qemu.MOST_PROBES):
        batch = Batch(0, 1 << 48 | root, qemu.HCR, 0, raw[start : start + qemu.MOST_PROBES])
        parts.append(oracle.machine.run(batch)["par"])
    return np.concatenate(parts)


def _words(oracle: QemuOracle, root: int, value: int) -> Words:
    words = oracle.machine.words(root, _ROOT // 8)
    words[:] = value
    return words


def fault_level(par: int) -> int | None:
    """Return the level of the translation fault in a PAR_EL1, None if there is none."""
    status = par >> 1 & 0x3F
    if par & 1 == 0:
        return None
    if status == 0b101011:
        return -1
    return status & 3 if status & ~3 == 4 else None


def sweep(oracle: QemuOracle, report: Report) -> None:
    """Try every value, and add to the report; each probe of a value counts."""
    cases = [expected(vtcr) for vtcr in values()]
    _words(oracle, _LOOP, _LOOP | _LOOP_ENTRY)
    _words(oracle, _EMPTY, 0)
    vtcrs = [case.vtcr for case in cases]
    limits = [1 << (case.geometry.ipa_bits if case.geometry else 0) for case in cases]
    first = _ask(oracle, _LOOP, vtcrs, [0] * len(cases)).tolist()
    last = _ask(oracle, _LOOP, vtcrs, [limit - 1 for limit in limits]).tolist()
    beyond = _ask(oracle, _LOOP, vtcrs, [limit % (1 << _PAMAX) for limit in limits]).tolist()
    empty = _ask(oracle, _EMPTY, vtcrs, [0] * len(cases)).tolist()
    wrong = []
    accepted = 0
    for case, *answers in zip(cases, first, last, beyond, empty, strict=True):
        problem = _judge(oracle, case, answers, report)
        accepted += case.geometry is not None
        if problem:
            wrong.append(Mismatch("VTCR_EL2 sweep", f"{case.vtcr:#x}: {problem}"))
    report.sweep = {"values": len(cases), "accepted": accepted, "mismatched": len(wrong)}
    report.refuse(len(wrong), wrong[:20])


def _judge(oracle: QemuOracle, case: Expected, answers: list[int], report: Report) -> str:
    """Say what is wrong with the answers to one value, if anything."""
    if case.undefined:
        report.applied[Known.RESERVED_FIELD] += 1
        return ""
    first, last, beyond, empty = answers
    if case.geometry is None:
        refused = fault_level(first) == 0 and fault_level(empty) == 0
        return "" if refused else f"our validator refuses it, the hardware walks (PAR_EL1 {first:#x}, {empty:#x})"
    shape = case.geometry
    come_through = first & 1 == 0 and last & 1 == 0
    right_level = fault_level(empty) == shape.start_level
    ends = shape.ipa_bits == _PAMAX or fault_level(beyond) == 0
    if come_through and right_level and ends:
        return ""
    known = oracle.lacks_vtcr(shape)
    if known and _exists(shape) and all(fault_level(answer) == 0 for answer in answers):
        report.applied[known] += 1
        return ""
    told = ", ".join(f"{answer:#x}" for answer in answers)
    return f"our validator accepts it as {shape}; PAR_EL1 at the first, last, next address, empty: {told}"
