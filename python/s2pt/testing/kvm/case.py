"""Files of recorded runs: read, and checked so that a replay meets nothing unexpected."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from s2pt.errors import S2ptError

__all__ = ["Case", "RecordingError", "load"]

NOFWB: Final = 1
IDMAP: Final = 2
FORCE_PTE: Final = 0x10
FWB: Final = 0x100
TLBI_RANGE: Final = 0x200
LPA2: Final = 0x400
_FLAGS: Final = NOFWB | IDMAP | FORCE_PTE | FWB | TLBI_RANGE | LPA2

# How many numbers follow the name of an operation.
_OPERANDS: Final = {
    "map": 6,
    "unmap": 2,
    "wrprotect": 2,
    "flush": 2,
    "owner": 4,
    "relax": 2,
    "mkyoung": 1,
    "young": 3,
    "leaf": 1,
    "split": 3,
    "poke": 3,
}
_RESULT: Final = ("r", "tlbi", "cmo", "alloc", "freed", "crc")
_FINAL: Final = ("leaves", "tables", "in_use", "pgd_pages", "start_level", "vtcr")
_TLBI: Final = ("ipa", "ipa_nsh", "vmid", "range")
_CMO: Final = ("dc", "ic")
_MAP_FLAGS: Final = 8 | 16 | 32 | 64


class RecordingError(S2ptError, ValueError):
    """The file holds no recorded runs."""


@dataclass(frozen=True, slots=True)
class Case:
    """One recorded run: a table, operations on it, what each came to, and what was left.

    Attributes
    ----------
    seed : str
        Its name.
    shift : int
        log2 of the page size.
    ia_bits : int
        Bits of the input address.
    flags : int
        Of the table and its CPU, as the recording has them.
    operations, results : sequence
        One result for each operation.
    final : mapping
        The table at the end.
    """

    seed: str
    shift: int
    ia_bits: int
    flags: int
    operations: Sequence[list[Any]]
    results: Sequence[dict[str, Any]]
    final: dict[str, Any]

    @property
    def fwb(self) -> bool:
        """Whether the table uses forced write-back."""
        return bool(self.flags & FWB) and not self.flags & NOFWB

    @property
    def lpa2(self) -> bool:
        """Whether descriptors are LPA2's: with the 64 KiB granule 52-bit addresses need no such thing."""
        return bool(self.flags & LPA2) and self.shift != 16

    @property
    def pa_bits(self) -> int:
        """Bits of the output address."""
        return 52 if self.lpa2 or self.shift == 16 else 48


def load(path: str | Path) -> list[Case]:
    """Read the cases of a file: JSON, also compressed (``.gz``, ``.xz``).

    Raises
    ------
    RecordingError
        It cannot be read, or is not what it should be; the message says where.
    """
    try:
        data = Path(path).read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        elif data[:6] == b"\xfd7zXZ\x00":
            data = lzma.decompress(data)
        cases = json.loads(data)
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror or error}") from None
    except (EOFError, zlib.error, lzma.LZMAError, ValueError, RecursionError) as error:
        raise RecordingError(f"{path}: no recorded runs: {_line(error)}") from None
    if not isinstance(cases, list):
        raise RecordingError(f"{path}: no recorded runs: not a list of cases but {type(cases).__name__}")
    return [_case(case, f"{path}: case {number}") for number, case in enumerate(cases)]


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _case(raw: object, where: str) -> Case:
    fields = _fields(raw, ("shift", "ia_bits", "flags", "ops", "results", "final"), where)
    version = fields.get("version", 612)
    if version != 612:
        raise RecordingError(f"{where}: version {version!r}, and only 612 is known")
    shift = _one_of(fields["shift"], (12, 14, 16), f"{where}: shift")
    ia_bits = _one_of(fields["ia_bits"], range(32, 53), f"{where}: ia_bits")
    flags = _number(fields["flags"], f"{where}: flags")
    if flags & ~_FLAGS:
        raise RecordingError(f"{where}: flags {flags:#x} are not all of {_FLAGS:#x}")
    if ia_bits > 48 and shift != 16 and not flags & LPA2:
        raise RecordingError(f"{where}: ia_bits {ia_bits} need flag {LPA2:#x}")
    operations, results = (_list(fields[name], f"{where}: {name}") for name in ("ops", "results"))
    if len(operations) != len(results):
        raise RecordingError(f"{where}: {len(operations)} operations and {len(results)} results")
    for number, (operation, result) in enumerate(zip(operations, results, strict=True)):
        place = f"{where}: operation {number}"
        _operation(operation, place)
        _result(operation, result, place)
    final = _fields(fields["final"], _FINAL, f"{where}: final")
    for name in ("in_use", "pgd_pages", "start_level", "vtcr"):
        _number(final[name], f"{where}: final {name}")
    for name in ("leaves", "tables"):
        for row in _list(final[name], f"{where}: final {name}"):
            _numbers(row, 4, f"{where}: final {name}")
    return Case(str(fields.get("seed", "?")), shift, ia_bits, flags, operations, results, final)


