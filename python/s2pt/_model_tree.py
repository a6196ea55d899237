"""The table as a value: leaves, tables, and the one walk that rewrites a range of them.

Leaves and tables never change after they were made. `Edit` computes what a range becomes and shares everything outside
it, so that an operation is refused by forgetting its result, and done by keeping it. What an operation is about is its
*rule*: a function that is shown the entries of the range in ascending order and answers for each what it becomes, or
`DESCEND`: the answer differs between parts of the entry, ask again one level down. Going down from a block splits it;
going down from an empty entry makes a table; a table in which nothing is left becomes empty itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, NamedTuple

from s2pt._model_arch import Attrs
from s2pt.types import Geometry, Prot


class Leaf(NamedTuple):
    """A page or block: where its first byte goes, and its attributes."""

    pa: int
    attrs: Attrs

    def at(self, offset: int) -> Leaf:
        """Return what the part from `offset` bytes on says."""
        return Leaf(self.pa + offset, self.attrs)

    def with_prot(self, prot: Prot) -> Leaf:
        """Return the leaf with other permissions."""
        return Leaf(self.pa, self.attrs._replace(prot=prot))

    def with_af(self, af: bool) -> Leaf:
        """Return the leaf with another access flag."""
        return Leaf(self.pa, self.attrs._replace(af=af))


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its entries that are not empty, by index. The entries of a concatenated root are numbered through."""

    entries: Mapping[int, Leaf | Table]


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


def place(base: int, size: int, level: int, lo: int, hi: int) -> Place:
    """Return the place of the entry at `base` in a walk of [lo, hi)."""
    return Place(level, base, size, max(lo, base), min(hi, base + size))


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

    shape: Geometry
    root: Table
    rule: Callable[[Leaf | Table, Place], Answer]
    hole: Callable[[Place], Answer] | None = None
    join: Callable[[Table, Place], Leaf | Table] | None = None
    tables_made: int = 0

    def run(self, lo: int, hi: int) -> None:
        """Apply the rule to [lo, hi)."""
        self.root = self._table(self.root, self.shape.start_level, 0, lo, hi)

    def _table(self, table: Table, level: int, base: int, lo: int, hi: int) -> Table:
        """Rewrite [lo, hi) of a table of `level` whose first entry answers for `base` and what follows."""
        size = self.shape.size(level)
        entries = dict(table.entries)
        indices = range((lo - base) // size, (hi - 1 - base) // size + 1)
        for index in indices if self.hole else sorted(i for i in entries if i in indices):
            new = self._entry(entries.get(index), place(base + index * size, size, level, lo, hi))
            if new is None:
                entries.pop(index, None)
            else:
                entries[index] = new
        return Table(entries)

    def _entry(self, node: Leaf | Table | None, at: Place) -> Leaf | Table | None:
        answer = self.rule(node, at) if node is not None else self.hole(at) if self.hole else None
        if answer is not DESCEND:
            return answer
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
        size = self.shape.size(at.level + 1)
        return Table({i: node.at(i * size) for i in range(at.size // size)})


def walk(shape: Geometry, root: Table, ipa: int) -> tuple[Leaf | None, Place]:
    """Walk to the entry that answers for one address: a leaf or an empty one."""
    node: Leaf | Table | None = root
    level, base = shape.start_level - 1, 0
    while isinstance(node, Table):
        level += 1
        index = (ipa - base) // shape.size(level)
        node, base = node.entries.get(index), base + index * shape.size(level)
    return node, place(base, shape.size(level), level, ipa, ipa + 1)


def leaves(shape: Geometry, root: Table, lo: int, hi: int) -> Iterator[tuple[Leaf, Place]]:
    """Visit the leaves of which a part is in [lo, hi), in ascending order, each with its place."""

    def below(table: Table, level: int, base: int) -> Iterator[tuple[Leaf, Place]]:
        size = shape.size(level)
        indices = range((max(lo, base) - base) // size, (hi - 1 - base) // size + 1)
        for index in sorted(i for i in table.entries if i in indices):
            node, at = table.entries[index], place(base + index * size, size, level, lo, hi)
            if isinstance(node, Leaf):
                yield node, at
            else:
                yield from below(node, level + 1, at.base)

    return below(root, shape.start_level, 0)


def tables(table: Table, level: int) -> Iterator[tuple[int, Table]]:
    """Visit a table and all tables below it, each with its level."""
    yield level, table
    if level < 3:
        for node in table.entries.values():
            if isinstance(node, Table):
                yield from tables(node, level + 1)
