"""QEMU's MMU: real loads, stores and fetches of a guest, on a machine that runs a program of ours at EL2.

One process answers any number of batches. Its RAM is a file that Python maps too: Python writes tables and probes
there and rings a doorbell, the program at EL2 (`el2.s`) runs the probes and writes the syndrome registers of each.
Neither side waits for ever: Python has a time limit for each batch and notices when the process ends; the program
switches the machine off when nobody has rung for some minutes, so that nothing stays behind.

A guest's access leaves its mark in one of these ways:

- stage 2 refuses it: EL2 gets the abort, with ESR_EL2, FAR_EL2 and HPFAR_EL2;
- it is done: the guest returns by HVC or SVC; what a load read tells the output address, because each word of the RAM
  for data holds a number of its own; a store is found there later; an instruction there is undefined, which EL1 says;
- it is translated to where nothing is: an external abort at EL1, so stage 2 has allowed it.

AT S12E1R tells the output address of the last kind.
"""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import tempfile
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from s2pt.testing.mmu.table import OracleError, OracleMissingError, Words

__all__ = ["ARENA", "DATA", "DATA_SIZE", "GUEST_PAGE", "RAM", "RAW_PROBE", "RESULT", "Batch", "QemuMachine", "pattern"]

BINARY = "qemu-system-aarch64"

RAM = 0x4000_0000
RAM_SIZE = 256 << 20
_PROGRAM = 0x4020_0000
_HEADER = 0x4030_0000
_PROBES = 0x4100_0000
_RESULTS = 0x4200_0000
MOST_PROBES = (_RESULTS - _PROBES) // 32 // 4
"""Probes of one batch."""

ARENA = 0x4400_0000
"""Where tables go; 64 MiB."""
ARENA_SIZE = 64 << 20
GUEST_PAGE = 0x4800_0000
"""Where the guest's page is."""
DATA = 0x4A00_0000
"""The RAM that leaves may point to, aligned to its size."""
DATA_SIZE = 8 << 20

RAW_PROBE = np.dtype([("ipa", "<u8"), ("what", "<u8"), ("value", "<u8"), ("vtcr", "<u8")])
RESULT = np.dtype(
    [(name, "<u8") for name in ("esr", "far", "hpfar", "value", "par", "esr_el1", "far_el1", "elr")],
)

EL0 = 1 << 12
FETCH = 1 << 13
ONLY_AT = 1 << 14
WITH_AT = 1 << 15
NO_PAR = 1

_GUEST_CODE = {("r", 8): 0x800, ("r", 1): 0x810, ("w", 8): 0x820, ("w", 1): 0x830}
_EL0_CODE = 0x40

HCR = 0x8000_0001
"""VM, RW."""
HCR_DC = 1 << 12
HCR_FWB = 1 << 46


def what(access: str, el: int, size: int) -> int:
    """Return the order for one access of `size` bytes."""
    code = FETCH if access == "x" else _GUEST_CODE[access, size] + (0 if el else _EL0_CODE)
    return code | (0 if el else EL0)


def pattern(pa: Words) -> Words:
    """Return what the 8-byte words at these addresses of `DATA` hold: their number, as two undefined instructions."""
    number = (pa - np.uint64(DATA)) >> np.uint64(3)
    low, high = number & np.uint64(0xFFFF), number >> np.uint64(16)
    return low | (high | np.uint64(0x8000)) << np.uint64(32)


def binary(name: str) -> bytes:
    """Read an assembled program that lies beside its source."""
    return Path(__file__).with_name(f"{name}.bin").read_bytes()


@dataclass(frozen=True, slots=True)
class Batch:
    """What one ring of the doorbell runs."""

    vtcr: int
    vttbr: int
    hcr: int
    guest_page: int
    probes: NDArray[np.void]


