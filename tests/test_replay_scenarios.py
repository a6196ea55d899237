"""Replays of small made-up traces: what other guests do, on other kernels, through the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trace_tape import ACCESS_L3, BLOCK, HVA, PAGE, RAM, READ_L3, WRITE_L3, WRITE_PERM_L3, Tape

from s2pt.cli.app import run

HOST = 0x6000_0000
RW, R = "0x400000000004ff", "0x4000000000047f"
RW_OLD = "0x400000000000ff"
RW_BLOCK = "0x400000000004fd"


def page(number: int, pa: int, attributes: str = RW) -> list[Any]:
    return [hex(RAM + number * PAGE), hex(PAGE), hex(pa), 3, attributes]


@pytest.fixture
def replayed(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(tape: Tape, *options: str) -> dict[str, Any]:
        path = tape.write()
        assert run(["replay", str(path), "--json", *options]) == 0, capsys.readouterr().err
        (one,) = json.loads(capsys.readouterr().out)["runs"]
        assert (one["stats"]["locked"], one["stats"]["frozen"], one["exit_differences"]) == (0, 0, [])
        assert isinstance(one, dict)
        return one

    return call


ORDERS = [["--sizes", "recorded"], ["--sizes", "trace"], ["--threads", "--policy", "serial"], ["--threads"]]


@pytest.mark.parametrize("options", ORDERS, ids=" ".join)
@pytest.mark.parametrize("kernel", ["6.1.192", "6.12.117", "7.3.4"])
def test_ageing_and_access_faults(replayed: Any, tmp_path: Path, kernel: str, options: list[str]) -> None:
    tape = Tape(tmp_path, kernel=kernel)
    prot = 0xC if kernel.startswith("7") else 6
    for number in range(3):
        tape.fault(100 + number, RAM + number * PAGE, WRITE_L3 if number else 0x9200_0045)
        tape.map(100 + number, RAM + number * PAGE, PAGE, HOST + number * PAGE, prot)
    for number in range(2):
        if kernel.startswith("6.1."):
            tape.call(7, "s2_mkold", f"addr={RAM + number * PAGE:#x}")
        else:
            tape.call(7, "s2_test_clear_young", f"addr={RAM + number * PAGE:#x} size={PAGE:#x} mkold=1")
    tape.call(7, "s2_is_young" if kernel.startswith("6.1.") else "s2_flush", f"addr={RAM:#x} size={PAGE:#x}")
    tape.dump("aged", [page(0, HOST, RW_OLD), page(1, HOST + PAGE, RW_OLD), page(2, HOST + 2 * PAGE)], [])
    tape.fault(100, RAM, ACCESS_L3)
    tape.line(100, "kvm_access_fault", f"IPA: {RAM:x}")
    tape.call(100, "s2_mkyoung", f"addr={RAM:#x}")
    tape.dump("used", [page(0, HOST), page(1, HOST + PAGE, RW_OLD), page(2, HOST + 2 * PAGE)], [])
    one = replayed(tape, *options)
    assert [(dump["same"], dump["causes"]) for dump in one["dumps"]] == [(3, {}), (3, {})]
    if one["order"] == "recorded":
        assert one["levels"]["differ"] == 0
    assert one["outcomes"]["marked_young"] == 1


@pytest.mark.parametrize("options", ORDERS, ids=" ".join)
def test_balloon_takes_a_page_out_of_a_block(replayed: Any, tmp_path: Path, options: list[str]) -> None:
    """KVM drops the whole block with it; ours loses the page alone."""
    tape = Tape(tmp_path, thp="[always] madvise never")
    tape.fault(100, RAM, 0x9200_0045)
    tape.map(100, RAM, BLOCK, HOST, 6)
    tape.unmap_notified(7, HVA + 5 * PAGE, HVA + 6 * PAGE)
    tape.call(7, "s2_unmap", f"addr={RAM + 5 * PAGE:#x} size={PAGE:#x}")
    tape.fault(101, RAM + 9 * PAGE, 0x9200_0046)
    tape.map(101, RAM + 9 * PAGE, PAGE, HOST + 9 * PAGE, 6)
    tape.dump("end", [page(9, HOST + 9 * PAGE)], [])
    one = replayed(tape, *options)
    (dump,) = one["dumps"]
    assert (dump["theirs"], dump["ours"], dump["same"]) == (1, 511, 1)
    assert dump["causes"] == {"kept by exact split": 510}
    if one["order"] == "recorded":
        assert [level["cause"] for level in one["levels"]["differing"]] == ["kept by exact split"]


@pytest.mark.parametrize("options", ORDERS, ids=" ".join)
def test_khugepaged_collapses_pages_to_a_new_block(replayed: Any, tmp_path: Path, options: list[str]) -> None:
    tape = Tape(tmp_path, thp="[always] madvise never")
    for number in range(4):
        tape.fault(100, RAM + number * PAGE, WRITE_L3 if number else 0x9200_0045)
        tape.map(100, RAM + number * PAGE, PAGE, HOST + (7 - number) * PAGE, 6)
    tape.unmap_notified(30, HVA, HVA + BLOCK)
    tape.call(30, "s2_unmap", f"addr={RAM:#x} size={BLOCK:#x}")
    tape.fault(100, RAM + PAGE, 0x9200_0045)
    tape.map(100, RAM, BLOCK, HOST + BLOCK, 6)
    tape.dump("end", [[hex(RAM), hex(BLOCK), hex(HOST + BLOCK), 2, RW_BLOCK]], [])
    one = replayed(tape, *options)
    (dump,) = one["dumps"]
    assert (dump["theirs"], dump["ours"], dump["same"]) == (1, 1, 1)
    if one["order"] == "recorded":
        assert one["levels"]["differ"] == 0


@pytest.mark.parametrize("options", ORDERS, ids=" ".join)
def test_slot_is_logged_protected_moved_and_deleted(replayed: Any, tmp_path: Path, options: list[str]) -> None:
    tape = Tape(tmp_path)
    rom = 0x8000_0000
    tape.slot("CREATE", 9, 2, rom, 1 << 20, 0x7000_0000)
    tape.fault(100, rom, 0x9200_0005)
    tape.map(100, rom, PAGE, 0x5000_0000, 4)
    tape.fault(100, rom, WRITE_PERM_L3)  # a write to read-only memory goes to the device model
    for number in range(3):
        tape.fault(100 + number, RAM + number * PAGE, WRITE_L3 if number else 0x9200_0045)
        tape.map(100 + number, RAM + number * PAGE, PAGE, HOST + number * PAGE, 6)
    tape.slot("FLAGS_ONLY", 0, 1, RAM, 64 << 20, HVA)
    tape.call(7, "log_dirty_pt", "slot=0 gfn_offset=0x0 mask=0x7")
    tape.call(7, "s2_wrprotect", f"addr={RAM:#x} size={3 * PAGE:#x}")
    tape.fault(101, RAM + PAGE, WRITE_PERM_L3)
    tape.relax(101, RAM + PAGE, 6)
    tape.fault(102, RAM + 7 * PAGE, READ_L3)
    tape.map(102, RAM + 7 * PAGE, PAGE, HOST + 7 * PAGE, 4)
    logged = [page(0, HOST, R), page(1, HOST + PAGE), page(2, HOST + 2 * PAGE, R), page(7, HOST + 7 * PAGE, R)]
    tape.dump("logged", [*logged, [hex(rom), hex(PAGE), "0x50000000", 3, R]], [])
    tape.slot("FLAGS_ONLY", 0, 0, RAM, 64 << 20, HVA)
    tape.call(7, "s2_unmap", f"addr={rom:#x} size=0x100000")
    tape.slot("MOVE", 9, 2, rom + (1 << 20), 1 << 20, 0x7000_0000)
    tape.fault(100, rom, 0x9200_0007)
    tape.slot("DELETE", 9, 0, 0, 0, 0)
    tape.dump("end", logged, [])
    one = replayed(tape, *options)
    assert [(dump["theirs"], dump["ours"], dump["same"]) for dump in one["dumps"]] == [(5, 5, 5), (4, 4, 4)]
    assert one["mmio"] == 2
    assert one["faults"] == 8


def test_host_maps_its_copy(replayed: Any, tmp_path: Path) -> None:
    tape = Tape(tmp_path, kernel="6.1.192")
    tape.fault(100, RAM, 0x9200_0005)
    tape.map(100, RAM, PAGE, HOST, 4)
    tape.fault(100, RAM, WRITE_PERM_L3)
    tape.unmap_notified(100, HVA, HVA + PAGE)
    tape.call(100, "s2_unmap", f"addr={RAM:#x} size={PAGE:#x}")
    tape.line(100, "kvm_set_spte_hva", f"mmu notifier set pte hva: {HVA:#016x}")
    tape.map(100, RAM, PAGE, HOST + PAGE, 4)
    tape.fault(100, RAM, WRITE_PERM_L3)
    tape.relax(100, RAM, 6)
    tape.dump("end", [page(0, HOST + PAGE)], [])
    one = replayed(tape)
    assert one["dumps"][0]["same"] == 1
    assert one["skipped"] == 1
    assert one["levels"]["differ"] == 0
