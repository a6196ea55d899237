"""Numbers of the Arm architecture that the model needs: which geometries exist, VTCR_EL2, leaf descriptors.

A second, independent statement of what the Rust core computes, written to be compared with it. Pure functions.
Sources: Arm ARM DDI 0487, stage-2 translation (VTCR_EL2; VMSAv8-64 stage-2 descriptors; FEAT_LPA2, FEAT_S2FWB,
FEAT_XNX); the known register and descriptor values of Linux KVM serve as tests.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from s2pt.errors import AttributesError, GeometryError
from s2pt.types import Blocks, Geometry, MemType, Prot, format_size

PA_SIZES = (32, 36, 40, 42, 44, 48, 52)
"""Physical address sizes, in the order of their encoding in VTCR_EL2.PS."""


class Attrs(NamedTuple):
    """What a leaf says besides its output address."""

    prot: Prot
    memtype: MemType = MemType.NORMAL
    af: bool = True
    software: int = 0


# --- geometry ------------------------------------------------------------------------------------------------------


def make_geometry(
    granule: int, ipa_bits: int, pa_bits: int, start_level: int | None, lpa2: bool, blocks: Blocks
) -> Geometry:
    """Build the geometry, or refuse with the rule that fails.

    Without `start_level` the walk starts where it does in KVM: the root may be 16 concatenated frames, which resolve
    four bits more than one, so the start level is that of an IPA of four bits fewer; two levels are the least.
    """
    if granule not in (4 << 10, 16 << 10, 64 << 10):
        raise GeometryError(f"granule {format_size(granule)} is not one of 4KiB, 16KiB, 64KiB")
    if lpa2 and granule == 64 << 10:
        raise GeometryError("LPA2 does not exist for the 64KiB granule, whose descriptors hold 52 bits without it")
    if pa_bits not in PA_SIZES:
        raise GeometryError(f"pa_bits {pa_bits} is not one of {', '.join(map(str, PA_SIZES))}")
    if pa_bits == 52 and not lpa2 and granule != 64 << 10:
        raise GeometryError(f"pa_bits 52 with the {format_size(granule)} granule needs lpa2")
    if not 32 <= ipa_bits <= 52:
        raise GeometryError(f"ipa_bits {ipa_bits} is not in 32..52")
    if ipa_bits > 48 and not lpa2 and granule != 65536:
        raise GeometryError(f"ipa_bits {ipa_bits} is beyond 48: it needs lpa2")

    shape = Geometry(granule, ipa_bits, pa_bits, 0, 1, lpa2, blocks)
    if start_level is None:
        page_bits = shape.stride + 3
        start_level = 4 - max(2, -((page_bits + 4 - ipa_bits) // shape.stride))
    first = {4 << 10: -1 if lpa2 else 0, 16 << 10: 0 if lpa2 else 1, 64 << 10: 1}[granule]
    if not first <= start_level <= 2:
        raise GeometryError(f"start level {start_level} is not in {first}..2 for the {format_size(granule)} granule")
    bits = ipa_bits - (shape.size(start_level).bit_length() - 1)
    if not 1 <= bits <= shape.stride + 4:
        raise GeometryError(
            f"start level {start_level} would resolve {bits} bits of a {ipa_bits}-bit IPA; it can resolve "
            f"1 to {shape.stride + 4}"
        )
    return Geometry(granule, ipa_bits, pa_bits, start_level, 1 << max(0, bits - shape.stride), lpa2, blocks)


def vtcr(shape: Geometry, ha: bool, hd: bool) -> int:
    """VTCR_EL2 of the geometry: inner-shareable write-back walks, 16-bit VMID."""
    base = 2 if shape.granule == 4 << 10 else 3
    level_minus_1 = shape.start_level == -1
    fields = {
        0: 64 - shape.ipa_bits,  # T0SZ
        6: 0 if level_minus_1 else base - shape.start_level,  # SL0
        8: 1,  # IRGN0
        10: 1,  # ORGN0
        12: 3,  # SH0
        14: {4 << 10: 0, 64 << 10: 1, 16 << 10: 2}[shape.granule],  # TG0
        16: PA_SIZES.index(shape.pa_bits),  # PS
        19: 1,  # VS
        21: int(ha),
        22: int(hd),
        31: 1,  # RES1
        32: int(shape.lpa2),  # DS
        33: int(level_minus_1),  # SL2
    }
    return sum(value << shift for shift, value in fields.items())


# --- leaf descriptors ----------------------------------------------------------------------------------------------

_MEMATTR = {
    MemType.DEVICE_NGNRNE: 0b0000,
    MemType.DEVICE_NGNRE: 0b0001,
    MemType.DEVICE_NGRE: 0b0010,
    MemType.DEVICE_GRE: 0b0011,
    MemType.NORMAL_NC: 0b0101,
}
_MEMATTR_NO_FWB = {**_MEMATTR, MemType.NORMAL_WT: 0b1010, MemType.NORMAL: 0b1111}
_MEMATTR_FWB = {**_MEMATTR, MemType.NORMAL: 0b0110, MemType.AS_STAGE1: 0b0111}

_XN = {Prot.X: 0b00, Prot.UX: 0b01, Prot.NONE: 0b10, Prot.PX: 0b11}
"""Descriptor bits 54:53 by the halves of execute; without FEAT_XNX only bit 54 is ever set."""


def check_attrs(attrs: Attrs, fwb: bool, xnx: bool) -> None:
    """Refuse attributes that contradict each other or that the descriptor format has no room for."""
    if not 0 <= attrs.prot <= Prot.RWX:
        raise AttributesError(f"prot {int(attrs.prot):#x} has bits beyond {int(Prot.RWX):#x}")
    half = attrs.prot & Prot.X
    if half in (Prot.PX, Prot.UX) and not xnx:
        raise AttributesError(f"{half} alone needs FEAT_XNX: without it execute is one permission for EL0 and EL1")
    if half and attrs.memtype.forbids_execute:
        raise AttributesError(f"{attrs.prot} with {attrs.memtype} memory: execute is refused there")
    if attrs.memtype not in (_MEMATTR_FWB if fwb else _MEMATTR_NO_FWB):
        raise AttributesError(f"memory type {attrs.memtype} does not exist {'with' if fwb else 'without'} FEAT_S2FWB")
    if not 0 <= attrs.software <= 15:
        raise AttributesError(f"software bits {attrs.software:#x} are more than 0xf")


@lru_cache(maxsize=1024)
def attr_bits(attrs: Attrs, page: bool, fwb: bool, xnx: bool) -> int:
    """Encode everything of a leaf but its output address and its shareability."""
    memattr = (_MEMATTR_FWB if fwb else _MEMATTR_NO_FWB)[attrs.memtype]
    bits = 0b11 if page else 0b01
    bits |= memattr << 2
    bits |= (Prot.R in attrs.prot) << 6 | (Prot.W in attrs.prot) << 7
    bits |= attrs.af << 10
    bits |= _XN[attrs.prot & Prot.X] << 53
    return bits | attrs.software << 55


def output_bits(shape: Geometry, pa: int) -> int:
    """Encode the output address, and the shareability whose place it takes in LPA2."""
    if shape.lpa2:  # PA[51:50] in bits 9:8; the shareability comes from VTCR_EL2.SH0
        return pa & ((1 << 50) - 1) | (pa >> 50) << 8
    if shape.granule == 64 << 10:  # PA[51:48] in bits 15:12
        return 0b11 << 8 | pa & ((1 << 48) - 1) | (pa >> 48) << 12
    return 0b11 << 8 | pa
