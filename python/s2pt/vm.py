"""The memory of a VM, and experiments on it that run in threads of their own.

Examples
--------
>>> import s2pt
>>> vm = s2pt.Vm(memory="64MiB", backing="thp", policy="parallel")
>>> vm.access(0x4000_1234, "w")
Translation(pa=0x40001234, level=2, prot=RW, memtype=NORMAL)
>>> report = vm.run(s2pt.DirtyLog(vcpus=2, iterations=2))
>>> [phase.phase for phase in report.phases]
['populate', 'enable', 'dirty 1', 'get 1', 'clear 1', 'dirty 2', 'get 2', 'clear 2', 'disable']
>>> report.phases[-2].found, report.phases[-3].found
(None, 16384)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from s2pt import _core, _running
from s2pt._checks import check_heeded, check_integer, check_type
from s2pt._numbers import check_address
from s2pt._steps import Report, Step, make
from s2pt.errors import Fault
from s2pt.types import Access, format_size, parse_size

__all__ = ["DirtyLog", "DirtyLogReport", "Slot", "Step", "Vm"]


class Slot(NamedTuple):
    """A run of guest memory.

    Attributes
    ----------
    id : int
        What calls name it by.
    ipa, size : int
        Where it starts in the guest, and its bytes.
    pa : int or None
        Where it starts in host memory.
    host : int
        Where it starts in the host process.
    readonly : bool
        Whether writes are left to the device model.
    """

    id: int
    ipa: int
    size: int
    pa: int | None
    host: int
    readonly: bool

    def __repr__(self) -> str:
        pa = "None" if self.pa is None else hex(self.pa)
        readonly = ", readonly" if self.readonly else ""
        return f"Slot({self.id}, ipa={self.ipa:#x}, size={format_size(self.size)}, pa={pa}{readonly})"


@dataclass(frozen=True, slots=True)
class DirtyLog:
    """The passes of KVM's dirty_log_perf_test.

    Every vCPU writes its memory once; logging is switched on; in each iteration every vCPU accesses its memory, the
    host gets the bitmap and, with manual protection, clears it; logging is switched off.

    Attributes
    ----------
    vcpus : int
        Threads, one for each vCPU.
    bytes_per_vcpu : int or str, optional
        Memory of each; None: an equal part of the slot.
    iterations : int
        How often the memory is dirtied and harvested.
    write_percent : int
        Accesses in 100 that write, the others read; the first pass always writes.
    random : bool
        Pages in random order instead of each in turn.
    seed : int
        vCPU `i` uses ``seed + i``.
    manual_protect : bool
        Clear by a call of its own, with every page dirty at first (not with ``"ring"``).
    slot : int
        Which slot, or the first of several.
    log : str
        ``"lazy"``: a bitmap, write protection, blocks split by the writes; ``"eager"``: blocks split ahead;
        ``"hardware"``: the hardware notes writes (``Vm(hd=True)``); ``"ring"``: a ring for each vCPU
        (``Vm(dirty_ring=...)``), which empties it when it is full.
    eager_chunk : int or str
        Bytes that are split ahead at a time.
    slots : int
        How many slots, one behind the other with consecutive ids.
    overlap : bool
        Every vCPU goes through the memory of all.
    """

    vcpus: int = 1
    bytes_per_vcpu: int | str | None = None
    iterations: int = 2
    write_percent: int = 100
    random: bool = False
    seed: int = 1
    manual_protect: bool = True
    slot: int = 0
    log: Literal["lazy", "eager", "hardware", "ring"] = "lazy"
    eager_chunk: int | str = "2MiB"
    slots: int = 1
    overlap: bool = False


def eager_chunk(log: str, given: int | str) -> int:
    """Read how much is split ahead at a time, which means something to one kind of log alone."""
    chunk = parse_size(given)
    check_heeded("eager_chunk", chunk, 2 << 20, log == "eager", f"a log {log!r} splits nothing ahead")
    return chunk


def ring_entries(log: str, given: int, default: int) -> int:
    """Read the entries of a ring, which one kind of log alone has."""
    check_heeded("ring_entries", given, default, log == "ring", f"a log {log!r} has no rings")
    return given


class DirtyLogReport(Report):
    """A whole run of `DirtyLog`.

    Its steps are ``"populate"``, ``"enable"``, ``"dirty 1"``, ``"get 1"``, ``"clear 1"``, ..., ``"disable"``. What a
    ``"get"`` found are the dirty pages of the bitmap that was fetched, or of the rings.
    """

    __slots__ = ()


class Vm(_core.Vm):  # noqa: D101 - documented where it is implemented
    __doc__ = _core.Vm.__doc__

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The memory slots, ascending by guest address."""
        return tuple(Slot(*row) for row in self._slots())

    def handle(self, fault: Fault) -> tuple[str, str]:
        """Handle a fault that `translate` raised; as `handle_fault`.

        Examples
        --------
        >>> vm = Vm(memory="64MiB")
        >>> try:
        ...     vm.translate(0x4000_0000, "w")
        ... except Fault as fault:
        ...     vm.handle(fault)
        ('handled', 'mapped')
        """
        if not isinstance(fault, Fault):
            raise TypeError(f"fault must be a Fault, not {type(fault).__name__}")
        kind: Any = fault.kind
        return self.handle_fault(fault.ipa or 0, Access(fault.access or "r"), kind=kind, level=fault.level)

    def run(
        self,
        job: DirtyLog,
        *,
        progress: _running.Progress = None,
        poll_s: float = 0.05,
    ) -> DirtyLogReport:
        """Run an experiment on threads of its own, and wait for it.

        The GIL is released while it runs. However it ends, the log is off afterwards.

        Parameters
        ----------
        job : DirtyLog
            What to run.
        progress : callable or bool, optional
            Called now and then with the accesses done and those there are in all (0: not known yet); if it returns
            False the run ends. True: a bar on standard error (extra ``cli``).
        poll_s : float
            Seconds between two such calls.

        Returns
        -------
        DirtyLogReport
            Of a run that `progress` ended, with ``complete`` False and the steps up to there.

        Raises
        ------
        OptionError, AlignmentError
            An option is wrong; nothing ran.
        OutOfFramesError
            Too few frames for the tables.
        BaseException
            Whatever came up while waiting, `KeyboardInterrupt` first of all: it ends the run, and its attribute
            ``report`` is what there was up to there.

        Examples
        --------
        >>> vm = Vm(memory="64MiB")
        >>> report = vm.run(DirtyLog(iterations=1_000_000), progress=lambda done, total: done < 100_000, poll_s=0.001)
        >>> report.complete, report.phases[0].phase
        (False, 'populate')
        """
        check_type(job, DirtyLog, "job")
        # Their own limits are the run's to say.
        vcpus, slots, slot = (
            check_integer(getattr(job, name), name, 0, 2**32 - 1) for name in ("vcpus", "slots", "slot")
        )
        counts = {name: check_address(getattr(job, name), name) for name in ("iterations", "write_percent", "seed")}
        share = self._share(slot, slots, vcpus) if job.bytes_per_vcpu is None else job.bytes_per_vcpu
        prepared = self._dirty_log_job(
            slot=slot,
            vcpus=vcpus,
            bytes_per_vcpu=share,
            manual_protect=job.manual_protect,
            random=job.random,
            log=job.log,
            eager_chunk=eager_chunk(job.log, job.eager_chunk),
            slots=slots,
            overlap=job.overlap,
            **counts,
        )
        return _running.run(prepared, lambda found: make(DirtyLogReport, found), progress, poll_s, f"{vcpus} vCPUs:")

    def _share(self, first: int, slots: int, vcpus: int) -> int:
        page = self.geometry.granule
        size = sum(slot.size for slot in self.slots if first <= slot.id < first + slots)
        return size // max(1, vcpus) // page * page
