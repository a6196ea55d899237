"""Hypothesis strategies: tables, addresses, ranges, permissions and calls, chosen so that operations collide.

A random 40-bit address never meets another one. Here every range starts or ends near one of a few *anchors*: 0, the
first border between two of the largest blocks, the border between two concatenated root frames, and the end of the IPA
space; "near" is a few pages, and a few blocks of the smallest size. So ranges overlap, end one page short of a block or
one beyond it, and cross tables, root frames and the last address. Lengths are bounded by the number of entries that
they take, not by bytes: whole large blocks are frequent, a million pages are not. Whoever keeps a list of ranges that
were used passes it as `recent`: half of the new ranges are then one of those, or one with an end moved.

Calls that an implementation must refuse have strategies of their own (`refusals`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from s2pt._model_arch import make_geometry
from s2pt.testing.adapter import Call, TableConfig
from s2pt.types import Access, Blocks, Existing, Geometry, MemType, Prot

__all__ = [
    "OPERATIONS",
    "Range",
    "addresses",
    "calls",
    "collapses",
    "configs",
    "geometry_of",
    "maps",
    "memtypes",
    "prots",
    "ranges",
    "refusals",
    "splits",
    "translations",
]


class Range(NamedTuple):
    """`size` bytes from `ipa`."""

    ipa: int
    size: int

    def __repr__(self) -> str:
        return f"Range({self.ipa:#x}, {self.size:#x})"


_T = TypeVar("_T")
_BOOLEANS = st.booleans()


@lru_cache(maxsize=1024)
def _index(count: int) -> SearchStrategy[int]:
    return st.integers(0, count - 1)


def pick(draw: st.DrawFn, options: Sequence[_T]) -> _T:
    """Draw one of some options, as `sampled_from` does; to make a strategy for each draw takes longer than the draw."""
    return options[draw(_index(len(options)))]


# --- tables --------------------------------------------------------------------------------------------------------

_GRANULES = (4 << 10,) * 4 + (16 << 10,) * 2 + (64 << 10,)  # the larger the tables the slower each run


@lru_cache(maxsize=256)
def geometry_of(config: TableConfig) -> Geometry:
    """Return the geometry of a configuration."""
    c = config
    return make_geometry(c.granule, c.ipa_bits, c.pa_bits, c.start_level, c.lpa2, c.blocks)


@st.composite
def configs(
    draw: st.DrawFn,
    granules: tuple[int, ...] = _GRANULES,
    lpa2: bool | None = None,
    quotas: bool = True,
) -> TableConfig:
    """Generate tables that the architecture allows: granule, IPA and PA bits, start level, features, and a frame quota.

    Parameters
    ----------
    granules : tuple of int
        The granules to choose from.
    lpa2 : bool, optional
        Whether tables have 52-bit addresses (LPA2; for the 64K granule, whose descriptors hold 52 bits anyway, a 52-bit
        PA). None for both.
    quotas : bool
        Whether some tables have only a few more frames than their root takes.
    """
    granule = pick(draw, granules)
    wide = draw(_BOOLEANS) if lpa2 is None else lpa2
    ipa_bits = pick(draw, (32, 33, 36, 39, 40, 42, 43, 44, 47, 48) + ((49, 51, 52) if wide else ()))
    config = TableConfig(
        ipa_bits=ipa_bits,
        granule=granule,
        pa_bits=52 if wide else pick(draw, (48, 44, 36)),
        lpa2=wide and granule != 64 << 10,
        fwb=draw(_BOOLEANS),
        xnx=draw(_BOOLEANS),
        blocks=pick(draw, tuple(Blocks)),
        ha=pick(draw, (True, True, False)),
    )
    keywords = config.keywords()
    first = {4 << 10: -1 if wide else 0, 16 << 10: 0 if wide else 1, 64 << 10: 1}[granule]
    stride = geometry_of(config).stride
    starts = [
        level for level in range(first, 3) if 1 <= ipa_bits - (stride * (4 - level) + 3) <= stride + 4
    ]  # as many bits as a root of 1..16 frames resolves
    keywords["start_level"] = pick(draw, [None, *starts])
    if quotas:
        root = geometry_of(TableConfig(**keywords)).root_frames
        keywords["frames"] = pick(draw, (None, None, None, root, root + 2, root + 5, root + 12))
    return TableConfig(**keywords)


# --- addresses -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _anchors(shape: Geometry) -> tuple[int, ...]:
    """Addresses around which operations meet; see the module's header."""
    limit = 1 << shape.ipa_bits
    largest = max(shape.size(level) for level in range(shape.start_level, 4) if shape.block_allowed(level))
    entries_per_frame = 1 << shape.stride
    root_frame = entries_per_frame * shape.size(shape.start_level)
    return tuple(sorted({a for a in (0, largest, root_frame, limit) if a <= limit}))


