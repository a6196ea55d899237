"""What `explain` gives: one access followed through a table, each entry on its way, and what the MMU answers.

Live tables, images and the model give the same objects; the model, which has no memory, leaves out where entries are.

Examples
--------
>>> from s2pt import Prot, Stage2
>>> s2 = Stage2()
>>> s2.map(0x8000_0000, 4096, pa=0x4000_0000, prot=Prot.RX)
Mapped(bytes=4KiB, kept=0B)
>>> walk = s2.explain(0x8000_0010, "w")
>>> walk
Explanation(ipa=0x80000010, access=WRITE, steps=3, fault=permission, level=3)
>>> [(step.level, step.index, step.kind, step.verdict) for step in walk.steps]
[(1, 2, 'table', 'go on at level 2'), (2, 0, 'table', 'go on at level 3'), (3, 0, 'leaf', 'does not allow it')]
>>> walk.steps[-1].mapping == s2[0x8000_0000]
True
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import ClassVar, Literal

from s2pt._numbers import format_size
from s2pt.types import Access, Mapping, Translation, _Result

__all__ = ["Explanation", "Step", "WalkFault"]

FaultKind = Literal["translation", "permission", "access-flag", "address-size", "external-abort"]

_SAYS = {
    "translation": "translation fault",
    "permission": "permission fault",
    "access-flag": "access flag fault",
    "address-size": "address size fault",
    "external-abort": "external abort",
}
_TRIES = {Access.READ: "read of", Access.WRITE: "write to", Access.EXECUTE: "fetch from"}
_COLUMNS = ("level", "index", "entry at", "value", "decoded", "verdict")


@dataclass(frozen=True, slots=True, repr=False)
class WalkFault(_Result):
    """Why an access is refused, as the fault status code would say it.

    Attributes
    ----------
    kind : str
        ``"translation"``, ``"address-size"``, ``"access-flag"``, ``"permission"``, or ``"external-abort"`` for a table
        that is not in the image.
    level : int
        The level that is reported; 0 for an address beyond the IPA space.

    Examples
    --------
    >>> str(WalkFault("permission", 2))
    'permission fault at level 2'
    """

    kind: FaultKind
    level: int

    def __str__(self) -> str:
        return f"{_SAYS[self.kind]} at level {self.level}"


@dataclass(frozen=True, slots=True, repr=False)
class Step(_Result):
    """The entry that a walk reads at one level.

    Attributes
    ----------
    level : int
        The level, -1..3.
    index : int
        Which entry of the table; in a concatenated root it counts through all pages.
    base, size : int
        First IPA that the entry is responsible for, and how many bytes.
    kind : str
        ``"table"``, ``"leaf"``, ``"empty"``, ``"annotated"``, ``"locked"``, ``"frozen"`` or ``"reserved"``.
    address : int or None
        Physical address of the entry; None in the model.
    value : int or None
        Its 64 bits; None for a table of the model.
    table : int or None
        Physical address of the table that it points to.
    mapping : Mapping or None
        The leaf, decoded.
    fault : str or None
        The kind of fault that the walk ends with here.
    """

    _hex: ClassVar[frozenset[str]] = frozenset({"base", "address", "value", "table"})
    _sizes: ClassVar[frozenset[str]] = frozenset({"size"})

    level: int
    index: int
    base: int
    size: int
    kind: str
    address: int | None = None
    value: int | None = None
    table: int | None = None
    mapping: Mapping | None = None
    fault: FaultKind | None = None

    @property
    def decoded(self) -> str:
        """What the entry says, in words."""
        if self.mapping is not None:
            leaf = self.mapping
            what = "page" if leaf.level == 3 else "block"
            old = "" if leaf.af else ", not accessed"
            return f"{what} of {format_size(leaf.size)} to {leaf.pa:#x}, {leaf.prot}, {leaf.memtype} memory{old}"
        return self.kind if self.table is None else f"{self.kind} at {self.table:#x}"

    @property
    def verdict(self) -> str:
        """What follows from it, in words; of a refused access without naming the access."""
        if self.fault is None:
            return f"go on at level {self.level + 1}" if self.kind == "table" else "translates"
        if self.fault == "permission":
            return "does not allow it"
        if self.fault == "access-flag":
            return "access flag is clear"
        return "address is too large" if self.fault == "address-size" else "nothing valid"


@dataclass(frozen=True, slots=True, repr=False)
class Explanation(_Result):
    """One access and what became of it: a translation, or a fault.

    Attributes
    ----------
    ipa : int
        The address.
    access : Access
        What was tried.
    steps : tuple of Step
        The entries that the walk read, from the root down; none if the address is beyond the IPA space.
    translation : Translation or None
        What the access gets.
    fault : WalkFault or None
        Why it is refused. Exactly one of the two is not None.

    Examples
    --------
    >>> walk = Explanation(1 << 40, Access.READ, (), None, WalkFault("translation", 0))
    >>> print(walk)
    read of 0x10000000000: translation fault at level 0
    """

    ipa: int
    access: Access
    steps: tuple[Step, ...]
    translation: Translation | None
    fault: WalkFault | None

    def __repr__(self) -> str:
        end = f"fault={self.fault.kind}, level={self.fault.level}" if self.fault else f"{self.translation!r}"
        return f"Explanation(ipa={self.ipa:#x}, access={self.access.name}, steps={len(self.steps)}, {end})"

    @property
    def result(self) -> str:
        """The answer in one line.

        Examples
        --------
        >>> Explanation(0x1000, Access.WRITE, (), None, WalkFault("translation", 0)).result
        'write to 0x1000: translation fault at level 0'
        """
        said = f"{_TRIES[self.access]} {self.ipa:#x}: "
        if self.translation is not None:
            hit = self.translation
            return f"{said}{hit.pa:#x} at level {hit.level}, {hit.prot}, {hit.memtype} memory"
        return f"{said}{self.fault}"

    def rows(self) -> list[tuple[str, ...]]:
        """Give the steps as texts: level, index, address and value of the entry, decoded, verdict."""
        rows: list[tuple[str, ...]] = []
        for step in self.steps:
            verdict = step.verdict
            if step.fault == "permission":
                verdict = f"does not allow {'fetch' if self.access is Access.EXECUTE else self.access.name.lower()}"
            elif step is self.steps[-1] and step.fault is None and self.fault is not None:
                verdict = "that table is not there"
            at, value = ("-" if number is None else f"{number:#x}" for number in (step.address, step.value))
            rows.append((str(step.level), str(step.index), at, value, step.decoded, verdict))
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        if not rows:
            return self.result
        widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]

        def line(cells: Iterable[str]) -> str:
            first, second, *rest = (
                cell.rjust(width) if place < 2 else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
            return "  ".join(["", first, second, *rest]).rstrip()

        return "\n".join([self.result, line(_COLUMNS), *map(line, rows)])

    def _repr_html_(self) -> str:
        """Draw the walk as a table, for notebooks."""
        head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
        right, left = 'style="text-align:right"', 'style="text-align:left"'
        align = (right, right, left, left, left, left)
        body = "".join(
            "<tr>" + "".join(f"<td {side}>{escape(cell)}</td>" for side, cell in zip(align, row, strict=True)) + "</tr>"
            for row in self.rows()
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if self.steps else ""
        return f"<div><p><b>{escape(self.result)}</b></p>{table}</div>"
