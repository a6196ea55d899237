"""The simulated machine from Python: bytes, faults, what it finds, and what it refuses."""

from __future__ import annotations

import threading

import pytest

import s2pt
from s2pt import Machine, MemType, Prot, Stage2, Vm

PAGE = 4096
IPA = 0x8000_0000
PA = 0x4000_0000


@pytest.fixture
def s2() -> Stage2:
    table = Stage2(hd=True)
    table.map(IPA, "2MiB", pa=PA, prot=Prot.RWX)
    return table


def test_bytes_go_where_the_table_says(s2: Stage2) -> None:
    machine = Machine(s2, cpus=2)
    one, two = machine.cpus
    one.write(IPA + 0x10, 0x0123_4567_89AB_CDEF)
    one.write(IPA + 0x17, 0xFF, size=1)
    assert two.read(IPA + 0x10) == 0xFF23_4567_89AB_CDEF
    assert two.read(IPA + 0x14, size=4) == 0xFF23_4567
    assert two.fetch(IPA + 0x10) == 0x89AB_CDEF
    assert machine.memory(PA + 0x10, 8) == bytes.fromhex("efcdab89674523ff")
    assert machine.counts == {"accesses": 5, "hits": 3, "fills": 2, "faults": 0, "updates": 0}
    assert (machine.audit(), machine.violations) == (0, [])


def test_memory_of_a_given_size_ends(s2: Stage2) -> None:
    machine = Machine(s2, ram="4KiB", pa=PA)
    cpu = machine.cpus[0]
    cpu.write(IPA + PAGE - 8, 7)
    cpu.write(IPA + PAGE, 7)
    assert (cpu.read(IPA + PAGE - 8), cpu.read(IPA + PAGE)) == (7, 0)
    with pytest.raises(s2pt.AddressError, match="0x40001000"):
        machine.memory(PA + PAGE, 8)


def test_faults_are_those_of_the_table(s2: Stage2) -> None:
    cpu = Machine(s2).cpus[0]
    with pytest.raises(s2pt.TranslationFault) as hole:
        cpu.read(IPA + 0x40_0000)
    assert (hole.value.ipa, hole.value.level) == (IPA + 0x40_0000, 2)
    s2.map(IPA + 0x20_0000, PAGE, pa=PA, prot=Prot.R)
    with pytest.raises(s2pt.PermissionFault):
        cpu.write(IPA + 0x20_0000, 1)
    with pytest.raises(s2pt.PermissionFault):
        cpu.begin(IPA + 0x20_0000, "x", size=4)


def test_a_step_left_out_is_found_and_told(s2: Stage2) -> None:
    machine = Machine(s2, cpus=2)
    for cpu in machine.cpus:
        cpu.read(IPA)
    s2.poke(IPA, 2, 0)
    assert machine.check(IPA, PAGE) == 4  # each CPU's entry of stage 2, and the combined one
    found = machine.violations[0]
    assert (found.kind, found.cpu, found.ipa) == ("stale", 0, IPA)
    assert "maps nothing" in found.what
    assert repr(found).startswith("<Violation stale cpu=0 ipa=0x80000000: a stage-2 entry")
    assert machine.violated == 4
    assert repr(machine) == "<Machine cpus=2 violated=4>"
    kinds = [entry.kind for entry in machine.log()]
    assert kinds.count("fill") == 2
    assert kinds.count("violation") == 4
    assert "software: store entry=0x" in repr([entry for entry in machine.log() if entry.kind == "store"][-1])


def test_an_access_in_flight_ends_at_the_barrier(s2: Stage2) -> None:
    machine = Machine(s2, cpus=1)
    cpu = machine.cpus[0]
    cpu.begin(IPA, "w", value=5)
    assert machine.memory(PA, 8) == bytes(8)
    s2.unmap(IPA, PAGE)
    assert machine.memory(PA, 8) == (5).to_bytes(8, "little")
    assert cpu.finish() is None
    assert machine.audit() == 0


