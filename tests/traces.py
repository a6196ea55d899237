"""The recorded guests, each read once for all tests that look at one: reading the largest takes seconds."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import s2pt.trace
from s2pt.trace import Trace

DATA = Path(__file__).parent / "data" / "kvm-traces"
SNAPSHOTS = DATA / "snapshots"
GUESTS = ["thpoff_2vcpu", "thpon_2vcpu", "migrate_2vcpu"]


@cache
def read_once(path: Path) -> Trace:
    """Read a trace; nobody may write to what others will look at too."""
    trace = s2pt.trace.read(path)
    trace.events.flags.writeable = False
    return trace


def guest(tag: str) -> Trace:
    return read_once(DATA / f"{tag}.txt.xz")


def run(prefix: str) -> Trace:
    return read_once(SNAPSHOTS / prefix)


def read_known(path: str | os.PathLike[str], *, allow_lost: bool = False) -> Trace:
    """Read as `s2pt.trace.read` does; but a recorded guest only once, by whichever of its names."""
    path = Path(path)
    if DATA in path.parents and not allow_lost:
        named = path if path.name.endswith(".xz") or path.parent == SNAPSHOTS else path.with_name(f"{path.name}.txt.xz")
        return read_once(named)
    return s2pt.trace.read(path, allow_lost=allow_lost)
