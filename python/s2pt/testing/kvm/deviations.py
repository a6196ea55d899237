"""Where a table answers otherwise than KVM on purpose, case by case.

Each deviation looks at an operation before it is done (`Prepared`, what KVM would do to it), tells whether it applies
to the answer, and brings about KVM's effect, so that the replay goes on from KVM's state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from s2pt.errors import AddressError, AlignmentError, AttributesError, ConflictError, NotMappedError
from s2pt.testing.kvm.case import TLBI_RANGE, Case
from s2pt.testing.kvm.table import AGAIN, INVALID, LOCKED, NO_MEMORY, RANGE, Answer, Table, permissions

__all__ = ["DEVIATIONS", "Deviation", "apply", "before"]


@dataclass(frozen=True, slots=True)
class Deviation:
    """One difference that is meant.

    Attributes
    ----------
    name : str
        In one word.
    kvm, here, why : str
        What KVM does, what the library does, and the reason.
    example : str
        The smallest case, in the recording's words.
    """

    name: str
    kvm: str
    here: str
    why: str
    example: str


DEVIATIONS: Final = (
    Deviation(
        "wrapped-range",
        "a range whose end wraps around 64 bits is walked as the empty range that it wraps to: 0, nothing done",
        "refused: AddressError",
        "silently doing nothing is the worst answer",
        '["unmap", 4096, 18446744073709547520]',
    ),
    Deviation(
        "empty-range",
        "a size of zero visits nothing: 0",
        "refused: AlignmentError",
        "an operation on nothing is taken for a mistake of the caller",
        '["unmap", 4096, 0]',
    ),
    Deviation(
        "pa-limit",
        "a physical address beyond the limit is taken for an owner's mark of owner 0: entries are cleared, tables made",
        "refused as a whole: AddressError",
        "the caller asked for a mapping, and would lose one",
        '["map", 0, 4096, 281474976710656, 6, 0, 3]',
    ),
    Deviation(
        "device-split",
        "the pieces of a split device or non-cacheable block become normal memory",
        "they keep the memory type",
        "cacheable accesses to a device corrupt it",
        '["map", 0, 2097152, 0, 14, 0, 3], ["split", 0, 4096, 1]',
    ),
    Deviation(
        "device-execute",
        "relax_perms makes device and non-cacheable leaves executable",
        "refused, as map refuses it: AttributesError",
        "a speculative fetch from a device has side effects",
        '["map", 0, 4096, 0, 14, 0, 3], ["relax", 0, 1]',
    ),
    Deviation(
        "mark-lost",
        "a block mapped over a table drops the owner's marks in it",
        "refused: ConflictError; the mark has to be taken away first",
        "somebody else's memory would be handed out",
        '["owner", 0, 4096, 1, 3], ["map", 0, 2097152, 0, 6, 0, 3]',
    ),
    Deviation(
        "locked-kept",
        "unmap clears an entry that somebody is between break and make of (its write lock says that nobody is)",
        "passed over: the holder alone writes it",
        "faults run beside unmap here, so the holder is alive (R5)",
        '["map", 0, 4096, 0, 6, 24, 3], ["poke", 4096, 3, 1024], ["unmap", 4096, 4096]',
    ),
    Deviation(
        "short-flush",
        "unmap with one TLBI for all (FWB, range TLBIs) invalidates the size that it was given, in whole pages, though "
        "it has removed the pages of the rounded range: of less than a page, none",
        "what was removed is invalidated",
        "a CPU would go on using a page that its host has taken back",
        '["map", 0, 4096, 0, 6, 24, 3], ["unmap", 0, 1]',
    ),
    Deviation(
        "unchecked-flush",
        "with FWB, flush returns 0 for any address, as it has nothing to do",
        "an address beyond the limit is refused: AddressError",
        "a wrong argument is wrong on every CPU",
        '["flush", 1152921504606846976, 4096]',
    ),
    Deviation(
        "no-frame-for-a-loser",
        "a map that needs a table takes its page before it looks whether the entry is free, and gives it back; "
        "without a page it runs out of memory there",
        "looks first: no frame is taken, and the answer is that the entry is held",
        "the answer is the same for the guest, which tries again, and a frame less is touched",
        '["map", 0, 2097152, 0, 6, 24, 3], ["poke", 0, 2, 1024], ["map", 0, 4096, 0, 6, 24, 3]',
    ),
)

_MEMATTR: Final = 0xF << 2
_XN: Final = 1 << 54
_READ_WRITE: Final = 1 << 6, 1 << 7


@dataclass(slots=True)
class Before:
    """What has to be known of the table before an operation."""

    foreign: list[tuple[int, int, int]]
    """Blocks that a split may cut and whose type is not normal: ipa, level, size."""
    locked: bool
    """Some entry is held."""


def _size(table: Table, level: int) -> int:
    return 1 << (table.case.shift - 3) * (4 - level) + 3


def before(table: Table, operation: list[Any]) -> Before:
    """Look at the table before an operation."""
    foreign: list[tuple[int, int, int]] = []
    if operation[0] == "split":
        leaves = table.leaves()
        valid = (leaves["raw"] & np.uint64(1) == np.uint64(1)) & (leaves["level"] < 3)
        normal = np.uint64((6 if table.case.fwb else 15) << 2)
        other = leaves[valid & (leaves["raw"] & np.uint64(_MEMATTR) != normal)]
        foreign = [(ipa, level, _size(table, level)) for ipa, level, _ in other.tolist()]
    return Before(foreign, table.holds_locked())


def apply(
    table: Table, operation: list[Any], seen: Before, kvm: dict[str, Any], ours: Answer
) -> tuple[str | None, Answer]:
    """Name the deviation that explains an answer, and bring about KVM's effect; with the answer as it is then."""
    name = operation[0]
    ranged = name in ("map", "unmap", "wrprotect", "flush", "owner", "young", "split")
    if ranged:
        start = operation[1] & -table.page
        if start + operation[2] + table.page - 1 >= 1 << 64 and isinstance(ours.refused, AddressError):
            return "wrapped-range", _same_unless(ours, kvm, (0, RANGE))
        empty = isinstance(ours.refused, AlignmentError) and not table.rounded(*operation[1:3])[1]
        if empty:
            return "empty-range", _same_unless(ours, kvm, (RANGE if start > table.limit else 0,))
    if name == "flush" and table.case.fwb and isinstance(ours.refused, AddressError):
        return "unchecked-flush", _same_unless(ours, kvm, (0,))
    if name == "map" and isinstance(ours.refused, AddressError) and ours.refused.ipa is None:
        return "pa-limit", _clear_beyond(table, operation)
    if name == "map" and isinstance(ours.refused, ConflictError):
        return "mark-lost", _drop_marks(table, operation, ours)
    if name == "relax" and isinstance(ours.refused, AttributesError) and kvm["r"] != INVALID:
        return "device-execute", _execute(table, operation)
    if name == "split" and seen.foreign and _make_normal(table, seen):
        return "device-split", ours
    if name == "unmap" and seen.locked and _clear_locked(table, operation):
        return "locked-kept", ours
    if name == "unmap" and not ours.r and not operation[2] >> table.case.shift and _one_flush(table.case):
        return "short-flush", ours
    if name == "map" and seen.locked and kvm["r"] == NO_MEMORY and ours.r in (AGAIN, 0):
        return "no-frame-for-a-loser", Answer(NO_MEMORY)
    return None, ours


