"""From lines to events: translate, pair, order.

The two text files tell two sides of the same story, stamped by the same clock:

- the tracepoints (TAG.txt) say when a vCPU *asked*: `kvm_guest_fault` is printed on entry to the handler, notifier
  lines before the lock is taken;
- the kprobes (TAG.pgt.txt) say when the table *changed*: each line stands inside KVM's mmu_lock, shared for a fault's
  calls, exclusive for everything else, so their order is the order of the changes.

Hence a fault is ordered twice: by the tracepoint as `FAULT` (what the hardware walk had found) and by the return of its
table call as `HANDLED`. Unmaps, ageing and write protection are taken from the kprobes where they are there, and from
the notifier lines, translated by the slots of that moment, where they are not. Two lines of one microsecond stay in the
order of their file; of two files, the tracepoint comes first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from s2pt.trace.events import NO_VCPU, EventFlag, Kind, Outcome, SlotChange
from s2pt.trace.files import fail, shown
from s2pt.trace.ftrace import HEX, MARK_EVENTS, Line, hex_after, key_values
from s2pt.trace.records import Key, Row, to_records
from s2pt.trace.sidecar import MOST_AT_ONCE, CsvRow, Dump, TableShape, prot_bits
from s2pt.trace.slots import SlotEvent, Slots

__all__ = ["Builder", "is_write"]

_FAULT = re.compile(f"ipa {HEX}, hsr {HEX}, hxfar {HEX}, pc {HEX}")
_ACCESS = re.compile(f"IPA: {HEX}")
_RANGE = re.compile(f"mmu notifier (?:unmap range|age hva): {HEX} -- {HEX}")
_POINT = re.compile(f"mmu notifier (?:test age|set pte) hva: {HEX}")

_SILENT = frozenset(
    {
        "kvm_mmio",
        "kvm_mmio_nisv",
        "kvm_mmio_emulate",
        "kvm_toggle_cache",
        "kvm_set_way_flush",
        "kvm_dirty_ring_push",
        "kvm_dirty_ring_reset",
        "kvm_dirty_ring_exit",
        "memslot",
        "s2_flush",
    }
)
"""Lines that change no table (`memslot`: the sidecar's timeline says it)."""


def is_write(esr: int) -> bool:
    """Whether KVM takes a fault for a write: WnR of a data abort; of a stage-1 walk only if it lacked permission."""
    if esr & 1 << 7:
        return esr >> 2 & 0xF == 3
    return esr >> 26 == 0x24 and bool(esr & 1 << 6)


@dataclass(slots=True)
class _Open:
    """A fault whose handling has not been seen to end."""

    row: Row
    csv: CsvRow | None
    call: Line | None = None
    interrupted: tuple[Key, int] | None = None
    host_maps: list[int] = field(default_factory=list)


class Builder:
    """Turns an ordered stream of lines and slot changes into `EVENT` records.

    Parameters
    ----------
    vcpus : mapping of int to int
        vCPU index of each thread; threads that fault and are not in it get the next free index.
    kernel : (int, int)
        Version of the host kernel: it decides how permissions are numbered, and what ageing looks at.
    shape : TableShape
        Geometry of the table.
    huge : bool
        Whether the host backs memory with huge pages by itself.
    has_calls : bool
        Whether the lines hold the kprobes on KVM's table calls.
    csv : list of CsvRow, optional
        One row for each fault, in the order of the faults.
    csv_name : str
        Its file, for messages.
    dumps : mapping of str to Dump
        The dumped tables by marker.
    """

    def __init__(
        self,
        *,
        vcpus: Mapping[int, int],
        kernel: tuple[int, int],
        shape: TableShape,
        huge: bool,
        has_calls: bool,
        csv: list[CsvRow] | None = None,
        csv_name: str = "",
        dumps: Mapping[str, Dump],
    ) -> None:
        self.vcpus = dict(vcpus)
        self.kernel, self.shape, self.huge, self.has_calls = kernel, shape, huge, has_calls
        self.csv, self.csv_name = csv, csv_name
        # Two faults of one microsecond may stand in either order: only each thread's own order is sure.
        self._csv_by_thread = {
            tid: iter([row for row in csv or () if row.tid == tid]) for tid in {row.tid for row in csv or ()}
        }
        self.dumps_by_name = dumps
        self.dumps: list[Dump] = []
        self.marks: list[tuple[int, str]] = []
        self.notes: list[str] = []
        self._slots = Slots()
        self._rows: list[Row] = []
        self._open: dict[int, _Open] = {}
        self._calls: dict[int, Line] = {}  # a host thread's own map call, until it returns
        self._faults = 0
        self._disagree = 0
        self._unknown: Counter[str] = Counter()
        self._alone: Counter[str] = Counter()
        self._at = 0

    # --- the stream ------------------------------------------------------------------------------------------------

    def run(self, items: Iterable[Line | SlotEvent]) -> npt.NDArray[np.void]:
        """Read the whole stream and give the records."""
        handlers: dict[str, Callable[[Line], None]] = {
            "kvm_guest_fault": self._guest_fault,
            "kvm_access_fault": self._access_fault,
            "kvm_unmap_hva_range": self._notified_unmap,
            "kvm_age_hva": self._notified_age,
            "kvm_test_age_hva": self._notified_age,
            "kvm_set_spte_hva": self._notified_map,
            "s2_map": self._call,
            "s2_map_ret": self._call_returned,
            "s2_relax": self._call,
            "s2_relax_ret": self._call_returned,
            "s2_mkyoung": self._made_young,
            "s2_unmap": lambda line: self._range(line, Kind.UNMAP),
            "s2_wrprotect": lambda line: self._range(line, Kind.WRPROTECT),
            "s2_split": lambda line: self._range(line, Kind.SPLIT),
            "s2_test_clear_young": self._aged,
            "s2_mkold": self._aged,
            "s2_is_young": self._aged,
            "s2_destroy": self._destroyed,
            "log_dirty_pt": self._log_cleared,
            **dict.fromkeys(MARK_EVENTS, self._mark),
        }
        for self._at, item in enumerate(items):
            if isinstance(item, SlotEvent):
                self._slot(item)
            elif item.event in handlers:
                handlers[item.event](item)
            elif item.event not in _SILENT:
                self._unknown[item.event] += 1
        for tid in list(self._open):
            self._close(tid)
        if self.csv is not None and self._faults != len(self.csv):
            expected = f"{self._faults:,} faults as in the trace"
            fail(self.csv_name, len(self.csv) + 1, f"expected {expected}, found {len(self.csv):,}")
        self.notes += [f"{count:,} {event} lines are not understood" for event, count in self._unknown.items()]
        self.notes += [f"{count:,} {event} lines belong to no fault" for event, count in self._alone.items()]
        if self._disagree:
            self.notes.append(
                f"{self._disagree:,} faults have other outcomes in {self.csv_name} than in the table calls"
            )
        return to_records(self._rows, self.dumps, self.shape, self.huge)

    def _add(self, kind: Kind, line: Line | None, *, rank: int = 0, **fields: int) -> Row:
        row = Row((self._at, rank), kind, line.time_us if line else 0, fields)
        if line is not None:
            fields.setdefault("tid", line.tid)
            fields.setdefault("vcpu", NO_VCPU)
            if line.tid == 0:
                fields["flags"] = fields.get("flags", 0) | EventFlag.INFERRED
        self._rows.append(row)
        return row

    def _slot(self, event: SlotEvent) -> None:
        slot = (event.change is SlotChange.DELETE and self._slots.get(event.slot.id)) or event.slot
        self._slots.apply(event)
        row = self._add(
            Kind.SLOT,
            None,
            slot=slot.id,
            ipa=slot.ipa,
            size=slot.size,
            hva=slot.hva,
            flags=slot.flags,
            ref=event.change,
            vcpu=NO_VCPU,
        )
        row.time_us = event.time_us

    def _mark(self, line: Line) -> None:
        words = line.text.split()
        if len(words) == 2 and words[0] == "dump_end":
            for tid in list(self._open):
                self._close(tid)
            dump = self.dumps_by_name.get(words[1])
            if dump is not None:
                self._add(Kind.DUMP, line, ref=len(self.dumps))
                self.dumps.append(dump)
                return
            self.notes.append(f"no leaves of dump {words[1]!r}: it is not compared")
        self._add(Kind.MARK, line, ref=len(self.marks))
        self.marks.append((line.time_us, line.text))

    # --- faults ----------------------------------------------------------------------------------------------------

    def _guest_fault(self, line: Line) -> None:
        self._close(line.tid)
        ipa, esr, far, _pc = hex_after(line, _FAULT, "ipa 0x.., hsr 0x.., hxfar 0x.., pc 0x..")
        if line.tid not in self.vcpus:
            self.vcpus[line.tid] = max(self.vcpus.values(), default=-1) + 1
        vcpu = self.vcpus[line.tid]
        csv = self._csv_row(line, ipa, esr)
        slot = self._slots.at(ipa)
        row = self._add(Kind.FAULT, line, vcpu=vcpu, ipa=ipa, esr=esr, far=far, slot=slot.id if slot else -1)
        opened = _Open(row, csv)
        if slot is None or (slot.read_only and is_write(esr)):
            self._handled(opened, (self._at, 1), line.time_us, line.time_us, Outcome.MMIO)
        else:
            self._open[line.tid] = opened

    def _csv_row(self, line: Line, ipa: int, esr: int) -> CsvRow | None:
        self._faults += 1
        if self.csv is None:
            return None
        fault = f"the fault of {line.file}:{line.number} (ipa {ipa:#x}, hsr {esr:#x}, thread {line.tid})"
        row = next(self._csv_by_thread.get(line.tid, iter(())), None)
        if row is None:
            fail(self.csv_name, len(self.csv) + 1, f"expected {fault}, found no further row of that thread")
        if (row.time_us, row.ipa, row.esr) != (line.time_us, ipa, esr):
            fail(self.csv_name, row.line, f"expected {fault}, found ipa {row.ipa:#x}, hsr {row.esr:#x}")
        return row

    def _access_fault(self, line: Line) -> None:
        (ipa,) = hex_after(line, _ACCESS, "IPA: ..")
        opened = self._open.get(line.tid)
        page = self.shape.page_size
        if opened is None or opened.row.fields["ipa"] // page != ipa // page:
            self._alone[line.event] += 1
        else:
            opened.row.fields["flags"] = opened.row.fields.get("flags", 0) | EventFlag.ACCESS_LINE

    def _call(self, line: Line) -> None:
        opened = self._open.get(line.tid)
        if opened is not None and not (opened.host_maps and key_values(line, "addr")[0] in opened.host_maps):
            opened.call = line
        else:
            self._calls[line.tid] = line

    def _call_returned(self, line: Line) -> None:
        opened = self._open.get(line.tid)
        (ret,) = key_values(line, "ret")
        begun = self._calls.pop(line.tid, None)
        if begun is None and opened is not None and opened.call is not None:
            begun = opened.call
            del self._open[line.tid]
            outcome = Outcome.MAP if begun.event == "s2_map" else Outcome.RELAX
            self._handled(opened, (self._at, 0), line.time_us, begun.time_us, outcome, **self._call_fields(begun, ret))
        elif begun is not None and begun.event + "_ret" == line.event:
            self._add(Kind.MAP, line, **self._call_fields(begun, ret))
        else:
            fail(line.file, line.number, f"expected {line.event[:-4]} of thread {line.tid} before this line")

    def _call_fields(self, begun: Line, ret: int) -> dict[str, int]:
        addr, prot = key_values(begun, "addr", "prot")
        fields = {"map_ipa": addr, "prot": prot_bits(prot, self.kernel), "ret": ret}
        if begun.event == "s2_map":
            fields["map_size"], fields["map_pa"] = key_values(begun, "size", "phys")
            if fields["map_size"] > MOST_AT_ONCE:
                fail(
                    begun.file, begun.number, f"expected a size of at most {MOST_AT_ONCE:#x}, found {shown(begun.text)}"
                )
        return fields

    def _made_young(self, line: Line) -> None:
        opened = self._open.pop(line.tid, None)
        (addr,) = key_values(line, "addr")
        if opened is None:
            self._alone[line.event] += 1
        else:
            self._handled(opened, (self._at, 0), line.time_us, line.time_us, Outcome.YOUNG, map_ipa=addr)

    def _close(self, tid: int) -> None:
        """End a fault for which no table call was seen."""
        opened = self._open.pop(tid, None)
        if opened is None:
            return
        key, time_us = opened.interrupted or ((opened.row.key[0], 1), opened.row.time_us)
        if self.has_calls or opened.interrupted:
            self._handled(opened, key, time_us, time_us, Outcome.RETRY)
        elif opened.csv is not None:
            row = opened.csv
            fields = {"map_ipa": row.map_ipa, "map_size": row.map_size, "map_pa": row.map_pa, "prot": row.prot}
            self._handled(opened, key, time_us, time_us, row.outcome, ret=row.ret, **fields)
        else:
            young = opened.row.fields.get("flags", 0) & EventFlag.ACCESS_LINE
            self._handled(opened, key, time_us, time_us, Outcome.YOUNG if young else Outcome.UNKNOWN)

    def _handled(self, opened: _Open, key: Key, time_us: int, begin_us: int, outcome: Outcome, **fields: int) -> None:
        fault = opened.row
        if opened.csv is not None and opened.csv.outcome not in (outcome, Outcome.UNKNOWN):
            self._disagree += 1
        copied = {name: fault.fields[name] for name in ("vcpu", "tid", "ipa", "esr", "far", "slot")}
        copied["flags"] = fault.fields.get("flags", 0)
        row = Row(key, Kind.HANDLED, time_us, {**copied, **fields, "outcome": outcome, "begin_us": begin_us}, fault)
        fault.partner = row
        self._rows.append(row)

    # --- the host --------------------------------------------------------------------------------------------------

    def _notified_unmap(self, line: Line) -> None:
        start, end = hex_after(line, _RANGE, "mmu notifier unmap range: 0x.. -- 0x..")
        opened = self._open.get(line.tid)
        for rank, (slot, ipa, size) in enumerate(self._slots.translate(start, end, self.shape.page_size)):
            if opened is not None and self._same_block(opened.row.fields["ipa"], ipa, size):
                opened.interrupted = ((self._at, 100), line.time_us)
            if not self.has_calls:
                flags = EventFlag.OWN_THREAD if opened is not None else 0
                self._add(Kind.UNMAP, line, rank=rank, ipa=ipa, size=size, slot=slot.id, hva=start, flags=flags)

    def _same_block(self, fault_ipa: int, ipa: int, size: int) -> bool:
        block = self.shape.block_size
        return ipa // block <= fault_ipa // block <= (ipa + size - 1) // block

    def _notified_age(self, line: Line) -> None:
        if self.has_calls:
            return
        page = self.shape.page_size
        if line.event == "kvm_age_hva":
            start, end = hex_after(line, _RANGE, "mmu notifier age hva: 0x.. -- 0x..")
            clear = 1
        else:
            (start,) = hex_after(line, _POINT, "mmu notifier test age hva: 0x..")
            end, clear = start + 1, 0
        for rank, (slot, ipa, size) in enumerate(self._slots.translate(start, end, page)):
            # Up to 6.4 KVM looked at the first page of the range only.
            bytes_ = page if self.kernel < (6, 5) else size
            self._add(Kind.AGE, line, rank=rank, ipa=ipa, size=bytes_, slot=slot.id, hva=start, ref=clear)

    def _notified_map(self, line: Line) -> None:
        """Copy-on-write moved a page, and the kernel (up to 6.9) hands KVM the new one, mapped read-only."""
        (hva,) = hex_after(line, _POINT, "mmu notifier set pte hva: 0x..")
        page = self.shape.page_size
        opened = self._open.get(line.tid)
        for rank, (slot, ipa, _size) in enumerate(self._slots.translate(hva, hva + 1, page)):
            if opened is not None:
                opened.host_maps.append(ipa)
            if not self.has_calls:
                self._add(Kind.MAP, line, rank=rank, ipa=ipa, slot=slot.id, map_ipa=ipa, map_size=page, prot=8, hva=hva)

    def _range(self, line: Line, kind: Kind) -> None:
        addr, size = key_values(line, "addr", "size")
        page = self.shape.page_size
        first, end = addr - addr % page, -(-(addr + size) // page) * page
        slot = self._slots.at(first)
        own = EventFlag.OWN_THREAD if line.tid in self._open else 0
        self._add(kind, line, ipa=first, size=end - first, slot=slot.id if slot else -1, flags=own)

    def _aged(self, line: Line) -> None:
        page = self.shape.page_size
        if line.event == "s2_test_clear_young":
            addr, size, clear = key_values(line, "addr", "size", "mkold")
        else:
            (addr,) = key_values(line, "addr")
            size, clear = page, int(line.event == "s2_mkold")
        # KVM adds the size to the address rounded down.
        first = addr - addr % page
        slot = self._slots.at(first)
        self._add(
            Kind.AGE, line, ipa=first, size=-(-size // page) * page, slot=slot.id if slot else -1, ref=int(bool(clear))
        )

    def _log_cleared(self, line: Line) -> None:
        slot_id, offset, mask = key_values(line, "slot", "gfn_offset", "mask")
        slot = self._slots.get(slot_id)
        if slot is None or mask == 0:
            return
        page = self.shape.page_size
        low, high = (mask & -mask).bit_length() - 1, mask.bit_length()
        self._add(Kind.CLEAR_LOG, line, slot=slot_id, ipa=slot.ipa + (offset + low) * page, size=(high - low) * page)

    def _destroyed(self, line: Line) -> None:
        # Tables that other, short-lived VMs of the process had before the guest ran are none of ours.
        if self._faults:
            self._add(Kind.DESTROY, line)