@lru_cache(maxsize=256)
def _edges(shape: Geometry) -> SearchStrategy[int]:
    """Generate page-aligned addresses near an anchor, 0 and the end of the IPA space included."""
    page, block, limit = shape.granule, shape.size(2), 1 << shape.ipa_bits
    return st.builds(
        lambda anchor, blocks, pages: min(max(anchor + blocks * block + pages * page, 0), limit),
        st.sampled_from(_anchors(shape)),
        st.sampled_from((0, 0, 1, -1, 2, -2)),
        st.sampled_from((0, 0, 0, 1, -1, 2, -2, 5)),
    )


def addresses(config: TableConfig) -> SearchStrategy[int]:
    """Generate byte addresses near the anchors, a few of them beyond the IPA space."""
    return st.builds(
        lambda edge, offset: max(edge + offset, 0),
        _edges(geometry_of(config)),
        st.sampled_from((0, -1, 1, 0x123, -0x1000, 0xFFF)),
    )


@st.composite
def ranges(draw: st.DrawFn, config: TableConfig, recent: tuple[Range, ...] = ()) -> Range:
    """Generate valid ranges: a few pages, blocks more or less a page, the largest blocks, all between two edges.

    Half of them are ranges of `recent`, some with one end moved by a page or a block.
    """
    return _range(draw, config, recent)


def _range(draw: st.DrawFn, config: TableConfig, recent: tuple[Range, ...]) -> Range:
    shape = geometry_of(config)
    if not recent or not draw(_BOOLEANS):
        return draw(_fresh_ranges(shape))
    page, block, limit = shape.granule, shape.size(2), 1 << shape.ipa_bits
    used, steps = pick(draw, recent), (0, 0, 0, 0, page, -page, block, -block)
    a = min(max(used.ipa + pick(draw, steps), 0), limit - page)
    b = min(max(used.ipa + used.size + pick(draw, steps), a + page), limit)
    return Range(a, b - a)


@lru_cache(maxsize=256)
def _fresh_ranges(shape: Geometry) -> SearchStrategy[Range]:
    page, block, limit = shape.granule, shape.size(2), 1 << shape.ipa_bits
    levels = [level for level in range(max(shape.start_level, 0), 3) if shape.block_allowed(level)]
    large = shape.size(levels[0]) if levels else block

    sizes = st.one_of(
        st.sampled_from((1, 1, 2, 3, 5)).map(lambda pages: pages * page),
        st.builds(
            lambda blocks, pages: blocks * block + pages * page,
            st.sampled_from((1, 1, 2, 3)),
            st.sampled_from((0, 0, 0, -1, 1)),
        ),
        st.sampled_from((large, large, large + block, 2 * large, large + page, large - page)),
    )

    def clip(edge: int, size: int, ends: bool) -> Range:
        low = max(edge - size, 0) if ends else min(edge, limit - page)
        return Range(low, max(min(size, limit - low), page))

    def between(a: int, b: int) -> Range:
        low, high = min(a, b), max(a, b)
        return clip(low, max(high - low, page), False)

    near = st.builds(clip, _edges(shape), sizes, st.booleans())
    return st.one_of(near, near, near, st.builds(between, _edges(shape), _edges(shape)))


_MOST_ENTRIES = 520
"""How many entries a call may take: a table of the 4K granule and some."""


