"""Owners' marks through the Python face: what an operation at the end of a large mark takes, keeps and refuses."""

from __future__ import annotations

import pytest

from s2pt import Stage2
from s2pt.errors import OptionError, OutOfFramesError
from s2pt.types import WalkFlags

PAGE, GIB = 4 << 10, 1 << 30
OWNER = 7


@pytest.fixture
def table() -> Stage2:
    """Pages up to 1 GiB, and a mark of 1 GiB behind them in one entry."""
    s2 = Stage2()
    s2.annotate(GIB, GIB, OWNER)
    s2.map(GIB - 2 * PAGE, 2 * PAGE, pa=0x8000_0000)
    return s2


def state(s2: Stage2) -> list[tuple[int, int]]:
    return [(entry.raw, entry.level) for entry in map(s2.lookup, (GIB - 2 * PAGE, GIB - PAGE, GIB, GIB + PAGE))]


def test_a_larger_mark_of_the_same_owner_is_not_cut(table: Stage2) -> None:
    large = table.lookup(GIB)
    frames = table.frames_in_use
    table.annotate(GIB - PAGE, 2 * PAGE, OWNER, budget=0)
    assert (table.lookup(GIB), table.frames_in_use) == (large, frames)
    assert table.lookup(GIB - PAGE).raw == large.raw


@pytest.mark.parametrize("owner", [0, 9])
def test_a_mark_that_cannot_be_cut_leaves_the_range_as_it_was(table: Stage2, owner: int) -> None:
    before = state(table)
    with pytest.raises(OutOfFramesError, match="needs 2 table frames and 0"):
        table.annotate(GIB - PAGE, 2 * PAGE, owner, budget=0)
    assert state(table) == before
    table.annotate(GIB - PAGE, 2 * PAGE, owner)
    assert [raw for raw, _ in state(table)[1:]] == [owner << 2, owner << 2, OWNER << 2]


def test_unmap_that_cannot_cut_a_mark_leaves_the_range_as_it_was() -> None:
    s2 = Stage2(frames=5)
    s2.annotate(GIB, GIB, OWNER)
    s2.map(GIB - 2 * PAGE, 2 * PAGE, pa=0x8000_0000)
    before = state(s2)
    with pytest.raises(OutOfFramesError, match="needs 2 table frames and 1"):
        s2.unmap(GIB - PAGE, 2 * PAGE)
    assert state(s2) == before


def test_write_protection_passes_a_mark_by() -> None:
    s2 = Stage2(frames=4)
    s2.annotate(GIB, GIB, OWNER)
    s2.map(GIB - 2 * PAGE, 2 * PAGE, pa=0x8000_0000)
    assert s2.write_protect(GIB - PAGE, 2 * PAGE).leaves == 1  # no frame for a cut, and none needed


def test_walk_flags_are_refused_whatever_is_mapped() -> None:
    s2 = Stage2()
    for _ in range(2):
        with pytest.raises(OptionError, match="walk flags 0x40"):
            s2.map(0, PAGE, pa=0, flags=WalkFlags.SKIP_CMO)
        s2.map(PAGE, PAGE, pa=PAGE)
    assert s2.lookup(0).raw == 0
