"""The trace reader on small made-up traces: other kernels, rare lines, missing files, damage."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trace_simulation import simulate
from trace_tape import ACCESS_L3, BLOCK, HVA, PAGE, RAM, READ_L3, WRITE_L3, WRITE_PERM_L3, Tape

from s2pt.errors import S2ptError
from s2pt.trace import EventFlag, Kind, Outcome, Trace, TraceError, read

DATA = Path(__file__).parent / "data" / "kvm-traces"


@pytest.fixture
def tape(tmp_path: Path) -> Tape:
    return Tape(tmp_path)


def kinds(trace: Trace) -> list[str]:
    return [Kind(kind).name for kind in trace.events["kind"].tolist()]


# --- what a line means ---------------------------------------------------------------------------------------------


def test_vcpu_is_the_thread_whatever_the_task_is_called(tape: Tape) -> None:
    for tid, task in [(103, "CPU 3/KVM"), (100, "a-b [1] c-9"), (102, "qemu-system-aar"), (101, "x")]:
        tape.line(tid, "kvm_guest_fault", f"ipa {RAM:#x}, hsr {WRITE_L3:#x}, hxfar 0x0, pc 0x0", task=task)
        tape.map(tid, RAM, PAGE, 0x8000_0000, 6, ret=-11)
    trace = tape.read()
    assert trace.faults["vcpu"].tolist() == [3, 0, 2, 1]
    assert trace.vcpus == 4


def test_fault_is_ordered_by_its_call_not_by_its_line(tape: Tape) -> None:
    tape.fault(100, RAM, WRITE_L3)
    tape.fault(101, RAM, WRITE_L3)
    tape.map(101, RAM, PAGE, 0x8000_0000, 6)
    tape.map(100, RAM, PAGE, 0x8000_0000, 6, ret=-11)
    trace = tape.read()
    assert kinds(trace) == ["SLOT", "FAULT", "FAULT", "HANDLED", "HANDLED"]
    first, second = trace.events[3], trace.events[4]
    assert (first["vcpu"], first["ref"], first["ret"]) == (1, 2, 0)
    assert (second["vcpu"], second["ref"], second["ret"]) == (0, 1, -11)
    assert second["begin_us"] < second["time_us"]


def test_newest_kernel_numbers_permissions_otherwise(tmp_path: Path) -> None:
    tape = Tape(tmp_path, kernel="7.3.4")
    for ipa, prot in [(RAM, 0xC), (RAM + PAGE, 0xF), (RAM + 2 * PAGE, 0x8)]:
        tape.fault(100, ipa, WRITE_L3)
        tape.map(100, ipa, PAGE, 0x8000_0000 + ipa, prot)
    trace = tape.read()
    assert trace.of_kind(Kind.HANDLED)["prot"].tolist() == [0xC, 0xF, 0x8]
    old = Tape(tmp_path, kernel="6.1.192")
    for ipa, prot in [(RAM, 6), (RAM + PAGE, 7), (RAM + 2 * PAGE, 4)]:
        old.fault(100, ipa, WRITE_L3)
        old.map(100, ipa, PAGE, 0x8000_0000 + ipa, prot)
    assert old.read().of_kind(Kind.HANDLED)["prot"].tolist() == [0xC, 0xF, 0x8]


def test_ageing_and_access_faults(tape: Tape) -> None:
    tape.fault(100, RAM, WRITE_L3)
    tape.map(100, RAM, PAGE, 0x8000_0000, 6)
    tape.line(7, "kvm_age_hva", f"mmu notifier age hva: {HVA:#016x} -- {HVA + PAGE:#016x}")
    tape.call(7, "s2_test_clear_young", f"addr={RAM:#x} size={PAGE:#x} mkold=1")
    tape.line(7, "kvm_test_age_hva", f"mmu notifier test age hva: {HVA:#016x}")
    tape.call(7, "s2_test_clear_young", f"addr={RAM:#x} size={PAGE:#x} mkold=0")
    tape.fault(100, RAM, ACCESS_L3, far=0x123)
    tape.line(100, "kvm_access_fault", f"IPA: {RAM + 0x123:x}")
    tape.call(100, "s2_mkyoung", f"addr={RAM + 0x123:#x}")
    tape.dump(
        "end", [[hex(RAM), hex(PAGE), "0x80000000", 3, "0x400000000004ff"]], [[hex(RAM), "0x80000000", hex(PAGE)]]
    )
    trace = tape.read()
    ages = trace.of_kind(Kind.AGE)
    assert ages[["ipa", "size", "ref"]].tolist() == [(RAM, PAGE, 1), (RAM, PAGE, 0)]
    young = trace.of_kind(Kind.HANDLED)[-1]
    assert young["outcome"] == Outcome.YOUNG
    assert young["flags"] & int(EventFlag.ACCESS_LINE)
    (dump,) = simulate(trace, sizes="calls").dumps
    assert (dump.theirs, dump.ours, +dump.differ) == (1, 1, {})
    # Without the calls the same comes from the notifier lines.
    alone = read(tape.write(calls=False))
    (tape.folder / "t.pgt.txt").unlink()
    alone = read(tape.folder / "t.txt")
    assert alone.of_kind(Kind.AGE)[["ipa", "size", "ref"]].tolist() == ages[["ipa", "size", "ref"]].tolist()
    assert alone.of_kind(Kind.HANDLED)["outcome"].tolist() == [Outcome.UNKNOWN, Outcome.YOUNG]


def test_unaligned_age_range_is_rounded_outward_and_old_kernels_look_at_one_page(tmp_path: Path) -> None:
    for kernel, size in [("6.12.1", 3 * PAGE), ("6.1.192", PAGE)]:
        tape = Tape(tmp_path, kernel=kernel)
        tape.line(7, "kvm_age_hva", f"mmu notifier age hva: {HVA + 0x1800:#016x} -- {HVA + 0x3001:#016x}")
        (age,) = tape.read(calls=False).of_kind(Kind.AGE)
        assert (age["ipa"], age["size"]) == (RAM + PAGE, size)


def test_old_kernel_ages_leaf_by_leaf(tmp_path: Path) -> None:
    tape = Tape(tmp_path, kernel="6.1.192")
    tape.call(7, "s2_mkold", f"addr={RAM:#x}")
    tape.call(7, "s2_is_young", f"addr={RAM:#x}")
    ages = tape.read().of_kind(Kind.AGE)
    assert ages[["ipa", "size", "ref"]].tolist() == [(RAM, PAGE, 1), (RAM, PAGE, 0)]


def test_host_maps_the_copy_itself_and_the_fault_is_a_retry(tmp_path: Path) -> None:
    """Up to 6.9, copy-on-write inside a fault handed KVM the new page; the fault's own map never comes."""
    tape = Tape(tmp_path, kernel="6.1.192")
    tape.fault(100, RAM, WRITE_L3)
    tape.unmap_notified(100, HVA, HVA + PAGE)
    tape.call(100, "s2_unmap", f"addr={RAM:#x} size={PAGE:#x}")
    tape.line(100, "kvm_set_spte_hva", f"mmu notifier set pte hva: {HVA:#016x}")
    tape.map(100, RAM, PAGE, 0x9000_0000, 4)
    tape.fault(100, RAM, WRITE_PERM_L3)
    tape.relax(100, RAM, 6)
    trace = tape.read()
    assert sorted(trace.outcomes().items()) == [("relax", 1), ("retry", 1)]
    (mapped,) = trace.of_kind(Kind.MAP)
    assert mapped[["vcpu", "map_ipa", "map_size", "map_pa", "prot", "ret"]].tolist() == (
        -1,
        RAM,
        PAGE,
        0x9000_0000,
        8,
        0,
    )
    assert simulate(trace, sizes="calls").levels["differ"] == 1  # nothing was mapped, so the first level is the root's


