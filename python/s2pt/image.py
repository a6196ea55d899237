"""Tables that somebody else made: dump files, and any memory that VTTBR_EL2 points into.

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
"""

from __future__ import annotations

import lzma
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from s2pt._core import Image
from s2pt.errors import ImageError
from s2pt.types import Blocks, Mapping, format_size

__all__ = ["Difference", "Image", "open"]


@dataclass(frozen=True, slots=True, repr=False)
class Difference:
    """A place where two tables differ: the longest range that one leaf of each, or a leaf and a hole, covers.

    Attributes
    ----------
    ipa, size : int
        The range, in bytes.
    a, b : Mapping or None
        The leaf of either table, whole; None for a hole.
    what : tuple of str
        In what they differ: ``"only_a"``, ``"only_b"``, ``"output"``, ``"size"``, ``"permission"``, ``"af"``,
        ``"attributes"`` (memory type, shareability, DBM, contiguous hint, software bits).
    """

    ipa: int
    size: int
    a: Mapping | None
    b: Mapping | None
    what: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Difference(ipa={self.ipa:#x}, size={format_size(self.size)}, {', '.join(self.what)})"


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
    data = file.read_bytes()
    if file.suffix == ".xz":
        try:
            data = lzma.decompress(data)
        except (lzma.LZMAError, EOFError) as error:
            raise ImageError(f"{file.name} is cut off or no xz file: {error}") from None
    try:
        return Image.from_bytes(data, fwb=fwb, xnx=xnx, dialect=dialect, blocks=blocks)
    except ImageError as error:
        raise ImageError(f"{file.name}: {error}", error.ipa, error.level) from None