def _one_flush(case: Case) -> bool:
    """KVM's unmap invalidates all leaves at once."""
    return case.fwb and bool(case.flags & TLBI_RANGE)


def _same_unless(ours: Answer, kvm: dict[str, Any], expected: tuple[int, ...]) -> Answer:
    """KVM's answer if it is one that the deviation predicts, else ours, which then differs."""
    extra = ours.extra
    return Answer(kvm["r"], extra) if kvm["r"] in expected else Answer(ours.r, extra)


def _clear_beyond(table: Table, operation: list[Any]) -> Answer:
    """Map what lies below the limit; clear the rest, in entries as large as a mapping there would have."""
    _, addr, size, phys, prot, flags, frames = operation
    start, bytes_ = table.rounded(addr, size)
    phys &= -table.page
    below = max(0, min(bytes_, table.pa_limit - phys))
    left = max(frames, 0)
    if below:
        taken = table.allocated
        answer = table.run(["map", start, below, phys, prot, flags, left])
        if answer.r:
            return answer
        left -= table.allocated - taken
    # An output that is aligned like its address, and a type that no leaf of the recordings has at that place.
    where, rest = start + below, bytes_ - below
    answer = table.run(["map", where, rest, where, 0x10, flags, left])
    leaves = table.leaves()
    for ipa, level, raw in leaves.tolist():
        if where <= ipa < where + rest and raw & 1 and raw >> 2 & 0xF == 5:
            table.s2.poke(ipa, level, 0)
    return answer


