"""A run step by step: what every experiment reports, in the same words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["Report", "Step", "make"]

R = TypeVar("R", bound="Report")


@dataclass(frozen=True, slots=True)
class Step:
    """What one step took and did.

    Attributes
    ----------
    phase : str
        Its name.
    elapsed_ns : int
        Wall time until the last vCPU was done.
    faults, outcomes : dict of str to int
        Faults of all vCPUs by kind, and by how they ended.
    handled : dict of str to int
        Those that changed the table, by what the guest lacked: ``"translation"``, ``"permission"``, ``"access_flag"``.
    expected : dict of str to int, or None
        What `handled` should be by the formula (docs/dirty-log.md); None if there is none for these options.
    maintenance : dict of str to int, or None
        Maintenance issued; None if the VM does not count.
    frames : int
        Table frames in use afterwards.
    found : int or None
        What a step that looks for something found: dirty pages, young leaves.
    complete : bool
        Whether it came to its end. The last step of a run that was ended early did not, even if it had not begun yet.
    """

    phase: str
    elapsed_ns: int
    faults: dict[str, int]
    outcomes: dict[str, int]
    handled: dict[str, int]
    expected: dict[str, int] | None
    maintenance: dict[str, int] | None
    frames: int
    found: int | None = None
    complete: bool = True

    @property
    def as_expected(self) -> bool | None:
        """Whether the faults were those of the formula; None without one."""
        return None if self.expected is None else self.expected == self.handled


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run; its text is a table of the steps.

    Attributes
    ----------
    vcpus, accesses : int
        Threads, and what all of them access in a pass.
    phases : tuple of Step
        The steps in order.
    longest_hold_ns : int
        The longest time for which one change by the host excluded all faults (0 under ``"lockless"``).
    waits : int
        How often a change by the host had to wait for a fault (``"lockless"``).
    stats : dict
        Tables, leaves and marks at the end, as `Stage2.stats` counts them.
    complete : bool
        Whether the run came to its end. If not, it was ended early: the steps are those up to there, and the last was
        cut short.
    """

    vcpus: int
    accesses: int
    phases: tuple[Step, ...]
    longest_hold_ns: int
    waits: int
    stats: dict[str, Any]
    complete: bool = True

    @property
    def elapsed_ns(self) -> int:
        """Wall time of all steps together."""
        return sum(step.elapsed_ns for step in self.phases)

    @property
    def as_expected(self) -> bool:
        """Whether every step that there is a formula for took the faults of it."""
        return all(step.as_expected is not False for step in self.phases)

    def __str__(self) -> str:
        lines = [
            f"{self.vcpus} vCPUs, {self.accesses} accesses a pass",
            "step              seconds    faults   again         found",
        ]
        for step in self.phases:
            faults, done = sum(step.faults.values()), sum(step.handled.values())
            row = f"{step.phase:<12} {step.elapsed_ns / 1e9:>12.6f} {done:>9} {faults - done:>7}"
            row += "" if step.found is None else f" {step.found:>13}"
            lines.append(row if step.complete else f"{row}  (cut short)")
        if not self.complete:
            lines.append("ended early")
        return "\n".join(lines)


def make(kind: type[R], result: dict[str, Any]) -> R:
    """Make a report of what a job returns."""
    return kind(**(result | {"phases": tuple(Step(**step) for step in result["phases"])}))
