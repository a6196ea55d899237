"""The table as a value: leaves, tables, and the one walk that rewrites a range of them.

Leaves and tables never change after they were made. `Edit` computes what a range becomes and shares everything outside
it, so that an operation is refused by forgetting its result, and done by keeping it. What an operation is about is its
*rule*: a function that is shown the entries of the range in ascending order and answers for each what it becomes, or
`DESCEND`: the answer differs between parts of the entry, ask again one level down. Going down from a block splits it;
going down from an empty entry makes a table; a table in which nothing is left becomes empty itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, NamedTuple, TypeVar

from s2pt._model_arch import Attrs

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")


def remembering(function: Callable[[_Asked], _Answer]) -> Callable[[_Asked], _Answer]:
    """Keep the last answer: neighbouring leaves nearly always have one and the same object as attributes."""
    last: tuple[_Asked, _Answer] | None = None

    def ask(what: _Asked) -> _Answer:
        nonlocal last
        if last is None or last[0] is not what:
            last = what, function(what)
        return last[1]

    return ask


class Levels(NamedTuple):
    """Where a tree begins, and the bytes that one entry answers for, by level."""

    first: int
    sizes: Mapping[int, int]


class Leaf(NamedTuple):
    """A page or block: where its first byte goes, and its attributes."""

    pa: int
    attrs: Attrs

    def at(self, offset: int) -> Leaf:
        """Return what the part from `offset` bytes on says."""
        return Leaf(self.pa + offset, self.attrs)

    def with_attrs(self, attrs: Attrs) -> Leaf:
        """Return the leaf with these attributes, itself if it has them."""
        return self if attrs is self.attrs else Leaf(self.pa, attrs)


class Table:
    """A table: its entries that are not empty, by index. The entries of a concatenated root are numbered through."""

    __slots__ = ("_census", "entries")

    def __init__(self, entries: Mapping[int, Leaf | Table]) -> None:
        self.entries = entries
        self._census: tuple[tuple[int, int], ...] | None = None

    def census(self, level: int) -> tuple[tuple[int, int], ...]:
        """Count the tables and the leaves at `level`, which is its own, and at each level below; only once."""
        if self._census is None:
            below = [node for node in self.entries.values() if isinstance(node, Table)] if level < 3 else []
            counts = [(1, len(self.entries) - len(below)), *[(0, 0)] * (3 - level)]
            for table in below:
                for depth, (tables, leaves) in enumerate(table.census(level + 1), 1):
                    counts[depth] = counts[depth][0] + tables, counts[depth][1] + leaves
            self._census = tuple(counts)
        return self._census

    def held(self, first: int, last: int) -> Collection[int]:
        """Return the indices from `first` to `last` whose entries are not empty, ascending."""
        if last - first < len(self.entries):
            return [index for index in range(first, last + 1) if index in self.entries]
        return sorted(index for index in self.entries if first <= index <= last)


class Place(NamedTuple):
    """One entry as a walk meets it: the level, IPA and bytes that it answers for, and the part of them asked for."""

    level: int
    base: int
    size: int
    lo: int
    hi: int

    @property
    def whole(self) -> bool:
        """Whether the walk's range covers all of the entry."""
        return self.hi - self.lo == self.size

    @property
    def bytes(self) -> int:
        """How much of the entry the range covers."""
        return self.hi - self.lo

    @property
    def offset(self) -> int:
        """Where in the entry that part starts."""
        return self.lo - self.base


class _Descend(Enum):
    DESCEND = 0


DESCEND: Final = _Descend.DESCEND
"""A rule's answer: this entry must be a table; ask again for the entries below."""

Answer = Leaf | Table | None | Literal[_Descend.DESCEND]


@dataclass(slots=True)
class Edit:
    """A walk over a range that makes a new tree of `root`, and counts the tables that this takes.

    `rule` is asked about entries that hold something, `hole` about empty ones (None: they stay empty), and `join` what
    becomes of a table below the root after its entries were dealt with.
    """

    levels: Levels
    root: Table
    rule: Callable[[Leaf | Table, Place], Answer]
    hole: Callable[[Place], Answer] | None = None
    join: Callable[[Table, Place], Leaf | Table] | None = None
    tables_made: int = 0

    def run(self, lo: int, hi: int) -> None:
        """Apply the rule to [lo, hi)."""
        self.root = self._table(self.root, self.levels.first, 0, lo, hi)

    def _table(self, table: Table, level: int, base: int, lo: int, hi: int) -> Table:
        """Rewrite [lo, hi) of a table of `level` whose first entry answers for `base` and what follows."""
        size, old, rule, hole = self.levels.sizes[level], table.entries, self.rule, self.hole
        first, last = (lo - base) // size, (hi - 1 - base) // size
        changed: dict[int, Leaf | Table | None] = {}
        for index in table.held(first, last) if hole is None else range(first, last + 1):
            start = base + index * size
            end = start + size
            at = Place(level, start, size, lo if lo > start else start, hi if hi < end else end)
            node = old.get(index)
            answer = rule(node, at) if node is not None else hole(at) if hole is not None else None
            if answer is DESCEND:
                answer = self._below(node, at)
            if answer is not node:
                changed[index] = answer
        if not changed:
            return table
        return Table({index: node for index, node in {**old, **changed}.items() if node is not None})

    def _below(self, node: Leaf | Table | None, at: Place) -> Leaf | Table | None:
        """Go on one level down."""
        if not isinstance(node, Table):
            self.tables_made += 1
        table = self._table(self._as_table(node, at), at.level + 1, at.base, at.lo, at.hi)
        if not table.entries:
            return None
        return self.join(table, at) if self.join else table

    def _as_table(self, node: Leaf | Table | None, at: Place) -> Table:
        """Return the table that stands for an entry one level down: a block becomes a table of equal parts."""
        if isinstance(node, Table):
            return node
        if node is None:
            return Table({})
        size = self.levels.sizes[at.level + 1]
        return Table({i: node.at(i * size) for i in range(at.size // size)})


def walk(levels: Levels, root: Table, ipa: int) -> tuple[Leaf | None, Place]:
    """Walk to the entry that answers for one address: a leaf or an empty one."""
    node: Leaf | Table | None = root
    level, base, size = levels.first - 1, 0, 0
    while isinstance(node, Table):
        level += 1
        size = levels.sizes[level]
        index = (ipa - base) // size
        node, base = node.entries.get(index), base + index * size
    return node, Place(level, base, size, ipa, ipa + 1)


def leaves(levels: Levels, root: Table, lo: int, hi: int) -> Iterator[tuple[Leaf, int, int]]:
    """Visit the leaves of which a part is in [lo, hi), in ascending order, each with its level and its IPA."""

    def below(table: Table, level: int, base: int, lo: int, hi: int) -> Iterator[tuple[Leaf, int, int]]:
        size, entries = levels.sizes[level], table.entries
        for index in table.held((lo - base) // size, (hi - 1 - base) // size):
            node, start = entries[index], base + index * size
            if isinstance(node, Leaf):
                yield node, level, start
            else:
                yield from below(node, level + 1, start, max(lo, start), min(hi, start + size))

    return below(root, levels.first, 0, lo, hi)
