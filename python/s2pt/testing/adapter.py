"""What an implementation must offer to be held against the model, and how one is made for a test.

An `Adapter` is anything with these methods: `s2pt.Stage2` is one, `s2pt.model.ModelStage2` is one, and a table written
in another language becomes one with a small class that calls it and raises the exceptions of `s2pt.errors`. What it
cannot do it leaves out, and says so to `s2pt.testing.make_machine`.
"""

# ruff: noqa: D102 (the methods are documented once, in the model)

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from s2pt.model import ModelStage2
from s2pt.types import Access, Blocks, Changed, Entry, Existing, Mapped, Mapping, MemType, Prot, Stats, Translation

__all__ = ["Adapter", "Call", "Factory", "ModelAdapter", "Stage2Adapter", "TableConfig"]


@dataclass(frozen=True, slots=True)
class TableConfig:
    """The table that a test wants: the arguments of the constructor of `s2pt.Stage2`."""

    ipa_bits: int = 40
    granule: int = 4096
    pa_bits: int = 48
    start_level: int | None = None
    lpa2: bool = False
    fwb: bool = False
    xnx: bool = False
    blocks: Blocks = Blocks.ARCH
    ha: bool = True
    hd: bool = False
    frames: int | None = None

    def keywords(self) -> dict[str, Any]:
        """Return them as keyword arguments."""
        return {name: getattr(self, name) for name in self.__slots__}


class Adapter(Protocol):
    """A stage-2 table under test. Every method does, returns and raises what its namesake in `ModelStage2` does.

    The machine calls with addresses and sizes in bytes as plain integers, and with members of the enumerations.
    """

    def map(
        self,
        ipa: int,
        size: int,
        pa: int,
        prot: Prot,
        *,
        memtype: MemType = MemType.NORMAL,
        existing: Existing = Existing.REPLACE,
        largest: int | None = None,
        software: int = 0,
        af: bool = True,
        over_tables: bool = False,
    ) -> Mapped: ...

    def unmap(self, ipa: int, size: int) -> int: ...
    def protect(self, ipa: int, size: int, prot: Prot) -> Changed: ...
    def write_protect(self, ipa: int, size: int) -> Changed: ...
    def relax(self, ipa: int, size: int, prot: Prot) -> Changed: ...
    def mark_young(self, ipa: int, size: int) -> Changed: ...
    def test_young(self, ipa: int, size: int) -> bool: ...
    def test_and_clear_young(self, ipa: int, size: int, flush: bool = False) -> bool: ...
    def split(self, ipa: int, size: int, level: int = 3) -> int: ...
    def collapse(self, ipa: int, size: int) -> int: ...
    def translate(self, ipa: int, access: Access) -> Translation: ...
    def lookup(self, ipa: int) -> Entry: ...
    def leaves(self, ipa: int = 0, size: int | None = None) -> Iterable[Mapping]: ...
    def stats(self) -> Stats: ...
    def drain(self) -> None: ...
    def fail_allocation(self, k: int) -> None: ...
    @property
    def frames_in_use(self) -> int: ...
    @property
    def vtcr(self) -> int: ...


Factory = Callable[[TableConfig], Adapter]
"""What makes the table under test."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an adapter's method, so that the same one can be made twice.

    Examples
    --------
    >>> call = Call("map", 0x4000_0000, 0x1000, 0x8000_0000, Prot.RW, largest=3)
    >>> call
    map(0x40000000, 0x1000, 0x80000000, Prot.RW, largest=3)
    >>> call.on(ModelStage2())
    Mapped(bytes=4KiB, kept=0B)
    """

    name: str
    args: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]

    def __init__(self, name: str, *args: Any, **keywords: Any) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "keywords", tuple(keywords.items()))

    def __repr__(self) -> str:
        shown = [f"{value:#x}" if type(value) is int and abs(value) > 3 else repr(value) for value in self.args]
        return f"{self.name}({', '.join([*shown, *(f'{name}={value!r}' for name, value in self.keywords)])})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # Hypothesis would print the fields of a dataclass, and addresses in decimal.
        printer.text(repr(self))

    def on(self, adapter: Adapter) -> Any:
        """Make the call."""
        return getattr(adapter, self.name)(*self.args, **dict(self.keywords))


class Stage2Adapter:
    """Forwards every call to an object with the methods of `s2pt.Stage2`.

    A base for adapters that differ from such an object in a few methods.
    """

    def __init__(self, target: Adapter) -> None:
        self.target = target

    def map(
        self,
        ipa: int,
        size: int,
        pa: int,
        prot: Prot,
        *,
        memtype: MemType = MemType.NORMAL,
        existing: Existing = Existing.REPLACE,
        largest: int | None = None,
        software: int = 0,
        af: bool = True,
        over_tables: bool = False,
    ) -> Mapped:
        keywords: dict[str, Any] = {"over_tables": True} if over_tables else {}  # some targets do not know it
        keywords |= {"memtype": memtype, "existing": existing, "largest": largest, "software": software, "af": af}
        return self.target.map(ipa, size, pa, prot, **keywords)

    def unmap(self, ipa: int, size: int) -> int:
        return self.target.unmap(ipa, size)

    def protect(self, ipa: int, size: int, prot: Prot) -> Changed:
        return self.target.protect(ipa, size, prot)

    def write_protect(self, ipa: int, size: int) -> Changed:
        return self.target.write_protect(ipa, size)

    def relax(self, ipa: int, size: int, prot: Prot) -> Changed:
        return self.target.relax(ipa, size, prot)

    def mark_young(self, ipa: int, size: int) -> Changed:
        return self.target.mark_young(ipa, size)

    def test_young(self, ipa: int, size: int) -> bool:
        return self.target.test_young(ipa, size)

    def test_and_clear_young(self, ipa: int, size: int, flush: bool = False) -> bool:
        return self.target.test_and_clear_young(ipa, size, flush)

    def split(self, ipa: int, size: int, level: int = 3) -> int:
        return self.target.split(ipa, size, level)

    def collapse(self, ipa: int, size: int) -> int:
        return self.target.collapse(ipa, size)

    def translate(self, ipa: int, access: Access) -> Translation:
        return self.target.translate(ipa, access)

    def lookup(self, ipa: int) -> Entry:
        return self.target.lookup(ipa)

    def leaves(self, ipa: int = 0, size: int | None = None) -> Iterable[Mapping]:
        return self.target.leaves(ipa, size)

    def stats(self) -> Stats:
        return self.target.stats()

    def drain(self) -> None:
        self.target.drain()

    def fail_allocation(self, k: int) -> None:
        self.target.fail_allocation(k)

    @property
    def frames_in_use(self) -> int:
        return self.target.frames_in_use

    @property
    def vtcr(self) -> int:
        return self.target.vtcr


class ModelAdapter(Stage2Adapter):
    """The model as an implementation under test: to try out the machine, and to make wrong ones of."""

    def __init__(self, config: TableConfig) -> None:
        super().__init__(ModelStage2(**config.keywords()))
