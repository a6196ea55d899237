"""What a pass of dirty_log_perf_test asks of a machine: costs, machines, workloads, and the demand of one fault.

A fault has a part outside of the table's lock (leave the guest, find the host page, fill it if it is new, go back) and
a part inside (walk, clean a new block out of the caches, install, TLBI). Two cache lines are written by every fault of
every vCPU: that of the table's lock, and that of the lock of the host's memory map, which is taken to look the host
page up. All vCPUs fill new memory through one memory bus.

Examples
--------
>>> work = Workload(memory=4 << 30, backing="thp", splits="lazy")
>>> work.faults("populate"), work.faults("dirty")
(2048, 1048576)
>>> costs = Costs(300, 500, line_ns=60, fill_ns=50_000, clean_ns=40_000, bandwidth_gbs=130, start_s=0)
>>> demand(costs, Machine(cores=80), work, "populate")
Demand(outside_ns=50300.0, inside_ns=40500.0, stall_ns=0.0, line_ns=60, bus_ns=16131.9, host_line=True)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from s2pt._checks import check_integer, check_real, check_type
from s2pt.errors import OptionError
from s2pt.types import Backing

__all__ = ["PASSES", "Costs", "Demand", "Machine", "Pass", "Splits", "Waits", "Workload", "demand"]

Pass = Literal["populate", "dirty"]
Splits = Literal["lazy", "exact"]
Waits = Literal["spin", "sleep"]

PASSES: tuple[Pass, ...] = get_args(Pass)
PAGE = 4096
MOST_CORES = 1 << 16
BLOCK = 2 << 20
_LEAF = {Backing.PAGES: PAGE, Backing.THP: BLOCK, Backing.HUGE_1G: 1 << 30}


@dataclass(frozen=True, slots=True)
class Costs:
    """What things cost on one machine, while nobody else is there unless said otherwise.

    Attributes
    ----------
    outside_ns : float
        A fault outside of the table's lock: the access, the exit, the look-up of the host page, the return.
    inside_ns : float
        A fault inside of it: the walk and the new entry.
    line_ns : float
        A cache line that another core wrote last comes over to be written.
    fill_ns : float
        2 MiB of new memory outside of the lock: zeroed by the host, touched by the guest.
    clean_ns : float
        2 MiB of new memory inside of the lock: written back to where the guest sees it.
    bandwidth_gbs : float
        New memory that all cores together can make, in GB (10**9 bytes) a second.
    start_s : float
        The vCPUs of a pass start within so many seconds.
    tlbi_ns, tlbi_core_ns : float
        A TLBI with its barrier, inside of the lock; and what each core of the machine adds if all are told.
    split_ns : float
        The 512 entries of a new table where a block is split and the other pages keep their translation.
    stall_ns : float
        What each TLBI keeps its thread asleep (`s2pt dirty-log --stall-tlbi`).
    host_line : bool
        Whether each fault takes the lock of the host's memory map for reading, as KVM does.
    """

    outside_ns: float
    inside_ns: float
    line_ns: float
    fill_ns: float
    clean_ns: float
    bandwidth_gbs: float
    start_s: float
    tlbi_ns: float = 500.0
    tlbi_core_ns: float = 10.0
    split_ns: float = 500.0
    stall_ns: float = 0.0
    host_line: bool = True

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if name != "host_line":
                check_real(getattr(self, name), name, 0, math.inf)
        check_type(self.host_line, bool, "host_line")
        if self.bandwidth_gbs == 0:
            raise OptionError("bandwidth_gbs must be more than 0")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the vCPUs run.

    Attributes
    ----------
    cores : int
        What can run at once. More vCPUs than that take turns.
    waits : {"spin", "sleep"}
        What one does that waits for a lock or is stalled: a kernel keeps its core, a thread of ours gives it away.
    """

    cores: int
    waits: Waits = "spin"

    def __post_init__(self) -> None:
        check_integer(self.cores, "cores", 1, MOST_CORES)
        if self.waits not in get_args(Waits):
            raise OptionError(f"waits must be one of {', '.join(get_args(Waits))}, not {self.waits!r}")


