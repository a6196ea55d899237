//! The table as a list of what is where: entries that are not empty, by IPA. No tables, no bits, no concurrency.
//!
//! With exact semantics everything follows from it: a table stands where some entry lies below, so the frames of an
//! operation are the tables that its result has and the state before had not.

use std::collections::{BTreeMap, BTreeSet};

use s2pt::arch::{Attrs, Prot};
use s2pt::table::{Existing, WalkFlags};

use super::leaf::Rules;
use super::shape::Shape;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Leaf { pa: u64, attrs: Attrs },
    Mark(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub level: i8,
    pub what: What,
}

/// What stopped an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Conflict(u64),
    Again,
    NotMapped,
    Attrs,
    /// More than any memory of these tests has frames for.
    TooMuch,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub written: u64,
    pub kept: u64,
    pub leaves: u64,
    pub bytes: u64,
}

/// What a `map` or `annotate` wants.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    pub lo: u64,
    pub hi: u64,
    pub what: What,
    pub existing: Existing,
    pub largest: i8,
    pub over_tables: bool,
    pub flags: WalkFlags,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub shape: Shape,
    pub rules: Rules,
    pub kvm: bool,
    /// How many entries are worth following.
    pub room: usize,
    pub entries: BTreeMap<u64, Entry>,
}

enum Here {
    Hole,
    Table,
    Entry(Entry),
}

impl What {
    /// The same, `offset` bytes further up.
    fn at(self, offset: u64) -> Self {
        match self {
            Self::Leaf { pa, attrs } => Self::Leaf {
                pa: pa.wrapping_add(offset),
                attrs,
            },
            mark => mark,
        }
    }

    fn is_mark(self) -> bool {
        matches!(self, Self::Mark(_))
    }
}

impl Model {
    fn end(&self, base: u64, entry: &Entry) -> u64 {
        base + self.shape.size(entry.level)
    }

    /// Entries of which a part lies in the range, by address.
    pub fn touching(&self, lo: u64, hi: u64) -> Vec<(u64, Entry)> {
        self.over(lo, hi).collect()
    }

    /// The same, one after the other.
    pub fn over(&self, lo: u64, hi: u64) -> impl Iterator<Item = (u64, Entry)> {
        let before = self.entries.range(..lo).next_back();
        let reaching = before.filter(|(base, entry)| self.end(**base, entry) > lo);
        let inside = self.entries.range(lo..hi.max(lo));
        reaching.into_iter().chain(inside).map(|(base, entry)| (*base, *entry))
    }

    /// What translates, or marks, this byte.
    pub fn at(&self, ipa: u64) -> Option<(u64, Entry)> {
        let (base, entry) = self.entries.range(..=ipa).next_back()?;
        (self.end(*base, entry) > ipa).then_some((*base, *entry))
    }

    fn here(&self, level: i8, base: u64) -> Here {
        match self.entries.range(base..base + self.shape.size(level)).next() {
            None => Here::Hole,
            Some((_, entry)) if entry.level <= level => Here::Entry(*entry),
            Some(_) => Here::Table,
        }
    }

    /// The level at which a walk for `ipa` ends, where there are no empty tables.
    pub fn end_of_walk(&self, ipa: u64) -> i8 {
        let mut level = self.shape.start;
        while level < 3 && matches!(self.here(level, ipa & !(self.shape.size(level) - 1)), Here::Table) {
            level += 1;
        }
        level
    }

    /// The tables below the root, by level and first address.
    pub fn tables(&self) -> BTreeSet<(i8, u64)> {
        let mut tables = BTreeSet::new();
        let mut last = [u64::MAX; 5];
        for (&base, entry) in &self.entries {
            for level in self.shape.start + 1..=entry.level {
                let table = base & !(self.shape.size(level - 1) - 1);
                if last[(level + 1) as usize] != table {
                    last[(level + 1) as usize] = table;
                    tables.insert((level, table));
                }
            }
        }
        tables
    }

