//! The text of KVM's `stage2_page_tables` file (debugfs): written from any table, and read back.
//!
//! One line for each longest run of entries, empty ones too, that have the same level and show the same:
//!
//! ```text
//! ---[ Guest IPA ]---
//! 0x0000000080000000-0x0000000080200000           2M 2   R W px ux  AF BLK
//! 0x0000000080200000-0x0000000080400000           2M 3
//! ```
//!
//! A line without columns is a run of entries with nothing to show. Output addresses, memory types and owners are not in
//! the text. What each style makes of a table stands at [`PtdumpStyle`].

mod columns;
mod error;
mod read;
mod write;

use alloc::vec::Vec;

use super::compare::Piece;
use super::diff::Comparable;
use super::difference::Side;
use super::{Image, ImageError, ReadMemory};
use crate::arch::{Ipa, Level, Prot};

pub use error::PtdumpError;

/// The first line.
const HEADING: &str = "---[ Guest IPA ]---";

/// Which text is written of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PtdumpStyle {
    /// All that the format can say, and right: in the columns of [`Kvm7`](Self::Kvm7), but from the first entry to the
    /// last, with what the hardware makes of each. `F` marks an invalid entry that is not empty (an owner, a lock, a
    /// block where none may be).
    #[default]
    Exact,
    /// As Linux 6.12 prints it, to the byte. `X` stands where XN\[1\] is set, so for execution that is *not* allowed (of
    /// FEAT_XNX's halves it tells EL0's), owners look empty, a locked
    /// entry prints `F` and `X`. A run is printed when the next one begins, so the last one never is. A text of a page
    /// or more does not fit the kernel's first buffer; the kernel walks again without starting afresh, and instead
    /// of the heading there is the last run, from its start to address 0.
    Kvm6,
    /// As Linux 7 prints it: execution at EL1 and EL0 in words (`px ux`, `PXNUXN`), the rest as [`Kvm6`](Self::Kvm6).
    Kvm7,
}

/// What the columns of a line say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PtdumpColumns {
    /// Valid for the hardware (no `F`).
    pub valid: bool,
    /// Permissions; of an invalid entry, none.
    pub prot: Prot,
    /// The access flag; of an invalid entry, clear.
    pub af: bool,
}

/// One line: entries of one level that show the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PtdumpRun {
    /// First IPA.
    pub ipa: Ipa,
    /// First IPA behind it.
    pub end: u64,
    /// Level of the entries.
    pub level: Level,
    /// The columns; `None`: nothing to show, which is an empty entry, or one of KVM's whose payload is not shown.
    pub columns: Option<PtdumpColumns>,
}

impl PtdumpRun {
    /// Whether the entries translate.
    pub fn is_mapped(&self) -> bool {
        self.columns.is_some_and(|columns| columns.valid)
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.end - self.ipa.get()
    }
}

/// A text that was read: its runs, without a gap from IPA 0 on.
///
/// ```
/// use s2pt::arch::Prot;
/// use s2pt::image::Ptdump;
/// let text = "---[ Guest IPA ]---
/// 0x0000000000000000-0x0000000080000000           2G 1
/// 0x0000000080000000-0x0000000080200000           2M 2   R W X AF BLK
/// ";
/// let dump = Ptdump::parse(text)?;
/// let block = dump.runs()[1];
/// assert_eq!((block.size(), block.columns.unwrap().prot), (2 << 20, Prot::RW)); // X: not executable
/// assert_eq!(dump.end(), 0x8020_0000); // what is behind is not in the text
/// # Ok::<(), s2pt::image::PtdumpError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ptdump {
    runs: Vec<PtdumpRun>,
    style: PtdumpStyle,
}

impl Ptdump {
    /// The runs, by IPA.
    pub fn runs(&self) -> &[PtdumpRun] {
        &self.runs
    }

    /// Where what the text tells ends: KVM does not print its last run.
    pub fn end(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.end)
    }
}

impl Comparable for Ptdump {
    fn pieces(&self) -> impl Iterator<Item = Result<Piece, ImageError>> {
        let mapped = self.runs.iter().filter(|run| run.is_mapped());
        mapped.map(|run| {
            let columns = run.columns.expect("a mapped run has columns");
            Ok(Piece {
                ipa: run.ipa,
                size: run.size(),
                side: Side::Leaf {
                    level: run.level,
                    size: None,
                    pa: None,
                    prot: columns.prot,
                    af: columns.af,
                    attrs: None,
                },
            })
        })
    }

    fn known_end(&self) -> u64 {
        self.end()
    }

    fn told(&self) -> Prot {
        match self.style {
            // XN[1] is set for nobody and for EL1 alone.
            PtdumpStyle::Kvm6 => Prot::RWX - Prot::PX,
            _ => Prot::RWX,
        }
    }

    fn tells_invalid(&self) -> bool {
        false
    }
}

impl<R: ReadMemory> Image<R> {
    /// The runs that a text in this style would show, before the kernel's quirks of printing: the last one is there.
    ///
    /// # Errors
    ///
    /// The first table that could not be entered.
    pub fn ptdump_runs(&self, style: PtdumpStyle) -> Result<Vec<PtdumpRun>, ImageError> {
        let mut runs = Vec::new();
        for run in write::runs(self, style) {
            runs.push(run?.shown(style));
        }
        Ok(runs)
    }
}
