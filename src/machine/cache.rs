//! What one CPU remembers of walks: translations of stage 2, combined ones, and tables on the way.
//!
//! Nothing is ever evicted: an entry stays until an invalidation names it. That is the worst TLB that the architecture
//! allows, and so the best judge of who forgets to invalidate.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::walker::{Found, Reached, Regime};
use crate::arch::{Format, Geometry, Ipa, Level, Pa, Tlbi};

/// Translations by the first IPA that they cover; of one address there may be several sizes.
#[derive(Debug, Default)]
struct Held {
    by_base: BTreeMap<u64, Vec<Found>>,
    through: Through,
}

/// Through which entries of tables something is held, and how often: so that a make, which mostly concerns nobody, need not
/// look at everything.
#[derive(Debug, Default)]
struct Through(BTreeMap<u64, usize>);

impl Through {
    fn add(&mut self, path: &[Pa]) {
        for entry in path {
            *self.0.entry(entry.get()).or_default() += 1;
        }
    }

    fn remove(&mut self, path: &[Pa]) {
        for entry in path {
            let count = self.0.get_mut(&entry.get()).filter(|count| **count > 1);
            match count {
                Some(count) => *count -= 1,
                None => drop(self.0.remove(&entry.get())),
            }
        }
    }

    fn any(&self, first: Pa, end: Pa) -> bool {
        self.0.range(first.get()..end.get()).next().is_some()
    }
}

impl Held {
    fn iter(&self) -> impl Iterator<Item = &Found> {
        self.by_base.values().flatten()
    }

    /// What was read through an entry in [`first`, `end`).
    fn through(&self, first: Pa, end: Pa) -> Option<&Found> {
        if !self.through.any(first, end) {
            return None;
        }
        let inside = |pa: &Pa| (first..end).contains(pa);
        self.iter().find(|found| found.path.iter().any(inside))
    }

    /// Drops all, but for what was read through an entry of `unseen`. Returns where something went.
    fn forget(&mut self, unseen: &[Pa]) -> Vec<Ipa> {
        if unseen.is_empty() {
            // The usual case, and the costly one: a whole TLB.
            return core::mem::take(self).iter().map(|found| found.base).collect();
        }
        let mut gone = Vec::new();
        let through = &mut self.through;
        self.by_base.retain(|_, all| {
            all.retain(|found| {
                let stays = spared(unseen, &found.path);
                if !stays {
                    gone.push(found.base);
                }
                kept(through, &found.path, stays)
            });
            !all.is_empty()
        });
        gone
    }

    /// Whether all that is held begins in [`first`, `end`).
    fn within(&self, first: u64, end: u64) -> bool {
        let ends = [self.by_base.first_key_value(), self.by_base.last_key_value()];
        ends.into_iter()
            .flatten()
            .all(|(&base, _)| (first..end).contains(&base))
    }
}

/// The caches of one CPU for one VMID.
#[derive(Debug)]
pub(super) struct Caches {
    geometry: Geometry,
    format: Format,
    /// Bytes of a leaf of each level there is, smallest first.
    sizes: Vec<u64>,
    stage2: Held,
    /// VA to PA, for a guest whose stage 1 is off: an invalidation by IPA does not find it.
    combined: Held,
    /// Tables by the level of their entries and the first IPA that they translate.
    tables: BTreeMap<(Level, u64), Reached>,
    /// Through which entries they were found.
    tables_through: Through,
}

/// Whether two translations can be held at once: of one size, to one output, of one memory type. Permissions, access flag
/// and dirty state may differ.
fn agree(format: &Format, a: &Found, b: &Found) -> bool {
    a.level == b.level
        && format.output(a.leaf, a.level) == format.output(b.leaf, b.level)
        && format.memtype(a.leaf) == format.memtype(b.leaf)
}