    fn put(&mut self, base: u64, level: i8, what: What) -> Result<(), Stop> {
        self.entries.insert(base, Entry { level, what });
        if self.entries.len() > self.room {
            Err(Stop::TooMuch)
        } else {
            Ok(())
        }
    }

    fn remove_inside(&mut self, lo: u64, hi: u64) {
        let gone: Vec<u64> = self.entries.range(lo..hi).map(|(base, _)| *base).collect();
        for base in gone {
            self.entries.remove(&base);
        }
    }

    /// An entry becomes the entries of a table that say the same.
    fn explode(&mut self, base: u64) -> Result<(), Stop> {
        let Entry { level, what } = self.entries[&base];
        let size = self.shape.size(level + 1);
        for child in 0..self.shape.size(level) / size {
            self.put(base + child * size, level + 1, what.at(child * size))?;
        }
        Ok(())
    }

    /// Cuts an entry until no part of it lies both inside and outside of the range; how many tables that takes.
    fn isolate(&mut self, base: u64, lo: u64, hi: u64) -> Result<(), Stop> {
        let entry = self.entries[&base];
        let end = self.end(base, &entry);
        if lo <= base && end <= hi || end <= lo || hi <= base {
            return Ok(());
        }
        self.explode(base)?;
        let size = self.shape.size(entry.level + 1);
        for edge in [lo, hi - 1] {
            if base <= edge && edge < end {
                self.isolate(edge & !(size - 1), lo, hi)?;
            }
        }
        Ok(())
    }

    fn children(&self, level: i8, lo: u64, hi: u64) -> impl Iterator<Item = u64> + use<> {
        let size = self.shape.size(level);
        let first = lo & !(size - 1);
        (first..hi).step_by(size as usize)
    }

    // --- map and annotate ---

    pub fn fill(&mut self, want: &Want, sums: &mut Sums) -> Result<(), Stop> {
        let start = self.shape.start;
        for base in self.children(start, want.lo, want.hi) {
            self.fill_entry(want, start, base, sums)?;
        }
        if want.existing == Existing::Keep && sums.written == 0 {
            return Err(Stop::Again);
        }
        Ok(())
    }

    fn fill_below(&mut self, want: &Want, level: i8, base: u64, sums: &mut Sums) -> Result<(), Stop> {
        let (lo, hi) = (want.lo.max(base), want.hi.min(base + self.shape.size(level)));
        for child in self.children(level + 1, lo, hi) {
            self.fill_entry(want, level + 1, child, sums)?;
        }
        Ok(())
    }

    fn fill_entry(&mut self, want: &Want, level: i8, base: u64, sums: &mut Sums) -> Result<(), Stop> {
        let end = base + self.shape.size(level);
        let whole = want.lo <= base && end <= want.hi;
        let part = want.hi.min(end) - want.lo.max(base);
        let marks = want.what.is_mark();
        let here = want.what.at(base.wrapping_sub(want.lo));
        let fits = whole
            && match here {
                What::Mark(_) => level >= want.largest,
                What::Leaf { pa, .. } => {
                    level == 3
                        || level >= want.largest && self.shape.has_leaf(level) && pa & (self.shape.size(level) - 1) == 0
                }
            };
        match self.here(level, base) {
            Here::Hole if fits => self.write(here, level, base, part, sums),
            Here::Hole => self.fill_below(want, level, base, sums),
            Here::Table => {
                let over = want.existing == Existing::Replace || want.existing == Existing::Keep && want.over_tables;
                if !(fits && over) {
                    return self.fill_below(want, level, base, sums);
                }
                let marked = self.entries.range(base..end).find(|(_, entry)| entry.what.is_mark());
                if let (false, Some((&at, _))) = (marks, marked) {
                    return Err(Stop::Conflict(at));
                }
                self.remove_inside(base, end);
                self.write(here, level, base, part, sums)
            }
            Here::Entry(entry) => {
                let over_mark = marks || self.kvm && fits;
                if want.existing == Existing::Keep {
                    sums.kept += part;
                    return Ok(());
                }
                if want.existing == Existing::Error || entry.what.is_mark() && !over_mark {
                    return Err(Stop::Conflict(want.lo.max(base)));
                }
                if entry.what.is_mark() && entry.what == here && level >= want.largest {
                    sums.kept += part;
                    return Ok(());
                }
                if self.kvm && !entry.what.is_mark() {
                    return self.replace_as_kvm(want, level, base, fits, entry.what, here, part, sums);
                }
                if entry.what == here && level >= want.largest {
                    sums.kept += part;
                    return Ok(());
                }
                let same = entry.what == here;
                if fits && !same {
                    return self.write(here, level, base, part, sums);
                }
                self.explode(base)?;
                self.fill_below(want, level, base, sums)
            }
        }
    }

