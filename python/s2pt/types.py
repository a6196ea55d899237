"""What goes into the calls and what comes out of them: permissions, choices, results, sizes and addresses.

The extension module, the model and the readers of dumps and traces share these types, so that a result of one compares
equal to the same result of another. Results are frozen and slotted; their reprs are short, with addresses in hex.
Choices are enumerations whose members are their own text: ``Existing.KEEP == "keep"``, and every call takes either.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag, StrEnum
from typing import ClassVar, TypeVar

from s2pt import _core
from s2pt._numbers import check_address, check_level, format_size, parse_size

__all__ = [
    "Access",
    "Backing",
    "Blocks",
    "Changed",
    "DumpStyle",
    "Entry",
    "Existing",
    "FaultCode",
    "Geometry",
    "Mapped",
    "Mapping",
    "MemType",
    "Policy",
    "Prot",
    "ReclaimStats",
    "Semantics",
    "Stats",
    "Translation",
    "WalkFlags",
    "check_address",
    "check_level",
    "format_size",
    "parse_size",
]


# --- permissions and choices ---------------------------------------------------------------------------------------


class Prot(IntFlag):
    """What a leaf allows: read, write, execute; execute in two halves where the CPU has FEAT_XNX.

    Examples
    --------
    >>> Prot.R | Prot.W
    Prot.RW
    >>> str(Prot.RWX), str(Prot.R | Prot.PX), str(Prot.NONE)
    ('RWX', 'R|PX', 'NONE')
    >>> Prot.W in Prot.RX
    False
    """

    NONE = 0
    PX = 1
    """Execute at EL1."""
    UX = 2
    """Execute at EL0."""
    X = 3
    W = 4
    R = 8
    RX = 11
    RW = 12
    RWX = 15

    def __str__(self) -> str:
        parts = [flag.name or "" for flag in (Prot.R, Prot.W) if flag in self]
        half = self & Prot.X
        if half and half != Prot.X:
            return "|".join([*(["".join(parts)] if parts else []), "PX" if half == Prot.PX else "UX"])
        return "".join([*parts, "X" if half else ""]) or "NONE"

    def __repr__(self) -> str:
        return "|".join(f"Prot.{part}" for part in str(self).split("|"))


class _Choice(StrEnum):
    """An enumeration of texts; a wrong text is refused with the list of right ones."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    @classmethod
    def _missing_(cls, value: object) -> None:
        names = ", ".join(repr(member.value) for member in cls)
        raise ValueError(f"{cls.__name__.lower()} must be one of {names}, not {value!r}")


class MemType(_Choice):
    """The memory type that stage 2 gives to a leaf.

    Examples
    --------
    >>> MemType("normal"), MemType.DEVICE.forbids_execute
    (MemType.NORMAL, True)
    """

    DEVICE_NGNRNE = "device-nGnRnE"
    DEVICE_NGNRE = "device-nGnRE"
    DEVICE_NGRE = "device-nGRE"
    DEVICE_GRE = "device-GRE"
    NORMAL_NC = "normal-nc"
    NORMAL_WT = "normal-wt"
    NORMAL = "normal"
    AS_STAGE1 = "as-stage1"
    DEVICE = "device-nGnRE"
    """The device type that KVM gives to a guest: an alias of DEVICE_NGNRE."""

    @property
    def forbids_execute(self) -> bool:
        """Whether execute permission is refused with this type: device and non-cacheable memory."""
        return self.value.startswith("device") or self is MemType.NORMAL_NC


class Access(_Choice):
    """One kind of access to memory.

    Examples
    --------
    >>> Access("w")
    Access.WRITE
    """

    READ = "r"
    WRITE = "w"
    EXECUTE = "x"


class Existing(_Choice):
    """What `map` does where something is mapped already."""

    REPLACE = "replace"
    KEEP = "keep"
    ERROR = "error"