/// Where in `held` translations of a byte of [`first`, `end`) begin.
fn beginnings<'a>(held: &'a Held, sizes: &'a [u64], first: u64, end: u64) -> impl Iterator<Item = &'a Found> {
    let before = sizes
        .iter()
        .map(move |&size| (size, first / size * size))
        .filter(move |&(_, base)| base < first)
        .filter_map(|(size, base)| Some((size, held.by_base.get(&base)?)))
        .flat_map(|(size, all)| all.iter().filter(move |found| found.size == size));
    before.chain(held.by_base.range(first..end).flat_map(|(_, all)| all))
}

impl Caches {
    pub fn new(regime: &Regime) -> Self {
        let geometry = regime.geometry;
        let mut levels: Vec<Level> =
            core::iter::successors(Some(geometry.start_level()), |level| level.deeper()).collect();
        levels.reverse();
        Self {
            sizes: levels.iter().map(|&level| geometry.size(level)).collect(),
            geometry,
            format: regime.format,
            stage2: Held::default(),
            combined: Held::default(),
            tables: BTreeMap::new(),
            tables_through: Through::default(),
        }
    }

    /// The translation of `ipa`, if it is held.
    pub fn find(&self, ipa: Ipa, combined: bool) -> Option<&Found> {
        let held = if combined { &self.combined } else { &self.stage2 };
        beginnings(held, &self.sizes, ipa.get(), ipa.get() + 1).next()
    }

    /// Keeps a translation, in place of one that differs in permissions only. Returns one that it contradicts.
    pub fn keep(&mut self, found: &Found, combined: bool) -> Option<Found> {
        let held = if combined { &mut self.combined } else { &mut self.stage2 };
        let (first, end) = (found.base.get(), found.base.get() + found.size);
        let conflict = beginnings(held, &self.sizes, first, end)
            .find(|other| !agree(&self.format, found, other))
            .cloned();
        let all = held.by_base.entry(first).or_default();
        held.through.add(&found.path);
        match all.iter_mut().find(|other| other.size == found.size) {
            Some(other) => {
                held.through.remove(&other.path);
                other.clone_from(found);
            }
            None => all.push(found.clone()),
        }
        conflict
    }

    /// First IPA that a table on the way to `ipa` translates.
    fn table_base(&self, level: Level, ipa: Ipa) -> u64 {
        ipa.align_down(self.geometry.span(level)).get()
    }

    /// The deepest table held for `ipa`, below the root.
    pub fn deepest(&self, ipa: Ipa) -> Option<&Reached> {
        let mut level = Some(Level::L3);
        while let Some(here) = level.filter(|&level| level > self.geometry.start_level()) {
            if let Some(reached) = self.tables.get(&(here, self.table_base(here, ipa))) {
                return Some(reached);
            }
            level = here.shallower();
        }
        None
    }

    /// Keeps a table on the way to `ipa`. Returns the one that it contradicts.
    pub fn keep_table(&mut self, ipa: Ipa, reached: &Reached) -> Option<Reached> {
        let place = (reached.level, self.table_base(reached.level, ipa));
        let before = self.tables.insert(place, reached.clone());
        self.tables_through.add(&reached.path);
        if let Some(before) = &before {
            self.tables_through.remove(&before.path);
        }
        before.filter(|before| before.table != reached.table)
    }

    /// Each translation held, and whether it is a combined one.
    pub fn iter(&self) -> impl Iterator<Item = (&Found, bool)> {
        let stage2 = self.stage2.iter().map(|found| (found, false));
        stage2.chain(self.combined.iter().map(|found| (found, true)))
    }

    /// Translations of a byte of [`first`, `end`), and whether they are combined ones.
    pub fn covering(&self, first: u64, end: u64) -> impl Iterator<Item = (&Found, bool)> {
        let stage2 = beginnings(&self.stage2, &self.sizes, first, end).map(|found| (found, false));
        stage2.chain(beginnings(&self.combined, &self.sizes, first, end).map(|found| (found, true)))
    }