class QemuMachine:
    """A running `qemu-system-aarch64` that shares its RAM; a context manager.

    Parameters
    ----------
    timeout_s : float
        How long one batch may take, in seconds.
    idle_s : int
        When nobody has rung for so many seconds the machine switches itself off.

    Raises
    ------
    OracleMissingError
        The program is not installed.
    OracleError
        It does not start.
    """

    def __init__(self, timeout_s: float = 60.0, idle_s: int = 300) -> None:
        found = shutil.which(BINARY)
        if found is None:
            raise OracleMissingError(
                f"{BINARY} is not installed (Debian: apt-get install --no-install-recommends qemu-system-arm)"
            )
        self._timeout_s = timeout_s
        self._idle_s = idle_s
        self._folder = tempfile.TemporaryDirectory(
            prefix="s2pt-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        )
        try:
            self._start(found)
        except BaseException:
            self._folder.cleanup()
            raise

    def _start(self, program: str) -> None:
        folder = Path(self._folder.name)
        file = folder / "ram"
        with file.open("wb+") as ram:
            ram.truncate(RAM_SIZE)
            self._map = mmap.mmap(ram.fileno(), RAM_SIZE)
        self.ram: Words = np.frombuffer(self._map, np.uint64)
        self._header = self.words(_HEADER, 9)
        self._header[8] = self._idle_s
        self._errors = folder / "errors"
        self._put(GUEST_PAGE, binary("guest"))
        data = np.arange(DATA, DATA + DATA_SIZE, 8, dtype=np.uint64)
        self.words(DATA, DATA_SIZE // 8)[:] = pattern(data)
        code = folder / "el2.bin"
        code.write_bytes(binary("el2"))
        command = [
            program,
            *("-machine", "virt,virtualization=on,gic-version=3,highmem=off,memory-backend=ram", "-cpu", "max"),
            *("-object", f"memory-backend-file,id=ram,size={RAM_SIZE},mem-path={file},share=on"),
            *("-m", f"{RAM_SIZE >> 20}M"),
            *("-device", f"loader,file={code},addr={_PROGRAM:#x},cpu-num=0,force-raw=on"),
            *("-nographic", "-nic", "none", "-monitor", "none", "-serial", "none"),
        ]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
            )
        # At the latest when the interpreter ends.
        self._end = weakref.finalize(self, _end, self._process, self._folder)

    def words(self, pa: int, count: int) -> Words:
        """Return `count` 8-byte words of the RAM from `pa` on, shared with the machine."""
        first = (pa - RAM) // 8
        return self.ram[first : first + count]

    def _put(self, pa: int, data: bytes) -> None:
        self._map[pa - RAM : pa - RAM + len(data)] = data

    def run(self, batch: Batch) -> NDArray[np.void]:
        """Run the probes and return an array of `RESULT`.

        Raises
        ------
        OracleError
            The process ended, or the time is up.
        """
        count = len(batch.probes)
        if count > MOST_PROBES:
            raise ValueError(f"a batch of {count} probes is more than {MOST_PROBES}")
        if self._process.poll() is not None:
            raise OracleError(self._ended())
        header = self._header
        header[2:8] = (count, batch.vtcr, batch.vttbr, batch.hcr, batch.guest_page, 0)
        self.words(_PROBES, count * 4).view(RAW_PROBE)[:] = batch.probes
        bell = int(header[0]) + 1
        header[0] = bell
        self._wait(bell)
        return self.words(_RESULTS, count * 8).view(RESULT).copy()

    def _wait(self, bell: int) -> None:
        limit = time.monotonic() + self._timeout_s
        pause = 20e-6
        while int(self._header[1]) != bell:
            if self._process.poll() is not None:
                raise OracleError(self._ended())
            if time.monotonic() > limit:
                raise OracleError(
                    f"{BINARY} did not answer within {self._timeout_s:g} s: {int(self._header[7])} of "
                    f"{int(self._header[2])} probes are done"
                )
            time.sleep(pause)
            pause = min(pause * 2, 2e-3)

    def _ended(self) -> str:
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else ""
        done = int(self._header[7])
        return f"{BINARY} ended with code {self._process.returncode} after {done} probes of a batch{said}"

    @staticmethod
    def version() -> str:
        """Return the version of the installed program, for reports; empty if there is none."""
        found = shutil.which(BINARY)
        if found is None:
            return ""
        said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
        return said.splitlines()[0].removeprefix("QEMU emulator version ")

    def close(self) -> None:
        """End the process and free the memory."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    folder.cleanup()
