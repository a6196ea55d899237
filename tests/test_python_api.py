"""The Python face: what goes in, what comes out, how objects show themselves."""

from __future__ import annotations

import copy
import doctest
import pickle
import threading
import weakref

import numpy as np
import pytest

import s2pt
import s2pt._core
from s2pt import (
    Access,
    Changed,
    Entry,
    Existing,
    FaultCode,
    Mapped,
    Mapping,
    MemType,
    Prot,
    Stage2,
    Translation,
)
from s2pt.model import ModelStage2

IPA, PA, PAGE, MIB = 0x8000_0000, 0x4000_0000, 4096, 1 << 20


def u64(*values):
    return np.array(values, dtype=np.uint64)


# ------------------------------------------------------------------------------------------------- results


def test_design_example():
    s2 = Stage2(ipa_bits=40)
    assert s2.map(0x8000_0000, size=2 << 20, pa=0x4000_0000, prot=Prot.RW) == Mapped(2 << 20, 0)
    assert s2.translate(0x8000_1234) == Translation(0x4000_1234, 2, Prot.RW, MemType.NORMAL)
    assert repr(s2.translate(0x8000_1234)) == "Translation(pa=0x40001234, level=2, prot=RW, memtype=NORMAL)"
    expected = Mapping(IPA, 2 * MIB, PA, 2, Prot.RW, MemType.NORMAL, True, 0, 0x0040_0000_4000_07FD)
    assert s2[0x8000_0000] == expected
    with pytest.raises(KeyError):
        s2[0x9000_0000]
    assert hex(s2.vtcr) == "0x802d3558"
    assert s2.vttbr >> 48 == 1
    assert s2.vttbr & 0xFFFF_FFFF_FFFE == s2.root


def test_results_are_the_public_types():
    s2 = Stage2()
    assert type(s2.map(IPA, PAGE, PA)) is Mapped
    assert type(s2.protect(IPA, PAGE, Prot.R)) is Changed
    hit = s2.translate(IPA)
    assert (type(hit), type(hit.prot), type(hit.memtype)) == (Translation, Prot, MemType)
    leaf = s2[IPA]
    assert (type(leaf), type(leaf.prot), type(leaf.memtype), type(leaf.af)) == (Mapping, Prot, MemType, bool)
    assert type(s2.lookup(IPA)) is Entry
    assert s2.lookup(IPA) == Entry(leaf.raw, 3, IPA, "leaf")
    assert type(s2.stats()) is s2pt.Stats
    assert type(s2.geometry) is s2pt.Geometry
    with pytest.raises(AttributeError):
        hit.pa = 0
    assert not hasattr(hit, "__dict__")
    assert hash(leaf) == hash(s2[IPA])


@pytest.mark.parametrize("prot", [Prot(bits) for bits in range(16)], ids=repr)
def test_every_permission_comes_back(prot):
    s2 = Stage2(xnx=True)
    s2.map(IPA, PAGE, PA, prot)
    assert s2[IPA].prot == prot
    assert s2[IPA].prot is Prot(prot)


@pytest.mark.parametrize("memtype", list(MemType))
def test_every_memory_type_comes_back(memtype):
    for fwb in (False, True):
        if memtype is (MemType.NORMAL_WT if fwb else MemType.AS_STAGE1):
            continue
        s2 = Stage2(fwb=fwb)
        s2.map(IPA, PAGE, PA, memtype=memtype)
        s2.map(IPA + PAGE, PAGE, PA, memtype=memtype.value, software=9, af=False)
        assert s2[IPA].memtype is memtype
        assert s2.translate(IPA).memtype is memtype
        second = s2[IPA + PAGE]
        assert (second.memtype, second.software, second.af) == (memtype, 9, False)


def test_choices_are_members_or_texts():
    s2 = Stage2(blocks=s2pt.Blocks.KVM)
    s2.map(IPA, PAGE, PA)
    for keep in (Existing.KEEP, "keep"):
        with pytest.raises(s2pt.Again):
            s2.map(IPA, PAGE, PA, existing=keep)
    assert s2.translate(IPA, Access.WRITE) == s2.translate(IPA, "w")
    with pytest.raises(s2pt.PermissionFault) as caught:
        s2.translate(IPA, "x")
    assert caught.value.access is Access.EXECUTE
    assert (caught.value.ipa, caught.value.level, caught.value.kind) == (IPA, 3, "permission")


