# Types of the extension module, checked against it by stubtest. The documentation is in the docstrings of the module.

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Literal, Self, SupportsIndex, TypeAlias, TypeVar, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer, disjoint_base

from s2pt.costs import Cost, Costs
from s2pt.events import Event
from s2pt.explain import Explanation
from s2pt.image import Difference, PtdumpRun
from s2pt.machine import LogEntry, Violation
from s2pt.recording import Recording
from s2pt.types import (
    Access,
    Backing,
    Blocks,
    Changed,
    DumpStyle,
    Entry,
    Existing,
    Geometry,
    Mapped,
    Mapping,
    MemType,
    Policy,
    Prot,
    ReclaimStats,
    Semantics,
    Stats,
    Translation,
    WalkFlags,
)

__all__ = [
    "LEAF_DTYPE",
    "AccessTrackingJob",
    "BenchJob",
    "Changed",
    "Cpu",
    "DemandPagingJob",
    "DirtyLogJob",
    "Entry",
    "Image",
    "ImageLeaves",
    "Job",
    "LeafIterator",
    "Machine",
    "Mapped",
    "Mapping",
    "MemslotsJob",
    "MigrateJob",
    "PageTableJob",
    "Ptdump",
    "ReplayJob",
    "Setup",
    "Stage2",
    "Translation",
    "Vm",
    "__version__",
    "explain_entry",
    "explain_esr",
    "explain_vtcr",
    "explain_vttbr",
    "read_syndromes",
]

__version__: str
LEAF_DTYPE: np.dtype[np.void]

_T = TypeVar("_T")
_Size: TypeAlias = SupportsIndex | str
_Access: TypeAlias = Access | Literal["r", "w", "x"]
_Style: TypeAlias = DumpStyle | Literal["exact", "kvm6", "kvm7"]
_Log: TypeAlias = Literal["lazy", "eager", "hardware", "ring"]
_Row: TypeAlias = tuple[str, str, int, str]

@disjoint_base
class Job:
    def start(self) -> None: ...
    def wait(self, timeout_s: float) -> bool: ...
    def progress(self) -> tuple[int, int, str]: ...
    def cancel(self) -> None: ...
    def result(self) -> dict[str, Any]: ...

@final
class BenchJob(Job):
    def __new__(cls, *, rows: list[str] | None = None, rounds: SupportsIndex, size: _Size) -> Self: ...

@final
class DirtyLogJob(Job):
    def __new__(
        cls,
        *,
        vcpus: SupportsIndex,
        bytes_per_vcpu: _Size,
        iterations: SupportsIndex,
        backing: Backing | Literal["pages", "thp", "1g"],
        manual_protect: bool,
        write_percent: SupportsIndex,
        random: bool,
        seed: SupportsIndex,
        policy: Policy | Literal["serial", "parallel", "lockless"],
        semantics: Semantics | Literal["exact", "kvm"] = "exact",
        log: _Log = "lazy",
        ring_entries: SupportsIndex = 65536,
        eager_chunk: _Size = 2097152,
        slots: SupportsIndex = 1,
        overlap: bool = False,
        stall_tlbi_ns: SupportsIndex = 0,
        stall_how: Literal["sleep", "spin"] = "sleep",
        costs: Costs | None = None,
    ) -> Self: ...

@final
class Setup:
    def __new__(
        cls,
        *,
        vcpus: SupportsIndex,
        bytes_per_vcpu: _Size,
        backing: Backing | Literal["pages", "thp", "1g"],
        policy: Policy | Literal["serial", "parallel", "lockless"],
        overlap: bool = False,
        slots: SupportsIndex = 1,
        semantics: Semantics | Literal["exact", "kvm"] = "exact",
        costs: Costs | None = None,
    ) -> Self: ...

@final
class AccessTrackingJob(Job):
    def __new__(cls, setup: Setup, *, hardware_af: bool) -> Self: ...

@final
class PageTableJob(Job):
    def __new__(cls, setup: Setup) -> Self: ...

@final
class MemslotsJob(Job):
    def __new__(
        cls,
        setup: Setup,
        *,
        test: Literal["map", "unmap", "unmap-chunked", "move-active", "move-inactive", "rw"],
        time_ns: SupportsIndex,
        iterations: SupportsIndex | None,
    ) -> Self: ...

