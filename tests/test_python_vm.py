"""`s2pt.Vm`: slots, faults, dirty log, take-back, and runs in threads of their own."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest

import s2pt
from s2pt import DirtyLog, MemType, Prot, Translation, Vm
from s2pt._core import DirtyLogJob, ReplayJob
from s2pt.vm import Slot

BASE, PAGE, MIB = 0x4000_0000, 4096, 1 << 20
POLICIES = ["serial", "parallel", "lockless"]
each_policy = pytest.mark.parametrize("policy", POLICIES)


def pages(*numbers):
    return np.array([BASE + PAGE * number for number in numbers], dtype=np.uint64)


@each_policy
def test_faults_fill_the_table(policy):
    vm = Vm(memory="64MiB", policy=policy)
    assert vm.policy == policy
    with pytest.raises(s2pt.TranslationFault) as caught:
        vm.translate(BASE + 5, "w")
    assert vm.handle(caught.value) == ("handled", "mapped")
    assert vm.translate(BASE + 5, "w") == Translation(BASE + 5, 2, Prot.RW, MemType.NORMAL)
    assert vm.touch(pages(0, 511, 512, 1024, 513)) == 2
    assert vm.stats().mapped_bytes == 6 * MIB
    assert vm.access(BASE, "x").prot == Prot.RWX
    assert vm.leaves_array()["ipa"].tolist() == [BASE, BASE + 2 * MIB, BASE + 4 * MIB]


@pytest.mark.parametrize(("backing", "level"), [("pages", 3), ("thp", 2), ("1g", 1)])
def test_backing_decides_the_size(backing, level):
    vm = Vm(memory="2GiB", backing=backing)
    assert vm.access(BASE + (1 << 30)).level == level


def test_exits():
    vm = Vm(memory="4MiB")
    vm.add_slot(7, 0x1000_0000, MIB, 0x9000_0000, readonly=True)
    assert vm.access(0x1000_0004).pa == 0x9000_0004
    for ipa, access, reason in (
        (0x2000_0000, "r", "mmio"), (0x1000_0000, "w", "read-only"), (0x2000_0000, "x", "fetch"),
        (1 << 40, "r", "address-size"),
    ):  # fmt: skip
        with pytest.raises(s2pt.GuestExit, match=f"access to {ipa:#x} exits: {reason}") as caught:
            vm.access(ipa, access)
        assert (caught.value.ipa, caught.value.reason) == (ipa, reason)
    assert vm.handle_fault(0x2000_0000) == ("exit", "mmio")
    with pytest.raises(s2pt.GuestExit) as caught:
        vm.touch(np.array([BASE, 0x2000_0000], dtype=np.uint64))
    assert caught.value.index == 1
    assert vm.translate(BASE).level == 2


def test_a_fault_given_by_its_registers():
    vm = Vm(memory="4GiB", ipa=0, pa=1 << 32)
    # A guest wrote to 0x4068e088; nothing at level 1.
    assert vm.handle_syndrome(0x9200_0045, 0x4068_E088, 0x40_68E0) == ("handled", "mapped")
    assert vm.translate(0x4068_E088, "w").pa == (1 << 32) + 0x4068_E088
    with pytest.raises(s2pt.S2ptError, match="is no abort"):
        vm.handle_syndrome(0, 0, 0)


def test_slots():
    vm = Vm()
    assert vm.slots == ()
    vm.add_slot(3, BASE, 2 * MIB, 0x1_0000_0000, host=0x7F00_0000_0000)
    vm.add_slot(1, 0, "1MiB", 0x2_0000_0000)
    assert vm.slots == (
        Slot(1, 0, MIB, 0x2_0000_0000, 0x2_0000_0000, False),
        Slot(3, BASE, 2 * MIB, 0x1_0000_0000, 0x7F00_0000_0000, False),
    )
    assert repr(vm.slots[1]) == "Slot(3, ipa=0x40000000, size=2MiB, pa=0x100000000)"
    vm.access(BASE)
    vm.move_slot(3, BASE + (1 << 30))
    with pytest.raises(s2pt.GuestExit):
        vm.access(BASE)
    assert vm.access(BASE + (1 << 30)).pa == 0x1_0000_0000
    vm.remove_slot(3)
    assert vm.stats().mapped_bytes == 0
    assert [slot.id for slot in vm.slots] == [1]


def test_take_back_and_age():
    vm = Vm(memory="64MiB")
    vm.touch(pages(0, 512), "w")
    assert vm.take_back(BASE, PAGE) == (PAGE, False)
    with pytest.raises(s2pt.TranslationFault):
        vm.translate(BASE)
    assert vm.translate(BASE + PAGE).pa == BASE + PAGE
    assert vm.age(BASE, 64 * MIB) is True
    assert vm.age(BASE, 64 * MIB, clear=False) is False
    assert vm.take_back(BASE, 64 * MIB) == (4 * MIB - PAGE, False)
    vm.drain()
    assert vm.frames_in_use == 2


@each_policy
def test_dirty_log(policy):
    vm = Vm(memory="4MiB", policy=policy)
    vm.touch(pages(0, 512), "w")
    vm.enable_dirty_log(0, "auto")
    assert not vm.dirty_log(0).any()
    written = sorted(np.random.default_rng(1).choice(1024, 100, replace=False).tolist())
    vm.touch(pages(*written), "w")
    bits = np.unpackbits(vm.dirty_log(0).view(np.uint8), bitorder="little")
    assert np.flatnonzero(bits).tolist() == written
    assert not vm.dirty_log(0).any()
    vm.disable_dirty_log(0)
    with pytest.raises(s2pt.S2ptError, match="the dirty log of slot 0 is off"):
        vm.dirty_log(0)


def test_clearing_by_hand():
    vm = Vm(memory="4MiB")
    vm.touch(pages(0, 512), "w")
    vm.enable_dirty_log(0)
    everything = vm.dirty_log(0)
    assert (everything == np.uint64(2**64 - 1)).all()
    vm.clear_dirty_log(0, 0, 1024, everything)
    assert not vm.dirty_log(0).any()
    assert vm.touch(pages(0, 1, 64), "w") == 3
    assert vm.dirty_log(0)[:2].tolist() == [3, 1]
    with pytest.raises(s2pt.AlignmentError, match=r"pages 0x1 \+ 0x40 cannot be cleared"):
        vm.clear_dirty_log(0, 1, 64, everything)
    with pytest.raises(s2pt.OptionError, match="a bitmap of 0x1 words is too short; 0x2 are needed"):
        vm.clear_dirty_log(0, 0, 128, everything[:1])
    with pytest.raises(TypeError, match="bitmap must be a numpy array of uint64"):
        vm.clear_dirty_log(0, 0, 64, [1])


def test_bad_input():
    with pytest.raises(s2pt.AlignmentError, match="slot 0: size 0x1001 is not a multiple of 0x1000"):
        Vm(memory=4097)
    with pytest.raises(
        s2pt.AddressError, match="slot 0: ipa 0x40000000 of size 0x10000000000 ends beyond 0x10000000000"
    ):
        Vm(memory="1TiB")
    with pytest.raises(ValueError, match="policy must be one of 'serial', 'parallel', 'lockless', not 'none'"):
        Vm(policy="none")
    with pytest.raises(ValueError, match="backing must be one of 'pages', 'thp', '1g'"):
        Vm(backing="2m")
    with pytest.raises(s2pt.GeometryError):
        Vm(ipa_bits=60)
    vm = Vm(memory="4MiB")
    with pytest.raises(s2pt.ConflictError, match="slot 1 at 0x40000000 of size 0x1000 overlaps slot 0") as caught:
        vm.add_slot(1, BASE, PAGE, 0)
    assert caught.value.ipa == BASE
    with pytest.raises(s2pt.S2ptError, match="slot 0 exists already"):
        vm.add_slot(0, 0, PAGE, 0)
    with pytest.raises(s2pt.S2ptError, match="there is no slot 9"):
        vm.remove_slot(9)
    with pytest.raises(s2pt.OptionError, match="slot 0x100000000 is beyond"):
        vm.remove_slot(1 << 32)
    with pytest.raises(s2pt.AlignmentError, match="ipa 0x40000001"):
        vm.take_back(BASE + 1, PAGE)
    with pytest.raises(TypeError, match="IPA must be an integer, not bool"):
        vm.access(True)
    with pytest.raises(ValueError, match="kind must be one of 'translation', "):
        vm.handle_fault(BASE, kind="page")
    with pytest.raises(s2pt.OptionError, match=r"vcpus is 0 \(0x0\); it must be 1 to 4096"):
        vm.run(DirtyLog(vcpus=0, bytes_per_vcpu=MIB))
    with pytest.raises(s2pt.OptionError, match="slot 0 has 0x400000 bytes; the run needs 0x800000"):
        vm.run(DirtyLog(vcpus=2, bytes_per_vcpu="4MiB"))
    with pytest.raises(s2pt.OptionError, match="write percent is 101 "):
        vm.run(DirtyLog(write_percent=101))
    with pytest.raises(s2pt.S2ptError, match="there is no slot 5"):
        vm.run(DirtyLog(slot=5))


# ------------------------------------------------------------------------------------------------- runs


@each_policy
def test_a_run(policy):
    vm = Vm(memory="16MiB", policy=policy)
    seen = []
    report = vm.run(
        DirtyLog(vcpus=4, iterations=2), progress=lambda done, total: seen.append((done, total)), poll_s=0.001
    )
    assert [phase.phase for phase in report.phases] == [
        "populate", "enable", "dirty 1", "get 1", "clear 1", "dirty 2", "get 2", "clear 2", "disable",
    ]  # fmt: skip
    by_name = {phase.phase: phase for phase in report.phases}
    assert by_name["populate"].faults["translation_write"] == 8
    assert by_name["dirty 2"].faults["permission_write"] == 4096
    assert [by_name[name].found for name in ("get 1", "get 2", "clear 2")] == [4096, 4096, None]
    assert by_name["clear 1"].maintenance["tlbi_range"] > 0
    assert (report.vcpus, report.accesses) == (4, 4096)
    assert (report.stats["locked"], report.stats["frozen"]) == (0, 0)
    assert (report.longest_hold_ns > 0) == (policy != "lockless")
    assert all(done <= total for done, total in seen)
    text = str(report).splitlines()
    assert len(text) == 11
    assert text[2].startswith("populate")
    # The VM is still there, and can run again.
    assert vm.run(DirtyLog(vcpus=1, iterations=1, manual_protect=False)).phases[3].found == 4096


def test_other_threads_use_the_vm_meanwhile():
    vm = Vm(memory="8MiB")
    stop = threading.Event()
    taken = []

    def host():
        while not stop.is_set():
            taken.append(vm.take_back(BASE, MIB)[0])
            vm.age(BASE, 8 * MIB)

    thread = threading.Thread(target=host)
    thread.start()
    try:
        for _ in range(1000):
            report = vm.run(DirtyLog(vcpus=2, iterations=5))
            assert (report.stats["locked"], report.stats["frozen"]) == (0, 0)
            if sum(taken) > 0:
                break
    finally:
        stop.set()
        thread.join()
    assert sum(taken) > 0


def test_an_exception_while_waiting_ends_the_run():
    vm = Vm(memory="64MiB", backing="pages", stall_tlbi_ns=1_000_000)

    def interrupt(done, total):
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        vm.run(DirtyLog(iterations=1000), progress=interrupt, poll_s=0.01)
    assert time.monotonic() - start < 30
    # Nobody is left in it: a change by the host comes through, and nothing is in between.
    vm.take_back(BASE, 64 * MIB)
    vm.drain()
    assert (vm.stats().mapped_bytes, vm.stats().locked, vm.frames_in_use) == (0, 0, 2)


def job(**options):
    arguments = {
        "vcpus": 2, "bytes_per_vcpu": "1MiB", "iterations": 2, "backing": "thp", "manual_protect": True,
        "write_percent": 100, "random": False, "seed": 1, "policy": "lockless",
    }  # fmt: skip
    return DirtyLogJob(**{**arguments, **options})


def test_a_job_step_by_step():
    one = job()
    assert one.progress() == (0, 0, "")
    with pytest.raises(s2pt.S2ptError, match="the job was not started"):
        one.wait(0)
    with pytest.raises(s2pt.S2ptError, match="the job has not ended"):
        one.result()
    one.start()
    with pytest.raises(s2pt.S2ptError, match="the job was started already"):
        one.start()
    assert one.wait(60)
    assert one.wait(float("nan"))
    assert one.result() == one.result()
    assert one.progress()[:2] == (512 * 3, 512 * 3)
    cancelled = job(bytes_per_vcpu="64MiB", iterations=1000)
    cancelled.cancel()
    cancelled.start()
    assert cancelled.wait(60)
    assert cancelled.result()["complete"] is False
    assert [(phase["phase"], phase["complete"]) for phase in cancelled.result()["phases"]] == [("populate", False)]
    del cancelled
    job(iterations=10_000_000).start()  # dropped at once: it ends by itself


def test_a_report_says_whether_all_steps_were_foretold():
    report = Vm(memory=4 * MIB, backing="thp").run(DirtyLog(vcpus=2))
    assert report.as_expected
    step = dataclasses.replace(report.phases[0], expected={"translation": 77})
    assert not dataclasses.replace(report, phases=(step, *report.phases[1:])).as_expected


def test_what_is_no_job_is_refused():
    vm = Vm(memory=1 * MIB)
    for job in (3, None, DirtyLog, s2pt.Migrate()):
        with pytest.raises(TypeError, match="job must be DirtyLog, not"):
            vm.run(job)
    with pytest.raises(TypeError, match="progress must be a function, True or None, not str"):
        vm.run(DirtyLog(), progress="x")


def test_bad_jobs():
    for error, options in (
        (s2pt.OptionError, {"vcpus": 0}), (s2pt.OptionError, {"vcpus": 4097}), (s2pt.OptionError, {"vcpus": 1 << 63}),
        (s2pt.OptionError, {"bytes_per_vcpu": 0}), (s2pt.AlignmentError, {"bytes_per_vcpu": 4097}),
        (s2pt.AddressError, {"bytes_per_vcpu": "1PiB"}), (s2pt.OptionError, {"write_percent": 300}),
        (s2pt.AddressError, {"seed": -1}), (ValueError, {"policy": "x"}), (TypeError, {"vcpus": 1.5}),
        (TypeError, {"backing": None}),
    ):  # fmt: skip
        with pytest.raises(error):
            job(**options)


REPLAY = {
    "ipa_bits": 40, "granule": 4096, "start_level": None, "lpa2": False, "policy": "lockless", "order": "recorded",
    "sizes": "trace",
}  # fmt: skip


def test_bad_replays():
    with pytest.raises(ValueError, match="events must have 21 columns, not 20"):
        ReplayJob(np.zeros((1, 20), np.uint64), **REPLAY)
    with pytest.raises(ValueError, match="events must have 2 dimensions, not 1"):
        ReplayJob(np.zeros(21, np.uint64), **REPLAY)
    with pytest.raises(TypeError, match="events must be an array of uint64, not of int64"):
        ReplayJob(np.zeros((1, 21), np.int64), **REPLAY)
    with pytest.raises(s2pt.TraceError, match=r"row 0: column .* holds 0x0, which means nothing there"):
        ReplayJob(np.zeros((1, 21), np.uint64), **REPLAY)
    garbage = np.random.default_rng(1).integers(0, 2**64, (100, 21), dtype=np.uint64)
    with pytest.raises(s2pt.TraceError, match="row 0"):
        ReplayJob(garbage, **REPLAY)
    with pytest.raises(ValueError, match="order must be one of 'recorded', 'threads', 'free', not 'any'"):
        ReplayJob(garbage, **{**REPLAY, "order": "any"})
    empty = ReplayJob(np.zeros((0, 21), np.uint64), **REPLAY)
    empty.start()
    assert empty.wait(60)
    assert (empty.result()["faults"], empty.result()["snapshots"]) == (0, [])
