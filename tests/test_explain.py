"""One access followed through a table: live, in an image, in the model."""

from __future__ import annotations

import copy
import pickle
import xml.etree.ElementTree as ET
from itertools import product

import pytest
from tables import IPA, MIB, PAGE, SHAPES, table

import s2pt
import s2pt.image
from s2pt import Access, Prot, Stage2
from s2pt.explain import Step, WalkFault
from s2pt.image import Image
from s2pt.model import ModelStage2
from s2pt.view import html, svg


def test_a_walk_explained():
    s2 = table()
    walk = s2.explain(IPA + 2 * MIB + 0x234, "w")
    root, middle, page = walk.steps
    assert (root.level, root.index, root.address, root.kind) == (1, 2, s2.root + 16, "table")
    assert (middle.level, middle.index, middle.address) == (2, 1, root.table + 8)
    assert (page.level, page.index, page.address, page.base) == (3, 0, middle.table, IPA + 2 * MIB)
    assert page.mapping == s2[IPA + 2 * MIB]
    assert page.value == page.mapping.raw
    assert (walk.translation, walk.fault) == (None, WalkFault("permission", 3))
    assert [step.fault for step in walk.steps] == [None, None, "permission"]
    assert str(walk).splitlines()[0] == "write to 0x80200234: permission fault at level 3"
    assert str(walk).endswith("page of 4KiB to 0x40200000, R, normal memory  does not allow write")
    assert repr(walk) == "Explanation(ipa=0x80200234, access=WRITE, steps=3, fault=permission, level=3)"
    read = s2.explain(IPA + 2 * MIB + 0x234)
    assert read.translation == s2.translate(IPA + 2 * MIB + 0x234)
    assert read.fault is None
    assert read.result == "read of 0x80200234: 0x40200234 at level 3, R, normal memory"
    assert s2.explain(0, "x").steps[0].verdict == "nothing valid"


def test_an_explanation_is_a_value():
    walk = table().explain(IPA)
    assert walk == table().explain(IPA)
    assert hash(walk) == hash(table().explain(IPA))
    assert pickle.loads(pickle.dumps(walk)) == copy.deepcopy(walk) == walk
    with pytest.raises(AttributeError):
        walk.ipa = 0
    with pytest.raises((AttributeError, TypeError)):
        walk.more = 0


def test_beyond_the_space_there_is_no_step():
    wrong = ((-1, s2pt.AddressError), (1 << 64, s2pt.AddressError), (True, TypeError), (0.5, TypeError))
    for s2 in (table(), table().image(), table(ModelStage2)):
        for ipa in (1 << 40, (1 << 64) - 1):
            walk = s2.explain(ipa)
            assert (walk.steps, walk.fault) == ((), WalkFault("translation", 0))
        for wrong, error in (
            (-1, s2pt.AddressError),
            (1 << 64, s2pt.AddressError),
            (True, TypeError),
            (0.5, TypeError),
        ):
            with pytest.raises(error):
                s2.explain(wrong)
        with pytest.raises(ValueError, match="access must be one of 'r', 'w', 'x', not 'rw'"):
            s2.explain(0, "rw")


def answer(s2, ipa, access):
    try:
        return s2.translate(ipa, access), None
    except s2pt.Fault as fault:
        return None, WalkFault(fault.kind, fault.level)


@pytest.mark.parametrize("options", SHAPES)
def test_live_table_image_and_model_say_the_same(options):
    page = s2pt.parse_size(options.get("granule", "4KiB"))
    live, model = Stage2(**options), ModelStage2(**options)
    for s2 in (live, model):
        s2.map(0, 1 << 32, pa=1 << 33, prot=Prot.RW)
        s2.protect(5 * page, page, Prot.R)
        s2.map(7 * page, page, pa=0, prot=Prot.RWX, af=False)
        s2.unmap(1 << 31, page)
    image = live.image()
    for ipa, access in product((0, 5 * page + 3, 7 * page, 1 << 31, (1 << 31) + page, 1 << 35), Access):
        walk, other, spec = live.explain(ipa, access), image.explain(ipa, access), model.explain(ipa, access)
        assert walk == other
        assert (walk.translation, walk.fault) == (spec.translation, spec.fault) == answer(live, ipa, access)
        for ours, theirs in zip(walk.steps, spec.steps, strict=True):
            bare = Step(ours.level, ours.index, ours.base, ours.size, ours.kind, mapping=ours.mapping, fault=ours.fault)
            value = theirs.value if theirs.kind != "table" else None
            assert (bare.decoded, bare.verdict) == (theirs.decoded, theirs.verdict)
            assert theirs == Step(
                bare.level, bare.index, bare.base, bare.size, bare.kind, None, value, None, bare.mapping, bare.fault
            )
            assert value in (None, ours.value)


def test_what_is_missing_is_an_external_abort():
    whole = table().image()
    data = whole.to_bytes()
    pages = [data[at : at + 8 + PAGE] for at in range(48, len(data), 8 + PAGE)]
    memory = {int.from_bytes(page[:8], "little"): page[8:] for page in pages}
    lost = whole.explain(IPA).steps[0].table

    def read(pa, size):
        return None if pa == lost else b"".join(memory[at] for at in range(pa, pa + size, PAGE))

    image = Image(read, whole.vtcr, whole.vttbr)
    walk = image.explain(IPA)
    assert (len(walk.steps), walk.fault) == (1, WalkFault("external-abort", 2))
    assert walk.rows()[-1][-1] == "that table is not there"
    assert "is not there" in html(image)
    ET.fromstring(svg(image))
