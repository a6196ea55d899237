"""Hostile calls: right values for every parameter and receivers for every class, and what may come of a call.

A class or a parameter that has none here makes `unknown` say so, and with it a test fail: nothing public goes untried.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import pickle
import random
import sys
import weakref
from collections.abc import Callable
from typing import Any

import hostile_lab
import numpy as np
from hostile_surface import Target, surface
from hostile_values import MIB, OWN, PAGE, Arg, disguise, hostile, same

import s2pt
import s2pt.costs
import s2pt.machine
import s2pt.migrate
import s2pt.trace
import s2pt.workloads
from s2pt import _core, image
from s2pt.testing import TableConfig
from s2pt.types import Access, Backing, Blocks, DumpStyle, Existing, MemType, Policy, Prot, Semantics, WalkFlags
from s2pt.workloads import common

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
    "written": _small, "cut": _text,
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
    "s2pt.workloads.common.Experiment": (lambda: common.Experiment(vcpus=2),),
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


def _class_of(target: Target) -> str:
    return f"{target.owner.__module__}.{target.owner.__qualname__}" if target.owner else ""


def unknown() -> list[str]:
    """Name what of the surface nothing here knows how to call."""
    missing = [target.name for target in surface() if target.owner and _class_of(target) not in RECEIVERS]
    for target in surface():
        missing += [f"{target.name}({p})" for p in target.parameters if p not in PARAMETERS]
    return sorted(set(missing))


# ------------------------------------------------------------------------------------------------- outcomes

OURS = "refused, an error of s2pt"
PYTHON = "refused, TypeError, ValueError or OverflowError"
RAISED = "what an argument raised"
ANSWERED = "answered"
OUTCOMES = (ANSWERED, OURS, PYTHON, RAISED)


class Defect(AssertionError):  # noqa: N818
    """A call that ended as no call may."""


def call(
    function: Callable[..., Any], args: list[Any], keywords: dict[str, Any], also: tuple[type, ...] = ()
) -> tuple[str, Any]:
    """Make a call; say what came of it, and the answer or the exception."""
    try:
        answer = function(*args, **keywords)
        if isinstance(answer, _core.LeafIterator | _core.ImageLeaves):
            answer = list(answer)
    except OWN as error:
        return RAISED, error
    except s2pt.S2ptError as error:
        if "internal error" in str(error):
            raise Defect(f"a thread panicked: {error}") from error
        return OURS, error
    except StopIteration:
        return ANSWERED, None
    except (TypeError, ValueError, OverflowError, *also) as error:
        return PYTHON, error
    return ANSWERED, answer


def normal(answer: Any) -> Any:
    """Give the answer, to be compared with another object's."""
    if isinstance(answer, np.ndarray):
        return answer.dtype.str, answer.shape, answer.tobytes()
    if isinstance(answer, image.Image):
        return answer.to_bytes()
    if isinstance(answer, tuple | list):
        return [normal(each) for each in answer]
    if isinstance(answer, s2pt.Stage2 | s2pt.Vm | _core.Vm | weakref.ref):
        return type(answer)
    text = repr(answer)
    return type(answer) if " object at 0x" in text else text


def state(thing: Any) -> Any:
    """All that a refused call must leave as it was."""
    if isinstance(thing, s2pt.Stage2):
        if thing.closed:
            return None
        thing.drain()
        return thing.entries_array().tobytes(), repr(thing.stats()), thing.frames_in_use
    if isinstance(thing, _core.Vm):
        thing.drain()
        return thing.leaves_array().tobytes(), repr(thing.stats()), thing.frames_in_use, thing._slots()
    if isinstance(thing, image.Image):
        return thing.vtcr, thing.vttbr
    return None


def sound(thing: Any) -> None:
    """Check that nothing is in between and that no frame is lost."""
    if not isinstance(thing, s2pt.Stage2 | _core.Vm) or getattr(thing, "closed", False):
        return
    thing.drain()
    stats = thing.stats()
    if (stats.locked, stats.frozen) != (0, 0) or thing.frames_in_use != sum(stats.tables.values()):
        raise Defect(f"{thing!r} is left with {stats!r} and {thing.frames_in_use} frames in use")