class FaultCode(IntEnum):
    """What became of an access, as the arrays of `Stage2.translate_many`, `touch` and `Image.access_many` say it.

    An external abort is the hardware's answer to a table that is in no memory: the tables of a `Stage2` never are.

    Examples
    --------
    >>> FaultCode(3)
    <FaultCode.PERMISSION: 3>
    """

    NONE = 0
    TRANSLATION = 1
    ACCESS_FLAG = 2
    PERMISSION = 3
    ADDRESS_SIZE = 4
    EXTERNAL_ABORT = 5


class Blocks(_Choice):
    """At which levels a block may stand: all that the architecture allows, or only those that KVM uses."""

    ARCH = "arch"
    KVM = "kvm"


class DumpStyle(_Choice):
    """How a table is written in the line format of KVM's file ``stage2_page_tables``.

    ``EXACT`` shows every entry as the hardware takes it; ``KVM6`` and ``KVM7`` are what Linux 6.12 and 7 print, to the
    byte.
    """

    EXACT = "exact"
    KVM6 = "kvm6"
    KVM7 = "kvm7"


class Semantics(_Choice):
    """Whose habits a table has: this library's (an operation changes its range and nothing else), or Linux KVM's."""

    EXACT = "exact"
    KVM = "kvm"


class WalkFlags(IntFlag):
    """How KVM's callers walk, with KVM's bit numbers; for `Stage2.map` with ``semantics="kvm"``.

    Examples
    --------
    >>> WalkFlags.SHARED | WalkFlags.HANDLE_FAULT
    <WalkFlags.FAULT: 24>
    """

    SHARED = 8
    """Others walk at the same time: software bits change by break-before-make."""
    HANDLE_FAULT = 16
    """A fault: the first entry that is left alone ends the call with `Again`."""
    SKIP_BBM_TLBI = 32
    """No TLBI between break and make."""
    SKIP_CMO = 64
    """No cache maintenance on what is mapped."""
    FAULT = 24
    """What a vCPU's fault passes."""


class Policy(_Choice):
    """How the VM layer locks its table.

    ``SERIAL`` takes one exclusive lock for everything, ``PARALLEL`` lets faults share and excludes the rest (KVM since
    6.2), ``LOCKLESS`` takes none.
    """

    SERIAL = "serial"
    PARALLEL = "parallel"
    LOCKLESS = "lockless"


class Backing(_Choice):
    """The host memory behind a VM: pages, 2 MiB transparent huge pages, or 1 GiB huge pages."""

    PAGES = "pages"
    THP = "thp"
    HUGE_1G = "1g"


# --- results -------------------------------------------------------------------------------------------------------


_T = TypeVar("_T")

# What the rest of the world asks a result, next to its fields: repr, documentation, `match`, `dataclasses`.
_DECLARED = ("__doc__", "__annotations__", "__match_args__", "__dataclass_fields__", "__dataclass_params__", "__repr__")


def _stored_natively(declared: type[_T]) -> type[_T]:
    """Put the class of the same name and fields of the extension module in the place of a dataclass.

    Its objects are made in a tenth of the time, as a frozen dataclass sets field by field. What is declared here holds
    for it: fields, documentation, repr.
    """
    native: type[_T] = getattr(_core, declared.__name__)
    for source in (_Result, declared):
        for name, value in vars(source).items():
            if name in (*_DECLARED, "_hex", "_sizes", "_show"):
                setattr(native, name, value)
    return native


class _Result:
    """Repr of a result: ``_hex`` names its addresses, ``_sizes`` its sizes."""

    __slots__ = ()
    _hex: ClassVar[frozenset[str]] = frozenset()
    _sizes: ClassVar[frozenset[str]] = frozenset()

    def __repr__(self) -> str:
        parts = [f"{f.name}={self._show(f.name)}" for f in fields(self)]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(parts)})"

    def _show(self, name: str) -> str:
        value = getattr(self, name)
        if value is None:
            return "None"
        if name in self._hex:
            return hex(value)
        if name in self._sizes:
            return format_size(value)
        return value.name if isinstance(value, _Choice) else str(value)


