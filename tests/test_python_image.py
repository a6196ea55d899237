"""`s2pt.image` on the tables that real KVM built, on our own, and on damaged ones."""

from __future__ import annotations

import io
import json
import lzma
import struct
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import s2pt
import s2pt.image
from s2pt import MemType, Prot, Stage2
from s2pt.image import Image

TABLES = Path(__file__).parent / "data" / "kvm-tables" / "tables.tar.xz"


@cache
def snapshots():
    """Unpack all snapshots: name -> (dump, sidecar)."""
    found = {}
    with tarfile.open(TABLES) as archive:
        for member in archive:
            if member.isfile():
                path = Path(member.name)
                file = archive.extractfile(member)
                found.setdefault(path.stem, {})[path.suffix] = file.read()
    return {name: (parts[".bin"], json.loads(parts[".json"])) for name, parts in found.items() if ".bin" in parts}


def runs(image):
    """Join leaves into runs as the sidecars do: [ipa, size, pa, level, attributes]."""
    result = []
    array = image.leaves_array()
    for ipa, size, pa, level, raw in array[["ipa", "size", "pa", "level", "raw"]].tolist():
        attrs = raw & ~output_bits(image, pa)
        if result:
            last = result[-1]
            if (last[0] + last[1], last[2] + last[1], last[3], last[4]) == (ipa, pa, level, attrs):
                last[1] += size
                continue
        result.append([ipa, size, pa, level, attrs])
    return result


def output_bits(image, pa):
    shape = image.geometry
    if shape.lpa2:
        return pa & ((1 << 50) - 1) | pa >> 50 << 8
    if shape.granule == 65536:
        return pa & ((1 << 48) - 1) | pa >> 48 << 12
    return pa


def number(value):
    return int(value, 0) if isinstance(value, str) else value


@pytest.mark.slow
def test_every_table_of_kvm_walks_to_its_leaves():
    assert len(snapshots()) == 33
    for name, (dump, sidecar) in snapshots().items():
        image = Image.from_bytes(dump)
        theirs = [[number(value) for value in run[:5]] for run in sidecar["leaf_runs"]]
        assert runs(image) == theirs, name
        leaves = list(image.leaves())
        assert sum(leaf.size for leaf in leaves) == sum(run[1] for run in theirs)
        assert len(image.leaves_array()) == len(leaves)
        assert all(leaf.memtype in (MemType.NORMAL, MemType.DEVICE, MemType.NORMAL_NC) for leaf in leaves), name
        # What was written back is the same table.
        again = Image.from_bytes(image.to_bytes(), fwb=image.fwb, xnx=image.xnx, dialect=image.dialect)
        assert image.diff(again) == []
        assert again.to_bytes() == image.to_bytes()


def test_locked_and_annotated_entries_are_told():
    dump, _ = snapshots()["k612_lockedC_mid01"]
    image = Image.from_bytes(dump)
    assert image.dialect == "kvm6"
    locked = [row for row in image.invalid() if row[3] == "locked"]
    assert len(locked) == 4
    assert all(raw == 0x400 for _, _, raw, _ in locked)
    ipa, level, raw, _ = locked[0]
    last = image.path(ipa)[-1]
    assert (last.raw, last.level, last.base, last.kind) == (raw, level, ipa, "locked")
    newer = Image.from_bytes(snapshots()["k73_locked_mid01"][0])
    assert (newer.dialect, [row[2:] for row in newer.invalid()]) == ("kvm7", [(1 << 60, "locked")])
    owned = Image.from_bytes(snapshots()["k612_pkvm_thp_iter1_dirtied"][0]).invalid()
    assert (len(owned), {row[2:] for row in owned}) == (2625, {(4, "annotated 0x1")})


def table():
    s2 = Stage2(ipa_bits=36, granule="4KiB")
    s2.map(0x4000_0000, "2MiB", pa=0x8000_0000, prot=Prot.RWX)
    s2.map(0x4020_0000, "12KiB", pa=0x1_0000_0000, prot=Prot.R, software=5)
    return s2


def test_open(tmp_path):
    image = table().image()
    plain, packed = tmp_path / "t.bin", tmp_path / "t.bin.xz"
    plain.write_bytes(image.to_bytes())
    packed.write_bytes(lzma.compress(image.to_bytes()))
    for file in (plain, packed, str(plain)):
        opened = s2pt.image.open(file)
        assert list(opened) == list(table())
        assert opened.diff(image) == []
    with pytest.raises(FileNotFoundError):
        s2pt.image.open(tmp_path / "none.bin")


