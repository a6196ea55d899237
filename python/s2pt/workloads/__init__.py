"""KVM's other stage-2 tests as experiments: each makes a VM of its own, runs on real threads, and gives a typed report.

Examples
--------
>>> from s2pt.workloads import AccessTracking
>>> report = AccessTracking(vcpus=2, bytes_per_vcpu="4MiB").run()
>>> [step.phase for step in report.phases]
['populate', 'write', 'read', 'mark idle 1', 'write idle', 'mark idle 2', 'read idle']
>>> report.phases[4].handled["access_flag"], report.as_expected  # one for each block of 2 MiB
(4, True)
"""

from __future__ import annotations

from s2pt._steps import Report, Step
from s2pt.workloads.access_tracking import AccessTracking
from s2pt.workloads.demand_paging import DemandPaging, DemandPagingReport
from s2pt.workloads.memslots import Memslots, MemslotsReport
from s2pt.workloads.page_table import PageTable, PageTableReport

__all__ = [
    "AccessTracking",
    "DemandPaging",
    "DemandPagingReport",
    "Memslots",
    "MemslotsReport",
    "PageTable",
    "PageTableReport",
    "Report",
    "Step",
]