# ------------------------------------------------------------------------------------------------- of any object


def _universal(rng: random.Random, thing: Any, other: Any) -> tuple[str, str, Any]:
    """Something that is asked of objects of every class. Attributes are refused by AttributeError, as Python does."""
    asks: dict[str, Callable[[], Any]] = {
        "repr": lambda: repr(thing), "str": lambda: str(thing), "hash": lambda: hash(thing) and None,
        "eq": lambda: thing == other, "ne": lambda: thing != other, "lt": lambda: thing < other,
        "in": lambda: other in thing,
        "getitem": lambda: thing[other], "setitem": lambda: thing.__setitem__(0, other),
        "format": lambda: format(thing, "x"),
        "len": lambda: len(thing), "int": lambda: int(thing), "call": lambda: thing(other),
        "copy": lambda: copy.copy(thing),
        "deepcopy": lambda: copy.deepcopy(thing), "pickle": lambda: pickle.loads(pickle.dumps(thing)),
        "setattr": lambda: setattr(thing, "ipa", other), "new attribute": lambda: setattr(thing, "no_such", other),
        "delattr": lambda: delattr(thing, "ipa"), "getattr": lambda: thing.no_such, "dir": lambda: len(dir(thing)),
        "sizeof": lambda: sys.getsizeof(thing) and None, "weakref": lambda: weakref.ref(thing),
        "new": lambda: type(thing).__new__(type(thing)),
        "object.new": lambda: object.__new__(type(thing)), "init": lambda: type(thing).__init__(thing),
        "class": lambda: setattr(thing, "__class__", int), "type attribute": lambda: type(thing).no_such,
        "exit": lambda: type(thing).__exit__(thing, other, other, other), "array": lambda: np.asarray(thing) is None,
    }  # fmt: skip
    name = rng.choice(sorted(asks))
    # A dataclass that is initialised again is as new.
    moves = dataclasses.is_dataclass(thing) and name == "init"
    moves = moves or (isinstance(thing, _core.LeafIterator | _core.ImageLeaves) and name in ("in", "array"))
    if moves or (isinstance(thing, s2pt.Stage2) and name == "exit"):
        name = "repr"
    # KeyError and IndexError: what containers say. PicklingError: what pickle says.
    also = (AttributeError, LookupError, pickle.PicklingError)
    return (name, *call(asks[name], [], {}, also))


# ------------------------------------------------------------------------------------------------- sequences of calls


class Count:
    """Calls by target and outcome."""

    def __init__(self) -> None:
        self.of: collections.Counter[tuple[str, str]] = collections.Counter()

    def add(self, name: str, outcome: str) -> None:
        self.of[name, outcome] += 1

    def by_outcome(self) -> dict[str, int]:
        return {outcome: sum(n for (_, o), n in self.of.items() if o == outcome) for outcome in OUTCOMES}

    def table(self) -> str:
        """Write a row for each class and for the functions, a column for each outcome."""
        groups: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for (name, outcome), number in self.of.items():
            groups[name.split(":")[0]][outcome] += number
        lines = [f"{'':<34}{'answered':>10}{'s2pt error':>12}{'TypeError..':>12}{'argument':>10}"]
        for group in sorted(groups):
            numbers = [groups[group][outcome] for outcome in OUTCOMES]
            lines.append(f"{group:<34}{numbers[0]:>10,}{numbers[1]:>12,}{numbers[2]:>12,}{numbers[3]:>10,}")
        numbers = list(self.by_outcome().values())
        lines.append(f"{'all':<34}{numbers[0]:>10,}{numbers[1]:>12,}{numbers[2]:>12,}{numbers[3]:>10,}")
        return "\n".join([*lines, f"{sum(numbers):,} calls"])


