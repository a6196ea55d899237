//! The walk: a stack of tables, one for each level, each read as a whole when it is entered.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::{Image, ImageError, ReadMemory};
use crate::arch::{EntryKind, Format, Ipa, Level, Mapping, Pa, Pte};

/// One entry of a table, with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First IPA that it translates.
    pub ipa: Ipa,
    /// How many bytes it translates.
    pub size: u64,
    /// Its level.
    pub level: Level,
    /// Where it is.
    pub pa: Pa,
    /// Its value.
    pub pte: Pte,
    /// What that means: read in the dialect of the image, and `Reserved` for a block where none may be.
    pub kind: EntryKind,
}

impl Entry {
    /// The leaf, if it is one.
    pub fn mapping(&self, format: &Format) -> Option<Mapping> {
        (self.kind == EntryKind::Leaf).then(|| Mapping::new(format, self.ipa, self.size, self.level, self.pte))
    }

    /// Neither empty, nor a table, nor a leaf.
    pub fn is_odd(&self) -> bool {
        !matches!(self.kind, EntryKind::Empty | EntryKind::Table | EntryKind::Leaf)
    }
}

/// One table that is being walked.
#[derive(Debug)]
struct Open {
    entries: Vec<u64>,
    next: usize,
    pa: Pa,
    ipa: Ipa,
    level: Level,
}

/// Iterator over the entries of a table that are not zero; see [`Image::entries`].
#[derive(Debug)]
pub struct Entries<'a, R> {
    image: &'a Image<R>,
    /// Tables from the root down. Each is a level deeper than the one before, so there are at most five.
    open: Vec<Open>,
    /// Buffers of tables that are done with.
    spare: Vec<Vec<u64>>,
    seen: BTreeSet<Pa>,
    /// Table to enter at the next step.
    pending: Option<(Pa, Ipa, Level)>,
    with_empty: bool,
}

impl<'a, R: ReadMemory> Entries<'a, R> {
    pub(super) fn new(image: &'a Image<R>) -> Self {
        let start = image.geometry.start_level();
        Self {
            image,
            open: Vec::new(),
            spare: Vec::new(),
            seen: BTreeSet::new(),
            pending: Some((image.root(), Ipa::new(0), start)),
            with_empty: false,
        }
    }

    /// Entries that are zero, too.
    pub(super) fn with_empty(image: &'a Image<R>) -> Self {
        Self {
            with_empty: true,
            ..Self::new(image)
        }
    }

    fn enter(&mut self, pa: Pa, ipa: Ipa, level: Level) -> Result<(), ImageError> {
        if !self.seen.insert(pa) {
            return Err(ImageError::Revisited { table: pa, ipa, level });
        }
        let mut entries = self.spare.pop().unwrap_or_default();
        entries.resize(self.image.geometry.entries(level), 0);
        if !self.image.memory.read_table(pa, &mut entries) {
            return Err(ImageError::Missing { table: pa, ipa, level });
        }
        self.open.push(Open {
            entries,
            next: 0,
            pa,
            ipa,
            level,
        });
        Ok(())
    }
}

impl<R: ReadMemory> Iterator for Entries<'_, R> {
    type Item = Result<Entry, ImageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((pa, ipa, level)) = self.pending.take()
            && let Err(error) = self.enter(pa, ipa, level)
        {
            return Some(Err(error));
        }
        while let Some(open) = self.open.last_mut() {
            let from = open.next;
            let wanted = |&raw: &u64| raw != 0 || self.with_empty;
            if let Some(skipped) = open.entries[from..].iter().position(wanted) {
                let index = from + skipped;
                open.next = index + 1;
                let entry = self
                    .image
                    .entry(open.pa, open.ipa, open.level, index, open.entries[index]);
                if let (EntryKind::Table, Some(deeper)) = (entry.kind, entry.level.deeper()) {
                    self.pending = Some((self.image.format.next_table(entry.pte), entry.ipa, deeper));
                }
                return Some(Ok(entry));
            }
            self.spare.extend(self.open.pop().map(|open| open.entries));
        }
        None
    }
}

impl<R: ReadMemory> core::iter::FusedIterator for Entries<'_, R> {}

impl<R> Image<R> {
    /// Entry `index` of the table at `pa`.
    fn entry(&self, table: Pa, ipa: Ipa, level: Level, index: usize, raw: u64) -> Entry {
        let size = self.geometry.size(level);
        let pte = Pte::from_raw(raw);
        let kind = match pte.kind_of(level, self.dialect) {
            EntryKind::Reserved if seeded!(LastBlock, pte.is_valid(), false) => EntryKind::Leaf,
            EntryKind::Leaf if !self.geometry.block_allowed(level) => EntryKind::Reserved,
            kind => kind,
        };
        Entry {
            ipa: Ipa::new(ipa.get() + index as u64 * size),
            size,
            level,
            pa: Pa::new(table.get() + index as u64 * 8),
            pte,
            kind,
        }
    }
}

/// The entries on the way to one IPA, from the root down.
#[derive(Debug)]
pub(super) struct Descent<'a, R> {
    image: &'a Image<R>,
    ipa: Ipa,
    /// The table to look into next, and the first IPA that it translates.
    next: Option<(Pa, Ipa, Level)>,
}

impl<'a, R: ReadMemory> Descent<'a, R> {
    /// For an IPA within the space.
    pub(super) fn new(image: &'a Image<R>, ipa: Ipa) -> Self {
        Self {
            image,
            ipa,
            next: Some((image.root(), Ipa::new(0), image.geometry.start_level())),
        }
    }
}

impl<R: ReadMemory> Iterator for Descent<'_, R> {
    type Item = Result<Entry, ImageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (table, first, level) = self.next.take()?;
        let image = self.image;
        let index = (self.ipa.offset_from(first) >> image.geometry.shift(level)) as usize;
        let at = table.checked_add(index as u64 * 8);
        let Some(raw) = at.and_then(|at| image.memory.read_u64(at)) else {
            let ipa = first;
            return Some(Err(ImageError::Missing { table, ipa, level }));
        };
        let entry = image.entry(table, first, level, index, raw);
        if let (EntryKind::Table, Some(deeper)) = (entry.kind, level.deeper()) {
            self.next = Some((image.format.next_table(entry.pte), entry.ipa, deeper));
        }
        Some(Ok(entry))
    }
}

/// The entries on the way to `ipa`.
pub(super) fn path<R: ReadMemory>(image: &Image<R>, ipa: Ipa) -> Result<Vec<Entry>, ImageError> {
    let limit = image.geometry.ipa_limit();
    if ipa.get() >= limit {
        return Err(ImageError::Ipa { ipa, limit });
    }
    Descent::new(image, ipa).collect()
}