def test_an_image_is_what_the_table_was():
    s2 = table()
    image = s2.image()
    assert (image.vtcr, image.vttbr, image.root, image.page_size) == (s2.vtcr, s2.vttbr, s2.root, 4096)
    assert image.geometry == s2.geometry
    assert list(image.leaves()) == list(s2)
    assert (image.leaves_array() == s2.leaves_array()).all()
    assert image.leaves_array().dtype == s2pt._core.LEAF_DTYPE
    assert image.tables == dict(s2.stats().tables)
    before = list(s2)
    s2.unmap(0x4000_0000, 4096)
    assert list(image.leaves()) == before
    gone, smaller = image.diff(s2.image())
    assert (gone.ipa, gone.size, gone.what, gone.b) == (0x4000_0000, 4096, ("only_a",), None)
    assert (smaller.ipa, smaller.size, smaller.what) == (0x4000_1000, 511 * 4096, ("size",))
    assert repr(gone) == "Difference(ipa=0x40000000, size=4KiB, only_a)"
    assert str(smaller) == "0x40001000 +2044KiB: size 2MiB / 4KiB"
    assert "2M 2   R W   AF BLK" in image.dump("kvm6")
    assert [entry.kind for entry in image.path(0x4020_1234)] == ["table", "table", "leaf"]


def test_memory_given_as_function():
    dump = table().image()
    asked = []
    pages = {}
    data = dump.to_bytes()
    count = struct.unpack_from("<Q", data, 16)[0]
    for index in range(count):
        offset = 48 + index * (8 + 4096)
        pages[struct.unpack_from("<Q", data, offset)[0]] = data[offset + 8 : offset + 8 + 4096]

    def read(pa, size):
        asked.append(pa)
        # The root of a 36-bit space has 64 entries.
        assert size == (512 if pa == dump.root else 4096)
        return pages[pa][:size] if pa in pages else None

    image = Image(read, dump.vtcr, dump.vttbr)
    assert sorted(asked) == sorted(pages), "each table once"
    assert image.diff(dump) == []
    # A table that is not there: refused, or skipped.
    lost = sorted(set(pages) - {dump.root})[-1]
    image = Image(lambda pa, size: None if pa == lost else pages[pa][:size], dump.vtcr, dump.vttbr)
    with pytest.raises(s2pt.ImageError, match=f"table at {lost:#x}, for IPA 0x40.00000 on, is not there") as caught:
        image.leaves()
    assert (caught.value.ipa is not None, caught.value.level in (2, 3)) == (True, True)
    assert len(list(image.leaves(errors="skip"))) == len(image.leaves_array(errors="skip")) < 4


def test_memory_given_as_bytes():
    flat = bytearray(8192)
    struct.pack_into("<Q", flat, 8, 0x9000 | 3)  # root at 0x8000: its second entry is the table behind it
    struct.pack_into("<Q", flat, 4096 + 16, 0x0040_0000_8000_07FD)
    for memory in (flat, bytes(flat), memoryview(flat), np.frombuffer(flat, dtype=np.uint8)):
        (leaf,) = Image(memory, 0x802D_355C, 0x8000, base=0x8000)
        assert (leaf.ipa, leaf.size, leaf.pa, leaf.prot) == (0x4040_0000, 2 << 20, 0x8000_0000, Prot.RW)
    # The end of the memory cuts the lower table off; its start, both.
    with pytest.raises(s2pt.ImageError, match="level 2 table at 0x9000, for IPA 0x40000000 on, is not there"):
        Image(flat[:-1], 0x802D_355C, 0x8000, base=0x8000).leaves()
    with pytest.raises(s2pt.ImageError, match="level 1 table at 0x8000, for IPA 0x0 on, is not there"):
        Image(flat, 0x802D_355C, 0x8000, base=0x8008).leaves()