@final
class DemandPagingJob(Job):
    def __new__(
        cls,
        setup: Setup,
        *,
        supply: Literal["kernel", "missing", "minor"],
        one_queue: bool,
        readers: SupportsIndex,
        delay: Cost,
    ) -> Self: ...

@final
class ReplayJob(Job):
    def __new__(
        cls,
        events: NDArray[np.uint64],
        *,
        ipa_bits: SupportsIndex,
        granule: _Size,
        start_level: SupportsIndex | None,
        lpa2: bool,
        policy: Policy | Literal["serial", "parallel", "lockless"],
        order: Literal["recorded", "threads", "free"],
        sizes: Literal["recorded", "trace"],
        semantics: Semantics | Literal["exact", "kvm"] = "exact",
        threads: SupportsIndex | None = None,
        stall_tlbi_ns: SupportsIndex = 0,
        stall_how: Literal["sleep", "spin"] = "sleep",
    ) -> Self: ...

@final
class Image:
    def __new__(
        cls,
        memory: Buffer | Callable[[int, int], Buffer | None],
        vtcr: SupportsIndex,
        vttbr: SupportsIndex,
        *,
        base: SupportsIndex = 0,
        fwb: bool | None = None,
        xnx: bool | None = None,
        dialect: Literal["own", "kvm6", "kvm7"] | None = None,
        blocks: Blocks | Literal["arch", "kvm"] = "arch",
    ) -> Self: ...
    @staticmethod
    def from_bytes(
        data: Buffer,
        *,
        fwb: bool | None = None,
        xnx: bool | None = None,
        dialect: Literal["own", "kvm6", "kvm7"] | None = None,
        blocks: Blocks | Literal["arch", "kvm"] = "arch",
    ) -> Image: ...
    def to_bytes(self) -> bytes: ...
    @property
    def vtcr(self) -> int: ...
    @property
    def vttbr(self) -> int: ...
    @property
    def root(self) -> int: ...
    @property
    def page_size(self) -> int: ...
    @property
    def geometry(self) -> Geometry: ...
    @property
    def fwb(self) -> bool: ...
    @property
    def xnx(self) -> bool: ...
    @property
    def dialect(self) -> Literal["own", "kvm6", "kvm7"]: ...
    @property
    def tables(self) -> dict[int, int]: ...
    def leaves(self, errors: Literal["raise", "skip"] = "raise") -> ImageLeaves: ...
    def __iter__(self) -> Iterator[Mapping]: ...
    def leaves_array(self, errors: Literal["raise", "skip"] = "raise") -> NDArray[np.void]: ...
    def invalid(self) -> list[tuple[int, int, int, str]]: ...
    def path(self, ipa: SupportsIndex) -> list[Entry]: ...
    def translate(self, ipa: SupportsIndex, access: _Access = "r", *, el: SupportsIndex = 1) -> Translation: ...
    def access_many(
        self, ipa: NDArray[np.uint64], access: _Access = "r", *, el: SupportsIndex = 1
    ) -> NDArray[np.void]: ...
    def diff(self, other: Image | Ptdump) -> list[Difference]: ...
    def dump(self, style: _Style = "exact") -> str: ...
    def dump_runs(self, style: _Style = "exact") -> list[PtdumpRun]: ...
    def explain(self, ipa: SupportsIndex, access: _Access = "r") -> Explanation: ...
    def _repr_html_(self) -> str: ...
    def _repr_svg_(self) -> str: ...

@final
class MigrateJob(Job):
    def __new__(
        cls,
        *,
        memory: _Size,
        vcpus: SupportsIndex,
        backing: Backing | Literal["pages", "thp", "1g"],
        policy: Policy | Literal["serial", "parallel", "lockless"],
        semantics: Semantics | Literal["exact", "kvm"],
        log: Literal["lazy", "eager", "hardware", "ring"],
        manual_protect: bool,
        ring_entries: SupportsIndex,
        eager_chunk: _Size,
        write_percent: SupportsIndex,
        hot_percent: SupportsIndex,
        think_ns: SupportsIndex,
        bandwidth: _Size | None,
        downtime_ns: SupportsIndex,
        rounds: SupportsIndex,
        warm_up_ns: SupportsIndex,
        take_backs: SupportsIndex,
        too_early: bool,
        seed: SupportsIndex,
        think_how: Literal["sleep", "spin"],
        costs: Costs,
    ) -> Self: ...

