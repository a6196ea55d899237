"""The table under replay: KVM's operations as calls on a `Stage2`, and everything that it tells its sink."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from s2pt import Stage2
from s2pt.errors import AddressError, Again, AlignmentError, AttributesError, ConflictError, OutOfFramesError, S2ptError
from s2pt.testing.kvm.case import FORCE_PTE, IDMAP, TLBI_RANGE, Case
from s2pt.testing.kvm.maintenance import Event
from s2pt.types import MemType, Prot, WalkFlags

__all__ = ["AGAIN", "INVALID", "LOCKED", "NO_MEMORY", "RANGE", "Answer", "Table"]

AGAIN: Final = -11
NO_MEMORY: Final = -12
INVALID: Final = -22
RANGE: Final = -34

LOCKED: Final = 0x400

_DEVICE: Final = 8
_NORMAL_NC: Final = 16
_SOFTWARE: Final = 0xF << 55
# A permission that there is not, for an operation that must refuse software bits.
_NO_PERMISSION: Final = 0x10


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation came to: KVM's return value, what else it returns, and the exception behind a refusal."""

    r: int
    extra: tuple[tuple[str, int], ...] = ()
    refused: S2ptError | None = None


class Table:
    """A `Stage2` with KVM's semantics, driven by KVM's operations."""

    def __init__(self, case: Case, *, other_thread: bool = False) -> None:
        self.case = case
        self.page = 1 << case.shift
        self.limit = 1 << case.ia_bits
        self.pa_limit = 1 << case.pa_bits
        self.events: list[Event] = []
        self.allocated = 0
        self.freed = 0
        self._other_thread = other_thread
        self._root_seen = False
        self._interrupt: tuple[int, Callable[[], None]] | None = None
        self._inside = False
        self._locked = False
        self.owner = Stage2(
            case.ia_bits,
            self.page,
            case.pa_bits,
            lpa2=case.lpa2,
            fwb=case.fwb,
            tlbi_range=bool(case.flags & TLBI_RANGE),
            semantics="kvm",
            sink=self._hear,
        )
        # KVM waits for nobody.
        self.s2 = self.owner.without_waiting()

    # --- what the table tells -------------------------------------------------------------------------------------

    def _hear(self, kind: str, fields: dict[str, Any]) -> None:
        if kind == "allocate":
            # The root is the first, and not counted.
            self.allocated += self._root_seen
            self._root_seen = True
        elif kind == "free":
            self.freed += 1
        event = Event(kind, fields)
        self.events.append(event)
        if not event.invalidates or self._interrupt is None or self._inside:
            return
        left, work = self._interrupt
        if left:
            self._interrupt = left - 1, work
            return
        self._interrupt, self._inside = None, True
        try:
            if self._other_thread:
                thread = Thread(target=work)
                thread.start()
                thread.join()
            else:
                work()
        finally:
            self._inside = False

    def run_inside_tlbi(self, number: int, work: Callable[[], None], operation: Callable[[], Answer]) -> Answer:
        """Run `operation`, and `work` inside its TLBI with that number."""
        self._interrupt = number, work
        try:
            return operation()
        finally:
            self._interrupt = None

    def settle(self) -> None:
        """Wait for frames that were unlinked."""
        if any(event.kind == "retire" for event in self.events):
            self.owner.drain()

    def close(self) -> None:
        """Give the table up; what it frees is heard."""
        self.s2.close()
        self.owner.close()

    # --- what is in it --------------------------------------------------------------------------------------------

    def entries(self) -> NDArray[np.void]:
        """Every entry that is not empty."""
        return self.s2.entries_array()

    def leaves(self) -> NDArray[np.void]:
        """Every entry that is neither empty nor a table."""
        entries = self.entries()
        return entries[~is_table(entries)]

    def checksum(self) -> int:
        """Compute the recording's checksum of the leaves."""
        return zlib.crc32(np.ascontiguousarray(self.leaves()).tobytes())

    def holds_locked(self) -> bool:
        """Whether some entry is held; only a raw write leaves one so."""
        if self._locked:
            self._locked = bool((self.leaves()["raw"] == np.uint64(LOCKED)).any())
        return self._locked

    # --- KVM's rounding -------------------------------------------------------------------------------------------

    def rounded(self, addr: int, size: int) -> tuple[int, int]:
        """Start and size of the pages that KVM's walk visits: the size counts from the rounded start."""
        start = addr & -self.page
        return start, (start + size + self.page - 1 & -self.page) - start

    # --- operations -----------------------------------------------------------------------------------------------

    def run(self, operation: list[Any]) -> Answer:
        """Do one operation of the recording, any but a nest."""
        name, *operands = operation
        method: Callable[..., Answer] = getattr(self, f"op_{name}")
        try:
            return method(*operands)
        except Again as error:
            return Answer(AGAIN, refused=error)
        except OutOfFramesError as error:
            return Answer(NO_MEMORY, refused=error)
        except AddressError as error:
            return Answer(RANGE, refused=error)
        except (AttributesError, AlignmentError, ConflictError) as error:
            return Answer(INVALID, refused=error)

    def op_map(self, addr: int, size: int, phys: int, prot: int, flags: int, frames: int) -> Answer:
        """stage2_map."""
        if self.case.flags & IDMAP and addr != phys:
            return Answer(INVALID)
        if prot & _DEVICE and prot & _NORMAL_NC:
            return Answer(INVALID)
        memtype = MemType.DEVICE if prot & _DEVICE else MemType.NORMAL_NC if prot & _NORMAL_NC else MemType.NORMAL
        self.s2.map(
            *self.rounded(addr, size),
            phys & -self.page,
            permissions(prot),
            memtype=memtype,
            software=prot >> 55 & 0xF,
            largest=3 if self.case.flags & FORCE_PTE else None,
            flags=WalkFlags(flags),
            budget=max(frames, 0),
        )
        return Answer(0)

    def op_unmap(self, addr: int, size: int) -> Answer:
        """stage2_unmap."""
        self.s2.unmap(*self.rounded(addr, size))
        return Answer(0)

    def op_wrprotect(self, addr: int, size: int) -> Answer:
        """stage2_wrprotect."""
        self.s2.write_protect(*self.rounded(addr, size))
        return Answer(0)

    def op_flush(self, addr: int, size: int) -> Answer:
        """stage2_flush."""
        self.s2.flush_cache(*self.rounded(addr, size))
        return Answer(0)

    def op_owner(self, addr: int, size: int, owner: int, frames: int) -> Answer:
        """stage2_set_owner."""
        self.s2.annotate(*self.rounded(addr, size), owner, budget=max(frames, 0))
        return Answer(0)

    def op_relax(self, addr: int, prot: int) -> Answer:
        """stage2_relax_perms."""
        wanted = permissions(prot)
        if prot & _SOFTWARE:
            wanted = Prot(int(wanted) | _NO_PERMISSION)
        self.s2.relax(addr & -self.page, self.page, wanted)
        return Answer(0)

    def op_mkyoung(self, addr: int) -> Answer:
        """stage2_mkyoung: the old entry, 0 on any failure."""
        try:
            old = self.s2.lookup(addr).raw
            self.s2.mark_young(addr & -self.page, self.page)
        except (Again, AddressError) as error:
            return Answer(0, refused=error)
        return Answer(old)

    def op_young(self, addr: int, size: int, clear: int) -> Answer:
        """stage2_test_clear_young: 0 on any failure."""
        ask = self.s2.test_and_clear_young if clear else self.s2.test_young
        try:
            return Answer(int(ask(*self.rounded(addr, size))))
        except AddressError as error:
            return Answer(0, refused=error)

    def op_leaf(self, addr: int) -> Answer:
        """get_leaf."""
        entry = self.s2.lookup(addr)
        return Answer(0, (("pte", entry.raw), ("level", entry.level)))

    def op_split(self, addr: int, size: int, frames: int) -> Answer:
        """stage2_split; also how many frames are left of those it was given."""
        before, r = self.allocated, 0
        refused: S2ptError | None = None
        try:
            self.s2.split(*self.rounded(addr, size), budget=max(frames, 0))
        except (OutOfFramesError, AddressError, AlignmentError) as error:
            r = NO_MEMORY if isinstance(error, OutOfFramesError) else RANGE
            refused = error
        return Answer(r, (("left", frames - (self.allocated - before)),), refused)

    def op_poke(self, addr: int, level: int, value: int) -> Answer:
        """Do the recording's raw write."""
        self._locked |= value == LOCKED
        return Answer(0, (("old", self.s2.poke(addr, level, value)),))


def permissions(prot: int) -> Prot:
    """Translate KVM's prot bits."""
    return Prot(
        (Prot.X if prot & 1 else Prot.NONE) | (Prot.W if prot & 2 else Prot.NONE) | (Prot.R if prot & 4 else Prot.NONE)
    )


def is_table(entries: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which of these entries point to tables."""
    tables: NDArray[np.bool_] = (entries["raw"] & np.uint64(3) == np.uint64(3)) & (entries["level"] < 3)
    return tables
