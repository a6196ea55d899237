"""Tables that our `Stage2` built: by random maps, unmaps, splits and changes, which collide.

Ranges begin and end near a few anchors (the start of the IPA space, the borders of its largest blocks and of root
frames, its end), so that operations meet what others left: blocks are cut, tables emptied and merged. What a call
refuses is refused; the table is as good as before.
"""

from __future__ import annotations

import contextlib
import random
import struct
from dataclasses import dataclass

import numpy as np

from s2pt import Prot, S2ptError, Stage2
from s2pt.model import ModelStage2
from s2pt.testing.adapter import Call
from s2pt.testing.mmu.shapes import Shape
from s2pt.testing.mmu.table import PROBE, Table, Words
from s2pt.testing.mmu.trees import Places, tidy
from s2pt.types import Existing, MemType

__all__ = ["Own", "buildable", "own"]

_DUMP_HEADER = struct.Struct("<8s5Q")
_ROUNDS = 40
_MEMORY_TYPES = (MemType.NORMAL, MemType.NORMAL, MemType.NORMAL_NC, MemType.DEVICE_NGNRE, MemType.DEVICE_GRE)


@dataclass(frozen=True, slots=True)
class Own:
    """A table of ours: live, as memory, and as the model has it, which knows no descriptors."""

    s2: Stage2
    model: ModelStage2
    table: Table


def buildable(shape: Shape) -> bool:
    """Whether `Stage2` builds such tables: at least 32 bits of IPA and two levels, and no HD without HA."""
    return shape.ipa_bits >= 32 and shape.start <= 2 and shape.ha >= shape.hd


def own(shape: Shape, places: Places, seed: int, probes: int, *, arena: int | None = None) -> Own:
    """Build a table by random operations, and its probes.

    Parameters
    ----------
    arena : int, optional
        Where the frames are moved, one after another, the root first; as the library placed them by default.
    """
    rng = random.Random(f"own {shape} {seed}")
    options = {name: getattr(shape, name) for name in ("lpa2", "fwb", "xnx", "ha", "hd")}
    s2 = Stage2(shape.ipa_bits, 1 << shape.page_bits, shape.pa_bits, start_level=shape.start, **options)
    model = ModelStage2(shape.ipa_bits, 1 << shape.page_bits, shape.pa_bits, start_level=shape.start, **options)
    anchors = _anchors(shape)
    ranges: list[tuple[int, int]] = []
    for _ in range(_ROUNDS):
        ipa, size = rng.choice(ranges) if ranges and rng.random() < 0.5 else _range(rng, shape, anchors)
        ranges.append((ipa, size))
        call = _call(rng, shape, places, ipa, size)
        for target in (s2, model):
            with contextlib.suppress(S2ptError):
                call.on(target)
    guest = 0
    if places.guest_page is not None:
        page = 1 << shape.page_bits
        guest = rng.randrange(1 << shape.ipa_bits) // page * page
        for target in (s2, model):
            target.map(guest, page, places.guest_page, Prot.RX)
        ranges.append((guest, page))
    s2.drain()
    regions, root = _frames(s2, shape, arena)
    table = Table(
        name=f"own {shape}",
        shape=shape,
        vtcr=s2.vtcr,
        vttbr=s2.vttbr >> 48 << 48 | root,
        regions=regions,
        guest_page=guest,
    )
    table.probes = np.zeros(probes, PROBE)
    table.probes["ipa"] = [_address(rng, shape, places, ranges) for _ in range(probes)]
    draw = np.random.default_rng(rng.getrandbits(64))
    table.probes["access"] = draw.integers(0, 3, probes)
    table.probes["el"] = draw.integers(0, 2, probes)
    tidy(table)
    return Own(s2, model, table)


def _anchors(shape: Shape) -> list[int]:
    limit = 1 << shape.ipa_bits
    root_frame = 1 << min(shape.ipa_bits, shape.shift(shape.start) + shape.stride)
    sizes = [1 << shape.shift(level) for level in range(shape.start, 3)]
    anchors = {0, limit, root_frame, *sizes, *(limit - size for size in sizes)}
    return sorted(anchor for anchor in anchors if 0 <= anchor <= limit)


def _range(rng: random.Random, shape: Shape, anchors: list[int]) -> tuple[int, int]:
    """Draw a range near an anchor, of pages or of blocks."""
    page, limit = 1 << shape.page_bits, 1 << shape.ipa_bits
    level = rng.randrange(max(shape.start, 0), 4)
    unit = 1 << shape.shift(level)
    size = unit * rng.choice((1, 1, 2, 3)) + rng.choice((0, 0, page, -page))
    start = rng.choice(anchors) + rng.choice((0, 0, -1, 1, -2)) * rng.choice((page, unit))
    start = min(max(start, 0), limit - page)
    return start, min(max(size, page), limit - start)


def _output(rng: random.Random, shape: Shape, places: Places, ipa: int, size: int) -> int:
    """Draw an output address that agrees with the IPA below the size of some level, where the oracle has nothing."""
    unit = 1 << shape.shift(rng.randrange(max(shape.start, 0), 4))
    inside = places.data + ipa % unit
    if size + ipa % unit <= places.data_size and (shape.pa_bits == 32 or rng.random() < 0.5):
        return inside
    room = (1 << shape.pa_bits) - size - unit
    if room < 1 << 34:
        return inside
    return rng.randrange(1 << 33, room) // unit * unit + ipa % unit


