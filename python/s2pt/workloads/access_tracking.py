"""KVM's access_tracking_perf_test: what it costs to ask which memory a guest uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from s2pt._core import AccessTrackingJob
from s2pt._steps import Report, make
from s2pt.workloads.common import Experiment

__all__ = ["AccessTracking"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessTracking(Experiment[Report]):
    """Every vCPU goes through its memory five times, and twice marks it idle page by page.

    Marking takes the access flag from the leaf, with a TLBI; the step says how many leaves were young. The next access
    takes an access-flag fault on each leaf, or none where hardware sets the flag.

    Attributes
    ----------
    overlap : bool
        Every vCPU goes through the memory of all.
    hardware_af : bool
        Hardware sets the access flag.
    """

    overlap: bool = False
    hardware_af: bool = False

    def job(self) -> AccessTrackingJob:
        """Prepare the run, for who wants to watch it himself; nothing runs yet."""
        return AccessTrackingJob(self.setup(overlap=self.overlap), hardware_af=self.hardware_af)

    def _report(self, found: dict[str, Any]) -> Report:
        """Make a report of what the job found."""
        return make(Report, found)
