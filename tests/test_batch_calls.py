"""Calls on whole arrays beside the same calls one by one: layouts, refusals, interruption; vCPUs by thread."""

from __future__ import annotations

import _thread
import random
import threading

import numpy as np
import pytest

import s2pt
from s2pt import Fault, Prot, Stage2, Vm

PAGE, BLOCK = 4096, 2 << 20
BASE = 0x8000_0000
LIMIT = 1 << 40


def u64(*values):
    return np.array(values, dtype=np.uint64)


def mixed_table():
    """Pages, blocks, holes, some of it read-only."""
    s2 = Stage2()
    s2.map(BASE, 4 * BLOCK, pa=BLOCK, largest=2)
    s2.map(BASE + 4 * BLOCK, BLOCK, pa=0, prot=Prot.R, largest=3)
    s2.unmap(BASE + BLOCK + PAGE, 3 * PAGE)
    s2.map(LIMIT - PAGE, PAGE, pa=0x7000)
    return s2


def one_by_one(s2, addresses, access):
    rows = []
    for ipa in addresses:
        try:
            hit = s2.translate(ipa, access)
            rows.append((hit.pa, hit.level, 0))
        except Fault as fault:
            rows.append((0, fault.level, {"translation": 1, "permission": 3}[fault.kind]))
    return rows


# ------------------------------------------------------------------------------------------------- arrays


LAYOUTS = {
    "plain": lambda a: a,
    "every second": lambda a: np.repeat(a, 2)[::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "one value": lambda a: np.broadcast_to(a[:1], (5,)),
    "column": lambda a: np.stack([a, a + np.uint64(1)], axis=1)[:, 0],
    "read-only": lambda a: np.frombuffer(a.tobytes(), dtype=np.uint64),
    "misaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), dtype=np.uint8)[1:].view(np.uint64),
    "field": lambda a: np.array([(1, v) for v in a.tolist()], dtype=[("x", "u1"), ("v", "u8")])["v"],
    "one element": lambda a: a[:1],
    "none": lambda a: a[:0],
    "more than one part": lambda a: np.tile(a, 40),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("access", ["r", "w"])
def test_every_layout_is_read_right(layout, access):
    s2 = mixed_table()
    rng = random.Random(3)
    addresses = [BASE + rng.randrange(6 * BLOCK) for _ in range(50)]
    array = layout(u64(*addresses, LIMIT - 1, LIMIT, (1 << 64) - 1, 0))
    before = array.tolist()
    pa, level, fault = s2.translate_many(array, access)
    assert [a.dtype for a in (pa, level, fault)] == [np.uint64, np.int8, np.uint8]
    assert all(a.flags.owndata or a.base is not None for a in (pa, level, fault))
    assert all(a.flags.writeable and a.flags.c_contiguous and a.shape == array.shape for a in (pa, level, fault))
    expected = one_by_one(s2, before, access)
    assert list(zip(pa.tolist(), level.tolist(), fault.tolist(), strict=True)) == expected
    assert s2.touch(array, access).tolist() == [row[2] for row in expected]
    assert array.tolist() == before


def test_arrays_of_no_elements():
    s2 = Stage2()
    none = u64()
    assert s2.map_many(none, none, 0).bytes == 0  # no range, none wrong
    assert s2.unmap_many(none) == 0
    assert [a.shape for a in s2.translate_many(none)] == [(0,)] * 3
    assert s2.touch(none).shape == (0,)
    assert s2.leaves_array().shape == (0,)
    assert Vm(memory="2MiB").touch(none) == 0


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1024, 1025, 5000])
def test_every_element_is_worked_on_once(count):
    s2 = Stage2()
    rng = np.random.default_rng(count)
    ipa = BASE + rng.permutation(count).astype(np.uint64) * np.uint64(PAGE)
    pa = rng.permutation(count).astype(np.uint64) * np.uint64(PAGE)
    assert s2.map_many(ipa, pa) == s2pt.Mapped(count * PAGE, 0)
    assert s2.map_many(ipa, pa, existing="keep") == s2pt.Mapped(0, count * PAGE)
    assert (s2.translate_many(ipa)[0] == pa).all()
    array = s2.leaves_array()
    assert (array["ipa"] == np.sort(ipa)).all()
    assert (array["pa"] == pa[np.argsort(ipa)]).all()
    s2.test_and_clear_young(BASE, count * PAGE)
    assert not s2.touch(ipa[::2]).any()
    assert s2.leaves_array()["af"].sum() == len(ipa[::2])
    assert s2.unmap_many(ipa[::2]) == len(ipa[::2]) * PAGE
    assert s2.unmap_many(ipa) == len(ipa[1::2]) * PAGE