    fn write(&mut self, what: What, level: i8, base: u64, part: u64, sums: &mut Sums) -> Result<(), Stop> {
        sums.written += part;
        match what {
            What::Mark(0) => {
                self.entries.remove(&base);
                // No entry is left to be counted, and a space has many pages.
                if sums.written / self.shape.page() > self.room as u64 {
                    return Err(Stop::TooMuch);
                }
                Ok(())
            }
            what => self.put(base, level, what),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one arm of a match, moved out")]
    fn replace_as_kvm(
        &mut self,
        want: &Want,
        level: i8,
        base: u64,
        fits: bool,
        old: What,
        new: What,
        part: u64,
        sums: &mut Sums,
    ) -> Result<(), Stop> {
        if !fits {
            self.entries.remove(&base);
            return self.fill_below(want, level, base, sums);
        }
        if let (
            What::Leaf { pa, attrs },
            What::Leaf {
                pa: new_pa,
                attrs: new_attrs,
            },
        ) = (old, new)
        {
            let same_but_rights = pa == new_pa
                && Attrs {
                    prot: new_attrs.prot,
                    ..attrs
                } == new_attrs;
            if same_but_rights {
                if want.flags.contains(WalkFlags::HANDLE_FAULT) {
                    return Err(Stop::Again);
                }
                sums.kept += part;
                return Ok(());
            }
        }
        self.write(new, level, base, part, sums)
    }

    // --- everything else ---

    pub fn unmap(&mut self, lo: u64, hi: u64) -> Result<u64, Stop> {
        let mut removed = 0;
        for (base, entry) in self.touching(lo, hi) {
            let end = self.end(base, &entry);
            let bytes = if self.kvm {
                end - base
            } else {
                hi.min(end) - lo.max(base)
            };
            if !entry.what.is_mark() {
                removed += bytes;
            }
            if self.kvm {
                self.entries.remove(&base);
            } else {
                self.isolate(base, lo, hi)?;
            }
        }
        self.remove_inside(lo, hi);
        Ok(removed)
    }

    /// Gives leaves new attributes: whole ones, or what of them lies in the range. `faulting`: a hole ends it.
    pub fn rewrite(
        &mut self,
        (lo, hi): (u64, u64),
        whole_leaves: bool,
        faulting: bool,
        new: impl Fn(Attrs) -> Attrs,
    ) -> Result<Sums, Stop> {
        let mut sums = Sums::default();
        let mut done = lo;
        for (base, entry) in self.touching(lo, hi) {
            let What::Leaf { pa, attrs } = entry.what else { continue };
            let end = self.end(base, &entry);
            if faulting && base > done {
                return Err(Stop::Again);
            }
            done = end;
            sums.bytes += hi.min(end) - lo.max(base);
            let changed = new(attrs);
            if changed == attrs {
                continue;
            }
            if whole_leaves || self.kvm || lo <= base && end <= hi {
                sums.leaves += 1;
                self.put(base, entry.level, What::Leaf { pa, attrs: changed })?;
                continue;
            }
            self.isolate(base, lo, hi)?;
            let inside: Vec<u64> = self
                .entries
                .range(lo.max(base)..hi.min(end))
                .map(|(base, _)| *base)
                .collect();
            sums.leaves += inside.len() as u64;
            for base in inside {
                if let Some(Entry {
                    what: What::Leaf { attrs, .. },
                    ..
                }) = self.entries.get_mut(&base)
                {
                    *attrs = changed;
                }
            }
        }
        if faulting && done < hi {
            return Err(Stop::Again);
        }
        Ok(sums)
    }

    pub fn any_forbids_execute(&self, lo: u64, hi: u64) -> bool {
        self.leaves_in(lo, hi).any(|attrs| !Rules::may_execute(attrs.memtype))
    }

    pub fn any_young(&self, lo: u64, hi: u64) -> bool {
        self.leaves_in(lo, hi).any(|attrs| attrs.af)
    }

    fn leaves_in(&self, lo: u64, hi: u64) -> impl Iterator<Item = Attrs> + use<> {
        self.touching(lo, hi)
            .into_iter()
            .filter_map(|(_, entry)| match entry.what {
                What::Leaf { attrs, .. } => Some(attrs),
                What::Mark(_) => None,
            })
    }

    /// How many blocks were cut.
    pub fn split(&mut self, lo: u64, hi: u64, to: i8) -> Result<u64, Stop> {
        let mut cuts = 0;
        let mut left = self.touching(lo, hi);
        while let Some((base, entry)) = left.pop() {
            let end = self.end(base, &entry);
            let outside = end <= lo || hi <= base;
            if entry.what.is_mark() || entry.level >= to || outside && !self.kvm {
                continue;
            }
            self.explode(base)?;
            cuts += 1;
            let pieces: Vec<(u64, Entry)> = self
                .entries
                .range(base..end)
                .map(|(base, entry)| (*base, *entry))
                .collect();
            for (base, mut piece) in pieces {
                if let (true, What::Leaf { attrs, .. }) = (self.kvm, &mut piece.what) {
                    attrs.af = true;
                    self.entries.insert(base, piece);
                }
                left.push((base, piece));
            }
        }
        Ok(cuts)
    }

    /// How many blocks were made.
    pub fn collapse(&mut self, lo: u64, hi: u64) -> u64 {
        let mut made = 0;
        let shape = self.shape;
        for level in (shape.start..3).rev().filter(|level| shape.has_leaf(*level)) {
            let size = shape.size(level);
            let mut bases: Vec<u64> = self.entries.range(lo..hi).map(|(base, _)| base & !(size - 1)).collect();
            bases.dedup();
            for base in bases.into_iter().filter(|base| lo <= *base && base + size <= hi) {
                if let Some(block) = self.as_block(level, base) {
                    self.remove_inside(base, base + size);
                    self.entries.insert(base, Entry { level, what: block });
                    made += 1;
                }
            }
        }
        made
    }

    fn as_block(&self, level: i8, base: u64) -> Option<What> {
        let (step, size) = (self.shape.size(level + 1), self.shape.size(level));
        let aged = |what| match what {
            What::Leaf { pa, attrs } => Some((pa, Attrs { af: false, ..attrs }, attrs.af)),
            What::Mark(_) => None,
        };
        let (first, attrs, mut af) = aged(self.entries.get(&base)?.what)?;
        if first & (size - 1) != 0 {
            return None;
        }
        for child in 0..size / step {
            let entry = self.entries.get(&(base + child * step))?;
            let (pa, other, young) = aged(entry.what)?;
            if entry.level != level + 1 || pa != first + child * step || other != attrs {
                return None;
            }
            af |= young;
        }
        Some(What::Leaf {
            pa: first,
            attrs: Attrs { af, ..attrs },
        })
    }

    /// Attributes as the table keeps them.
    pub fn kept(attrs: Attrs) -> Attrs {
        Attrs {
            contiguous: false,
            ..attrs
        }
    }

    pub fn without_write(attrs: Attrs) -> Attrs {
        Attrs {
            prot: attrs.prot - Prot::W,
            dbm: false,
            ..attrs
        }
    }
}
