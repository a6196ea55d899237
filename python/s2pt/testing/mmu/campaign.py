"""Runs of many tables against one oracle, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np

from s2pt import Stage2
from s2pt.testing.mmu import unicorn
from s2pt.testing.mmu.judge import Mismatch, Report, judge
from s2pt.testing.mmu.own import buildable, own
from s2pt.testing.mmu.shapes import Shape
from s2pt.testing.mmu.table import ACCESSES, Table
from s2pt.testing.mmu.trees import tree
from s2pt.types import FaultCode

__all__ = ["RUNS", "run_unicorn"]

Progress = Callable[[Report], None]

_PER_TABLE = 1000
"""Probes of one table: enough to meet each of its entries often."""


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
    turns = _turns(list(unicorn.shapes_for()), rng)
    while report.probes < probes and not (until_mismatch and report.mismatched):
        shape = replace(next(turns), pa_bits=rng.choice((36, 40, 42, 44)))
        count = min(_PER_TABLE, probes - report.probes)
        if buildable(shape) and rng.random() < 0.4:
            made = own(shape, unicorn.PLACES, rng.getrandbits(32), count)
            judge(judged_by, made.table, report)
            live(made.s2, made.table, report)
            made.s2.close()
        else:
            table, _ = tree(shape, unicorn.PLACES, rng.getrandbits(32), count)
            judge(judged_by, table, report)
        progress(report)
    return report


class Run(Protocol):
    """A run against one oracle."""

    def __call__(self, seed: int, probes: int, progress: Progress = ..., *, until_mismatch: bool = False) -> Report: ...


RUNS: dict[str, Run] = {"unicorn": run_unicorn}
"""Runs by the name of the oracle."""