@pytest.mark.parametrize("seed", range(20))
def test_the_first_wrong_element_is_the_one_refused(seed):
    """What is wrong is found for the whole array at once; it must be what a look at each element finds first."""
    rng = random.Random(seed)
    size = rng.choice([PAGE, BLOCK, 3 * PAGE, 100, 0])
    wrong_ipa = [1, 0x800, LIMIT, LIMIT - PAGE, 1 << 63, (1 << 64) - PAGE, (1 << 64) - 1]
    wrong_pa = [8, 1 << 48, (1 << 48) - PAGE, (1 << 64) - PAGE]
    ipa, pa = ([rng.randrange(1 << 20) * PAGE for _ in range(300)] for _ in range(2))
    for addresses, wrong in ((ipa, wrong_ipa), (pa, wrong_pa)):
        for _ in range(rng.randrange(3)):
            addresses[rng.randrange(300)] = rng.choice(wrong)

    s2, expected = Stage2(), None
    for index, (i, p) in enumerate(zip(ipa, pa, strict=True)):
        try:
            Stage2().map(i, size, p)
        except s2pt.S2ptError as error:
            expected = (index, type(error), str(error))
            break
    if expected is None:
        assert s2.map_many(u64(*ipa), u64(*pa), size).bytes > 0
        return
    with pytest.raises(s2pt.S2ptError) as caught:
        s2.map_many(u64(*ipa), u64(*pa), size)
    assert (caught.value.index, type(caught.value), str(caught.value)) == expected
    assert s2.stats().mapped_bytes == 0


def test_leaves_array_is_what_the_iterator_yields():
    s2 = mixed_table()
    for start, size in ((0, None), (BASE + PAGE, 2 * BLOCK), (BASE + BLOCK + 2 * PAGE, PAGE), (0, PAGE), (0, LIMIT)):
        array, listed = s2.leaves_array(start, size), list(s2.leaves(start, size))
        assert len(array) == len(listed)
        for row, leaf in zip(array, listed, strict=True):
            fields = (leaf.ipa, leaf.size, leaf.pa, leaf.level, leaf.prot, leaf.af, leaf.software, leaf.raw)
            names = ("ipa", "size", "pa", "level", "prot", "af", "software", "raw")
            assert tuple(int(row[name]) for name in names) == fields
    for start, size in ((1, PAGE), (0, 0), (LIMIT, PAGE), (0, LIMIT + PAGE)):
        with pytest.raises(s2pt.S2ptError):
            s2.leaves_array(start, size)


@pytest.mark.slow
def test_leaves_array_beside_merging_and_splitting():
    """No address is told twice, whoever merges pages under the walk; what stays is told."""
    s2 = Stage2()
    s2.map(BASE, 64 * BLOCK, pa=0, largest=3)
    done = threading.Event()

    def change():
        while not done.is_set():
            s2.collapse(BASE, 64 * BLOCK)
            s2.split(BASE, 64 * BLOCK)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(30):
            array = s2.leaves_array()
            ends = array["ipa"] + array["size"]
            assert (array["ipa"][1:] == ends[:-1]).all()
            assert (int(array["ipa"][0]), int(ends[-1])) == (BASE, BASE + 64 * BLOCK)
            assert (array["pa"] == array["ipa"] - np.uint64(BASE)).all()
    finally:
        done.set()
        thread.join()


def test_ctrl_c_ends_a_long_call():
    """However slow each element is, the call looks for Ctrl-C now and then."""
    s2 = Stage2(stall_tlbi_ns=1_000_000)
    ipa = BASE + np.arange(60_000, dtype=np.uint64) * np.uint64(PAGE)  # a minute, at a millisecond each
    s2.map(BASE, len(ipa) * PAGE, pa=0, largest=3)

    def interrupt():
        while BASE in s2:
            pass
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        s2.unmap_many(ipa)
    thread.join()
    assert BASE not in s2
    assert int(ipa[-1]) in s2