@final
class Ptdump:
    def __new__(cls, text: str | bytes) -> Self: ...
    @property
    def runs(self) -> list[PtdumpRun]: ...
    @property
    def end(self) -> int: ...
    def diff(self, other: Image | Ptdump) -> list[Difference]: ...

@final
class ImageLeaves:
    def __iter__(self) -> Self: ...
    def __next__(self) -> Mapping: ...
    def __length_hint__(self) -> int: ...

@final
class LeafIterator:
    def __iter__(self) -> Self: ...
    def __next__(self) -> Mapping: ...

@final
class Machine:
    def __new__(
        cls,
        table: Stage2 | Vm,
        cpus: SupportsIndex = 4,
        *,
        ram: _Size | None = None,
        pa: SupportsIndex | None = None,
        log: SupportsIndex = 1000,
    ) -> Self: ...
    @property
    def cpus(self) -> tuple[Cpu, ...]: ...
    @property
    def violations(self) -> list[Violation]: ...
    @property
    def violated(self) -> int: ...
    @property
    def counts(self) -> dict[str, int]: ...
    @property
    def maintenance(self) -> dict[str, int]: ...
    def audit(self) -> int: ...
    def check(self, ipa: SupportsIndex, size: _Size) -> int: ...
    def forget(self, ipa: SupportsIndex, size: _Size) -> None: ...
    def log(self) -> list[LogEntry]: ...
    def memory(self, pa: SupportsIndex, size: _Size) -> bytes: ...

@final
class Cpu:
    def read(self, ipa: SupportsIndex, size: SupportsIndex = 8) -> int: ...
    def write(self, ipa: SupportsIndex, value: SupportsIndex, size: SupportsIndex = 8) -> None: ...
    def fetch(self, ipa: SupportsIndex) -> int: ...
    def begin(
        self, ipa: SupportsIndex, access: _Access = "r", value: SupportsIndex = 0, size: SupportsIndex = 8
    ) -> None: ...
    def finish(self) -> int | None: ...
    def speculate(self, ipa: SupportsIndex) -> None: ...
    def run(self, function: Callable[[], _T]) -> _T: ...
    @property
    def number(self) -> int: ...
    @property
    def counts(self) -> dict[str, int]: ...
    @property
    def held(self) -> int: ...

