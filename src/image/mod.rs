//! Tables that somebody else made: walked in bytes, from VTTBR_EL2 and VTCR_EL2 alone.
//!
//! An [`Image`] is a table behind a memory-read callback ([`ReadMemory`]): a dump file, guest memory of a debugger, a
//! crashed kernel's physical memory, or a table of this crate. Nothing in it is trusted. A walk goes down one level a
//! step and never below level 3, refuses to enter a table page twice (so neither a cycle nor a table shared a thousand
//! times keeps it busy), and reports what it cannot read as an [`ImageError`] with the IPA and the level, then goes on
//! behind it.
//!
//! | to do | use |
//! |---|---|
//! | read a file in format `S2DUMP01` | [`Dump`] |
//! | every entry that is not zero, in order of IPA | [`Image::entries`] |
//! | leaves; maximal runs of like leaves | [`Image::leaves`], [`Image::runs`] |
//! | the entries on the way to one IPA | [`Image::path`] |
//! | what an access gets, as hardware answers it | [`Image::translate`], [`Image::access`] |
//! | counts by level, size and permission | [`Image::stats`] |
//! | what the MMU answers to an access, and why | [`Image::explain`] |
//! | where two tables or texts differ | [`diff()`]; leaf by leaf: [`compare()`] |
//! | the text of KVM's `stage2_page_tables` file | [`Image::ptdump`], [`Ptdump`] |
//! | write a table as `S2DUMP01` | [`Image::to_dump`] |
//!
//! ```
//! use s2pt::arch::{Geometry, GeometryOptions, Ipa, Pa, Vtcr, VtcrOptions, Vttbr};
//! use s2pt::image::{Image, ImageOptions};
//!
//! let geometry = Geometry::new(GeometryOptions { ipa_bits: 36, ..Default::default() })?;
//! let (root, block) = (0x8000, 0x0040_0000_4000_07fd); // level 1: 1 GiB, read-write
//! let memory = |pa: Pa| match pa.get() {
//!     0x8008 => Some(block),
//!     0x8000..0x9000 => Some(0),
//!     _ => None,
//! };
//! let vtcr = Vtcr::build(&geometry, VtcrOptions::default());
//! let vttbr = Vttbr::build(1, Pa::new(root), false, &geometry)?;
//! let image = Image::new(memory, vtcr, vttbr, ImageOptions::default())?;
//! let leaves: Vec<_> = image.leaves().collect::<Result<_, _>>()?;
//! assert_eq!((leaves[0].ipa, leaves[0].size, leaves[0].pa), (Ipa::new(1 << 30), 1 << 30, Pa::new(1 << 30)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answer;
mod compare;
mod diff;
mod difference;
mod dump;
mod error;
mod explain;
mod export;
mod guess;
mod ptdump;
mod read;
mod runs;
mod stats;
mod walk;

use alloc::vec::Vec;

use crate::arch::{BlockRule, Dialect, Format, FormatOptions, Geometry, Ipa, Mapping, Pa, Vtcr, Vttbr};

pub use answer::Answer;
pub use compare::{Compare, Piece, compare};
pub use diff::{Comparable, diff};
pub use difference::{Difference, Differs, Side};
pub use dump::Dump;
pub use error::ImageError;
pub use explain::{Explanation, Next, Step};
pub use ptdump::{Ptdump, PtdumpColumns, PtdumpError, PtdumpRun, PtdumpStyle};
pub use read::ReadMemory;
pub use runs::{LeafRun, Runs};
pub use stats::{ImageStats, LeafCount};
pub use walk::{Entries, Entry};

/// What the two registers do not say about a table. `None`: found out from the entries, as the fields describe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageOptions {
    /// HCR_EL2.FWB was set, so MemAttr has the forced write-back meanings. Else: taken as set if some leaf has
    /// MemAttr 6 or 7, and none has 8 or more, which are no encodings with FWB.
    pub fwb: Option<bool>,
    /// The CPU has FEAT_XNX. Else: taken as present if some leaf has bit 53, which is reserved without it.
    pub xnx: Option<bool>,
    /// How its maker uses invalid entries. Else: bit 63 in one means this crate, bits 61:60 KVM 7.x, all else KVM 6.x.
    pub dialect: Option<Dialect>,
    /// Levels at which a block counts as a leaf; elsewhere it is reported as reserved.
    pub blocks: BlockRule,
}

