"""What the experiments share: the vCPUs and their VM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from s2pt._core import Setup
from s2pt.costs import FREE, Costs
from s2pt.types import Backing, Policy, Semantics, format_size, parse_size

__all__ = ["Experiment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What all experiments are told alike.

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
            vcpus=self.vcpus,
            bytes_per_vcpu=parse_size(self.bytes_per_vcpu),
            overlap=overlap,
            slots=self.slots,
            backing=self.backing,
            policy=self.policy,
            semantics=self.semantics,
            costs=self.costs,
        )

    def __str__(self) -> str:
        memory = format_size(parse_size(self.bytes_per_vcpu))
        return f"{self.vcpus} vCPUs with {memory} each, policy {Policy(self.policy).value}"