def _drop_marks(table: Table, operation: list[Any], ours: Answer) -> Answer:
    """Clear the marks that are in the way and map on from there."""
    name, addr, size, phys, prot, flags, frames = operation
    start, bytes_ = table.rounded(addr, size)
    end, phys, left = start + bytes_, phys & -table.page, max(frames, 0)
    answer, at, taken = ours, start, table.allocated
    while isinstance(answer.refused, ConflictError):
        mark = answer.refused.ipa or 0
        table.s2.poke(mark, answer.refused.level or 0, 0)
        base = _block_over(table, mark, start, end, phys - start)
        # What lies before the block is mapped by now.
        at = base if base is not None else at
        answer = table.run([name, at, end - at, phys + at - start, prot, flags, left - (table.allocated - taken)])
    return answer


def _block_over(table: Table, ipa: int, start: int, end: int, offset: int) -> int | None:
    """Find the largest block that a map of ``start..end`` makes over an address."""
    for level in (1, 2) if table.case.shift == 12 else (2,):
        size = _size(table, level)
        base = ipa & -size
        if base >= start and base + size <= end and (base + offset) % size == 0:
            return base
    return None


def _execute(table: Table, operation: list[Any]) -> Answer:
    """Grant what was asked for, past the check."""
    _, addr, prot = operation
    entry = table.s2.lookup(addr)
    wanted = permissions(prot)
    table.run(["relax", addr, prot & ~1])
    raw = entry.raw
    for bit, permission in zip(_READ_WRITE, (4, 2), strict=True):
        raw |= bit if prot & permission else 0
    table.s2.poke(addr, entry.level, raw & ~_XN if wanted & 3 else raw)
    return Answer(0)


def _make_normal(table: Table, seen: Before) -> bool:
    """Give the pieces of cut blocks KVM's type. True if there were any."""
    leaves = table.leaves()
    normal = (6 if table.case.fwb else 15) << 2
    any_cut = False
    for base, level, size in seen.foreign:
        first = int(np.searchsorted(leaves["ipa"], np.uint64(base)))
        last = int(np.searchsorted(leaves["ipa"], np.uint64(base + size)))
        for ipa, found, raw in leaves[first:last].tolist():
            if found > level and raw & 1:
                table.s2.poke(ipa, found, raw & ~_MEMATTR | normal)
                any_cut = True
    return any_cut


def _clear_locked(table: Table, operation: list[Any]) -> bool:
    """Empty the held entries in the range, and let the unmap see them so. True if there were any."""
    start, bytes_ = table.rounded(*operation[1:3])
    held = [
        (ipa, level)
        for ipa, level, raw in table.leaves().tolist()
        if raw == LOCKED and ipa < start + bytes_ and start < ipa + _size(table, level)
    ]
    for ipa, level in held:
        try:
            table.s2.poke(ipa, level, 0)
        except NotMappedError:
            continue
    if held:
        table.run(operation)
    return bool(held)
