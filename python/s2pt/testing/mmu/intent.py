"""Tables that `Stage2` built: besides their walk, do they say what the operations meant.

A walk of wrong bytes agrees with every MMU. So the same operations run on `s2pt.model.ModelStage2`, which has no
descriptors, and the oracle's answers are held against the model's. The live table's own `translate` is compared too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from s2pt import Stage2
from s2pt.errors import Fault, S2ptError
from s2pt.model import ModelStage2
from s2pt.testing.mmu.judge import Mismatch, Report, judge
from s2pt.testing.mmu.own import own
from s2pt.testing.mmu.shapes import Shape
from s2pt.testing.mmu.table import ACCESSES, UNTOLD, Oracle, Table
from s2pt.testing.mmu.trees import Places
from s2pt.types import FaultCode, MemType

__all__ = ["judge_own"]

_MOST = 100
"""Probes of one table that the model answers: it is slow."""
_MAIR = {
    MemType.DEVICE_NGNRE: 0x04,
    MemType.DEVICE_GRE: 0x0C,
    MemType.NORMAL_NC: 0x44,
    MemType.NORMAL: 0xFF,
    MemType.AS_STAGE1: 0xFF,
}
"""Memory types as PAR_EL1 says them, the guest's own being write-back."""


def judge_own(
    oracle: Oracle, shape: Shape, places: Places, seed: int, probes: int, arena: int | None, report: Report
) -> None:
    """Build a table, ask the oracle, and compare its answers with all of ours."""
    try:
        made = own(shape, places, seed, probes, arena=arena)
    except S2ptError as error:
        report.refuse(1, [Mismatch(f"own {shape}", f"cannot be made or read back: {error}")])
        return
    with made.s2:
        theirs = judge(oracle, made.table, report)
        _live(made.s2, made.table, report)
        _meant(made.model, made.table, theirs, report)


def _live(s2: Stage2, table: Table, report: Report) -> None:
    """Compare `Stage2.translate_many` with the walk of the image, which the oracle judges."""
    try:
        image = table.image()
    except S2ptError:
        return  # the judge has said it
    for access in ACCESSES:
        ipa = np.ascontiguousarray(table.probes["ipa"])
        pa, level, fault = s2.translate_many(ipa, access)  # type: ignore[arg-type]
        rows = image.access_many(ipa, access)  # type: ignore[arg-type]
        wrong = np.flatnonzero((pa != rows["pa"]) | (level != rows["level"]) | (fault != rows["fault"]))
        explained = [
            Mismatch(
                table.name,
                f"{access} of {int(ipa[i]):#x}: Stage2.translate {int(pa[i]):#x} {FaultCode(int(fault[i]))!r} level "
                f"{int(level[i])}; its image {int(rows['pa'][i]):#x} {FaultCode(int(rows['fault'][i]))!r} level "
                f"{int(rows['level'][i])}",
            )
            for i in wrong[:2].tolist()
        ]
        report.refuse(len(wrong), explained)


def _meant(model: ModelStage2, table: Table, theirs: NDArray[np.void], report: Report) -> None:
    """Compare the oracle's answers with the model's."""
    wrong = []
    for probe, their in list(zip(table.probes, theirs, strict=False))[:_MOST]:
        ipa, access, el = int(probe["ipa"]), ACCESSES[int(probe["access"])], int(probe["el"])
        if access == "x" and el == 0:
            continue  # the model answers fetches at EL1
        fault, level, pa, mair = (int(their[name]) for name in ("fault", "level", "pa", "mair"))
        try:
            hit = model.translate(ipa, access)
            meant = f"{hit.pa:#x}, {hit.memtype}"
            agrees = fault == 0 and (pa == hit.pa or not their["pa_known"]) and mair in (_MAIR[hit.memtype], UNTOLD)
        except Fault as refused:
            meant = f"a {refused.kind} fault at level {refused.level}"
            code = FaultCode[refused.kind.upper().replace("-", "_")]
            agrees = (fault, level) == (code, refused.level) if their["known"] else fault != 0
        if not agrees:
            answer = f"fault {fault} at level {level}" if fault else f"{pa:#x}, memory attribute {mair:#x}"
            wrong.append(
                Mismatch(table.name, f"{access} at EL{el} of {ipa:#x}: meant was {meant}; the oracle's answer {answer}")
            )
    report.refuse(len(wrong), wrong[:2])