# ------------------------------------------------------------------------------------------------- vCPUs by thread


@pytest.mark.parametrize("policy", ["serial", "parallel", "lockless"])
def test_a_thread_uses_many_vms_in_turn(policy):
    """More VMs than a thread remembers vCPUs of; each sees its own slots, old and new."""
    vms = [Vm(memory="2MiB", ipa=BASE, pa=number << 30, policy=policy, backing="pages") for number in range(7)]
    for turn in range(3):
        for number, vm in enumerate(vms):
            ipa = BASE + turn * PAGE
            assert vm.handle_fault(ipa, "w") == ("handled", "mapped")
            assert vm.access(ipa + 5, "w").pa == (number << 30) + turn * PAGE + 5
    for number, vm in enumerate(vms):
        assert vm.handle_fault(BASE + BLOCK) == ("exit", "mmio")
        vm.add_slot(1, BASE + BLOCK, BLOCK, pa=(number << 30) + BLOCK)
        assert vm.access(BASE + BLOCK).pa == (number << 30) + BLOCK
        vm.remove_slot(0)
        assert vm.handle_fault(BASE, "r") == ("exit", "mmio")
        with pytest.raises(s2pt.TranslationFault):
            vm.translate(BASE)
        assert vm.stats().mapped_bytes == PAGE


@pytest.mark.parametrize("policy", ["serial", "parallel", "lockless"])
def test_vcpus_of_threads_that_have_ended(policy):
    """Take-back waits for the faults of every vCPU: those of ended threads are nobody's any more."""
    vm = Vm(memory="16MiB", ipa=BASE, policy=policy, backing="pages")
    for turn in range(4):
        threads = [
            threading.Thread(target=lambda i=i: vm.access(BASE + i * PAGE, "w")) for i in range(turn * 8, turn * 8 + 8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert vm.take_back(BASE + turn * 8 * PAGE, 4 * PAGE) == (4 * PAGE, False)
    assert vm.stats().mapped_bytes == 16 * PAGE


def test_outcomes_are_all_told():
    vm = Vm(memory="16MiB", ipa=BASE, backing="thp")
    vm.add_slot(1, BASE + (1 << 30), BLOCK, pa=0, readonly=True)
    assert vm.handle_fault(BASE, "r") == ("handled", "mapped")
    assert vm.handle_fault(BASE, "r") == ("again", "peer")
    assert vm.handle_fault(BASE, "r", kind="access-flag", level=2) == ("handled", "marked-young")
    assert vm.handle_fault(BASE, "x", kind="permission", level=2) == ("handled", "relaxed")
    vm.enable_dirty_log(0, "auto")
    assert vm.handle_fault(BASE, "w", kind="permission", level=2) == ("handled", "split")
    vm.disable_dirty_log(0)
    assert vm.handle_fault(BASE + PAGE, "w", kind="permission", level=3) == ("handled", "collapsed")
    assert vm.handle_fault(BASE + (1 << 30), "w") == ("exit", "read-only")
    assert vm.handle_fault(0, "x") == ("exit", "fetch")
    assert vm.handle_fault(0, "w") == ("exit", "mmio")
    with pytest.raises(s2pt.AddressError):
        vm.handle_fault(LIMIT)
    assert vm.handle_fault(LIMIT, level=0) == ("exit", "address-size")


@pytest.mark.slow
def test_faults_of_threads_beside_take_back():
    """Faults stay attached to the interpreter, take-back leaves it: neither keeps the other from going on."""
    vm = Vm(memory="2MiB", ipa=BASE, backing="pages")
    done = threading.Event()
    told = []

    def fault():
        outcomes = set()
        while not done.is_set():
            for page in range(0, 512, 64):
                outcomes.add(vm.handle_fault(BASE + page * PAGE, "w", level=3)[0])
                vm.access(BASE + page * PAGE, "w")
        told.append(outcomes)

    threads = [threading.Thread(target=fault) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            vm.take_back(BASE, BLOCK)
            assert vm.age(BASE, BLOCK) in (True, False)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert set().union(*told) == {"handled", "again"}
    vm.take_back(BASE, BLOCK)
    assert vm.stats().mapped_bytes == 0
