"""A picture of an address space, cell by cell: by page size, and by state."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from s2pt._checks import check_integer, check_type
from s2pt._core import Image, Stage2
from s2pt.errors import OptionError
from s2pt.lab.style import STYLE, panels
from s2pt.types import Prot, format_size
from s2pt.view import LEVEL_COLOURS, Leaves, leaves_of
from s2pt.vm import Vm

__all__ = ["address_space"]

UNMAPPED = "#dde1e7"
STATES = {"unmapped": UNMAPPED, "read-only": "#56b4e9", "writable": "#0072b2", "dirty": "#e69f00"}
COLUMNS, ROWS = 64, 32
LIMIT = 1 << 53  # one bit more than an address can have

Table = Stage2 | Image | Vm


@mpl.rc_context(STYLE)
def address_space(
    table: Table, *, ipa: int | None = None, size: int | None = None, dirty: NDArray[np.uint64] | None = None
) -> Figure:
    """Draw the address space of a table row by row, coloured by page size, and by state.

    A cell is a power of two of bytes, and has the colour of what most of its bytes are.

    Parameters
    ----------
    table : Stage2, Image or Vm
        Of an image, what cannot be read is left out.
    ipa, size : int, optional
        Where to begin, and how many bytes to draw; all that is mapped by default.
    dirty : array of uint64, optional
        IPAs of dirty pages: ``slot.ipa + granule * numpy.flatnonzero(bits)``.
    """
    array = table.leaves_array() if isinstance(table, Vm) else leaves_of(table)
    leaves, shape = Leaves.of(array), table.geometry
    if ipa is not None:
        ipa = check_integer(ipa, "ipa", 0, LIMIT)
    if size is not None:
        size = check_integer(size, "size", 0, LIMIT)
    if dirty is not None:
        dirty = np.unique(check_type(dirty, np.ndarray, "dirty"))
        if dirty.dtype.kind != "u" or (len(dirty) and int(dirty[-1]) > LIMIT):
            raise OptionError("dirty must be an array of addresses, of an unsigned type")
    if len(leaves.start) == 0 and (ipa is None or size is None):
        raise OptionError("the table maps nothing")
    start = int(leaves.start[0]) if ipa is None else ipa
    end = int(leaves.end[-1]) if size is None else start + size
    if end <= start:
        raise OptionError("there is nothing to draw from there on")
    cell = max(shape.granule, 1 << (-(-(end - start) // (COLUMNS * ROWS)) - 1).bit_length())
    start -= start % cell
    rows = -(-(end - start) // (cell * COLUMNS))
    edges = start + cell * np.arange(rows * COLUMNS + 1, dtype=np.int64)

    def share(chosen: Leaves) -> NDArray[np.int64]:
        return np.diff(chosen.below(edges))

    levels = sorted({int(level) for level in leaves.level}, reverse=True)
    by_level = [share(leaves.only(leaves.level == level)) for level in levels]
    writable = share(leaves.only(leaves.prot & int(Prot.W) != 0))
    readonly = share(leaves.only(leaves.prot & int(Prot.W) == 0))
    by_state = [cell - writable - readonly, readonly, writable]
    unmapped = by_state[0]
    if dirty is not None:
        # Each dirty page leaves the state that its mapping has.
        first = dirty.astype(np.int64)
        states_of = _states(leaves, first)
        none = np.zeros(len(first), np.int64)
        pages = Leaves(first, first + shape.granule, none, none)
        written = [share(pages.only(states_of == state)) for state in range(3)]
        by_state = [bytes_ - part for bytes_, part in zip(by_state, written, strict=True)]
        by_state.append(np.sum(written, axis=0))
    figure, (sizes_at, states_at) = panels(2, min(1.6 + 0.14 * rows, 5.2))
    sizes = {f"{format_size(shape.size(level))}, level {level}": LEVEL_COLOURS[level] for level in levels}
    states = dict(list(STATES.items())[: len(by_state)])
    _heat(sizes_at, "Page size", [unmapped, *by_level], {"unmapped": UNMAPPED, **sizes}, rows)
    _heat(states_at, "State", by_state, states, rows)
    for axes in (sizes_at, states_at):
        ticks = np.arange(0, COLUMNS + 1, 16)
        axes.set_xticks(ticks - 0.5, [format_size(int(tick) * cell) if tick else "0" for tick in ticks])
        axes.set_xlabel(f"offset in the row (a cell is {format_size(cell)})")
        every = rows // 12 + 1
        axes.set_yticks(range(0, rows, every), [f"{start + row * COLUMNS * cell:#x}" for row in range(0, rows, every)])
    sizes_at.set_ylabel("IPA of the row")
    return figure


def _states(leaves: Leaves, ipas: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the index in `STATES` of what each address is mapped as."""
    if len(leaves.start) == 0:
        return np.zeros(len(ipas), np.int64)
    at = np.searchsorted(leaves.start, ipas, side="right") - 1
    mapped = (at >= 0) & (ipas < leaves.end[at])
    return np.where(mapped, np.where(leaves.prot[at] & int(Prot.W) != 0, 2, 1), 0)


def _heat(axes: Axes, title: str, parts: list[NDArray[np.int64]], colours: dict[str, str], rows: int) -> None:
    most = np.argmax(np.stack(parts), axis=0).reshape(rows, COLUMNS)
    axes.imshow(
        most, cmap=ListedColormap(list(colours.values())), vmin=-0.5, vmax=len(colours) - 0.5,
        aspect="auto", interpolation="nearest",
    )  # fmt: skip
    axes.grid(visible=False)
    axes.set_title(title, pad=36)
    seen = set(most.ravel().tolist())
    patches = [Patch(color=colour, label=name) for at, (name, colour) in enumerate(colours.items()) if at in seen]
    axes.legend(handles=patches, loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=2, fontsize=8)
