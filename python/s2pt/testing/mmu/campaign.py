"""Runs of many tables against one oracle, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from s2pt.testing.mmu import guest, unicorn
from s2pt.testing.mmu.intent import judge_own
from s2pt.testing.mmu.judge import Report, judge
from s2pt.testing.mmu.own import buildable
from s2pt.testing.mmu.shapes import Shape
from s2pt.testing.mmu.sweep import sweep
from s2pt.testing.mmu.table import Oracle
from s2pt.testing.mmu.trees import Places, tree

__all__ = ["RUNS", "Run", "run_qemu", "run_unicorn"]

Progress = Callable[[Report], None]

_MOST = 1000
"""Most probes of one table: enough to meet each of its entries often."""
_LEAST = 60
_OWN = 0.4
"""The part of the tables that `Stage2` builds, among those that it can build; the others are random trees."""


def _quiet(_: Report) -> None:
    pass


@dataclass
class _Course:
    """What a run draws from, and where it stands."""

    oracle: Oracle
    shapes: list[Shape]
    rng: random.Random
    probes: int
    report: Report
    arena: int | None = None
    turns: Iterator[Shape] = field(init=False)

    def __post_init__(self) -> None:
        self.turns = self._turns()

    def _turns(self) -> Iterator[Shape]:
        """Yield every shape in random order, then again, for ever."""
        while True:
            yield from self.rng.sample(self.shapes, len(self.shapes))

    def left(self) -> int:
        """How many probes the next table gets, so that every shape has its turn; 0 at the end."""
        share = min(_MOST, max(_LEAST, self.probes // len(self.shapes)))
        return max(0, min(share, self.probes - self.report.probes))

    def table(self, shape: Shape, places: Places) -> None:
        """Build a table of this shape, one way or the other, and judge it."""
        seed = self.rng.getrandbits(32)
        if buildable(shape) and self.rng.random() < _OWN:
            judge_own(self.oracle, shape, places, seed, self.left(), self.arena, self.report)
        else:
            judge(self.oracle, tree(shape, places, seed, self.left()), self.report)


def run_unicorn(
    seed: int, probes: int, progress: Progress = _quiet, *, until_mismatch: bool = False, timeout_s: float = 60.0
) -> Report:
    """Compare so many probes with unicorn's MMU.

    Parameters
    ----------
    seed : int
        What to draw.
    probes : int
        How many.
    progress : callable
        Called with the report after each table.
    until_mismatch : bool
        Whether to stop after the first table with a mismatch.
    timeout_s : float
        Of no meaning here: unicorn runs in this thread.

    Returns
    -------
    Report

    Raises
    ------
    OracleMissingError
        Unicorn is not installed.
    """
    oracle = unicorn.UnicornOracle()
    course = _Course(oracle, list(unicorn.shapes_for()), random.Random(seed), probes, Report())
    while course.left() and not (until_mismatch and course.report.mismatched):
        shape = replace(next(course.turns), pa_bits=course.rng.choice((36, 40, 42, 44)))
        course.table(shape, unicorn.PLACES)
        progress(course.report)
    return course.report


def run_qemu(
    seed: int, probes: int, progress: Progress = _quiet, *, until_mismatch: bool = False, timeout_s: float = 60.0
) -> Report:
    """Compare so many real accesses with QEMU's MMU, then every value of a sweep of VTCR_EL2.

    Parameters and result as for `run_unicorn`; `timeout_s` is how long the machine may take for one table, in seconds.

    Raises
    ------
    OracleMissingError
        QEMU is not installed.
    OracleError
        It died or does not answer.
    """
    oracle = guest.QemuOracle(timeout_s)
    try:
        course = _Course(oracle, list(guest.shapes_for()), random.Random(seed), probes, Report(), guest.PLACES.arena)
        while course.left() and not (until_mismatch and course.report.mismatched):
            shape = next(course.turns)
            if lack := oracle.lacks(shape):
                course.report.applied[lack] += 1
                continue
            places, restricted = oracle.places(shape)
            if restricted:
                course.report.applied[restricted] += 1
            course.table(_with_features(shape, oracle.pa_sizes(shape), course.rng), places)
            progress(course.report)
        if not (until_mismatch and course.report.mismatched):
            sweep(oracle, course.report)
    finally:
        oracle.close()
    return course.report


def _with_features(shape: Shape, pa_sizes: tuple[int, ...], rng: random.Random) -> Shape:
    """Draw what the CPU has and uses."""
    return replace(
        shape,
        pa_bits=rng.choice(pa_sizes),
        fwb=rng.random() < 0.4,
        xnx=True,  # QEMU's largest CPU always has it
        ha=rng.random() < 0.6,
        hd=rng.random() < 0.5,  # without HA it does nothing
    )


class Run(Protocol):
    """A run against one oracle."""

    def __call__(
        self,
        seed: int,
        probes: int,
        progress: Progress = ...,
        *,
        until_mismatch: bool = False,
        timeout_s: float = 60.0,
    ) -> Report:
        """Run it."""
        ...


RUNS: dict[str, Run] = {"qemu": run_qemu, "unicorn": run_unicorn}
"""Runs by the name of the oracle."""
