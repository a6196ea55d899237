"""What the experiments share: the vCPUs and their VM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from s2pt import _running
from s2pt._core import Setup
from s2pt._numbers import check_address
from s2pt._running import Job, Progress
from s2pt._steps import Report
from s2pt.costs import FREE, Costs
from s2pt.types import Backing, Policy, Semantics, format_size, parse_size

__all__ = ["Experiment"]

R = TypeVar("R", bound=Report)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment(ABC, Generic[R]):
    """What all experiments are told alike, and how they run; `R` is the class of their reports.

    Attributes
    ----------
    vcpus : int
        Threads, one for each vCPU.
    bytes_per_vcpu : int or str
        Memory of each.
    slots : int
        How many memory slots it lies in.
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
    slots: int = 1
    backing: Backing | Literal["pages", "thp", "1g"] = "thp"
    policy: Policy | Literal["serial", "parallel", "lockless"] = "lockless"
    semantics: Semantics | Literal["exact", "kvm"] = "exact"
    costs: Costs = FREE

    def setup(self, *, overlap: bool = False) -> Setup:
        """Give the common options as the extension module takes them; `overlap` is of some alone."""
        return Setup(
            vcpus=check_address(self.vcpus, "vcpus"),
            bytes_per_vcpu=parse_size(self.bytes_per_vcpu),
            overlap=overlap,
            slots=check_address(self.slots, "slots"),
            backing=self.backing,
            policy=self.policy,
            semantics=self.semantics,
            costs=self.costs,
        )

    @abstractmethod
    def job(self) -> Job:
        """Prepare the run, for who wants to watch it himself; nothing runs yet."""

    @abstractmethod
    def _report(self, found: dict[str, Any]) -> R:
        """Make a report of what the job found."""

    def run(self, *, progress: Progress = None, poll_s: float = 0.05) -> R:
        """Run it on threads of its own, and wait for it; as `Vm.run`.

        Parameters
        ----------
        progress : callable or bool, optional
            Called now and then with the pages or accesses done and those there are in all; of `Memslots` with
            iterations, or with milliseconds.
        poll_s : float
            Seconds between two such calls.

        Returns
        -------
        R
            With ``complete`` False and what there was up to there, if `progress` ended it.

        Raises
        ------
        OptionError, AlignmentError
            An option is wrong or does nothing beside the others, or the machine has not the memory. Nothing ran.
        """
        return _running.run(self.job(), self._report, progress, poll_s, f"{self}:")

    def __str__(self) -> str:
        memory = format_size(parse_size(self.bytes_per_vcpu))
        return f"{self.vcpus} vCPUs with {memory} each, policy {Policy(self.policy).value}"
