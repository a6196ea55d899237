"""The model against facts worked out by hand, many of them observed on KVM's own code."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from s2pt import errors
from s2pt.errors import (
    AccessFlagFault,
    AddressError,
    Again,
    AlignmentError,
    AttributesError,
    ConflictError,
    GeometryError,
    LevelError,
    NotMappedError,
    OutOfFramesError,
    PermissionFault,
    S2ptError,
    SizeError,
    TranslationFault,
)
from s2pt.model import ModelStage2
from s2pt.types import Changed, Mapped, MemType, Prot, Translation, check_address, parse_size

K4, K16, K64 = 4 << 10, 16 << 10, 64 << 10
PAGE, M2, G1 = 4 << 10, 2 << 20, 1 << 30
BASE = 0x8000_0000


def shape(s2: ModelStage2, ipa: int = 0, size: int | None = None) -> list[tuple[int, int, int]]:
    """Leaves as (level, first IPA of a run, how many): neighbours at one level with contiguous output are one run."""
    runs: list[list[int]] = []
    follows = None
    for leaf in s2.leaves(ipa, size):
        if runs and follows == (leaf.level, leaf.ipa, leaf.pa, leaf.prot):
            runs[-1][2] += 1
        else:
            runs.append([leaf.level, leaf.ipa, 1])
        follows = (leaf.level, leaf.ipa + leaf.size, leaf.pa + leaf.size, leaf.prot)
    return [(level, first, count) for level, first, count in runs]


# --- geometry, registers, descriptors ------------------------------------------------------------------------------

# IPA bits -> (start level, root frames), KVM's choice, by granule; from 49 bits on with LPA2 (4K, 16K).
KVM_ROOTS = {
    K4: {32: (2, 4), 34: (2, 16), 36: (1, 1), 39: (1, 1), 40: (1, 2), 42: (1, 8), 43: (1, 16), 44: (0, 1), 46: (0, 1),
         47: (0, 1), 48: (0, 1), 49: (0, 2), 51: (0, 8), 52: (0, 16)},
    K16: {32: (2, 1), 34: (2, 1), 36: (2, 1), 39: (2, 8), 40: (2, 16), 42: (1, 1), 43: (1, 1), 44: (1, 1), 46: (1, 1),
          47: (1, 1), 48: (1, 2), 49: (1, 4), 51: (1, 16), 52: (0, 1)},
    K64: {32: (2, 1), 34: (2, 1), 36: (2, 1), 39: (2, 1), 40: (2, 1), 42: (2, 1), 43: (2, 2), 44: (2, 4), 46: (2, 16),
          47: (1, 1), 48: (1, 1), 49: (1, 1), 51: (1, 1), 52: (1, 1)},
}  # fmt: skip


@pytest.mark.parametrize(("granule", "ipa_bits"), [(g, bits) for g, roots in KVM_ROOTS.items() for bits in roots])
def test_default_root_is_kvms(granule: int, ipa_bits: int) -> None:
    wide = ipa_bits > 48
    s2 = ModelStage2(ipa_bits, granule, 52 if wide else 48, lpa2=wide and granule != K64)
    assert (s2.geometry.start_level, s2.geometry.root_frames) == KVM_ROOTS[granule][ipa_bits]
    assert s2.frames_in_use == s2.geometry.root_frames


@pytest.mark.parametrize(
    ("granule", "ipa_bits", "lpa2", "value"),
    [
        (K4, 32, False, 0x802D3520), (K4, 36, False, 0x802D355C), (K4, 40, False, 0x802D3558),
        (K4, 42, False, 0x802D3556), (K4, 44, False, 0x802D3594), (K4, 48, False, 0x802D3590),
        (K4, 52, True, 0x1802E358C),
        (K16, 32, False, 0x802DB560), (K16, 36, False, 0x802DB55C), (K16, 40, False, 0x802DB558),
        (K16, 42, False, 0x802DB596), (K16, 44, False, 0x802DB594), (K16, 48, False, 0x802DB590),
        (K16, 52, True, 0x1802EB5CC),
        (K64, 32, False, 0x802E7560), (K64, 36, False, 0x802E755C), (K64, 40, False, 0x802E7558),
        (K64, 42, False, 0x802E7556), (K64, 44, False, 0x802E7554), (K64, 48, False, 0x802E7590),
        (K64, 52, False, 0x802E758C),
    ],
)  # fmt: skip
def test_vtcr_is_kvms(granule: int, ipa_bits: int, lpa2: bool, value: int) -> None:
    s2 = ModelStage2(ipa_bits, granule, 52 if lpa2 or granule == K64 else 48, lpa2=lpa2)
    assert hex(s2.vtcr) == hex(value)


def test_vtcr_of_other_starts_and_flags() -> None:
    assert ModelStage2(49, pa_bits=52, lpa2=True, start_level=-1).vtcr >> 33 == 1  # SL2
    assert ModelStage2(49, pa_bits=52, lpa2=True, start_level=-1).vtcr >> 6 & 3 == 0
    assert ModelStage2(40, start_level=0).vtcr >> 6 & 3 == 2
    assert ModelStage2(ha=False).vtcr == 0x800D3558
    assert ModelStage2(hd=True).vtcr == 0x806D3558


@pytest.mark.parametrize(
    "arguments",
    [
        {"granule": "8KiB"}, {"granule": 1 << 12 | 1}, {"ipa_bits": 31}, {"ipa_bits": 53, "lpa2": True, "pa_bits": 52},
        {"ipa_bits": 49}, {"pa_bits": 52}, {"pa_bits": 47}, {"granule": K64, "lpa2": True},
        {"start_level": -1}, {"start_level": 3}, {"start_level": 2}, {"ipa_bits": 39, "start_level": 0},
        {"granule": K16, "start_level": 0, "ipa_bits": 48}, {"granule": K64, "start_level": 0, "ipa_bits": 48},
        {"hd": True, "ha": False}, {"vmid": 1 << 16},
    ],
)  # fmt: skip
def test_no_such_table(arguments: dict[str, Any]) -> None:
    with pytest.raises(GeometryError):
        ModelStage2(**arguments)


@pytest.mark.parametrize(
    ("options", "size", "pa", "prot", "how", "raw"),
    [
        ({}, PAGE, 0x40000000, Prot.RW, {}, 0x00400000400007FF),
        ({}, M2, 0x40000000, Prot.RW, {}, 0x00400000400007FD),
        ({}, M2, 0x40000000, Prot.RWX, {}, 0x00000000400007FD),
        ({}, PAGE, 0x40000000, Prot.R, {}, 0x004000004000077F),
        ({}, PAGE, 0x40000000, Prot.RW, {"memtype": MemType.DEVICE}, 0x00400000400007C7),
        ({}, PAGE, 0x1000, Prot.NONE, {}, 0x004000000000173F),
        ({}, PAGE, 0x1000, Prot.X, {}, 0x000000000000173F),
        ({}, PAGE, 0x1000, Prot.W, {}, 0x00400000000017BF),
        ({}, PAGE, 0x1000, Prot.RWX, {"software": 15}, 0x07800000000017FF),
        ({}, PAGE, 0x40000000, Prot.RW, {"af": False}, 0x00400000400003FF),
        ({"fwb": True}, PAGE, 0x40000000, Prot.R, {"memtype": MemType.NORMAL_NC}, 0x0040000040000757),
        ({"fwb": True}, PAGE, 0x40000000, Prot.RW, {}, 0x00400000400007DB),
        ({"fwb": True}, M2, 0x40000000, Prot.RW, {}, 0x00400000400007D9),
        ({"xnx": True}, PAGE, 0x40000000, Prot.RWX, {}, 0x00000000400007FF),
        ({"xnx": True}, PAGE, 0x40000000, Prot.RW | Prot.UX, {}, 0x00200000400007FF),
        ({"xnx": True}, PAGE, 0x40000000, Prot.RW, {}, 0x00400000400007FF),
        ({"xnx": True}, PAGE, 0x40000000, Prot.RW | Prot.PX, {}, 0x00600000400007FF),
        ({"lpa2": True, "pa_bits": 52}, PAGE, 0x4000012345000, Prot.RW, {}, 0x00400000123455FF),
        ({"lpa2": True, "pa_bits": 52}, PAGE, 0x8000012345000, Prot.RW, {}, 0x00400000123456FF),
        ({"lpa2": True, "pa_bits": 52}, PAGE, 0xC000012345000, Prot.RW, {}, 0x00400000123457FF),
        ({"lpa2": True, "pa_bits": 52}, PAGE, 0x12345000, Prot.RW, {}, 0x00400000123454FF),
        ({"lpa2": True, "pa_bits": 52}, PAGE, 0x3000012345000, Prot.RW, {}, 0x00430000123454FF),
        ({"lpa2": True, "pa_bits": 52, "fwb": True}, PAGE, 0x12345000, Prot.RW, {}, 0x00400000123454DB),
        ({"granule": K16, "lpa2": True, "pa_bits": 52}, K16, 0x7000012344000, Prot.RW, {}, 0x00430000123445FF),
        ({"granule": K64, "pa_bits": 52}, K64, 0xA000012340000, Prot.RW, {}, 0x004000001234A7FF),
    ],
)  # fmt: skip
def test_descriptor_is_kvms(
    options: dict[str, Any], size: int, pa: int, prot: Prot, how: dict[str, Any], raw: int
) -> None:
    s2 = ModelStage2(**options)
    s2.map(BASE, size, pa, prot, **how)
    assert hex(s2.lookup(BASE).raw) == hex(raw)
    leaf = s2[BASE]
    assert (leaf.pa, leaf.prot, leaf.raw) == (pa, prot, raw)


# --- which leaves a map makes --------------------------------------------------------------------------------------


def test_one_page_takes_two_tables() -> None:
    s2 = ModelStage2()
    assert s2.map(BASE, PAGE, 0x4000_0000) == Mapped(PAGE, 0)
    assert s2.frames_in_use == 4
    assert s2.stats().tables == {1: 2, 2: 1, 3: 1}
    assert s2.stats().leaves == {1: 0, 2: 0, 3: 1}


def test_each_step_takes_the_largest_leaf_that_fits() -> None:
    s2 = ModelStage2()
    s2.map(0x3FFFF000, G1 + M2 + 2 * PAGE, 0x3FFFF000)
    assert shape(s2) == [(3, 0x3FFFF000, 1), (1, 0x40000000, 1), (2, BASE, 1), (3, 0x80200000, 1)]
    assert s2.frames_in_use == 6


def test_unaligned_output_takes_smaller_leaves() -> None:
    s2 = ModelStage2()
    s2.map(0x40000000, 4 << 20, 0x40001000)
    assert shape(s2) == [(3, 0x40000000, 1024)]
    assert s2.frames_in_use == 2 + 1 + 2
    s2 = ModelStage2()
    s2.map(0x40000000, G1, 0x40200000)
    assert shape(s2) == [(2, 0x40000000, 512)]


def test_blocks_of_each_granule() -> None:
    def levels(size: int, **options: Any) -> dict[int, int]:
        s2 = ModelStage2(**options)
        s2.map(0, size, 0)
        return {level: count for level, count in s2.stats().leaves.items() if count}

    assert levels(1 << 39, ipa_bits=48) == {1: 512}  # no 512 GiB block without LPA2
    assert levels(1 << 39, ipa_bits=52, lpa2=True, pa_bits=52) == {0: 1}
    assert levels(1 << 39, ipa_bits=52, lpa2=True, pa_bits=52, blocks="kvm") == {1: 512}
    assert levels(128 << 20, ipa_bits=48, granule=K16) == {2: 4}
    assert levels(64 << 30, ipa_bits=48, granule=K16) == {2: 2048}
    assert levels(64 << 30, ipa_bits=48, granule=K16, lpa2=True, pa_bits=52) == {1: 1}
    assert levels(64 << 30, ipa_bits=48, granule=K16, lpa2=True, pa_bits=52, blocks="kvm") == {2: 2048}
    assert levels(4 << 40, ipa_bits=48, granule=K64) == {2: 8192}
    assert levels(4 << 40, ipa_bits=48, granule=K64, pa_bits=52) == {1: 1}
    assert levels(4 << 40, ipa_bits=48, granule=K64, pa_bits=52, blocks="kvm") == {2: 8192}


def test_a_map_across_root_frames() -> None:
    s2 = ModelStage2(ipa_bits=40)
    s2.map((1 << 39) - PAGE, 2 * PAGE, 0x1000)
    assert s2.frames_in_use == 2 + 4
    assert s2.unmap(0, 1 << 40) == 2 * PAGE
    assert s2.frames_in_use == 2


def test_largest_limits_the_leaves() -> None:
    s2 = ModelStage2()
    s2.map(0, G1, G1, largest=2)
    assert s2.stats().leaves == {1: 0, 2: 512, 3: 0}
    s2.map(0, M2, G1, largest=3)  # the same translation, in smaller pieces
    assert shape(s2) == [(3, 0, 512), (2, M2, 511)]


# --- what map does where something is ------------------------------------------------------------------------------


def test_replace_of_a_part_keeps_the_rest() -> None:
    s2 = ModelStage2()
    s2.map(BASE, G1, 0x4000_0000)
    assert s2.map(BASE + 3 * PAGE, PAGE, 0x1000) == Mapped(PAGE, 0)
    assert s2.translate(BASE + 2 * PAGE).pa == 0x4000_2000
    assert s2.translate(BASE + 3 * PAGE).pa == 0x1000
    assert shape(s2) == [(3, BASE, 3), (3, BASE + 3 * PAGE, 1), (3, BASE + 4 * PAGE, 508), (2, BASE + M2, 511)]


def test_replace_leaves_alone_what_is_as_wanted() -> None:
    s2 = ModelStage2()
    s2.map(BASE, M2, 0x4000_0000)
    assert s2.map(BASE, M2, 0x4000_0000) == Mapped(0, M2)
    assert s2.map(BASE + PAGE, PAGE, 0x4000_1000) == Mapped(0, PAGE)  # a part of it
    assert shape(s2) == [(2, BASE, 1)]
    assert s2.map(BASE, 2 * M2, 0x4000_0000) == Mapped(M2, M2)
    assert s2.map(BASE, M2, 0x4000_0000, Prot.R) == Mapped(M2, 0)
    assert s2.map(BASE, M2, 0x4000_0000, Prot.R, software=1) == Mapped(M2, 0)
    s2.test_and_clear_young(BASE, M2)
    assert s2.map(BASE, M2, 0x4000_0000, Prot.R, software=1) == Mapped(M2, 0)  # it sets the access flag


def test_replace_of_a_table_by_a_block_frees_it() -> None:
    s2 = ModelStage2()
    s2.map(BASE, M2, 0x4000_0000, largest=3)
    assert s2.frames_in_use == 4
    assert s2.map(BASE, M2, 0x4000_0000) == Mapped(M2, 0)
    assert s2.frames_in_use == 3
    assert shape(s2) == [(2, BASE, 1)]


def test_keep_fills_holes_with_the_largest_leaves() -> None:
    s2 = ModelStage2()
    s2.map(0x1000, PAGE, 0x9000_0000, Prot.R)
    s2.map(2 * M2, M2, 0x9020_0000, Prot.R)
    done = s2.map(0, 4 * M2, 0x4000_0000, existing="keep")
    assert done == Mapped(4 * M2 - M2 - PAGE, M2 + PAGE)
    assert s2[0x1000].pa == 0x9000_0000
    assert shape(s2) == [(3, 0, 1), (3, 0x1000, 1), (3, 0x2000, 510), (2, M2, 1), (2, 2 * M2, 1), (2, 3 * M2, 1)]


def test_keep_without_a_hole_is_again() -> None:
    s2 = ModelStage2()
    s2.map(0, M2, 0x4000_0000, Prot.R)
    with pytest.raises(Again) as caught:
        s2.map(0x3000, PAGE, 0x9000_0000, existing="keep")
    assert (caught.value.ipa, caught.value.level) == (0x3000, 2)
    assert shape(s2) == [(2, 0, 1)]


def test_keep_over_tables() -> None:
    s2 = ModelStage2()
    s2.map(0, PAGE, 0x9000_0000)
    s2.map(M2, M2, 0x9020_0000)
    assert s2.map(0, 2 * M2, 0x4000_0000, existing="keep", over_tables=True) == Mapped(M2, M2)
    assert [(leaf.level, leaf.pa) for leaf in s2.leaves()] == [(2, 0x4000_0000), (2, 0x9020_0000)]


def test_error_names_the_first_mapped_address() -> None:
    s2 = ModelStage2()
    s2.map(BASE, M2, 0x4000_0000)
    before = list(s2.leaves())
    for ipa, size, first in ((BASE + PAGE, PAGE, BASE + PAGE), (BASE - M2, 2 * M2, BASE)):
        with pytest.raises(ConflictError) as caught:
            s2.map(ipa, size, 0x1000, existing="error")
        assert (caught.value.ipa, caught.value.level) == (first, 2)
    assert list(s2.leaves()) == before
    assert s2.map(BASE - PAGE, PAGE, 0x1000, existing="error") == Mapped(PAGE, 0)


# --- unmap, split, collapse ----------------------------------------------------------------------------------------


def test_unmap_of_a_page_keeps_the_rest_of_the_block() -> None:
    s2 = ModelStage2()
    s2.map(BASE, G1, 0x4000_0000)
    assert s2.unmap(BASE + PAGE, PAGE) == PAGE
    assert shape(s2) == [(3, BASE, 1), (3, BASE + 2 * PAGE, 510), (2, BASE + M2, 511)]
    assert s2.stats().leaves == {1: 0, 2: 511, 3: 511}
    assert s2.frames_in_use == 4
    assert s2.unmap(BASE + PAGE, PAGE) == 0


def test_unmap_frees_tables_on_the_way_up() -> None:
    s2 = ModelStage2(ipa_bits=48)
    s2.map(0x1000, PAGE, 0)
    s2.map(G1 + PAGE, PAGE, 0)
    assert s2.frames_in_use == 1 + 1 + 2 + 2
    assert s2.unmap(0, M2) == PAGE
    assert s2.frames_in_use == 1 + 1 + 2
    assert s2.unmap(0, 1 << 48) == PAGE
    assert s2.frames_in_use == 1


def test_split_counts_every_block() -> None:
    s2 = ModelStage2()
    s2.map(0, G1, 0, software=5)
    assert s2.split(M2, M2) == 2
    assert shape(s2) == [(2, 0, 1), (3, M2, 512), (2, 2 * M2, 510)]
    assert {leaf.software for leaf in s2.leaves()} == {5}
    assert s2.split(PAGE, PAGE, 2) == 0  # a 2 MiB block is fine enough
    assert s2.split(0, G1) == 511
    s2 = ModelStage2()
    s2.map(0, G1, 0)
    assert s2.split(0, G1) == 513
    assert s2.split(0, G1) == 0
    assert s2.stats().leaves == {1: 0, 2: 0, 3: 512 * 512}


def test_split_of_device_memory_keeps_its_type() -> None:
    s2 = ModelStage2()
    s2.map(0, M2, 0, memtype="device-nGnRE")
    assert hex(s2.lookup(0).raw) == "0x400000000007c5"
    s2.split(0, PAGE)
    assert hex(s2.lookup(PAGE).raw) == "0x400000000017c7"


def test_collapse_undoes_split() -> None:
    s2 = ModelStage2()
    s2.map(0, G1, 0x4000_0000, Prot.RX)
    before = list(s2.leaves())
    assert s2.split(0, G1, 2) == 1
    assert s2.split(M2, 2 * M2) == 2
    s2.test_and_clear_young(0, G1)
    s2.mark_young(M2, PAGE)
    assert s2.frames_in_use == 5
    assert s2.collapse(0, G1) == 3  # two tables of pages, then the table of their blocks
    assert list(s2.leaves()) == before  # young, since one page was
    assert s2.frames_in_use == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s2: s2.unmap(5 * PAGE, PAGE),
        lambda s2: s2.write_protect(511 * PAGE, PAGE),
        lambda s2: s2.map(7 * PAGE, PAGE, 0x9000_0000),
        lambda s2: s2.map(0, PAGE, 0x4000_0000, software=1),
        lambda s2: s2.map(0, PAGE, 0x4000_0000, memtype="normal-nc"),
    ],
)
def test_collapse_wants_one_mapping(spoil: Callable[[ModelStage2], object]) -> None:
    s2 = ModelStage2()
    s2.map(0, M2, 0x4000_0000, largest=3)
    spoil(s2)
    assert s2.collapse(0, M2) == 0


def test_collapse_wants_the_whole_table_and_aligned_output() -> None:
    s2 = ModelStage2()
    s2.map(0, M2, 0x4000_0000, largest=3)
    assert s2.collapse(0, M2 - PAGE) == 0
    assert s2.collapse(0, M2) == 1
    s2.map(M2, M2, 0x4000_1000)
    assert s2.collapse(M2, M2) == 0


# --- attributes and ageing -----------------------------------------------------------------------------------------


def test_write_protect_splits_no_more_than_needed() -> None:
    s2 = ModelStage2()
    s2.map(0, G1, 0)
    assert s2.write_protect(M2 - PAGE, M2 + 2 * PAGE) == Changed(3, M2 + 2 * PAGE)  # page, block, page
    assert shape(s2) == [(3, 0, 511), (3, M2 - PAGE, 1), (2, M2, 1), (3, 2 * M2, 1), (3, 2 * M2 + PAGE, 511),
                         (2, 3 * M2, 509)]  # fmt: skip
    assert s2.write_protect(M2, M2) == Changed(0, M2)
    assert s2.write_protect(M2 + PAGE, PAGE) == Changed(0, PAGE)  # read-only already: not split
    assert s2.stats().leaves[2] == 510


def test_attribute_changes_skip_holes_but_want_something() -> None:
    s2 = ModelStage2()
    s2.map(M2, PAGE, 0, Prot.R)
    assert s2.protect(0, G1, Prot.RX) == Changed(1, PAGE)
    assert s2.relax(0, G1, Prot.W) == Changed(1, PAGE)
    assert s2[M2].prot == Prot.RWX
    assert s2.relax(0, G1, Prot.NONE) == Changed(0, PAGE)
    assert s2.write_protect(G1, G1) == Changed(0, 0)
    calls: list[Callable[[], object]] = [
        lambda: s2.protect(G1, G1, Prot.R),
        lambda: s2.relax(G1, G1, Prot.R),
        lambda: s2.mark_young(G1, G1),
    ]
    for call in calls:
        with pytest.raises(NotMappedError) as caught:
            call()
        assert (caught.value.ipa, caught.value.level) == (G1, 1)


def test_device_memory_is_never_executable() -> None:
    s2 = ModelStage2()
    s2.map(0, PAGE, 0, Prot.RW)
    s2.map(PAGE, PAGE, 0, Prot.RW, memtype="device-nGnRE")
    before = list(s2.leaves())
    calls: list[Callable[[], object]] = [
        lambda: s2.map(0, PAGE, 0, Prot.RX, memtype="normal-nc"),
        lambda: s2.relax(0, 2 * PAGE, Prot.X),
        lambda: s2.protect(0, 2 * PAGE, Prot.RX),
    ]
    for call in calls:
        with pytest.raises(AttributesError):
            call()
    assert list(s2.leaves()) == before


def test_half_execute_wants_xnx() -> None:
    with pytest.raises(AttributesError):
        ModelStage2().map(0, PAGE, 0, Prot.R | Prot.PX)
    s2 = ModelStage2(xnx=True)
    s2.map(0, PAGE, 0, Prot.R | Prot.UX)
    with pytest.raises(PermissionFault):
        s2.translate(0, "x")  # a fetch at EL1
    s2.relax(0, PAGE, Prot.PX)
    assert s2.translate(0, "x").prot == Prot.RX


def test_ageing_is_about_whole_leaves() -> None:
    s2 = ModelStage2()
    s2.map(0, M2, 0)
    s2.map(M2, 2 * PAGE, 0x4000_0000, largest=3)
    assert s2.test_and_clear_young(PAGE, PAGE)
    assert shape(s2) == [(2, 0, 1), (3, M2, 2)]
    assert not s2.test_young(0, M2)
    assert s2.test_young(0, M2 + PAGE)
    assert s2.mark_young(M2 - PAGE, 2 * PAGE) == Changed(1, 2 * PAGE)
    assert s2[0].af
    assert not s2.test_young(G1, G1)
    assert not s2.test_and_clear_young(G1, G1)


# --- answers -------------------------------------------------------------------------------------------------------


def test_translate_as_the_mmu() -> None:
    s2 = ModelStage2(ha=False)
    s2.map(BASE, M2, 0x4000_0000, Prot.R)
    s2.map(BASE + M2, PAGE, 0x5000_0000, Prot.NONE)
    assert s2.translate(BASE + 0x1234) == Translation(0x4000_1234, 2, Prot.R, MemType.NORMAL)
    for ipa, access, fault, level in (
        (0, "r", TranslationFault, 1),
        (BASE + M2 + PAGE, "r", TranslationFault, 3),
        (1 << 40, "r", TranslationFault, 0),
        (BASE, "w", PermissionFault, 2),
        (BASE, "x", PermissionFault, 2),
        (BASE + M2, "r", PermissionFault, 3),
    ):
        with pytest.raises(fault) as caught:
            s2.translate(ipa, access)
        assert (caught.value.ipa, caught.value.level, caught.value.access) == (ipa, level, access)
    s2.test_and_clear_young(BASE, M2)
    with pytest.raises(AccessFlagFault):
        s2.translate(BASE, "w")  # comes before the permission
    assert ModelStage2(ha=True).map(0, PAGE, 0, af=False)


def test_lookup_ends_where_the_walk_ends() -> None:
    s2 = ModelStage2()
    assert repr(s2.lookup(0x4000_1234)) == "Entry(raw=0x0, level=1, base=0x40000000, kind=empty)"
    s2.map(BASE, PAGE, 0)
    assert (s2.lookup(BASE + PAGE).level, s2.lookup(BASE + M2).level) == (3, 2)
    assert BASE in s2
    assert BASE + PAGE not in s2
    with pytest.raises(KeyError):
        s2[BASE + PAGE]
    with pytest.raises(AddressError):
        s2.lookup(1 << 40)


def test_leaves_of_a_range_are_whole() -> None:
    s2 = ModelStage2()
    s2.map(0, G1, 0)
    s2.map(G1, PAGE, 0)
    assert [leaf.ipa for leaf in s2.leaves(PAGE, G1)] == [0, G1]
    assert [leaf.ipa for leaf in s2] == [0, G1]


# --- frames --------------------------------------------------------------------------------------------------------


def test_out_of_frames_changes_nothing() -> None:
    s2 = ModelStage2(frames=4)
    s2.map(0, M2, 0)
    before = list(s2.leaves())
    with pytest.raises(OutOfFramesError) as caught:
        s2.map(0x1000, M2, 0x9000_0000)  # would cut the block, and needs a second table of pages
    assert (caught.value.needed, caught.value.available) == (2, 1)
    assert list(s2.leaves()) == before
    assert s2.unmap(PAGE, PAGE) == PAGE
    assert s2.frames_in_use == 4
    with pytest.raises(MemoryError):
        s2.split(G1, PAGE) or s2.map(G1, PAGE, 0)


def test_frames_that_an_operation_frees_do_not_help_it() -> None:
    s2 = ModelStage2(frames=4)
    s2.map(0, PAGE, 0)
    with pytest.raises(OutOfFramesError):
        s2.map(0, G1 + PAGE, G1)  # frees two tables, makes two
    s2.unmap(0, PAGE)
    s2.map(0, G1 + PAGE, G1)


def test_injected_refusal_is_one_shot() -> None:
    s2 = ModelStage2()
    s2.fail_allocation(3)
    s2.map(0, PAGE, 0)  # frames 0 and 1
    with pytest.raises(OutOfFramesError) as caught:
        s2.map(G1, PAGE, 0)  # frames 2 and 3
    assert (caught.value.needed, s2.frames_in_use) == (2, 4)
    s2.map(G1, PAGE, 0)


def test_root_alone_may_be_too_much() -> None:
    with pytest.raises(OutOfFramesError):
        ModelStage2(ipa_bits=43, frames=15)
    assert ModelStage2(ipa_bits=43, frames=16).frames_in_use == 16


# --- bad arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.map(0x1234, PAGE, 0), AlignmentError, "IPA 0x1234 is not a multiple of 0x1000"),
        (lambda s: s.map(0, 0, 0), AlignmentError, "size of the range at 0x0 is 0x0; it must be at least 0x1000"),
        (lambda s: s.unmap(0, 100), AlignmentError, "size 0x64 is not a multiple of 0x1000"),
        (lambda s: s.map(0, PAGE, 0x10), AlignmentError, "PA 0x10 is not a multiple of 0x1000"),
        (lambda s: s.unmap((1 << 40) - PAGE, 2 * PAGE), AddressError,
         "IPA 0xfffffff000 of size 0x2000 ends beyond 0x10000000000"),
        (lambda s: s.unmap((1 << 64) - PAGE, PAGE), AddressError, "ends beyond 0x10000000000"),
        (lambda s: s.unmap(1 << 64, PAGE), AddressError, "IPA 0x10000000000000000 does not fit in 64 bits"),
        (lambda s: s.unmap(-PAGE, PAGE), AddressError, "IPA -0x1000 is negative"),
        (lambda s: s.map(0, 2 * PAGE, (1 << 48) - PAGE), AddressError, "ends beyond 0x1000000000000"),
        (lambda s: s.map(0, PAGE, 0, software=16), AttributesError, "software bits 0x10 are more than 0xf"),
        (lambda s: s.map(0, PAGE, 0, 16), AttributesError, "prot 0x10 has bits beyond 0xf"),
        (lambda s: s.map(0, PAGE, 0, Prot.RX, memtype="device-GRE"), AttributesError, "execute is refused"),
        (lambda s: s.map(0, PAGE, 0, memtype="as-stage1"), AttributesError, "does not exist without FEAT_S2FWB"),
        (lambda s: s.map(0, PAGE, 0, largest=4), LevelError, "level 4 is not one of -1..3"),
        (lambda s: s.split(0, PAGE, -2), LevelError, "level -2 is not one of -1..3"),
        (lambda s: s.map(0, "2 furlongs", 0), SizeError, "'2 furlongs' is not a number of bytes"),
        (lambda s: s.map(True, PAGE, 0), TypeError, "IPA must be an integer, not bool"),
        (lambda s: s.map(0, 4096.0, 0), TypeError, "size must be an integer, not float"),
        (lambda s: s.translate(1.5), TypeError, "IPA must be an integer, not float"),
        (lambda s: s.map(0, PAGE, 0, existing="merge"), ValueError, "one of 'replace', 'keep', 'error'"),
        (lambda s: s.translate(0, "rw"), ValueError, "access must be one of 'r', 'w', 'x'"),
    ],
)  # fmt: skip
def test_bad_argument(call: Callable[[ModelStage2], object], error: type[Exception], message: str) -> None:
    s2 = ModelStage2()
    with pytest.raises(error) as caught:
        call(s2)
    assert message in str(caught.value)
    assert list(s2.leaves()) == []


@pytest.mark.parametrize("name", errors.__all__)
def test_exceptions_carry_their_place(name: str) -> None:
    error = getattr(errors, name)("what", 0x1000)
    error.level = 2
    assert isinstance(error, S2ptError)
    assert str(error) == "what"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.ipa, again.level) == (type(error), "what", 0x1000, 2)
    assert (S2ptError("what").ipa, S2ptError("what", 1, 2).level) == (None, 2)


def test_sizes_and_addresses() -> None:
    assert [parse_size(text) for text in ("512", "4K", "2 MiB", "1GB", "1TiB", "0x10K", "7B")] == [
        512, 4096, 2 << 20, 1 << 30, 1 << 40, 16 << 10, 7,
    ]  # fmt: skip
    for text in ("", "MiB", "-1", "1.5G", "4 k", "1e3", "0x", "4096P" * 5, "1_000"):
        with pytest.raises(SizeError):
            parse_size(text)
    assert check_address((1 << 64) - 1) == (1 << 64) - 1
