"""Every kind of bad input: a typed error that names the value in hex and the limit, and a table as it was before."""

from __future__ import annotations

import numpy as np
import pytest

import s2pt
from s2pt import MemType, Prot, Stage2
from s2pt.model import ModelStage2

IPA, PA, PAGE = 0x8000_0000, 0x4000_0000, 4096
MAX64 = (1 << 64) - 1

both = pytest.mark.parametrize("kind", [Stage2, ModelStage2])


def mapped_table(kind, **options):
    """Make a table with a 2 MiB block, so that a half-done change would show."""
    s2 = kind(**options)
    s2.map(IPA, "2MiB", pa=PA)
    return s2


def snapshot(s2):
    return list(s2.leaves()), s2.stats()


def refused(s2, error, message, call):
    """Check that the call is refused with this class and message and has changed nothing; return the exception."""
    before = snapshot(s2)
    with pytest.raises(error, match=message) as caught:
        call(s2)
    assert type(caught.value) is error
    s2.drain()
    assert snapshot(s2) == before
    return caught.value


ARGUMENTS = {
    # misaligned
    "ipa misaligned": (s2pt.AlignmentError, "(?i)ipa 0x80000800 is not a multiple of 0x1000", (IPA + 0x800, PAGE, PA)),
    "pa misaligned": (s2pt.AlignmentError, "(?i)pa 0x40000001 is not a multiple of 0x1000", (IPA, PAGE, PA + 1)),
    "size misaligned": (s2pt.AlignmentError, "size 0x1001 is not a multiple of 0x1000", (IPA, PAGE + 1, PA)),
    "size zero": (
        s2pt.AlignmentError,
        "size of the range at 0x80000000 is 0x0; .* at least 0x1000",
        (IPA, 0, PA),
    ),
    # beyond the spaces
    "ipa beyond": (
        s2pt.AddressError,
        "(?i)ipa 0x10000000000 of size 0x1000 ends beyond 0x10000000000",
        (1 << 40, PAGE, PA),
    ),
    "range beyond ipa": (
        s2pt.AddressError,
        "(?i)ipa 0xfffffff000 of size 0x2000 ends beyond 0x10000000000",
        ((1 << 40) - PAGE, 2 * PAGE, PA),
    ),
    "range beyond pa": (
        s2pt.AddressError,
        "(?i)pa 0xfffffffff000 of size 0x2000 ends beyond 0x1000000000000",
        (IPA, 2 * PAGE, (1 << 48) - PAGE),
    ),
    # start + size overflows 64 bits
    "overflow of ipa + size": (
        s2pt.AddressError,
        "(?i)ipa 0xfffffffffffff000 of size 0x2000 ends beyond 0x10000000000",
        (MAX64 - 0xFFF, 2 * PAGE, PA),
    ),
    "overflow by the size": (
        s2pt.AddressError,
        "(?i)ipa 0x80000000 of size 0xfffffffffffff000 ends beyond 0x10000000000",
        (IPA, MAX64 - 0xFFF, PA),
    ),
    "overflow of pa + size": (
        s2pt.AddressError,
        "(?i)pa 0xfffffffffffff000 of size 0x2000 ends beyond 0x1000000000000",
        (IPA, 2 * PAGE, MAX64 - 0xFFF),
    ),
    # what is no address
    "ipa negative": (s2pt.AddressError, "IPA -0x1000 is negative", (-4096, PAGE, PA)),
    "pa negative": (s2pt.AddressError, "PA -0x1 is negative", (IPA, PAGE, -1)),
    "size negative": (s2pt.AddressError, "size -0x1000 is negative", (IPA, -4096, PA)),
    "ipa of 65 bits": (s2pt.AddressError, "IPA 0x10000000000000000 does not fit in 64 bits", (1 << 64, PAGE, PA)),
    "ipa bool": (TypeError, r"IPA must be an integer, not bool \(True\)", (True, PAGE, PA)),
    "pa bool": (TypeError, r"PA must be an integer, not bool \(False\)", (IPA, PAGE, False)),
    "size bool": (TypeError, r"size must be an integer, not bool \(True\)", (IPA, True, PA)),
    "ipa float": (TypeError, r"IPA must be an integer, not float \(4096\.0\)", (4096.0, PAGE, PA)),
    "pa float": (TypeError, r"PA must be an integer, not float \(1e\+30\)", (IPA, PAGE, 1e30)),
    "size float": (TypeError, r"size must be an integer, not float \(nan\)", (IPA, float("nan"), PA)),
    "ipa text": (TypeError, r"IPA must be an integer, not str \('0x1000'\)", ("0x1000", PAGE, PA)),
    "ipa None": (TypeError, r"IPA must be an integer, not NoneType \(None\)", (None, PAGE, PA)),
    "ipa numpy float": (TypeError, "IPA must be an integer, not float64", (np.float64(4096), PAGE, PA)),
    "ipa numpy bool": (TypeError, "IPA must be an integer, not bool", (np.True_, PAGE, PA)),
    # what is no size
    "size text": (s2pt.SizeError, "size '2 furlongs' is not a number of bytes", (IPA, "2 furlongs", PA)),
    "size fraction": (s2pt.SizeError, "size '1.5MiB' is not a number of bytes", (IPA, "1.5MiB", PA)),
    "size beyond 64 bits": (s2pt.SizeError, "size '16777216TiB' is not a number of bytes", (IPA, "16777216TiB", PA)),
}


