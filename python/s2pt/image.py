"""Tables that somebody else made: dump files, KVM's own text, and any memory that VTTBR_EL2 points into.

Examples
--------
>>> import pathlib, tempfile
>>> import s2pt, s2pt.image
>>> s2 = s2pt.Stage2()
>>> s2.map(0x8000_0000, "2MiB", pa=0x4000_0000)
Mapped(bytes=2MiB, kept=0B)
>>> with tempfile.TemporaryDirectory() as folder:
...     file = pathlib.Path(folder, "table.bin")
...     size = file.write_bytes(s2.image().to_bytes())
...     image = s2pt.image.open(file)
>>> hex(image.vtcr), image.tables
('0x802d3558', {1: 1, 2: 1, 3: 0})
>>> list(image.leaves())
[Mapping(ipa=0x80000000, size=2MiB, pa=0x40000000, level=2, prot=RW, memtype=NORMAL, af=True, raw=0x400000400007fd)]

Where two tables differ, whatever each of them is:

>>> s2.write_protect(0x8000_0000, "8KiB")
Changed(leaves=2, bytes=8KiB)
>>> for one in s2pt.image.diff(image, s2):
...     print(one)
0x80000000 +8KiB: size 2MiB / 4KiB, permission RW / R
0x80002000 +2040KiB: size 2MiB / 4KiB
>>> s2pt.image.diff(s2, s2pt.image.Ptdump(s2.dump("kvm6")))
[]
"""

from __future__ import annotations

import lzma
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from s2pt._core import Image, Ptdump, Stage2
from s2pt.errors import ImageError, PtdumpError
from s2pt.types import Blocks, DumpStyle, MemType, Prot, _Result, format_size

__all__ = ["Difference", "DumpStyle", "Image", "Ptdump", "PtdumpRun", "Side", "diff", "load", "open"]

_Attributes = tuple[()] | tuple[MemType | str, str, bool, bool, int]


@dataclass(frozen=True, slots=True, repr=False)
class PtdumpRun(_Result):
    """One line of KVM's ``stage2_page_tables``: entries of one level that show the same.

    Attributes
    ----------
    ipa, size : int
        The range, in bytes.
    level : int
        The level of the entries.
    kind : str
        ``"mapped"``; ``"empty"``: nothing is shown; ``"invalid"``: shown, but invalid for the hardware.
    prot : Prot
        What they allow.
    af : bool
        Their access flag.

    Examples
    --------
    >>> PtdumpRun(0x80000000, 4 << 20, 2, "mapped", Prot.RW, True)
    PtdumpRun(ipa=0x80000000, size=4MiB, level=2, kind=mapped, prot=RW, af=True)
    """

    _hex: ClassVar[frozenset[str]] = frozenset({"ipa"})
    _sizes: ClassVar[frozenset[str]] = frozenset({"size"})

    ipa: int
    size: int
    level: int
    kind: str
    prot: Prot = Prot.NONE
    af: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class Side:
    """What one of two tables has in a range.

    Attributes
    ----------
    level : int
        The level of its entries.
    leaf_size : int or None
        Bytes of each leaf; None if not told, or invalid.
    pa : int or None
        Where the first byte of the range goes, and the others behind it; None if not told, or scattered.
    prot : Prot
        What the leaves allow.
    af : bool
        Their access flag.
    attributes : tuple
        Memory type, shareability, dirty bit modifier, contiguous hint and software bits; empty if not told.
    invalid : int or None
        The value of the entries, if they are invalid.

    Examples
    --------
    >>> Side(2, 2 << 20, 0x40000000, Prot.RW, True)
    Side(level=2, leaf_size=2MiB, pa=0x40000000, prot=RW, af=True)
    """

    level: int
    leaf_size: int | None
    pa: int | None
    prot: Prot
    af: bool
    attributes: _Attributes = ()
    invalid: int | None = None

    @property
    def memtype(self) -> MemType | str | None:
        """The memory type; None if not told."""
        return self.attributes[0] if self.attributes else None

    def __repr__(self) -> str:
        if self.invalid is not None:
            return f"Side(level={self.level}, invalid={self.invalid:#x})"
        size = "" if self.leaf_size is None else f", leaf_size={format_size(self.leaf_size)}"
        pa = "" if self.pa is None else f", pa={self.pa:#x}"
        return f"Side(level={self.level}{size}{pa}, prot={self.prot}, af={self.af})"

    def __str__(self) -> str:
        """Say what is there, as in ``2MiB RW to 0x40000000``."""
        if self.invalid is not None:
            return f"invalid {self.invalid:#x}"
        size = f"level {self.level}" if self.leaf_size is None else format_size(self.leaf_size)
        return f"{size} {self.prot}" + ("" if self.pa is None else f" to {self.pa:#x}")


