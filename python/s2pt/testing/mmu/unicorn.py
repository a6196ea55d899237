"""Unicorn's MMU: an emulated CPU in this process, asked by AT instructions and by fetches.

No guest program is needed. A write to the register CP_REG executes AT S12E1R and its kin, which walk the table afresh
each time; PAR_EL1 holds the answer. A fetch is one instruction of emulation at the IPA itself: refused if that raises a
prefetch abort, allowed if it executes or finds no memory at the output address. It tells no reason.

The CPU has 44-bit physical addresses, no LPA2, no FEAT_XNX, no hardware updates, no small tables (FEAT_TTST), and does
not check the size of output addresses: `PLACES` and `shapes_for` leave those out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2pt.testing.mmu.known import Applied, Known, excused, reserved_block
from s2pt.testing.mmu.shapes import Shape, shapes
from s2pt.testing.mmu.table import ANSWER, UNTOLD, OracleMissingError, Table
from s2pt.testing.mmu.trees import Places
from s2pt.types import FaultCode

__all__ = ["PLACES", "UnicornOracle", "shapes_for"]

PLACES = Places(
    arena=0x4400_0000, data=0x4A00_0000, data_size=32 << 20, cpu_bits=44, oversize=False, absent=False, recursive=True
)

_SCR_EL3 = (1, 1, 3, 6, 0)
_SCTLR_EL1 = (1, 0, 3, 0, 0)
_VTCR_EL2 = (2, 1, 3, 4, 2)
_VTTBR_EL2 = (2, 1, 3, 4, 0)
_HCR_EL2 = (1, 1, 3, 4, 0)
_AT = {("r", 1): 4, ("w", 1): 5, ("r", 0): 6, ("w", 0): 7}
_HCR = 0x8000_1001
"""VM, RW, and DC: the guest's own memory type is write-back, so that PAR_EL1 tells that of stage 2."""
_PREFETCH_ABORT = 3
_FETCH_FAILED = (8, 14)
"""UC_ERR_FETCH_UNMAPPED, UC_ERR_FETCH_PROT: stage 2 allowed it, unicorn has no code there."""
_PA_BITS = (1 << 48) - 1
_PAGE = 0xFFF
_KINDS = (FaultCode.ADDRESS_SIZE, FaultCode.TRANSLATION, FaultCode.ACCESS_FLAG, FaultCode.PERMISSION)


def shapes_for() -> Iterator[Shape]:
    """Yield the shapes that this CPU can walk."""
    for shape in shapes(ipa_bits=range(25, 45), lpa2=False):
        if (shape.page_bits, shape.start) != (12, 3):  # start level 3 with 4K is FEAT_TTST's
            yield replace(shape, pa_bits=44)