# Where any object with the value of an integer, a text or an array counts as that. Parts written in Python
# take theirs as they are given.
NATIVE = (
    "s2pt._core.",
    "s2pt.Stage2",
    "s2pt.vm.Vm.",
    "s2pt.image.Image",
    "s2pt._numbers.",
    "s2pt.Machine.",
    "s2pt.Cpu.",
)


# What takes seconds by default.
ALWAYS = {"s2pt.lab.predict.predict": ("policies", "passes", "draws")}


def arguments(rng: random.Random, target: Target, table: Any) -> tuple[list[Arg], dict[str, Arg]]:
    """Mostly right arguments of which a few are not; now and then too many, too few, or unknown ones."""
    positional: list[Arg] = []
    keywords: dict[str, Arg] = {}
    malice = rng.choice((0.0, 0.15, 0.3, 0.3, 0.6, 1.0))
    wanted = list(target.parameters)
    if len(wanted) > 4:  # options: a few at a time
        always = ALWAYS.get(target.name, ())
        wanted = [p for number, p in enumerate(wanted) if number < 3 or p in always or rng.randrange(4) == 0]
    by_position = True
    for number, name in enumerate(wanted):
        pick = BY_TARGET.get(f"{target.name}({name})", PARAMETERS[name])
        if rng.random() < malice:
            value = hostile(rng, table)
        else:
            may_hide = target.name.startswith(NATIVE) and name != "timeout_s" and rng.randrange(3) == 0
            value = disguise(rng, pick(rng)) if may_hide else same(pick(rng))
        by_position = by_position and name == target.parameters[number] and (number < 3 or name not in target.keywords)
        if name in target.keywords and (not by_position or rng.randrange(4) == 0):
            by_position = False
            keywords[name] = value
        else:
            positional.append(value)
    slip = rng.randrange(40)
    if slip == 0:
        positional.append(hostile(rng, table))
    elif slip == 1 and positional:
        positional.pop()
    elif slip == 2:
        keywords["no_such"] = hostile(rng, table)
    return positional, keywords


# Documented to have done a part of the work when they are refused: `index` of the exception says how much.
PARTIAL = ("map_many", "unmap_many", "touch")