def _finest(shape: Geometry, size: int) -> int:
    """Return the finest level at which a range of `size` bytes does not take too many entries."""
    levels = range(shape.start_level, 4)
    return max(level for level in levels if level == levels[0] or size // shape.size(level) <= _MOST_ENTRIES)


# --- attributes ----------------------------------------------------------------------------------------------------


def prots(config: TableConfig, memtype: MemType = MemType.NORMAL) -> SearchStrategy[Prot]:
    """Generate permissions that a leaf of this memory type can have in this table."""
    return st.sampled_from(_prots(config, memtype))


def _prots(config: TableConfig, memtype: MemType = MemType.NORMAL) -> list[Prot]:
    usual = [Prot.RW, Prot.R, Prot.NONE, Prot.W]
    if not memtype.forbids_execute:
        usual += [Prot.RWX, Prot.RX, Prot.X]
        usual += [Prot.RW | Prot.PX, Prot.R | Prot.UX] if config.xnx else []
    return usual


def memtypes(config: TableConfig) -> SearchStrategy[MemType]:
    """Generate memory types that this table can say; mostly normal memory."""
    return st.sampled_from(_memtypes(config))


def _memtypes(config: TableConfig) -> list[MemType]:
    other = MemType.AS_STAGE1 if config.fwb else MemType.NORMAL_WT
    return [MemType.NORMAL] * 5 + [MemType.DEVICE, MemType.NORMAL_NC, other]


# --- calls ---------------------------------------------------------------------------------------------------------


@st.composite
def maps(draw: st.DrawFn, config: TableConfig, recent: tuple[Range, ...] = ()) -> Call:
    """Generate maps: to aligned and to skewed output, some at the end of the PA space, with every `existing`."""
    return _map(draw, config, recent)


def _map(draw: st.DrawFn, config: TableConfig, recent: tuple[Range, ...]) -> Call:
    shape = geometry_of(config)
    ipa, size = _range(draw, config, recent)
    largest_block = max(shape.size(level) for level in range(shape.start_level, 4) if shape.block_allowed(level))
    size = min(size, _MOST_ENTRIES * largest_block, 1 << (config.pa_bits - 1))
    finest = _finest(shape, size)
    # The output agrees with the IPA below the size of one level, so that leaves of this level and finer ones fit.
    room = (1 << config.pa_bits) - size
    levels = [level for level in range(shape.start_level, finest) if ipa % shape.size(level) <= room]
    aligned_to = shape.size(pick(draw, [*levels[-3:], finest]))
    low = ipa % aligned_to
    if low > room:
        size, aligned_to, low, room = shape.granule, shape.granule, 0, (1 << config.pa_bits) - shape.granule
    highest = (room - low) // aligned_to
    pa = low + min(pick(draw, (1, 0, 2, 3, highest)), highest) * aligned_to
    memtype = pick(draw, _memtypes(config))
    existing = pick(draw, [Existing.REPLACE, Existing.REPLACE, Existing.KEEP, Existing.ERROR])
    over_tables = {"over_tables": True} if existing is Existing.KEEP and draw(_BOOLEANS) else {}
    return Call(
        "map",
        ipa,
        size,
        pa,
        pick(draw, _prots(config, memtype)),
        memtype=memtype,
        existing=existing,
        largest=pick(draw, [None, None, None, *range(-1, finest + 1)]),
        software=pick(draw, (0, 0, 0, 1, 15)),
        af=pick(draw, (True, True, False)),
        **over_tables,
    )


@st.composite
def splits(draw: st.DrawFn, config: TableConfig, recent: tuple[Range, ...] = ()) -> Call:
    """Generate splits of ranges, and of some pages at an end of one, to a level that does not make too many leaves."""
    return _split(draw, config, recent)


def _split(draw: st.DrawFn, config: TableConfig, recent: tuple[Range, ...]) -> Call:
    shape = geometry_of(config)
    ipa, size = _range(draw, config, recent)
    part = pick(draw, (0, 0, 0, 1, -1, 3, -3)) * shape.granule
    if 0 < abs(part) < size:
        ipa, size = (ipa, part) if part > 0 else (ipa + size + part, -part)
    finest = _finest(shape, size)
    return Call("split", ipa, size, pick(draw, [*[finest] * 4, *range(-1, finest)]))


@st.composite
def collapses(draw: st.DrawFn, config: TableConfig, recent: tuple[Range, ...] = ()) -> Call:
    """Generate collapses: of a range and the whole tables around it, or of the one table at its start or its end."""
    return _collapse(draw, config, recent)


def _collapse(draw: st.DrawFn, config: TableConfig, recent: tuple[Range, ...]) -> Call:
    shape = geometry_of(config)
    ipa, size = _range(draw, config, recent)
    span = shape.size(pick(draw, [3, 2, 2, 2, *range(max(shape.start_level, 0), 2)]))
    low = ipa // span * span
    high = min(-(-(ipa + size) // span) * span, 1 << shape.ipa_bits)
    part = pick(draw, ("around", "start", "end"))
    if part == "start":
        high = min(low + span, high)
    elif part == "end":
        low = max((high - 1) // span * span, low)
    return Call("collapse", low, high - low)


_ON_RANGE = ("unmap", "write_protect", "mark_young", "test_young", "test_and_clear_young")
_WITH_PROT = ("protect", "relax")


OPERATIONS = ("map", "unmap", "split", "collapse", *_WITH_PROT, *_ON_RANGE[1:])
"""What `calls` knows."""


@st.composite
def calls(draw: st.DrawFn, config: TableConfig, name: str, recent: tuple[Range, ...] = ()) -> Call:
    """Generate calls of the operation `name`."""
    return call(draw, config, name, recent)


def call(draw: st.DrawFn, config: TableConfig, name: str, recent: tuple[Range, ...]) -> Call:
    """Draw a call, as `calls` generates it."""
    if name == "map":
        return _map(draw, config, recent)
    if name == "split":
        return _split(draw, config, recent)
    if name == "collapse":
        return _collapse(draw, config, recent)
    prot = (pick(draw, _prots(config)),) if name in _WITH_PROT else ()
    return Call(name, *_range(draw, config, recent), *prot)


def translations(config: TableConfig) -> SearchStrategy[Call]:
    """Generate accesses of every kind near the anchors."""
    return st.builds(lambda ipa, access: Call("translate", ipa, access), addresses(config), st.sampled_from(Access))


@st.composite
def refusals(draw: st.DrawFn, config: TableConfig) -> Call:
    """Generate calls with a bad argument.

    Misaligned, empty, beyond the IPA space, the PA space or 64 bits, negative, or attributes and levels that do not
    exist. What the call would do otherwise is valid.
    """
    shape = geometry_of(config)
    page, limit, pa_limit = shape.granule, 1 << shape.ipa_bits, 1 << shape.pa_bits
    ipa, size = _range(draw, config, ())
    size = min(size, 64 * page)
    misaligned = [(ipa + 1, size), (ipa + page // 2, size)]
    odd_sizes = [(ipa, 0), (ipa, size + 1), (ipa, page - 1)]
    beyond = [(limit, page), (limit - page, 2 * page), (0, limit + page), (page, limit)]
    overflowing = [((1 << 64) - page, page), ((1 << 64) - page, 2 * page), (page, (1 << 64) - page), (1 << 64, page)]
    negative = [(-page, page), (ipa, -page)]
    bad_maps = [
        Call("map", ipa, size, page // 2, Prot.RW),
        Call("map", ipa, size, pa_limit, Prot.RW),
        Call("map", ipa, 2 * page, pa_limit - page, Prot.RW) if ipa + 2 * page <= limit else None,
        Call("map", ipa, size, (1 << 64) - page, Prot.RW),
        Call("map", ipa, size, -page, Prot.RW),
        Call("map", ipa, size, 0, Prot.RX, memtype=MemType.DEVICE),
        Call("map", ipa, size, 0, Prot.X, memtype=MemType.NORMAL_NC),
        Call("map", ipa, size, 0, Prot.RW, memtype=MemType.NORMAL_WT if config.fwb else MemType.AS_STAGE1),
        Call("map", ipa, size, 0, Prot.RW, software=16),
        Call("map", ipa, size, 0, Prot.RW, largest=4),
        Call("map", ipa, size, 0, Prot.RW, largest=-2),
        Call("split", ipa, size, 4),
        None if config.xnx else Call("map", ipa, size, 0, Prot.R | Prot.PX),
        None if config.xnx else Call("relax", ipa, size, Prot.UX),
    ]
    if draw(_index(4)) == 0:
        return pick(draw, [bad for bad in bad_maps if bad is not None])
    bad_range = pick(draw, pick(draw, (misaligned, odd_sizes, beyond, overflowing, negative)))
    name = pick(draw, ("map", "split", "collapse", *_ON_RANGE, *_WITH_PROT))
    rest = (0, Prot.RW) if name == "map" else (Prot.RW,) if name in _WITH_PROT else ()
    return Call(name, *bad_range, *rest)