def test_slots_come_and_go(tape: Tape) -> None:
    high = 0x8000_0000
    tape.fault(100, high, READ_L3)
    tape.slot("CREATE", 5, 2, high, 1 << 20, 0x7000_0000)
    tape.fault(100, high, READ_L3)
    tape.map(100, high, PAGE, 0x5000_0000, 5)
    tape.fault(100, high, WRITE_PERM_L3)
    tape.slot("MOVE", 5, 0, high + (1 << 20), 1 << 20, 0x7000_0000)
    tape.unmap_notified(7, 0x7000_0000, 0x7000_0000 + PAGE)
    tape.slot("DELETE", 5, 0, high + (1 << 20), 1 << 20, 0x7000_0000)
    tape.fault(100, high + (1 << 20), READ_L3)
    for calls, outcomes in [(True, ["mmio", "map", "mmio", "mmio"]), (False, ["mmio", "unknown", "mmio", "mmio"])]:
        (tape.folder / "t.pgt.txt").unlink(missing_ok=True)
        trace = tape.read(calls=calls)
        assert [Outcome(row).name.lower() for row in trace.of_kind(Kind.HANDLED)["outcome"]] == outcomes
    (unmap,) = trace.of_kind(Kind.UNMAP)
    assert (unmap["ipa"], unmap["slot"]) == (high + (1 << 20), 5)
    slots = trace.of_kind(Kind.SLOT)
    assert slots["ref"].tolist() == [0, 0, 2, 1]
    assert slots["ipa"].tolist() == [RAM, high, high + (1 << 20), high + (1 << 20)]


