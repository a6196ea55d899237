"""The figures of the cover letter of KVM's parallel faults, and those of them that the model may see.

Examples
--------
>>> given = figures()
>>> len(given), given[0], sum(figure.fitted for figure in given)
(28, Figure(pass_='dirty', policy=SERIAL, vcpus=1, seconds=0.87, fitted=True), 8)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import NamedTuple

from s2pt.lab.costs import PASSES, Machine, Pass, Workload
from s2pt.types import Backing, Policy

__all__ = ["FITTED_ROWS", "MACHINE", "WORK", "Figure", "figures"]

FITTED_ROWS = {Policy.SERIAL: (1, 48), Policy.PARALLEL: (4, 48)}
"""vCPUs of the rows to which costs are fitted, for both passes.

Of each curve the last row, which is limited by what all share, and one that is not: with 1 vCPU it tells what things
cost alone, with 4 what a few others add. The letter's other 20 figures are left for judging.
"""

WORK = Workload(memory=4 << 30, backing=Backing.THP, splits="lazy")
MACHINE = Machine(cores=80)


class Figure(NamedTuple):
    """One time in the letter.

    Attributes
    ----------
    pass_ : {"dirty", "populate"}
        The pass of the test.
    policy : Policy
        ``SERIAL`` before the series, ``PARALLEL`` after it.
    vcpus : int
        How many, of 4 GiB each.
    seconds : float
        Rounded to hundredths there.
    fitted : bool
        Whether costs are fitted to it.
    """

    pass_: Pass
    policy: Policy
    vcpus: int
    seconds: float
    fitted: bool

    def __repr__(self) -> str:
        fields = (f"pass_={self.pass_!r}", f"policy={self.policy.name}", f"vcpus={self.vcpus}")
        return f"Figure({', '.join(fields)}, seconds={self.seconds}, fitted={self.fitted})"


def figures(rows: Mapping[Policy, tuple[int, ...]] = FITTED_ROWS) -> tuple[Figure, ...]:
    """Give all 28 of them.

    Parameters
    ----------
    rows : mapping
        vCPUs of the rows of each policy that are called fitted, if others are to be tried.

    Returns
    -------
    tuple of Figure
    """
    letter = json.loads((files("s2pt.lab") / "data" / "cover-letter.json").read_text())
    return tuple(
        Figure(pass_, policy, vcpus, seconds, vcpus in rows[policy])
        for pass_ in reversed(PASSES)
        for policy in (Policy.SERIAL, Policy.PARALLEL)
        for vcpus, seconds in zip(letter["vcpus"], letter["seconds"][pass_][policy.value], strict=True)
    )
