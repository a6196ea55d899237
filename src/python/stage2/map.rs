//! `Stage2`: what is mapped where, in which pieces, and whose the rest is.

use pyo3::prelude::*;

use super::PyStage2;
use crate::arch::Attrs;
use crate::python::convert::{
    ExistingArg, FlagsArg, IpaArg, LevelArg, MemTypeArg, Number, PaArg, ProtArg, SizeArg, SoftwareArg,
};
use crate::python::{error, types};
use crate::table::MapOptions;

/// The attributes that the keyword arguments say.
pub fn attrs(prot: ProtArg, memtype: MemTypeArg, software: SoftwareArg, af: bool) -> Attrs {
    Attrs {
        memtype: memtype.0,
        software: software.0,
        af,
        ..Attrs::new(prot.0)
    }
}

/// The options of a map that the keyword arguments say.
pub fn options(existing: ExistingArg, largest: Option<LevelArg>, over_tables: bool) -> MapOptions {
    MapOptions {
        existing: existing.0,
        largest: largest.map(|level| level.0),
        over_tables,
        ..MapOptions::default()
    }
}

/// How many table frames a call may take.
fn most(budget: Option<Number>) -> usize {
    budget.map_or(usize::MAX, |frames| usize::try_from(frames.0).unwrap_or(usize::MAX))
}

