"""Measures what the Python face costs, by the call and by the element: `python benches/python.py [--json FILE]`.

pyperf runs every row in worker processes of its own (its options apply: `--fast`, `-p`, `-o`; `--only GLOB` picks
rows). A *call* row times one statement, a for loop's turn (about 8 ns) included. An *element* row times whole calls on
arrays and divides by the elements: at least 10,000 of them in a measured region, in as many calls as that takes. Table
frames are touched before: a map goes where the same pages were mapped and unmapped again. The rows of two threads give
each its own pages, one array each, and divide the time that passes by the elements of both.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyperf

from s2pt import Prot, Stage2, TranslationFault, Vm

PAGE = 4096
BASE = 0x8000_0000
CALL_BUDGET_NS = 300.0
ELEMENT_BUDGET_NS = 50.0  # 20 million a second
SCALING_BUDGET = 1.9
REGION = 10_000
LARGE = 1_000_000

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report, in the unit that it says."""

    id: str
    title: str
    unit: str
    median: float
    min: float
    budget: float | None


@dataclass(frozen=True, slots=True)
class Bench:
    """What one row measures: `time(loops)` gives seconds for so many rounds of `elements` each."""

    id: str
    title: str
    unit: str
    budget: float | None
    elements: int
    time: Callable[[int], float]


# --- one call ---------------------------------------------------------------------------------------------------------


def table() -> Stage2:
    """Make a table with 2 MiB of pages at BASE, readable and writable."""
    s2 = Stage2()
    s2.map(BASE, "2MiB", pa=BASE, largest=3)
    return s2


def machine() -> Vm:
    """Make a VM with 64 MiB of memory at BASE, of which the first 2 MiB are mapped by page."""
    vm = Vm(memory="64MiB", ipa=BASE, backing="pages")
    vm.touch(pages(512), "w")
    return vm


def compiled(loop: str, text: str) -> Callable[..., float]:
    """Make a function of `it` and `times` that times a statement in a loop.

    The statement is compiled in, as timeit does it: a call through a variable would cost what is measured here.
    """
    source = f"def run(it, times):\n start = clock()\n {loop}:\n  {text}\n return clock() - start"
    scope: dict[str, Any] = {"clock": perf_counter, "Prot": Prot, "TranslationFault": TranslationFault}
    exec(source, scope)
    run: Callable[..., float] = scope["run"]
    return run


def repeated(text: str, make: Callable[[], Any]) -> Callable[[int], float]:
    """Time a statement about `it`, which `make` makes; nothing that it does may depend on how often it is done."""
    run = compiled("for _ in range(times)", text)
    return lambda loops: run(make(), loops)


def each_page(text: str, make: Callable[[int], Any]) -> Callable[[int], float]:
    """Time a statement about `it` and `ipa`, page after page; `make` is told how many bytes that is."""
    run = compiled("for ipa in times", text)
    return lambda loops: run(make(loops * PAGE), range(BASE, BASE + loops * PAGE, PAGE))


def mapped_table(size: int) -> Stage2:
    """Make a table with so many bytes mapped by page."""
    s2 = Stage2()
    s2.map(BASE, size, pa=BASE, largest=3)
    return s2


def touched_table(size: int) -> Stage2:
    """Make a table with nothing mapped, whose frames were touched."""
    s2 = mapped_table(size)
    s2.unmap(BASE, size)
    s2.drain()
    return s2


