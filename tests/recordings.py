"""Recordings that several tests look at: every operation by one thread, and random ones by several."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Sequence
from dataclasses import replace

from s2pt import Prot, S2ptError, Stage2
from s2pt.events import Event
from s2pt.recording import Recording

SETUPS = {
    "4K": {},
    "4K without range TLBIs": {"tlbi_range": False},
    "4K LPA2, level -1": {"ipa_bits": 52, "pa_bits": 52, "lpa2": True, "start_level": -1, "xnx": True},
    "16K": {"granule": "16KiB", "ipa_bits": 36},
    "64K": {"granule": "64KiB", "ipa_bits": 46},
    "KVM": {"semantics": "kvm"},
    "KVM without range TLBIs": {"semantics": "kvm", "tlbi_range": False},
    "KVM with deferred TLBIs": {"semantics": "kvm", "fwb": True},
}


def base_of(s2: Stage2) -> int:
    return 4 * s2.geometry.size(2)


def every_operation(**options: object) -> Recording:
    """Each operation of the interface by one thread: on pages and on blocks, whole and in part."""
    s2 = Stage2(sink="recording", **options)  # type: ignore[arg-type]
    page, block, base = s2.geometry.granule, s2.geometry.size(2), base_of(s2)
    far = base + 8 * block
    s2.map(base, 2 * block, pa=base, prot=Prot.RW)
    s2.map(base + 2 * block, 3 * page, pa=base + 2 * block, prot=Prot.RWX)
    s2.map(base, page, pa=far)  # out of a block
    s2.map(base + 2 * block, page, pa=far)  # instead of a page
    s2.map(base + 2 * block, 3 * page, pa=base + 2 * block, prot=Prot.R)  # one is replaced, two lose rights
    s2.protect(base + 2 * block, 3 * page, Prot.RW)
    s2.write_protect(base + block, block)
    s2.write_protect(base + 2 * block, 2 * page)
    s2.flush_tlb(base, 4 * block)
    s2.relax(base + block + page, page, Prot.RW)
    s2.relax(base + 2 * block, 2 * page, Prot.RW)
    s2.test_and_clear_young(base, 4 * block, flush=True)
    s2.mark_young(base + block, block)
    s2.split(base + block, block)
    s2.protect(base + block, block, Prot.RW)
    s2.collapse(base + block, block)
    first = s2.trace()
    s2.map(base, block, pa=base)  # a block instead of a table
    s2.annotate(base + 3 * block, page, 1)
    s2.annotate(base + 2 * block, page, 1)
    s2.unmap(base + page, page)
    s2.unmap(base + 2 * block, 3 * page)
    s2.map(base + 3 * block + page, page, pa=base + 3 * block + page)
    second = s2.trace()
    s2.unmap(base, 4 * block)
    s2.drain()
    return first + second + s2.trace()


def by_threads(threads: int, calls: int, seed: int, **options: object) -> Recording:
    """Random operations of several threads on three blocks; the TLBIs stall, so that calls release the GIL."""
    s2 = Stage2(sink="recording", stall_tlbi_ns=1, stall_how="spin", **options)  # type: ignore[arg-type]
    page, block, base = s2.geometry.granule, s2.geometry.size(2), base_of(s2)
    start = threading.Barrier(threads)

    def one(s2: Stage2, pick: random.Random) -> None:
        size = pick.choice([page, 4 * page, block // 2, block, 2 * block])
        ipa = base + pick.randrange(3 * block // page) * page
        if pick.random() < 0.5:
            ipa &= -block
        prot = pick.choice([Prot.RW, Prot.R, Prot.RWX])
        match pick.randrange(10):
            case 0 | 1 | 2:
                existing = pick.choice(["replace", "keep", "error"])
                s2.map(ipa, size, pa=ipa + pick.choice([0, 0, 8 * block]), prot=prot, existing=existing)
            case 3:
                s2.unmap(ipa, size)
            case 4:
                s2.write_protect(ipa, size)
            case 5:
                s2.relax(ipa, size, prot)
            case 6:
                s2.split(ipa, size)
            case 7:
                s2.collapse(base, 4 * block)
            case 8:
                s2.test_and_clear_young(ipa, size, flush=pick.random() < 0.5)
            case _:
                s2.protect(ipa, size, prot)

    def work(me: int) -> None:
        pick = random.Random(seed << 8 | me)
        start.wait()
        for _ in range(calls):
            with contextlib.suppress(S2ptError):  # a hole, or a peer: not what is looked at here
                one(s2, pick)

    crew = [threading.Thread(target=work, args=(me,)) for me in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    s2.drain()
    return s2.trace()


def outputs(recording: Recording):
    """Give what leaves of these recordings may map."""
    far = 8 * recording.setup.geometry.size(2)
    return lambda ipa: (ipa, ipa + far, 2 * far - far // 2)


def renumbered(recording: Recording, events: Sequence[Event]) -> Recording:
    """Put the steps into this order, numbered anew."""
    steps = tuple(Event(number, event.thread, event.kind, event.fields) for number, event in enumerate(events))
    return replace(recording, events=steps)


__all__ = ["SETUPS", "base_of", "by_threads", "every_operation", "outputs", "renumbered"]
