"""``s2pt replay``: what a real guest did, done again to our table, and compared with the tables that KVM had."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from s2pt._checks import check_heeded
from s2pt.cli import costs
from s2pt.cli.common import TLBIS, UntilInterrupted, parse_policies, print_json, refuse, watch
from s2pt.trace import Kind, Outcome, Replay, ReplayReport, Trace, read
from s2pt.trace.compare import Cause, Comparison, Difference, LevelDifference
from s2pt.trace.replay import check_sizes
from s2pt.types import Prot, Semantics, format_size

__all__ = ["replay"]

SHOWN = 20


class Order(StrEnum):
    """In which order the events are done."""

    RECORDED = "recorded"
    THREADS = "threads"
    FREE = "free"


class Sizes(StrEnum):
    """Who decides how large a mapping is."""

    TRACE = "trace"
    RECORDED = "recorded"


def replay(
    trace: Annotated[
        Path,
        typer.Argument(metavar="TRACE", help="TAG.txt[.xz], its files beside it; or a snapshot that carries a trace."),
    ],
    order: Annotated[
        Order, typer.Option("--order", help="recorded: one event after the other; threads, free: see below.")
    ] = Order.RECORDED,
    threads: Annotated[
        bool, typer.Option("--threads", help="One thread per recorded vCPU; host events are barriers.")
    ] = False,
    free: Annotated[
        bool, typer.Option("--free", help="No barriers either: a stress run; only invariants are checked afterwards.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option("-j", "--jobs", min=1, max=4096, help="So many threads, instead of one per vCPU.")
    ] = None,
    sizes: Annotated[
        Sizes | None,
        typer.Option("--sizes", help="trace: decide as KVM does; recorded: as recorded, if it was (then the default)."),
    ] = None,
    policy: Annotated[
        list[str], typer.Option("--policy", metavar="POLICY[,POLICY..]", help="serial, parallel, lockless.")
    ] = ["lockless"],  # noqa: B006 - typer copies it
    semantics: Annotated[
        Semantics,
        typer.Option(
            "--semantics", help="exact: our own, a split keeps the rest of a block; kvm: the rest faults again."
        ),
    ] = Semantics.EXACT,
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="So many times, a new table each time.")] = 1,
    stall_tlbi: costs.Tlbi = "0ns",
    allow_lost: Annotated[bool, typer.Option("--allow-lost", help="Accept a trace that lost events.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit code 1 if a difference has no known cause.")] = False,
    differences: Annotated[
        int, typer.Option("--differences", min=0, help="Print so many ranges of explained differences; 0: all.")
    ] = SHOWN,
    json_: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> int:
    """Replay a recorded guest on our table and compare at each dump.

    A difference is printed with its cause where that is known: our split keeps pages that KVM drops, for one. An
    interrupt ends the replay: what it did up to there is told.
    """
    order = _order(order, threads, free, jobs)
    check_heeded("--differences", differences, SHOWN, not json_, "--json prints all of them")
    policies = parse_policies(policy)
    stall = costs.read(tlbi=stall_tlbi).tlbi
    check_sizes(None if sizes is None else sizes.value, order.value, semantics)  # before the trace is read
    recorded = read(trace, allow_lost=allow_lost)
    replayed = Replay(
        recorded,
        order=cast(Any, order.value),
        sizes=None if sizes is None else cast(Any, sizes.value),
        semantics=semantics,
        threads=jobs,
        tlbi=stall,
    )
    replayed.chosen_sizes()  # refused before anything is printed
    if not json_:
        _print_trace(recorded)
    runs: list[dict[str, Any]] = []
    with UntilInterrupted() as interrupt:
        for number, one in product(range(1, repeat + 1), policies):
            options = replace(replayed, policy=one)

            def keep(result: dict[str, Any], options: Replay = options, number: int = number) -> None:
                runs.append(_fields(options.report(result)) | {"repeat": number})
                if not json_:
                    _print_run(runs[-1], recorded, differences)

            watch(options.job(), f"{recorded.name}, {one.value}:", keep)
    interrupt.check(runs)
    if json_:
        about = {"command": "replay", "trace": _about(recorded), "complete": not interrupt.seen}
        print_json({**about, "runs": [_plain(run) for run in runs]})
    unexplained = sum(run["unexplained"] for run in runs)
    return interrupt.code(1 if check and unexplained else 0)


def _fields(report: ReplayReport) -> dict[str, Any]:
    found = {field.name: getattr(report, field.name) for field in fields(report)}
    return found | {"unexplained": report.unexplained}


def _order(order: Order, threads: bool, free: bool, jobs: int | None) -> Order:
    wanted = Order.FREE if free else Order.THREADS if threads or (jobs and order is Order.RECORDED) else order
    if order in (Order.RECORDED, wanted) or (free and order is Order.THREADS):
        return wanted
    raise refuse(f"--order {order.value} and --{wanted.value} contradict each other")


# --- text ------------------------------------------------------------------------------------------------------------


def _print_trace(trace: Trace) -> None:
    kernel = ".".join(map(str, trace.kernel))
    span = (int(trace.events["time_us"][-1]) - int(trace.events["time_us"][0])) / 1e6 if len(trace.events) else 0
    print(f"{trace.name}: kernel {kernel}, {trace.vcpus} vCPUs, {len(trace.faults):,} faults in {span:.1f} s")
    print("recorded: " + "; ".join(f"{name} {count:,}" for name, count in trace.outcomes().items()))
    for note in trace.notes:
        print(f"note: {note}")


def _print_run(run: dict[str, Any], trace: Trace, shown: int) -> None:
    elapsed = run["elapsed_ns"] / 1e9
    rate = run["faults"] / elapsed if elapsed else 0
    threads = f", {run['threads']} threads" if run["order"] != "recorded" else ""
    print(
        f"\npolicy {run['policy']}, order {run['order']}{threads}, sizes {run['sizes']}, semantics {run['semantics']}"
        + ("" if run["complete"] else ": interrupted")
    )
    print(f"  {run['faults']:,} faults in {elapsed:.3f} s, {rate:,.0f} per second")
    print(f"  by kind: {_counts(run['fault_kinds'])}")
    print(f"  by outcome: {_counts(run['outcomes'])}")
    print(f"  MMIO {run['mmio']:,}, left to the guest as KVM did {run['skipped']:,}, retries {_retries(run):,}")
    host = Counter(trace.events["kind"].tolist())
    taken = f"{host[Kind.UNMAP]:,} ranges taken back ({format_size(run['taken_back'])})"
    print(f"  host: {taken}, {host[Kind.AGE]:,} aged, {host[Kind.WRPROTECT]:,} write-protected, ", end="")
    print(f"{host[Kind.SPLIT]:,} split, {host[Kind.SLOT]:,} slot changes")
    if run["maintenance"]:
        tlbis = sum(run["maintenance"][name] for name in TLBIS)
        print(f"  TLBIs {tlbis:,}; all maintenance: {_counts(run['maintenance'])}")
    stats = run["stats"]
    print(f"  table frames {run['frames']:,}; entries locked {stats['locked']}, frozen {stats['frozen']}")
    if run["order"] == "recorded":
        _print_levels(run)
    for difference in run["exit_differences"][:shown]:
        row, ipa, ours = difference
        print(f"  exit differs: event {row}, ipa {ipa:#x}: {'ours only' if ours else 'recorded only'}")
    for comparison in run["dumps"]:
        _print_dump(comparison, shown)


def _retries(run: dict[str, Any]) -> int:
    return sum(count for name, count in run["outcomes"].items() if name.startswith("again"))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count) or "none"


def _print_levels(run: dict[str, Any]) -> None:
    levels: tuple[LevelDifference, ...] = run["levels"]
    agree = run["levels_checked"] - len(levels)
    print(f"  levels: {agree:,} agree with the syndrome, {len(levels):,} differ, {run['levels_skipped']:,} of stage 1")
    for level in levels[:SHOWN]:
        where = f"event {level.row}, ipa {level.ipa:#x}"
        print(f"    {where}: syndrome level {level.theirs}, our walk ends at level {level.ours} ({level.cause.value})")
    _more(len(levels), SHOWN)


def _print_dump(comparison: Comparison, shown: int) -> None:
    count = len(comparison.differences)
    print(f"  dump {comparison.name}: {comparison.theirs:,} leaves, ours {comparison.ours:,}, ", end="")
    print(f"{comparison.same:,} equal, {count:,} differences")
    for name, causes in _by_what(comparison).items():
        print(f"    {name}: " + ", ".join(f"{number:,} {cause}" for cause, number in causes.items()))
    ranges = _ranges(comparison.differences)
    known = [one for one in ranges if one[0].cause is not Cause.UNKNOWN]
    for one in [one for one in ranges if one[0].cause is Cause.UNKNOWN] + known[: shown or None]:
        print(f"      {_difference(one)}")
    _more(len(known), shown)


def _ranges(differences: list[Difference]) -> list[list[Difference]]:
    """Join neighbours that differ in the same way for the same cause."""
    ranges: list[list[Difference]] = []
    ends = (0, "", Cause.UNKNOWN)
    for one in differences:
        leaf = one.ours or one.theirs
        if ranges and (one.ipa, one.what, one.cause) == ends:
            ranges[-1].append(one)
        else:
            ranges.append([one])
        ends = (one.ipa + (leaf[0] if leaf else 0), one.what, one.cause)
    return ranges


def _by_what(comparison: Comparison) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for difference in comparison.differences:
        causes = found.setdefault(difference.what, {})
        causes[difference.cause.value] = causes.get(difference.cause.value, 0) + 1
    return found


def _more(count: int, shown: int) -> None:
    if 0 < shown < count:
        print(f"      ... and {count - shown:,} more (--differences 0 prints all)")


def _difference(run: list[Difference]) -> str:
    def leaf(values: tuple[int, int, int, int] | None) -> str:
        if values is None:
            return "none"
        size, pa, prot, af = values
        return f"{format_size(size)} at {pa:#x} {Prot(prot)!s}{'' if af else ' old'}"

    first = run[0]
    count = f"{len(run):,} leaves from " if len(run) > 1 else ""
    leaves = f"theirs {leaf(first.theirs)}, ours {leaf(first.ours)}"
    return f"{count}{first.ipa:#x} {first.what}: {leaves} ({first.cause.value})"


# --- JSON ------------------------------------------------------------------------------------------------------------


def _about(trace: Trace) -> dict[str, Any]:
    return {
        "name": trace.name,
        "kernel": list(trace.kernel),
        "vcpus": trace.vcpus,
        "faults": len(trace.faults),
        "mmio": int((trace.of_kind(Kind.HANDLED)["outcome"] == Outcome.MMIO).sum()),
        "outcomes": trace.outcomes(),
        "dumps": [dump.name for dump in trace.dumps],
        "notes": list(trace.notes),
    }


def _plain(run: dict[str, Any]) -> dict[str, Any]:
    """Turn the values of a run into plain ones."""
    elapsed = run["elapsed_ns"] / 1e9
    dumps = [
        {
            "name": one.name,
            "theirs": one.theirs,
            "ours": one.ours,
            "same": one.same,
            "counts": one.counts(),
            "causes": one.causes(),
            "differences": [
                {"ipa": d.ipa, "what": d.what, "ours": d.ours, "theirs": d.theirs, "cause": d.cause.value}
                for d in one.differences
            ],
        }
        for one in run["dumps"]
    ]
    levels = {
        "agree": run["levels_checked"] - len(run["levels"]),
        "differ": len(run["levels"]),
        "stage1": run["levels_skipped"],
        "differing": [
            {"row": one.row, "ipa": one.ipa, "theirs": one.theirs, "ours": one.ours, "cause": one.cause.value}
            for one in run["levels"]
        ],
    }
    rate = run["faults"] / elapsed if elapsed else None
    return {**run, "faults_per_second": rate, "retries": _retries(run), "dumps": dumps, "levels": levels}
