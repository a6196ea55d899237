"""``s2pt dirty-log``: KVM's dirty_log_perf_test over our tables, under each lock policy."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from s2pt import vm
from s2pt._checks import check_heeded
from s2pt._core import DirtyLogJob
from s2pt._steps import make
from s2pt.cli import pictures
from s2pt.cli.common import TLBIS, UntilInterrupted, console, print_json, seconds, size_option, watch
from s2pt.cli.options import Log, Overlap, log_option
from s2pt.cli.shared import Shared, experiment
from s2pt.costs import Costs
from s2pt.types import format_size
from s2pt.vm import DirtyLogReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["dirty_log"]


@experiment()
def dirty_log(
    shared: Shared,
    iterations: Annotated[int, typer.Option("-i", "--iterations", min=1, help="Dirty and harvest this often.")] = 2,
    overlap: Overlap = False,
    no_manual_protect: Annotated[
        bool, typer.Option("-g", "--no-manual-protect", help="Protect when logging starts and at each get, no clear.")
    ] = False,
    write_percent: Annotated[
        int, typer.Option("-w", "--write-percent", min=0, max=100, help="Accesses in 100 that write, the rest read.")
    ] = 100,
    random: Annotated[bool, typer.Option("-a", "--random", help="Pages in random order, not one by one.")] = False,
    seed: Annotated[
        int, typer.Option("-r", "--random-seed", min=0, max=2**64 - 1, help="vCPU i uses this number plus i.")
    ] = 1,
    log: Log = "lazy",
    eager_chunk: Annotated[
        str, typer.Option("--eager-chunk", metavar="SIZE", help="Bytes split ahead at a time (--log eager).")
    ] = "2MiB",
    ring_entries: Annotated[
        int, typer.Option("--ring-entries", min=16, max=65536, help="Entries of a vCPU's ring (--log ring).")
    ] = 65536,
) -> int:
    """Measure dirty logging: populate, log, dirty, get and clear, per vCPU count and lock policy.

    Options mean what they mean in KVM's dirty_log_perf_test. An interrupt ends the run: what it did until then is told.
    """
    kind = log_option(log)
    check_heeded("no_manual_protect", no_manual_protect, False, kind != "ring", "rings are not cleared by hand")
    shared.check_overlap(overlap)
    options: dict[str, Any] = {
        "bytes_per_vcpu": shared.bytes_per_vcpu,
        "iterations": iterations,
        "backing": shared.backing.value,
        "slots": shared.slots,
        "overlap": overlap,
        "manual_protect": not no_manual_protect,
        "write_percent": write_percent,
        "random": random,
        "seed": seed,
        "log": kind,
        "eager_chunk": vm.eager_chunk(kind, size_option(eager_chunk)),
        "ring_entries": vm.ring_entries(kind, ring_entries, 65536),
        "semantics": shared.semantics.value,
        "costs": shared.costs(),
    }
    runs: list[dict[str, Any]] = []
    wanted = list(product(shared.counts, shared.policies))
    for count, one in wanted:
        DirtyLogJob(vcpus=count, policy=one.value, **options)  # what is wrong with any is said before the first runs
    if not shared.json:
        _print_options(options)
    with UntilInterrupted() as interrupt:
        for count, one in wanted:
            job = DirtyLogJob(vcpus=count, policy=one.value, **options)

            def keep(result: dict[str, Any], policy: str = one.value) -> None:
                runs.append({"policy": policy, **result})
                if not shared.json:
                    _print_run(runs[-1])

            watch(job, f"{count} vCPUs, {one.value}:", keep)
    interrupt.check(runs)
    if shared.json:
        print_json({"command": "dirty-log", "options": _plain(options), "complete": not interrupt.seen, "runs": runs})
    elif any(phase["complete"] for run in runs for phase in run["phases"]):
        _print_table(runs)
    pictures.write(shared.plot, lambda: _draw(runs), shared.html, lambda: _page(runs, options), early=interrupt.seen)
    return interrupt.code()


def _draw(runs: list[dict[str, Any]]) -> Figure:
    from s2pt.lab.plots import times

    return times(_typed(runs))


def _page(runs: list[dict[str, Any]], options: dict[str, Any]) -> str:
    from s2pt.lab.page import dirty_log_page

    return dirty_log_page(_typed(runs), options)


def _typed(runs: list[dict[str, Any]]) -> list[tuple[str, DirtyLogReport]]:
    def typed(*, policy: str, **found: Any) -> tuple[str, DirtyLogReport]:
        return policy, make(DirtyLogReport, found)

    return [typed(**run) for run in runs]


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    plain = asdict(options["costs"])
    return options | {"stall_tlbi_ns": plain["tlbi"]["ns"], "costs": plain}


def _print_options(options: dict[str, Any]) -> None:
    order = "random" if options["random"] else "linear"
    manual = options["manual_protect"] and options["log"] != "ring"
    protect = "manual protect, initially all set" if manual else "no manual protect"
    print(f"Test iterations: {options['iterations']}")
    print(f"Guest memory: {format_size(options['bytes_per_vcpu'])} per vCPU, backing {options['backing']}")
    print(f"Accesses: {options['write_percent']}% writes, {order} order, seed {options['seed']}; {protect}")
    if (options["log"], options["semantics"]) != ("lazy", "exact"):
        print(f"Log: {options['log']}, semantics {options['semantics']}")
    if options["costs"] != Costs():
        print(f"Costs: {options['costs']}")


def phase_title(phase: str) -> str:
    """Give a phase the name that the test prints.

    Examples
    --------
    >>> phase_title("dirty 2"), phase_title("populate")
    ('Iteration 2 dirty memory time', 'Populate memory time')
    """
    name, _, number = phase.partition(" ")
    fixed = {
        "populate": "Populate memory time",
        "enable": "Enabling dirty logging time",
        "disable": "Disabling dirty logging time",
    }
    iterated = {"dirty": "dirty memory time", "get": "get dirty log time", "clear": "clear dirty log time"}
    return fixed[name] if name in fixed else f"Iteration {number} {iterated[name]}"


def _print_run(run: dict[str, Any]) -> None:
    print(f"\nvCPUs {run['vcpus']}, policy {run['policy']}" + ("" if run["complete"] else ": interrupted"))
    for phase in run["phases"]:
        faults, handled = sum(phase["faults"].values()), sum(phase["handled"].values())
        maintenance = phase["maintenance"]
        said = [f"{handled:,} faults"] if faults else []
        said += [f"{faults - handled:,} in vain"] if faults > handled else []
        if phase["expected"] not in (None, phase["handled"]):
            said.append(f"the formula says {phase['expected']}")
        tlbis = sum(maintenance[name] for name in TLBIS) if maintenance else 0
        said += [f"{tlbis:,} TLBIs"] if tlbis else []
        said += [f"{phase['found']:,} dirty pages"] if phase["found"] is not None else []
        said += [] if phase["complete"] else ["cut short"]
        title, time = phase_title(phase["phase"]), seconds(phase["elapsed_ns"])
        print(f"{title}: {time}" + (f" ({', '.join(said)})" if said else ""))
    for name, title in (("get", "Get"), ("clear", "Clear")):
        times = [phase["elapsed_ns"] for phase in run["phases"] if phase["phase"].startswith(name)]
        if times:
            total, average = seconds(sum(times)), seconds(sum(times) // len(times))
            print(f"{title} dirty log over {len(times)} iterations took {total}. (Avg {average}/iteration)")


def _print_table(runs: list[dict[str, Any]]) -> None:
    """Print times by phase and vCPU count, a column for each policy; of the vCPUs' phases also how they grow."""
    policies = list(dict.fromkeys(run["policy"] for run in runs))
    counts = list(dict.fromkeys(run["vcpus"] for run in runs))
    # Phases that were cut short are not to be compared with others.
    times: dict[tuple[str, str, int], int] = {}
    for run in runs:
        for phase in run["phases"]:
            if phase["complete"]:
                times[phase["phase"], run["policy"], run["vcpus"]] = phase["elapsed_ns"]
        if run["complete"]:
            dirty = [phase["elapsed_ns"] for phase in run["phases"] if phase["phase"].startswith("dirty ")]
            times[_ALL_DIRTY, run["policy"], run["vcpus"]] = sum(dirty)

    def cell(phase: str, policy: str, count: int) -> str:
        now, least = times.get((phase, policy, count)), times.get((phase, policy, min(counts)))
        if now is None:
            return "-"
        grown = f"({now / least:.2f}x)" if count != min(counts) and least else ""
        return f"{now / 1e9:.6f}" + (
            f" {grown:>9}" if len(counts) > 1 and not phase.startswith(("get", "clear")) else ""
        )

    table = Table(title="\nSeconds by vCPU count and policy", box=box.SIMPLE, title_justify="left")
    table.add_column("phase")
    table.add_column("vCPUs", justify="right")
    for policy in policies:
        table.add_column(policy)
    timed = [phase["phase"] for phase in runs[0]["phases"] if phase["phase"] not in ("enable", "disable")]
    for phase in [*timed, _ALL_DIRTY]:
        title = phase if phase == _ALL_DIRTY else phase_title(phase).removesuffix(" time")
        for count in counts:
            cells = [cell(phase, policy, count) for policy in policies]
            table.add_row(title if count == counts[0] else "", str(count), *cells, end_section=count == counts[-1])
    console().print(table)


_ALL_DIRTY = "Dirty memory, all iterations"