@both
@pytest.mark.parametrize(("error", "message", "arguments"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_map_refuses_what_is_no_range(kind, error, message, arguments):
    refused(mapped_table(kind), error, message, lambda s2: s2.map(*arguments))


# A range of IPAs is refused in the same words by every call that takes one.
RANGED = {
    "unmap": lambda s2, ipa, size: s2.unmap(ipa, size),
    "protect": lambda s2, ipa, size: s2.protect(ipa, size, Prot.R),
    "write_protect": lambda s2, ipa, size: s2.write_protect(ipa, size),
    "relax": lambda s2, ipa, size: s2.relax(ipa, size, Prot.X),
    "mark_young": lambda s2, ipa, size: s2.mark_young(ipa, size),
    "test_young": lambda s2, ipa, size: s2.test_young(ipa, size),
    "test_and_clear_young": lambda s2, ipa, size: s2.test_and_clear_young(ipa, size),
    "split": lambda s2, ipa, size: s2.split(ipa, size),
    "collapse": lambda s2, ipa, size: s2.collapse(ipa, size),
    "leaves": lambda s2, ipa, size: s2.leaves(ipa, size),
}
RANGES = {name: row for name, row in ARGUMENTS.items() if row[2][2] == PA}


@both
@pytest.mark.parametrize("call", RANGED.values(), ids=RANGED)
@pytest.mark.parametrize(("error", "message", "arguments"), RANGES.values(), ids=RANGES)
def test_every_ranged_call_refuses_what_is_no_range(kind, call, error, message, arguments):
    refused(mapped_table(kind), error, message, lambda s2: call(s2, *arguments[:2]))


ATTRIBUTES = {
    "device with execute": ({"prot": Prot.RWX, "memtype": MemType.DEVICE}, "(?i)execute|rwx"),
    "non-cacheable with execute": ({"prot": Prot.RX, "memtype": "normal-nc"}, "(?i)execute|rx"),
    "half of execute without XNX": ({"prot": Prot.R | Prot.PX}, "XNX"),
    "write-through with FWB": ({"memtype": "normal-wt", "fwb": True}, "(?i)forced write-back|FWB"),
    "as stage 1 without FWB": ({"memtype": "as-stage1"}, "(?i)forced write-back|FWB"),
    "software bits": ({"software": 16}, "0x10"),
    "many software bits": ({"software": 1 << 40}, "0x10000000000"),
    "permission bits": ({"prot": 0x10}, "0x10"),
    "many permission bits": ({"prot": 1 << 40}, "0x10000000000"),
}


@both
@pytest.mark.parametrize(("options", "message"), ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_attributes_that_no_leaf_can_have(kind, options, message):
    options = dict(options)
    s2 = mapped_table(kind, fwb=options.pop("fwb", False))
    refused(s2, s2pt.AttributesError, message, lambda s2: s2.map(IPA + (4 << 20), PAGE, PA, **options))


@both
@pytest.mark.parametrize("call", ["relax", "protect"])
def test_execute_cannot_be_given_to_device_memory_later(kind, call):
    s2 = mapped_table(kind)
    s2.map(IPA + (2 << 20), PAGE, PA, memtype="device-nGnRE")
    refused(s2, s2pt.AttributesError, "(?i)execute", lambda s2: getattr(s2, call)(IPA, "4MiB", Prot.RX))


@both
def test_levels_and_words(kind):
    s2 = mapped_table(kind)
    for level in (-2, 4, 1 << 70):
        refused(s2, s2pt.LevelError, "level .* is not one of -1..3", lambda s2, level=level: s2.split(IPA, PAGE, level))
        refused(s2, s2pt.LevelError, "level", lambda s2, level=level: s2.map(IPA, PAGE, PA, largest=level))
    for level in (True, 2.0, "2"):
        refused(s2, TypeError, "level must be an integer", lambda s2, level=level: s2.split(IPA, PAGE, level))
    refused(s2, ValueError, "existing must be one of 'replace', 'keep', 'error', not 'add'",
            lambda s2: s2.map(IPA, PAGE, PA, existing="add"))  # fmt: skip
    refused(s2, ValueError, "memtype must be one of 'device-nGnRnE', .*, not 'fast'",
            lambda s2: s2.map(IPA, PAGE, PA, memtype="fast"))  # fmt: skip
    refused(s2, ValueError, "access must be one of 'r', 'w', 'x', not 'rw'", lambda s2: s2.translate(IPA, "rw"))


@both
def test_queries_beyond_the_space(kind):
    s2 = mapped_table(kind)
    for call in (lambda s2: s2[1 << 40], lambda s2: s2.lookup(1 << 40)):
        error = refused(s2, s2pt.AddressError, "0x10000000000", call)
        assert error.ipa == 1 << 40
    fault = refused(s2, s2pt.TranslationFault, "0x10000000000", lambda s2: s2.translate(1 << 40))
    assert (fault.ipa, fault.level, fault.kind, fault.access) == (1 << 40, 0, "translation", "r")
    refused(s2, s2pt.AddressError, "IPA -0x1 is negative", lambda s2: s2.translate(-1))
    refused(s2, TypeError, "bool", lambda s2: s2[True])
    error = refused(s2, s2pt.NotMappedError, "nothing is mapped at 0x90000000", lambda s2: s2[0x9000_0000])
    assert isinstance(error, KeyError)
    assert (error.ipa, error.level) == (0x9000_0000, 2)


@both
def test_conflict_names_the_first_leaf(kind):
    s2 = mapped_table(kind)
    error = refused(s2, s2pt.ConflictError, "(?i)0x80000000 is .*level 2 entry 0x400000400007fd",
                    lambda s2: s2.map(IPA - PAGE, 2 * PAGE, PA, existing="error"))  # fmt: skip
    assert (error.ipa, error.level) == (IPA, 2)


@both
def test_keep_without_a_hole(kind):
    s2 = mapped_table(kind)
    error = refused(s2, s2pt.Again, "0x80001000", lambda s2: s2.map(IPA + PAGE, PAGE, PA, existing="keep"))
    assert (error.ipa, error.level) == (IPA + PAGE, 2)


@both
@pytest.mark.parametrize("call", ["protect", "relax", "mark_young"])
def test_nothing_there(kind, call):
    s2 = mapped_table(kind)
    arguments = () if call == "mark_young" else (Prot.R,)
    error = refused(s2, s2pt.NotMappedError, "nothing is mapped at 0x80200000",
                    lambda s2: getattr(s2, call)(IPA + (2 << 20), PAGE, *arguments))  # fmt: skip
    assert (error.ipa, error.level) == (IPA + (2 << 20), 2)


GEOMETRIES = {
    "ipa too small": ({"ipa_bits": 31}, "31"),
    "ipa too large": ({"ipa_bits": 53}, "53"),
    "ipa of 300 bits": ({"ipa_bits": 300}, "300"),
    "ipa beyond 48 without lpa2": ({"ipa_bits": 49}, "(?i)49.*lpa2"),
    "pa between": ({"pa_bits": 47}, "47"),
    "granule": ({"granule": 8192}, "granule"),
    "lpa2 with 64K": ({"granule": "64KiB", "lpa2": True}, "(?i)lpa2"),
    "start level too deep": ({"start_level": 3}, "level 3"),
    "root too large": ({"ipa_bits": 48, "start_level": 1}, "start level 1"),
    "start level too high": ({"start_level": -1}, "level -1"),
    "hd without ha": ({"ha": False, "hd": True}, "hd needs ha"),
    "vmid": ({"vmid": 1 << 16}, "VMID 0x10000 does not fit in 16 bits"),
}


@both
@pytest.mark.parametrize(("options", "message"), GEOMETRIES.values(), ids=GEOMETRIES)
def test_geometries_that_do_not_exist(kind, options, message):
    with pytest.raises(s2pt.GeometryError, match=message):
        kind(**options)


# ------------------------------------------------------------------------------------------------- out of frames


@both
def test_no_frames_for_the_root(kind):
    with pytest.raises(s2pt.OutOfFramesError, match="needs 2 table frames and 1 are available") as caught:
        kind(frames=1)
    assert isinstance(caught.value, MemoryError)
    assert (caught.value.needed, caught.value.available) == (2, 1)


@both
def test_quota_in_the_middle_of_a_map(kind):
    # 2 frames of root, 1 for the block's level: 3 left. Pages on both sides of six blocks need 7.
    s2 = mapped_table(kind, frames=6)
    call = lambda s2: s2.map(IPA + (2 << 20), 6 * (2 << 20), PA + PAGE)  # noqa: E731
    error = refused(s2, s2pt.OutOfFramesError, "needs 6 table frames and 3 are available", call)
    assert (error.needed, error.available) == (6, 3)
    assert s2.map(IPA + (2 << 20), 3 * (2 << 20), PA + PAGE).bytes == 6 << 20


@both
@pytest.mark.parametrize("k", range(4))
def test_the_kth_frame_of_a_map_is_refused(kind, k):
    s2 = mapped_table(kind)
    s2.fail_allocation(k)
    # Over an existing block (split), a hole (new table) and into the next gigabyte (two more).
    call = lambda s2: s2.map(IPA + (1 << 30) - (2 << 20) - PAGE, (2 << 20) + 2 * PAGE, PA + PAGE)  # noqa: E731
    refused(s2, s2pt.OutOfFramesError, "needs 4 table frames", call)
    call(s2)
    assert s2.translate(IPA + (1 << 30) - (2 << 20) - PAGE).pa == PA + PAGE


@both
@pytest.mark.parametrize("call", ["unmap", "write_protect", "split"])
def test_a_block_that_cannot_be_split(kind, call):
    s2 = mapped_table(kind)
    s2.fail_allocation(0)
    refused(s2, s2pt.OutOfFramesError, "needs 1 table frame", lambda s2: getattr(s2, call)(IPA, PAGE))
    getattr(s2, call)(IPA, PAGE)
    assert s2.stats().leaves[3] >= 511


# ------------------------------------------------------------------------------------------------- whole arrays


def u64(*values):
    return np.array(values, dtype=np.uint64)


BATCH = {
    "a list": (TypeError, "ipa must be a numpy array of uint64, not list", ([IPA], u64(PA))),
    "signed": (TypeError, "ipa must be an array of uint64, not of int64", (np.array([IPA]), u64(PA))),
    "floats": (TypeError, "pa must be an array of uint64, not of float64", (u64(IPA), np.array([1.5]))),
    "other byte order": (TypeError, "ipa must be an array of uint64, not of >u8", (u64(IPA).astype(">u8"), u64(PA))),
    "two dimensions": (ValueError, "ipa must have 1 dimension, not 2", (u64(IPA).reshape(1, 1), u64(PA))),
    "no dimension": (ValueError, "pa must have 1 dimension, not 0", (u64(IPA), np.array(PA, dtype=np.uint64))),
    "lengths": (ValueError, "ipa and pa must be equally long, not 1 and 2", (u64(IPA), u64(PA, PA))),
    "last ipa misaligned": (s2pt.AlignmentError, "ipa 0x80200001", (u64(0, IPA + (2 << 20) + 1), u64(PA, PA))),
    "last pa beyond": (s2pt.AddressError, "pa 0x1000000000000", (u64(0, PAGE), u64(PA, 1 << 48))),
    "size zero": (s2pt.AlignmentError, "is 0x0", (u64(0), u64(PA), 0)),
    "device with execute": (
        s2pt.AttributesError,
        "execute",
        (u64(0), u64(PA), None, Prot.RX),
        {"memtype": "device-GRE"},
    ),
}


@pytest.mark.parametrize("row", BATCH.values(), ids=BATCH)
def test_map_many_checks_everything_first(row):
    error, message, arguments, *options = row
    refused(mapped_table(Stage2), error, message, lambda s2: s2.map_many(*arguments, **(options[0] if options else {})))


def test_batch_error_names_the_element():
    s2 = mapped_table(Stage2)
    error = refused(s2, s2pt.AlignmentError, "ipa 0x1", lambda s2: s2.unmap_many(u64(IPA, IPA + PAGE, 1)))
    assert error.index == 2
    # A state that is met on the way stops the batch there: what came before is done.
    with pytest.raises(s2pt.ConflictError) as caught:
        s2.map_many(u64(0, IPA, PAGE), u64(PA, PA, PA), existing="error")
    assert caught.value.index == 1
    assert (0 in s2, PAGE in s2) == (True, False)


@pytest.mark.parametrize("call", ["translate_many", "touch", "unmap_many"])
def test_other_batches_take_uint64_arrays_only(call):
    s2 = mapped_table(Stage2)
    refused(s2, TypeError, "numpy array of uint64, not int", lambda s2: getattr(s2, call)(IPA))
    refused(s2, TypeError, "uint64, not of bool", lambda s2: getattr(s2, call)(np.array([True])))


# ------------------------------------------------------------------------------------------------- hostile objects


class Index:
    """An integer-like object that does something while it is asked for its value."""

    def __init__(self, value, action=lambda: None):
        self.value, self.action = value, action

    def __index__(self):
        self.action()
        return self.value


def test_index_is_honoured():
    s2 = Stage2()
    assert s2.map(Index(IPA), Index(PAGE), Index(PA)).bytes == PAGE
    assert s2.translate(np.uint32(IPA + 4)).pa == PA + 4


def test_errors_of_index_come_through():
    s2 = mapped_table(Stage2)

    def explode():
        raise RuntimeError("boom")

    refused(s2, RuntimeError, "boom", lambda s2: s2.map(Index(IPA, explode), PAGE, PA))
    refused(s2, RuntimeError, "boom", lambda s2: s2.unmap(IPA, Index(PAGE, explode)))

    class Liar:
        def __index__(self):
            return "no integer"

    refused(s2, TypeError, "__index__ returned non-int", lambda s2: s2.translate(Liar()))


def test_an_argument_that_closes_the_table():
    s2 = mapped_table(Stage2)
    with pytest.raises(s2pt.ClosedError, match="this Stage2 was closed"):
        s2.map(Index(IPA, s2.close), PAGE, PA)
    assert s2.closed


def test_an_argument_that_calls_the_table_again():
    s2 = Stage2()
    s2.map(Index(IPA, lambda: s2.map(IPA, "2MiB", PA)), PAGE, PA + PAGE)
    assert s2.translate(IPA).pa == PA + PAGE
    assert s2.translate(IPA + PAGE).pa == PA + PAGE


def test_bad_constructor_arguments():
    with pytest.raises(ValueError, match="sink must be one of 'counting', 'recording', not 'printing'"):
        Stage2(sink="printing")
    with pytest.raises(ValueError, match="blocks must be one of 'arch', 'kvm'"):
        Stage2(blocks="linux")
    with pytest.raises(TypeError, match="frames must be an integer, not bool"):
        Stage2(frames=True)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        Stage2(pages=4)
    with pytest.raises(s2pt.AddressError, match="negative"):
        Stage2(stall_tlbi_ns=-1)
    with pytest.raises(TypeError):
        Stage2().map(IPA)
    with pytest.raises(TypeError, match="not an acceptable base"):
        type("Derived", (Stage2,), {})