/// A table in somebody's memory.
///
/// `Send` and `Sync` if the memory is. Walking takes no lock: if the table changes meanwhile, each entry is some value
/// that it had during the walk.
#[derive(Clone, Debug)]
pub struct Image<R> {
    memory: R,
    vtcr: Vtcr,
    vttbr: Vttbr,
    geometry: Geometry,
    format: Format,
    dialect: Dialect,
}

impl<R: ReadMemory> Image<R> {
    /// The table that a CPU with these registers would walk. Reads all of it if an option is to be found out.
    ///
    /// # Errors
    ///
    /// [`ImageError::Vtcr`] and [`ImageError::Vttbr`] with the rule that the register breaks. What is wrong inside the
    /// table is no error here: walking it says so.
    pub fn new(memory: R, vtcr: Vtcr, vttbr: Vttbr, options: ImageOptions) -> Result<Self, ImageError> {
        let geometry = vtcr
            .geometry_with(options.blocks)
            .map_err(|rule| ImageError::Vtcr { vtcr, rule })?;
        vttbr
            .validate(vtcr, &geometry)
            .map_err(|rule| ImageError::Vttbr { vttbr, rule })?;
        let format = Format::new(&geometry, FormatOptions::default());
        let mut image = Self {
            memory,
            vtcr,
            vttbr,
            geometry,
            format,
            dialect: Dialect::Kvm6,
        };
        let (format, dialect) = guess::fill_in(&image, &options);
        image.format = Format::new(&geometry, format);
        image.dialect = dialect;
        Ok(image)
    }

    /// The memory that it is in.
    pub fn memory(&self) -> &R {
        &self.memory
    }

    /// VTCR_EL2.
    pub fn vtcr(&self) -> Vtcr {
        self.vtcr
    }

    /// VTTBR_EL2.
    pub fn vttbr(&self) -> Vttbr {
        self.vttbr
    }

    /// Address of the first root entry.
    pub fn root(&self) -> Pa {
        self.vttbr.baddr(&self.geometry)
    }

    /// The shape that VTCR_EL2 says.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// How leaves are read: FWB and XNX as given or found out.
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// How invalid entries are read, as given or found out.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Every entry that is not zero, tables before what is below them, otherwise in order of IPA.
    ///
    /// An `Err` stands for one table that could not be entered; the iterator then goes on behind it.
    pub fn entries(&self) -> Entries<'_, R> {
        Entries::new(self)
    }

    /// Every leaf, in order of IPA; an `Err` as in [`entries`](Self::entries).
    pub fn leaves(&self) -> impl Iterator<Item = Result<Mapping, ImageError>> + use<'_, R> {
        self.entries().filter_map(|entry| match entry {
            Ok(entry) => entry.mapping(&self.format).map(Ok),
            Err(error) => Some(Err(error)),
        })
    }

    /// Every invalid entry that is not zero, and every reserved one, in order of IPA.
    pub fn invalid(&self) -> impl Iterator<Item = Result<Entry, ImageError>> + use<'_, R> {
        self.entries().filter(|entry| match entry {
            Ok(entry) => entry.is_odd(),
            Err(_) => true,
        })
    }

    /// Maximal runs of leaves of one level that are contiguous in IPA and output address, and equal otherwise.
    pub fn runs(&self) -> Runs<impl Iterator<Item = Result<Mapping, ImageError>> + use<'_, R>> {
        Runs::new(self.format, self.leaves())
    }

    /// The entries that a walk for `ipa` reads, from the root down: tables, then where it ends.
    ///
    /// # Errors
    ///
    /// [`ImageError::Ipa`] for an IPA outside the space, [`ImageError::Missing`] if a table cannot be read.
    pub fn path(&self, ipa: Ipa) -> Result<Vec<Entry>, ImageError> {
        walk::path(self, ipa)
    }

    /// Counts everything.
    ///
    /// # Errors
    ///
    /// The first table that could not be entered.
    pub fn stats(&self) -> Result<ImageStats, ImageError> {
        ImageStats::of(self)
    }

    /// Differences to another table, entry by entry; see [`compare()`].
    pub fn compare<'a, S: ReadMemory>(
        &'a self,
        other: &'a Image<S>,
    ) -> impl Iterator<Item = Result<Difference, ImageError>> + use<'a, R, S> {
        compare(self.pieces(), other.pieces())
    }
}
