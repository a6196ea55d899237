"""Faults of the oracles that are known, each with its reason; every use is counted and printed.

An excuse changes the oracle's answer to ours, where the fault explains the difference, and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from s2pt.testing.mmu.shapes import Shape
from s2pt.types import FaultCode

__all__ = ["Applied", "Known", "excused", "reserved_block"]


class Known(StrEnum):
    """What is known to be wrong, in words."""

    UNICORN_STRAY_BITS = "unicorn: output address bits below a block's size are ORed into the address"
    UNICORN_RESERVED_BLOCK = "unicorn: a block at a level that has none (4K level 0, 16K and 64K level 1) is taken"
    UNICORN_ABSENT_TABLE = (
        "unicorn: a table in no memory reads as zero, a translation fault instead of an external abort"
    )
    QEMU_HIGH_BITS = (
        "QEMU: address bits 51:50 of an LPA2 descriptor are ignored, not checked, where VTCR_EL2.PS is below 52 bits"
    )
    QEMU7_RESERVED_BLOCK = "QEMU 7: a block at a level that has none (4K level 0, 16K level 1 without DS) is taken"
    RESERVED_FIELD = "architecture: a reserved TG0 or PS behaves as the implementation chooses"
    QEMU7_PS = "QEMU 7: start level and IPA size are limited by VTCR_EL2.PS instead of the CPU's physical address size"
    QEMU7_BLOCK_BELOW_0 = "QEMU 7: the process aborts at a block at level -1, so none is drawn"
    QEMU7_16K_LEVEL_0 = "QEMU 7: a 16K LPA2 table that begins at level 0 is refused"
    QEMU7_LEVEL_MINUS_1 = "QEMU 7: a table that begins at level -1 is refused unless T0SZ is 12"


Applied = Counter[Known]


def excused(
    which: Known, mask: NDArray[np.bool_], ours: NDArray[np.void], theirs: NDArray[np.void], applied: Applied
) -> None:
    """Take our answer where `mask` says so, and count those."""
    for name in ("fault", "level", "pa", "mair"):
        theirs[name][mask] = ours[name][mask]
    if mask.any():
        applied[which] += int(mask.sum())


def reserved_block(shape: Shape, ours: NDArray[np.void], theirs: NDArray[np.void]) -> NDArray[np.bool_]:
    """Where a block stands at a level that has none, we answer a translation fault, and the oracle takes the block.

    The oracle answers with a hit, or refuses for the sake of its attributes or address, at the same level. Which levels
    have blocks is said by `shape`, not by us.
    """
    block = (ours["fault"] == FaultCode.TRANSLATION) & ((ours["raw"] & np.uint64(3)) == 1)
    block &= np.isin(ours["level"], [level for level in range(-1, 3) if not shape.block_exists(level)])
    refused = (theirs["fault"] != FaultCode.TRANSLATION) & (~theirs["known"] | (theirs["level"] == ours["level"]))
    mask: NDArray[np.bool_] = block & ((theirs["fault"] == 0) | refused)
    return mask