@final
class Stage2:
    def __new__(
        cls,
        ipa_bits: SupportsIndex = 40,
        granule: _Size = "4KiB",
        pa_bits: SupportsIndex = 48,
        *,
        start_level: SupportsIndex | None = None,
        lpa2: bool = False,
        fwb: bool = False,
        xnx: bool = False,
        blocks: Blocks | Literal["arch", "kvm"] | None = None,
        semantics: Semantics | Literal["exact", "kvm"] = "exact",
        vmid: SupportsIndex = 1,
        frames: SupportsIndex | None = None,
        pending_limit: SupportsIndex | None = None,
        tlbi_range: bool = True,
        ha: bool = True,
        hd: bool = False,
        sink: Literal["counting", "recording"]
        | Callable[[str, dict[str, int | str | bool | None]], object]
        | None = None,
        stall_tlbi_ns: SupportsIndex = 0,
        stall_how: Literal["sleep", "spin"] = "sleep",
    ) -> Self: ...
    @property
    def vtcr(self) -> int: ...
    @property
    def vttbr(self) -> int: ...
    @property
    def root(self) -> int: ...
    @property
    def geometry(self) -> Geometry: ...
    @property
    def frames_in_use(self) -> int: ...
    @property
    def reclaim(self) -> ReclaimStats: ...
    @property
    def closed(self) -> bool: ...
    def map(
        self,
        ipa: SupportsIndex,
        size: _Size,
        pa: SupportsIndex,
        prot: Prot = ...,
        *,
        memtype: MemType | str = ...,
        existing: Existing | str = "replace",
        largest: SupportsIndex | None = None,
        software: SupportsIndex = 0,
        af: bool = True,
        over_tables: bool = False,
        flags: WalkFlags | SupportsIndex = 0,
        budget: SupportsIndex | None = None,
    ) -> Mapped: ...
    def unmap(self, ipa: SupportsIndex, size: _Size) -> int: ...
    def protect(self, ipa: SupportsIndex, size: _Size, prot: Prot) -> Changed: ...
    def write_protect(self, ipa: SupportsIndex, size: _Size) -> Changed: ...
    def relax(self, ipa: SupportsIndex, size: _Size, prot: Prot) -> Changed: ...
    def mark_young(self, ipa: SupportsIndex, size: _Size) -> Changed: ...
    def test_young(self, ipa: SupportsIndex, size: _Size) -> bool: ...
    def test_and_clear_young(self, ipa: SupportsIndex, size: _Size, flush: bool = False) -> bool: ...
    def split(
        self, ipa: SupportsIndex, size: _Size, level: SupportsIndex = 3, *, budget: SupportsIndex | None = None
    ) -> int: ...
    def annotate(
        self, ipa: SupportsIndex, size: _Size, owner: SupportsIndex, *, budget: SupportsIndex | None = None
    ) -> None: ...
    def flush_cache(self, ipa: SupportsIndex, size: _Size) -> int: ...
    def flush_tlb(self, ipa: SupportsIndex, size: _Size) -> None: ...
    def collapse(self, ipa: SupportsIndex, size: _Size) -> int: ...
    def translate(self, ipa: SupportsIndex, access: _Access = "r") -> Translation: ...
    def lookup(self, ipa: SupportsIndex) -> Entry: ...
    def __getitem__(self, ipa: SupportsIndex, /) -> Mapping: ...
    def __contains__(self, ipa: SupportsIndex, /) -> bool: ...
    def leaves(self, ipa: SupportsIndex = 0, size: _Size | None = None) -> LeafIterator: ...
    def __iter__(self) -> Iterator[Mapping]: ...
    def leaves_array(self, ipa: SupportsIndex = 0, size: _Size | None = None) -> NDArray[np.void]: ...
    def entries_array(self) -> NDArray[np.void]: ...
    def image(self) -> Image: ...
    def dump(self, style: _Style = "exact") -> str: ...
    def explain(self, ipa: SupportsIndex, access: _Access = "r") -> Explanation: ...
    def _repr_html_(self) -> str: ...
    def _repr_svg_(self) -> str: ...
    def stats(self) -> Stats: ...
    def drain(self) -> None: ...
    def counts(self) -> dict[str, int]: ...
    def events(self) -> list[Event]: ...
    def trace(self) -> Recording: ...
    def map_many(
        self,
        ipa: NDArray[np.uint64],
        pa: NDArray[np.uint64],
        size: _Size | None = None,
        prot: Prot = ...,
        *,
        memtype: MemType | str = ...,
        existing: Existing | str = "replace",
        largest: SupportsIndex | None = None,
        software: SupportsIndex = 0,
        af: bool = True,
    ) -> Mapped: ...
    def unmap_many(self, ipa: NDArray[np.uint64], size: _Size | None = None) -> int: ...
    def translate_many(
        self, ipa: NDArray[np.uint64], access: _Access = "r"
    ) -> tuple[NDArray[np.uint64], NDArray[np.int8], NDArray[np.uint8]]: ...
    def touch(self, ipa: NDArray[np.uint64], access: _Access = "r") -> NDArray[np.uint8]: ...
    def fail_allocation(self, k: SupportsIndex) -> None: ...
    def without_waiting(self) -> Stage2: ...
    def poke(self, ipa: SupportsIndex, level: SupportsIndex, value: SupportsIndex) -> int: ...
    def _record(
        self,
        ipa: SupportsIndex,
        *,
        pages: SupportsIndex,
        threads: SupportsIndex,
        operations: SupportsIndex,
        seed: SupportsIndex,
        blocks: bool,
    ) -> NDArray[np.uint64]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