    /// What was read through an entry in [`first`, `end`), or is a table there, in words.
    pub fn through(&self, first: Pa, end: Pa) -> Option<alloc::string::String> {
        for (held, stage) in [(&self.stage2, "stage-2"), (&self.combined, "combined")] {
            if let Some(found) = held.through(first, end) {
                return Some(alloc::format!("a {stage} translation: {found}"));
            }
        }
        if !self.tables_through.any(first, end) {
            return None;
        }
        let inside = |pa: &Pa| (first..end).contains(pa);
        let table = self.tables.values().find(|table| table.path.iter().any(inside))?;
        Some(alloc::format!("in its walk cache the {table}"))
    }

    /// The walk cache's entry for the table at `pa`, in words.
    pub fn leads_to(&self, pa: Pa) -> Option<alloc::string::String> {
        let table = self.tables.values().find(|table| table.table == pa)?;
        Some(alloc::format!("in its walk cache the {table}"))
    }

    /// Combined entries are made again out of those of stage 2, as hardware may at any time.
    pub fn recombine(&mut self) {
        let stage2: Vec<Found> = self.stage2.iter().cloned().collect();
        for found in stage2 {
            self.keep(&found, true);
        }
    }

    /// Drops what an invalidation names, but for what was read through an entry of `unseen`: the store that broke it is not
    /// visible yet. Notes in `gone` where something of stage 2 went.
    ///
    /// A level hint is taken at its word: translations of other levels stay, and so do tables. Without one everything for
    /// the address goes, tables on the way included.
    pub fn invalidate(&mut self, tlbi: Tlbi, unseen: &[Pa], gone: &mut Vec<Ipa>) {
        let page = self.sizes[0];
        let (ipa, pages, level) = match tlbi {
            Tlbi::Ipa { ipa, level, .. } => (ipa, 1, level),
            Tlbi::Range { ipa, pages, level, .. } => (ipa, pages, level),
            Tlbi::Vmid => {
                gone.append(&mut self.stage2.forget(unseen));
                gone.append(&mut self.combined.forget(unseen));
                self.forget_tables(unseen, |_, _| true);
                return;
            }
            Tlbi::Stage1 { .. } => {
                self.combined.forget(unseen);
                return;
            }
        };
        let first = ipa.align_down(page).get();
        let end = first + pages * page;
        if level.is_none() && self.stage2.within(first, end) {
            gone.append(&mut self.stage2.forget(unseen));
        } else {
            let hits: Vec<(u64, u64)> = beginnings(&self.stage2, &self.sizes, first, end)
                .filter(|found| level.is_none_or(|level| level == found.level) && !spared(unseen, &found.path))
                .map(|found| (found.base.get(), found.size))
                .collect();
            let through = &mut self.stage2.through;
            for (base, size) in hits {
                if let Some(all) = self.stage2.by_base.get_mut(&base) {
                    all.retain(|found| kept(through, &found.path, found.size != size));
                    if all.is_empty() {
                        self.stage2.by_base.remove(&base);
                    }
                }
                gone.push(Ipa::new(base.max(first)));
            }
        }
        if level.is_none() {
            let geometry = self.geometry;
            self.forget_tables(unseen, |level, base| base < end && base + geometry.span(level) > first);
        }
    }

    /// Drops the tables that `hit` names by level and first IPA.
    fn forget_tables(&mut self, unseen: &[Pa], hit: impl Fn(Level, u64) -> bool) {
        let through = &mut self.tables_through;
        self.tables.retain(|&(level, base), table| {
            let stays = !hit(level, base) || spared(unseen, &table.path);
            kept(through, &table.path, stays)
        });
    }

    /// How many translations and tables are held.
    pub fn len(&self) -> usize {
        self.iter().count() + self.tables.len()
    }
}

/// Whether what was read through `path` escapes an invalidation that saw none of `unseen` broken.
fn spared(unseen: &[Pa], path: &[Pa]) -> bool {
    unseen.iter().any(|entry| path.contains(entry))
}

/// Whether something stays; if not, it is taken out of the index.
fn kept(through: &mut Through, path: &[Pa], stays: bool) -> bool {
    if !stays {
        through.remove(path);
    }
    stays
}