@dataclass(frozen=True, slots=True)
class Workload:
    """The memory of each vCPU, and what a write to a protected block does.

    Attributes
    ----------
    memory : int
        Bytes of each vCPU, whole blocks of its backing.
    backing : Backing
        What a fault maps while nothing is logged.
    splits : {"lazy", "exact"}
        After a block became a table: the other pages fault again on nothing (KVM), or keep their translation (s2pt).
    """

    memory: int
    backing: Backing = Backing.THP
    splits: Splits = "exact"

    def __post_init__(self) -> None:
        object.__setattr__(self, "backing", Backing(self.backing))
        check_integer(self.memory, "memory", 1, (1 << 64) - 1)
        if self.memory < self.leaf or self.memory % self.leaf:
            raise OptionError(f"the memory of a vCPU must be a multiple of {self.leaf} bytes, not {self.memory}")
        if self.splits not in get_args(Splits):
            raise OptionError(f"splits must be one of {', '.join(get_args(Splits))}, not {self.splits!r}")

    @property
    def leaf(self) -> int:
        """Bytes of what one fault maps while nothing is logged."""
        return _LEAF[self.backing]

    def faults(self, pass_: Pass) -> int:
        """Count the faults of one vCPU."""
        check_pass(pass_)
        return self.memory // (self.leaf if pass_ == "populate" else PAGE)


@dataclass(frozen=True, slots=True)
class Demand:
    """What one fault asks for, in the mean of the faults of its pass.

    Attributes
    ----------
    outside_ns, inside_ns : float
        Work of the core out of the table's lock and in it.
    stall_ns : float
        Asleep in the lock.
    line_ns : float
        Each move of a cache line between cores.
    bus_ns : float
        The memory bus, one vCPU at a time.
    host_line : bool
        Whether the lock of the host's memory map is taken.
    """

    outside_ns: float
    inside_ns: float
    stall_ns: float
    line_ns: float
    bus_ns: float
    host_line: bool

    def __repr__(self) -> str:
        names = ("outside_ns", "inside_ns", "stall_ns", "line_ns", "bus_ns")
        numbers = (f"{name}={round(getattr(self, name), 1)}" for name in names)
        return f"Demand({', '.join(numbers)}, host_line={self.host_line})"


def check_pass(pass_: Pass) -> Pass:
    """Take the name of a pass."""
    if pass_ not in PASSES:
        raise OptionError(f"passes are {' and '.join(PASSES)}, not {pass_!r:.40}")
    return pass_


def demand(costs: Costs, machine: Machine, work: Workload, pass_: Pass) -> Demand:
    """Give what one fault of a pass asks for, in the mean.

    Parameters
    ----------
    costs : Costs
        Of the machine.
    machine : Machine
        A TLBI that all cores are told of costs more where there are more.
    work : Workload
        What is filled and written.
    pass_ : {"populate", "dirty"}
        Which pass.

    Returns
    -------
    Demand
        The fills and splits of a pass spread evenly over its faults.
    """
    outside, inside, stall, bus = costs.outside_ns, costs.inside_ns, 0.0, 0.0
    if pass_ == "populate":
        blocks = work.leaf / BLOCK
        outside += blocks * costs.fill_ns
        inside += blocks * costs.clean_ns
        bus = work.leaf / costs.bandwidth_gbs
    else:
        # A broken block is told to all cores; a page that may be written again only to this one. KVM forgets the rest
        # of a block that it breaks, so the other pages find nothing there, and a page that is new needs no TLBI.
        exact = work.splits == "exact"
        sizes = [size for size in _LEAF.values() if PAGE < size <= work.leaf]
        broken = sum(PAGE / size for size in (sizes if exact else sizes[-1:]))
        tlbis = 1.0 if exact or not sizes else broken
        inside += tlbis * costs.tlbi_ns + broken * costs.tlbi_core_ns * machine.cores
        inside += broken * costs.split_ns if exact else 0.0
        stall = tlbis * costs.stall_ns
    return Demand(outside, inside, stall, costs.line_ns, bus, costs.host_line)