#[pymethods]
impl PyStage2 {
    /// Map `size` bytes from `ipa` to `pa`, with the largest leaves that fit.
    ///
    /// A leaf fits an entry when the range covers the whole entry, its output is aligned to the entry's size, and a
    /// leaf may stand at its level. A change to a part of a block splits it; the rest keeps its translation.
    ///
    /// Parameters
    /// ----------
    /// ipa, pa : int
    ///     Bytes, multiples of the page size.
    /// size : int or str
    ///     Bytes, a multiple of the page size, not zero; or a text such as ``"2MiB"``.
    /// prot : Prot
    ///     What every leaf allows.
    /// memtype : MemType or str
    ///     The memory type of every leaf.
    /// existing : Existing or str
    ///     ``"replace"``: what is mapped makes way; what translates as wanted already is left alone.
    ///     ``"keep"``: what is mapped stays, the holes are filled.
    ///     ``"error"``: anything mapped in the range is a conflict, and nothing is mapped, not for a moment either (but with
    ///     ``semantics="kvm"``); whoever faults in the range meanwhile tries again.
    /// largest : int, optional
    ///     The smallest level number at which a leaf may be made: 3 forces pages. None is as the geometry allows.
    /// software : int
    ///     The bits kept for software, 0..15.
    /// af : bool
    ///     The access flag.
    /// over_tables : bool
    ///     With ``"keep"``: a leaf that fits may take the place of a table.
    /// flags : WalkFlags
    ///     Only with ``semantics="kvm"``: how KVM's caller would walk.
    /// budget : int, optional
    ///     How many table frames the call may take.
    ///
    /// Returns
    /// -------
    /// Mapped
    ///     How many bytes were written and how many were left as they were.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError, LevelError, AttributesError
    ///     An argument is wrong.
    /// Again
    ///     ``"keep"``, and there was no hole. With ``semantics="kvm"`` and ``WalkFlags.HANDLE_FAULT``: a leaf of the same
    ///     output is there already, or a peer holds the entry; what lies before is mapped.
    /// ConflictError
    ///     ``"error"``, and a leaf was found: the error has its first IPA in the range, and its level. Also where an owner's
    ///     mark (`annotate`) would be lost.
    /// OutOfFramesError
    ///     Too few frames for the tables to be made.
    ///
    /// Notes
    /// -----
    /// After an exception nothing has changed. Maintenance: what is new costs one DSB ISHST; where a valid leaf makes
    /// way for another output, size or type, break-before-make with a broadcast TLBI; where permissions change in
    /// place, a broadcast TLBI if one is taken away.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.map(0x4000_0000, "1GiB", pa=0x8000_0000)
    /// Mapped(bytes=1GiB, kept=0B)
    /// >>> s2.map(0x4000_0000, "2MiB", pa=0x8000_0000, existing="keep")
    /// Traceback (most recent call last):
    ///     ...
    /// s2pt.errors.Again: 0x40000000 is being changed by a peer, or was changed first (level 1): try again
    #[pyo3(signature = (
        ipa, size, pa, prot = ProtArg::RW, *, memtype = MemTypeArg::NORMAL, existing = ExistingArg::REPLACE, largest = None, software = SoftwareArg::NONE, af = true,
        over_tables = false, flags = FlagsArg::NONE, budget = None
    ), text_signature = "($self, ipa, size, pa, prot=Prot.RW, *, memtype=MemType.NORMAL, existing='replace', \
        largest=None, software=0, af=True, over_tables=False, flags=0, budget=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python method")]
    fn map<'py>(
        &self,
        py: Python<'py>,
        ipa: IpaArg,
        size: SizeArg,
        pa: PaArg,
        prot: ProtArg,
        memtype: MemTypeArg,
        existing: ExistingArg,
        largest: Option<LevelArg>,
        software: SoftwareArg,
        af: bool,
        over_tables: bool,
        flags: FlagsArg,
        budget: Option<Number>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let attrs = attrs(prot, memtype, software, af);
        let options = MapOptions {
            flags: flags.0,
            ..options(existing, largest, over_tables)
        };
        let done = self.with(py, size.0, |table| match budget {
            None => table.map(ipa.0, size.0, pa.0, &attrs, options),
            Some(_) => table
                .with_frames(most(budget))
                .map(ipa.0, size.0, pa.0, &attrs, options),
        })?;
        types::mapped(py, &done.map_err(|refused| error::table(py, refused))?)
    }

    /// Unmap a range; return how many bytes of it were mapped.
    ///
    /// What is not mapped is skipped. A block of which only a part is in the range is split; tables that become empty
    /// are unlinked and their frames freed after a grace period. When the call returns no CPU uses the translations any
    /// more: one broadcast TLBI for each run of up to 512 entries.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Bytes, a multiple of the page size.
    /// size : int or str
    ///     Bytes, a multiple of the page size, not zero.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     An argument is wrong.
    /// OutOfFramesError
    ///     Too few frames to split a block.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.map(0x4000_0000, "1GiB", pa=0x8000_0000)
    /// Mapped(bytes=1GiB, kept=0B)
    /// >>> s2.unmap(0x4000_0000, 4096)
    /// 4096
    /// >>> s2.stats().leaves
    /// {1: 0, 2: 511, 3: 511}
    fn unmap(&self, py: Python<'_>, ipa: IpaArg, size: SizeArg) -> PyResult<u64> {
        let done = self.with(py, size.0, |table| table.unmap(ipa.0, size.0))?;
        done.map_err(|refused| error::table(py, refused))
    }

    /// Split blocks until no leaf of the range is coarser than `level`; return how many blocks were split.
    ///
    /// What a block has outside the range stays as coarse as possible. A block that a split made and another split
    /// counts like any other. Translations and attributes stay as they are.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Bytes, a multiple of the page size.
    /// size : int or str
    ///     Bytes, a multiple of the page size, not zero; or a text such as ``"2MiB"``.
    /// level : int or str
    ///     Where a leaf may stand at the coarsest: a level number, 3 for pages.
    /// budget : int, optional
    ///     How many table frames the call may take.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError, LevelError
    ///     An argument is wrong.
    /// OutOfFramesError
    ///     Too few frames, or `budget` is less than it takes: each split needs one.
    ///
    /// Notes
    /// -----
    /// Maintenance: break-before-make with one broadcast TLBI for each block, before the call returns.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.map(0x4000_0000, "1GiB", pa=0x8000_0000)
    /// Mapped(bytes=1GiB, kept=0B)
    /// >>> s2.split(0x4000_0000, "2MiB")
    /// 2
    /// >>> s2.stats().leaves
    /// {1: 0, 2: 511, 3: 512}
    ///
    /// With KVM's semantics a block is split whole: at once if the budget allows, otherwise by one level, and again.
    ///
    /// >>> s2 = Stage2(semantics="kvm")
    /// >>> _ = s2.map(0x4000_0000, "1GiB", pa=0x8000_0000)
    /// >>> s2.split(0x4000_0000, "2MiB", budget=2)
    /// 2
    /// >>> s2.stats().leaves
    /// {1: 0, 2: 511, 3: 512}
    #[pyo3(signature = (ipa, size, level = LevelArg::PAGES, *, budget = None), text_signature = "($self, ipa, size, level=3, *, budget=None)")]
    fn split(
        &self,
        py: Python<'_>,
        ipa: IpaArg,
        size: SizeArg,
        level: LevelArg,
        budget: Option<Number>,
    ) -> PyResult<u64> {
        let done = self.with(py, size.0, |table| {
            table.with_frames(most(budget)).split(ipa.0, size.0, level.0)
        })?;
        done.map_err(|refused| error::table(py, refused))
    }

    /// Make blocks of the tables in the range that map like one; return how many were made.
    ///
    /// A table becomes a block if the range covers it, a block may stand in its place, its entries are all leaves with
    /// equal attributes (the access flag aside: the block is young if any leaf was), and their output is one contiguous
    /// piece aligned to the block's size. Blocks so made may in turn make up a larger one, and all count.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Bytes, a multiple of the page size.
    /// size : int or str
    ///     Bytes, a multiple of the page size, not zero; or a text such as ``"2MiB"``.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     An argument is wrong.
    ///
    /// Notes
    /// -----
    /// Maintenance: one broadcast TLBI for each block, before it is visible; its table is freed after a grace period. A
    /// table that a peer changes meanwhile stays.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.map(0x4000_0000, "2MiB", pa=0x8000_0000, largest=3)
    /// Mapped(bytes=2MiB, kept=0B)
    /// >>> s2.collapse(0x4000_0000, "2MiB")
    /// 1
    /// >>> s2[0x4000_0000].size
    /// 2097152
    fn collapse(&self, py: Python<'_>, ipa: IpaArg, size: SizeArg) -> PyResult<u64> {
        let done = self.with(py, size.0, |table| table.collapse(ipa.0, size.0))?;
        done.map_err(|refused| error::table(py, refused))
    }

    /// Mark a range as belonging to an owner; what was mapped there is mapped no more.
    ///
    /// A marked page faults, and `lookup` shows the mark. Marks are not lost by the way: `map` does not write over them
    /// (ConflictError); it takes ``annotate(ipa, size, 0)``, or `unmap`, which removes marks with the rest.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Bytes, a multiple of the page size.
    /// size : int or str
    ///     Bytes, a multiple of the page size, not zero.
    /// owner : int
    ///     Up to 59 bits; 0 takes the mark away. With ``semantics="kvm"`` 0 or 1, and a page that is mapped takes the place
    ///     of a mark.
    /// budget : int, optional
    ///     How many table frames the call may take.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError, AttributesError
    ///     An argument is wrong.
    /// OutOfFramesError
    ///     Too few frames for the tables to be made.
    ///
    /// Notes
    /// -----
    /// Maintenance: a broadcast TLBI where a translation goes.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.annotate(0x1000, 4096, 7)
    /// >>> s2.lookup(0x1000)
    /// Entry(raw=0x1c, level=3, base=0x1000, kind=annotated)
    /// >>> s2.map(0x1000, 4096, pa=0x1000)
    /// Traceback (most recent call last):
    ///     ...
    /// s2pt.errors.ConflictError: 0x1000 is taken: level 3 entry 0x1c
    #[pyo3(signature = (ipa, size, owner, *, budget = None))]
    fn annotate(
        &self,
        py: Python<'_>,
        ipa: IpaArg,
        size: SizeArg,
        owner: Number,
        budget: Option<Number>,
    ) -> PyResult<()> {
        let done = self.with(py, size.0, |table| {
            table.with_frames(most(budget)).annotate(ipa.0, size.0, owner.0)
        })?;
        done.map_err(|refused| error::table(py, refused))
    }
}