def test_block_of_the_host_follows_the_addresses_and_the_ranges_taken_back(tmp_path: Path) -> None:
    tape = Tape(tmp_path, thp="[always] madvise never")
    at = 0x6000_0000
    tape.fault(100, RAM, WRITE_L3)
    tape.map(100, RAM, BLOCK, at, 6)
    tape.fault(100, RAM + BLOCK, WRITE_L3)
    tape.map(100, RAM + BLOCK, PAGE, at + 0x7000, 6)  # a page that is no part of a huge one
    tape.unmap_notified(7, HVA + PAGE, HVA + 2 * PAGE)
    tape.call(7, "s2_unmap", f"addr={RAM + PAGE:#x} size={PAGE:#x}")
    tape.fault(100, RAM, WRITE_L3)
    tape.map(100, RAM, PAGE, at, 6)  # a hole splits the host's mapping
    tape.unmap_notified(7, HVA, HVA + BLOCK)
    tape.call(7, "s2_unmap", f"addr={RAM:#x} size={BLOCK:#x}")
    tape.fault(100, RAM, WRITE_L3)
    tape.map(100, RAM, BLOCK, at + 4 * BLOCK, 6)  # a new huge page
    handled = tape.read().of_kind(Kind.HANDLED)
    assert handled["host_size"].tolist() == [BLOCK, PAGE, PAGE, BLOCK]
    assert handled["host_size"].tolist() == handled["map_size"].tolist()


def test_pages_of_one_host_page_are_read_only(tape: Tape) -> None:
    zero = "0x42c2e000"
    tape.fault(100, RAM, READ_L3)
    tape.fault(100, RAM + 2 * PAGE, READ_L3)
    tape.dump("end", [], [[hex(RAM + n * PAGE), zero, hex(PAGE)] for n in range(2)])
    trace = tape.read(calls=False)
    handled = trace.of_kind(Kind.HANDLED)
    assert handled["flags"].tolist() == [int(EventFlag.HOST_READ_ONLY), int(EventFlag.NO_PA)]
    assert handled["pa"].tolist() == [int(zero, 16), 0]
    assert "1 faults hit pages whose host address nothing tells" in trace.notes


