"""Where costs come from: the cover letter's machine, a run of ``s2pt dirty-log`` on this one, or this one right now.

A run tells what a fault of one vCPU takes in all, and `s2pt bench` what part of it is the table's work. What only shows
between cores (moves of cache lines) a run of one vCPU does not tell, and is taken over from the cover letter's machine.

Examples
--------
>>> letter = cover_letter()
>>> letter.machine
Machine(cores=80, waits='spin')
>>> 55 < letter.costs.line_ns < 70
True
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from statistics import median, pstdev
from typing import Any, TypeVar, get_args

import numpy as np

from s2pt import _running
from s2pt._checks import check_each, check_integer, check_kind, check_real, check_type
from s2pt.errors import OptionError
from s2pt.lab.costs import BLOCK, MOST_CORES, Costs, Machine, Splits, Workload
from s2pt.types import Backing, Policy

__all__ = ["INSIDE_ROW", "Calibration", "cover_letter", "from_runs", "here"]

INSIDE_ROW = "relax_page"
"""The row of `s2pt bench` that is what most faults of a dirty pass do inside of the lock."""

INSIDE_SHARE = 0.5
"""Assumed part of a fault inside of the lock, where no such row was measured."""

MOST_DRAWS = 10_000
MOST_SEED = (1 << 64) - 1
COST_NAMES = frozenset(name for name in Costs.__dataclass_fields__ if name != "host_line")

UNMEASURED = 0.1
"""Standard deviation, relative, of a cost that one run only has measured."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Calibration:
    """Costs, how sure they are, and where they were measured.

    Attributes
    ----------
    source : str
        Where they come from, in words.
    costs : Costs
        The best ones.
    machine : Machine
        Where they were measured.
    splits : {"lazy", "exact"}
        How the table that was measured splits blocks.
    names : tuple of str
        The costs that are not sure.
    covariance : tuple of tuple of float
        Of their logarithms.
    model_error : float
        Standard deviation of the logarithm of predicted over measured time, of times that no cost was fitted to.
    """

    source: str
    costs: Costs
    machine: Machine
    splits: Splits
    names: tuple[str, ...]
    covariance: tuple[tuple[float, ...], ...]
    model_error: float

    def __post_init__(self) -> None:
        check_type(self.source, str, "source")
        check_type(self.costs, Costs, "costs")
        check_type(self.machine, Machine, "machine")
        check_real(self.model_error, "model_error", 0, 100)
        if self.splits not in get_args(Splits):
            raise OptionError(f"splits must be one of {', '.join(get_args(Splits))}, not {self.splits!r:.40}")
        for name in check_each(self.names, str, "names"):
            if name not in COST_NAMES or not 0 < getattr(self.costs, name) < math.inf:
                raise OptionError(f"{name!r:.40} is no cost that can be unsure: none, or nothing or without end")
        rows = [
            [check_real(value, "covariance", -100, 100) for value in check_kind(row, Sequence, "each of covariance")]
            for row in check_kind(self.covariance, Sequence, "covariance")
        ]
        if [len(row) for row in rows] != [len(self.names)] * len(self.names):
            raise OptionError("covariance must have a row and a column for each of names")

    def as_dict(self) -> dict[str, Any]:
        """Give source, machine and costs for JSON."""
        # JSON has no infinity.
        costs = {name: None if value == math.inf else value for name, value in asdict(self.costs).items()}
        return {"source": self.source, "machine": asdict(self.machine), "costs": costs, "model_error": self.model_error}

    def draws(self, count: int, seed: int) -> list[Costs]:
        """Draw costs that might as well be the right ones; the same seed gives the same."""
        check_integer(count, "count", 0, MOST_DRAWS)
        check_integer(seed, "seed", 0, MOST_SEED)
        if not self.names:
            return [self.costs] * count
        means = [math.log(getattr(self.costs, name)) for name in self.names]
        rows = np.random.default_rng(seed).multivariate_normal(means, np.array(self.covariance), count, method="eigh")
        return [replace(self.costs, **dict(zip(self.names, np.exp(row).tolist(), strict=True))) for row in rows]


