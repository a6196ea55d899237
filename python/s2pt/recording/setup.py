"""What one has to know of a table to read its steps, and what the bits of its entries say.

A second statement of the descriptor formats, from the architecture, that shares nothing with the Rust core.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from s2pt._checks import check_integer, check_type
from s2pt.errors import RecordingError
from s2pt.types import Blocks, Geometry

__all__ = [
    "EMPTY",
    "LOCKED",
    "VALID",
    "Setup",
    "freeze",
    "is_frozen",
    "thaw",
]

EMPTY, VALID, TABLE_OR_PAGE, LOCKED = 0, 1, 2, 1 << 10
READ, WRITE, AF, DBM = 1 << 6, 1 << 7, 1 << 10, 1 << 51
XN = 0b11 << 53
SOFTWARE = 0b1111 << 55
FROZEN, FROZEN_VALID = 1 << 63, 1 << 62
IN_PLACE = READ | WRITE | AF | DBM | XN | SOFTWARE
"""Bits of a leaf that may change while it stays valid."""


def is_frozen(value: int) -> bool:
    """Tell whether the table that holds the entry was unlinked."""
    return value & (FROZEN | VALID) == FROZEN


def freeze(value: int) -> int:
    """Give the frozen form of an entry: invalid, and still saying what it was."""
    return value & ~VALID | FROZEN | (FROZEN_VALID if value & VALID else 0)


def thaw(value: int) -> int:
    """Give what a frozen entry was."""
    return value & ~(FROZEN | FROZEN_VALID) | (VALID if value & FROZEN_VALID else 0)


@cache
def _rights(bits: int) -> frozenset[str]:
    found = {name for name, bit in (("r", READ), ("w", WRITE), ("w", DBM)) if bits & bit}
    return frozenset(found | {0b00: {"x1", "x0"}, 0b01: {"x0"}, 0b10: set(), 0b11: {"x1"}}[bits >> 53 & 0b11])


@dataclass(frozen=True, slots=True)
class Setup:
    """The table that a recording is of.

    Attributes
    ----------
    geometry : Geometry
        Its shape.
    root : int
        Physical address of its root.
    vmid : int
        The VMID in VTTBR_EL2.
    fwb, xnx : bool
        FEAT_S2FWB, FEAT_XNX.
    tlbi_range : bool
        Whether the CPU has range TLBIs.
    semantics : str
        ``"exact"`` or ``"kvm"``: with KVM's, `write_protect` leaves the TLBI to its caller.
    exclusive : bool
        Whether one thread worked alone, by `Exclusive` (Rust): then nothing is frozen before it is unlinked.
    source : str
        ``"s2pt"``, or ``"casemate"`` for a log of another program: it tells of entries, TLBIs and barriers, not of
        calls, of retired tables or of who holds an entry.
    """

    geometry: Geometry
    root: int
    vmid: int = 1
    fwb: bool = False
    xnx: bool = False
    tlbi_range: bool = True
    semantics: str = "exact"
    exclusive: bool = False
    source: str = "s2pt"

    def __post_init__(self) -> None:
        check_type(self.geometry, Geometry, "geometry")
        check_integer(self.root, "root", 0, (1 << 64) - 1)
        check_integer(self.vmid, "vmid", 0, 0xFFFF)
        for name in ("fwb", "xnx", "tlbi_range", "exclusive"):
            check_type(getattr(self, name), bool, name)
        for name in ("semantics", "source"):
            check_type(getattr(self, name), str, name)

    # --- entries -----------------------------------------------------------------------------------------------------

    @property
    def entries(self) -> int:
        """Entries of one frame."""
        return self.geometry.granule // 8

    def is_table(self, value: int, level: int) -> bool:
        """Tell whether an entry at `level` points to a table."""
        return level < 3 and value & 3 == 3

    def address(self, value: int) -> int:
        """Give the address in a descriptor: the next table, or the output of a leaf."""
        granule = self.geometry.granule
        if self.geometry.lpa2:
            return value & (1 << 50) - granule | (value >> 8 & 0b11) << 50
        low = value & (1 << 48) - granule
        return low | (value >> 12 & 0b1111) << 48 if granule == 64 << 10 else low

    def rights(self, value: int) -> frozenset[str]:
        """Give what a leaf permits: ``r``, ``w`` (by itself or through hardware's dirty state), ``x1``, ``x0``."""
        return _rights(value & (READ | WRITE | DBM | (XN if self.xnx else XN & XN << 1)))

    # --- as JSON -----------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Give the setup as plain values."""
        shape = self.geometry
        return {
            "granule": shape.granule,
            "ipa_bits": shape.ipa_bits,
            "pa_bits": shape.pa_bits,
            "start_level": shape.start_level,
            "root_frames": shape.root_frames,
            "lpa2": shape.lpa2,
            "blocks": shape.blocks.value,
            "root": self.root,
            "vmid": self.vmid,
            "fwb": self.fwb,
            "xnx": self.xnx,
            "tlbi_range": self.tlbi_range,
            "semantics": self.semantics,
            "exclusive": self.exclusive,
            "source": self.source,
        }

    @classmethod
    def from_json(cls, told: Any) -> Setup:
        """Read what `to_json` gave.

        Raises
        ------
        RecordingError
            A value is missing or is none that a table can have.
        """
        if not isinstance(told, dict):
            raise RecordingError("the setup is no object")

        def number(name: str, least: int, most: int) -> int:
            value = told.get(name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise RecordingError(f"setup: {name} is {value!r}, not a number in {least}..{most:#x}")
            return value

        def flag(name: str) -> bool:
            value = told.get(name)
            if not isinstance(value, bool):
                raise RecordingError(f"setup: {name} is {value!r}, not true or false")
            return value

        def word(name: str, *words: str) -> str:
            value = told.get(name)
            if value not in words:
                raise RecordingError(f"setup: {name} is {value!r}, not one of {', '.join(words)}")
            return str(value)

        granule = number("granule", 4 << 10, 64 << 10)
        if granule not in (4 << 10, 16 << 10, 64 << 10):
            raise RecordingError(f"setup: granule is {granule}, not 4, 16 or 64 KiB")
        geometry = Geometry(
            granule,
            number("ipa_bits", 16, 52),
            number("pa_bits", 32, 52),
            number("start_level", -1, 2),
            number("root_frames", 1, 16),
            flag("lpa2"),
            Blocks(word("blocks", "arch", "kvm")),
        )
        return cls(
            geometry,
            number("root", 0, (1 << 52) - 1),
            number("vmid", 0, 0xFFFF),
            flag("fwb"),
            flag("xnx"),
            flag("tlbi_range"),
            word("semantics", "exact", "kvm"),
            flag("exclusive"),
            word("source", "s2pt", "casemate"),
        )
