"""KVM's memslot_perf_test: slots and memory come and go under a running guest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from s2pt._checks import check_heeded, nanoseconds
from s2pt._core import MemslotsJob
from s2pt._numbers import check_address
from s2pt._steps import Report, make
from s2pt.workloads.common import Experiment

__all__ = ["Memslots", "MemslotsReport"]

SlotTest = Literal["map", "unmap", "unmap-chunked", "move-active", "move-inactive", "rw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemslotsReport(Report):
    """A whole run: the slots are made, the test goes on, the slots are taken away.

    Attributes
    ----------
    iterations : int
        How often it was done.
    taken_back : int
        Bytes that the host took back while they were mapped.
    wrong_words : int
        Words that were not what guest or host had written.
    """

    iterations: int
    taken_back: int
    wrong_words: int

    @property
    def setup_ns(self) -> int:
        """How long making the slots took."""
        return sum(phase.elapsed_ns for phase in self.phases if phase.phase == "setup")

    @property
    def turns_ns(self) -> int:
        """How long all iterations took."""
        return sum(phase.elapsed_ns for phase in self.phases if phase.phase == "turns")

    @property
    def ns_per_iteration(self) -> float:
        """How long one took; 0 if there was none."""
        return self.turns_ns / self.iterations if self.iterations else 0.0

    def __str__(self) -> str:
        each = self.ns_per_iteration / 1e9
        return f"{Report.__str__(self)}\n{self.iterations} iterations of {each:.9f} s, wrong words {self.wrong_words}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Memslots(Experiment[MemslotsReport]):
    """A guest writes its memory while the host takes it back, or moves a slot of it. The bytes are real.

    Attributes
    ----------
    test : str
        ``"map"``: the guest writes every page of one half, while the host takes the other half back at once;
        ``"unmap"``: one page, while the host goes page by page; ``"unmap-chunked"``: 2 MiB at a time;
        ``"move-active"``, ``"move-inactive"``: the host moves the last slot away and back, while the guest writes
        192 KiB of which half is in it, or none; ``"rw"``: guest and host write and check each other's words by turns.
    time_s : float
        How long, in seconds, unless `iterations` says how often; once at least.
    iterations : int, optional
        How often: both halves, there and back, or one turn of each.
    """

    bytes_per_vcpu: int | str = "32MiB"
    slots: int = 8
    test: SlotTest = "map"
    time_s: float = 5.0
    iterations: int | None = None

    def job(self) -> MemslotsJob:
        """Prepare the run, for who wants to watch it himself; nothing runs yet."""
        time_ns = nanoseconds(self.time_s, "time_s")
        check_heeded("time_s", self.time_s, 5.0, self.iterations is None, "iterations says how often it is done")
        often = None if self.iterations is None else check_address(self.iterations, "iterations")
        return MemslotsJob(self.setup(), test=self.test, time_ns=time_ns, iterations=often)

    def _report(self, found: dict[str, Any]) -> MemslotsReport:
        """Make a report of what the job found."""
        return make(MemslotsReport, found)
