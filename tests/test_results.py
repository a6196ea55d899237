"""Results are frozen dataclasses to everybody, although the extension module stores the common ones."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import weakref

import pytest

import s2pt
from s2pt import Changed, Entry, Mapped, Mapping, MemType, Prot, Stage2, Translation, types

IPA, PA, PAGE = 0x8000_0000, 0x4000_0000, 4096

MADE = [
    Mapping(IPA, PAGE, PA, 3, Prot.RW, MemType.NORMAL, True, 0, 0x4000_07FF),
    Translation(PA, 3, Prot.RX, MemType.DEVICE),
    Mapped(PAGE, 0),
    Changed(3, 3 * PAGE),
    Entry(0x400, 2, IPA, "locked"),
    types.Geometry(4096, 40, 48, 1, 2),
    types.Stats({1: 1}, {1: 0}, 0),
]
NATIVE = MADE[:5]


def values(result):
    return tuple(getattr(result, field.name) for field in dataclasses.fields(result))


@pytest.mark.parametrize("result", MADE, ids=lambda result: type(result).__name__)
def test_is_a_frozen_dataclass(result):
    kind = type(result)
    names = [field.name for field in dataclasses.fields(kind)]
    assert dataclasses.is_dataclass(kind)
    assert kind.__match_args__ == tuple(names)
    assert (kind.__module__, kind.__qualname__) == ("s2pt.types", kind.__name__)
    assert getattr(types, kind.__name__) is kind
    assert set(kind.__annotations__) - {"_hex", "_sizes"} == set(names)
    assert kind.__doc__
    assert "Attributes\n" in kind.__doc__
    for name in names:
        with pytest.raises(AttributeError):
            setattr(result, name, 0)
        with pytest.raises(AttributeError):
            delattr(result, name)
    with pytest.raises((AttributeError, TypeError)):
        result.extra = 0
    assert dataclasses.asdict(result) == dict(zip(names, values(result), strict=True))
    assert repr(result).startswith(f"{kind.__name__}(")


@pytest.mark.parametrize("result", NATIVE, ids=lambda result: type(result).__name__)
def test_equal_by_value(result):
    kind = type(result)
    names = [field.name for field in dataclasses.fields(kind)]
    by_name = kind(**dict(zip(names, values(result), strict=True)))
    again = pickle.loads(pickle.dumps(result))
    for other in (kind(*values(result)), by_name, copy.copy(result), copy.deepcopy(result), again):
        assert type(other) is kind
        assert other == result
        assert (other != result) is False
        assert hash(other) == hash(result) == hash(values(result))
        assert repr(other) == repr(result)
    for name in names:
        changed = dataclasses.replace(result, **{name: 77})
        assert getattr(changed, name) == 77
        assert changed != result
        assert (changed == result) is False
    for other in (values(result), None, 0, *(m for m in MADE if type(m) is not kind)):
        assert result != other
        assert (result == other) is False
    with pytest.raises(TypeError):
        assert result < result
    with pytest.raises(TypeError):
        kind(*values(result)[1:])
    with pytest.raises(TypeError):
        kind(*values(result), 0)
    with pytest.raises(TypeError):
        kind(nonsense=0)


def test_match_takes_them_apart():
    match Stage2().lookup(IPA):
        case Entry(raw, level, base, kind):
            assert (raw, level, base, kind) == (0, 1, IPA, "empty")
        case _:
            pytest.fail("no match")
    match Changed(1, PAGE):
        case Changed(leaves=1, bytes=count):
            assert count == PAGE


def test_a_field_may_hold_anything_and_lets_go_of_it():
    class Marker:
        pass

    marker = Marker()
    result = Mapped(marker, 0)
    assert result.bytes is marker
    with pytest.raises(TypeError):
        hash(Mapped([], 0))
    there = weakref.ref(marker)
    del marker, result
    gc.collect()
    assert there() is None


def test_calls_return_equal_results_as_python_makes():
    s2 = Stage2()
    assert s2.map(IPA, PAGE, PA) == Mapped(PAGE, 0)
    assert s2.map(IPA, PAGE, PA) == Mapped(0, PAGE)
    assert s2.protect(IPA, PAGE, Prot.R) == Changed(1, PAGE)
    hit = s2.translate(IPA + 5)
    assert hit == Translation(PA + 5, 3, Prot.R, MemType.NORMAL)
    assert hit.prot is Prot.R
    assert hit.memtype is MemType.NORMAL
    leaf = s2[IPA]
    assert leaf == Mapping(IPA, PAGE, PA, 3, Prot.R, MemType.NORMAL, True, 0, leaf.raw)
    assert leaf.af is True
    assert {type(value) for value in (leaf.ipa, leaf.size, leaf.level, leaf.software, leaf.raw)} == {int}
    assert s2.lookup(IPA) == Entry(leaf.raw, 3, IPA, "leaf")
    assert len({leaf, s2[IPA], *s2}) == 1
    assert s2pt.Mapping is types.Mapping
