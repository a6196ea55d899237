"""What was called, when, and what came back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from s2pt.testing.adapter import Call, TableConfig
from s2pt.types import Prot, Semantics

__all__ = ["History", "Leaf", "Operation"]


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a read found for one page: the part of a leaf that is the page's own.

    Attributes
    ----------
    pa : int
        Where the page is, in bytes.
    prot : Prot
        Its permissions.
    af : bool
        The access flag of the leaf.
    software : int
        The software bits.
    """

    pa: int
    prot: Prot
    af: bool = True
    software: int = 0

    def __repr__(self) -> str:
        rest = "" if self.af else ", old"
        return f"{self.pa:#x} {self.prot}{rest}{f', software {self.software}' if self.software else ''}"


@dataclass(frozen=True, slots=True)
class Operation:
    """One call.

    Attributes
    ----------
    thread : int
        Who called.
    invoked, returned : int
        Moments before the call and after it, of one clock for all threads, no two of them equal.
    call : Call
        A method of `s2pt.testing.Adapter` with its arguments; or ``Call("read", ipa)``, which looks at one page and
        gives a `Leaf`, or None where nothing is mapped.
    result : tuple
        ``("returned", value)``, or ``("raised", name of the exception)``, with the IPA as a third for ConflictError.
    """

    thread: int
    invoked: int
    returned: int
    call: Call
    result: tuple[Any, ...]

    def __post_init__(self) -> None:
        if self.invoked >= self.returned:
            raise ValueError(f"{self.call} returned at {self.returned}, before it was invoked at {self.invoked}")

    def __repr__(self) -> str:
        return f"{self.call} -> {self.outcome}"

    @property
    def outcome(self) -> str:
        """The result as text."""
        how, what, *place = self.result
        if how == "returned":
            return hex(what) if type(what) is int and what > 9 else repr(what)
        return " at ".join([what, *(hex(ipa) for ipa in place if isinstance(ipa, int))])

    @property
    def ipa(self) -> int:
        """The first byte of its range."""
        return int(self.call.args[0])

    def size(self, page: int) -> int:
        """Bytes of its range; those of a look at an address are the page's."""
        return page if self.call.name in ("read", "translate") else int(self.call.args[1])

    def keyword(self, name: str, otherwise: Any) -> Any:
        """Return a keyword of the call."""
        return dict(self.call.keywords).get(name, otherwise)


@dataclass(frozen=True)
class History:
    """Operations of several threads on a table that was empty before.

    Attributes
    ----------
    operations : sequence of Operation
        In any order.
    pages : sequence of int
        IPAs of the pages that are judged. A range that goes beyond them gives a result that is not held against it.
    config : TableConfig
        What table it was.
    blocks : bool
        Whether the pages may be parts of blocks. The access flag belongs to the leaf, so in a block one page's
        ageing changes another's: then it is not judged, nor how many leaves were changed.
    semantics : Semantics
        With KVM's a `map` with ``existing="error"`` that is refused may have filled holes for a moment. All else is
        judged alike: the model is exact.
    """

    operations: Sequence[Operation]
    pages: Sequence[int]
    config: TableConfig = field(default_factory=TableConfig)
    blocks: bool = False
    semantics: Semantics = Semantics.EXACT

    def __post_init__(self) -> None:
        moments = [moment for operation in self.operations for moment in (operation.invoked, operation.returned)]
        if len(set(moments)) != len(moments):
            raise ValueError("two moments of a history are equal: nobody can tell which was first")

    def touched(self, operation: Operation) -> list[int]:
        """Return the judged pages in its range, ascending."""
        low, size = operation.ipa // self.config.granule * self.config.granule, operation.size(self.config.granule)
        return sorted(page for page in self.pages if low <= page < low + size)

    def whole(self, operation: Operation) -> bool:
        """Whether all pages of its range are judged."""
        return len(self.touched(operation)) * self.config.granule == operation.size(self.config.granule)

    def overlapping(self) -> int:
        """Count the pairs of operations of which neither returned before the other was called."""
        events = sorted((moment, kind) for o in self.operations for moment, kind in ((o.invoked, 1), (o.returned, -1)))
        running = pairs = 0
        for _, kind in events:
            pairs += running if kind > 0 else 0
            running += kind
        return pairs