@disjoint_base
class Vm:
    def __new__(
        cls,
        memory: _Size | None = None,
        *,
        backing: Backing | Literal["pages", "thp", "1g"] = "thp",
        policy: Policy | Literal["serial", "parallel", "lockless"] = "lockless",
        ipa: SupportsIndex = 0x4000_0000,
        pa: SupportsIndex | None = None,
        ipa_bits: SupportsIndex = 40,
        granule: _Size = "4KiB",
        pa_bits: SupportsIndex = 48,
        start_level: SupportsIndex | None = None,
        lpa2: bool = False,
        blocks: Blocks | Literal["arch", "kvm"] = "arch",
        fwb: bool = False,
        semantics: Semantics | Literal["exact", "kvm"] = "exact",
        execute_eagerly: bool = False,
        dirty_ring: SupportsIndex = 0,
        hd: bool = False,
        sink: Literal["counting", "recording"] | None = "counting",
        stall_tlbi_ns: SupportsIndex = 0,
        stall_how: Literal["sleep", "spin"] = "sleep",
        costs: Costs | None = None,
    ) -> Self: ...
    def add_slot(
        self,
        id: SupportsIndex,
        ipa: SupportsIndex,
        size: _Size,
        pa: SupportsIndex,
        *,
        host: SupportsIndex | None = None,
        readonly: bool = False,
    ) -> None: ...
    def remove_slot(self, id: SupportsIndex) -> None: ...
    def move_slot(self, id: SupportsIndex, ipa: SupportsIndex) -> None: ...
    def _slots(self) -> list[tuple[int, int, int, int | None, int, bool]]: ...
    def access(self, ipa: SupportsIndex, access: _Access = "r") -> Translation: ...
    def touch(self, ipa: NDArray[np.uint64], access: _Access = "r") -> int: ...
    def translate(self, ipa: SupportsIndex, access: _Access = "r") -> Translation: ...
    def handle_fault(
        self,
        ipa: SupportsIndex,
        access: _Access = "r",
        *,
        kind: Literal["translation", "permission", "access-flag", "address-size"] = "translation",
        level: SupportsIndex | None = None,
        s1ptw: bool = False,
    ) -> tuple[str, str]: ...
    def handle_syndrome(self, esr: SupportsIndex, far: SupportsIndex, hpfar: SupportsIndex) -> tuple[str, str]: ...
    def take_back(self, ipa: SupportsIndex, size: _Size) -> tuple[int, bool]: ...
    def age(self, ipa: SupportsIndex, size: _Size, clear: bool = True) -> bool: ...
    def write_protect(self, ipa: SupportsIndex, size: _Size) -> Changed: ...
    def split(self, ipa: SupportsIndex, size: _Size) -> int: ...
    def enable_dirty_log(
        self, slot: SupportsIndex, mode: Literal["auto", "manual", "initially-set"] = "initially-set"
    ) -> None: ...
    def disable_dirty_log(self, slot: SupportsIndex) -> None: ...
    def dirty_log(self, slot: SupportsIndex) -> NDArray[np.uint64]: ...
    def clear_dirty_log(
        self, slot: SupportsIndex, first_page: SupportsIndex, pages: SupportsIndex, bitmap: NDArray[np.uint64]
    ) -> None: ...
    def _dirty_log_job(
        self,
        *,
        slot: SupportsIndex,
        vcpus: SupportsIndex,
        bytes_per_vcpu: _Size,
        iterations: SupportsIndex,
        manual_protect: bool,
        write_percent: SupportsIndex,
        random: bool,
        seed: SupportsIndex,
        log: _Log,
        eager_chunk: _Size,
        slots: SupportsIndex,
        overlap: bool,
    ) -> DirtyLogJob: ...
    def leaves_array(self) -> NDArray[np.void]: ...
    def stats(self) -> Stats: ...
    def counts(self) -> dict[str, int] | None: ...
    def trace(self) -> Recording: ...
    def drain(self) -> None: ...
    @property
    def frames_in_use(self) -> int: ...
    @property
    def vtcr(self) -> int: ...
    @property
    def vttbr(self) -> int: ...
    @property
    def geometry(self) -> Geometry: ...
    @property
    def policy(self) -> Literal["serial", "parallel", "lockless"]: ...

def explain_entry(
    value: SupportsIndex,
    *,
    level: SupportsIndex,
    granule: _Size = 4096,
    lpa2: bool = False,
    xnx: bool = False,
    fwb: bool = False,
    pa_bits: SupportsIndex = 48,
    dialect: Literal["own", "kvm6", "kvm7"] = "own",
) -> list[_Row]: ...
def explain_vtcr(value: SupportsIndex) -> list[_Row]: ...
def explain_vttbr(value: SupportsIndex, *, vtcr: SupportsIndex | None = None) -> list[_Row]: ...
def explain_esr(
    value: SupportsIndex, *, far: SupportsIndex | None = None, hpfar: SupportsIndex | None = None
) -> list[_Row]: ...
def read_syndromes(esr: NDArray[np.uint64], far: NDArray[np.uint64], hpfar: NDArray[np.uint64]) -> NDArray[np.void]: ...