def _safe(places: Places, pa: int, size: int) -> bool:
    """Whether the oracle has nothing at this output, or only its data."""
    return pa >= 1 << 33 or (places.data <= pa and pa + size <= places.data + places.data_size)


def _prot(rng: random.Random, shape: Shape, execute: bool) -> Prot:
    prots = [Prot.NONE, Prot.R, Prot.W, Prot.RW]
    if execute:
        prots += [Prot.X, Prot.RX, Prot.RWX]
        prots += [Prot.R | Prot.PX, Prot.RW | Prot.UX, Prot.RW | Prot.PX, Prot.UX] if shape.xnx else []
    return rng.choice(prots)


def _call(rng: random.Random, shape: Shape, places: Places, ipa: int, size: int) -> Call:
    """Draw a call on a range."""
    draw = rng.random()
    if draw < 0.5:
        pa = _output(rng, shape, places, ipa, size)
        memory_type = rng.choice(_MEMORY_TYPES)
        if shape.fwb and rng.random() < 0.2:
            memory_type = MemType.AS_STAGE1
        if _entries(shape, size, pa | ipa) <= 2000 and _safe(places, pa, size):
            return Call(
                "map",
                ipa,
                size,
                pa,
                _prot(rng, shape, not memory_type.forbids_execute),
                memtype=memory_type,
                existing=rng.choice((Existing.REPLACE, Existing.REPLACE, Existing.KEEP, Existing.ERROR)),
                software=rng.randrange(16),
                af=rng.random() < 0.8,
            )
    if draw < 0.6:
        return Call("unmap", ipa, size)
    if draw < 0.7:
        return Call("protect", ipa, size, _prot(rng, shape, False))
    if draw < 0.77:
        return Call("write_protect", ipa, size)
    if draw < 0.84:
        return Call("relax", ipa, size, rng.choice((Prot.R, Prot.W, Prot.RW)))
    if draw < 0.9:
        finest = next(level for level in (3, 2, 1, 0, -1) if size >> shape.shift(level) <= 2000)
        return Call("split", ipa, size, finest)
    return Call("test_and_clear_young" if draw < 0.95 else "collapse", ipa, size)


def _entries(shape: Shape, size: int, addresses: int) -> int:
    """How many leaves a mapping of this alignment takes at most."""
    level = 3
    for candidate in range(max(shape.start, 0), 3):
        if shape.block_exists(candidate) and addresses % (1 << shape.shift(candidate)) == 0:
            level = candidate
            break
    return (size >> shape.shift(level)) + 2 * (1 << shape.stride)


def _address(rng: random.Random, shape: Shape, places: Places, ranges: list[tuple[int, int]]) -> int:
    base, size = rng.choice(ranges)
    draw = rng.random()
    if draw < 0.2:
        ipa = base + rng.choice((0, size - 1, size, -1))
    elif draw < 0.9:
        ipa = base + rng.randrange(size)
    elif draw < 0.97:
        ipa = rng.randrange(1 << shape.ipa_bits)
    else:
        ipa = rng.randrange(1 << places.cpu_bits)
    if rng.random() < 0.7:
        ipa &= ~7
    return ipa % (1 << places.cpu_bits)


def _frames(s2: Stage2, shape: Shape, arena: int | None) -> tuple[list[tuple[int, Words]], int]:
    """Read the frames out of the table's dump, moved to `arena` if given; and the address of the root."""
    dump = s2.image().to_bytes()
    _, page_size, count, root, _, _ = _DUMP_HEADER.unpack_from(dump)
    words = np.frombuffer(dump, np.uint64, offset=_DUMP_HEADER.size).reshape(count, 1 + page_size // 8)
    frames = {int(row[0]): row[1:].copy() for row in words}
    if arena is None:
        return _runs(frames), root
    order = sorted(frames, key=lambda pa: (not root <= pa < root + shape.root_frames * page_size, pa))
    moved = {pa: arena + number * page_size for number, pa in enumerate(order)}
    levels = dict.fromkeys(order[: shape.root_frames], shape.start)
    for pa in _reachable(frames, levels, shape):
        frame = frames[pa]
        if levels[pa] < 3:
            for index in np.flatnonzero(frame & np.uint64(3) == 3).tolist():
                value = int(frame[index])
                below = value & 0x0000_FFFF_FFFF_F000
                frame[index] = value ^ below ^ moved[below]
    return [(arena, np.concatenate([frames[pa] for pa in order]))], arena


def _runs(frames: dict[int, Words]) -> list[tuple[int, Words]]:
    """Join frames that are side by side."""
    runs: list[tuple[int, list[Words]]] = []
    end = -1
    for pa, frame in sorted(frames.items()):
        if pa == end:
            runs[-1][1].append(frame)
        else:
            runs.append((pa, [frame]))
        end = pa + frame.nbytes
    return [(pa, np.concatenate(run)) for pa, run in runs]


def _reachable(frames: dict[int, Words], levels: dict[int, int], shape: Shape) -> list[int]:
    """Find every table and its level, from the roots in `levels` down."""
    found = list(levels)
    for pa in found:
        if levels[pa] < 3:
            for value in frames[pa][frames[pa] & np.uint64(3) == 3].tolist():
                below = value & 0x0000_FFFF_FFFF_F000
                if below not in frames:
                    raise S2ptError(f"the table at {pa:#x} points to {below:#x}, which is not in the dump")
                levels[below] = levels[pa] + 1
                found.append(below)
    return found
