"""From steps to a log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from s2pt.errors import RecordingError
from s2pt.events import Event
from s2pt.recording.casemate.line import PAGE
from s2pt.recording.order import arrange
from s2pt.recording.setup import VALID, Setup
from s2pt.recording.steps import number
from s2pt.types import Geometry

__all__ = ["write"]

SRC: Final = '(src "s2pt:0")'


def write(events: Sequence[Event], setup: Setup, local: str = "refuse") -> str:
    """Write steps as a log; see `s2pt.recording.Recording.casemate`."""
    _refuse(setup)
    if local not in ("refuse", "leave-out"):
        raise RecordingError(f"local is {local!r}, not 'refuse' or 'leave-out'")
    if not any(event.kind == "allocate" and event.fields["frame"] == setup.root for event in events):
        raise RecordingError("a log for casemate begins with the table, and this recording does not")
    writer = _Writer(setup, local)
    for event in arrange(events, setup).events:
        writer.step(event)
    return "".join(writer.lines)


def _refuse(setup: Setup) -> None:
    shape = setup.geometry
    if shape.granule != PAGE:
        raise RecordingError(f"casemate knows the 4K granule alone, not {shape.granule >> 10}K")
    if shape.lpa2:
        raise RecordingError("casemate does not know LPA2")
    if shape.root_frames != 1:
        raise RecordingError(f"casemate knows roots of one frame, not of {shape.root_frames}")


def _vtcr(shape: Geometry) -> int:
    """T0SZ, SL0, the 4K granule, and write-back walks."""
    return 1 << 31 | 64 - shape.ipa_bits | (2 - shape.start_level) << 6 | 1 << 8 | 1 << 10 | 3 << 12


class _Writer:
    def __init__(self, setup: Setup, local: str) -> None:
        self.setup = setup
        self.leave_out = local == "leave-out"
        self.lines: list[str] = []
        self.ready: set[int] = set()
        self.root = False
        self.broken: dict[int, int] = {}  # table entries that are broken, and by whom
        self.private: dict[int, list[Event]] = {}

    def put(self, thread: int, name: str, words: str = "") -> None:
        gap = " " if words else ""
        self.lines.append(f"({name} (id {len(self.lines):x}) (tid {thread:x}){gap}{words} {SRC})\n")

    def registers(self, thread: int) -> None:
        """Say under which table a thread works, before anything that depends on it."""
        if self.root and thread not in self.ready:
            self.ready.add(thread)
            vttbr = self.setup.root | self.setup.vmid << 48
            self.put(thread, "sysreg-write", f"(sysreg vtcr_el2) (value {_vtcr(self.setup.geometry):#x})")
            self.put(thread, "sysreg-write", f"(sysreg vttbr_el2) (value {vttbr:#x})")

    def step(self, event: Event) -> None:
        kind, thread, fields = event.kind, event.thread, event.fields
        if kind in ("publish", "dsb"):
            self.barrier(event, "ishst" if kind == "publish" else str(fields["domain"]))
        elif kind == "isb":
            self.put(thread, "barrier", "isb")
        elif kind.startswith("tlbi_"):
            self.tlbi(event)
        elif kind == "allocate":
            frame = number(event, "frame")
            self.put(thread, "mem-init", f"(address {frame:#x}) (size {PAGE:#x})")
            if frame == self.setup.root:
                self.root = True
                self.registers(thread)
        elif kind == "fill":
            first, step, entry = number(event, "first"), number(event, "step"), number(event, "entry")
            for index in range(number(event, "count")):
                self.write(thread, "plain", entry + 8 * index, (first + index * step) % (1 << 64))
        elif kind == "store":
            self.registers(thread)
            entry, old, new = number(event, "entry"), number(event, "old"), number(event, "new")
            # At level 3 the two bits mean a page: then a range is written for more than it is.
            if old & 3 == 3 and not new & VALID:
                self.broken[entry] = thread
            elif new & VALID or not old & VALID:
                self.broken.pop(entry, None)
            # A compare-exchange is one access, and orders what came before; so does a make.
            self.write(thread, "release" if fields.get("release") else "plain", entry, new)
        elif kind == "free":
            self.put(thread, "mem-free", f"(address {number(event, 'frame'):#x}) (size {PAGE:#x})")

    def write(self, thread: int, order: str, entry: int, value: int) -> None:
        self.put(thread, "mem-write", f"(mem-order {order}) (address {entry:#x}) (value {value:#x})")

    def barrier(self, event: Event, domain: str) -> None:
        if domain.startswith("nsh"):
            return self.one_cpu(event, f"DSB {domain.upper()}")
        return self.put(event.thread, "barrier", f"dsb (kind {domain})")

    def one_cpu(self, event: Event, what: str) -> None:
        if not self.leave_out:
            raise RecordingError(
                f"step {event.sequence}: {what} is of one CPU, and casemate knows broadcast ones alone"
            )

    def tlbi(self, event: Event) -> None:
        kind, thread, fields = event.kind, event.thread, event.fields
        if fields.get("scope", "broadcast") != "broadcast":
            return self.one_cpu(event, kind)
        self.registers(thread)
        level = fields.get("level")
        if kind == "tlbi_stage1":
            return self.put(thread, "tlbi", "vmalle1is")
        table = kind == "tlbi_range" and level is None and thread in self.broken.values()
        if kind == "tlbi_vmid" or table:
            return self.put(thread, "tlbi", "vmalls12e1is")
        # Bits 47:46 say the granule and 45:44 the level, if there is a hint.
        hint = (0b0100 | level) << 44 if isinstance(level, int) and 0 <= level <= 3 else 0
        ipa, step = number(event, "ipa") & -PAGE, PAGE
        end = ipa + (number(event, "pages") if kind == "tlbi_range" else 1) * PAGE
        if hint and isinstance(level, int) and kind == "tlbi_range":
            step = self.setup.geometry.size(level)
        while ipa < end:
            self.put(thread, "tlbi", f"ipas2e1is (value {hint | ipa >> 12:#x})")
            ipa = (ipa | step - 1) + 1
        return None
