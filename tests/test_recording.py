"""Recordings of what the table does keep every rule; racing steps are put in the order in which they happened."""

from __future__ import annotations

import random
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import SETUPS, base_of, by_threads, every_operation, outputs, renumbered

import s2pt
from s2pt import DirtyLog, Prot, RecordingError, Stage2, ViolationError, Vm
from s2pt.events import Event
from s2pt.recording import INVARIANTS, Recording


@pytest.mark.parametrize("options", SETUPS.values(), ids=SETUPS)
def test_every_operation_keeps_the_rules(options):
    trace = every_operation(**options)
    report = trace.check(outputs=outputs(trace)).raise_if_bad()
    assert [row.name for row in report.invariants] == list(INVARIANTS)
    assert all(row.checked for row in report.invariants), "each rule was looked at"
    assert (report.events, report.threads, report.moved, report.owed) == (len(trace), 1, 0, 0)
    assert not report.end.retired, "all is drained"
    assert list(report.end.linked) == [trace.setup.root], "all is unmapped"


@pytest.mark.slow
@pytest.mark.parametrize("options", [options for name, options in SETUPS.items() if name != "64K"], ids=str)
def test_threads_keep_the_rules(options):
    for seed in range(3):
        trace = by_threads(4, 20, seed, **options)
        trace.check(outputs=outputs(trace)).raise_if_bad()


