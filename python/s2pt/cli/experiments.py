"""How experiments are run from the command line: each told in the words of KVM's tests, then a table of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from rich import box
from rich.table import Table

from s2pt._steps import Report, Step
from s2pt.cli import pictures
from s2pt.cli.common import TLBIS, UntilInterrupted, console, print_json, seconds, watch
from s2pt.cli.shared import Shared
from s2pt.costs import Costs
from s2pt.types import Policy, format_size
from s2pt.workloads.common import Experiment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["policy_of", "print_steps", "print_times", "run_all", "said"]

R = TypeVar("R", bound=Report)

TITLES = {
    "populate": "Populating memory",
    "write": "Writing to populated memory",
    "read": "Reading from populated memory",
    "mark idle 1": "Mark memory idle",
    "write idle": "Writing to idle memory",
    "mark idle 2": "Mark memory idle",
    "read idle": "Reading from idle memory",
    "create": "KVM_CREATE_MAPPINGS",
    "log": "Logging on",
    "update": "KVM_UPDATE_MAPPINGS",
    "end log": "Logging off",
    "adjust": "KVM_ADJUST_MAPPINGS",
    "prefault": "Prefaulting",
    "guest": "Total guest execution time",
}
"""The steps in the words of the tests."""


def policy_of(experiment: Experiment[R]) -> str:
    """Give the name of its policy."""
    return Policy(experiment.policy).value


def run_all(
    command: str,
    every: Sequence[Experiment[R]],
    tell: Callable[[Experiment[R], R], None],
    shared: Shared,
    *,
    whose: str = "per vCPU",
    tables: Callable[[Sequence[tuple[Experiment[R], R]]], None] | None = None,
    bad: Callable[[R], bool] = lambda report: False,
) -> int:
    """Run experiments one after the other; print each, and a table of all. Or one JSON document.

    `tell` prints what is particular about a run, and `tables` another table than that of the steps; `whose` the memory
    is. If a run is `bad` the exit code is 1.
    """
    for experiment in every[1:]:
        experiment.job()  # what is wrong with the options of any is said before the first runs
    jobs = [experiment.job() for experiment in every[:1]]
    runs: list[tuple[Experiment[R], R]] = []
    if not shared.json:
        first = every[0]
        print(f"Guest memory: {format_size(shared.bytes_per_vcpu)} {whose}, backing {shared.backing}")
        if first.costs != Costs():
            print(f"Costs: {first.costs}")
    with UntilInterrupted() as interrupt:
        for experiment in every:
            job = jobs.pop() if jobs else experiment.job()

            def keep(found: dict[str, Any], experiment: Experiment[R] = experiment) -> None:
                report = experiment._report(found)
                runs.append((experiment, report))
                if not shared.json:
                    early = "" if report.complete else ": interrupted"
                    print(f"\nvCPUs {report.vcpus}, policy {policy_of(experiment)}{early}")
                    tell(experiment, report)

            watch(job, f"{experiment.vcpus} vCPUs, {policy_of(experiment)}:", keep)
    interrupt.check(runs)
    if shared.json:
        rows = [{"options": asdict(experiment), **asdict(report)} for experiment, report in runs]
        print_json({"command": command, "complete": not interrupt.seen, "runs": rows})
    else:
        (tables or _print_table)(runs)
    pictures.write(shared.plot, lambda: _draw(runs), shared.html, lambda: _page(command, runs), early=interrupt.seen)
    return interrupt.code(int(any(bad(report) for _, report in runs)))


def _draw(runs: Sequence[tuple[Experiment[R], Report]]) -> Figure:
    from s2pt.lab.plots import steps

    return steps(runs)


def _page(command: str, runs: Sequence[tuple[Experiment[R], Report]]) -> str:
    from s2pt.lab.page import experiments_page

    return experiments_page(f"s2pt {command}", runs)


def print_steps(report: Report) -> None:
    """Print the steps as the tests do, with their faults."""
    for phase in report.phases:
        more = "; ".join(said(phase))
        print(f"{TITLES[phase.phase]:<30}: {seconds(phase.elapsed_ns)}" + (f" ({more})" if more else ""))


def said(phase: Step) -> list[str]:
    """Tell faults, whether they are those of the formula, and maintenance."""
    names = {"translation": "translation", "permission": "permission", "access_flag": "access-flag"}
    faults = [f"{count:,} {names[name]}" for name, count in phase.handled.items() if count]
    vain = sum(phase.faults.values()) - sum(phase.handled.values())
    told = [f"{', '.join(faults)} faults"] if faults else []
    told += [f"{vain:,} in vain"] if vain else []
    if phase.as_expected is False:
        told.append(f"the formula says {phase.expected}")
    tlbis = sum((phase.maintenance or {}).get(name, 0) for name in TLBIS)
    told += [f"{tlbis:,} TLBIs"] if tlbis else []
    return told + ([] if phase.complete else ["cut short"])


def _print_table(runs: Sequence[tuple[Experiment[R], Report]]) -> None:
    times = {
        (TITLES[phase.phase], number, policy_of(experiment), report.vcpus): phase.elapsed_ns
        for experiment, report in runs
        for number, phase in enumerate(report.phases)
        if phase.complete
    }
    rows = list(dict.fromkeys((title, number) for title, number, _, _ in times))
    print_times(
        "Seconds by vCPU count and policy",
        "phase",
        [(title, {key[2:]: ns for key, ns in times.items() if key[1] == number}) for title, number in rows],
        runs,
    )


def print_times(
    title: str,
    head: str,
    rows: Sequence[tuple[str, Mapping[tuple[str, int], float]]],
    runs: Sequence[tuple[Experiment[R], Report]],
) -> None:
    """Print times in nanoseconds by vCPU count, a column for each policy; nothing if there are none."""
    if not rows:
        return
    policies = list(dict.fromkeys(policy_of(experiment) for experiment, _ in runs))
    counts = list(dict.fromkeys(report.vcpus for _, report in runs))
    table = Table(title=f"\n{title}", box=box.SIMPLE, title_justify="left")
    table.add_column(head)
    table.add_column("vCPUs", justify="right")
    for policy in policies:
        table.add_column(policy, justify="right")
    for name, times in rows:
        for count in counts:
            cells = [times.get((policy, count)) for policy in policies]
            shown = ["-" if ns is None else f"{ns / 1e9:.6f}" for ns in cells]
            table.add_row(name if count == counts[0] else "", str(count), *shown, end_section=count == counts[-1])
    console().print(table)