@_stored_natively
@dataclass(frozen=True, slots=True, repr=False)
class Mapping(_Result):
    """One leaf: `size` bytes from `ipa` translate to `size` bytes from `pa`.

    Attributes
    ----------
    ipa, pa : int
        Where it starts, in bytes; both aligned to `size`.
    size : int
        Bytes: one page, or a block of the level.
    level : int
        The level of its entry, -1..3.
    prot : Prot
        What it allows.
    memtype : MemType
        The memory type that it gives.
    af : bool
        The access flag: set when the memory was used since the flag was last cleared.
    software : int
        The four bits kept for software, SW3..SW0 (descriptor bits 58:55).
    raw : int
        The descriptor.

    Examples
    --------
    >>> Mapping(0x80000000, 2 << 20, 0x40000000, 2, Prot.RW, MemType.NORMAL, True, 0, 0x400000400007FD)
    Mapping(ipa=0x80000000, size=2MiB, pa=0x40000000, level=2, prot=RW, memtype=NORMAL, af=True, raw=0x400000400007fd)
    """

    _hex: ClassVar[frozenset[str]] = frozenset({"ipa", "pa", "raw"})
    _sizes: ClassVar[frozenset[str]] = frozenset({"size"})

    ipa: int
    size: int
    pa: int
    level: int
    prot: Prot
    memtype: MemType
    af: bool
    software: int
    raw: int

    def __repr__(self) -> str:
        text = _Result.__repr__(self)
        return text.replace("software=0, ", "", 1)


@_stored_natively
@dataclass(frozen=True, slots=True, repr=False)
class Translation(_Result):
    """What an access gets.

    Attributes
    ----------
    pa : int
        The physical address of the very byte asked for.
    level : int
        The level of the leaf that answered.
    prot : Prot
        What the leaf allows.
    memtype : MemType
        The memory type that it gives.

    Examples
    --------
    >>> Translation(0x40001234, 2, Prot.RW, MemType.NORMAL)
    Translation(pa=0x40001234, level=2, prot=RW, memtype=NORMAL)
    """

    _hex: ClassVar[frozenset[str]] = frozenset({"pa"})

    pa: int
    level: int
    prot: Prot
    memtype: MemType


@_stored_natively
@dataclass(frozen=True, slots=True, repr=False)
class Mapped(_Result):
    """What a `map` did.

    Attributes
    ----------
    bytes : int
        Bytes of the range whose translation or attributes were written.
    kept : int
        Bytes that were left as they were. The two add up to the size of the range.

    Examples
    --------
    >>> Mapped(bytes=4096, kept=0)
    Mapped(bytes=4KiB, kept=0B)
    """

    _sizes: ClassVar[frozenset[str]] = frozenset({"bytes", "kept"})

    bytes: int
    kept: int


@_stored_natively
@dataclass(frozen=True, slots=True, repr=False)
class Changed(_Result):
    """What a change of attributes did.

    Attributes
    ----------
    leaves : int
        Leaves of the range that have other attributes now; those that a split made outside the range do not count.
    bytes : int
        Bytes of the range that are mapped, changed or not.

    Examples
    --------
    >>> Changed(leaves=3, bytes=3 << 12)
    Changed(leaves=3, bytes=12KiB)
    """

    _sizes: ClassVar[frozenset[str]] = frozenset({"bytes"})

    leaves: int
    bytes: int


@_stored_natively
@dataclass(frozen=True, slots=True, repr=False)
class Entry(_Result):
    """The entry at which the walk for an address ends.

    Attributes
    ----------
    raw : int
        Its 64 bits.
    level : int
        Its level, -1..3.
    base : int
        The first IPA that it is responsible for.
    kind : str
        ``"leaf"``, ``"empty"``, ``"annotated"``, ``"locked"``, ``"frozen"`` or ``"reserved"``.

    Examples
    --------
    >>> Entry(0, 1, 0x40000000, "empty")
    Entry(raw=0x0, level=1, base=0x40000000, kind=empty)
    """

    _hex: ClassVar[frozenset[str]] = frozenset({"raw", "base"})

    raw: int
    level: int
    base: int
    kind: str


