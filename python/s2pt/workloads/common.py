"""What the experiments share: the vCPUs and their VM, a report step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from s2pt._core import Setup
from s2pt._steps import Foretold, InSteps
from s2pt.costs import FREE, Costs
from s2pt.types import Backing, Policy, Semantics, format_size, parse_size

__all__ = ["Experiment", "Report", "Step"]

R = TypeVar("R", bound="Report")


@dataclass(frozen=True, slots=True)
class Step(Foretold):
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
        What `handled` should be by the formula; None if there is none for these options.
    maintenance : dict of str to int
        Maintenance issued.
    frames : int
        Table frames in use afterwards.
    found : int or None
        What a step that looks for something found.
    complete : bool
        Whether it came to its end.
    """

    phase: str
    elapsed_ns: int
    faults: dict[str, int]
    outcomes: dict[str, int]
    handled: dict[str, int]
    expected: dict[str, int] | None
    maintenance: dict[str, int] | None
    frames: int
    found: int | None
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Report(InSteps):
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
        Whether the run came to its end. If not, it was ended early: the steps are those up to there.
    """

    vcpus: int
    accesses: int
    phases: tuple[Step, ...]
    longest_hold_ns: int
    waits: int
    stats: dict[str, Any]
    complete: bool

    def __str__(self) -> str:
        lines = [f"{self.vcpus} vCPUs, {self.accesses} accesses", "step              seconds    faults   again"]
        for phase in self.phases:
            faults, done = sum(phase.faults.values()), sum(phase.handled.values())
            row = f"{phase.phase:<12} {phase.elapsed_ns / 1e9:>12.6f} {done:>9} {faults - done:>7}"
            lines.append(row if phase.complete else f"{row}  (cut short)")
        if not self.complete:
            lines.append("ended early")
        return "\n".join(lines)


def make(kind: type[R], result: dict[str, Any]) -> R:
    """Make a report of what a job returns."""
    return kind(**(result | {"phases": tuple(Step(**phase) for phase in result["phases"])}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What all experiments are told alike.

    Attributes
    ----------
    vcpus : int
        Threads, one for each vCPU.
    bytes_per_vcpu : int or str
        Memory of each.
    overlap : bool
        Every vCPU goes through the memory of all.
    slots : int
        How many memory slots it lies in.
    seed : int
        Of all that is random.
    backing : Backing or str
        The host's page size, and so the largest block.
    policy : Policy or str
        How faults and the host's work exclude one another.
    semantics : Semantics or str
        ``"kvm"``: faults and tables with KVM's habits.
    costs : Costs
        What TLBIs, exits, cache operations and table frames cost.
    """

    vcpus: int = 1
    bytes_per_vcpu: int | str = "1GiB"
    overlap: bool = False
    slots: int = 1
    seed: int = 1
    backing: Backing | Literal["pages", "thp", "1g"] = "thp"
    policy: Policy | Literal["serial", "parallel", "lockless"] = "lockless"
    semantics: Semantics | Literal["exact", "kvm"] = "exact"
    costs: Costs = FREE

    def setup(self) -> Setup:
        """Give the common options as the extension module takes them."""
        return Setup(
            vcpus=self.vcpus,
            bytes_per_vcpu=parse_size(self.bytes_per_vcpu),
            overlap=self.overlap,
            slots=self.slots,
            seed=self.seed,
            backing=self.backing,
            policy=self.policy,
            semantics=self.semantics,
            costs=self.costs,
        )

    def __str__(self) -> str:
        memory = format_size(parse_size(self.bytes_per_vcpu))
        return f"{self.vcpus} vCPUs with {memory} each, policy {Policy(self.policy).value}"