@dataclass(frozen=True, slots=True, repr=False)
class Difference:
    """A range in which two tables differ in one way.

    Attributes
    ----------
    ipa, size : int
        The range, in bytes.
    a, b : Side or None
        What either table has there; None for a hole.
    what : tuple of str
        In what they differ: ``"only_a"``, ``"only_b"``, ``"output"``, ``"size"``, ``"permission"``, ``"af"``,
        ``"attributes"`` (memory type, shareability, DBM, contiguous hint, software bits), ``"invalid"`` (mapped in
        neither, and the invalid entries differ).

    Examples
    --------
    >>> page = Side(3, 4096, 0x1000, Prot.RW, True)
    >>> Difference(0x8000, 4096, page, None, ("only_a",))
    Difference(ipa=0x8000, size=4KiB, only_a)
    >>> print(_)
    0x8000 +4KiB: only in the first: 4KiB RW to 0x1000
    """

    ipa: int
    size: int
    a: Side | None
    b: Side | None
    what: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Difference(ipa={self.ipa:#x}, size={format_size(self.size)}, {', '.join(self.what)})"

    def __str__(self) -> str:
        return f"{self.ipa:#x} +{format_size(self.size)}: {self.text}"

    @property
    def text(self) -> str:
        """In what they differ, in words, the first table's side first."""
        a, b = self.a, self.b
        if a is None or b is None or "invalid" in self.what or "only_a" in self.what or "only_b" in self.what:
            if "only_a" in self.what:
                return f"only in the first: {a}"
            if "only_b" in self.what:
                return f"only in the second: {b}"
            return f"{a or 'empty'} / {b or 'empty'}"
        parts = []
        if "output" in self.what:
            parts.append(f"output {a.pa or 0:#x} / {b.pa or 0:#x}")
        if "size" in self.what:
            told = a.leaf_size is not None and b.leaf_size is not None
            sizes = [format_size(side.leaf_size or 0) if told else f"level {side.level}" for side in (a, b)]
            parts.append(f"size {sizes[0]} / {sizes[1]}")
        if "permission" in self.what:
            parts.append(f"permission {a.prot} / {b.prot}")
        if "af" in self.what:
            parts.append(f"access flag {a.af:d} / {b.af:d}")
        if "attributes" in self.what:
            names = ("memory", "shareability", "DBM", "contiguous", "software bits")
            pairs = zip(names, a.attributes, b.attributes, strict=True)
            parts += [f"{name} {_plain(one)} / {_plain(two)}" for name, one, two in pairs if one != two]
        return ", ".join(parts)


def _plain(value: object) -> str:
    return f"{value:#x}" if isinstance(value, int) else str(value)


def diff(
    a: Stage2 | Image | Ptdump | str | os.PathLike[str], b: Stage2 | Image | Ptdump | str | os.PathLike[str]
) -> list[Difference]:
    """Compare two tables: live ones, images, texts, or files of either kind, in any combination.

    Parameters
    ----------
    a, b : Stage2, Image, Ptdump or path-like
        A path is read by `load`. A live table is copied first: beside writers, each entry is as it was at some moment.

    Returns
    -------
    list of Difference
        As from `Image.diff`. Beside a text, only what it shows is compared.

    Raises
    ------
    ImageError
        A table cannot be walked, or a file is none.
    OSError
        A file cannot be read.

    Examples
    --------
    >>> from s2pt import Stage2
    >>> a, b = Stage2(), Stage2()
    >>> b.map(0, "4MiB", pa=0x4000_0000)
    Mapped(bytes=4MiB, kept=0B)
    >>> print(*diff(a, b))
    0x0 +4MiB: only in the second: 2MiB RW to 0x40000000
    """
    return _source(a).diff(_source(b))


def _source(table: Stage2 | Image | Ptdump | str | os.PathLike[str]) -> Image | Ptdump:
    if isinstance(table, Stage2):
        return table.image()
    if isinstance(table, (Image, Ptdump)):
        return table
    if isinstance(table, (str, os.PathLike)):
        return load(table)
    raise TypeError(
        f"a table must be a Stage2, an Image, a Ptdump or a path, not {type(table).__name__} ({table!r:.60})"
    )


def open(
    path: str | os.PathLike[str],
    *,
    fwb: bool | None = None,
    xnx: bool | None = None,
    dialect: Literal["own", "kvm6", "kvm7"] | None = None,
    blocks: Blocks | Literal["arch", "kvm"] = "arch",
) -> Image:
    """Read a dump file in format ``S2DUMP01``, plain or packed by xz.

    Parameters
    ----------
    path : path-like
        The file; packed if its name ends in ``.xz``.
    fwb, xnx, dialect, blocks
        As for `Image`.

    Returns
    -------
    Image

    Raises
    ------
    OSError
        The file cannot be read.
    ImageError
        The file is no dump, or is cut off; the message begins with the file's name.
    """
    file = Path(path)
    data = _read(file)
    try:
        return Image.from_bytes(data, fwb=fwb, xnx=xnx, dialect=dialect, blocks=blocks)
    except ImageError as error:
        raise ImageError(f"{file.name}: {error}", error.ipa, error.level) from None


def load(path: str | os.PathLike[str]) -> Image | Ptdump:
    """Read a table from a file: a dump in format ``S2DUMP01``, or the text of KVM's ``stage2_page_tables``.

    Parameters
    ----------
    path : path-like
        The file, plain or packed by xz; which of the two it is, its first bytes say.

    Returns
    -------
    Image or Ptdump

    Raises
    ------
    OSError
        The file cannot be read.
    ImageError
        The file is neither, or is cut off; a `PtdumpError` if it begins as a text. The message begins with the
        file's name.
    """
    file = Path(path)
    data = _read(file)
    try:
        if data.startswith((b"---[", b"0x")):
            return Ptdump(data)
        return Image.from_bytes(data)
    except PtdumpError as error:
        raise PtdumpError(f"{file.name}: {error}", line=error.line) from None
    except ImageError as error:
        raise ImageError(f"{file.name}: {error}", error.ipa, error.level) from None


def _read(file: Path) -> bytes:
    data = file.read_bytes()
    if file.suffix != ".xz":
        return data
    try:
        return lzma.decompress(data)
    except (lzma.LZMAError, EOFError) as error:
        raise ImageError(f"{file.name} is cut off or no xz file: {error}") from None
