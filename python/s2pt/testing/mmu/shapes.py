"""Every shape that a stage-2 table can have, and its registers: said here once more, apart from the library.

The library is under test, so nothing here asks it. Sources: Arm ARM DDI 0487, VTCR_EL2 and the pseudocode functions
`AArch64.S2InconsistentSL`, `AArch64.S2InvalidSL`, `AArch64.S2StartLevel`, `AArch64.BlockDescSupported`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

__all__ = ["Shape", "shapes"]

_PS = {32: 0, 36: 1, 40: 2, 42: 3, 44: 4, 48: 5, 52: 6}
_TG0 = {12: 0, 16: 1, 14: 2}


@dataclass(frozen=True, slots=True)
class Shape:
    """A table's shape and the features of the CPU that walks it.

    Attributes
    ----------
    page_bits : int
        12, 14 or 16: the granule.
    ipa_bits, pa_bits : int
        Sizes of input and output addresses.
    start : int
        Level of the root, -1..3.
    lpa2 : bool
        Descriptors with 52-bit addresses for 4K and 16K (VTCR_EL2.DS).
    fwb, xnx, ha, hd : bool
        Features in use.
    """

    page_bits: int
    ipa_bits: int
    start: int
    pa_bits: int = 48
    lpa2: bool = False
    fwb: bool = False
    xnx: bool = False
    ha: bool = False
    hd: bool = False

    @property
    def stride(self) -> int:
        """IPA bits that a table resolves."""
        return self.page_bits - 3

    def shift(self, level: int) -> int:
        """Return log2 of the bytes behind an entry at `level`."""
        return self.page_bits + self.stride * (3 - level)

    @property
    def root_bits(self) -> int:
        """IPA bits that the root resolves; beyond `stride`: by concatenation."""
        return self.ipa_bits - self.shift(self.start)

    @property
    def root_frames(self) -> int:
        """Frames of the root."""
        return 1 << max(0, self.root_bits - self.stride)

    def block_exists(self, level: int) -> bool:
        """Whether a leaf can stand at `level`."""
        first = {12: 0 if self.lpa2 else 1, 14: 1 if self.lpa2 else 2, 16: 1 if self.pa_bits == 52 else 2}
        return level >= first[self.page_bits]

    @property
    def vtcr(self) -> int:
        """VTCR_EL2: write-back inner-shareable walks, 16-bit VMIDs."""
        sl0 = {12: {2: 0, 1: 1, 0: 2, 3: 3, -1: 0}}.get(self.page_bits, {3: 0, 2: 1, 1: 2, 0: 3})[self.start]
        value = 64 - self.ipa_bits | sl0 << 6 | 1 << 8 | 1 << 10 | 3 << 12 | _TG0[self.page_bits] << 14
        value |= _PS[self.pa_bits] << 16 | 1 << 19 | int(self.ha) << 21 | int(self.hd) << 22 | 1 << 31
        return value | int(self.lpa2) << 32 | int(self.start == -1) << 33

    def address_bits(self, pa: int) -> int:
        """Return the descriptor bits that say this page-aligned address; address bits that have no place are lost."""
        page = (1 << self.page_bits) - 1
        if self.lpa2:
            return pa & ((1 << 50) - 1) & ~page | (pa >> 50 & 3) << 8
        if self.page_bits == 16 and self.pa_bits == 52:
            return pa & ((1 << 48) - 1) & ~page | (pa >> 48 & 15) << 12
        return pa & ((1 << 48) - 1) & ~page

    def vttbr(self, root: int, vmid: int = 1) -> int:
        """Return VTTBR_EL2 for a root below 2^48."""
        return vmid << 48 | root

    def __str__(self) -> str:
        flags = [name for name in ("lpa2", "fwb", "xnx", "ha", "hd") if getattr(self, name)]
        root = f"x{self.root_frames}" if self.root_frames > 1 else ""
        granule = f"{1 << self.page_bits - 10}K"
        sizes = f"{granule} ipa{self.ipa_bits} pa{self.pa_bits} L{self.start}{root}"
        return " ".join([sizes, *flags])


def shapes(*, ipa_bits: range, lpa2: bool) -> Iterator[Shape]:
    """Yield every granule, start level and IPA size within the range, hence every concatenation.

    Parameters
    ----------
    ipa_bits : range
        IPA sizes to take.
    lpa2 : bool
        Whether to include 52-bit formats: LPA2, and 64K with a 52-bit output.
    """
    first = {12: 0, 14: 1, 16: 1}
    for page_bits, shallowest in first.items():
        formats = [(False, 48)]
        if lpa2:
            formats.append((page_bits != 16, 52))
        for wide, pa_bits in formats:
            top = 52 if wide or (page_bits == 16 and pa_bits == 52) else 48
            for start in range(shallowest - int(wide and page_bits != 16), 4):
                shape = Shape(page_bits, 0, start, pa_bits, wide)
                low = shape.shift(start)
                for bits in range(low + 1, low + shape.stride + 5):
                    # T0SZ reaches 48, with 64K 47.
                    if bits in ipa_bits and (17 if page_bits == 16 else 16) <= bits <= top:
                        yield replace(shape, ipa_bits=bits)
