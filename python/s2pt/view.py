"""Tables as pictures, for notebooks: `_repr_svg_` and `_repr_html_` of live tables and of images.

The address space is drawn in strips. Where more than half of a strip would be a hole, it is cut there, so that the
strips show what is mapped and the text between them how far apart it lies. Each column of a strip adds up the bytes
under it by permission, however many leaves they are, so that a table of any size becomes a picture of the same size.

Examples
--------
>>> from s2pt import Prot, Stage2
>>> s2 = Stage2()
>>> s2.map(0x4000_0000, "64MiB", pa=0x8000_0000)
Mapped(bytes=64MiB, kept=0B)
>>> picture = svg(s2)
>>> picture.startswith("<svg xmlns=") and "0x40000000" in picture
True
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from s2pt._core import Image, Stage2
from s2pt.errors import ImageError
from s2pt.types import Prot, format_size

__all__ = ["html", "svg"]

Table = Stage2 | Image
Ints = NDArray[np.int64]

WIDTH, MARGIN = 760, 14
STRIP = WIDTH - 2 * MARGIN
COLUMNS = 244  # of three pixels each
PERMISSIONS, SIZES, LABEL, GAP = 34, 7, 17, 20  # heights: the two bands, the line above them, the space below
MOST_STRIPS = 8
HOLE = 0.5  # a strip is cut at a hole of more than this part of it
SEPARATED = 5  # pixels that a leaf must be wide to be drawn apart from its neighbours

INK, FAINT, CARD, TRACK, EDGE = "#1f2430", "#667085", "#ffffff", "#eef1f5", "#c9d0da"
SANS = "ui-sans-serif,system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif"
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
PROT_COLOURS = {
    Prot.RW: "#4477aa",
    Prot.RWX: "#cc3355",
    Prot.R: "#66bfdd",
    Prot.RX: "#228833",
    Prot.NONE: "#8a8f99",
}
OTHER_PROT = "#ccaa33"
LEVEL_COLOURS = {3: "#cbb9ee", 2: "#8c63cf", 1: "#50298f", 0: "#28104f", -1: "#000000"}


class Leaves(NamedTuple):
    """Leaves, joined where neighbours are alike, by IPA."""

    start: Ints
    end: Ints
    prot: Ints
    level: Ints

    @classmethod
    def of(cls, array: NDArray[np.void]) -> Leaves:
        """Take the rows of `leaves_array`."""
        start, size, prot, level = (array[name].astype(np.int64) for name in ("ipa", "size", "prot", "level"))
        end = start + size
        if len(start) == 0:
            return cls(start, end, prot, level)
        goes_on = (start[1:] == end[:-1]) & (prot[1:] == prot[:-1]) & (level[1:] == level[:-1])
        first = np.flatnonzero(np.append(True, ~goes_on))
        last = np.append(first[1:] - 1, len(start) - 1)
        return cls(start[first], end[last], prot[first], level[first])

    def only(self, chosen: NDArray[np.bool_]) -> Leaves:
        """Leave out the others."""
        return Leaves(*(column[chosen] for column in self))

    def below(self, addresses: Ints) -> Ints:
        """How many bytes are mapped below each address."""
        if len(self.start) == 0:
            return np.zeros(len(addresses), np.int64)
        before = np.append(0, np.cumsum(self.end - self.start))
        index = np.searchsorted(self.start, addresses, side="right")
        last = np.maximum(index - 1, 0)
        missing = np.maximum(self.end[last] - addresses, 0)
        return np.asarray(np.where(index > 0, before[index] - missing, 0), dtype=np.int64)


def _strips(leaves: Leaves) -> list[tuple[int, int]]:
    """Cut what is mapped into at most `MOST_STRIPS` ranges, at the holes that would waste most of a strip."""
    if len(leaves.start) == 0:
        return []
    holes = np.append(leaves.start[1:] - leaves.end[:-1], 0)
    strips = [(0, len(leaves.start) - 1)]
    while len(strips) < MOST_STRIPS:
        waste = []
        for first, last in strips:
            widest = first + int(np.argmax(holes[first:last])) if last > first else first
            span = int(leaves.end[last] - leaves.start[first])
            waste.append((int(holes[widest]) / span if last > first else 0.0, widest))
        part, cut = max(waste)
        if part <= HOLE:
            break
        at = next(i for i, (first, last) in enumerate(strips) if first <= cut <= last)
        first, last = strips[at]
        strips[at : at + 1] = [(first, cut), (cut + 1, last)]
    return [(int(leaves.start[first]), int(leaves.end[last])) for first, last in strips]


def svg(table: Table) -> str:
    """Draw the address space of a table: what is mapped where, with which permissions, in leaves of which sizes.

    Parameters
    ----------
    table : Stage2 or Image
        Of an image, what cannot be read is left out.

    Returns
    -------
    str
        An SVG document that stands alone. Its text is that of numbers only.
    """
    array = leaves_of(table)
    leaves = Leaves.of(array)
    shape = table.geometry
    mapped = int(np.sum(leaves.end - leaves.start))
    root = f", {shape.root_frames} root pages" if shape.root_frames > 1 else ""
    title = f"Stage-2 table: {shape.ipa_bits}-bit IPA, {format_size(shape.granule)} granule{root}"
    total = f"{len(array):,} leaves, {_about(mapped)} mapped" if mapped else "nothing is mapped"
    y = MARGIN + 14
    parts = [_text(MARGIN, y, title, weight=600, size=13), _text(WIDTH - MARGIN, y, total, anchor="end", fill=FAINT)]
    y += 12
    previous = 0
    for start, end in _strips(leaves):
        if start > previous:
            parts.append(_hole(y, start - previous))
            y += 16
        parts += _strip(leaves, array, start, end, y, shape.size)
        y += LABEL + PERMISSIONS + SIZES + GAP - 8
        previous = end
    limit = 1 << shape.ipa_bits
    if previous < limit:
        parts.append(_hole(y, limit - previous))
        y += 16
    legend, y = _legend(leaves, y + 12, shape.size)
    height = y + MARGIN - 6
    parts += legend
    label = escape(f"{title}; {total}", quote=True)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="{label}" font-family="{SANS}" font-size="11" shape-rendering="crispEdges">'
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6" fill="{CARD}" stroke="{EDGE}" '
        f'shape-rendering="auto"/>'
    )
    return head + "".join(parts) + "</svg>"


def html(table: Table) -> str:
    """Show a table as an HTML fragment: its levels in numbers, and the picture.

    Parameters
    ----------
    table : Stage2 or Image

    Returns
    -------
    str
        One ``div`` element that stands alone.

    Examples
    --------
    >>> from s2pt import Stage2
    >>> "<caption>" in html(Stage2())
    True
    """
    array = leaves_of(table)
    shape = table.geometry
    level, size = array["level"], array["size"].astype(np.int64)
    note = ""
    try:
        tables = dict(table.stats().tables if isinstance(table, Stage2) else table.tables)
    except ImageError as error:
        tables, note = {}, f"<p>{escape(str(error))}</p>"
    rows = []
    for here in range(shape.start_level, 4):
        chosen = level == here
        cells = [
            str(here),
            format_size(shape.size(here)),
            f"{tables[here]:,}" if here in tables else "?",
            f"{int(np.count_nonzero(chosen)):,}",
            format_size(int(size[chosen].sum())),
        ]
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    names = ("level", "one entry", "tables", "leaves", "mapped")
    head = "".join(f"<th>{name}</th>" for name in names)
    caption = f"Stage-2 table, {shape.ipa_bits}-bit IPA, {format_size(shape.granule)} granule"
    return (
        f"<div>{note}<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>{svg(table)}</div>"
    )


def leaves_of(table: Table) -> NDArray[np.void]:
    """Give the leaves of a table as an array; of an image without what cannot be read."""
    if not isinstance(table, Table):
        raise TypeError(f"a picture needs a Stage2 or an Image, not {type(table).__name__}")
    return table.leaves_array() if isinstance(table, Stage2) else table.leaves_array(errors="skip")


# --- parts of the picture ------------------------------------------------------------------------------------------


def _strip(
    leaves: Leaves, array: NDArray[np.void], start: int, end: int, y: int, size_of: Callable[[int], int]
) -> list[str]:
    """Draw one range: its addresses, the band of permissions, the band of leaf sizes."""
    inside = leaves.only((leaves.start < end) & (leaves.end > start))
    mapped = int(np.sum(inside.end - inside.start))
    parts = [
        _text(MARGIN, y + 12, f"{start:#x}", font=MONO),
        _text(WIDTH - MARGIN, y + 12, f"{end:#x}", font=MONO, anchor="end"),
        _text(WIDTH / 2, y + 12, f"{_about(end - start)}, {_share(mapped, end - start)}", anchor="middle", fill=FAINT),
    ]
    y += LABEL
    pages = (end - start) // size_of(3)
    columns = min(COLUMNS, max(1, pages))
    # Exact in integers: what is beyond 2^52 does not occur.
    edges = np.array([start + (end - start) * i // columns for i in range(columns + 1)], dtype=np.int64)
    parts.append(_rect(MARGIN, y, STRIP, PERMISSIONS, TRACK, stroke=EDGE))
    parts += _permissions(inside, edges, y)
    y += PERMISSIONS + 1
    parts.append(_rect(MARGIN, y, STRIP, SIZES, TRACK))
    parts += _levels(inside, edges, y, size_of)
    # Between leaves that touch, not at the edges of holes.
    ipa, size = array["ipa"].astype(np.int64), array["size"].astype(np.int64)
    ipa = ipa[1:][(ipa[1:] == (ipa + size)[:-1]) & (ipa[1:] > start) & (ipa[1:] < end)]
    if len(ipa) * SEPARATED < STRIP:
        xs = sorted({round(MARGIN + STRIP * (int(each) - start) / (end - start), 1) for each in ipa})
        path = "".join(f"M{x:g} {y - PERMISSIONS - 1}v{PERMISSIONS + SIZES + 1}" for x in xs)
        if path:
            parts.append(f'<path d="{path}" stroke="{CARD}" stroke-opacity="0.75" stroke-width="0.8"/>')
    return parts


def _permissions(leaves: Leaves, edges: Ints, y: int) -> list[str]:
    """Stack, in each column, the bytes of each permission; a column that is all mapped is full."""
    prots = _prots(leaves)
    width = np.diff(edges)
    heights = []
    for prot in prots:
        bytes_ = np.diff(leaves.only(leaves.prot == int(prot)).below(edges))
        exact = PERMISSIONS * bytes_ / width
        heights.append(np.where(bytes_ > 0, np.maximum(np.rint(exact), 2), 0).astype(np.int64))
    stacks = np.array(heights)
    # What was made visible must not make a stack higher than its column.
    for column in np.flatnonzero(stacks.sum(axis=0) > PERMISSIONS):
        while stacks[:, column].sum() > PERMISSIONS:
            stacks[np.argmax(stacks[:, column]), column] -= 1
    parts = []
    for first, last in _alike(stacks):
        x, to = _x(first, len(width)), _x(last + 1, len(width))
        top = y + PERMISSIONS
        for prot, height in zip(prots, stacks[:, first].tolist(), strict=True):
            if height:
                top -= height
                said = f"{int(edges[first]):#x} to {int(edges[last + 1]):#x}: {prot}"
                parts.append(_rect(x, top, to - x, height, _colour(prot), title=said))
    return parts


def _levels(leaves: Leaves, edges: Ints, y: int, size_of: Callable[[int], int]) -> list[str]:
    """Colour each column by the level that maps most of it."""
    levels = sorted({int(level) for level in leaves.level})
    bytes_ = np.array([np.diff(leaves.only(leaves.level == level).below(edges)) for level in levels])
    most = np.where(bytes_.sum(axis=0) > 0, bytes_.argmax(axis=0), -1)[np.newaxis, :]
    parts = []
    for first, last in _alike(most):
        at = int(most[0, first])
        if at >= 0:
            x, to = _x(first, len(edges) - 1), _x(last + 1, len(edges) - 1)
            said = (
                f"{int(edges[first]):#x} to {int(edges[last + 1]):#x}: mostly {format_size(size_of(levels[at]))} leaves"
            )
            parts.append(_rect(x, y, to - x, SIZES, LEVEL_COLOURS[levels[at]], title=said))
    return parts


def _alike(columns: NDArray[Any]) -> list[tuple[int, int]]:
    """Ranges of neighbouring columns with the same values, first and last."""
    changes = np.flatnonzero((columns[:, 1:] != columns[:, :-1]).any(axis=0))
    firsts = [0, *(int(change) + 1 for change in changes)]
    return list(zip(firsts, [*(first - 1 for first in firsts[1:]), columns.shape[1] - 1], strict=True))


def _legend(leaves: Leaves, y: int, size_of: Callable[[int], int]) -> tuple[list[str], int]:
    """Explain the colours that occur, with the bytes of each; return the bottom as well."""
    rows: list[tuple[str, list[tuple[str, str]]]] = []
    permissions = []
    for prot in _prots(leaves):
        bytes_ = int(np.sum((leaves.end - leaves.start)[leaves.prot == int(prot)]))
        permissions.append((_colour(prot), f"{_name(prot)} {_about(bytes_)}"))
    sizes = []
    for level in sorted({int(level) for level in leaves.level}):
        chosen = leaves.level == level
        bytes_ = int(np.sum((leaves.end - leaves.start)[chosen]))
        count = bytes_ // size_of(level)
        sizes.append((LEVEL_COLOURS[level], f"{count:,} x {format_size(size_of(level))}"))
    if permissions:
        rows = [("allows", permissions), ("leaves", sizes)]
    parts = []
    for name, entries in rows:
        parts.append(_text(MARGIN, y + 9, name, fill=FAINT))
        x = MARGIN + 48.0
        for colour, text in entries:
            width = 16 + 6.6 * len(text) + 16
            if x + width > WIDTH - MARGIN:
                x, y = MARGIN + 48.0, y + 16
            parts += [_rect(x, y, 11, 11, colour), _text(x + 16, y + 9, text)]
            x += width
        y += 18
    return parts, y


def _prots(leaves: Leaves) -> list[Prot]:
    return sorted({Prot(int(prot)) for prot in np.unique(leaves.prot)}, reverse=True)


def _colour(prot: Prot) -> str:
    return PROT_COLOURS.get(prot, OTHER_PROT)


def _name(prot: Prot) -> str:
    return "nothing" if prot == Prot.NONE else str(prot)


def _x(column: int, columns: int) -> float:
    return round(MARGIN + STRIP * column / columns, 2)


def _hole(y: float, bytes_: int) -> str:
    return _text(MARGIN, y + 9, f"\N{VERTICAL ELLIPSIS} {_about(bytes_)} unmapped", fill=FAINT, size=10)


def _about(bytes_: int) -> str:
    """Say a number of bytes with three digits or so.

    Examples
    --------
    >>> _about(4096), _about(3 << 29), _about((1 << 40) - 1), _about(0)
    ('4KiB', '1.5GiB', '1TiB', '0B')
    """
    unit, value = "B", float(bytes_)
    for name in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1023.95:  # else it would be shown as 1024
            break
        unit, value = name, value / 1024
    return f"{value:.4g}{unit}" if value >= 100 else f"{value:.3g}{unit}"


def _share(part: int, whole: int) -> str:
    if part == whole:
        return "all mapped"
    percent = 100 * part / whole
    return f"{_about(part)} mapped ({'under 1' if percent < 1 else f'{min(percent, 99):.0f}'} %)"


def _rect(x: float, y: float, width: float, height: float, fill: str, *, stroke: str = "", title: str = "") -> str:
    line = f' stroke="{stroke}" stroke-width="0.6"' if stroke else ""
    body = f' fill="{fill}"{line}'
    shape = f'<rect x="{x:g}" y="{y:g}" width="{round(width, 2):g}" height="{height:g}"{body}'
    return f"{shape}><title>{escape(title)}</title></rect>" if title else f"{shape}/>"


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    fill: str = INK,
    font: str = "",
    size: int = 11,
    weight: int = 400,
) -> str:
    family = f' font-family="{font}"' if font else ""
    style = f' font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"{family}'
    return f'<text x="{x:g}" y="{y:g}" fill="{fill}"{style}>{escape(text)}</text>'
