"""``s2pt migrate``: a live migration under each lock policy, with proof that no byte is lost."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich import box
from rich.table import Table

from s2pt.cli import costs, pictures
from s2pt.cli.common import (
    UntilInterrupted,
    console,
    parse_list,
    parse_policies,
    parse_time,
    print_json,
    size_option,
    watch,
)
from s2pt.cli.options import log_option
from s2pt.cli.shared import with_flags
from s2pt.migrate import Migrate, MigrateReport, report
from s2pt.types import Policy, format_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["migrate"]


@with_flags
def migrate(
    vcpus: Annotated[
        int,
        typer.Option("-v", "--vcpus", min=1, max=512, help="vCPU threads, each with words of its own in every page."),
    ] = 2,
    memory: Annotated[str, typer.Option("-b", "--memory", metavar="SIZE", help="Guest memory.")] = "64MiB",
    backing: Annotated[
        str, typer.Option("-s", "--backing", metavar="TYPE", help="Host memory: pages, thp, 1g.")
    ] = "thp",
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", metavar="POLICY[,POLICY..]", help="serial, parallel, lockless (default: all)."),
    ] = None,
    log: Annotated[
        list[str], typer.Option("--log", metavar="LOG[,LOG..]", help="lazy, eager, hardware, ring; one run each.")
    ] = ["lazy"],  # noqa: B006 - typer copies it
    manual_protect: Annotated[
        bool, typer.Option("-m", "--manual-protect", help="Clear by a call of its own, every page dirty at first.")
    ] = False,
    semantics: Annotated[str, typer.Option("--semantics", metavar="NAME", help="exact or kvm.")] = "exact",
    bandwidth: Annotated[
        str, typer.Option("--bandwidth", metavar="SIZE", help="Bytes a second of the link; 0: no limit.")
    ] = "1GiB",
    downtime: Annotated[str, typer.Option("--downtime", metavar="TIME", help="Longest stop aimed at.")] = "30ms",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds before the guest is stopped anyway.")] = 20,
    write_percent: Annotated[
        int, typer.Option("-w", "--write-percent", min=0, max=100, help="Accesses that write.")
    ] = 50,
    hot_percent: Annotated[
        int, typer.Option("--hot-percent", min=0, max=100, help="Accesses that go to the first tenth of the memory.")
    ] = 50,
    think: Annotated[str, typer.Option("--think", metavar="TIME", help="What a vCPU does between accesses.")] = "0ns",
    warm_up: Annotated[
        str, typer.Option("--warm-up", metavar="TIME", help="How long the guest runs before.")
    ] = "100ms",
    take_backs: Annotated[int, typer.Option("--take-backs", min=0, help="Take-backs by the host a second.")] = 0,
    stall_tlbi: costs.Tlbi = "0ns",
    exit_cost: costs.Exit = "0ns",
    copy_cost: costs.Copy = "0ns",
    cache_cost: costs.Cache = "0ns",
    allocation_cost: costs.Allocation = "0ns",
    spin: costs.Spin = False,
    seed: Annotated[int, typer.Option("-r", "--seed", min=0, max=2**64 - 1, help="First seed.")] = 1,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Runs of each kind, with consecutive seeds.")] = 1,
    too_early: Annotated[
        bool, typer.Option("--too-early", help="Break it: copy pages before their protection is complete (needs -m).")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document, nothing else.")] = False,
    plot: pictures.Plot = None,
    html: pictures.Html = None,
) -> int:
    """Migrate a guest that goes on writing; compare source and destination byte by byte.

    The guest runs on simulated CPUs with TLBs. Ends with 1 if a byte was lost or the CPUs saw a rule broken. An
    interrupt ends the migration: what it did up to there is told.
    """
    kinds = parse_list(log, log_option)
    link = size_option(bandwidth)
    thinks = parse_time(think)
    paid = costs.read(
        tlbi=stall_tlbi, exit=exit_cost, copy=copy_cost, cache=cache_cost, allocation=allocation_cost, spin=spin,
        beside=think,
    )  # fmt: skip
    pictures.check(plot, html)
    reports: list[tuple[Migrate, MigrateReport]] = []
    policies = parse_policies(policy or [policy.value for policy in Policy])
    wanted = [
        Migrate(
            memory=size_option(memory),
            vcpus=vcpus,
            backing=cast(Any, backing),
            policy=one,
            semantics=cast(Any, semantics),
            log=kind,
            manual_protect=manual_protect and (kind != "ring" or kinds == ["ring"]),
            write_percent=write_percent,
            hot_percent=hot_percent,
            think_s=thinks / 1e9,
            bandwidth=link or None,
            downtime_s=parse_time(downtime) / 1e9,
            rounds=rounds,
            warm_up_s=parse_time(warm_up) / 1e9,
            take_backs=take_backs,
            too_early=too_early,
            seed=(seed + number) % 2**64,
            think_how="spin" if spin and thinks else "sleep",
            costs=paid,
        )
        for kind, one, number in product(kinds, policies, range(runs))
    ]
    for options in wanted[::runs]:
        options.job()  # what is wrong with any kind is said before the first runs
    with UntilInterrupted() as interrupt:
        for options in wanted:
            title = f"{options.log} log, {Policy(options.policy).value}"
            title += f", seed {options.seed}" if runs > 1 else ""

            def keep(found: dict[str, Any], options: Migrate = options) -> None:
                reports.append((options, report(found)))

            watch(options.job(), f"{title}:", keep)
    interrupt.check(reports)
    if json_:
        rows = [{"options": _plain(options), **asdict(found)} for options, found in reports]
        print_json({"command": "migrate", "complete": not interrupt.seen, "runs": rows})
    else:
        _print(reports, memory)
    pictures.write(plot, lambda: _draw(reports), html, lambda: _page(reports), early=interrupt.seen)
    failed = any(found.lost_bytes or found.wrong_reads or found.violations for _, found in reports)
    return interrupt.code(int(failed))


def _draw(reports: list[tuple[Migrate, MigrateReport]]) -> Figure:
    from s2pt.lab.plots import migrations

    return migrations(reports)


def _page(reports: list[tuple[Migrate, MigrateReport]]) -> str:
    from s2pt.lab.page import migrations_page

    return migrations_page(reports)


def _plain(options: Migrate) -> dict[str, Any]:
    return asdict(options) | {"policy": str(Policy(options.policy).value)}


def _print(reports: list[tuple[Migrate, MigrateReport]], memory: str) -> None:
    first = reports[0][0]
    link = "no limit" if first.bandwidth is None else f"{format_size(int(first.bandwidth))}/s"
    print(f"{first.vcpus} vCPUs, {memory} of guest memory, backing {first.backing}, link {link}")
    table = Table(box=box.SIMPLE)
    table.add_column("log")
    table.add_column("policy")
    heads = [
        "rounds",
        "sent",
        "again",
        "downtime ms",
        "guest",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "max us",
        "hold ms",
        "lost",
    ]
    for head in heads:
        table.add_column(head, justify="right")
    for options, found in reports:
        pages = found.rounds[0].pages if found.rounds else 0
        slow = found.during.per_second / found.before.per_second if found.before.per_second else 0.0
        times = found.latency
        cells = [
            str(len(found.rounds)),
            f"{found.pages_sent:,}",
            f"{max(found.pages_sent - pages, 0):,}",
            f"{found.downtime_ns / 1e6:.2f}",
            f"{slow:.0%}",
            *(f"{time / 1e3:.1f}" for time in (times.p50_ns, times.p99_ns, times.p999_ns, times.max_ns)),
            f"{found.longest_hold_ns / 1e6:.2f}",
            f"{found.lost_bytes:,}" if found.lost_bytes is not None else "-",
        ]
        table.add_row(options.log, Policy(options.policy).value, *cells)
    console().print(table)
    print(
        "guest: throughput while migrating, of that before; us: how long faults took; "
        "hold: the host's lock, at most; lost: bytes"
    )
    for options, found in reports:
        if not found.complete:
            sent = f"{found.pages_sent:,} pages sent, {len(found.rounds)} rounds done, nothing compared"
            print(f"{options.log} log, {Policy(options.policy).value}: interrupted in {found.cut}; {sent}")
    compared = [found.lost_bytes for _, found in reports if found.lost_bytes is not None]
    lost = f"{sum(compared):,} bytes lost" if compared else "nothing compared"
    if 0 < len(compared) < len(reports):
        lost += f" in the {len(compared)} compared"
    wrong = sum(found.wrong_reads for _, found in reports)
    broken = sum(found.violations for _, found in reports)
    count = "1 run" if len(reports) == 1 else f"{len(reports)} runs"
    print(f"{count}: {lost}, {wrong:,} wrong reads, {broken:,} rules broken")