def test_sizes_as_text_and_numpy_integers():
    s2 = Stage2(granule="16KiB")
    assert s2.geometry.granule == 16384
    assert s2.map(np.uint64(IPA), np.int32(16384), np.int64(PA)).bytes == 16384
    assert s2.unmap(IPA, "16K") == 16384
    assert Stage2(granule=65536).geometry.granule == 65536


@pytest.mark.parametrize(
    ("options", "vtcr"),
    [
        ({"ipa_bits": 32}, 0x802D3520), ({"ipa_bits": 40}, 0x802D3558), ({"ipa_bits": 44}, 0x802D3594),
        ({"ipa_bits": 48}, 0x802D3590), ({"ipa_bits": 52, "lpa2": True, "pa_bits": 52}, 0x1802E358C),
        ({"granule": "16KiB", "ipa_bits": 42}, 0x802DB596), ({"granule": "64KiB", "pa_bits": 52}, 0x802E7558),
    ],
)  # fmt: skip
def test_registers_that_kvm_writes(options, vtcr):
    assert Stage2(**options).vtcr == vtcr


@pytest.mark.parametrize("pa_bits", [32, 36, 40, 42, 44, 48])
@pytest.mark.parametrize("granule", [4096, 16384, 65536])
def test_table_frames_lie_in_the_pa_space(granule, pa_bits):
    s2 = Stage2(granule=granule, pa_bits=pa_bits, ipa_bits=36)
    assert s2.root < 1 << pa_bits
    s2.map(IPA, granule, 0)
    assert s2.map((1 << 36) - granule, granule, (1 << pa_bits) - granule).bytes == granule


# ------------------------------------------------------------------------------------------------- containers


def test_iteration_and_containment():
    s2 = Stage2()
    assert list(s2) == list(s2.leaves()) == []
    s2.map(IPA, 2 * MIB, PA)
    s2.map(IPA + 2 * MIB, 600 * PAGE, PA + PAGE)
    leaves = list(s2)
    assert len(leaves) == 601
    assert [leaf.ipa for leaf in leaves] == sorted(leaf.ipa for leaf in leaves)
    assert list(s2.leaves(IPA + PAGE, PAGE)) == leaves[:1], "a leaf that the range cuts comes whole"
    assert list(s2.leaves(IPA + 2 * MIB)) == leaves[1:]
    assert list(s2.leaves(IPA + 2 * MIB, 3 * PAGE)) == leaves[1:4]
    assert IPA + 5 in s2
    assert IPA - 1 not in s2
    assert 1 << 60 not in s2
    iterator = iter(s2)
    assert iter(iterator) is iterator
    assert [next(iterator), *iterator] == leaves
    assert next(iterator, None) is None


def test_an_iterator_beside_changes():
    s2 = Stage2()
    s2.map(0, 4 * MIB, 0, largest=3)
    seen = []
    for leaf in s2:
        seen.append(leaf.ipa)
        s2.unmap(leaf.ipa, PAGE)
    assert seen == list(range(0, 4 * MIB, PAGE)), "each page was there until its turn"
    s2.drain()
    assert s2.frames_in_use == 2


def test_leaves_array():
    s2 = Stage2()
    s2.map(IPA, 2 * MIB, PA, prot=Prot.RX, software=3)
    s2.map(0, 3 * PAGE, PA, memtype="device-nGnRE", af=False)
    array = s2.leaves_array()
    assert array.dtype == s2pt._core.LEAF_DTYPE
    assert array.flags.owndata or array.base is not None
    assert len(array) == 4
    for row, leaf in zip(array, s2, strict=True):
        assert (row["ipa"], row["size"], row["pa"], row["level"]) == (leaf.ipa, leaf.size, leaf.pa, leaf.level)
        assert (Prot(int(row["prot"])), bool(row["af"]), row["software"]) == (leaf.prot, leaf.af, leaf.software)
        assert (row["raw"], row["memtype"]) == (leaf.raw, leaf.raw >> 2 & 15)
    assert s2.leaves_array(IPA, PAGE)["size"].tolist() == [2 * MIB]
    assert len(Stage2().leaves_array()) == 0
    # Words of one size, so that it can be looked at as a plain table.
    assert array.view("<u8").reshape(4, -1)[:, 0].tolist() == [0, PAGE, 2 * PAGE, IPA]