def test_hardware_notes_are_watched(s2: Stage2) -> None:
    machine = Machine(s2)
    s2.map(IPA, PAGE, pa=PA, prot=Prot.R, existing="replace")
    clean = s2[IPA].raw | 1 << 51  # DBM: hardware makes it writable at the first write
    s2.poke(IPA, 3, clean)
    machine.cpus[0].write(IPA, 1)
    assert Prot.W in s2[IPA].prot
    assert machine.counts["updates"] == 1
    s2.poke(IPA, 3, clean)  # the note is gone, and nobody has taken it
    machine.audit()
    assert [found.kind for found in machine.violations].count("lost-dirty") == 1
    machine.cpus[0].write(IPA, 1)
    s2.write_protect(IPA, PAGE)
    machine.forget(IPA, PAGE)
    known = machine.violated
    assert (machine.audit(), machine.violated) == (0, known)


def test_a_vm_handles_its_faults() -> None:
    vm = Vm(memory="64MiB", policy="lockless")
    machine = Machine(vm, cpus=2)
    base = 0x4000_0000
    machine.cpus[0].write(base + 8, 99)
    assert machine.cpus[1].read(base + 8) == 99
    assert machine.memory(base + 8, 8)[0] == 99
    with pytest.raises(s2pt.GuestExit):
        machine.cpus[0].read(0x1000)
    vm.enable_dirty_log(0, "auto")
    machine.cpus[1].write(base + 8, 100)  # faults once more: the page is logged
    assert vm.dirty_log(0)[0] == 1
    assert machine.counts["faults"] >= 2
    assert machine.audit() == 0


def test_guests_on_threads_beside_changes(s2: Stage2) -> None:
    machine = Machine(s2, cpus=4)
    stop = threading.Event()

    def guest(cpu: s2pt.Cpu) -> None:
        at = 0
        while not stop.is_set():
            at = (at + 0x3F08) % 0x20_0000
            try:
                cpu.write(IPA + at, at)
            except s2pt.Fault:
                cpu.run(lambda at=at: s2.relax(IPA + at // PAGE * PAGE, PAGE, Prot.W))

    threads = [threading.Thread(target=guest, args=(cpu,)) for cpu in machine.cpus]
    for thread in threads:
        thread.start()
    for _ in range(50):
        s2.write_protect(IPA, "2MiB")
        s2.collapse(IPA, "2MiB")
        s2.map(IPA, "2MiB", pa=PA, prot=Prot.RWX, existing="replace")
    stop.set()
    for thread in threads:
        thread.join()
    assert (machine.audit(), machine.violations) == (0, [])
    assert machine.maintenance["tlbi_stage1"] >= 50


def test_what_is_no_machine_and_no_access_is_refused(s2: Stage2) -> None:
    with pytest.raises(TypeError, match="walks a Stage2 or a Vm, not int"):
        Machine(3)  # type: ignore[arg-type]
    for wrong in (0, 257, 1 << 40):
        with pytest.raises(s2pt.OptionError, match=hex(wrong)):
            Machine(s2, cpus=wrong)
    with pytest.raises(s2pt.OptionError, match="ram is missing"):
        Machine(s2, pa=0)
    machine = Machine(s2)
    with pytest.raises(s2pt.OptionError, match="has a machine already"):
        Machine(s2)
    cpu = machine.cpus[0]
    with pytest.raises(s2pt.OptionError, match="size 0x3"):
        cpu.read(IPA, 3)
    with pytest.raises(s2pt.AlignmentError, match="0x80000001"):
        cpu.read(IPA + 1, 2)
    with pytest.raises(s2pt.OptionError, match="0x100 does not fit"):
        cpu.write(IPA, 256, size=1)
    with pytest.raises(s2pt.AlignmentError):
        machine.memory(1, 8)
    with pytest.raises(s2pt.OptionError):
        machine.memory(0, "2GiB")
    assert machine.counts["accesses"] == 0


def test_a_table_that_was_closed_lives_as_long_as_its_machine() -> None:
    table = Stage2()
    table.map(IPA, PAGE, pa=PA, memtype=MemType.NORMAL)
    machine = Machine(table, cpus=1)
    table.close()
    machine.cpus[0].write(IPA, 1)
    with pytest.raises(s2pt.ClosedError):
        Machine(table)