@dataclass(frozen=True, slots=True, repr=False)
class Stats(_Result):
    """What a table is made of.

    Attributes
    ----------
    tables : dict of int to int
        Table frames at each level of the table; a concatenated root counts each of its frames.
    leaves : dict of int to int
        Leaves at each level of the table.
    mapped_bytes : int
        Bytes that translate.
    locked, frozen, annotated : int
        Invalid entries that are not empty, by kind.

    Examples
    --------
    >>> Stats({1: 2, 2: 1, 3: 0}, {1: 0, 2: 1, 3: 0}, 2 << 20)
    Stats(tables={1: 2, 2: 1, 3: 0}, leaves={1: 0, 2: 1, 3: 0}, mapped_bytes=2MiB, locked=0, frozen=0, annotated=0)
    """

    _sizes: ClassVar[frozenset[str]] = frozenset({"mapped_bytes"})

    tables: MappingABC[int, int]
    leaves: MappingABC[int, int]
    mapped_bytes: int
    locked: int = 0
    frozen: int = 0
    annotated: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class ReclaimStats(_Result):
    """What became of the frames of unlinked tables, since the table was made.

    Attributes
    ----------
    retired : int
        Frames unlinked, to be freed when every reader who may stand in them has left.
    freed : int
        Those of them that are free.
    pending : int
        Those that still wait.
    peak : int
        The most that ever waited at a time.
    overruns : int
        How many calls left more pending than the limit: they must not wait, or a reader did not leave.

    Examples
    --------
    >>> ReclaimStats(10, 8, 2, 4, 0)
    ReclaimStats(retired=10, freed=8, pending=2, peak=4, overruns=0)
    """

    retired: int
    freed: int
    pending: int
    peak: int
    overruns: int


@dataclass(frozen=True, slots=True, repr=False)
class Geometry(_Result):
    """The shape of a table: which bits of the IPA each level resolves, and at which levels a block may stand.

    Attributes
    ----------
    granule : int
        Bytes of a page and of a table frame: 4096, 16384 or 65536.
    ipa_bits, pa_bits : int
        Bits of the input and of the output address.
    start_level : int
        Level of the root, -1..2.
    root_frames : int
        Frames of the root, 1..16, concatenated.
    lpa2 : bool
        52-bit descriptors of the 4K and 16K granules (FEAT_LPA2, VTCR_EL2.DS = 1).
    blocks : Blocks
        Which rule decides the block levels.

    Examples
    --------
    >>> shape = Geometry(4096, 40, 48, 1, 2)
    >>> shape
    Geometry(granule=4KiB, ipa_bits=40, pa_bits=48, start_level=1, root_frames=2, lpa2=False, blocks=ARCH)
    >>> [format_size(shape.size(level)) for level in (1, 2, 3)]
    ['1GiB', '2MiB', '4KiB']
    """

    _sizes: ClassVar[frozenset[str]] = frozenset({"granule"})

    granule: int
    ipa_bits: int
    pa_bits: int
    start_level: int
    root_frames: int
    lpa2: bool = False
    blocks: Blocks = Blocks.ARCH

    @property
    def stride(self) -> int:
        """Bits of the IPA that one table resolves: 9, 11 or 13."""
        return self.granule.bit_length() - 4

    def size(self, level: int) -> int:
        """Bytes that one entry at `level` is responsible for."""
        return 1 << (self.stride * (4 - check_level(level)) + 3)

    def block_allowed(self, level: int) -> bool:
        """Whether a leaf may stand at `level`: a page at level 3, above it the blocks that the rule allows."""
        if check_level(level) == 3:
            return True
        if self.granule == 4 << 10:
            first = 0 if self.lpa2 else 1
        elif self.granule == 16 << 10:
            first = 1 if self.lpa2 else 2
        else:
            first = 1 if self.pa_bits == 52 else 2
        if self.blocks is Blocks.KVM:
            first = max(first, 1 if self.granule == 4 << 10 else 2)
        return self.start_level <= level and level >= first