@pytest.mark.slow
def test_batch_calls_of_threads_keep_the_rules():
    s2 = Stage2(sink="recording")
    pages = np.arange(1 << 30, (1 << 30) + (4 << 20), 4096, dtype=np.uint64)

    def work(me: int) -> None:
        mine = np.random.default_rng(me).permutation(pages)
        for _ in range(2):
            s2.map_many(mine, mine)
            s2.unmap_many(mine[: len(mine) // 2], 4096)
            s2.touch(mine, "w")

    crew = [Thread(target=work, args=(me,)) for me in range(3)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    s2.drain()
    report = s2.trace().check(outputs=lambda ipa: ipa).raise_if_bad()
    assert report.threads >= 3
    assert report["I2"].checked >= 512, "who comes first finds half of the pages there"


@pytest.mark.parametrize("policy", ["serial", "parallel", "lockless"])
@pytest.mark.parametrize("semantics", ["exact", "kvm"])
def test_a_dirty_logged_vm_keeps_the_rules(policy, semantics):
    """Faults on four threads of Rust while the log is harvested."""
    vm = Vm(memory="16MiB", policy=policy, semantics=semantics, sink="recording")
    vm.run(DirtyLog(vcpus=4, iterations=2, bytes_per_vcpu="2MiB"))
    vm.take_back(0x4000_0000, "3MiB")
    vm.drain()
    trace = vm.trace()
    report = trace.check(outputs=lambda ipa: ipa).raise_if_bad()
    assert report.threads >= 5
    assert report["I2"].checked > 1000
    assert report.owed == 0, "the host issues the TLBI that write_protect leaves to it"


def test_kvm_leaves_the_tlbi_of_write_protection_to_the_caller():
    s2 = Stage2(semantics="kvm", sink="recording")
    s2.map(0x4000_0000, "4MiB", pa=0)
    s2.write_protect(0x4000_0000, "4MiB")
    before = s2.trace()
    assert before.check().raise_if_bad().owed == 2
    s2.flush_tlb(0x4000_0000, "4MiB")
    assert (before + s2.trace()).check().raise_if_bad().owed == 0


# --- order -----------------------------------------------------------------------------------------------------------


def late(trace: Recording, pick: random.Random) -> Recording:
    """Tell the same history as a recorder may whose threads are held up between an exchange and its number."""
    events = list(trace.events)
    after: dict[int, int] = {}
    limit = [len(events)] * len(events)
    for place in range(len(events) - 1, -1, -1):
        limit[place] = after.get(events[place].thread, len(events))
        after[events[place].thread] = place
    keys = []
    for place, event in enumerate(events):
        old = event.fields.get("old")
        exchange = event.kind == "store" and old != 0x400 and not (old >> 63 and not old & 1)
        far = exchange and pick.random() < 0.3
        keys.append(place + pick.random() * (limit[place] - place) * 0.999 if far else place)
    order = sorted(range(len(events)), key=keys.__getitem__)
    return renumbered(trace, [events[place] for place in order])


@pytest.mark.slow
def test_late_numbers_of_threads_are_put_right():
    for seed in range(4):
        trace = by_threads(4, 25, seed)
        late(trace, random.Random(seed)).check().raise_if_bad()


def racing(pick: random.Random, threads: int, steps: int) -> tuple[Recording, int]:
    """Play threads that change three pages, by chance: the recording, and how often a number came late."""
    s2 = Stage2(sink="recording")
    for page in range(3):
        s2.map(0x4000_0000 + 4096 * page, 4096, pa=page << 12)
    base = s2.trace()
    table = [event.fields["frame"] for event in base.events if event.kind == "allocate"][-1]
    memory = [s2[0x4000_0000 + 4096 * page].raw for page in range(3)]
    told: list[Event] = []
    late, ending = 0, False

    def tell(thread: int, kind: str, **fields: object) -> None:
        told.append(Event(0, thread, kind, fields))

    def exchange(me: int, page: int, new: int):
        """Swap, and tell of it when this thread is scheduled the next time."""
        nonlocal late
        old, memory[page], here = memory[page], new, len(told)
        yield
        late += any(event.kind == "store" and event.fields["entry"] == table + 8 * page for event in told[here:])
        tell(me, "store", entry=table + 8 * page, old=old, new=new, release=True)

    def work(me: int):
        while not ending:
            page = pick.randrange(3)
            if memory[page] == 0x400:
                yield
                continue
            value = memory[page]
            if pick.random() < 0.7:
                yield from exchange(me, page, value ^ pick.choice([1 << 10, 1 << 55, 1 << 56]))
                continue
            yield from exchange(me, page, 0x400)
            tell(me, "dsb", domain="ishst")
            tell(me, "tlbi_ipa", ipa=0x4000_0000 + 4096 * page, level=3, scope="broadcast")
            tell(me, "dsb", domain="ish")
            tell(me, "tlbi_stage1", scope="broadcast")
            yield
            tell(me, "dsb", domain="ish")
            tell(me, "store", entry=table + 8 * page, old=0x400, new=value ^ 1 << 20, release=True)
            yield
            memory[page] = value ^ 1 << 20
            tell(me, "publish")
            yield

    crew = [work(me) for me in range(10, 10 + threads)]
    for _ in range(steps):
        next(pick.choice(crew))
    ending = True
    while crew:  # everybody comes to the end of what he does
        one = pick.choice(crew)
        if next(one, "over") == "over":
            crew.remove(one)
    return renumbered(base, [*base.events, *told]), late


@given(st.integers(0, 1 << 32), st.integers(2, 5))
def test_racing_threads_are_put_in_order(seed, threads):
    trace, late = racing(random.Random(seed), threads, 300)
    report = trace.check().raise_if_bad()
    assert (report.moved > 0) == (late > 0)


def test_two_exchanges_numbered_the_wrong_way_round():
    trace, entry = _one_page()
    young, old = trace.events[-3].fields["new"], trace.events[-3].fields["new"] & ~(1 << 10)
    first = Event(100, 1, "store", {"entry": entry, "old": young, "new": old, "release": True})
    second = Event(101, 2, "store", {"entry": entry, "old": old, "new": young, "release": True})
    good = renumbered(trace, [*trace.events, first, second])
    swapped = renumbered(trace, [*trace.events, second, first])
    assert good.check().raise_if_bad().moved == 0
    assert swapped.check().raise_if_bad().moved == 1
    # The first thread did something else in between: its exchange cannot have been earlier than that.
    isb = Event(102, 1, "isb", {})
    impossible = renumbered(trace, [*trace.events, second, isb, first])
    report = impossible.check()
    assert report["history"].violations
    # An equal number of changes that do not follow from one another.
    lost = renumbered(trace, [*trace.events, first, Event(0, 2, "store", first.fields)])
    assert lost.check()["history"].violations


def test_an_ambiguous_order_is_accepted_if_some_order_exists():
    trace, entry = _one_page()
    a = trace.events[-3].fields["new"]
    b, c = a & ~(1 << 10), a | 1 << 55

    def step(thread: int, old: int, new: int) -> Event:
        return Event(0, thread, "store", {"entry": entry, "old": old, "new": new, "release": True})

    # a>b b>a a>c, told as a>c a>b b>a: who goes by number meets a dead end after the first.
    told = renumbered(trace, [*trace.events, step(1, a, c), step(2, a, b), step(3, b, a)])
    assert told.check().raise_if_bad().moved


def _one_page() -> tuple[Recording, int]:
    s2 = Stage2(sink="recording")
    s2.map(0x4000_0000, 4096, pa=0x1000)
    s2.map(0x4000_1000, 4096, pa=0x2000)
    trace = s2.trace()
    stores = [event for event in trace.events if event.kind == "store"]
    assert [event.kind for event in trace.events[-3:]] == ["store", "publish", "return"]
    return trace, stores[-1].fields["entry"]


# --- what cannot be checked ------------------------------------------------------------------------------------------


def test_a_recording_goes_on_where_the_one_before_ended():
    s2 = Stage2(sink="recording")
    base = base_of(s2)
    s2.map(base, "4MiB", pa=0)
    s2.split(base, "2MiB")
    first = s2.trace()
    s2.unmap(base, "4MiB")
    s2.drain()
    second = s2.trace()
    end = first.check().raise_if_bad().end
    assert sorted(level for level, _, _ in end.linked.values()) == [1, 2, 3]
    assert second.check(start=end).raise_if_bad().end.linked.keys() == {s2.root}
    assert (first + second).check().ok
    with pytest.raises(RecordingError, match="does not begin with the table"):
        second.check()
    with pytest.raises(RecordingError, match="does not come after"):
        second + first
    with pytest.raises(RecordingError, match="different tables"):
        first + Stage2(ipa_bits=48, sink="recording").trace()


def test_dropped_steps_are_refused():
    s2 = Stage2(sink="recording")
    pages = np.arange(0, 70_000 * 4096, 4096, dtype=np.uint64)
    s2.map_many(pages, pages)
    trace = s2.trace()
    assert trace.dropped > 0
    assert "dropped" in repr(trace)
    with pytest.raises(RecordingError, match="steps were dropped"):
        trace.check()
    with pytest.raises(RecordingError, match="steps were dropped"):
        trace.casemate()


def test_what_is_no_recording_is_refused():
    trace = _one_page()[0]
    for setup, events in ((None, ()), (trace.setup, [1]), (trace.setup, 5)):
        with pytest.raises(TypeError):
            Recording(setup, events)
    with pytest.raises(KeyError):
        trace.check()["I9"]
    for event in (Event(0, 0, "store", {}), Event(0, 0, "unheard", {}), Event(0, 0, "free", {"frame": None})):
        with pytest.raises(RecordingError):
            renumbered(trace, [*trace.events, event]).check()
    first, second = trace.events[:2]
    with pytest.raises(RecordingError, match="comes after"):
        Recording(trace.setup, [second, first]).check()


def test_nothing_is_recorded_without_a_recording_sink():
    for table in (Stage2(), Stage2(sink="counting"), Vm(memory="4MiB")):
        with pytest.raises(s2pt.S2ptError, match="nothing was recorded"):
            table.trace()


def test_leaves_map_what_the_caller_says():
    s2 = Stage2(sink="recording")
    s2.map(0x4000_0000, "4MiB", pa=0x8000_0000)
    s2.write_protect(0x4000_1000, 4096)
    trace = s2.trace()
    assert trace.check(outputs=lambda ipa: ipa + 0x4000_0000).ok
    wrong = trace.check(outputs=lambda ipa: ipa)
    assert len(wrong["I6"].violations) > 512
    with pytest.raises(ViolationError, match=r"I6: .* maps 0x80000000, not 0x40000000.* more") as caught:
        wrong.raise_if_bad()
    assert caught.value.violations == wrong.violations


def test_a_call_marks_its_end_once():
    s2 = Stage2(sink="recording")
    s2.map(0x1000, 4096, pa=0x1000)
    assert [event.kind for event in s2.trace().events].count("return") == 1
    s2.lookup(0x1000)
    s2.translate(0x1000)
    assert s2.events() == []


# --- random scripts --------------------------------------------------------------------------------------------------

PAGES = st.integers(0, 4 * 512 - 1)
CALLS = st.tuples(
    st.sampled_from(["map", "unmap", "protect", "write_protect", "relax", "young", "split", "collapse", "annotate"]),
    PAGES,
    st.sampled_from([1, 3, 512, 700, 1024]),
    st.sampled_from([Prot.R, Prot.RW, Prot.RWX]),
    st.booleans(),
)


@given(
    calls=st.lists(CALLS, max_size=12),
    options=st.sampled_from([SETUPS[name] for name in SETUPS if name[:2] in ("4K", "KV")]),
)
@settings(max_examples=40)
def test_random_scripts_keep_the_rules(calls, options):
    s2 = Stage2(sink="recording", **options)
    base = base_of(s2)
    for what, first, pages, prot, aligned in calls:
        ipa, size = base + (first & -512 if aligned else first) * 4096, pages * 4096
        try:
            match what:
                case "map":
                    s2.map(ipa, size, pa=ipa + (first % 2) * (16 << 20), prot=prot)
                case "unmap":
                    s2.unmap(ipa, size)
                case "protect":
                    s2.protect(ipa, size, prot)
                case "write_protect":
                    s2.write_protect(ipa, size)
                case "relax":
                    s2.relax(ipa, size, prot)
                case "young":
                    s2.test_and_clear_young(ipa, size, flush=aligned)
                case "split":
                    s2.split(ipa, size)
                case "collapse":
                    s2.collapse(base, 8 << 20)
                case _:
                    s2.annotate(ipa, size, first % 2)
        except s2pt.S2ptError:
            pass
    s2.trace().check(outputs=lambda ipa: (ipa, ipa + (16 << 20))).raise_if_bad()
