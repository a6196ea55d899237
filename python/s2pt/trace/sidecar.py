"""What stands beside the text: slots, vCPU threads, kernel (TAG.json), outcomes (TAG.faults.csv), dumps."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2pt._numbers import check_level
from s2pt.trace.events import LEAF, Outcome, SlotChange
from s2pt.trace.files import ADDRESSES, WORDS, beside, fail, read_json, read_lines, shown, within
from s2pt.trace.host import Pagemap
from s2pt.trace.slots import Slot, SlotEvent

__all__ = ["CsvRow", "Dump", "TableShape", "kernel_version", "prot_bits", "read_csv", "read_dump", "slot_events"]

_CHANGES = {
    "CREATE": SlotChange.CREATE,
    "DELETE": SlotChange.DELETE,
    "MOVE": SlotChange.MOVE,
    "FLAGS_ONLY": SlotChange.FLAGS,
}
MOST_AT_ONCE = 1 << 30
"""One call maps one leaf, of 1 GiB at most."""
_MOST_LEAVES = 1 << 25
"""More leaves than this no dump has: 128 GiB of pages of 4 KiB."""
_CSV_OUTCOMES = {"map": Outcome.MAP, "relax": Outcome.RELAX, "mmio": Outcome.MMIO, "no map (retry)": Outcome.RETRY}
_COLUMNS = "t,vcpu,tid,l1cpu,ipa,hsr,far,pc,outcome,map_addr,map_size,map_pa,prot,ret"
CSV_FIELDS = tuple(_COLUMNS.split(","))


@dataclass(frozen=True, slots=True)
class TableShape:
    """The geometry of the dumped table, out of VTCR_EL2 as the data's author decoded it.

    Attributes
    ----------
    page_size : int
        Granule in bytes.
    ipa_bits, start_level : int
        Input address bits and level of the root.
    lpa2 : bool
        VTCR_EL2.DS.
    hardware_af : bool
        VTCR_EL2.HA: hardware sets the access flag by itself, so no event says when.
    vtcr, vttbr : int
        The registers, 0 where unknown.
    """

    page_size: int = 4096
    ipa_bits: int = 40
    start_level: int = 1
    lpa2: bool = False
    hardware_af: bool = True
    vtcr: int = 0
    vttbr: int = 0

    @property
    def block_size(self) -> int:
        """Bytes of a level-2 block."""
        return self.page_size << (self.page_size.bit_length() - 4)

    def level_size(self, level: int) -> int:
        """Bytes that an entry at `level` maps."""
        return self.page_size << ((self.page_size.bit_length() - 4) * (3 - check_level(level)))

    @classmethod
    def from_json(cls, where: str, about: dict[str, Any]) -> TableShape:
        """Take the shape out of the object that has ``geometry``, ``vtcr_el2`` and ``vttbr_el2``."""
        try:
            shape = about["geometry"]
            return cls(
                page_size=1 << within(int(shape["page_shift"]), 17, 12),
                ipa_bits=within(int(shape["ia_bits"]), 53, 16),
                start_level=within(int(shape["start_level"]), 4, -1),
                lpa2=bool(shape["ds"]),
                hardware_af=bool(shape["ha"]),
                vtcr=within(int(about["vtcr_el2"], 16), WORDS),
                vttbr=within(int(about["vttbr_el2"], 16), WORDS),
            )
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            fail(where, None, f"expected a table's geometry and registers: {_wrong(error)}")


@dataclass(frozen=True, slots=True)
class Dump:
    """The table as KVM had it at one marker.

    Attributes
    ----------
    name : str
        The marker's name.
    leaves : ndarray of `s2pt.trace.LEAF`
        Every leaf, ascending IPA.
    pagemap : Pagemap
        Which host page lay behind each guest page then.
    shape : TableShape
        Geometry and registers.
    """

    name: str
    leaves: npt.NDArray[np.void]
    pagemap: Pagemap
    shape: TableShape


def kernel_version(text: object) -> tuple[int, int]:
    """Read major and minor version out of a ``uname`` text; (0, 0) if there is none in it."""
    match = re.search(r"\b(\d{1,4})\.(\d{1,4})\.\d", str(text))
    return (int(match[1]), int(match[2])) if match else (0, 0)


def prot_bits(prot: int, kernel: tuple[int, int]) -> int:
    """Turn KVM's permission bits of a call into those of `s2pt.Prot`.

    Up to 6.x X is 1, W is 2, R is 4; since 7.x execute has two halves, PX 1 and UX 2, W is 4 and R is 8.

    Examples
    --------
    >>> hex(prot_bits(7, (6, 12))), hex(prot_bits(6, (6, 12))), hex(prot_bits(0xC, (7, 3)))
    ('0xf', '0xc', '0xc')
    """
    if kernel >= (7, 0):
        return prot & 0xF
    return (3 if prot & 1 else 0) | (prot & 2) << 1 | (prot & 4) << 1


def _leaf_prot(attributes: int) -> int:
    """Permissions out of a descriptor: S2AP in 7:6, XN in 54:53 (without FEAT_XNX bit 53 is 0: the same table)."""
    execute = (3, 2, 0, 1)[attributes >> 53 & 3]
    return (8 if attributes & 1 << 6 else 0) | (4 if attributes & 1 << 7 else 0) | execute


def _microseconds(seconds: str | float) -> int:
    return within(round(float(seconds) * 1e6), 1 << 60)


def slot_events(where: str, about: dict[str, Any]) -> list[SlotEvent]:
    """Read ``memslot_timeline``."""
    timeline = about.get("memslot_timeline")
    if not isinstance(timeline, list) or not timeline:
        fail(where, None, "expected 'memslot_timeline', a list of memory slot changes")
    events = []
    for place, entry in enumerate(timeline):
        try:
            change = _CHANGES[entry["change"]]
            # Of a slot that is gone nothing but its number matters.
            gone = change is SlotChange.DELETE
            gpa, size, hva = (
                0 if gone else within(int(entry[key], 16), limit)
                for key, limit in (("gpa", ADDRESSES), ("size", ADDRESSES), ("hva", WORDS - ADDRESSES))
            )
            number, flags = within(int(entry["slot"]), 1 << 31), within(int(entry.get("flags") or 0), 1 << 32)
            slot = Slot(number, gpa, size, hva, flags)
            events.append(SlotEvent(_microseconds(entry["t"]), change, slot))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            fields = "t, change, slot, flags, gpa, size, hva"
            fail(where, None, f"memslot_timeline[{place}]: expected {fields}: {_wrong(error)}")
    return events


def read_dump(name: str, folder: Path, tag: str, about: dict[str, Any], where: str) -> Dump | None:
    """Read TAG.DUMP.leaves.json; None if that file is not there."""
    path = beside(folder, f"{tag}.{name}.leaves.json")
    if path is None:
        return None
    dumps = about.get("dumps")
    described = dumps.get(name) if isinstance(dumps, dict) else None
    if not isinstance(described, dict):
        fail(where, None, f"expected 'dumps' to describe dump {shown(name)}")
    return dump_from_json(name, path.name, read_json(path), TableShape.from_json(where, described))


def dump_from_json(name: str, where: str, about: dict[str, Any], shape: TableShape) -> Dump:
    """Build a `Dump` out of ``leaf_runs`` and ``pagemap_runs``."""
    parts = [np.empty(0, LEAF)]
    leaves_left = _MOST_LEAVES
    try:
        for ipa_text, size_text, pa_text, level, attr_text in about["leaf_runs"]:
            ipa, size, pa = (within(int(text, 16), ADDRESSES) for text in (ipa_text, size_text, pa_text))
            attributes = within(int(attr_text, 16), WORDS)
            step = shape.level_size(within(int(level), 4, -1))
            count = size // step
            if count < 1 or size % step:
                raise ValueError(f"a run of {size:#x} bytes is no number of level {level} leaves")
            leaves_left = within(leaves_left - count, _MOST_LEAVES)
            run = np.empty(count, LEAF)
            offsets = np.arange(count, dtype=np.uint64) * np.uint64(step)
            run["ipa"], run["pa"] = offsets + np.uint64(ipa), offsets + np.uint64(pa)
            run["size"], run["prot"], run["af"] = step, _leaf_prot(attributes), attributes >> 10 & 1
            parts.append(run)
        pagemap = Pagemap(
            [
                (within(int(ipa, 16), ADDRESSES), within(int(pa, 16), ADDRESSES), within(int(size, 16), ADDRESSES))
                for ipa, pa, size in about["pagemap_runs"]
            ],
            shape.page_size,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        fail(where, None, f"expected leaf_runs and pagemap_runs: {_wrong(error)}")
    leaves = np.concatenate(parts)
    return Dump(name, leaves[np.argsort(leaves["ipa"], kind="stable")], pagemap, shape)


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row of TAG.faults.csv: the fault, and the table call that KVM made for it."""

    line: int
    time_us: int
    vcpu: int
    tid: int
    ipa: int
    esr: int
    outcome: Outcome
    map_ipa: int
    map_size: int
    map_pa: int
    prot: int
    ret: int