def cover_letter() -> Calibration:
    """Give the costs of the machine of the cover letter of KVM's parallel faults, fitted to 8 of its 28 figures.

    Returns
    -------
    Calibration
        Found by ``python -m s2pt.lab``.
    """
    found = json.loads((files("s2pt.lab") / "data" / "fitted.json").read_text())
    covariance = tuple(tuple(row) for row in found["covariance_of_logs"])
    return Calibration(
        source="cover letter of KVM's parallel stage-2 faults",
        costs=Costs(**found["costs"]),
        machine=Machine(cores=80),
        splits="lazy",
        names=tuple(found["costs"]),
        covariance=covariance,
        model_error=found["model_error"],
    )


def from_runs(documents: Sequence[Mapping[str, Any]], *, cores: int | None = None, source: str = "run") -> Calibration:
    """Find costs in what ``s2pt dirty-log --json`` printed, and if it is there in what ``s2pt bench --json`` printed.

    Parameters
    ----------
    documents : sequence of mapping
        One of ``dirty-log`` with runs of one vCPU; at most one of ``bench`` with the row `INSIDE_ROW`.
    cores : int, optional
        Of the machine that ran them. None: this one has as many.
    source : str
        What the calibration says of where it comes from.

    Returns
    -------
    Calibration
        Of a machine that sleeps while it waits, since the run's threads do. Its TLBIs cost what they were stalled, with
        what it takes to wake up.

    Raises
    ------
    OptionError
        The documents are of another kind, or lack a run of one vCPU, or not all its accesses write.
    """
    if cores is not None:
        check_integer(cores, "cores", 1, MOST_CORES)
    check_type(source, str, "source")
    kinds = _by_command(check_kind(documents, Sequence, "documents"))
    runs = [run for run in _each(kinds["dirty-log"], "runs") if run.get("vcpus") == 1]
    if not runs:
        raise OptionError("a calibration needs a run of one vCPU: s2pt dirty-log -v 1 --json")
    options = _get(kinds["dirty-log"], "options", dict)
    if options.get("write_percent") != 100:
        raise OptionError("a calibration needs a run in which all accesses write")
    backing = _get(options, "backing", str)
    if backing not in [one.value for one in Backing]:
        raise OptionError(f"not what s2pt prints with --json: 'backing' is {backing!r:.40}")
    leaf = Workload(memory=1 << 30, backing=Backing(backing)).leaf
    inside = _inside(kinds.get("bench"))
    stalled = _number(options, "stall_tlbi_ns") if options.get("stall_tlbi_ns") is not None else 0
    each = [_costs_of(run, leaf, stalled, inside) for run in runs]
    middle = {name: median(getattr(one, name) for one in each) for name in _MEASURED}
    costs = replace(each[0], **middle)
    names = tuple(name for name in _MEASURED if middle[name] > 0)
    sds = [_spread([getattr(one, name) for one in each]) for name in names]
    covariance = tuple(tuple(sd**2 if i == j else 0.0 for j in range(len(sds))) for i, sd in enumerate(sds))
    machine = Machine(cores=cores or os.cpu_count() or 1, waits="sleep")
    return Calibration(source, costs, machine, "exact", names, covariance, cover_letter().model_error)


_MEASURED = ("outside_ns", "inside_ns", "fill_ns", "stall_ns")


def here(*, memory: int = 64 << 20, rounds: int = 11) -> Calibration:
    """Measure this machine for a second or two: one vCPU under each policy, and the table's part of a fault.

    Parameters
    ----------
    memory : int
        Bytes of the vCPU, whole blocks of 2 MiB.
    rounds : int
        How often the row of `s2pt bench` is measured.

    Returns
    -------
    Calibration
    """
    from s2pt._core import BenchJob, DirtyLogJob

    options: dict[str, Any] = {
        "bytes_per_vcpu": memory,
        "iterations": 2,
        "backing": "thp",
        "manual_protect": True,
        "write_percent": 100,
        "random": False,
        "seed": 1,
        "stall_tlbi_ns": 0,
    }
    runs = [
        {"policy": policy.value, **_done(DirtyLogJob(vcpus=1, policy=policy.value, **options))} for policy in Policy
    ]
    bench = _done(BenchJob(rows=[INSIDE_ROW], rounds=rounds, size=memory))
    return from_runs(
        [{"command": "dirty-log", "options": options, "runs": runs}, {"command": "bench", **bench}],
        source="measured on this machine just now",
    )