def test_objects():
    s2 = Stage2()
    assert repr(s2) == "<Stage2 ipa_bits=40 vtcr=0x802d3558 frames=2>"
    assert weakref.ref(s2)() is s2
    for refuse in (lambda: copy.copy(s2), lambda: copy.deepcopy(s2), lambda: pickle.dumps(s2)):
        with pytest.raises(TypeError):
            refuse()
    with pytest.raises(AttributeError):
        s2.vtcr = 0
    with pytest.raises(AttributeError):
        s2.extra = 0
    with s2 as same:
        assert same is s2
        assert not s2.closed
    assert s2.closed


def test_every_public_name():
    assert len(set(s2pt.__all__)) == len(s2pt.__all__)
    for name in s2pt.__all__:
        assert getattr(s2pt, name) is not None
    names = [name for name in vars(ModelStage2) if not name.startswith("_")]
    assert len(names) >= 20
    for name in names:
        assert getattr(Stage2, name).__doc__


def test_examples_of_the_extension_module():
    results = [doctest.DocTestRunner().run(test) for test in doctest.DocTestFinder().find(s2pt._core)]
    assert sum(result.attempted for result in results) > 10
    assert sum(result.failed for result in results) == 0


# ------------------------------------------------------------------------------------------------- whole arrays


def test_map_many_is_map_for_each():
    ipa, pa = u64(IPA, 0, IPA + 2 * MIB), u64(PA, 5 * PAGE, PA + PAGE)
    for size in (None, PAGE, "8KiB", 2 * MIB):
        one, many = Stage2(), Stage2()
        options = {"prot": Prot.RX, "software": 2, "af": False}
        done = many.map_many(ipa, pa, size, **options)
        each = [one.map(i, size or PAGE, p, **options) for i, p in zip(ipa.tolist(), pa.tolist(), strict=True)]
        assert done.bytes == sum(mapped.bytes for mapped in each)
        assert list(many) == list(one)
        assert many.unmap_many(ipa, size) == done.bytes
        assert list(many) == []


def test_map_many_keeps():
    s2 = Stage2()
    s2.map(IPA, PAGE, PA)
    assert s2.map_many(u64(IPA, IPA + PAGE), u64(0, PAGE), existing="keep") == Mapped(PAGE, PAGE)
    assert (s2[IPA].pa, s2[IPA + PAGE].pa) == (PA, PAGE)
    assert s2.map_many(u64(IPA), u64(PA)) == Mapped(0, PAGE)


def test_arrays_of_any_layout():
    wide = np.arange(0, 64 * PAGE, PAGE, dtype=np.uint64)
    packed = np.zeros(16, dtype=[("skip", "u1"), ("ipa", "<u8")])
    packed["ipa"] = wide[:16]
    readonly = wide.copy()
    readonly.flags.writeable = False
    for array in (wide[::2], wide[::-1], packed["ipa"], readonly, wide[:0]):
        s2 = Stage2()
        assert s2.map_many(array, array).bytes == PAGE * len(array)
        pa, level, fault = s2.translate_many(array)
        assert (pa == array).all()
        assert (level == 3).all()
        assert not fault.any()
        assert (pa.dtype, level.dtype, fault.dtype) == (np.uint64, np.int8, np.uint8)


def test_translate_many_answers_as_translate():
    s2 = Stage2(ha=False)
    s2.map(IPA, 2 * MIB, PA, prot=Prot.RX)
    s2.map(0, PAGE, PA, af=False)
    addresses = [IPA + 0x1234, IPA - 1, 0, 5 * PAGE, 1 << 40, (1 << 64) - 1]
    codes = {"translation": 1, "access-flag": 2, "permission": 3, "address-size": 4}
    for access in "rwx":
        pas, levels, faults = s2.translate_many(u64(*addresses), access)
        for ipa, pa, level, fault in zip(addresses, pas.tolist(), levels.tolist(), faults.tolist(), strict=True):
            if fault == FaultCode.NONE:
                hit = s2.translate(ipa, access)
                assert (pa, level) == (hit.pa, hit.level)
                continue
            with pytest.raises(s2pt.Fault) as caught:
                s2.translate(ipa, access)
            error = caught.value
            assert (pa, level, fault) == (0, error.level, codes[error.kind])
            assert FaultCode(fault).name.lower().replace("_", "-") == error.kind


def test_touch_sets_the_access_flag_where_hardware_does():
    for ha in (True, False):
        s2 = Stage2(ha=ha)
        s2.map(0, 2 * PAGE, PA, prot=Prot.R, af=False)
        assert s2.touch(u64(8, 2 * PAGE)).tolist() == [0 if ha else 2, 1]
        assert s2.touch(u64(PAGE), "w").tolist() == [3 if ha else 2]
        assert [s2[0].af, s2[PAGE].af] == [ha, False]


