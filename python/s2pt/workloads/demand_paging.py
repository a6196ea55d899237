"""KVM's demand_paging_test: the guest's memory comes page by page, from a supplier who takes his time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from s2pt._checks import check_heeded, check_type
from s2pt._core import DemandPagingJob
from s2pt._numbers import check_address
from s2pt._steps import Report, make
from s2pt.costs import NOTHING, Cost
from s2pt.workloads.common import Experiment

__all__ = ["DemandPaging", "DemandPagingReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandPagingReport(Report):
    """A whole run, and what was supplied.

    Attributes
    ----------
    pages, written : int
        Pages of one vCPU, and those that all vCPUs wrote: less than all if the run was ended early.
    supplied, existed : int
        Pages of the host's size that suppliers gave, and how often one was there already, or on its way.
    wrong_pages : int or None
        Pages whose bytes at the end are not what supplier and guest wrote; None if the run was ended early.
    """

    pages: int
    written: int
    supplied: int
    existed: int
    wrong_pages: int | None

    @property
    def seconds(self) -> float:
        """How long the guest ran."""
        return sum(phase.elapsed_ns for phase in self.phases if phase.phase == "guest") / 1e9

    @property
    def rate_per_vcpu(self) -> float:
        """Pages a second that a vCPU got, while it ran; 0 if it got none."""
        return self.rate / self.vcpus if self.vcpus else 0.0

    @property
    def rate(self) -> float:
        """Pages a second that all vCPUs got, while they ran; 0 if they got none."""
        return self.written / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        wrong = "not known" if self.wrong_pages is None else self.wrong_pages
        rates = f"{self.rate_per_vcpu:,.0f} pages a second and vCPU, {self.rate:,.0f} in all"
        lines = [
            Report.__str__(self),
            *([rates] if self.written else []),
            f"{self.supplied} pages of the host supplied, {self.existed} were there; wrong pages {wrong}",
        ]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandPaging(Experiment[DemandPagingReport]):
    """Every vCPU writes each of its pages once; where the host has none yet, the fault waits for a supplier.

    The bytes are real, so the host needs as much memory as the guests have. A page of the host's size comes at a time.
    Two suppliers may be asked for the same page; who finds that it is there has succeeded. At the end every byte is
    looked at.

    Attributes
    ----------
    overlap : bool
        Every vCPU goes through the memory of all.
    supply : str
        ``"kernel"``: pages are there at once; ``"missing"``: a supplier copies each; ``"minor"``: he lets a page be
        mapped that was filled before.
    one_queue : bool
        One queue of requests for all vCPUs, not one for each.
    readers : int
        Suppliers at each queue.
    delay : Cost or str
        What a supplier takes before he gives a page.

    """

    overlap: bool = False
    supply: Literal["kernel", "missing", "minor"] = "kernel"
    one_queue: bool = False
    readers: int = 1
    delay: Cost | str = NOTHING

    def job(self) -> DemandPagingJob:
        """Prepare the run, for who wants to watch it himself; nothing runs yet."""
        delay = check_type(Cost.parse(self.delay) if isinstance(self.delay, str) else self.delay, Cost, "delay")
        by_supplier, why = self.supply != "kernel", "the kernel has all pages, nobody is asked for them"
        check_heeded("one_queue", self.one_queue, False, by_supplier, why)
        check_heeded("readers", self.readers, 1, by_supplier, why)
        check_heeded("delay", delay.ns, 0, by_supplier, why)
        return DemandPagingJob(
            self.setup(overlap=self.overlap),
            supply=self.supply,
            one_queue=self.one_queue,
            readers=check_address(self.readers, "readers"),
            delay=delay,
        )

    def _report(self, found: dict[str, Any]) -> DemandPagingReport:
        """Make a report of what the job found."""
        return make(DemandPagingReport, found)