class Sequence:
    """Calls on one object, and the same with undisguised arguments on its twin."""

    def __init__(self, rng: random.Random, group: str, targets: list[Target], count: Count) -> None:
        self.rng, self.group, self.targets, self.count = rng, group, targets, count
        make = rng.choice(RECEIVERS[group]) if group in RECEIVERS else None
        self.one, self.two = (make(), make()) if make else (None, None)
        self.said: list[str] = []

    def run(self, calls: int) -> None:
        try:
            for _ in range(calls):
                if self.one is not None and self.rng.randrange(10) == 0:
                    other = hostile(self.rng, None).value
                    self.said.append(f"universal {shown(same(other))}")
                    name, outcome, _ = _universal(self.rng, self.one, other)
                    self.said[-1] += f" {name}"
                    self.count.add(f"{self.group}:{name}", outcome)
                elif not self.once(self.rng.choice(self.targets)):
                    return
            sound(self.one)
            sound(self.two)
        except BaseException as error:
            # Hypothesis ends a try by exceptions of its own.
            panicked = type(error).__name__ == "PanicException"
            if not (panicked or isinstance(error, (Exception, *OWN))):
                raise
            raise Defect(f"{type(error).__name__}: {error}\nafter:\n" + "\n".join(self.said)) from error

    def once(self, target: Target) -> bool:
        """Make one call; whether the objects can be used for another."""
        positional, keywords = arguments(
            self.rng, target, self.one if isinstance(self.one, s2pt.Stage2 | _core.Vm) else None
        )
        values = [*positional, *keywords.values()]
        named = [f"{name}={shown(value)}" for name, value in keywords.items()]
        self.said.append(f"{target.name}({', '.join([*map(shown, positional), *named])})")
        acts = any(value.acts for value in values)
        before = state(self.one) if not acts else None
        also: tuple[type[Exception], ...] = ()
        if "path" in target.parameters or target.name == "s2pt.image.diff":
            also = (OSError,)
        elif target.attribute == "__getitem__" and not isinstance(self.one, s2pt.Stage2):
            also = (KeyError,)
        plain = [a.plain for a in positional], {k: a.plain for k, a in keywords.items()}
        outcome, answer = call(
            self.bind(target, self.one), [a.value for a in positional], {k: a.value for k, a in keywords.items()}, also
        )
        self.count.add(f"{self.group or 'functions'}:{target.attribute or target.name}", outcome)
        if target.attribute == "poke" and outcome == ANSWERED:
            return False  # past the protocol: whoever waits for what it wrote waits for ever
        if acts:
            sound(self.one)
            return False
        if outcome != ANSWERED and not self.may_be_partial(target, answer) and state(self.one) != before:
            raise Defect(f"{target.name} was refused ({answer!r}) and changed something")
        timed = type(self.one).__name__.endswith("Job")
        if timed:
            return True
        if self.two is not None or any(value.disguised for value in values):
            again, twin = call(self.bind(target, self.two), *plain, also)
            self.count.add(f"{self.group or 'functions'}:{target.attribute or target.name}", again)
            self.compare(target, (outcome, answer), (again, twin))
        return not (isinstance(self.one, s2pt.Stage2) and self.one.closed and self.rng.randrange(4))

    def bind(self, target: Target, thing: Any) -> Callable[..., Any]:
        if target.owner is None:
            return target.function
        if target.is_property:
            return lambda *args, **keywords: getattr(thing, target.attribute)
        return getattr(thing, target.attribute)

    def may_be_partial(self, target: Target, error: Any) -> bool:
        if target.attribute in PARTIAL and (getattr(error, "index", None) or 0) > 0:
            return True
        # With KVM's habits an operation that runs out of frames, or meets what it leaves alone, ends part way.
        kvm = isinstance(self.one, s2pt.Stage2) and not self.one.closed and self.one.geometry.blocks == Blocks.KVM
        return kvm and isinstance(error, s2pt.OutOfFramesError | s2pt.Again)

    def compare(self, target: Target, one: tuple[str, Any], two: tuple[str, Any]) -> None:
        """Check that a disguised argument gets what the plain one gets."""
        if one[0] != two[0] or (one[0] != ANSWERED and type(one[1]) is not type(two[1])):
            raise Defect(f"{target.name}: {one!r}, and with plain arguments {two!r}")
        # A new object is what it was given.
        incomparable = isinstance(target.function, type)
        if one[0] == ANSWERED and not incomparable and normal(one[1]) != normal(two[1]):
            raise Defect(f"{target.name}: {one[1]!r}, and with plain arguments {two[1]!r}")
        if self.two is not None and state(self.one) != state(self.two):
            raise Defect(f"{target.name} left two tables that differ")


def shown(arg: Arg) -> str:
    value = arg.value
    if issubclass(type(value), np.ndarray):
        return f"{type(value).__name__}({value.dtype}, {value.shape}, {value.strides})"
    if type(value) is int and abs(value) > 1 << 130:
        return "huge"
    try:
        return f"{repr(value)[:60]}"
    except BaseException as error:
        return f"<{type(value).__name__}: {type(error).__name__}>"


@functools.cache
def groups() -> dict[str, list[Target]]:
    """Give the targets by the class whose objects have them; functions and constructors under an empty name."""
    found: dict[str, list[Target]] = collections.defaultdict(list)
    for target in surface():
        found[_class_of(target)].append(target)
    return dict(found)


# How often each class is tried: tables and VMs have most to lose.
WEIGHTS = {"s2pt.Stage2": 30, "s2pt.vm.Vm": 14, "": 20, "s2pt._core.Vm": 3, "s2pt.image.Image": 6}


def search(rng: random.Random, sequences: int, calls: int, count: Count) -> None:
    """Run so many sequences of calls."""
    by_class = groups()
    names = sorted(by_class)
    weights = [WEIGHTS.get(name, 1) for name in names]
    for _ in range(sequences):
        name = rng.choices(names, weights)[0]
        Sequence(rng, name, by_class[name], count).run(calls)