def test_the_caller_may_change_the_array_meanwhile():
    s2 = Stage2(sink="counting", stall_tlbi_ns=30_000_000)
    ipa = np.arange(8, dtype=np.uint64) * PAGE
    s2.map_many(ipa, ipa)
    before = s2.counts()["stores"]
    removed = []
    thread = threading.Thread(target=lambda: removed.append(s2.unmap_many(ipa)))
    thread.start()
    while s2.counts()["stores"] == before:
        pass
    # The first page is locked and seven are to come: they are what the array said when the call began.
    ipa[:] = 1
    thread.join()
    assert removed == [8 * PAGE]
    assert s2.stats().mapped_bytes == 0


# ------------------------------------------------------------------------------------------------- sinks


def test_counting():
    s2 = Stage2(sink="counting")
    s2.map(IPA, 2 * MIB, PA)
    assert s2.counts()["allocated"] == 2, "the root, of two frames in one piece, and a table"
    s2.unmap(IPA, PAGE)
    s2.drain()
    counts = s2.counts()
    assert all(type(value) is int for value in counts.values())
    assert (counts["tlbi_ipa"] + counts["tlbi_range"], counts["allocated"]) == (1, 3)
    with pytest.raises(s2pt.S2ptError, match="nothing was recorded"):
        s2.events()
    with pytest.raises(s2pt.S2ptError, match="nothing was counted"):
        Stage2().counts()


def test_recording():
    s2 = Stage2(sink="recording")
    s2.events()
    s2.map(IPA, PAGE, PA)
    s2.events()
    s2.map(IPA, PAGE, PA + PAGE)
    events = s2.events()
    stores = [event for event in events if event.kind == "store"]
    kinds = [event.kind for event in events]
    # Break before make: locked, invalidated, and only then the new value.
    assert [event.fields["new"] for event in stores] == [0x400, s2[IPA].raw]
    assert kinds.index("store") < kinds.index("tlbi_ipa") < len(kinds) - 1 - kinds[::-1].index("store")
    assert [event.sequence for event in events] == sorted(event.sequence for event in events)
    (tlbi,) = [event for event in events if event.kind == "tlbi_ipa"]
    assert tlbi.fields == {"ipa": IPA, "level": 3, "scope": "broadcast"}
    assert "tlbi_ipa ipa=0x80000000 level=3 scope=broadcast" in repr(tlbi)
    assert s2.events() == []


def test_a_stalled_tlbi_leaves_the_interpreter_to_others():
    s2 = Stage2(stall_tlbi_ns=200_000_000)
    s2.map(IPA, PAGE, PA)
    steps = 0
    thread = threading.Thread(target=lambda: s2.unmap(IPA, PAGE))
    thread.start()
    while thread.is_alive():
        steps += 1
    thread.join()
    # With the GIL held for the stall there would be a handful.
    assert steps > 1000


# ------------------------------------------------------------------------------------------------- explanations


def test_explanations_add_up_to_the_value():
    from s2pt.arch import explain_entry, explain_esr, explain_vtcr, explain_vttbr

    s2 = Stage2()
    s2.map(IPA, PAGE, PA, prot=Prot.RX)
    values = [
        (s2[IPA].raw, explain_entry(s2[IPA].raw, level=3)),
        (s2.vtcr, explain_vtcr(s2.vtcr)),
        (s2.vttbr, explain_vttbr(s2.vttbr, vtcr=s2.vtcr)),
        (0x9200_0046, explain_esr(0x9200_0046)),
    ]
    for value, rows in values:
        total = 0
        for bits, name, field, meaning in rows:
            assert name
            assert meaning
            if bits:
                total |= field << int(bits.split(":")[-1])
        assert total == value
    assert explain_vttbr(0x1000, vtcr=0)[-1][1] == "refused"
    assert explain_esr(0, far=0, hpfar=0)[-1][1] == "refused"
    with pytest.raises(TypeError, match="level"):
        explain_entry(0)
    with pytest.raises(s2pt.GeometryError, match="granule 0x1001"):
        explain_entry(0, level=3, granule=4097)
    assert explain_entry(0x400, level=3, dialect="kvm6") != explain_entry(0x404, level=3, dialect="kvm6")
