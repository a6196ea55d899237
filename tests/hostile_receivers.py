"""Right values for every parameter and receivers for every class of the public surface, for hostile calls.

A class or a parameter that has none here makes `unknown` say so, and with it a test fail: nothing public goes untried.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import hostile_lab
import numpy as np
from hostile_surface import Target, surface
from hostile_values import MIB, PAGE

import s2pt
import s2pt.costs
import s2pt.machine
import s2pt.migrate
import s2pt.trace
import s2pt.workloads
from s2pt import _core, image
from s2pt.testing import TableConfig
from s2pt.types import Access, Backing, Blocks, DumpStyle, Existing, MemType, Policy, Prot, Semantics, WalkFlags

GUEST = 1 << 30

# ------------------------------------------------------------------------------------------------- right values

Pick = Callable[[random.Random], Any]


def one_of(*values: Any) -> Pick:
    return lambda rng: rng.choice(values)


def _pages(rng: random.Random) -> Any:
    return np.array([rng.randrange(1024) * PAGE for _ in range(rng.randrange(6))], np.uint64)


def _guest_pages(rng: random.Random) -> Any:
    return _pages(rng) + np.uint64(GUEST)


def _words(rng: random.Random) -> Any:
    return np.array([rng.getrandbits(64) for _ in range(4)], np.uint64)


def _rows(rng: random.Random) -> Any:
    rows = np.zeros((rng.randrange(3), 21), np.uint64)
    rows[:, 1] = rng.randrange(1, 13)
    return rows


_address = one_of(0, PAGE, 2 * MIB, 2 * MIB + PAGE, 3 * MIB, GUEST, GUEST + PAGE, 1 << 39, (1 << 40) - PAGE)
_size = one_of(PAGE, 3 * PAGE, 2 * MIB, 4 * MIB, "4KiB", "2MiB", "0x1000", 1 << 30)
_bool = one_of(True, False)
_level = one_of(-1, 0, 1, 2, 3)
_small = one_of(0, 1, 2, 3, 7)
_register = one_of(0x802D_3558, 0x802D_355C, 0x9200_0046, 0x40_68E0, 0, 1 << 48, 0x1_0000_8000)
_text = one_of("", "r", "page", "leaf")
_bytes = one_of(b"", bytes(PAGE), bytes(3), bytearray(PAGE), memoryview(bytes(2 * PAGE)))
_none = one_of(None)

PARAMETERS: dict[str, Pick] = {
    "ipa": _address, "size": _size, "pa": _address, "key": _address, "host": _address, "base": _address,
    "value": _register, "esr": _register, "far": _register, "hpfar": _register, "vtcr": one_of(0x802D_3558,
    0x802D_355C),
    "vttbr": one_of(0x8000, 1 << 48), "raw": _register, "owner": one_of(1, 2, 1 << 20), "k": _small, "root": _address,
    "prot": one_of(Prot.R, Prot.RW, Prot.RX, Prot.NONE, 12), "memtype": one_of(*MemType, "normal"),
    "existing": one_of(*Existing, "keep"), "largest": one_of(None, 1, 2, 3), "software": _small, "af": _bool,
    "over_tables": _bool, "flags": one_of(0, 8, 24, WalkFlags.SHARED), "budget": one_of(None, 0, 1, 5), "flush": _bool,
    "access": one_of(*Access, "r", "w", "x"), "level": _level, "style": one_of(*DumpStyle), "errors": one_of("raise",
    "skip"),
    "ipa_bits": one_of(32, 36, 40, 48), "granule": one_of(4096, "16KiB", "64KiB"), "pa_bits": one_of(40, 44, 48, 52),
    "start_level": one_of(None, 0, 1, 2), "lpa2": _bool, "fwb": _bool, "xnx": _bool,
    "semantics": one_of(*Semantics), "vmid": _small, "frames": one_of(None, 1, 4, 24), "tlbi_range": _bool, "ha": _bool,
    "hd": _bool, "sink": one_of(None, "counting", "recording", lambda *_: None), "stall_tlbi_ns": one_of(0, 1, 1000),
    "stall_how": one_of("sleep", "spin"), "dialect": one_of("own", "kvm6", "kvm7"), "memory": one_of("4MiB", 4 * MIB,
    None),
    "backing": one_of(*Backing), "policy": one_of(*Policy), "execute_eagerly": _bool, "readonly": _bool, "id": _small,
    "slot": _small, "clear": _bool, "first_page": one_of(0, 64), "pages": one_of(64, 1024), "bitmap": _words,
    "mode": one_of("auto", "manual", "initially-set"), "s1ptw": _bool, "kind": one_of("translation", "permission"),
    "fault": lambda rng: s2pt.TranslationFault("x", GUEST, 3, "r"), "el": one_of(0, 1), "data": _bytes,
    "text": one_of("", b""),
    "timeout_s": one_of(0, 0.001, -1.0), "rows": one_of(None, []), "rounds": _small, "events": _rows,
    "order": one_of("recorded", "threads", "free"), "sizes": one_of("recorded", "trace"), "threads": one_of(None, 1, 2),
    "vcpus": one_of(1, 2), "bytes_per_vcpu": one_of("1MiB", 2 * MIB), "iterations": _small, "manual_protect": _bool,
    "write_percent": one_of(0, 50, 100), "random": _bool, "seed": _small, "error": _none, "trace": _none,
    "path": one_of("no such file", "no/such", ""), "allow_lost": _bool, "table": lambda rng: small_table(),
    "a": lambda rng: small_table(), "b": lambda rng: small_table().image(), "message": _text, "reason": _text,
    "needed": _small, "available": _small, "line": _small, "other": one_of(Prot.R, 3, WalkFlags.SHARED),
    "what": one_of((), ("af",)),
    "cpus": one_of(1, 2, 4), "ram": one_of(None, "4MiB"), "log": one_of(0, 3, 1000), "cpu": _small,
    "function": lambda rng: int,
    "bandwidth": one_of(None, "1GiB", 1 << 30), "think_how": one_of("sleep", "spin"), "downtime_ns": _small,
    "costs": one_of(None, s2pt.Costs(), s2pt.Costs(exit="1us")),
    "tlbi": one_of("0ns", "1us"), "exit": one_of("0ns", "1us"), "copy": one_of("0ns", "1us"),
    "cache": one_of("0ns", "1us"),
    "allocation": one_of("0ns", "1us"), "ns": _small, "how": one_of("sleep", "spin"),
    "eager_chunk": one_of("2MiB", 2 * MIB), "hot_percent": one_of(0, 50, 100), "ring_entries": one_of(64, 4096),
    "take_backs": _small, "think_ns": _small, "too_early": _bool, "warm_up_ns": _small, "downtime_s": one_of(0.0, 0.03),
    "think_s": one_of(0.0), "warm_up_s": one_of(0.0, 0.1),
    # What results and reports are made of: they take whatever they are given.
    "count": _small, "max_ns": _small, "p50_ns": _small, "p99_ns": _small, "p999_ns": _small, "before": _none,
    "during": _none, "enabled_ns": _small, "held_up": _none, "last_pages": _small, "latency": _none,
    "latency_buckets": one_of(()), "lost_bytes": _small, "pages_sent": _small, "violations": _small,
    "wrong_reads": _small, "fault_kinds": one_of({}), "exit_differences": one_of(()), "levels": one_of(()),
    "levels_checked": _small, "levels_skipped": _small, "mmio": _small, "no_pa": _small, "skipped": _small,
    "taken_back": _small,
    "found": _small, "harvested_ns": _small, "sent_ns": _small, "time_ns": _small,
    "bytes": _small, "kept": _small, "leaves": _small, "translation": _none, "steps": one_of(()), "index": _small,
    "address": _address, "mapping": _none, "root_frames": one_of(1, 2), "tables": one_of({}), "mapped_bytes": _small,
    "locked": _small, "frozen": _small, "annotated": _small, "accesses": _small, "phases": one_of(()),
    "longest_hold_ns": _small, "waits": _small, "stats": one_of({}), "sequence": _small, "thread": _small,
    "fields": one_of({}), "leaf_size": _size, "attributes": one_of(()), "invalid": _none, "phase": _text,
    "elapsed_ns": _small, "faults": one_of({}), "outcomes": one_of({}), "maintenance": _none,
    "written": _small, "cut": _text, "params": one_of(int, None, 7),
    "name": _text, "shape": _none, "kernel": one_of((6, 12)), "dumps": one_of(()), "marks": one_of(()),
    "notes": one_of(()),
    "records": one_of(np.zeros(2, s2pt.trace.EVENT), np.zeros(0, s2pt.trace.LEAF)), "pagemap": _none,
    "hardware_af": _bool,
    "page_size": one_of(4096, 65536), "where": _text, "about": one_of({}, {"geometry": {}}), "has_calls": _bool,
    "pending_limit": one_of(None, 16, 64), "pending": _small, "retired": _small, "freed": _small, "peak": _small,
    "overruns": _small,
    "dirty_ring": one_of(0, 64), "slots": one_of(1, 2), "overlap": _bool, "setup": lambda rng: _setup(),
    "supply": one_of("kernel", "missing", "minor"), "one_queue": _bool, "readers": one_of(1, 2),
    "delay": one_of(s2pt.Cost(), s2pt.Cost(1000)), "handled": one_of({}), "expected": _none,
    "test": one_of("map", "rw", "move-active"), "time_s": one_of(0.0, 0.001),
    "wrong_words": _small,
    "supplied": _small, "existed": _small, "wrong_pages": _none, "blocks": one_of(None, *Blocks),
    "complete": _bool, "runs": one_of([]), "page": one_of(PAGE), "hva": _address, "t_us": _small, "time_us": _small,
}  # fmt: skip
PARAMETERS = hostile_lab.PARAMETERS | PARAMETERS

# Where a name means something else.
BY_TARGET: dict[str, Pick] = {
    # A gibibyte at a time would take its time.
    "s2pt.Machine.memory(size)": one_of(8, 4096, "8KiB"),
    **{f"s2pt.Cpu.{name}(size)": one_of(1, 2, 4, 8) for name in ("read", "write", "begin")},
    "s2pt.Stage2.map_many(ipa)": _pages, "s2pt.Stage2.map_many(pa)": _pages, "s2pt.Stage2.unmap_many(ipa)": _pages,
    "s2pt.Stage2.translate_many(ipa)": _pages, "s2pt.Stage2.touch(ipa)": _pages, "s2pt.vm.Vm.touch(ipa)": _guest_pages,
    "s2pt._core.Vm.touch(ipa)": _guest_pages, "s2pt.image.Image.access_many(ipa)": _pages,
    "s2pt._core.read_syndromes(esr)": _words, "s2pt._core.read_syndromes(far)": _words,
    "s2pt._core.read_syndromes(hpfar)": _words, "s2pt.image.Image(memory)": _bytes,
}  # fmt: skip
BY_TARGET |= {name: one_of("2us", "1.5us:spin", "2us:nap", "9" * 30 + "s", " 0ns ")
              for name in ("s2pt.costs.Cost.parse(text)", "s2pt.costs.parse_time(text)")}  # fmt: skip
BY_TARGET |= hostile_lab.BY_TARGET


# ------------------------------------------------------------------------------------------------- receivers


def small_table(**options: Any) -> s2pt.Stage2:
    """Make a table of few frames, so that no call maps a terabyte in pages."""
    s2 = s2pt.Stage2(frames=24, **options)
    s2.map(0, "2MiB", pa=1 << 30)
    s2.map(3 * MIB, 2 * PAGE, pa=0x9000, prot=Prot.RX, software=3)
    return s2


def _closed() -> s2pt.Stage2:
    s2 = small_table()
    s2.close()
    return s2


def _iterator(source: Any) -> Any:
    found = iter(source)
    next(found)
    return found


def _job(job: Any, state: int) -> Any:
    if state:
        job.start()
    if state == 2:
        job.wait(10)
    return job


def _replay(state: int) -> Any:
    job = _core.ReplayJob(np.zeros((0, 21), np.uint64), ipa_bits=40, granule=PAGE, start_level=None, lpa2=False,
                          policy="serial", order="free", sizes="trace")  # fmt: skip
    return _job(job, state)


def _dirty(state: int) -> Any:
    job = _core.DirtyLogJob(vcpus=1, bytes_per_vcpu="64KiB", iterations=1, backing="pages", manual_protect=True,
                            write_percent=100, random=False, seed=1, policy="lockless")  # fmt: skip
    return _job(job, state)


def _setup() -> Any:
    return _core.Setup(vcpus=1, bytes_per_vcpu="2MiB", backing="thp", policy="lockless")


def _bench(state: int) -> Any:
    return _job(_core.BenchJob(rows=[], rounds=1, size="2MiB"), state)


def _migrate() -> Any:
    return s2pt.migrate.Migrate(memory="2MiB", vcpus=1, warm_up_s=0, rounds=1, bandwidth=None)


@functools.cache
def _migrated() -> Any:
    return _migrate().run()


def _shape() -> Any:
    return s2pt.Geometry(4096, 40, 48, 1, 2)


def _trace() -> Any:
    events = np.zeros(2, s2pt.trace.EVENT)
    events["kind"] = 1
    return s2pt.trace.Trace("none", (6, 12), events, (), (), 1, s2pt.trace.TableShape(), False, ())


@functools.cache
def _replayed() -> Any:
    return s2pt.trace.Replay(s2pt.trace.Trace("none", (6, 12), np.zeros(0, s2pt.trace.EVENT), (), (), 1,
                                              s2pt.trace.TableShape(), False, ())).run()  # fmt: skip


_TEXT = "---[ Guest IPA ]---\n0x0000000000000000-0x0000000080000000           2G 1\n"

# KVM's other tests, small.
EXPERIMENTS: dict[str, Callable[[], Any]] = {
    kind: lambda kind=kind: getattr(s2pt.workloads, kind)(bytes_per_vcpu="2MiB")
    for kind in ("AccessTracking", "PageTable", "DemandPaging", "Memslots")
}
EXPERIMENTS["Memslots"] = lambda: s2pt.workloads.Memslots(bytes_per_vcpu="64KiB", iterations=1)

# Makers of objects; each called anew for every sequence of calls, and twice, where two objects are compared.
RECEIVERS: dict[str, tuple[Callable[[], Any], ...]] = {
    "s2pt.Stage2": (
        small_table, lambda: small_table(sink="counting", ha=False), lambda: small_table(sink="recording"),
        lambda: small_table(semantics="kvm"), lambda: small_table(xnx=True, fwb=True), _closed,
        lambda: s2pt.Stage2(36, "16KiB", frames=40),
        lambda: small_table().without_waiting(), lambda: small_table(sink=lambda kind, fields: None),
    ),
    "s2pt.vm.Vm": (
        *(lambda policy=policy, backing=backing: s2pt.Vm(memory="4MiB", policy=policy, backing=backing)
          for policy in Policy for backing in ("thp", "pages")),
        lambda: s2pt.Vm(), lambda: s2pt.Vm(memory="4MiB", semantics="kvm", sink=None),
    ),
    "s2pt._core.Vm": (lambda: _core.Vm(memory="4MiB"),),
    "s2pt.Machine": (lambda: s2pt.Machine(small_table(), 2), lambda: s2pt.Machine(small_table(), 1, ram="4MiB",
    pa=1 << 30),
                     lambda: s2pt.Machine(s2pt.Vm(memory="4MiB"), 2)),
    "s2pt.Cpu": (lambda: s2pt.Machine(small_table(), 2).cpus[1], lambda: s2pt.Machine(s2pt.Vm(memory="4MiB"),
    2).cpus[0]),
    "s2pt.costs.Cost": (lambda: s2pt.costs.Cost(200, "spin"),),
    "s2pt.costs.Costs": (s2pt.Costs, lambda: s2pt.Costs(tlbi="2us:spin")),
    "s2pt.machine.Violation": (lambda: s2pt.machine.Violation(1, "stale", None, 0, "x"),),
    "s2pt.machine.LogEntry": (lambda: s2pt.machine.LogEntry(1, None, "isb", {}),),
    "s2pt.image.Image": (lambda: small_table().image(), lambda: image.Image(bytes(8192), 0x802D_3558, 0x8000,
    base=0x8000)),
    "s2pt.image.Ptdump": (lambda: image.Ptdump(small_table().dump()), lambda: image.Ptdump(_TEXT)),
    "s2pt._core.LeafIterator": (lambda: _iterator(small_table()),),
    "s2pt._core.ImageLeaves": (lambda: _iterator(small_table().image()),),
    "s2pt._core.Job": (lambda: _dirty(0),),
    **{f"s2pt._core.{kind}Job": (lambda make=make: make().job(), lambda make=make: _job(make().job(), 2))
       for kind, make in EXPERIMENTS.items()},
    **{f"s2pt.workloads.{module}.{kind}": (EXPERIMENTS[kind],)
       for module, kind in [("access_tracking", "AccessTracking"), ("page_table", "PageTable"),
                            ("demand_paging", "DemandPaging"), ("memslots", "Memslots")]},
    "s2pt.workloads.common.Experiment": (EXPERIMENTS["PageTable"],),
    "s2pt._steps.Report": (lambda: s2pt.workloads.Report(1, 0, (), 0, 0, {}, True),),
    "s2pt.workloads.memslots.MemslotsReport": (
        lambda: s2pt.workloads.MemslotsReport(
            1, 0, (), 0, 0, {}, True, iterations=0, taken_back=0, wrong_words=0),
    ),
    "s2pt.workloads.page_table.PageTableReport": (
        lambda: s2pt.workloads.PageTableReport(1, 0, (), 0, 0, {}, True, blocks=1, pages=0),
    ),
    "s2pt.workloads.demand_paging.DemandPagingReport": (
        lambda: s2pt.workloads.DemandPagingReport(
            1, 0, (), 0, 0, {}, True, pages=1, written=1, supplied=1, existed=0, wrong_pages=None),
    ),
    "s2pt._core.BenchJob": (lambda: _bench(0), lambda: _bench(2)),
    "s2pt._core.DirtyLogJob": (lambda: _dirty(0), lambda: _dirty(2)),
    "s2pt._core.ReplayJob": (lambda: _replay(0), lambda: _replay(2)),
    "s2pt._core.MigrateJob": (lambda: _migrate().job(), lambda: _job(_migrate().job(), 2)),
    "s2pt.migrate.Migrate": (_migrate,),
    "s2pt.migrate.MigrateReport": (_migrated,),
    "s2pt.migrate.Round": (lambda: _migrated().rounds[0],),
    "s2pt.migrate.Latency": (lambda: s2pt.migrate.Latency(1, 1, 1, 1, 1),),
    "s2pt.migrate.Throughput": (lambda: s2pt.migrate.Throughput(1, 1),),
    "s2pt.types.Mapping": (lambda: small_table()[0],),
    "s2pt.types.Translation": (lambda: small_table().translate(0),),
    "s2pt.types.Mapped": (lambda: s2pt.Mapped(0, 0),),
    "s2pt.types.Changed": (lambda: s2pt.Changed(0, 0),),
    "s2pt.types.Entry": (lambda: small_table().lookup(0),),
    "s2pt.types.ReclaimStats": (lambda: small_table().reclaim,),
    "s2pt.types.Stats": (lambda: small_table().stats(),),
    "s2pt.types.Geometry": (_shape,),
    "s2pt.types.Prot": (lambda: Prot.RW,),
    "s2pt.types.WalkFlags": (lambda: WalkFlags.FAULT,),
    "s2pt.explain.Explanation": (lambda: small_table().explain(0), lambda: small_table().explain(1 << 35)),
    "s2pt.explain.Step": (lambda: small_table().explain(0).steps[0],),
    "s2pt.explain.WalkFault": (lambda: small_table().explain(1 << 35).fault,),
    "s2pt.image.Difference": (lambda: image.diff(small_table(), s2pt.Stage2())[0],),
    "s2pt.image.Side": (lambda: image.diff(small_table(), s2pt.Stage2())[0].a,),
    "s2pt.image.PtdumpRun": (lambda: image.Ptdump(small_table().dump()).runs[0],),
    "s2pt.events.Event": (lambda: small_table(sink="recording").events()[0],),
    "s2pt.vm.DirtyLog": (s2pt.DirtyLog,),
    "s2pt.vm.DirtyLogReport": (lambda: s2pt.DirtyLogReport(1, 0, (), 0, 0, {}),),
    "s2pt._steps.Step": (lambda: s2pt.vm.Step("populate", 1, {}, {}, {}, None, None, 1),),
    "s2pt.vm.Slot": (lambda: s2pt.Vm(memory="4MiB").slots[0],),
    "s2pt.testing.adapter.TableConfig": (TableConfig,),
    "s2pt.trace.sidecar.TableShape": (s2pt.trace.TableShape,),
    "s2pt.trace.sidecar.Dump": (lambda: s2pt.trace.Dump("end", np.zeros(1, s2pt.trace.LEAF), s2pt.trace.Pagemap([],
    PAGE),
                                                        s2pt.trace.TableShape()),),
    "s2pt.trace.load.Trace": (_trace,),
    "s2pt.trace.replay.Replay": (lambda: s2pt.trace.Replay(_trace()),),
    "s2pt.trace.replay.ReplayReport": (_replayed,),
    "s2pt.trace.events.EventFlag": (lambda: s2pt.trace.EventFlag(1),),
    "s2pt.trace.host.Pagemap": (lambda: s2pt.trace.Pagemap([(0, PAGE, PAGE)], PAGE),),
}  # fmt: skip
RECEIVERS |= hostile_lab.RECEIVERS


def class_of(target: Target) -> str:
    """Give the name by which the receivers of a call are found."""
    return f"{target.owner.__module__}.{target.owner.__qualname__}" if target.owner else ""


def unknown() -> list[str]:
    """Name what of the surface nothing here knows how to call."""
    missing = [target.name for target in surface() if target.owner and class_of(target) not in RECEIVERS]
    for target in surface():
        missing += [f"{target.name}({p})" for p in target.parameters if p not in PARAMETERS]
    return sorted(set(missing))
