"""Random descriptor trees: every encoding that memory can hold, reserved ones included.

A tree has a few dozen frames. In each table a handful of entries is drawn: tables (new, shared, pointing back to where
the walk came from, beyond the address size, in no memory), leaves with any attributes and with output addresses that
fit, stray or exceed, reserved encodings, invalid entries full of bits, and plain 64-bit noise. Probes go to the first,
the last and a random byte of what such an entry translates, to its neighbours, and beyond the IPA space.

Where leaves may point is the oracle's matter (`Places`): its hardware really goes there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from s2pt.testing.mmu.shapes import Shape
from s2pt.testing.mmu.table import PROBE, Table, Words

__all__ = ["Places", "Tree", "tidy", "tree"]

_TABLE_OR_PAGE = 0b11
_AF = 1 << 10
_READ = 1 << 6
_NORMAL = 0xF << 2
_FAR = 1 << 33
"""Set in an address field, of any format: the address is 8 GiB or more, where no oracle has anything."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a tree's frames are, and where its leaves may point to.

    Attributes
    ----------
    arena : int
        Address of the first frame; aligned to the largest root, 1 MiB.
    data, data_size : int
        Memory that a leaf may point to, aligned to its size.
    cpu_bits : int
        Bits of the CPU's physical addresses: beyond, an IPA does not even pass stage 1, though that is off.
    guest_page : int or None
        The physical page that the tree must map executable for EL1 and EL0, if any.
    oversize : bool
        Whether addresses beyond the output size are drawn.
    absent : bool
        Whether tables in no memory are drawn.
    blocks_below_0 : bool
        Whether (reserved) blocks at level -1 are drawn.
    recursive : bool
        Whether a frame may be a table at several levels, back to where the walk came from included. Entries for tables
        then map table frames as pages, where a real store would change them, and pages are read as tables.
    """

    arena: int
    data: int
    data_size: int
    cpu_bits: int
    guest_page: int | None = None
    oversize: bool = True
    absent: bool = True
    recursive: bool = False
    blocks_below_0: bool = True


@dataclass
class Tree:
    """A table under construction."""

    shape: Shape
    places: Places
    rng: random.Random
    frames: list[list[int]] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    most: int = 24

    @property
    def words(self) -> int:
        """Words of a frame."""
        return 1 << self.shape.stride

    def address(self, frame: int) -> int:
        """Return the physical address of a frame by its number."""
        return self.places.arena + (frame << self.shape.page_bits)

    def new_frames(self, level: int, count: int = 1) -> int:
        """Add zeroed frames for a table at `level`; return the number of the first."""
        first = len(self.frames)
        self.levels.extend([level] * count)
        self.frames.extend([0] * self.words for _ in range(count))
        return first

    def write(self, frame: int, index: int, value: int) -> None:
        """Write an entry; the index counts through frames side by side."""
        self.frames[frame + index // self.words][index % self.words] = value

    def read(self, frame: int, index: int) -> int:
        """Read an entry."""
        return self.frames[frame + index // self.words][index % self.words]

    # --- entries ---

    def attributes(self) -> int:
        """Draw everything of a leaf but its address and type."""
        rng = self.rng
        bits = rng.getrandbits(64) & ~0x0003_FFFF_FFFF_FFFF  # 63:50
        bits &= ~(3 << 50) if self.shape.lpa2 else ~(1 << 50)
        bits |= rng.getrandbits(1) << 51
        bits |= rng.getrandbits(12) & 0xFFC if not self.shape.lpa2 else rng.getrandbits(12) & 0xCFC
        return bits | _AF if rng.random() < 0.8 else bits & ~_AF

    @property
    def reach(self) -> int:
        """Bits of the addresses that a descriptor can hold, at least; 64K has 52 only where the size is 52."""
        return 52 if self.shape.lpa2 else 48

    def beyond(self) -> int:
        """Draw an address beyond the output size that a descriptor can hold."""
        return self.rng.getrandbits(self.reach) | 1 << self.rng.randrange(self.shape.pa_bits, self.reach)

    def output(self, level: int) -> int:
        """Draw an output address, as descriptor bits."""
        rng, shape = self.rng, self.shape
        size = 1 << shape.shift(level)
        draw = rng.random()
        stray = 0
        if level < 3 and rng.random() < 0.1:
            # A block can be larger than the output space; its frame may be read at a level where it is not.
            most = size if self.places.oversize else min(size, 1 << shape.pa_bits)
            stray = rng.randrange(most) >> shape.page_bits << shape.page_bits
        inside = size <= self.places.data_size
        if inside and (draw < 0.5 or shape.pa_bits == 32):
            first = self.places.data
            return shape.address_bits(rng.randrange(first, first + self.places.data_size, size) | stray)
        if self.places.oversize and draw < 0.6 and shape.pa_bits < self.reach:
            pa = self.beyond()
        else:
            pa = rng.randrange(1 << shape.pa_bits)
        return shape.address_bits(pa // size * size | stray) | self.far()

    def far(self) -> int:
        """Return the address bit that keeps an address away from whatever the oracle has."""
        return _FAR

    def leaf(self, level: int) -> int:
        """Draw a leaf."""
        return self.attributes() | self.output(level) | (_TABLE_OR_PAGE if level == 3 else 1)

    def table(self, frame: int) -> int:
        """Return an entry that points to a frame; the bits that the hardware must ignore are drawn."""
        noise = self.rng.getrandbits(64) & 0xF800_0000_0000_0CFC if self.rng.random() < 0.5 else 0
        return self.shape.address_bits(self.address(frame)) | noise | _TABLE_OR_PAGE

    def shared(self, level: int) -> int:
        """Return an entry that points to some frame there is, to be a table at `level`; empty if there is none."""
        fit = [n for n, made_for in enumerate(self.levels) if self.places.recursive or made_for == level]
        return self.table(self.rng.choice(fit)) if fit else 0

    def elsewhere(self) -> int:
        """Draw a table entry that points to no memory, or beyond the address size."""
        shape = self.shape
        if self.places.oversize and shape.pa_bits < self.reach and self.rng.random() < 0.5:
            pa = self.beyond()
        else:
            pa = self.rng.randrange(1 << shape.pa_bits)
        if shape.pa_bits == 32 and pa < 1 << 32:
            return 0  # everything below 4 GiB may be something
        return shape.address_bits(pa) | _FAR | _TABLE_OR_PAGE

    def noise(self, level: int) -> int:
        """Draw 64 bits, kept away from the oracle's memory where they are a leaf or a table."""
        value = self.rng.getrandbits(64)
        if value & 1 == 0:
            return value
        if level < 3 and value & 2 and not self.places.absent:
            return value & ~1
        value |= self.far()
        if not self.places.oversize:
            above = 0x0000_FFFF_FFFF_FFFF & ~((1 << self.shape.pa_bits) - 1)
            value &= ~above | _FAR
        return value

    def entry(self, level: int, deeper: list[tuple[int, int]]) -> int:
        """Draw an entry at `level`; a new table is added to `deeper`, to be filled."""
        rng = self.rng
        draw = rng.random()
        if level < 3 and draw < 0.45:
            if len(self.frames) < self.most:
                frame = self.new_frames(level + 1)
                deeper.append((frame, level + 1))
                return self.table(frame)
            return self.shared(level + 1)
        if draw < 0.5:
            return self.shared(level + 1) if level < 3 else self.leaf(level)
        if draw < 0.85:
            return self.leaf(level)
        if draw < 0.89:
            return self.leaf(level) & ~2 if level == 3 else self.leaf(level)  # reserved at level 3
        if draw < 0.93:
            return rng.getrandbits(64) & ~1
        if draw < 0.95 and level < 3:
            return self.elsewhere() if self.places.absent else 0
        return self.noise(level)

    def fill(self, frame: int, level: int, entries: int, base: int) -> None:
        """Draw entries of a table and of the tables below it."""
        rng = self.rng
        chosen = {0, entries - 1, *(rng.randrange(entries) for _ in range(rng.randrange(4, 12)))}
        if entries > self.words:  # the borders between the frames of the root
            border = rng.randrange(1, entries // self.words) * self.words
            chosen |= {border - 1, border}
        size = 1 << self.shape.shift(level)
        for index in sorted(chosen):
            deeper: list[tuple[int, int]] = []
            if self.read(frame, index) == 0:
                value = self.entry(level, deeper)
                if level == -1 and not self.places.blocks_below_0 and value & 3 == 1:
                    value &= ~1
                self.write(frame, index, value)
            ipa = base + index * size
            self.spans.append((ipa, size))
            for below, next_level in deeper:
                self.fill(below, next_level, self.words, ipa)

    # --- the guest's page ---

    def map_guest_page(self, page: int) -> int:
        """Map the guest's page at a random IPA, executable and read-only, through tables of its own; return the IPA."""
        shape, rng = self.shape, self.rng
        ipa = rng.randrange(1 << shape.ipa_bits) >> shape.page_bits << shape.page_bits
        frame, level = 0, shape.start
        while level < 3:
            index = ipa >> shape.shift(level)
            index &= (1 << (shape.root_bits if level == shape.start else shape.stride)) - 1
            below = self.new_frames(level + 1)
            self.write(frame, index, shape.address_bits(self.address(below)) | _TABLE_OR_PAGE)
            frame, level = below, level + 1
        index = ipa >> shape.page_bits & ((1 << (shape.root_bits if shape.start == 3 else shape.stride)) - 1)
        self.write(frame, index, shape.address_bits(page) | _TABLE_OR_PAGE | _NORMAL | _READ | _AF)
        return ipa

    # --- what to ask ---

    def probe_addresses(self, count: int) -> list[int]:
        """Draw byte addresses: most where an entry was drawn, a few anywhere and beyond the IPA space."""
        rng = self.rng
        limit, top = 1 << self.shape.ipa_bits, 1 << self.places.cpu_bits
        page = 1 << self.shape.page_bits
        drawn = []
        for _ in range(count):
            base, size = rng.choice(self.spans)
            draw = rng.random()
            if draw < 0.15:
                ipa = base
            elif draw < 0.3:
                ipa = base + size - 1
            elif draw < 0.8:
                ipa = base + rng.randrange(size)
            elif draw < 0.9:
                ipa = base + rng.choice((-1, 1)) * rng.choice((page, size)) + rng.randrange(page)
            elif draw < 0.96:
                ipa = rng.randrange(limit)
            else:
                ipa = limit + rng.randrange(limit) if rng.random() < 0.5 else limit | rng.randrange(top)
            if rng.random() < 0.7:
                ipa &= ~7
            drawn.append(ipa % top)
        return drawn


def tidy(table: Table) -> None:
    """Let instructions begin where they can, and read the guest's own code instead of executing it anywhere."""
    probes = table.probes
    page_bits = table.shape.page_bits
    code = probes["ipa"] >> np.uint64(page_bits) == table.guest_page >> page_bits
    probes["access"][code & (probes["access"] == 2)] = 0
    fetch = probes["access"] == 2
    probes["ipa"][fetch] &= ~np.uint64(3)


def memory_of(frames: list[list[int]]) -> Words:
    """Return the frames, one after another."""
    return np.array(frames, np.uint64).reshape(-1)


def tree(shape: Shape, places: Places, seed: int, probes: int) -> Table:
    """Build a random tree and its probes.

    Returns
    -------
    Table
        With probes of every access at EL1 and EL0.
    """
    rng = random.Random(f"{shape} {seed}")
    made = Tree(shape, places, rng)
    root = made.new_frames(shape.start, shape.root_frames)
    guest = made.map_guest_page(places.guest_page) if places.guest_page is not None else 0
    made.most = len(made.frames) + rng.randrange(6, 24)
    made.fill(root, shape.start, 1 << shape.root_bits, 0)
    table = Table(
        name=f"tree {shape}",
        shape=shape,
        vtcr=shape.vtcr,
        vttbr=shape.vttbr(places.arena, rng.randrange(1, 1 << 16)),
        regions=[(places.arena, memory_of(made.frames))],
        guest_page=guest,
    )
    table.probes = np.zeros(probes, PROBE)
    table.probes["ipa"] = made.probe_addresses(probes)
    draw = np.random.default_rng(rng.getrandbits(64))
    table.probes["access"] = draw.integers(0, 3, probes)
    table.probes["el"] = draw.integers(0, 2, probes)
    tidy(table)
    return table
