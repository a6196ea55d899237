"""The Arm stage-2 page table as a library: many threads change one live table at once, without a writer lock.

Examples
--------
>>> from s2pt import Prot, Stage2
>>> s2 = Stage2(ipa_bits=40)  # 4 KiB granule: two concatenated root pages
>>> s2.map(0x8000_0000, "2MiB", pa=0x4000_0000, prot=Prot.RW)
Mapped(bytes=2MiB, kept=0B)
>>> s2.translate(0x8000_1234)
Translation(pa=0x40001234, level=2, prot=RW, memtype=NORMAL)
>>> s2.write_protect(0x8000_0000, 4096)  # one page of the block: the other 511 keep their translation
Changed(leaves=1, bytes=4KiB)
>>> s2[0x8000_0000]
Mapping(ipa=0x80000000, size=4KiB, pa=0x40000000, level=3, prot=R, memtype=NORMAL, af=True, raw=0x4000004000077f)
>>> s2[0x9000_0000]
Traceback (most recent call last):
    ...
s2pt.errors.NotMappedError: nothing is mapped at 0x90000000 (the walk ends at level 2)
>>> hex(s2.vtcr)
'0x802d3558'
"""

from __future__ import annotations

from s2pt._core import Cpu, Machine, Stage2, __version__
from s2pt.costs import Cost, Costs
from s2pt.errors import (
    AccessFlagFault,
    AddressError,
    AddressSizeFault,
    Again,
    AlignmentError,
    AttributesError,
    ClosedError,
    ConflictError,
    Fault,
    GeometryError,
    GuestExit,
    ImageError,
    LevelError,
    NotMappedError,
    OptionError,
    OutOfFramesError,
    PermissionFault,
    PtdumpError,
    RecordingError,
    S2ptError,
    SizeError,
    TraceError,
    TranslationFault,
    ViolationError,
)
from s2pt.explain import Explanation, Step, WalkFault
from s2pt.machine import Violation
from s2pt.migrate import Migrate, MigrateReport
from s2pt.types import (
    Access,
    Backing,
    Blocks,
    Changed,
    DumpStyle,
    Entry,
    Existing,
    FaultCode,
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
    parse_size,
)
from s2pt.vm import DirtyLog, DirtyLogReport, Vm

__all__ = [
    "Access",
    "AccessFlagFault",
    "AddressError",
    "AddressSizeFault",
    "Again",
    "AlignmentError",
    "AttributesError",
    "Backing",
    "Blocks",
    "Changed",
    "ClosedError",
    "ConflictError",
    "Cost",
    "Costs",
    "Cpu",
    "DirtyLog",
    "DirtyLogReport",
    "DumpStyle",
    "Entry",
    "Existing",
    "Explanation",
    "Fault",
    "FaultCode",
    "Geometry",
    "GeometryError",
    "GuestExit",
    "ImageError",
    "LevelError",
    "Machine",
    "Mapped",
    "Mapping",
    "MemType",
    "Migrate",
    "MigrateReport",
    "NotMappedError",
    "OptionError",
    "OutOfFramesError",
    "PermissionFault",
    "Policy",
    "Prot",
    "PtdumpError",
    "ReclaimStats",
    "RecordingError",
    "S2ptError",
    "Semantics",
    "SizeError",
    "Stage2",
    "Stats",
    "Step",
    "TraceError",
    "Translation",
    "TranslationFault",
    "Violation",
    "ViolationError",
    "Vm",
    "WalkFault",
    "WalkFlags",
    "__version__",
    "parse_size",
]
