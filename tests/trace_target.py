"""A run of a guest with bytes changed: read, or refused by a `TraceError` that names a file, and nothing else.

The body of the fuzz target `fuzz/trace.py` (coverage-guided, by atheris) and of `test_trace_fuzz.py` (by Hypothesis).
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from trace_tape import ACCESS_L3, BLOCK, HVA, PAGE, RAM, READ_L3, WRITE_L3, WRITE_PERM_L3, Tape

from s2pt.trace import EVENT, Kind, TraceError, read

FILES = ("t.txt", "t.pgt.txt", "t.json", "t.end.leaves.json", "t.faults.csv")
_CSV = "t,vcpu,tid,l1cpu,ipa,hsr,far,pc,outcome,map_addr,map_size,map_pa,prot,ret"
# Pieces that mean something somewhere: mutations are put together of them, and of single bytes.
TOKENS = (
    b"0x0", b"0xffffffffffffffff", b"-1", b"18446744073709551616", b"1e400", b"NaN", b"null", b"[]", b"{}", b"\n", b"",
    b"0" * 5000, b",", b"\xff", b'"', b"s2_map", b"s2_map_ret", b"s2_relax", b"s2_unmap", b"s2_split", b"s2_wrprotect",
    b"s2_destroy", b"s2_mkyoung", b"s2_test_clear_young", b"kvm_guest_fault", b"kvm_unmap_hva_range", b"kvm_age_hva",
    b"kvm_set_spte_hva", b"log_dirty_pt", b"dump_end end", b"DELETE", b"MOVE", b"FLAGS_ONLY", b"addr=", b"size=0x0",
    b"ret=-11", b"[LOST 3 EVENTS]", b"# entries-in-buffer/entries-written: 1/2", b"\x00", b"true", b"\xe2\x80\xa8",
)  # fmt: skip


@cache
def _original() -> dict[str, bytes]:
    """Give the files of a small run in which everything happens once."""
    with TemporaryDirectory() as folder:
        tape = Tape(Path(folder))
        rows = [_CSV]
        for tid, ipa, esr in ((100, RAM, WRITE_L3), (101, RAM + PAGE, READ_L3), (100, RAM + BLOCK, WRITE_L3)):
            tape.fault(tid, ipa, esr)
            at = tape.now / 1e6
            tape.map(tid, ipa, PAGE, 0x8000_0000 + ipa, 6)
            rows.append(f"{at:.6f},{tid - 100},{tid},0,{ipa:#x},{esr:#x},0x0,0x0,map,{ipa:#x},{PAGE},{ipa:#x},0x6,0")
        tape.unmap_notified(7, HVA, HVA + PAGE)
        tape.call(7, "s2_unmap", f"addr={RAM:#x} size={PAGE:#x}")
        tape.line(7, "kvm_age_hva", f"mmu notifier age hva: {HVA:#016x} -- {HVA + BLOCK:#016x}")
        tape.call(7, "s2_test_clear_young", f"addr={RAM:#x} size={BLOCK:#x} mkold=1")
        tape.line(7, "kvm_set_spte_hva", f"mmu notifier set pte hva: {HVA:#016x}")
        tape.slot("FLAGS_ONLY", 0, 1, RAM, 64 << 20, HVA)
        tape.call(7, "s2_split", f"addr={RAM:#x} size={BLOCK:#x}")
        tape.call(7, "s2_wrprotect", f"addr={RAM:#x} size={64 << 20:#x}")
        for tid, ipa, esr in ((100, RAM + PAGE, WRITE_PERM_L3), (101, RAM + PAGE, ACCESS_L3)):
            tape.fault(tid, ipa, esr)
            at = tape.now / 1e6
            if esr == ACCESS_L3:
                tape.line(tid, "kvm_access_fault", f"IPA: {ipa:x}")
                tape.call(tid, "s2_mkyoung", f"addr={ipa:#x}")
                rows.append(f"{at:.6f},{tid - 100},{tid},0,{ipa:#x},{esr:#x},0x0,0x0,young,,,,,")
            else:
                tape.relax(tid, ipa, 2)
                rows.append(f"{at:.6f},{tid - 100},{tid},0,{ipa:#x},{esr:#x},0x0,0x0,relax,{ipa:#x},,,0x2,0")
        leaf = [hex(RAM + PAGE), hex(PAGE), "0x80001000", 3, "0x400000000004ff"]
        tape.dump("end", [leaf], [[hex(RAM), "0x80000000", hex(BLOCK)]])
        tape.write()
        files = {name: (Path(folder) / name).read_bytes() for name in FILES if (Path(folder) / name).exists()}
        files["t.faults.csv"] = ("\n".join(rows) + "\n").encode()
        return files


class _Bytes:
    """Choices out of the fuzzer's bytes; zeros where they have run out."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        taken = self.data[self.at : self.at + count]
        self.at += count
        return taken.ljust(count, b"\0")

    def below(self, limit: int) -> int:
        return int.from_bytes(self.take(2), "little") % max(limit, 1)


