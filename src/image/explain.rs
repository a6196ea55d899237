//! One access followed through a table: each entry that the walk reads, and what the MMU answers.

use alloc::vec::Vec;
use core::fmt;

use super::walk::Entry;
use super::{Image, ReadMemory};
use crate::arch::{AccessKind, El, EntryKind, Fault, FaultKind, Ipa, Mapping, Pa, Translation};

/// What follows from one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The walk goes on in the table at this address.
    Table(Pa),
    /// The walk ends at this leaf, which may still refuse the access.
    Leaf(Mapping),
    /// The walk ends at nothing valid.
    Nothing,
}

/// One step of a walk: the entry that it reads at one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The entry with its place and value.
    pub entry: Entry,
    /// Its index in the table; in a concatenated root it counts through all pages.
    pub index: usize,
    /// What follows from it.
    pub next: Next,
    /// The fault that the walk ends with here.
    pub fault: Option<FaultKind>,
}

/// What the MMU answers to one access, and on what grounds.
///
/// ```
/// # use s2pt::arch::{AccessKind, El, FaultKind, Geometry, GeometryOptions, Ipa, Level, Pa, Vtcr, VtcrOptions, Vttbr};
/// # use s2pt::image::{Image, ImageOptions};
/// # let geometry = Geometry::new(GeometryOptions { ipa_bits: 36, ..Default::default() })?;
/// # let vtcr = Vtcr::build(&geometry, VtcrOptions::default());
/// # let vttbr = Vttbr::build(1, Pa::new(0x8000), false, &geometry)?;
/// # let block = 0x0040_0000_4000_077d; // level 1: 1 GiB, read only
/// # let memory = |pa: Pa| (pa.get() / 0x1000 == 8).then_some(if pa.get() == 0x8008 { block } else { 0 });
/// let image = Image::new(memory, vtcr, vttbr, ImageOptions::default())?;
/// let write = image.explain(Ipa::new(0x4000_1234), AccessKind::Write, El::El1);
/// let refused = write.outcome.unwrap_err();
/// assert_eq!((refused.kind, refused.level), (FaultKind::Permission, Level::L1));
/// assert_eq!((write.steps.len(), write.steps[0].index), (1, 1));
/// assert_eq!(write.to_string(), "\
/// level 1 index 1 at 0x8008: 0x4000004000077d leaf to 0x40000000, r--, Normal write-back
/// write to 0x40001234: permission fault at level 1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The address.
    pub ipa: Ipa,
    /// What was tried.
    pub access: AccessKind,
    /// The entries that the walk reads, from the root down.
    pub steps: Vec<Step>,
    /// What the access gets, or the fault.
    pub outcome: Result<Translation, Fault>,
}

impl Explanation {
    /// The leaf at which the walk ended, also of an access that it refuses.
    pub fn leaf(&self) -> Option<Mapping> {
        match self.steps.last()?.next {
            Next::Leaf(leaf) => Some(leaf),
            _ => None,
        }
    }
}

impl<R: ReadMemory> Image<R> {
    /// Follows one access: the answer of [`translate`](Self::translate), with every entry that leads to it.
    ///
    /// An address beyond the space faults at level 0 without a step.
    pub fn explain(&self, ipa: Ipa, access: AccessKind, el: El) -> Explanation {
        let mut entries = Vec::new();
        let answer = self.follow(ipa, access, el, |entry| entries.push(entry));
        let last = entries.len().wrapping_sub(1);
        // A table that is not there is no fault of the entry that points to it.
        let fault = match answer.result {
            Err(fault) if fault.kind != FaultKind::ExternalAbort => Some(fault.kind),
            _ => None,
        };
        let step = |(place, entry): (usize, Entry)| Step {
            entry,
            index: self.geometry().index(ipa, entry.level),
            next: self.next(&entry),
            fault: fault.filter(|_| place == last),
        };
        Explanation {
            ipa,
            access,
            steps: entries.into_iter().enumerate().map(step).collect(),
            outcome: answer.result,
        }
    }

    fn next(&self, entry: &Entry) -> Next {
        match entry.mapping(self.format()) {
            Some(leaf) => Next::Leaf(leaf),
            None if entry.kind == EntryKind::Table => Next::Table(self.format().next_table(entry.pte)),
            None => Next::Nothing,
        }
    }
}

impl fmt::Display for Explanation {
    /// A line for each step, then the answer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Step { entry, index, next, .. } in &self.steps {
            write!(f, "level {} index {index} at {}: {} ", entry.level, entry.pa, entry.pte)?;
            match next {
                Next::Table(pa) => writeln!(f, "table at {pa}")?,
                Next::Leaf(leaf) => {
                    writeln!(f, "leaf to {}, {}, {}", leaf.pa, leaf.attrs.prot, leaf.attrs.memtype)?;
                }
                Next::Nothing => writeln!(f, "{:?}", entry.kind)?,
            }
        }
        let access = match self.access {
            AccessKind::Read => "read of",
            AccessKind::Write => "write to",
            AccessKind::Execute => "fetch from",
        };
        write!(f, "{access} {}: ", self.ipa)?;
        match self.outcome {
            Ok(hit) => write!(f, "{} at level {}", hit.pa, hit.level),
            Err(Fault { kind, level, .. }) => write!(f, "{kind} at level {level}"),
        }
    }
}