def test_split_destroy_and_lines_nobody_knows(tape: Tape) -> None:
    tape.call(
        7, "s2_destroy", "ia_bits=52 start_level=0 pgd=0xfff00000260a0000"
    )  # of another VM, before the first fault
    tape.fault(100, RAM, WRITE_L3)
    tape.map(100, RAM, BLOCK, 0x6000_0000, 6)
    tape.call(7, "s2_split", f"addr={RAM:#x} size={BLOCK:#x}")
    tape.call(7, "s2_flush", f"addr={RAM:#x} size={BLOCK:#x}")
    tape.line(7, "kvm_mmio", "mmio write len 4 gpa 0x9000000 val 0x0")
    tape.line(7, "kvm_something_new", "with=text")
    tape.call(7, "s2_destroy", "ia_bits=40 start_level=1 pgd=0xfff00000039ac000")
    trace = tape.read()
    assert kinds(trace) == ["SLOT", "FAULT", "HANDLED", "SPLIT", "DESTROY"]
    assert trace.notes == ("1 kvm_something_new lines are not understood",)
    assert simulate(trace, sizes="calls").counts["map 2048K"] == 1


# --- what is missing or wrong --------------------------------------------------------------------------------------


def whole(folder: Path) -> Path:
    """Write a good trace of a few lines with every file beside it."""
    tape = Tape(folder)
    tape.fault(100, RAM, WRITE_L3)
    at = tape.now
    tape.map(100, RAM, PAGE, 0x8000_0000, 6)
    tape.dump(
        "end", [[hex(RAM), hex(PAGE), "0x80000000", 3, "0x400000000007ff"]], [[hex(RAM), "0x80000000", hex(PAGE)]]
    )
    head = "t,vcpu,tid,l1cpu,ipa,hsr,far,pc,outcome,map_addr,map_size,map_pa,prot,ret"
    row = f"{at / 1e6:.6f},0,100,0,{RAM:#x},{WRITE_L3:#x},0x0,0x0,map,{RAM:#x},4096,0x80000000,6,0"
    (folder / "t.faults.csv").write_text(f"{head}\n{row}\n")
    return tape.write()