def changed(data: bytes) -> dict[str, bytes]:
    """Give the run's files with changes that the bytes choose."""
    files = dict(_original())
    choose = _Bytes(data)
    present = choose.below(16)
    if present & 3 == 1:
        del files["t.pgt.txt"]
    if present & 12 == 4:
        del files["t.faults.csv"]
    while choose.at < len(data):
        name = FILES[choose.below(len(FILES))]
        if name not in files:
            continue
        text = files[name]
        # A place between two words, more often than inside one.
        words = [0, *(m.start() for m in re.finditer(rb"\b", text)), len(text)]
        start = words[choose.below(len(words))] if choose.below(4) else choose.below(len(text) + 1)
        end = min(start + (0, 1, 4, 8, 16, 64)[choose.below(6)], len(text))
        kind = choose.below(8)
        if kind < 3:
            new = TOKENS[choose.below(len(TOKENS))]
        elif kind == 3:
            new = choose.take(choose.below(8))
        elif kind == 4:
            new = f"{int.from_bytes(choose.take(8), 'little') >> choose.below(64):#x}".encode()
        elif kind == 5:
            other = choose.below(len(text) + 1)
            new = text[other : other + choose.below(200)]
        elif kind == 6:
            lines = text.splitlines(keepends=True)
            if lines:
                lines.insert(choose.below(len(lines)), lines[choose.below(len(lines))])
            files[name] = b"".join(lines)
            continue
        else:
            new = b""
        files[name] = text[:start] + new + text[end:]
    return files


def announce(text: bytes) -> bytes:
    """Let the header announce as many lines as there are, so that the rest is read too."""
    count = sum(1 for line in text.split(b"\n")[:-1] if not line.startswith(b"#"))
    return re.sub(rb"entries-written: \d+/\d+", b"entries-written: %d/%d" % (count, count), text, count=1)


def one_input(data: bytes, folder: Path) -> bool:
    """Read the changed run; whether it was accepted."""
    files = changed(data)
    if data[:1] and data[0] & 0x80:
        for name in ("t.txt", "t.pgt.txt"):
            if name in files:
                files[name] = announce(files[name])
    for name in FILES:
        path = folder / name
        path.unlink(missing_ok=True)
        if name in files:
            path.write_bytes(files[name])
    try:
        trace = read(folder / "t.txt", allow_lost=bool(data[:1] and data[0] & 0x40))
    except TraceError as error:
        message = str(error)
        assert message.startswith("t."), message
        assert "\n" not in message, message
        assert len(message) < 1000, message
        return False
    _is_whole(trace.events, len(trace.dumps))
    assert all(isinstance(note, str) for note in trace.notes)
    return True


def _is_whole(events: np.ndarray, dumps: int) -> None:
    """Check what every trace promises, whatever it is made of."""
    assert events.dtype == EVENT
    refs = events["ref"]
    kinds = events["kind"]
    for kind, partner in ((Kind.FAULT, Kind.HANDLED), (Kind.HANDLED, Kind.FAULT)):
        of_kind = refs[kinds == kind]
        assert ((of_kind >= 0) & (of_kind < len(events))).all()
        assert (kinds[of_kind] == partner).all()
    assert (refs[kinds == Kind.DUMP] < dumps).all()


def seeds() -> list[bytes]:
    """Give inputs to begin with."""
    return [b"", b"\x80", json.dumps(TOKENS[0].decode()).encode() * 4, bytes(range(256))]
