"""KVM's kvm_page_table_test: blocks are made, broken up under logging, and made again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from s2pt._core import PageTableJob
from s2pt._steps import Report, make
from s2pt.workloads.common import Experiment

__all__ = ["PageTable", "PageTableReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTableReport(Report):
    """A whole run, and what the table was in the end.

    Attributes
    ----------
    blocks, pages : int
        Leaves of the host's page size, and smaller ones.
    """

    blocks: int
    pages: int

    def __str__(self) -> str:
        return f"{Report.__str__(self)}\n{self.blocks} whole pages of the host mapped at the end, {self.pages} parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTable(Experiment[PageTableReport]):
    """All vCPUs go through the same memory, of `bytes_per_vcpu` in all; those with even numbers write, the others read.

    *Create*: the first bytes of each page of the host. Then the memory is logged. *Update*: every page is written;
    where the host's pages are blocks, the first page of each is written, which breaks it, and its second half is read.
    Then logging ends. *Adjust*: every page, and blocks take the place of tables: with KVM's semantics by reads of what
    the broken blocks forgot, otherwise by writes.
    """

    def job(self) -> PageTableJob:
        """Prepare the run, for who wants to watch it himself; nothing runs yet."""
        return PageTableJob(self.setup())

    def _report(self, found: dict[str, Any]) -> PageTableReport:
        """Make a report of what the job found."""
        return make(PageTableReport, found)
