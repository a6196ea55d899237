"""QEMU as an oracle: batches for the machine, and what its guest's fate means.

Beyond the answers, `check` compares what real hardware leaves behind: the syndrome registers of every fault with what
our decoder makes of them, every load and store with a copy of the guest's memory, and every entry that the hardware
updated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from s2pt.arch import read_syndromes
from s2pt.testing.mmu import qemu
from s2pt.testing.mmu.known import Applied, Known, excused, reserved_block
from s2pt.testing.mmu.qemu import ARENA, DATA, DATA_SIZE, GUEST_PAGE, Batch, QemuMachine
from s2pt.testing.mmu.shapes import Shape, shapes
from s2pt.testing.mmu.table import ACCESSES, ANSWER, UNTOLD, AstrayError, Table
from s2pt.testing.mmu.trees import Places
from s2pt.types import FaultCode, Geometry

__all__ = ["PLACES", "QemuOracle", "shapes_for"]

PLACES = Places(arena=ARENA, data=DATA, data_size=DATA_SIZE, cpu_bits=52, guest_page=GUEST_PAGE)

_ABORTS = (0x20, 0x24)
_HVC = 0x16
_PA_BITS = (1 << 52) - 1 & ~0xFFF
_AF, _WRITE = np.uint64(1 << 10), np.uint64(1 << 7)
_INSTRUCTION_SYNDROME = np.uint64(0x01FF_C000)
"""ESR_EL2.ISV and what it makes valid."""
_PA_SIZES = (32, 36, 40, 42, 44, 48)


def shapes_for() -> Iterator[Shape]:
    """Yield every shape that a stage-2 table can have."""
    yield from shapes(ipa_bits=range(16, 53), lpa2=True)


class QemuOracle:
    """Answers probes of tables by real accesses on one machine.

    Parameters
    ----------
    timeout_s : float
        How long one batch may take.

    Raises
    ------
    OracleMissingError
        QEMU is not installed.
    """

    name = "qemu"

    def __init__(self, timeout_s: float = 60.0) -> None:
        self.machine = QemuMachine(timeout_s)
        self.version = QemuMachine.version()
        self.major = int(self.version.split(".")[0])
        self._data = self.machine.words(DATA, DATA_SIZE // 8)
        self._pattern = qemu.pattern(np.arange(DATA, DATA + DATA_SIZE, 8, dtype=np.uint64))
        self._raw = np.zeros(0, qemu.RAW_PROBE)
        self._results = np.zeros(0, qemu.RESULT)
        self._taken = np.zeros(0, np.bool_)

    # --- asking ---

    def ask(self, table: Table) -> NDArray[np.void]:
        """Make the accesses; afterwards the table is as the hardware left it."""
        ((base, words),) = table.regions
        self.machine.words(base, len(words))[:] = words
        self._raw = _orders(table.probes)
        hcr = qemu.HCR | (qemu.HCR_FWB if table.shape.fwb else 0) | qemu.HCR_DC
        # Fetches come first, while every instruction in the data is undefined: a store could make it anything.
        order = np.argsort(table.probes["access"] != 2, kind="stable")
        batch = Batch(table.vtcr, table.vttbr, hcr, table.guest_page, self._raw[order])
        self._results = np.zeros(len(order), qemu.RESULT)
        self._results[order] = self.machine.run(batch)
        return self._decode(table)

    def _decode(self, table: Table) -> NDArray[np.void]:
        results, probes = self._results, table.probes
        answers = np.zeros(len(results), ANSWER)
        answers["known"] = True
        answers["mair"] = UNTOLD
        ec = results["esr"] >> np.uint64(26)
        aborted = np.isin(ec, _ABORTS)
        inside = results["far"] >> np.uint64(12) == table.guest_page >> 12
        lost = aborted & inside & (probes["ipa"] >> np.uint64(12) != table.guest_page >> 12)
        if lost.any() or not np.all(aborted | (ec == _HVC)):
            raise AstrayError(self._astray(table, int(np.flatnonzero(lost | ~(aborted | (ec == _HVC)))[0])))
        syndromes = self._syndromes()
        answers["fault"][aborted] = syndromes["fault"][aborted]
        answers["level"][aborted] = syndromes["level"][aborted]
        told = ~aborted & (results["par"] & np.uint64(1) == 0)
        answers["pa_known"] = told
        offset = probes["ipa"] & np.uint64(0xFFF)
        answers["pa"][told] = (results["par"] & np.uint64(_PA_BITS) | offset)[told]
        answers["mair"][told] = (results["par"] >> np.uint64(56))[told]
        return answers

    def _astray(self, table: Table, index: int) -> str:
        row = {name: hex(int(self._results[name][index])) for name in qemu.RESULT.names or ()}
        return f"{table.name}: the guest went astray at probe {index} of {int(table.probes['ipa'][index]):#x}: {row}"

    def _syndromes(self) -> NDArray[np.void]:
        columns = (np.ascontiguousarray(self._results[name]) for name in ("esr", "far", "hpfar"))
        return read_syndromes(*columns)

    # --- known faults ---

    def excuse(self, table: Table, ours: NDArray[np.void], theirs: NDArray[np.void], applied: Applied) -> None:
        """Take our answer where a known fault explains theirs."""
        self._taken = high = _only_high_bits(table, ours)
        excused(Known.QEMU_HIGH_BITS, high, ours, theirs, applied)
        if self.major < 8:
            reserved = reserved_block(table.shape, ours, theirs)
            self._taken = high | reserved
            excused(Known.QEMU7_RESERVED_BLOCK, reserved, ours, theirs, applied)

    def places(self, shape: Shape) -> tuple[Places, Known | None]:
        """Return what trees of a shape may hold, and the known fault that restricts it."""
        if self.major < 8 and shape.start == -1:
            return replace(PLACES, blocks_below_0=False), Known.QEMU7_BLOCK_BELOW_0
        return PLACES, None

    def lacks(self, shape: Shape) -> Known | None:
        """Say which known fault keeps this QEMU from walking such a table, if any."""
        if self.major < 8:
            if (shape.page_bits, shape.start) == (14, 0):
                return Known.QEMU7_16K_LEVEL_0
            if shape.start == -1 and shape.ipa_bits != 52:
                return Known.QEMU7_LEVEL_MINUS_1
        return None

    def lacks_vtcr(self, geometry: Geometry) -> Known | None:
        """Say which known fault lets this QEMU refuse a VTCR_EL2 that describes such a table."""
        if self.major >= 8:
            return None
        start, ipa_bits = geometry.start_level, geometry.ipa_bits
        if (geometry.granule, start) == (16 << 10, 0):
            return Known.QEMU7_16K_LEVEL_0
        if start == -1:
            return Known.QEMU7_LEVEL_MINUS_1
        least = {(4 << 10, 0): 44, (16 << 10, 1): 42, (64 << 10, 1): 44}.get((geometry.granule, start), 0)
        return Known.QEMU7_PS if geometry.pa_bits < max(least, ipa_bits) else None

    def pa_sizes(self, shape: Shape) -> tuple[int, ...]:
        """Output address sizes that go with a shape, given that QEMU limits start levels by VTCR_EL2.PS."""
        least = {(12, 0): 44, (14, 1): 42, (16, 1): 44}.get((shape.page_bits, shape.start), 0)
        sizes = tuple(bits for bits in _PA_SIZES if bits >= max(least, shape.ipa_bits))
        if shape.pa_bits != 52:
            return sizes
        # The 52-bit format of 64K exists with PS = 6 only; that of LPA2 with any.
        return (52, 52, 52, *sizes) if shape.lpa2 else (52,)

    # --- what the accesses left behind ---

    def check(self, table: Table, ours: NDArray[np.void]) -> list[str]:
        """Check registers of the faults, loads and stores, and updates of entries."""
        return [*self._check_registers(table), *self._check_memory(table, ours), *self._check_updates(table, ours)]

    def _check_registers(self, table: Table) -> Iterator[str]:
        results, probes = self._results, table.probes
        read = self._syndromes()
        aborted = np.isin(results["esr"] >> np.uint64(26), _ABORTS)
        fetch = probes["access"] == 2
        wrong = (read["ipa"] != probes["ipa"]) | (read["access"] != probes["access"]) | (read["s1ptw"] != 0)
        # Our registers for that fault are those of the hardware, but for the description of the instruction.
        described = np.where(fetch, np.uint64(0), _INSTRUCTION_SYNDROME)
        wrong |= (results["esr"] & ~described) != read["esr"]
        wrong |= results["hpfar"] != probes["ipa"] >> np.uint64(12) << np.uint64(4)
        size = np.where(self._raw["what"] & np.uint64(0x10) == 0, 8, 1)
        wrong |= ~fetch & ((read["size"] != size) | (read["register"] != 1))
        for index in np.flatnonzero(aborted & wrong).tolist():
            registers = {name: hex(int(results[name][index])) for name in ("esr", "far", "hpfar")}
            ours = {name: int(read[name][index]) for name in read.dtype.names or ()}
            yield f"syndrome of {_describe(probes, index)}: {registers} read as {ours}"

    def _check_memory(self, table: Table, ours: NDArray[np.void]) -> Iterator[str]:
        """Repeat every load and store on a copy of the data memory."""
        probes, results = table.probes, self._results
        done = (results["esr"] >> np.uint64(26) == _HVC) & (ours["fault"] == 0) & (probes["access"] != 2)
        inside = (ours["pa"] >= DATA) & (ours["pa"] < DATA + DATA_SIZE)
        copy = self._pattern.copy()
        copied = copy.view(np.uint8)
        for index in np.flatnonzero(done & inside).tolist():
            at = int(ours["pa"][index]) - DATA
            whole = self._raw["what"][index] & 0x10 == 0
            if probes["access"][index] == 1:
                value = int(self._raw["value"][index])
                if whole:
                    copy[at // 8] = value
                else:
                    copied[at] = value & 0xFF
                continue
            expected = int(copy[at // 8]) if whole else int(copied[at])
            if int(results["value"][index]) != expected:
                yield (
                    f"{_describe(probes, index)} loaded {int(results['value'][index]):#x}, but {DATA + at:#x} holds "
                    f"{expected:#x}"
                )
        for word in np.flatnonzero(copy != self._data)[:3].tolist():
            here = DATA + 8 * word
            yield f"after all stores {here:#x} holds {int(self._data[word]):#x} instead of {int(copy[word]):#x}"
        np.copyto(self._data, self._pattern)

    def _check_updates(self, table: Table, ours: NDArray[np.void]) -> Iterator[str]:
        """Compare the table with what our walks say that the hardware makes of it."""
        ((base, words),) = table.regions
        now = self.machine.words(base, len(words)).copy()
        expected, optional = words.copy(), np.zeros_like(words)
        at = ((ours["entry"] - np.uint64(base)) >> np.uint64(3)).astype(np.int64)
        hit = ours["fault"] == 0
        np.bitwise_or.at(expected, at[hit], ours["after"][hit])
        # After a permission fault the access flag may be set or not.
        refused = ours["fault"] == FaultCode.PERMISSION
        np.bitwise_or.at(optional, at[refused], _AF)
        # A leaf that this QEMU should not have taken may be updated like any other.
        np.bitwise_or.at(optional, at[self._taken], _AF | _WRITE)
        if not table.vtcr >> 21 & 1:
            optional[:] = 0
        for word in np.flatnonzero((now ^ expected) & ~optional)[:3].tolist():
            here = base + 8 * word
            was, became, wanted = int(words[word]), int(now[word]), int(expected[word])
            yield f"entry {here:#x} was {was:#x}, is {became:#x} instead of {wanted:#x}"

    def close(self) -> None:
        """End the machine."""
        del self._data
        self.machine.close()


def _only_high_bits(table: Table, ours: NDArray[np.void]) -> NDArray[np.bool_]:
    """Where we answer an address size fault for the sake of bits 51:50 of an LPA2 descriptor alone."""
    pa_bits, lpa2 = table.shape.pa_bits, table.shape.lpa2
    above = (1 << 50) - (1 << min(pa_bits, 50))
    within = ours["raw"] & np.uint64(above) == 0
    mask: NDArray[np.bool_] = (ours["fault"] == FaultCode.ADDRESS_SIZE) & within
    return mask & lpa2 & (pa_bits < 52)


def _orders(probes: NDArray[np.void]) -> NDArray[np.void]:
    """Return what the machine is to do: whole words where the address allows it, else bytes; no two stores alike."""
    raw = np.zeros(len(probes), qemu.RAW_PROBE)
    raw["ipa"] = probes["ipa"]
    orders = np.array(
        [
            [
                [qemu.what(access, el, size) | (qemu.WITH_AT if access == "r" else 0) for el in (0, 1)]
                for access in ACCESSES
            ]
            for size in (1, 8)
        ],
        np.uint64,
    )
    whole = (probes["ipa"] & np.uint64(7) == 0).astype(np.int64)
    raw["what"] = orders[whole, probes["access"].astype(np.int64), probes["el"].astype(np.int64)]
    raw["value"] = np.arange(1, len(probes) + 1, dtype=np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)
    return raw


def _describe(probes: NDArray[np.void], index: int) -> str:
    probe = probes[index]
    return f"{ACCESSES[int(probe['access'])]} at EL{int(probe['el'])} of {int(probe['ipa']):#x}"
