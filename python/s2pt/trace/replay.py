"""A recorded guest, done again to our table, as a run like others: options, progress, a typed report.

Examples
--------
>>> from s2pt.trace import Replay, read
>>> report = Replay(read("tests/data/kvm-traces/thpon_2vcpu.txt.xz")).run()
>>> report.complete, report.unexplained, [dump.name for dump in report.dumps]
(True, 0, ['end'])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from s2pt import _running
from s2pt._core import ReplayJob
from s2pt.costs import NOTHING, Cost
from s2pt.errors import OptionError
from s2pt.trace.compare import Cause, Comparison, LevelDifference, compare
from s2pt.trace.events import as_words
from s2pt.trace.load import Trace
from s2pt.types import Policy, Semantics

__all__ = ["Replay", "ReplayReport"]

Sizes = Literal["recorded", "trace"]


def check_sizes(sizes: str | None, order: str, semantics: Semantics | str) -> bool:
    """Refuse what contradicts itself whatever the trace; say whether recorded sizes make no sense."""
    # A page mapped into a block drops its other pages: which ones are there then, only the recorded order tells.
    reordered = Semantics(semantics) is Semantics.KVM and order != "recorded"
    if sizes == "recorded" and reordered:
        raise OptionError(
            "with KVM's semantics recorded calls drop other pages in another order; take sizes trace with threads"
        )
    return reordered


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay did, and how our table differs from KVM's; its text is a summary.

    Attributes
    ----------
    policy, order, sizes, semantics : str
        How it was run.
    elapsed_ns : int
        Wall time of the rows, without the comparison.
    threads : int
        Threads that did the faults.
    faults, mmio, skipped, no_pa : int
        Recorded faults done; of them those that left for the device model, those about which KVM had done nothing,
        and those for whose page an address was made up.
    fault_kinds, outcomes : dict of str to int
        All faults that were handled by kind, and by how they ended.
    maintenance : dict of str to int, or None
        Maintenance issued.
    levels_checked, levels_skipped : int
        Faults whose level was compared (order ``"recorded"`` only), and those of a stage-1 walk, which names none.
    levels : tuple of LevelDifference
        Where the levels differ, with causes.
    exit_differences : tuple of (int, int, bool)
        Where it was memory for one of the two only: row, IPA, whether we left.
    taken_back : int
        Bytes that the host took back.
    dumps : tuple of Comparison
        Our table against each recorded one.
    stats : dict
        Tables, leaves and marks at the end, as `Stage2.stats` counts them.
    frames : int
        Table frames in use at the end.
    longest_hold_ns, waits : int
        As in `s2pt.DirtyLogReport`.
    complete : bool
        Whether all rows were done. If not, it was ended early: all else is what there was up to there.
    """

    policy: str
    order: str
    sizes: str
    semantics: str
    elapsed_ns: int
    threads: int
    faults: int
    mmio: int
    skipped: int
    no_pa: int
    fault_kinds: dict[str, int]
    outcomes: dict[str, int]
    maintenance: dict[str, int] | None
    levels_checked: int
    levels_skipped: int
    levels: tuple[LevelDifference, ...]
    exit_differences: tuple[tuple[int, int, bool], ...]
    taken_back: int
    dumps: tuple[Comparison, ...]
    stats: dict[str, Any]
    frames: int
    longest_hold_ns: int
    waits: int
    complete: bool = True

    @property
    def unexplained(self) -> int:
        """Differences without a known cause, and marks that nobody should have left."""
        unknown = sum(one.cause is Cause.UNKNOWN for dump in self.dumps for one in dump.differences)
        unknown += sum(level.cause is Cause.UNKNOWN for level in self.levels) + len(self.exit_differences)
        left: int = self.stats["locked"] + self.stats["frozen"]
        return unknown + left

    def __str__(self) -> str:
        lines = [f"{self.faults} faults by {self.threads} threads in {self.elapsed_ns / 1e9:.3f} s"]
        lines += [f"dump {dump.name}: {dump.same} of {dump.theirs} leaves equal" for dump in self.dumps]
        lines.append(f"{self.unexplained} differences without a known cause")
        return "\n".join(lines if self.complete else [*lines, "ended early"])


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay to be run.

    Attributes
    ----------
    trace : Trace
        The recorded run, as `s2pt.trace.read` gives it.
    policy : Policy or str
        How faults and the host's work exclude one another.
    order : str
        ``"recorded"``: one event after the other; ``"threads"``: a thread for each vCPU, events of the host are
        barriers; ``"free"``: no barriers.
    sizes : str, optional
        ``"trace"``: decide as KVM does; ``"recorded"``: as recorded. None: as recorded if it was, and that makes sense.
    semantics : Semantics or str
        ``"kvm"``: faults and tables with KVM's habits.
    threads : int, optional
        So many threads, instead of one for each vCPU.
    tlbi : Cost or str
        What a TLBI costs.

    Raises
    ------
    OptionError
        By `run`: the options contradict each other, or the trace; nothing ran.
    """

    trace: Trace
    policy: Policy | Literal["serial", "parallel", "lockless"] = "lockless"
    order: Literal["recorded", "threads", "free"] = "recorded"
    sizes: Sizes | None = None
    semantics: Semantics | Literal["exact", "kvm"] = "exact"
    threads: int | None = None
    tlbi: Cost | str = NOTHING

    def chosen_sizes(self) -> Sizes:
        """Say who decides how large a mapping is."""
        recorded = self.trace.has_sizes
        reordered = check_sizes(self.sizes, self.order, self.semantics)
        if self.sizes is None:
            return "recorded" if recorded and not reordered else "trace"
        if self.sizes == "recorded" and not recorded:
            raise OptionError(f"{self.trace.name} has neither TAG.faults.csv nor TAG.pgt.txt to take sizes from")
        return self.sizes

    def job(self) -> ReplayJob:
        """Prepare the run, for who wants to watch it himself; nothing runs yet. `report` reads its result."""
        shape, tlbi = self.trace.shape, self.tlbi
        tlbi = Cost.parse(tlbi) if isinstance(tlbi, str) else tlbi
        return ReplayJob(
            as_words(self.trace.events),
            ipa_bits=shape.ipa_bits,
            granule=shape.page_size,
            start_level=shape.start_level,
            lpa2=shape.lpa2,
            policy=self.policy,
            order=self.order,
            sizes=self.chosen_sizes(),
            semantics=self.semantics,
            threads=self.threads,
            stall_tlbi_ns=tlbi.ns,
            stall_how=tlbi.how,
        )

    def report(self, result: dict[str, Any]) -> ReplayReport:
        """Make a report of what the job returns: compare our tables with KVM's."""
        parts = dict(result)
        keeps = Semantics(self.semantics) is Semantics.EXACT
        dumps, levels = compare(self.trace, parts.pop("snapshots"), parts.pop("level_differences"), keeps)
        return ReplayReport(
            policy=Policy(self.policy).value,
            order=self.order,
            sizes=self.chosen_sizes(),
            semantics=Semantics(self.semantics).value,
            dumps=tuple(dumps),
            levels=tuple(levels),
            exit_differences=tuple(parts.pop("exit_differences")),
            **parts,
        )

    def run(self, *, progress: _running.Progress = None, poll_s: float = 0.05) -> ReplayReport:
        """Run it on threads of its own, wait for it, and compare.

        Parameters
        ----------
        progress : callable or bool, optional
            Called now and then with the rows done and those there are; if it returns False the replay ends. True: a
            bar on standard error (extra ``cli``).
        poll_s : float
            Seconds between two such calls.

        Returns
        -------
        ReplayReport
            Of a replay that `progress` ended, with ``complete`` False and what there was up to there.

        Raises
        ------
        BaseException
            Whatever came up while waiting, `KeyboardInterrupt` first of all: it ends the replay, and its attribute
            ``report`` is what there was up to there.
        """
        return _running.run(self.job(), self.report, progress, poll_s, f"{self.trace.name}, {Policy(self.policy)}:")
