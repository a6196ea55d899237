"""Options that several subcommands take, each with one name, one meaning and one way to be read."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import typer

from s2pt.cli.common import parse_policies, refuse
from s2pt.types import Backing, Policy, Semantics

__all__ = [
    "BACKINGS",
    "LOGS",
    "BackingName",
    "Bytes",
    "BytesOfAll",
    "Json",
    "Log",
    "LogName",
    "Overlap",
    "Policies",
    "SemanticsName",
    "Slots",
    "Vcpus",
    "backing_option",
    "log_option",
    "policies_option",
    "semantics_option",
]

BACKINGS = {
    "pages": Backing.PAGES,
    "anonymous": Backing.PAGES,
    "shmem": Backing.PAGES,
    "thp": Backing.THP,
    "anonymous_thp": Backing.THP,
    "anonymous_hugetlb": Backing.THP,
    "anonymous_hugetlb_2mb": Backing.THP,
    "shared_hugetlb": Backing.THP,
    "1g": Backing.HUGE_1G,
    "anonymous_hugetlb_1gb": Backing.HUGE_1G,
}
"""Our names and those of KVM's tests."""

LogName = Literal["lazy", "eager", "hardware", "ring"]
LOGS: tuple[LogName, ...] = get_args(LogName)
"""Ways to log writes."""

Vcpus = Annotated[
    list[str], typer.Option("-v", "--vcpus", metavar="N[,N..]", help="vCPU threads; several counts, one run each.")
]
Bytes = Annotated[str, typer.Option("-b", "--bytes", metavar="SIZE", help="Guest memory of each vCPU, as in 32MiB.")]
BytesOfAll = Annotated[
    str, typer.Option("-b", "--bytes", metavar="SIZE", help="Guest memory, which all vCPUs share, as in 32MiB.")
]
BackingName = Annotated[
    str,
    typer.Option("-s", "--backing", metavar="TYPE", help="Host memory: pages, thp, 1g (or the names of the test)."),
]
Policies = Annotated[
    list[str] | None,
    typer.Option("--policy", metavar="POLICY[,POLICY..]", help="serial, parallel, lockless (default: all)."),
]
SemanticsName = Annotated[str, typer.Option("--semantics", metavar="NAME", help="exact or kvm.")]
Overlap = Annotated[bool, typer.Option("-o", "--overlap", help="Every vCPU goes through the memory of all.")]
Slots = Annotated[int, typer.Option("-x", "--slots", min=1, max=4096, help="Memory slots that the memory lies in.")]
Log = Annotated[str, typer.Option("--log", metavar="LOG", help="lazy, eager, hardware, ring.")]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]


def backing_option(name: str) -> Backing:
    """Read a page size of the host."""
    if name not in BACKINGS:
        raise refuse(f"backing {name!r} is none of {', '.join(BACKINGS)}")
    return BACKINGS[name]


def log_option(name: str) -> LogName:
    """Read a way to log writes."""
    if name not in LOGS:
        raise refuse(f"{name!r} is not one of {', '.join(LOGS)}")
    return name


def semantics_option(name: str) -> Semantics:
    """Read whose habits faults and tables have."""
    try:
        return Semantics(name)
    except ValueError as error:
        raise refuse(str(error)) from None


def policies_option(texts: list[str] | None) -> list[Policy]:
    """Read lock policies; all if none is named."""
    return parse_policies(texts) if texts else list(Policy)