def test_errors_of_the_function_come_through():
    dump = table().image()

    def fail(pa, size):
        raise OSError("no such bus")

    with pytest.raises(OSError, match="no such bus"):
        Image(fail, dump.vtcr, dump.vttbr)
    with pytest.raises(s2pt.ImageError, match=r"read\(0x.*, 0x200\) gave 0x4 bytes"):
        Image(lambda pa, size: b"abcd", dump.vtcr, dump.vttbr)
    with pytest.raises(BufferError):
        Image(lambda pa, size: np.zeros(2), dump.vtcr, dump.vttbr)


def damaged(data, **fields):
    """Overwrite fields of the header."""
    names = {"page_size": 8, "pages": 16, "root": 24, "vtcr": 32, "vttbr": 40}
    data = bytearray(data)
    for name, value in fields.items():
        struct.pack_into("<Q", data, names[name], value)
    return bytes(data)


DAMAGE = {
    "empty": (lambda d: b"", "not a stage-2 dump"),
    "garbage": (lambda d: bytes(range(256)) * 40, "not a stage-2 dump: it begins with bytes"),
    "text": (lambda d: b"ftrace text, not a dump", "not a stage-2 dump"),
    "header cut": (lambda d: d[:40], "truncated dump: 0x28 bytes, the header alone has 0x30"),
    "cut": (lambda d: d[:-1], "truncated dump: 0x3 pages of 0x1000 bytes need"),
    "cut to the header": (lambda d: d[:48], "truncated dump"),
    "longer": (lambda d: d + b"\0", "its 0x3 pages end at"),
    "page size": (lambda d: damaged(d, page_size=8192), "dump page size 0x2000 is none of"),
    "other granule": (lambda d: damaged(d, page_size=16384), "VTCR_EL2 .* says a granule of 0x1000"),
    "endless": (lambda d: damaged(d, pages=2**64 - 1), "truncated dump: 0xffffffffffffffff pages"),
    "other root": (lambda d: damaged(d, root=0x1000), "dump root 0x1000, but VTTBR_EL2"),
    "vtcr": (lambda d: damaged(d, vtcr=0x802D_F558), "VTCR_EL2 0x802df558: TG0 = 3 is no granule"),
    "zero vtcr": (lambda d: damaged(d, vtcr=0), "VTCR_EL2 0x0"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_dumps(damage, message, tmp_path):
    data = damage(table().image().to_bytes())
    with pytest.raises(s2pt.ImageError, match=message):
        Image.from_bytes(data)
    file = tmp_path / "broken.bin"
    file.write_bytes(data)
    with pytest.raises(s2pt.ImageError, match=f"broken.bin: .*{message}"):
        s2pt.image.open(file)


def test_damaged_xz(tmp_path):
    file = tmp_path / "broken.bin.xz"
    for data in (b"", b"garbage", lzma.compress(table().image().to_bytes())[:-20]):
        file.write_bytes(data)
        with pytest.raises(s2pt.ImageError, match=r"broken\.bin\.xz"):
            s2pt.image.open(file)


def test_a_cycle_is_refused():
    memory = bytearray(4096)
    struct.pack_into("<Q", memory, 0, 0x8000 | 3)  # the root's first entry is a table: the root itself
    image = Image(memory, 0x802D_355C, 0x8000, base=0x8000)
    with pytest.raises(s2pt.ImageError, match="table at 0x8000, for IPA 0x0 on, is in the tree already") as caught:
        list(image)
    assert (caught.value.ipa, caught.value.level) == (0, 2)
    assert list(image.leaves(errors="skip")) == []


def test_bad_arguments():
    image = table().image()
    for call in (
        lambda: Image("text", image.vtcr, image.vttbr), lambda: Image(5, image.vtcr, image.vttbr),
        lambda: Image.from_bytes(io.BytesIO()), lambda: Image.from_bytes(None), lambda: image.diff("other"),
        lambda: Image(b"", True, 0), lambda: Image(b"", 1.5, 0),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError, match="errors must be one of 'raise', 'skip', not 'ignore'"):
        image.leaves(errors="ignore")
    with pytest.raises(ValueError, match="dialect must be one of 'own', 'kvm6', 'kvm7', not 'xen'"):
        Image.from_bytes(image.to_bytes(), dialect="xen")
    with pytest.raises(s2pt.AddressError, match="IPA 0x1000000000 is outside the table's space"):
        image.path(1 << 36)
    with pytest.raises(s2pt.ImageError, match="VTTBR_EL2 0x8001000"):
        Image(b"", 0x802D_3558, 0x800_1000)
