"""Many Python threads on one live table.

What one thread sees while others change the table is checked page by page as a history: each call on a page has a time
at which it began and one at which it returned, and what it answered. The history is right if the calls can be put in
one order that respects those times and in which every answer, and the table's final state, is that of a table used by
one thread at a time. An acknowledged change that was lost, or one that came back, leaves no such order.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

import s2pt
from s2pt import Prot, Stage2
from s2pt.image import Ptdump

PAGE, BLOCK = 4096, 2 << 20
BASE, SPAN = 0x8000_0000, 4 << 20
THREADS = 8


# ------------------------------------------------------------------------------------------------- the histories


@dataclass(frozen=True, slots=True)
class Call:
    """What one call did to one page: `effect` gives the state after it, or None where the answer contradicts it."""

    start: int
    end: int
    thread: int
    name: str
    effect: object


# A page's state is (pa, prot), or None where nothing is mapped. The access flag belongs to the leaf, not to the page,
# and a collapse may set it: it is no part of the history. An effect gives the next state in a tuple, or None.


def becomes(new):
    """Map the page so, whatever was there."""
    return lambda state: (new,)


def unmapped(answer):
    """`unmap` of one page said how many bytes it removed; of a range it speaks of all pages together."""
    if answer is None:
        return becomes(None)
    return lambda state: (None,) if (state is not None) == bool(answer) else None


def kept(new, written):
    """`map` with ``keep`` filled the hole, or found the page mapped."""
    return lambda state: (new if written else state,) if (state is None) == written else None


def permits(change, found=None):
    """Permissions changed by `change`; `found` says that the page was mapped, or was not, None that nobody asked."""

    def effect(state):
        if found is not None and found != (state is not None):
            return None
        return (state and (state[0], change(state[1])),)

    return effect


def seen(what):
    """`lookup` and the like: the state was just this."""
    return lambda state: (state,) if state == what else None


def linearizable(calls, final):
    """Whether some order of the calls explains every answer and the final state (Wing and Gong, with a memory)."""
    calls = sorted(calls, key=lambda call: call.start)
    last = max((call.end for call in calls), default=0)
    calls.append(Call(last + 1, last + 2, -1, "final", seen(final)))
    # A configuration: the first call not yet placed, the calls after it that are, and the state.
    todo, done = [(0, frozenset(), None)], set()
    while todo:
        first, ahead, state = todo.pop()
        while first in ahead:
            ahead -= {first}
            first += 1
        if first == len(calls):
            return True
        if (first, ahead, state) in done:
            continue
        done.add((first, ahead, state))
        # Next may be any call that began before the earliest end of those not yet placed.
        horizon = calls[first].end
        for index in range(first, len(calls)):
            call = calls[index]
            if call.start > horizon:
                break
            if index in ahead:
                continue
            horizon = min(horizon, call.end)
            after = call.effect(state)
            if after is not None:
                todo.append((first, ahead | {index}, after[0]))
    return False


def test_the_judge_itself():
    page, other = (0x1000, Prot.RW), (0x2000, Prot.RW)
    put, put_other = Call(0, 9, 0, "map", becomes(page)), Call(5, 20, 1, "map", becomes(other))
    assert linearizable([put, put_other], page)
    assert linearizable([put, put_other], other)
    assert not linearizable([put, put_other], None)
    late = Call(30, 31, 1, "map", becomes(other))
    assert not linearizable([put, late], page), "a lost map"
    gone = Call(10, 12, 1, "unmap", unmapped(4096))
    assert linearizable([put, gone], None)
    assert not linearizable([put, gone], page), "a mapping that came back"
    assert not linearizable([gone], None), "an unmap that removed what was never there"
    nothing = Call(10, 12, 1, "unmap", unmapped(0))
    assert not linearizable([put, nothing], page), "an unmap that missed a mapping"
    assert linearizable([put, Call(3, 4, 1, "unmap", unmapped(0))], page)
    assert not linearizable([Call(0, 1, 0, "look", seen(page)), Call(2, 3, 1, "map", becomes(page))], page)


# ------------------------------------------------------------------------------------------------- the workers


@dataclass
class Log:
    """The calls of all threads on the pages that are watched."""

    watched: tuple[int, ...]
    calls: dict[int, list[Call]] = field(init=False)

    def __post_init__(self):
        self.calls = {page: [] for page in self.watched}

    def add(self, thread, name, times, ipa, size, effect_of):
        for page in self.watched:
            if ipa <= page < ipa + size:
                # list.append is atomic.
                self.calls[page].append(Call(*times, thread, name, effect_of(page)))


class Worker:
    """One thread's random calls."""

    def __init__(self, s2, log, number, seed, calls):
        self.s2, self.log, self.number, self.calls = s2, log, number, calls
        self.random = random.Random(seed)
        self.next_pa = (number + 1) << 36
        self.errors = []

    def run(self):
        choices = [
            (self.map_page, 6), (self.keep_page, 5), (self.unmap_page, 5), (self.relax_page, 3), (self.protect_page, 3),
            (self.lookup_page, 4), (self.age, 2), (self.map_block, 1), (self.unmap_range, 1), (self.write_protect, 1),
            (self.split, 1), (self.collapse, 1), (self.map_array, 2), (self.unmap_array, 1), (self.translate_array, 1),
        ]  # fmt: skip
        actions, weights = zip(*choices, strict=True)
        try:
            for action in self.random.choices(actions, weights, k=self.calls):
                action()
        except BaseException as error:
            self.errors.append(error)

    def page(self):
        return self.random.choice(self.log.watched)

    def block(self):
        return BASE + BLOCK * self.random.randrange(SPAN // BLOCK)

    def pa(self, size=PAGE):
        self.next_pa += BLOCK
        return self.next_pa + (0 if size >= BLOCK else PAGE * self.random.randrange(512))

    def timed(self, call, *expected):
        """Call; return its result (or the expected exception), and when it began and ended."""
        start = time.perf_counter_ns()
        try:
            result = call()
        except expected as error:
            result = error
        return result, (start, time.perf_counter_ns())

    def record(self, name, times, ipa, size, effect_of):
        self.log.add(self.number, name, times, ipa, size, effect_of)

    # calls on one page: their answer is checked

    def map_page(self):
        ipa, pa, prot = self.page(), self.pa(), self.random.choice((Prot.RW, Prot.R, Prot.RX))
        _, times = self.timed(lambda: self.s2.map(ipa, PAGE, pa, prot))
        self.record("map", times, ipa, PAGE, lambda page: becomes((pa, prot)))

    def keep_page(self):
        ipa, pa = self.page(), self.pa()
        result, times = self.timed(lambda: self.s2.map(ipa, PAGE, pa, existing="keep"), s2pt.Again)
        written = not isinstance(result, s2pt.Again)
        self.record("keep", times, ipa, PAGE, lambda page: kept((pa, Prot.RW), written))

    def unmap_page(self):
        ipa = self.page()
        answer, times = self.timed(lambda: self.s2.unmap(ipa, PAGE))
        self.record("unmap", times, ipa, PAGE, lambda page: unmapped(answer))

    def relax_page(self):
        ipa = self.page()
        result, times = self.timed(lambda: self.s2.relax(ipa, PAGE, Prot.RX), s2pt.NotMappedError)
        found = not isinstance(result, s2pt.NotMappedError)
        self.record("relax", times, ipa, PAGE, lambda page: permits(lambda old: old | Prot.RX, found))

    def protect_page(self):
        ipa, prot = self.page(), self.random.choice((Prot.R, Prot.RW, Prot.NONE))
        result, times = self.timed(lambda: self.s2.protect(ipa, PAGE, prot), s2pt.NotMappedError)
        found = not isinstance(result, s2pt.NotMappedError)
        self.record("protect", times, ipa, PAGE, lambda page: permits(lambda old: prot, found))

    def lookup_page(self):
        ipa = self.page()
        result, times = self.timed(lambda: self.s2[ipa], s2pt.NotMappedError)
        # An entry that a peer is changing is no mapping at that moment, although the page never was unmapped.
        if not isinstance(result, s2pt.NotMappedError):
            self.record("lookup", times, ipa, PAGE, lambda page: seen(state_of(result, ipa)))

    # calls on many pages: they change each of them

    def age(self):
        self.s2.test_and_clear_young(self.block(), BLOCK)

    def map_block(self):
        ipa, pa = self.block(), self.pa(BLOCK)
        _, times = self.timed(lambda: self.s2.map(ipa, BLOCK, pa))
        self.record("map block", times, ipa, BLOCK, lambda page: becomes((pa + page - ipa, Prot.RW)))

    def unmap_range(self):
        ipa = self.block() + PAGE * self.random.randrange(256)
        size = PAGE * self.random.randrange(1, 256)
        _, times = self.timed(lambda: self.s2.unmap(ipa, size))
        self.record("unmap range", times, ipa, size, lambda page: unmapped(None))

    def write_protect(self):
        _, times = self.timed(lambda: self.s2.write_protect(BASE, SPAN))
        self.record("write protect", times, BASE, SPAN, lambda page: permits(lambda old: old & ~Prot.W))

    def split(self):
        self.s2.split(self.block(), BLOCK)

    def collapse(self):
        self.s2.collapse(BASE, SPAN)

    # whole arrays: these run without the GIL, so in parallel with everything else

    def some_pages(self):
        return np.array(self.random.sample(self.log.watched, 8), dtype=np.uint64)

    def map_array(self):
        ipa = self.some_pages()
        pa = np.array([self.pa() for _ in ipa], dtype=np.uint64)
        _, times = self.timed(lambda: self.s2.map_many(ipa, pa))
        for where, to in zip(ipa.tolist(), pa.tolist(), strict=True):
            self.record("map array", times, where, PAGE, lambda page, to=to: becomes((to, Prot.RW)))

    def unmap_array(self):
        ipa = self.some_pages()
        _, times = self.timed(lambda: self.s2.unmap_many(ipa))
        for where in ipa.tolist():
            self.record("unmap array", times, where, PAGE, lambda page: unmapped(None))

    def translate_array(self):
        pa, level, fault = self.s2.translate_many(self.some_pages())
        assert ((fault == 0) == (pa != 0)).all()
        assert ((level == 2) | (level == 3) | (fault == 1)).all()


def state_of(leaf, ipa):
    return leaf.pa + ipa - leaf.ipa, leaf.prot


@pytest.fixture
def quick_switches():
    """Let the interpreter change threads every few microseconds instead of every five milliseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def run_together(functions):
    barrier = threading.Barrier(len(functions))

    def body(function):
        barrier.wait()
        function()

    threads = [threading.Thread(target=body, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("options", [{}, {"sink": "counting"}, {"stall_tlbi_ns": 1000, "stall_how": "spin"}],
                         ids=["plain", "counting", "stalled"])  # fmt: skip
def test_random_calls_over_the_same_ranges(seed, options, quick_switches):
    s2 = Stage2(**options)
    # Pages at both ends and in the middle of each block, and neighbours.
    watched = tuple(BASE + PAGE * page for page in (0, 1, 7, 255, 256, 510, 511, 512, 513, 700, 1022, 1023))
    log = Log(watched)
    workers = [Worker(s2, log, n, 1000 * seed + n, 1800) for n in range(THREADS)]
    run_together([worker.run for worker in workers])
    assert [error for worker in workers for error in worker.errors] == []
    overlaps = sum(overlapping(calls) for calls in log.calls.values())
    assert overlaps > 1000, "the threads hardly met"

    s2.drain()
    stats = s2.stats()
    assert (stats.locked, stats.frozen, stats.annotated) == (0, 0, 0)
    assert s2.frames_in_use == sum(stats.tables.values()), "frames in use that no walk reaches"
    check_walks(s2, stats)
    for page in watched:
        final = state_of(s2[page], page) if page in s2 else None
        assert linearizable(log.calls[page], final), f"no order explains page {page:#x}"


def overlapping(calls):
    """Count the calls that began before one that began earlier had ended."""
    count = latest = 0
    for call in sorted(calls, key=lambda call: call.start):
        count += call.start < latest
        latest = max(latest, call.end)
    return count


def check_walks(s2, stats):
    """Every way of looking at the table tells the same."""
    leaves = list(s2)
    assert sum(leaf.size for leaf in leaves) == stats.mapped_bytes
    assert {level: sum(leaf.level == level for leaf in leaves) for level in stats.leaves} == dict(stats.leaves)
    array = s2.leaves_array()
    assert array["ipa"].tolist() == [leaf.ipa for leaf in leaves]
    assert all(a.ipa + a.size <= b.ipa for a, b in itertools.pairwise(leaves))
    for leaf in leaves:
        assert s2[leaf.ipa + leaf.size - 1] == leaf
        assert s2.lookup(leaf.ipa).raw == leaf.raw
    ipa = np.arange(BASE, BASE + SPAN, PAGE, dtype=np.uint64)
    pa, level, fault = s2.translate_many(ipa)
    mapped = {leaf.ipa + offset: leaf.pa + offset for leaf in leaves if leaf.prot & Prot.R
              for offset in range(0, leaf.size, PAGE)}  # fmt: skip
    assert {i: p for i, p, f in zip(ipa.tolist(), pa.tolist(), fault.tolist(), strict=True) if f == 0} == mapped
    assert set(level.tolist()) <= {1, 2, 3}


@pytest.mark.slow
def test_arrays_of_many_threads_on_the_same_pages():
    """Calls that release the GIL: the table is changed by all threads at the very same time."""
    s2 = Stage2()
    pages = np.arange(BASE, BASE + (512 << 20), PAGE, dtype=np.uint64)
    kept = [0] * THREADS

    def fault_in(thread):
        order = np.random.default_rng(thread).permutation(pages)
        kept[thread] = s2.map_many(order, order + np.uint64(thread << 36), existing="keep").kept

    run_together([lambda thread=thread: fault_in(thread) for thread in range(THREADS)])
    # Each page was mapped once; all other attempts found it mapped.
    assert sum(kept) == (THREADS - 1) * len(pages) * PAGE
    assert s2.stats().mapped_bytes == len(pages) * PAGE
    owner = s2.translate_many(pages)[0] >> np.uint64(36)
    assert np.bincount(owner.astype(int), minlength=THREADS).tolist() == [len(pages) - k // PAGE for k in kept]

    removed = [0] * THREADS

    def take_out(thread):
        removed[thread] = s2.unmap_many(np.random.default_rng(thread).permutation(pages))

    run_together([lambda thread=thread: take_out(thread) for thread in range(THREADS)])
    assert sum(removed) == len(pages) * PAGE, "each page was removed once"
    s2.drain()
    assert s2.frames_in_use == sum(s2.stats().tables.values()) == 2


# ------------------------------------------------------------------------------------------------- close


@pytest.mark.slow
def test_close_while_others_call():
    pages = np.arange(64, dtype=np.uint64) * PAGE
    for round_number in range(20):
        s2 = Stage2()
        ended = []

        def call(s2=s2):
            s2.map_many(pages, pages)
            if PAGE in s2:
                s2.translate_many(pages)
            list(s2)
            s2.unmap(0, 64 * PAGE)

        def body(call=call, ended=ended):
            try:
                while True:
                    call()
            except s2pt.ClosedError as error:
                ended.append(str(error))

        def closer(s2=s2):
            time.sleep(0)
            s2.close()
            s2.close()

        run_together([body, body, body, closer])
        assert ended == ["this Stage2 was closed"] * 3, round_number


def test_closed_table():
    with Stage2() as s2:
        s2.map(BASE, PAGE, pa=0)
        leaves = iter(s2)
    assert s2.closed
    assert repr(s2) == "<Stage2 closed>"
    s2.close()
    for call in (
        lambda: s2.map(BASE, PAGE, pa=0), lambda: s2.unmap(BASE, PAGE), lambda: s2.translate(BASE), lambda: s2[BASE],
        lambda: BASE in s2, lambda: next(leaves), lambda: iter(s2), lambda: s2.stats(), lambda: s2.drain(),
        lambda: s2.vtcr, lambda: s2.vttbr, lambda: s2.root, lambda: s2.geometry, lambda: s2.frames_in_use,
        lambda: s2.leaves_array(), lambda: s2.fail_allocation(0), lambda: s2.__enter__(), lambda: s2.counts(),
        lambda: s2.map_many(np.zeros(0, np.uint64), np.zeros(0, np.uint64)), lambda: s2.touch(np.zeros(0, np.uint64)),
    ):  # fmt: skip
        with pytest.raises(s2pt.ClosedError, match="this Stage2 was closed"):
            call()


def test_a_thread_uses_many_tables_in_turn():
    """More tables than a thread remembers registrations with."""
    tables = [Stage2() for _ in range(10)]
    for turn in range(3):
        for number, s2 in enumerate(tables):
            assert s2.map(BASE + turn * PAGE, PAGE, pa=number << 20).bytes == PAGE
    for number, s2 in enumerate(tables):
        assert s2.translate(BASE).pa == number << 20
        s2.unmap(BASE, 3 * PAGE)
        s2.drain()
        assert s2.frames_in_use == 2


# ------------------------------------------------------------------------------------------------- one object for all


def test_objects_of_every_class_are_used_by_many_threads(quick_switches):
    """No call is refused because another is under way, and an iterator gives each leaf to one thread."""
    s2 = Stage2()
    s2.map(BASE, SPAN, pa=0, largest=3)
    vm = s2pt.Vm(memory=SPAN, ipa=BASE, backing="pages")
    image, leaf = s2.image(), s2[BASE]
    text = Ptdump(s2.dump())
    of_table, of_image = iter(s2), iter(image)
    taken = [[] for _ in range(THREADS)]
    job = s2pt._core.DirtyLogJob(
        vcpus=1, bytes_per_vcpu="64MiB", iterations=1, backing="pages", manual_protect=True, write_percent=100,
        random=False, seed=1, policy="lockless",
    )  # fmt: skip
    job.start()

    def use(thread):
        for page in range(300):
            here = BASE + page * PAGE
            taken[thread].append((next(of_table).ipa, next(of_image).ipa) if page < 64 else None)
            assert vm.access(here, "w").pa == here
            assert vm.translate(here).pa == here
            assert image.translate(here).pa == page * PAGE
            assert hash(leaf) == hash(s2[BASE])
            assert leaf == s2[BASE]
            if page % 100 == 0:
                assert len(text.runs) >= 1
                assert len(vm.leaves_array()) >= page
                assert repr(vm).startswith("<Vm")
                assert len(image.leaves_array()) == SPAN // PAGE
        assert job.wait(60)
        assert job.result()["accesses"] == (64 << 20) // PAGE

    run_together([lambda thread=thread: use(thread) for thread in range(THREADS)])
    for kind in (0, 1):
        seen = sorted(pair[kind] for pairs in taken for pair in pairs if pair)
        assert seen == list(range(BASE, BASE + THREADS * 64 * PAGE, PAGE))