def _operation(operation: object, where: str, *, inner: bool = False) -> None:
    words = _list(operation, where)
    name = words[0] if words else None
    if name == "nest" and not inner:
        if len(words) != 4:
            raise RecordingError(f"{where}: nest has {len(words) - 1} operands, not 3")
        _number(words[1], where)
        _operation(words[2], f"{where}: nest", inner=True)
        for number, operation_in in enumerate(_list(words[3], where)):
            _operation(operation_in, f"{where}: inner operation {number}", inner=True)
        return
    if not isinstance(name, str) or name not in _OPERANDS:
        raise RecordingError(f"{where}: {str(name)[:40]!r} is no operation")
    numbers = _numbers(words[1:], _OPERANDS[name], f"{where}: {name}")
    if name == "map" and (numbers[4] & ~_MAP_FLAGS or numbers[4] < 0):
        raise RecordingError(f"{where}: map flags {numbers[4]:#x} are not all of {_MAP_FLAGS:#x}")
    if name == "poke" and numbers[1] not in range(-1, 4):
        raise RecordingError(f"{where}: poke at level {numbers[1]}")
    unsigned = numbers[:-1] if name in ("map", "owner") else numbers
    if name == "poke":
        unsigned = [numbers[0], numbers[2]]
    if any(not 0 <= number < 1 << 64 for number in unsigned):
        raise RecordingError(f"{where}: {name} has an operand that does not fit in 64 bits")


def _result(operation: list[Any], raw: object, where: str) -> None:
    result = _fields(raw, _RESULT, f"{where}: result")
    for name in ("r", "alloc", "freed", "crc"):
        _number(result[name], f"{where}: result {name}")
    for name, kinds in (("tlbi", _TLBI), ("cmo", _CMO)):
        for row in _list(result[name], f"{where}: result {name}"):
            words = _list(row, f"{where}: result {name}")
            if not words or words[0] not in kinds:
                raise RecordingError(f"{where}: result {name}: {words[:1]} is none of {kinds}")
            _numbers(words[1:], 5, f"{where}: result {name}")
    if operation[0] == "leaf" and result["r"] == 0:
        _fields(raw, ("pte", "level"), f"{where}: result")
    needed = {"split": "left", "poke": "old", "nest": "inner"}.get(operation[0])
    if needed:
        _fields(raw, (needed,), f"{where}: result")
    if operation[0] == "nest":
        for inner in _list(result["inner"], f"{where}: inner"):
            _fields(inner, ("r",), f"{where}: inner")


def _fields(raw: object, names: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise RecordingError(f"{where}: not an object but {type(raw).__name__}")
    missing = [name for name in names if name not in raw]
    if missing:
        raise RecordingError(f"{where}: no {missing[0]!r}")
    return raw


def _list(raw: object, where: str) -> list[Any]:
    if not isinstance(raw, list):
        raise RecordingError(f"{where}: not a list but {type(raw).__name__}")
    return raw


def _number(raw: object, where: str) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool):
        raise RecordingError(f"{where}: {str(raw)[:40]!r} is no integer")
    return raw


def _numbers(raw: object, count: int, where: str) -> list[int]:
    words = _list(raw, where)
    if len(words) != count:
        raise RecordingError(f"{where}: {len(words)} numbers, not {count}")
    return [_number(word, where) for word in words]


def _one_of(raw: object, choices: Sequence[int], where: str) -> int:
    number = _number(raw, where)
    if number not in choices:
        raise RecordingError(f"{where}: {number} is not known")
    return number
