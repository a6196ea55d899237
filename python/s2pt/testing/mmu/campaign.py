"""Runs of many tables against one oracle, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np

from s2pt import Stage2
from s2pt.testing.mmu import guest, unicorn
from s2pt.testing.mmu.judge import Mismatch, Report, judge
from s2pt.testing.mmu.own import buildable, own
from s2pt.testing.mmu.shapes import Shape
from s2pt.testing.mmu.sweep import sweep
from s2pt.testing.mmu.table import ACCESSES, Table
from s2pt.testing.mmu.trees import tree
from s2pt.types import FaultCode

__all__ = ["RUNS", "run_qemu", "run_unicorn"]

Progress = Callable[[Report], None]

_PER_TABLE = 1000
"""Most probes of one table: enough to meet each of its entries often."""
_LEAST = 60


def _share(probes: int, all_shapes: list[Shape]) -> int:
    """How many probes a table gets, so that every shape has its turn."""
    return min(_PER_TABLE, max(_LEAST, probes // len(all_shapes)))


def _quiet(_: Report) -> None:
    pass


def _turns(all_shapes: list[Shape], rng: random.Random) -> Iterator[Shape]:
    """Yield every shape in random order, then again, for ever."""
    while True:
        yield from rng.sample(all_shapes, len(all_shapes))


def live(s2: Stage2, table: Table, report: Report) -> None:
    """Compare `Stage2.translate_many` with the walk of the image, which the oracle judges."""
    image = table.image()
    for access in ACCESSES:
        ipa = np.ascontiguousarray(table.probes["ipa"])
        pa, level, fault = s2.translate_many(ipa, access)  # type: ignore[arg-type]
        rows = image.access_many(ipa, access)  # type: ignore[arg-type]
        wrong = np.flatnonzero((pa != rows["pa"]) | (level != rows["level"]) | (fault != rows["fault"]))
        explained = [
            Mismatch(
                table.name,
                f"{access} of {int(ipa[i]):#x}: Stage2.translate {int(pa[i]):#x} {FaultCode(int(fault[i]))!r} level "
                f"{int(level[i])}; its image {int(rows['pa'][i]):#x} {FaultCode(int(rows['fault'][i]))!r} level "
                f"{int(rows['level'][i])}",
            )
            for i in wrong[:2].tolist()
        ]
        report.refuse(len(wrong), explained)


def run_unicorn(seed: int, probes: int, progress: Progress = _quiet, *, until_mismatch: bool = False) -> Report:
    """Compare at least so many probes with unicorn's MMU.

    Two tables of three are random descriptor trees, one is built by random operations of `Stage2`.

    Raises
    ------
    OracleMissingError
        Unicorn is not installed.
    """
    judged_by = unicorn.UnicornOracle()
    report = Report()
    rng = random.Random(seed)
    all_shapes = list(unicorn.shapes_for())
    turns = _turns(all_shapes, rng)
    while report.probes < probes and not (until_mismatch and report.mismatched):
        shape = replace(next(turns), pa_bits=rng.choice((36, 40, 42, 44)))
        count = min(_share(probes, all_shapes), probes - report.probes)
        if buildable(shape) and rng.random() < 0.4:
            made = own(shape, unicorn.PLACES, rng.getrandbits(32), count)
            judge(judged_by, made.table, report)
            live(made.s2, made.table, report)
            made.s2.close()
        else:
            table = tree(shape, unicorn.PLACES, rng.getrandbits(32), count)
            judge(judged_by, table, report)
        progress(report)
    return report


def _with_features(shape: Shape, pa_sizes: tuple[int, ...], rng: random.Random) -> Shape:
    """Draw what the CPU has and uses."""
    dirty = rng.random() < 0.35
    return replace(
        shape,
        pa_bits=rng.choice(pa_sizes),
        fwb=rng.random() < 0.4,
        xnx=True,  # QEMU's largest CPU always has it
        ha=dirty or rng.random() < 0.4,
        hd=dirty,
    )


def run_qemu(seed: int, probes: int, progress: Progress = _quiet, *, until_mismatch: bool = False) -> Report:
    """Compare at least so many real accesses with QEMU's MMU, and a sweep of VTCR_EL2 values.

    Raises
    ------
    OracleMissingError
        QEMU is not installed.
    OracleError
        It died or does not answer.
    """
    report = Report()
    rng = random.Random(seed)
    judged_by = guest.QemuOracle()
    try:
        sweep(judged_by, report)
        all_shapes = list(guest.shapes_for())
        turns = _turns(all_shapes, rng)
        while report.probes < probes and not (until_mismatch and report.mismatched):
            shape = next(turns)
            if lack := judged_by.lacks(shape):
                report.applied[lack] += 1
                continue
            shape = _with_features(shape, judged_by.pa_sizes(shape), rng)
            count = min(_share(probes, all_shapes), probes - report.probes)
            if buildable(shape) and rng.random() < 0.4:
                made = own(shape, guest.PLACES, rng.getrandbits(32), count, arena=guest.PLACES.arena)
                judge(judged_by, made.table, report)
                live(made.s2, made.table, report)
                made.s2.close()
            else:
                places, restricted = judged_by.places(shape)
                if restricted:
                    report.applied[restricted] += 1
                judge(judged_by, tree(shape, places, rng.getrandbits(32), count), report)
            progress(report)
    finally:
        judged_by.close()
    return report


class Run(Protocol):
    """A run against one oracle."""

    def __call__(self, seed: int, probes: int, progress: Progress = ..., *, until_mismatch: bool = False) -> Report: ...


RUNS: dict[str, Run] = {"qemu": run_qemu, "unicorn": run_unicorn}
"""Runs by the name of the oracle."""
