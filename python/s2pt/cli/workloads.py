"""``s2pt access-tracking``, ``page-table``, ``demand-paging`` and ``memslot``: KVM's other tests, under each policy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Annotated, Literal, TypeVar, get_args

import typer

from s2pt.cli import costs
from s2pt.cli.common import parse_list, parse_time, refuse, seconds
from s2pt.cli.experiments import policy_of, print_steps, print_times, run_all, said
from s2pt.cli.options import Overlap
from s2pt.cli.shared import Shared, experiment
from s2pt.workloads import (
    AccessTracking,
    DemandPaging,
    DemandPagingReport,
    Memslots,
    MemslotsReport,
    PageTable,
    PageTableReport,
    Report,
)
from s2pt.workloads.common import Experiment
from s2pt.workloads.memslots import SlotTest

__all__ = ["access_tracking", "demand_paging", "memslot", "page_table"]

N = TypeVar("N", bound=str)

SupplyName = Literal["kernel", "missing", "minor"]
SUPPLIES: tuple[SupplyName, ...] = get_args(SupplyName)
TESTS: tuple[SlotTest, ...] = get_args(SlotTest)


def _one_of(names: Sequence[N], text: str) -> N:
    found = next((name for name in names if name == text.lower()), None)
    if found is None:
        raise refuse(f"{text!r} is not one of {', '.join(names)}")
    return found


@experiment()
def access_tracking(
    shared: Shared,
    overlap: Overlap = False,
    hardware_af: Annotated[bool, typer.Option("--hardware-af", help="Hardware sets the access flag.")] = False,
) -> int:
    """Measure what it costs to ask which memory a guest uses: mark pages idle, access them again.

    Options mean what they mean in KVM's access_tracking_perf_test.
    """
    shared.check_overlap(overlap)
    common = shared.common()
    every = [
        AccessTracking(vcpus=count, policy=one, hardware_af=hardware_af, overlap=overlap, **common)
        for count, one in product(shared.counts, shared.policies)
    ]

    def tell(_: Experiment[Report], report: Report) -> None:
        print_steps(report)
        young = [f"{phase.found:,}" for phase in report.phases if phase.found is not None]
        if young:
            print(f"Leaves that were young when asked: {', then '.join(young)}")

    return run_all("access-tracking", every, tell, shared)


@experiment(whole=True)
def page_table(
    shared: Shared,
) -> int:
    """Measure how mappings are made, broken up under logging, and made again by all vCPUs on the same memory.

    Options mean what they mean in KVM's kvm_page_table_test. Ends with 1 if a block
    was not made again.
    """
    common = shared.common()
    every = [PageTable(vcpus=count, policy=one, **common) for count, one in product(shared.counts, shared.policies)]

    def tell(_: Experiment[PageTableReport], report: PageTableReport) -> None:
        print_steps(report)
        print(f"Mapped at the end: {report.blocks:,} whole pages of the host, {report.pages:,} parts")

    def bad(report: PageTableReport) -> bool:
        return report.complete and report.pages > 0

    return run_all("page-table", every, tell, shared, whose="that all vCPUs share", bad=bad)


@experiment(bytes_="256MiB")
def demand_paging(
    shared: Shared,
    overlap: Overlap = False,
    supply: Annotated[
        str, typer.Option("-u", "--uffd", metavar="MODE", help="kernel, missing, minor: who has the pages.")
    ] = "kernel",
    one_queue: Annotated[bool, typer.Option("-a", "--all", help="One queue of requests for all vCPUs.")] = False,
    readers: Annotated[int, typer.Option("-r", "--readers", min=1, max=64, help="Suppliers at each queue.")] = 1,
    delay: Annotated[
        str, typer.Option("-d", "--delay", metavar="COST", help="What a supplier takes before he gives a page.")
    ] = "0ns",
) -> int:
    """Measure how fast a guest gets its memory, page by page, from the kernel or from suppliers. The bytes are real.

    Options mean what they mean in KVM's demand_paging_test. Ends with 1 if a byte was wrong at the end.
    """
    shared.check_overlap(overlap)
    common = shared.common(beside=delay)
    every = [
        DemandPaging(
            vcpus=count,
            policy=one,
            overlap=overlap,
            supply=_one_of(SUPPLIES, supply),
            one_queue=one_queue,
            readers=readers,
            delay=costs.cost(delay, spin=shared.spin),
            **common,
        )
        for count, one in product(shared.counts, shared.policies)
    ]

    def tell(_: Experiment[DemandPagingReport], report: DemandPagingReport) -> None:
        print_steps(report)
        if report.written:
            print(f"Per-vcpu demand paging rate: {report.rate_per_vcpu:f} pgs/sec/vcpu")
            print(f"Overall demand paging rate:  {report.rate:f} pgs/sec")
        wrong = "" if report.wrong_pages is None else f", wrong pages: {report.wrong_pages:,}"
        print(f"Pages of the host supplied: {report.supplied:,}, there already: {report.existed:,}{wrong}")

    def bad(report: DemandPagingReport) -> bool:
        return bool(report.wrong_pages)

    return run_all("demand-paging", every, tell, shared, bad=bad)


@experiment(bytes_="32MiB", slots=8)
def memslot(
    shared: Shared,
    test: Annotated[
        list[str],
        typer.Option("-t", "--test", metavar="TEST[,TEST..]", help="What is done; one run each."),
    ] = list(TESTS),  # noqa: B006 - typer copies it
    time: Annotated[str, typer.Option("-l", "--time", metavar="TIME", help="How long each test goes on.")] = "5s",
    iterations: Annotated[
        int | None, typer.Option("-n", "--iterations", min=1, help="How often, instead of how long.")
    ] = None,
) -> int:
    """Measure how memory and slots come and go under a running guest. The bytes are real.

    The tests are those of KVM's memslot_perf_test. Ends with 1 if a word was wrong.
    """
    common = shared.common()
    limit = parse_time(time)
    every = [
        Memslots(vcpus=count, policy=one, test=name, time_s=limit / 1e9, iterations=iterations, **common)
        for name in parse_list(test, lambda text: _one_of(TESTS, text))
        for count, one in product(shared.counts, shared.policies)
    ]

    def tell(run: Experiment[MemslotsReport], report: MemslotsReport) -> None:
        assert isinstance(run, Memslots)
        often = f"{iterations} times" if iterations else f"for {seconds(limit)}"
        print(f"Testing {run.test} performance, {often}")
        print(f"Test took {seconds(report.setup_ns)} for slot setup + {seconds(report.turns_ns)} all iterations")
        print(f"Done {report.iterations:,} iterations, avg {seconds(round(report.ns_per_iteration))} each")
        more = [part for phase in report.phases if phase.phase == "turns" for part in said(phase)]
        more += [f"{report.taken_back:,} bytes taken back"] if report.taken_back else []
        print("; ".join([*more, f"wrong words: {report.wrong_words:,}"]))

    def tables(runs: Sequence[tuple[Experiment[MemslotsReport], MemslotsReport]]) -> None:
        times: dict[str, dict[tuple[str, int], float]] = {}
        for run, report in runs:
            assert isinstance(run, Memslots)
            if report.iterations:
                row = times.setdefault(run.test, {})
                row[policy_of(run), report.vcpus] = report.ns_per_iteration
        print_times("Seconds an iteration by test, vCPU count and policy", "test", list(times.items()), runs)

    def bad(report: MemslotsReport) -> bool:
        return report.wrong_words > 0

    return run_all("memslot", every, tell, shared, tables=tables, bad=bad)
