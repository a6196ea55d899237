"""Writing small traces: the files of a run, line by line, as a kernel would print them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s2pt.trace import Trace, read

PAGE, BLOCK = 4096, 2 << 20
RAM, HVA = 0x4000_0000, 0xFFFF_4000_0000
WRITE_L3, READ_L3, EXEC_L3 = 0x9200_0047, 0x9200_0007, 0x8200_0007
WRITE_PERM_L3, ACCESS_L3 = 0x9200_004F, 0x9200_000B

SHAPE = {"page_shift": 12, "ia_bits": 40, "start_level": 1, "ds": 0, "ha": 0}


class Tape:
    """A run of one guest with one 64 MiB slot; each method adds a line 10 us after the one before."""

    def __init__(self, folder: Path, *, kernel: str = "6.12.117", thp: str = "always madvise [never]") -> None:
        self.folder, self.now = folder, 1_000_000
        self.trace: list[str] = []
        self.calls: list[str] = []
        self.about: dict[str, Any] = {
            "l1_kernel": f"Linux (none) {kernel} #1 SMP aarch64 GNU/Linux",
            "thp": thp,
            "vcpu_threads": {"100": 0, "101": 1, "102": 2, "103": 3},
            "memslot_timeline": [],
            "dumps": {},
        }
        self.slot("CREATE", 0, 0, RAM, 64 << 20, HVA)

    def tick(self) -> int:
        self.now += 10
        return self.now

    def _line(self, rows: list[str], tid: int, event: str, text: str, task: str = "CPU 0/KVM") -> None:
        at = self.tick()
        rows.append(f" {task:>15}-{tid:<5} [000] d.... {at // 10**6:5}.{at % 10**6:06}: {event}: {text}")

    def line(self, tid: int, event: str, text: str, **options: Any) -> None:
        self._line(self.trace, tid, event, text, **options)

    def call(self, tid: int, event: str, text: str) -> None:
        self._line(self.calls, tid, event, f"(kvm_pgtable_stage2+0x0/0x140) {text}")

    def slot(self, change: str, number: int, flags: int, gpa: int, size: int, hva: int) -> None:
        entry = {"t": self.tick() / 1e6, "change": change, "slot": number, "flags": flags}
        self.about["memslot_timeline"].append({**entry, "gpa": hex(gpa), "size": hex(size), "hva": hex(hva)})

    def fault(self, tid: int, ipa: int, esr: int, far: int = 0) -> None:
        self.line(tid, "kvm_guest_fault", f"ipa {ipa:#x}, hsr {esr:#010x}, hxfar {far:#010x}, pc 0x00ffff80000000")

    def map(self, tid: int, ipa: int, size: int, pa: int, prot: int, ret: int = 0) -> None:
        self.call(tid, "s2_map", f"addr={ipa:#x} size={size:#x} phys={pa:#x} prot={prot:#x} flags=24")
        self.returned(tid, "s2_map", ret)

    def relax(self, tid: int, ipa: int, prot: int, ret: int = 0) -> None:
        self.call(tid, "s2_relax", f"addr={ipa:#x} prot={prot:#x}")
        self.returned(tid, "s2_relax", ret)

    def returned(self, tid: int, call: str, ret: int) -> None:
        self._line(self.calls, tid, f"{call}_ret", f"(handler+0xbb8/0xe68 <- kvm_pgtable_stage2) ret={ret}")

    def unmap_notified(self, tid: int, start: int, end: int) -> None:
        self.line(tid, "kvm_unmap_hva_range", f"mmu notifier unmap range: {start:#016x} -- {end:#016x}")

    def mark(self, text: str) -> None:
        self.line(1, "tracing_mark_write", text, task="init")

    def dump(self, name: str, leaf_runs: list[list[Any]], pagemap_runs: list[list[str]]) -> None:
        self.mark(f"dump {name}")
        self.mark(f"dump_end {name}")
        self.about["dumps"][name] = {"geometry": SHAPE, "vtcr_el2": "0x802c3558", "vttbr_el2": "0x1000043000000"}
        leaves = {"leaf_runs": leaf_runs, "pagemap_runs": pagemap_runs}
        (self.folder / f"t.{name}.leaves.json").write_text(json.dumps(leaves))

    def write(self, *, calls: bool = True) -> Path:
        """Write the files; give the path of the trace."""
        path = self.folder / "t.txt"
        path.write_text(self.text(self.trace))
        if calls:
            (self.folder / "t.pgt.txt").write_text(self.text(self.calls))
        (self.folder / "t.json").write_text(json.dumps(self.about))
        return path

    def text(self, rows: list[str]) -> str:
        count = len(rows)
        head = ["# tracer: nop", "#", f"# entries-in-buffer/entries-written: {count}/{count}   #P:2", "#"]
        return "\n".join([*head, *rows, ""])

    def read(self, **options: Any) -> Trace:
        return read(self.write(**options))
