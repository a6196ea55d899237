"""The stage-2 table as an executable specification, in plain Python.

`ModelStage2` says what each operation of `s2pt.Stage2` does to the table, and nothing about how many threads can do it
at once or which TLB maintenance it takes. It is written to be read, and to be compared with a real implementation
(`s2pt.testing`): same constructor, methods, results and exceptions, the same tree of tables and leaves, the same number
of table frames.

The idea: a table is a value (`_model_tree`). An operation computes what its range becomes, and its last step puts the
new root in place of the old one; whatever is refused on the way is refused with nothing changed. Nearly all operations
are one walk with a different *rule*, which answers for each entry of the range what it becomes, or that the walk must
go on one level down: from a block that means a split, from an empty entry a new table, and a table in which nothing is
left disappears. Hence the laws of the real table:

* A change to a part of a block splits it no further than needed, and the rest keeps its translation.
* A table that became empty is freed, the root never is. Nothing merges by itself.
* An operation needs as many frames as it makes tables; frames that it frees do not help it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import index
from types import TracebackType
from typing import Self, SupportsIndex

from s2pt._model_arch import Attrs, attr_bits, check_attrs, make_geometry, output_bits, vtcr
from s2pt._model_tree import DESCEND, Answer, Edit, Leaf, Levels, Place, Table, leaves, remembering, walk
from s2pt.errors import (
    AccessFlagFault,
    AddressError,
    Again,
    AlignmentError,
    AttributesError,
    ConflictError,
    Fault,
    GeometryError,
    NotMappedError,
    OutOfFramesError,
    PermissionFault,
    TranslationFault,
)
from s2pt.explain import Explanation, Step, WalkFault
from s2pt.types import (
    Access,
    Blocks,
    Changed,
    Entry,
    Existing,
    Geometry,
    Mapped,
    Mapping,
    MemType,
    Prot,
    Stats,
    Translation,
    check_address,
    check_level,
    parse_size,
)

__all__ = ["ModelStage2"]


class ModelStage2:
    """A stage-2 table, one caller at a time.

    Parameters
    ----------
    ipa_bits : int
        Bits of the input address, 32..52.
    granule : int or str
        Page and table size: 4096, 16384 or 65536 bytes, or a text such as ``"4KiB"``.
    pa_bits : int
        Bits of the output address: 32, 36, 40, 42, 44, 48 or 52.
    start_level : int, optional
        Level of the root; None as KVM chooses it.
    lpa2, fwb, xnx : bool
        FEAT_LPA2 descriptors, FEAT_S2FWB memory types, FEAT_XNX execute permissions.
    blocks : Blocks or str
        ``"arch"``: blocks wherever the architecture allows them; ``"kvm"``: where KVM makes them.
    vmid : int
        The VMID, 16 bits; the model ignores it.
    frames : int, optional
        How many table frames there are, root included; None for no limit.
    tlbi_range, sink
        How a real table invalidates and who is told; the model ignores them.
    ha, hd : bool
        Whether the hardware sets the access flag, and the dirty state.

    Raises
    ------
    GeometryError
        There is no such table.
    OutOfFramesError
        The root alone needs more than `frames`.

    Notes
    -----
    In every operation on a range, `ipa` and `size` are bytes and multiples of the page size (AlignmentError, also for
    size 0), and the range ends within the IPA space (AddressError). Whatever is raised, nothing has changed. Not
    thread-safe.

    Examples
    --------
    >>> s2 = ModelStage2(ipa_bits=40)
    >>> s2.map(0x8000_0000, "2MiB", pa=0x4000_0000)
    Mapped(bytes=2MiB, kept=0B)
    >>> s2.translate(0x8000_1234)
    Translation(pa=0x40001234, level=2, prot=RW, memtype=NORMAL)
    >>> s2.unmap(0x8000_0000, 4096)
    4096
    >>> s2.translate(0x8000_1234).level, s2.frames_in_use
    (3, 4)
    >>> hex(s2.vtcr)
    '0x802d3558'
    """

    def __init__(
        self,
        ipa_bits: int = 40,
        granule: SupportsIndex | str = "4KiB",
        pa_bits: int = 48,
        *,
        start_level: int | None = None,
        lpa2: bool = False,
        fwb: bool = False,
        xnx: bool = False,
        blocks: Blocks | str = Blocks.ARCH,
        vmid: int = 1,
        frames: int | None = None,
        tlbi_range: bool = True,
        ha: bool = True,
        hd: bool = False,
        sink: object = None,
    ) -> None:
        start = None if start_level is None else index(start_level)
        shape = make_geometry(parse_size(granule), index(ipa_bits), index(pa_bits), start, lpa2, Blocks(blocks))
        if hd and not ha:
            raise GeometryError("hd needs ha: hardware that manages the dirty state manages the access flag too")
        if not 0 <= vmid < 1 << 16:
            raise GeometryError(f"VMID {vmid:#x} does not fit in 16 bits")
        if frames is not None and frames < shape.root_frames:
            raise _out_of_frames(shape.root_frames, frames)
        self._shape, self._fwb, self._xnx, self._ha, self._hd = shape, fwb, xnx, ha, hd
        self._levels = Levels(shape.start_level, {level: shape.size(level) for level in range(-1, 4)})
        self._leaf_levels = frozenset(level for level in self._levels.sizes if shape.block_allowed(level))
        self._quota = frames
        self._refuse_in: int | None = None
        self._root = Table({})

    def __repr__(self) -> str:
        return f"<ModelStage2 ipa_bits={self._shape.ipa_bits} vtcr={self.vtcr:#x} frames={self.frames_in_use}>"

    # --- mapping ---

    def map(
        self,
        ipa: SupportsIndex,
        size: SupportsIndex | str,
        pa: SupportsIndex,
        prot: Prot | int = Prot.RW,
        *,
        memtype: MemType | str = MemType.NORMAL,
        existing: Existing | str = Existing.REPLACE,
        largest: int | None = None,
        software: int = 0,
        af: bool = True,
        over_tables: bool = False,
    ) -> Mapped:
        """Map `size` bytes from `ipa` to `pa`, with the largest leaves that fit.

        A leaf fits an entry when the range covers the whole entry, its output is aligned to the entry's size, and a
        leaf may stand at its level.

        Parameters
        ----------
        ipa, size, pa : int
            In bytes, multiples of the page size; `pa` must end within the PA space (AddressError).
        prot, memtype, software, af
            The attributes of every leaf.
        existing : Existing or str
            ``"replace"``: where a leaf fits it takes the place of the leaf or table there. What translates as wanted
            already, and with leaves no larger than allowed, is left alone.
            ``"keep"``: what is mapped stays as it is, the holes are filled.
            ``"error"``: anything mapped in the range is a conflict.
        largest : int, optional
            The smallest level number at which a leaf may be made; None is as the geometry allows.
        over_tables : bool
            With ``"keep"``: a leaf that fits may take the place of a table.

        Returns
        -------
        Mapped
            How many bytes were written and how many were left as they were.

        Raises
        ------
        AttributesError
            The attributes contradict each other, or the format has no room for them.
        Again
            ``"keep"``, and nothing was written.
        ConflictError
            ``"error"``, and a leaf was found: the error has its first IPA in the range, and its level.
        OutOfFramesError
            Too few frames for the tables to be made.
        """
        ipa, size = self._range(ipa, size)
        pa = check_address(pa, "PA")
        self._aligned("PA", pa)
        if pa + size > 1 << self._shape.pa_bits:
            raise AddressError(f"PA {pa:#x} of size {size:#x} ends beyond {1 << self._shape.pa_bits:#x}")
        coarsest = -1 if largest is None else check_level(largest)
        attrs = self._attrs(prot, MemType(memtype), af, software)
        existing = Existing(existing)
        if existing is Existing.ERROR:
            self._refuse_leaves(ipa, size)
        keep = existing is not Existing.REPLACE
        written = kept = 0

        def fill(at: Place) -> Answer:
            nonlocal written
            output = pa + (at.lo - ipa)
            if at.level < coarsest or not self._fits(output, at):
                return DESCEND
            written += at.bytes
            return Leaf(output, attrs)

        def rule(node: Leaf | Table, at: Place) -> Answer:
            nonlocal kept
            if isinstance(node, Table):
                return DESCEND if keep and not over_tables else fill(at)
            as_wanted = node.at(at.offset) == Leaf(pa + (at.lo - ipa), attrs) and at.level >= coarsest
            if keep or as_wanted:
                kept += at.bytes
                return node
            return fill(at)

        edit = self._edit(ipa, size, rule, hole=fill)
        if keep and written == 0:
            level = self._walk(ipa)[1].level
            raise Again(f"everything in {ipa:#x}..{ipa + size:#x} is mapped already", ipa, level)
        self._commit(edit)
        return Mapped(written, kept)

    def unmap(self, ipa: SupportsIndex, size: SupportsIndex | str) -> int:
        """Unmap a range, holes and all, and return how many bytes of it were mapped.

        A block that the range covers in part is split first, which needs frames (OutOfFramesError).
        """
        ipa, size = self._range(ipa, size)
        removed = 0

        def rule(node: Leaf | Table, at: Place) -> Answer:
            nonlocal removed
            if isinstance(node, Table) or not at.whole:
                return DESCEND
            removed += at.bytes
            return None

        self._commit(self._edit(ipa, size, rule))
        return removed

    # --- attributes ---

    def protect(self, ipa: SupportsIndex, size: SupportsIndex | str, prot: Prot | int) -> Changed:
        """Give everything mapped in the range exactly the permissions `prot`.

        Holes are skipped. A block that the range covers in part is split if its permissions differ, and only then.

        Raises
        ------
        NotMappedError
            Nothing in the range is mapped.
        AttributesError
            `prot` has execute and some leaf is device or non-cacheable memory, or the format has no room for `prot`.
        OutOfFramesError
            Too few frames for the splits.
        """
        ipa, size = self._range(ipa, size)
        wanted = self._attrs(prot).prot
        return self._change(ipa, size, lambda old: wanted, must_exist=True)

    def write_protect(self, ipa: SupportsIndex, size: SupportsIndex | str) -> Changed:
        """Take write permission from everything mapped in the range; as `protect`, but finding nothing is no error."""
        ipa, size = self._range(ipa, size)
        return self._change(ipa, size, lambda old: old & ~Prot.W, must_exist=False)

    def relax(self, ipa: SupportsIndex, size: SupportsIndex | str, prot: Prot | int) -> Changed:
        """Add the permissions `prot` to everything mapped in the range, taking none; splits and errors as `protect`."""
        ipa, size = self._range(ipa, size)
        more = self._attrs(prot).prot
        return self._change(ipa, size, lambda old: old | more, must_exist=True)

    def _change(self, ipa: int, size: int, permissions: Callable[[Prot], Prot], must_exist: bool) -> Changed:
        changed = mapped = 0

        @remembering
        def wanted(attrs: Attrs) -> Attrs | None:
            prot = permissions(attrs.prot)
            if prot & Prot.X and attrs.memtype.forbids_execute:
                return None
            return attrs if prot == attrs.prot else attrs._replace(prot=prot)

        def rule(node: Leaf | Table, at: Place) -> Answer:
            nonlocal changed, mapped
            if isinstance(node, Table):
                return DESCEND
            attrs = wanted(node.attrs)
            if attrs is None:
                raise AttributesError(f"{node.attrs.memtype} memory at {at.lo:#x}: no execute", at.lo, at.level)
            changes = attrs is not node.attrs
            if changes and not at.whole:
                return DESCEND
            mapped += at.bytes
            changed += changes
            return node.with_attrs(attrs)

        edit = self._edit(ipa, size, rule)
        if must_exist and mapped == 0:
            raise self._nothing_mapped(ipa)
        self._commit(edit)
        return Changed(changed, mapped)

    # --- ageing: the access flag belongs to the leaf, and none of these splits it ---

    def mark_young(self, ipa: SupportsIndex, size: SupportsIndex | str) -> Changed:
        """Set the access flag of every leaf of which a part is in the range.

        Raises
        ------
        NotMappedError
            Nothing in the range is mapped.
        """
        ipa, size = self._range(ipa, size)
        changed = self._set_af(ipa, size, True)
        if changed.bytes == 0:
            raise self._nothing_mapped(ipa)
        return changed

    def test_young(self, ipa: SupportsIndex, size: SupportsIndex | str) -> bool:
        """Whether a leaf of which a part is in the range has its access flag set."""
        ipa, size = self._range(ipa, size)
        return any(leaf.attrs.af for leaf, _, _ in leaves(self._levels, self._root, ipa, ipa + size))

    def test_and_clear_young(self, ipa: SupportsIndex, size: SupportsIndex | str, flush: bool = False) -> bool:
        """Answer as `test_young`, and clear the flag in every such leaf.

        With `flush` the TLBs are told, so that the next access sets the flag again; the model has no TLBs.
        """
        ipa, size = self._range(ipa, size)
        return self._set_af(ipa, size, False).leaves > 0

    def _set_af(self, ipa: int, size: int, af: bool) -> Changed:
        changed = mapped = 0
        wanted = _with_af(af)

        def rule(node: Leaf | Table, at: Place) -> Answer:
            nonlocal changed, mapped
            if isinstance(node, Table):
                return DESCEND
            attrs = wanted(node.attrs)
            mapped += at.bytes
            changed += attrs is not node.attrs
            return node.with_attrs(attrs)

        self._commit(self._edit(ipa, size, rule))
        return Changed(changed, mapped)

    # --- sizes of leaves ---

    def split(self, ipa: SupportsIndex, size: SupportsIndex | str, level: int = 3) -> int:
        """Split blocks until no leaf of the range is coarser than `level`; return how many blocks were split.

        What a block has outside the range stays as coarse as possible. A block that a split made and another split
        counts like any other.

        Raises
        ------
        LevelError
            `level` is not one of -1..3.
        OutOfFramesError
            Too few frames: each split needs one.
        """
        ipa, size = self._range(ipa, size)
        level = check_level(level)

        def rule(node: Leaf | Table, at: Place) -> Answer:
            return node if isinstance(node, Leaf) and at.level >= level else DESCEND

        edit = self._edit(ipa, size, rule)
        self._commit(edit)
        return edit.tables_made

    def collapse(self, ipa: SupportsIndex, size: SupportsIndex | str) -> int:
        """Make blocks of the tables in the range that map like one; return how many were made.

        A table becomes a block if the range covers it, a block may stand in its place, its entries are all leaves with
        equal attributes (the access flag aside: the block is young if any leaf was), and their output is one
        contiguous piece aligned to the block's size. Blocks so made may in turn make up a larger one, and all count.
        """
        ipa, size = self._range(ipa, size)
        made = 0

        def rule(node: Leaf | Table, at: Place) -> Answer:
            return DESCEND if isinstance(node, Table) else node

        def join(table: Table, at: Place) -> Leaf | Table:
            nonlocal made
            block = self._as_block(table, at)
            made += block is not None
            return block or table

        self._commit(self._edit(ipa, size, rule, join=join))
        return made

    def _as_block(self, table: Table, at: Place) -> Leaf | None:
        block = table.entries.get(0)
        if not isinstance(block, Leaf) or not self._fits(block.pa, at):
            return None
        step, young = self._levels.sizes[at.level + 1], _with_af(True)
        wanted, used = young(block.attrs), False
        for i in range(at.size // step):
            leaf = table.entries.get(i)
            if not isinstance(leaf, Leaf) or leaf.pa != block.pa + i * step or young(leaf.attrs) != wanted:
                return None
            used = used or leaf.attrs.af
        return block.with_attrs(wanted) if used else block

    # --- questions ---

    def translate(self, ipa: SupportsIndex, access: Access | str = Access.READ) -> Translation:
        """Answer one access as the MMU would, without a trace: no access flag is set.

        Parameters
        ----------
        ipa : int
            Any byte address.
        access : Access or str
            ``"r"``, ``"w"`` or ``"x"`` (a fetch at EL1, which needs `Prot.PX`).

        Raises
        ------
        TranslationFault
            Nothing is mapped there; at level 0 if the address is beyond the IPA space.
        AccessFlagFault
            The access flag is clear, and `ha` is off.
        PermissionFault
            The leaf does not allow the access.
        """
        ipa, access = check_address(ipa), Access(access)
        if ipa >> self._shape.ipa_bits:
            raise TranslationFault(f"IPA {ipa:#x} is beyond {self._shape.ipa_bits} bits", ipa, 0, access)
        leaf, at = self._walk(ipa)
        if leaf is None:
            raise TranslationFault(f"IPA {ipa:#x}: nothing is mapped at level {at.level}", ipa, at.level, access)
        if not leaf.attrs.af and not self._ha:
            raise AccessFlagFault(f"IPA {ipa:#x}: the access flag is clear", ipa, at.level, access)
        if _NEEDS[access] not in leaf.attrs.prot:
            reason = f"the leaf allows {leaf.attrs.prot}, not {access.name.lower()}"
            raise PermissionFault(f"IPA {ipa:#x}: {reason}", ipa, at.level, access)
        return Translation(leaf.at(ipa - at.base).pa, at.level, leaf.attrs.prot, leaf.attrs.memtype)

    def explain(self, ipa: SupportsIndex, access: Access | str = Access.READ) -> Explanation:
        """Follow an access through the table: the entry at each level, and what the MMU answers.

        The model has no memory, so its steps say neither where an entry is nor, of a table, its value.

        Examples
        --------
        >>> s2 = ModelStage2()
        >>> s2.map(0x8000_0000, "1GiB", pa=0x4000_0000)
        Mapped(bytes=1GiB, kept=0B)
        >>> print(s2.explain(0x8000_1234, "x"))
        fetch from 0x80001234: permission fault at level 1
          level  index  entry at  value             decoded                                         verdict
              1      2  -         0x400000400007fd  block of 1GiB to 0x40000000, RW, normal memory  does not allow fetch
        """
        ipa, access = check_address(ipa), Access(access)
        hit, fault = None, None
        try:
            hit = self.translate(ipa, access)
        except Fault as refused:
            fault = WalkFault(refused.kind, refused.level or 0)
        if ipa >> self._shape.ipa_bits:
            return Explanation(ipa, access, (), hit, fault)
        leaf, end = self._walk(ipa)
        steps = []
        for level in range(self._shape.start_level, end.level + 1):
            size = self._shape.size(level)
            base = ipa // size * size
            table = self._shape.size(level - 1) if level > self._shape.start_level else 1 << self._shape.ipa_bits
            step = Step(level, ipa % table // size, base, size, "table")
            if level == end.level:
                kind, value = ("empty", 0) if leaf is None else ("leaf", self._raw(leaf, end.level))
                mapping = None if leaf is None else self._mapping(leaf, end.level, end.base, value)
                step = replace(step, kind=kind, value=value, mapping=mapping, fault=fault.kind if fault else None)
            steps.append(step)
        return Explanation(ipa, access, tuple(steps), hit, fault)

    def lookup(self, ipa: SupportsIndex) -> Entry:
        """Return the entry at which the walk for a byte address ends: a leaf, or an empty one."""
        leaf, at = self._walk(self._inside(ipa))
        return (
            Entry(0, at.level, at.base, "empty")
            if leaf is None
            else Entry(self._raw(leaf, at.level), at.level, at.base, "leaf")
        )

    def __getitem__(self, ipa: SupportsIndex) -> Mapping:
        """Return the leaf that translates a byte address; NotMappedError if none does."""
        leaf, at = self._walk(self._inside(ipa))
        if leaf is None:
            raise self._nothing_mapped(check_address(ipa))
        return self._mapping(leaf, at.level, at.base, self._raw(leaf, at.level))

    def __contains__(self, ipa: SupportsIndex) -> bool:
        return self._walk(self._inside(ipa))[0] is not None

    def leaves(self, ipa: SupportsIndex = 0, size: SupportsIndex | str | None = None) -> Iterator[Mapping]:
        """Iterate over the leaves of which a part is in the range, each whole, in ascending order.

        Without `size`: to the end of the IPA space.
        """
        ipa, size = self._range(ipa, (1 << self._shape.ipa_bits) - check_address(ipa) if size is None else size)
        return self._mappings(ipa, ipa + size)

    def _mappings(self, lo: int, hi: int) -> Iterator[Mapping]:
        bits = remembering(self._bits)
        for leaf, level, base in leaves(self._levels, self._root, lo, hi):
            raw = bits(leaf.attrs)[level == 3] | output_bits(self._shape, leaf.pa)
            yield self._mapping(leaf, level, base, raw)

    def __iter__(self) -> Iterator[Mapping]:
        return self.leaves()

    def stats(self) -> Stats:
        """Count table frames and leaves by level, and the bytes mapped."""
        start, census = self._levels.first, self._census()
        frames = dict(enumerate((tables for tables, _ in census), start))
        counts = dict(enumerate((leaves for _, leaves in census), start))
        frames[start] = self._shape.root_frames
        return Stats(frames, counts, sum(n * self._levels.sizes[level] for level, n in counts.items()))

    @property
    def frames_in_use(self) -> int:
        """Table frames, the root's included."""
        return self._shape.root_frames - 1 + sum(tables for tables, _ in self._census())

    def _census(self) -> tuple[tuple[int, int], ...]:
        return self._root.census(self._levels.first)

    @property
    def geometry(self) -> Geometry:
        """The shape of the table."""
        return self._shape

    @property
    def vtcr(self) -> int:
        """VTCR_EL2 for this table."""
        return vtcr(self._shape, self._ha, self._hd)

    # --- frames and the life of the table ---

    def fail_allocation(self, k: int) -> None:
        """Refuse, once, the operation that asks for the `k`-th frame from now, counting from 0."""
        self._refuse_in = k

    def drain(self) -> None:
        """Wait until every retired frame is free; the model frees at once."""

    def close(self) -> None:
        """Give up the table."""
        self._root = Table({})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- compute, then commit ---

    def _edit(
        self,
        ipa: int,
        size: int,
        rule: Callable[[Leaf | Table, Place], Answer],
        hole: Callable[[Place], Answer] | None = None,
        join: Callable[[Table, Place], Leaf | Table] | None = None,
    ) -> Edit:
        """Compute what the table becomes when the rule is applied to the range."""
        edit = Edit(self._levels, self._root, rule, hole, join)
        edit.run(ipa, ipa + size)
        return edit

    def _commit(self, edit: Edit) -> None:
        """Put the new root in place if there are frames for the tables that were made."""
        if edit.tables_made:
            self._request(edit.tables_made)
        self._root = edit.root

    def _request(self, frames: int) -> None:
        """Refuse what there are too few frames for, or what a test wants refused."""
        if self._refuse_in is not None:
            left, self._refuse_in = self._refuse_in, None
            if left < frames:
                raise _out_of_frames(frames, left)
            self._refuse_in = left - frames
        if self._quota is not None and frames > self._quota - self.frames_in_use:
            raise _out_of_frames(frames, self._quota - self.frames_in_use)

    def _walk(self, ipa: int) -> tuple[Leaf | None, Place]:
        return walk(self._levels, self._root, ipa)

    def _fits(self, pa: int, at: Place) -> bool:
        """Whether a leaf to `pa` may stand at this place."""
        return at.whole and at.level in self._leaf_levels and pa % at.size == 0

    # --- arguments and results ---

    def _range(self, ipa: SupportsIndex, size: SupportsIndex | str) -> tuple[int, int]:
        ipa, size = check_address(ipa), parse_size(size)
        self._aligned("IPA", ipa)
        if size == 0:
            raise AlignmentError(f"size of the range at {ipa:#x} is 0x0; it must be at least {self._shape.granule:#x}")
        self._aligned("size", size)
        if ipa + size > 1 << self._shape.ipa_bits:
            raise AddressError(f"IPA {ipa:#x} of size {size:#x} ends beyond {1 << self._shape.ipa_bits:#x}", ipa)
        return ipa, size

    def _aligned(self, what: str, value: int) -> None:
        if value % self._shape.granule:
            raise AlignmentError(f"{what} {value:#x} is not a multiple of {self._shape.granule:#x}")

    def _inside(self, ipa: SupportsIndex) -> int:
        ipa = check_address(ipa)
        if ipa >> self._shape.ipa_bits:
            raise AddressError(f"IPA {ipa:#x} is beyond {1 << self._shape.ipa_bits:#x}", ipa)
        return ipa

    def _attrs(self, prot: Prot | int, memtype: MemType = MemType.NORMAL, af: bool = True, software: int = 0) -> Attrs:
        attrs = Attrs(Prot(prot), memtype, bool(af), index(software))
        check_attrs(attrs, self._fwb, self._xnx)
        return attrs

    def _refuse_leaves(self, ipa: int, size: int) -> None:
        for leaf, level, base in leaves(self._levels, self._root, ipa, ipa + size):
            found, raw = max(ipa, base), self._raw(leaf, level)
            raise ConflictError(f"IPA {found:#x} is mapped: level {level} entry {raw:#x}", found, level)

    def _nothing_mapped(self, ipa: int) -> NotMappedError:
        level = self._walk(ipa)[1].level
        return NotMappedError(f"nothing is mapped at {ipa:#x} (the walk ends at level {level})", ipa, level)

    def _bits(self, attrs: Attrs) -> tuple[int, int]:
        """Encode attributes: those of a block, and those of a page."""
        return attr_bits(attrs, False, self._fwb, self._xnx), attr_bits(attrs, True, self._fwb, self._xnx)

    def _raw(self, leaf: Leaf, level: int) -> int:
        return self._bits(leaf.attrs)[level == 3] | output_bits(self._shape, leaf.pa)

    def _mapping(self, leaf: Leaf, level: int, base: int, raw: int) -> Mapping:
        a, size = leaf.attrs, self._levels.sizes[level]
        return Mapping(base, size, leaf.pa, level, a.prot, a.memtype, a.af, a.software, raw)


_NEEDS = {Access.READ: Prot.R, Access.WRITE: Prot.W, Access.EXECUTE: Prot.PX}
"""The permission that an access needs."""


def _with_af(af: bool) -> Callable[[Attrs], Attrs]:
    """Give attributes another access flag; those that have it already come back as they are."""
    return remembering(lambda attrs: attrs if attrs.af == af else attrs._replace(af=af))


def _out_of_frames(needed: int, available: int) -> OutOfFramesError:
    message = f"the operation needs {needed} table frames and {available} are available"
    return OutOfFramesError(message, needed=needed, available=available)