class UnicornOracle:
    """Answers probes of tables; a new CPU for each table.

    Raises
    ------
    OracleMissingError
        The package is not installed.
    """

    name = "unicorn"

    def __init__(self) -> None:
        try:
            import unicorn
            from unicorn import arm64_const
        except ImportError as error:
            raise OracleMissingError(f"the package unicorn is not installed: {error}") from None
        self._unicorn: Any = unicorn
        self._const: Any = arm64_const
        self.version = str(getattr(unicorn, "__version__", ""))

    def _cpu(self, table: Table) -> Any:
        cpu = self._unicorn.Uc(self._unicorn.UC_ARCH_ARM64, self._unicorn.UC_MODE_ARM)
        cpu.ctl_set_cpu_model(self._const.UC_CPU_ARM64_MAX)
        # Without SCR_EL3.NS the CPU is in Secure state, and stage 2 is ignored.
        for register, value in (
            (_SCR_EL3, 0x501),
            (_SCTLR_EL1, 0x30D0_0800),
            (_VTCR_EL2, table.vtcr),
            (_VTTBR_EL2, table.vttbr),
            (_HCR_EL2, _HCR),
        ):
            cpu.reg_write(self._const.UC_ARM64_REG_CP_REG, (*register, value))
        for base, words in table.regions:
            # A table may turn out to be mapped as a page: nothing is to be executed there.
            cpu.mem_map(base, words.nbytes, self._unicorn.UC_PROT_READ | self._unicorn.UC_PROT_WRITE)
            cpu.mem_write(base, words.tobytes())
        return cpu

    def ask(self, table: Table) -> NDArray[np.void]:
        """Answer the table's probes; EL0 fetches are made at EL1, which is the same without FEAT_XNX."""
        cpu = self._cpu(table)
        answers = np.zeros(len(table.probes), ANSWER)
        answers["mair"] = UNTOLD
        fetch = table.probes["access"] == 2
        data = np.flatnonzero(~fetch)
        answers[data] = _decode(self._translate(cpu, table, data), table.probes["ipa"][data])
        for index in np.flatnonzero(fetch).tolist():
            refused = self._refused(cpu, int(table.probes["ipa"][index]))
            answers["fault"][index] = FaultCode.PERMISSION if refused else 0
            answers["known"][index] = not refused
        return answers

    def _translate(self, cpu: Any, table: Table, indices: NDArray[np.intp]) -> NDArray[np.uint64]:
        """Return PAR_EL1 after AT of each probe."""
        write, read = cpu.reg_write, cpu.reg_read
        cp_reg, par_el1 = self._const.UC_ARM64_REG_CP_REG, self._const.UC_ARM64_REG_PAR_EL1
        probes = table.probes[indices]
        ops = np.array([[_AT["r", 0], _AT["r", 1]], [_AT["w", 0], _AT["w", 1]]])[probes["access"], probes["el"]]
        par = []
        for op, ipa in zip(ops.tolist(), probes["ipa"].tolist(), strict=True):
            write(cp_reg, (7, 8, 1, 4, op, ipa))
            par.append(read(par_el1))
        return np.array(par, np.uint64)

    def _refused(self, cpu: Any, ipa: int) -> bool:
        """Whether a fetch is refused."""
        raised: list[int] = []

        def interrupt(_: Any, number: int, __: Any) -> None:
            raised.append(number)
            cpu.emu_stop()

        hook = cpu.hook_add(self._unicorn.UC_HOOK_INTR, interrupt)
        try:
            cpu.emu_start(ipa, ipa + 4, count=1)
        except self._unicorn.UcError as error:
            if error.errno not in _FETCH_FAILED and not raised:
                raise
        finally:
            cpu.hook_del(hook)
        return _PREFETCH_ABORT in raised

    def check(self, table: Table, ours: NDArray[np.void]) -> list[str]:
        """Return nothing: AT changes nothing and sets no syndrome registers."""
        return []

    def excuse(self, table: Table, ours: NDArray[np.void], theirs: NDArray[np.void], applied: Applied) -> None:
        """Take our answer where a known fault explains theirs."""
        excused(Known.UNICORN_RESERVED_BLOCK, reserved_block(table.shape, ours, theirs), ours, theirs, applied)
        hit = (ours["fault"] == 0) & (theirs["fault"] == 0) & theirs["pa_known"]
        page_bits = table.shape.page_bits
        shift = (page_bits + table.shape.stride * (3 - ours["level"])).astype(np.uint64)
        offset = table.probes["ipa"] & ((np.uint64(1) << shift) - np.uint64(1))
        with_stray_bits = ours["raw"] & np.uint64(_PA_BITS >> page_bits << page_bits) | offset
        stray = hit & (ours["pa"] != theirs["pa"]) & (theirs["pa"] == with_stray_bits)
        excused(Known.UNICORN_STRAY_BITS, stray, ours, theirs, applied)
        absent = (ours["fault"] == FaultCode.EXTERNAL_ABORT) & (ours["level"] == theirs["level"])
        absent &= theirs["fault"] == FaultCode.TRANSLATION
        excused(Known.UNICORN_ABSENT_TABLE, absent, ours, theirs, applied)

    def close(self) -> None:
        """Do nothing: nothing runs between calls."""


def _decode(par: NDArray[np.uint64], ipa: NDArray[np.uint64]) -> NDArray[np.void]:
    """Read PAR_EL1, which holds the address of the 4 KiB unit."""
    answers = np.zeros(len(par), ANSWER)
    failed = (par & np.uint64(1)) != 0
    status = (par >> np.uint64(1) & np.uint64(0x3F)).astype(np.int64)
    answers["known"] = True
    answers["fault"] = np.where(failed, np.array(_KINDS)[status >> 2 & 3], 0)
    answers["level"] = np.where(failed, status & 3, 0)
    answers["pa_known"] = ~failed
    answers["pa"] = np.where(failed, 0, par & np.uint64(_PA_BITS & ~_PAGE) | ipa & np.uint64(_PAGE))
    answers["mair"] = np.where(failed, UNTOLD, par >> np.uint64(56))
    return answers