def touched_vm(size: int) -> Vm:
    """Make a VM with nothing mapped, whose table frames were touched."""
    vm = Vm(memory=size, ipa=BASE, backing="pages")
    vm.touch(pages(size // PAGE), "w")
    vm.take_back(BASE, size)
    vm.drain()
    return vm


def calls() -> Iterator[Bench]:
    """Time every hot method by the call."""
    on_stage2 = {
        "root": "it.root",
        "translate": "it.translate(0x80001234)",
        "translate_write": "it.translate(0x80001234, 'w')",
        "lookup": "it.lookup(0x80001234)",
        "contains": "0x80001000 in it",
        "getitem": "it[0x80001000]",
        "test_young": "it.test_young(0x80001000, 4096)",
        "test_and_clear_young": "it.test_and_clear_young(0x80001000, 4096)",
        "mark_young": "it.mark_young(0x80001000, 4096)",
        "relax": "it.relax(0x80001000, 4096, Prot.RW)",
        "protect": "it.protect(0x80001000, 4096, Prot.RW)",
        "write_protect": "it.write_protect(0x80001000, 4096)",
        "map_same": "it.map(0x80001000, 4096, 0x80001000)",
        "map_keywords": "it.map(0x80001000, 4096, pa=0x80001000, prot=Prot.RW, existing='replace')",
        "annotate_same": "it.annotate(0x90000000, 4096, 7)",
    }
    for name, text in on_stage2.items():
        title = f"Stage2: {text.removeprefix('it.')}".replace("it[", "s2[").replace(" in it", " in s2")
        yield Bench(f"call_{name}", title, "ns", CALL_BUDGET_NS, 1, repeated(text, table))

    for name, text, make in (
        ("map_new", "it.map(ipa, 4096, ipa)", touched_table),
        ("unmap", "it.unmap(ipa, 4096)", mapped_table),
    ):
        title = f"Stage2: {text.removeprefix('it.')}, page after page"
        yield Bench(f"call_{name}", title, "ns", CALL_BUDGET_NS, 1, each_page(text, make))
    refused = "\n  try: it.translate(0x90000000)\n  except TranslationFault: pass"
    yield Bench("call_translate_fault", "Stage2: translate that raises", "ns", None, 1, repeated(refused, table))

    on_vm = {
        "vm_translate": "it.translate(0x80001234)",
        "vm_access_mapped": "it.access(0x80001234, 'w')",
        "vm_age": "it.age(0x80001000, 4096)",
        "vm_write_protect": "it.write_protect(0x80001000, 4096)",
    }
    for name, text in on_vm.items():
        yield Bench(f"call_{name}", f"Vm: {text.removeprefix('it.')}", "ns", CALL_BUDGET_NS, 1, repeated(text, machine))
    for name, text in {
        "vm_handle_fault": "it.handle_fault(ipa, 'w', level=3)",
        "vm_handle_fault_no_level": "it.handle_fault(ipa, 'w')",
        "vm_access_fault": "it.access(ipa, 'w')",
    }.items():
        title = f"Vm: {text.removeprefix('it.')}, page after page"
        yield Bench(f"call_{name}", title, "ns", CALL_BUDGET_NS, 1, each_page(text, touched_vm))


# --- elements of arrays -----------------------------------------------------------------------------------------------


def pages(count: int, *, shuffled: bool = False, base: int = BASE) -> Words:
    """List the addresses of `count` pages from `base` on, in order or not."""
    addresses = base + np.arange(count, dtype=np.uint64) * np.uint64(PAGE)
    if shuffled:
        np.random.default_rng(1).shuffle(addresses)
    return addresses


def pieces(words: Words, length: int) -> list[Words]:
    """Cut an array into arrays of `length`."""
    return [words[start : start + length] for start in range(0, len(words), length)]


@dataclass(frozen=True, slots=True)
class Batch:
    """A call on arrays: what it is, what has to be mapped before it and gone after it."""

    name: str
    call: Callable[[Any, Words], object]
    before: Callable[[Any, int], object]
    after: Callable[[Any, int], object]
    budget: float | None
    make: Callable[[int], Any] = lambda size: Stage2()


def nothing(it: Any, size: int) -> None:
    """Leave the table as it is."""


def map_all(s2: Stage2, size: int) -> None:
    """Map everything by page."""
    s2.map(BASE, size, pa=BASE, largest=3)


def unmap_all(s2: Stage2, size: int) -> None:
    """Unmap everything, and get its frames back."""
    s2.unmap(BASE, size)
    s2.drain()


def take_back(vm: Vm, size: int) -> None:
    """Unmap everything."""
    vm.take_back(BASE, size)
    vm.drain()


BATCHES = [
    Batch("map_many", lambda s2, ipa: s2.map_many(ipa, ipa), unmap_all, nothing, ELEMENT_BUDGET_NS),
    Batch("unmap_many", lambda s2, ipa: s2.unmap_many(ipa), map_all, nothing, None),
    Batch("translate_many", lambda s2, ipa: s2.translate_many(ipa), nothing, nothing, ELEMENT_BUDGET_NS),
    Batch("touch", lambda s2, ipa: s2.touch(ipa), nothing, nothing, ELEMENT_BUDGET_NS),
    Batch("vm_touch_fault", lambda vm, ipa: vm.touch(ipa, "w"), take_back, nothing, None, touched_vm),
    Batch("vm_touch_mapped", lambda vm, ipa: vm.touch(ipa, "w"), nothing, nothing, None, touched_vm),
]


def prepared(batch: Batch, size: int) -> Any:
    """Make what the batch is called on, with all of it mapped once."""
    it = batch.make(size)
    if isinstance(it, Stage2):
        map_all(it, size)
    else:
        it.touch(pages(size // PAGE), "w")
    return it


def on_one_thread(batch: Batch, arrays: Sequence[Words], size: int) -> Callable[[int], float]:
    """Time the calls on all arrays, one after the other."""

    def run(loops: int) -> float:
        it, call = prepared(batch, size), batch.call
        spent = 0.0
        for _ in range(loops):
            batch.before(it, size)
            start = perf_counter()
            for array in arrays:
                call(it, array)
            spent += perf_counter() - start
            batch.after(it, size)
        return spent

    return run


def on_threads(batch: Batch, arrays: Sequence[Words], size: int) -> Callable[[int], float]:
    """Time the calls on all arrays at once, a thread for each."""

    def run(loops: int) -> float:
        it = prepared(batch, size)
        spent = 0.0
        gates = [threading.Barrier(len(arrays) + 1) for _ in range(2)]

        def work(array: Words) -> None:
            for _ in range(loops):
                gates[0].wait()
                batch.call(it, array)
                gates[1].wait()

        threads = [threading.Thread(target=work, args=(array,)) for array in arrays]
        for thread in threads:
            thread.start()
        for _ in range(loops):
            batch.before(it, size)
            gates[0].wait()
            start = perf_counter()
            gates[1].wait()
            spent += perf_counter() - start
        for thread in threads:
            thread.join()
        return spent

    return run


def count_name(count: int) -> str:
    """Write 10000 as 10k."""
    return {1: "1", 100: "100", 10_000: "10k", LARGE: "1M"}[count]


def elements() -> Iterator[Bench]:
    """Time every call on arrays by the element."""
    for batch in BATCHES:
        for length in (1, 100, 10_000, LARGE):
            for order in ("sorted", "random"):
                total = max(length, REGION)
                arrays = pieces(pages(total, shuffled=order == "random"), length)
                title = f"{batch.name}, arrays of {count_name(length)}, {order}"
                budget = batch.budget if length >= REGION else None
                time = on_one_thread(batch, arrays, total * PAGE)
                yield Bench(f"{batch.name}_{count_name(length)}_{order}", title, "ns/element", budget, total, time)

    strided = np.repeat(pages(REGION), 2)[::2]
    translate = next(batch for batch in BATCHES if batch.name == "translate_many")
    time = on_one_thread(translate, [strided], REGION * PAGE)
    yield Bench(
        "translate_many_10k_strided",
        "translate_many, every second of 20k",
        "ns/element",
        ELEMENT_BUDGET_NS,
        REGION,
        time,
    )
    for count in (1, 100, 10_000, LARGE):
        yield Bench(
            f"leaves_array_{count_name(count)}",
            f"leaves_array, {count_name(count)} leaves",
            "ns/leaf",
            None,
            count,
            leaves(count),
        )
    yield Bench("leaves_10k", "for leaf in s2.leaves(), 10k leaves", "ns/leaf", None, REGION, iterate)
    yield Bench("dirty_log_1M", "Vm.dirty_log of 1M pages, all dirty", "ns/word", None, LARGE // 64, dirty_log)


def leaves(count: int) -> Callable[[int], float]:
    """Time `leaves_array` on so many pages."""

    def run(loops: int) -> float:
        s2 = Stage2()
        s2.map(BASE, count * PAGE, pa=BASE, largest=3)
        start = perf_counter()
        for _ in range(loops):
            s2.leaves_array()
        return perf_counter() - start

    return run


def iterate(loops: int) -> float:
    """Time the iterator over leaves."""
    s2 = Stage2()
    s2.map(BASE, REGION * PAGE, pa=BASE, largest=3)
    start = perf_counter()
    for _ in range(loops):
        for _leaf in s2.leaves():
            pass
    return perf_counter() - start


def dirty_log(loops: int) -> float:
    """Time fetching a bitmap (its clearing is not in it: manual protection)."""
    vm = Vm(memory=LARGE * PAGE, ipa=BASE)
    vm.enable_dirty_log(0, "manual")
    vm.touch(pages(LARGE), "w")
    start = perf_counter()
    for _ in range(loops):
        vm.dirty_log(0)
    return perf_counter() - start


THREADED = ["map_many", "unmap_many", "translate_many", "touch", "vm_touch_fault"]


def threads() -> Iterator[Bench]:
    """Time calls on arrays by one thread and by two, each with a million pages of its own."""
    for batch in BATCHES:
        if batch.name not in THREADED:
            continue
        for count in (1, 2):
            arrays = pieces(pages(count * LARGE), LARGE)
            title = f"{batch.name}, 1M sorted a thread, {count} thread{'s' * (count > 1)}"
            time = on_threads(batch, arrays, count * LARGE * PAGE)
            yield Bench(f"{batch.name}_{count}_threads", title, "ns/element", None, count * LARGE, time)


# --- the report -------------------------------------------------------------------------------------------------------


def ratios(rows: dict[str, Row]) -> Iterator[Row]:
    """Say how many times as fast two threads are as one."""
    for name in THREADED:
        one, two = rows.get(f"{name}_1_threads"), rows.get(f"{name}_2_threads")
        if one and two:
            title = f"{name}: two threads against one (at least)"
            yield Row(f"{name}_scaling", title, "x", one.median / two.median, one.min / two.min, SCALING_BUDGET)


def verdict(row: Row) -> str:
    """Say in a word how a row stands to its budget: an upper bound, for a ratio a lower one."""
    if row.budget is None:
        return ""
    good = row.median >= row.budget if row.unit == "x" else row.median <= row.budget
    return "kept" if good else "MISSED"


def show(rows: Sequence[Row]) -> str:
    """Lay the rows out for a terminal."""
    lines = [f"{'':52} {'median':>9} {'min':>9} {'budget':>7}"]
    for row in rows:
        budget = "" if row.budget is None else f"{row.budget:g}"
        line = f"{row.title[:52]:52} {row.median:9.3g} {row.min:9.3g} {budget:>7} {row.unit:10} {verdict(row)}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def main() -> None:
    """Run what the arguments ask for."""

    def pass_on(command: list[str], arguments: argparse.Namespace) -> None:
        for pattern in arguments.only or ():
            command.extend(("--only", pattern))

    runner = pyperf.Runner(processes=5, values=3, add_cmdline_args=pass_on)
    runner.argparser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    runner.argparser.add_argument(
        "--only", action="append", metavar="GLOB", help="only rows whose id matches; may be repeated"
    )
    arguments = runner.parse_args()

    rows: dict[str, Row] = {}
    for bench in [*calls(), *elements(), *threads()]:
        if arguments.only and not any(fnmatch.fnmatch(bench.id, pattern) for pattern in arguments.only):
            continue
        measured = runner.bench_time_func(bench.id, bench.time, inner_loops=bench.elements)
        if measured is None or arguments.worker:
            continue
        values = [1e9 * value for value in measured.get_values()]
        rows[bench.id] = Row(bench.id, bench.title, bench.unit, statistics.median(values), min(values), bench.budget)
    if arguments.worker:
        return
    for ratio in ratios(dict(rows)):
        rows[ratio.id] = ratio
    print(show(list(rows.values())))
    if arguments.json:
        listed = [{name: getattr(row, name) for name in Row.__slots__} for row in rows.values()]
        arguments.json.write_text(json.dumps({"rows": listed}, indent=2) + "\n")


if __name__ == "__main__":
    main()
