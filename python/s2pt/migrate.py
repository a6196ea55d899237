"""Live migration in a laboratory: a guest writes on simulated CPUs while its memory is copied away.

Examples
--------
>>> from s2pt import Migrate
>>> report = Migrate(memory="4MiB", vcpus=2, log="lazy", warm_up_s=0.001).run()
>>> report.lost_bytes
0
>>> report.pages_sent >= 1024
True
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from s2pt import _running
from s2pt._checks import check_heeded, nanoseconds
from s2pt._core import MigrateJob
from s2pt._numbers import check_address
from s2pt.costs import FREE, Costs
from s2pt.types import Backing, Policy, Semantics, format_size, parse_size
from s2pt.vm import eager_chunk, ring_entries

__all__ = ["Latency", "Migrate", "MigrateReport", "Round", "Throughput"]


@dataclass(frozen=True, slots=True)
class Round:
    """One round of copying while the guest runs.

    Attributes
    ----------
    pages : int
        Pages that were copied.
    sent_ns, harvested_ns : int
        How long the copying took, the bandwidth's limit counted in, and the harvest after it.
    found : int
        Pages that the harvest found.
    """

    pages: int
    sent_ns: int
    harvested_ns: int
    found: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """What the guest got done.

    Attributes
    ----------
    accesses : int
        Accesses of all vCPUs.
    time_ns : int
        In which time.
    """

    accesses: int
    time_ns: int

    @property
    def per_second(self) -> float:
        """Accesses a second; 0 if no time went by."""
        return self.accesses / (self.time_ns / 1e9) if self.time_ns else 0.0


@dataclass(frozen=True, slots=True)
class Latency:
    """How long many steps took, in nanoseconds.

    Attributes
    ----------
    count : int
        How many.
    p50_ns, p99_ns, p999_ns : int
        So many in 1000 (500, 990, 999) took no longer; to three digits.
    max_ns : int
        The longest.
    """

    count: int
    p50_ns: int
    p99_ns: int
    p999_ns: int
    max_ns: int


@dataclass(frozen=True, slots=True)
class MigrateReport:
    """A whole migration; its text is a summary.

    Attributes
    ----------
    rounds : tuple of Round
        The rounds while the guest ran.
    pages_sent, last_pages : int
        Pages copied in all (beyond those of the memory: again), and of them while the guest stood.
    downtime_ns, elapsed_ns, enabled_ns : int
        How long the guest stood; from the beginning of logging to the end; how long switching the log on took.
    before, during : Throughput
        What the guest did before, and while its memory was copied.
    lost_bytes : int or None
        Bytes that differ between source and destination at the end: writes that the log missed. None if the migration
        did not come to its end: there is nothing to compare then.
    wrong_reads : int
        Reads of a vCPU that did not give what it wrote last.
    faults, outcomes : dict of str to int
        Faults of all vCPUs by kind, and by how they ended.
    latency : Latency
        From a fault until its access got through, while the memory was copied.
    latency_buckets : tuple of (int, int)
        The distribution: upper ends in nanoseconds, ascending, and counts.
    held_up : Latency
        How long faults were held up by entries that peers held.
    longest_hold_ns : int
        The longest time for which a change by the host excluded all faults (0 under ``"lockless"``).
    violations : int
        Rules of the architecture that the simulated CPUs saw broken.
    complete : bool
        Whether the migration came to its end. If not, it was ended early: all else is what there was up to there.
    cut : str or None
        The step in which it was ended early: ``"warm-up"``, ``"enable"``, ``"round 3"``, ``"stop"``, ``"compare"``.
    """

    rounds: tuple[Round, ...]
    pages_sent: int
    last_pages: int
    downtime_ns: int
    elapsed_ns: int
    enabled_ns: int
    before: Throughput
    during: Throughput
    lost_bytes: int | None
    wrong_reads: int
    faults: dict[str, int]
    outcomes: dict[str, int]
    latency: Latency
    latency_buckets: tuple[tuple[int, int], ...]
    held_up: Latency
    longest_hold_ns: int
    violations: int
    complete: bool = True
    cut: str | None = None

    @property
    def slowdown(self) -> float:
        """Throughput before divided by that while migrating; infinite if the guest came to a halt."""
        during = self.during.per_second
        return self.before.per_second / during if during else float("inf")

    def __str__(self) -> str:
        pages = [str(entry.pages) for entry in self.rounds]
        took = self.latency
        lines = [
            f"{len(pages)} rounds of {', '.join(pages)} pages, the last {self.last_pages} while the guest stood",
            f"{self.pages_sent} pages sent in {self.elapsed_ns / 1e9:.3f} s, downtime {self.downtime_ns / 1e6:.3f} ms",
            f"guest {self.before.per_second:,.0f} accesses a second before, {self.during.per_second:,.0f} meanwhile",
            f"{took.count} faults: p50 {took.p50_ns / 1e3:.1f} us, p99 {took.p99_ns / 1e3:.1f}, "
            f"p99.9 {took.p999_ns / 1e3:.1f}, longest {took.max_ns / 1e3:.1f}",
            f"lost bytes {'not known' if self.lost_bytes is None else self.lost_bytes}, "
            f"wrong reads {self.wrong_reads}, rules broken {self.violations}",
        ]
        if not self.complete:
            lines.append(f"ended early, in {self.cut}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Migrate:
    """A migration to be run: the guest, how its writes are logged, the link to the other side.

    Pre-copy, as VMMs do it: everything is copied, then what was written to meanwhile, until the rest fits into the
    downtime or the rounds are used up; then the guest stops, the rest is copied, and both sides are compared byte by
    byte.

    Attributes
    ----------
    memory : int or str
        Bytes of guest memory.
    vcpus : int
        Threads, each a simulated CPU with a TLB of its own.
    backing : Backing or str
        The host's page size, and so the largest block.
    policy : Policy or str
        How faults and the host's work exclude one another.
    semantics : Semantics or str
        ``"kvm"``: faults and tables with KVM's habits.
    log : str
        ``"lazy"``: a bitmap, write protection, blocks split by the writes; ``"eager"``: blocks split ahead;
        ``"hardware"``: the hardware notes writes, without a fault; ``"ring"``: a ring for each vCPU.
    manual_protect : bool
        Clear by a call of its own, with every page dirty at first (not with ``"ring"``).
    ring_entries : int
        Entries of a ring.
    eager_chunk : int or str
        Bytes that are split ahead at a time.
    write_percent, hot_percent : int
        Accesses in 100 that write, and that go to the first tenth of the memory.
    think_s : float
        What a vCPU does between two accesses, in seconds.
    think_how : str
        ``"sleep"``: it gives up its core meanwhile; ``"spin"``: it burns it.
    bandwidth : int or str, optional
        Bytes a second that the other side takes; None: as fast as they can be copied.
    downtime_s : float
        The stop that is aimed at, in seconds.
    rounds : int
        Rounds before the guest is stopped whatever is left.
    warm_up_s : float
        How long the guest runs before, in seconds.
    take_backs : int
        How often in a second the host takes up to 64 pages back meanwhile.
    too_early : bool
        Break it on purpose: copy pages before their protection is complete. Needs `manual_protect` and no rings.
    seed : int
        Of all that is random.
    costs : Costs
        What TLBIs, exits, copied pages, cache operations and table frames cost.

    Raises
    ------
    OptionError, AlignmentError
        By `run`: an option is wrong or does nothing beside the others, or the machine has not twice the memory. Nothing
        ran.
    """

    memory: int | str = "64MiB"
    vcpus: int = 2
    backing: Backing | Literal["pages", "thp", "1g"] = "thp"
    policy: Policy | Literal["serial", "parallel", "lockless"] = "lockless"
    semantics: Semantics | Literal["exact", "kvm"] = "exact"
    log: Literal["lazy", "eager", "hardware", "ring"] = "lazy"
    manual_protect: bool = False
    ring_entries: int = 4096
    eager_chunk: int | str = "2MiB"
    write_percent: int = 50
    hot_percent: int = 50
    think_s: float = 0.0
    think_how: Literal["sleep", "spin"] = "sleep"
    bandwidth: int | str | None = "1GiB"
    downtime_s: float = 0.03
    rounds: int = 20
    warm_up_s: float = 0.1
    take_backs: int = 0
    too_early: bool = False
    seed: int = 1
    costs: Costs = FREE

    def job(self) -> MigrateJob:
        """Prepare the run, for who wants to watch it himself; nothing runs yet.

        Returns
        -------
        MigrateJob
            With ``start()``, ``wait(timeout_s)``, ``progress()``, ``cancel()`` and ``result()``.

        Raises
        ------
        OptionError, AlignmentError
            An option is wrong.
        """
        check_heeded("manual_protect", self.manual_protect, False, self.log != "ring", "rings are not cleared by hand")
        check_heeded("think_how", self.think_how, "sleep", bool(self.think_s), "the guest does not think (think_s)")
        return MigrateJob(
            memory=parse_size(self.memory),
            vcpus=check_address(self.vcpus, "vcpus"),
            backing=self.backing,
            policy=self.policy,
            semantics=self.semantics,
            log=self.log,
            manual_protect=self.manual_protect,
            ring_entries=ring_entries(self.log, self.ring_entries, 4096),
            eager_chunk=eager_chunk(self.log, self.eager_chunk),
            write_percent=check_address(self.write_percent, "write_percent"),
            hot_percent=check_address(self.hot_percent, "hot_percent"),
            think_ns=nanoseconds(self.think_s, "think_s"),
            bandwidth=None if self.bandwidth is None else parse_size(self.bandwidth),
            downtime_ns=nanoseconds(self.downtime_s, "downtime_s"),
            rounds=check_address(self.rounds, "rounds"),
            warm_up_ns=nanoseconds(self.warm_up_s, "warm_up_s"),
            take_backs=check_address(self.take_backs, "take_backs"),
            too_early=self.too_early,
            seed=check_address(self.seed, "seed"),
            think_how=self.think_how,
            costs=self.costs,
        )

    def run(self, *, progress: _running.Progress = None, poll_s: float = 0.05) -> MigrateReport:
        """Run it on threads of its own, and wait for it.

        The GIL is released meanwhile.

        Parameters
        ----------
        progress : callable or bool, optional
            Called now and then with the pages copied, and those to copy as far as is known; if it returns False the
            migration ends. True: a bar on standard error (extra ``cli``).
        poll_s : float
            Seconds between two such calls.

        Returns
        -------
        MigrateReport
            Of a migration that `progress` ended, with ``complete`` False and what there was up to there.

        Raises
        ------
        BaseException
            Whatever came up while waiting, `KeyboardInterrupt` first of all: it ends the migration, and its attribute
            ``report`` is what there was up to there.

        Examples
        --------
        >>> report = Migrate(memory="2MiB", log="ring", warm_up_s=0.001).run()
        >>> report.complete, report.lost_bytes, report.wrong_reads
        (True, 0, 0)
        """
        return _running.run(self.job(), report, progress, poll_s, f"{self}:")

    def __str__(self) -> str:
        memory = format_size(parse_size(self.memory))
        return f"{self.vcpus} vCPUs, {memory}, {self.log} log, policy {self.policy}"


def report(result: dict[str, Any]) -> MigrateReport:
    """Make a report of what a `MigrateJob` returns."""
    parts = dict(result)
    parts["rounds"] = tuple(Round(**row) for row in result["rounds"])
    parts["latency_buckets"] = tuple((end, count) for end, count in result["latency_buckets"])
    for name in ("before", "during"):
        parts[name] = Throughput(**result[name])
    for name in ("latency", "held_up"):
        parts[name] = Latency(**result[name])
    return MigrateReport(**parts)