def read_csv(path: Path, kernel: tuple[int, int]) -> list[CsvRow]:
    """Read the outcomes of the faults, in order of time."""
    lines = read_lines(path)
    if lines and lines[-1] == "":
        lines.pop()
    reader = csv.reader(lines)
    header = next(_rows(path, reader), None)
    if tuple(header or ()) != CSV_FIELDS:
        fail(path.name, 1, f"expected the columns {_COLUMNS}, found {shown(','.join(header or []))}")
    rows = []
    for line, fields in enumerate(_rows(path, reader), 2):
        if len(fields) != len(CSV_FIELDS):
            fail(path.name, line, f"expected {len(CSV_FIELDS)} columns, found {len(fields)}")
        try:
            rows.append(_csv_row(line, dict(zip(CSV_FIELDS, fields, strict=True)), kernel))
        except (ValueError, OverflowError) as error:
            fail(path.name, line, f"expected numbers: {error}")
    return rows


def _rows(path: Path, reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """Give the rows of a CSV reader; what it cannot read is a `TraceError` too."""
    try:
        yield from reader
    except csv.Error as error:
        fail(path.name, None, f"expected comma-separated values: {error}")


def _csv_row(line: int, row: dict[str, str], kernel: tuple[int, int]) -> CsvRow:
    outcome = _CSV_OUTCOMES.get(row["outcome"], Outcome.UNKNOWN)
    if outcome is Outcome.UNKNOWN and int(row["hsr"], 16) >> 2 & 0xF == 2:
        outcome = Outcome.YOUNG
    return CsvRow(
        line,
        _microseconds(row["t"]),
        within(int(row["vcpu"]), 1 << 31),
        within(int(row["tid"]), 1 << 31),
        within(int(row["ipa"], 16), WORDS),
        within(int(row["hsr"], 16), WORDS),
        outcome,
        within(int(row["map_addr"] or "0", 16), ADDRESSES),
        within(int(row["map_size"] or 0), MOST_AT_ONCE + 1),
        within(int(row["map_pa"] or "0", 16), ADDRESSES),
        prot_bits(int(row["prot"] or "0", 0), kernel),
        within(int(row["ret"] or 0), 1 << 31, -(1 << 31)),
    )


def _wrong(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