def _done(job: Any) -> dict[str, Any]:
    return _running.run(job, dict, poll_s=0.1)


def _by_command(documents: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    kinds: dict[str, Mapping[str, Any]] = {}
    for document in documents:
        command = document.get("command") if isinstance(document, Mapping) else None
        if command not in ("dirty-log", "bench"):
            raise OptionError(f"not what s2pt dirty-log or s2pt bench prints with --json: its command is {command!r}")
        if command in kinds:
            raise OptionError(f"two documents of s2pt {command}")
        kinds[command] = document
    if "dirty-log" not in kinds:
        raise OptionError("a calibration needs what s2pt dirty-log --json printed")
    return kinds


def _get(document: Mapping[str, Any], key: str, kind: type[T]) -> T:
    value = document.get(key)
    if not isinstance(value, kind):
        raise OptionError(f"not what s2pt prints with --json: {key!r} is {value!r:.40}")
    return value


def _each(document: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = _get(document, key, list)
    if not all(isinstance(one, Mapping) for one in found):
        raise OptionError(f"not what s2pt prints with --json: {key!r} holds something else than objects")
    return found


def _number(document: Mapping[str, Any], key: str) -> float:
    value = document.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e30:
        raise OptionError(f"not what s2pt prints with --json: {key!r} is {value!r:.40}")
    return value


def _faults(phase: Mapping[str, Any]) -> float:
    faults = _get(phase, "faults", dict)
    return sum(_number(faults, kind) for kind in faults)


def _inside(bench: Mapping[str, Any] | None) -> float | None:
    if bench is None:
        return None
    for row in _each(bench, "rows"):
        if row.get("id") == INSIDE_ROW:
            return float(_number(row, "median_ns"))
    raise OptionError(f"the rows of s2pt bench do not include {INSIDE_ROW}")


def _costs_of(run: Mapping[str, Any], leaf: int, stalled_ns: float, inside: float | None) -> Costs:
    """Take the time of one vCPU's passes apart."""
    phases = {_get(phase, "phase", str): phase for phase in _each(run, "phases")}
    passes = [phase for name, phase in phases.items() if name.startswith("dirty ")]
    logged = [phase for phase in passes if _faults(phase)]
    accesses = _number(run, "accesses")
    if "populate" not in phases or not logged or not accesses or not _faults(phases["populate"]):
        raise OptionError("the run has no pass with faults on protected memory: use two iterations or more")
    populate, dirty = phases["populate"], logged[0]
    fault_ns = _number(dirty, "elapsed_ns") / _faults(dirty)
    # Without faults in it, a pass tells what an access takes; otherwise populating a block, nearly all of it accesses.
    quiet = [phase for phase in passes if not _faults(phase)]
    per_access = _number((quiet or [populate])[0], "elapsed_ns") / accesses
    outside = min(per_access, fault_ns / 2)
    rest = max(fault_ns - outside, 0.0)
    if stalled_ns:
        # Longer than asked for by what it takes to fall asleep and wake up.
        within = min(inside or 0.0, rest)
        stall = rest - within
    else:
        within = INSIDE_SHARE * rest if inside is None else min(inside, rest)
        outside, stall = outside + rest - within, 0.0
    populated_ns = _number(populate, "elapsed_ns") / _faults(populate)
    letter = cover_letter().costs
    return Costs(
        outside_ns=outside,
        inside_ns=within,
        line_ns=letter.line_ns,
        fill_ns=max(populated_ns - outside - within, 0.0) * BLOCK / leaf,
        clean_ns=0.0,
        bandwidth_gbs=math.inf,
        start_s=0.0,
        tlbi_ns=0.0,
        tlbi_core_ns=0.0,
        split_ns=0.0,
        stall_ns=stall,
        host_line=False,
    )


def _spread(values: Sequence[float]) -> float:
    """Give the relative standard deviation of a cost that several runs measured."""
    logs = [math.log(value) for value in values if value > 0]
    return pstdev(logs) if len(logs) > 1 else UNMEASURED