def edit(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text(change(path.read_text()))

    return apply


def edit_json(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return apply


def cut_line(text: str) -> str:
    return text[: text.rindex("kvm_guest_fault") + 4]


DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("empty", edit("t.txt", lambda _: ""), r"t.txt:1: expected '# entries.* first, found no such line"),
    ("no header", edit("t.txt", lambda _: "hello\n"), r"t.txt:1: expected '# entries.* first, found 'hello'"),
    ("cut in a line", edit("t.txt", cut_line), r"t.txt:5: expected a whole line, found the end of the file"),
    (
        "cut between lines",
        edit("t.txt", lambda text: text[: text.rindex("\n", 0, -1) + 1]),
        r"t.txt:6: expected 3 events, found 2: the file is cut off",
    ),
    (
        "two in one",
        edit("t.txt", lambda text: text + text.splitlines()[-1] + "\n"),
        r"expected 3 events, found 4: more",
    ),
    (
        "garbage line",
        edit("t.txt", lambda text: text.replace("[000]", "[0O0]", 1)),
        r"t.txt:5: expected 'TASK-TID \[CPU\] FLAGS TIME: EVENT: TEXT', found",
    ),
    (
        "garbage fault",
        edit("t.txt", lambda text: text.replace("hsr 0x", "hsr 0y")),
        r"t.txt:5: expected kvm_guest_fault as 'ipa 0x.., hsr 0x.., hxfar 0x.., pc 0x..', found",
    ),
    ("lost", edit("t.txt", lambda text: text.replace(": 3/3", ": 3/45")), r"t.txt:3: 42 of 45 events were lost"),
    (
        "lost in the middle",
        edit("t.txt", lambda text: text.replace("#P:2\n#\n", "#P:2\n#\nCPU:1 [LOST 7 EVENTS]\n")),
        r"t.txt:5: 7 events of CPU 1 were lost",
    ),
    (
        "time runs back",
        edit("t.txt", lambda text: text.replace(text.splitlines()[6].split()[3], "0.000001:")),
        r"t.txt:7: expected a time from 1\.\d+ on, found 0\.000001",
    ),
    (
        "garbage call",
        edit("t.pgt.txt", lambda text: text.replace("phys=", "fizz=")),
        r"t.pgt.txt:5: expected s2_map with phys=",
    ),
    (
        "return alone",
        edit("t.pgt.txt", lambda text: text.replace("s2_map:", "s2_flush:")),
        r"expected s2_map of thread 100 before",
    ),
    ("no sidecar", lambda folder: (folder / "t.json").unlink(), r"t.txt: expected t.json beside it"),
    ("sidecar cut", edit("t.json", lambda text: text[: len(text) // 2]), r"t.json:1: expected JSON"),
    ("sidecar no object", edit("t.json", lambda _: "[]"), r"t.json:1: expected a JSON object, found list"),
    (
        "no slots",
        edit_json("t.json", lambda about: about.pop("memslot_timeline")),
        r"t.json: expected 'memslot_timeline'",
    ),
    (
        "bad slot",
        edit_json("t.json", lambda about: about["memslot_timeline"][0].pop("hva")),
        r"t.json: memslot_timeline\[0\]: expected t, change.*'hva' is missing",
    ),
    ("no threads", edit_json("t.json", lambda about: about.pop("vcpu_threads")), r"t.json: expected 'vcpu_threads'"),
    (
        "no dump",
        edit_json("t.json", lambda about: about.pop("dumps")),
        r"t.json: expected 'dumps' to describe dump 'end'",
    ),
    (
        "no geometry",
        edit_json("t.json", lambda about: about["dumps"]["end"].pop("geometry")),
        r"t.json: expected a table's geometry and registers: 'geometry' is missing",
    ),
    (
        "csv columns",
        edit("t.faults.csv", lambda text: text.replace("hsr,", "esr,", 1)),
        r"t.faults.csv:1: expected the columns t,vcpu",
    ),
    ("csv cut", edit("t.faults.csv", lambda text: text[:-12]), r"t.faults.csv:2: expected 14 columns, found"),
    (
        "csv number",
        edit("t.faults.csv", lambda text: text.replace(",4096,", ",4k,")),
        r"t.faults.csv:2: expected numbers",
    ),
    (
        "csv short",
        edit("t.faults.csv", lambda text: text.split("\n")[0] + "\n"),
        r"t.faults.csv:1: expected the fault of t.txt:5",
    ),
    (
        "csv long",
        edit("t.faults.csv", lambda text: text + text.splitlines()[1] + "\n"),
        r"t.faults.csv:3: expected 1 faults as in the trace, found 2",
    ),
    (
        "csv of another trace",
        edit("t.faults.csv", lambda text: text.replace(hex(RAM), hex(RAM + PAGE))),
        r"t.faults.csv:2: expected the fault of t.txt:5 .*found ipa 0x40001000",
    ),
    (
        "leaves",
        edit_json("t.end.leaves.json", lambda about: about["leaf_runs"][0].__setitem__(1, "0x800")),
        r"t.end.leaves.json: expected leaf_runs and pagemap_runs: a run of 0x800 bytes is no number of level 3 leaves",
    ),
    (
        "binary",
        lambda folder: (folder / "t.txt").write_bytes(b"# a\n\xff\xfe") and None,
        r"t.txt:2: expected text, found byte 0xff",
    ),
    # Found by a look for more after fuzzing had found the first: each came out as another exception, or did not come to
    # an end.
    (
        "json of brackets",
        edit("t.json", lambda _: "[" * 100_000),
        r"t.json: expected JSON that can be read: maximum recursion depth",
    ),
    (
        "json with a number of thousands of digits",
        edit("t.json", lambda text: text.replace('"slot": 0', '"slot": ' + "1" * 5000)),
        r"t.json: expected JSON that can be read: Exceeds the limit",
    ),
    (
        "slot at no time",
        edit("t.json", lambda text: text.replace('"t": ', '"t": 1e400, "u": ')),
        r"t.json: memslot_timeline\[0\]: expected t, change.*infinity",
    ),
    (
        "slot beyond all memory",
        edit_json("t.json", lambda about: about["memslot_timeline"][0].update(size="0x10000000000000000")),
        r"t.json: memslot_timeline\[0\]: expected t, change.*is not in 0x0..0xfffffffffffff",
    ),
    (
        "page size of an astronomer",
        edit_json("t.json", lambda about: about["dumps"]["end"]["geometry"].update(page_shift=1 << 40)),
        r"t.json: expected a table's geometry and registers: '0x10000000000' is not in 0xc..0x10",
    ),
    (
        "leaves without number",
        edit_json("t.end.leaves.json", lambda about: about["leaf_runs"][0].__setitem__(1, hex((1 << 52) - PAGE))),
        r"t.end.leaves.json: expected leaf_runs and pagemap_runs: .* is not in",
    ),
    (
        "leaf of level -9",
        edit_json("t.end.leaves.json", lambda about: about["leaf_runs"][0].__setitem__(3, -(10**9))),
        r"t.end.leaves.json: expected leaf_runs and pagemap_runs: .* is not in -0x1..0x3",
    ),
    (
        "csv that is none",
        edit("t.faults.csv", lambda text: text.replace("map,", "x" * 200_000 + ",")),
        r"t.faults.csv: expected comma-separated values: field larger than field limit",
    ),
    (
        "csv number beyond 64 bits",
        edit("t.faults.csv", lambda text: text.replace(",4096,", "," + "9" * 30 + ",")),
        r"t.faults.csv:2: expected numbers: .* is not in",
    ),
    (
        "time beyond 64 bits",
        edit("t.txt", lambda text: text.replace("    1.0000", "1" * 40 + ".0000")),
        r"t.txt:5: expected 'TASK-TID",
    ),
    (
        "address beyond 64 bits",
        edit("t.txt", lambda text: text.replace("hxfar 0x", "hxfar 0x1ffffffffffff")),
        r"t.txt:5: expected kvm_guest_fault as",
    ),
]


@pytest.mark.parametrize(("damage", "message"), [entry[1:] for entry in DAMAGE], ids=[entry[0] for entry in DAMAGE])
def test_damage_is_named_by_file_and_line(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    path = whole(tmp_path)
    assert len(read(path).events) == 5
    damage(tmp_path)
    with pytest.raises(TraceError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, S2ptError)
    assert isinstance(caught.value, ValueError)


# Found by fuzzing (the first, an OSError) and a look for more: the second did not end, the third was an OverflowError.
def test_dump_of_a_name_that_no_file_can_have_is_not_compared(tmp_path: Path) -> None:
    path = whole(tmp_path)
    edit("t.txt", lambda text: text.replace("dump_end end", "dump_end " + "d" * 300))(tmp_path)
    assert any(note.startswith("no leaves of dump 'ddd") for note in read(path).notes)


def test_taking_everything_back_comes_to_an_end(tape: Tape) -> None:
    tape.fault(100, RAM, WRITE_L3)
    tape.map(100, RAM, PAGE, 0x8000_0000, 6)
    tape.call(7, "s2_unmap", f"addr=0x0 size={(1 << 52) - PAGE:#x}")
    tape.fault(100, RAM, WRITE_L3)
    tape.map(100, RAM, 1 << 40, 0x8000_0000, 6)
    with pytest.raises(TraceError, match=r"t.pgt.txt:8: expected a size of at most 0x40000000"):
        tape.read()
    tape.calls[-2:] = []
    assert kinds(tape.read()) == ["SLOT", "FAULT", "HANDLED", "UNMAP", "FAULT", "HANDLED"]


def test_call_that_maps_another_page_tells_nothing_of_this_one(tape: Tape) -> None:
    tape.fault(100, RAM, WRITE_L3)
    tape.map(100, RAM + BLOCK, PAGE, PAGE, 6)
    fault = tape.read().faults[0]
    assert fault["flags"] & int(EventFlag.NO_PA)


def test_losses_can_be_allowed(tmp_path: Path) -> None:
    path = whole(tmp_path)
    edit("t.txt", lambda text: text.replace(": 3/3", ": 3/45"))(tmp_path)
    assert read(path, allow_lost=True).notes == ("t.txt: 42 of 45 events were lost",)


def test_packed_file_cut_off(tmp_path: Path) -> None:
    whole(tmp_path)
    packed = lzma.compress((tmp_path / "t.txt").read_bytes())
    (tmp_path / "t.txt").unlink()
    (tmp_path / "t.txt.xz").write_bytes(packed)
    assert len(read(tmp_path / "t").events) == 5
    (tmp_path / "t.txt.xz").write_bytes(packed[:-20])
    with pytest.raises(TraceError, match=r"t.txt.xz: is cut off or no xz file"):
        read(tmp_path / "t.txt.xz")


def test_real_trace_cut_anywhere_is_refused(tmp_path: Path) -> None:
    for path in DATA.glob("thpon_2vcpu.*"):
        if path.name != "thpon_2vcpu.txt.xz":
            (tmp_path / path.name).symlink_to(path)
    text = lzma.decompress((DATA / "thpon_2vcpu.txt.xz").read_bytes())
    cut = tmp_path / "thpon_2vcpu.txt"
    for size in range(0, len(text) - 1, len(text) // 7):
        cut.write_bytes(text[:size])
        with pytest.raises(TraceError, match=r"thpon_2vcpu.txt:\d+: expected"):
            read(cut)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.txt", r"nothing.txt: no such file"),
        ("", r"expected a trace, found a folder"),
        ("t.pgt.txt", r"expected the trace itself, t.txt"),
    ],
)
def test_wrong_paths(tmp_path: Path, name: str, message: str) -> None:
    whole(tmp_path)
    with pytest.raises(TraceError, match=message):
        read(tmp_path / name)


# --- runs of snapshots ---------------------------------------------------------------------------------------------


@pytest.fixture
def snapshots(tmp_path: Path) -> Path:
    for path in (DATA / "snapshots").glob("k612_trace_thp_*"):
        (tmp_path / path.name.removesuffix(".xz")).write_bytes(lzma.decompress(path.read_bytes()))
    return tmp_path


def test_snapshot_missing_from_the_middle(snapshots: Path) -> None:
    (snapshots / "k612_trace_thp_iter1_dirtied.json").unlink()
    with pytest.raises(
        TraceError, match=r"k612_trace_thp_iter1_dirtied.json: no such snapshot: its events are missing"
    ):
        read(snapshots / "k612_trace_thp_populated.json")


def test_snapshot_without_a_trace(snapshots: Path) -> None:
    edit_json("k612_trace_thp_populated.json", lambda about: about.pop("kvm_trace_since_previous_dump"))(snapshots)
    with pytest.raises(TraceError, match=r"this snapshot carries no trace"):
        read(snapshots / "k612_trace_thp_populated.json")


def test_snapshot_with_a_damaged_event(snapshots: Path) -> None:
    edit_json("k612_trace_thp_populated.json", lambda about: about["kvm_trace_since_previous_dump"][3].pop())(snapshots)
    with pytest.raises(TraceError, match=r"populated.json: kvm_trace_since_previous_dump\[3\]: expected \[task-tid"):
        read(snapshots / "k612_trace_thp")
