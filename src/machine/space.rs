//! One table as the machine knows it: what its software is in the midst of, and what hardware noted in it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Weak;

use super::walker::{Regime, Walk};
use crate::arch::{Ipa, Pa, Pte};
use crate::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// What hardware noted in the leaf of a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    pub output: Pa,
    pub young: bool,
    pub dirty: bool,
}

/// Whose view of memory: a CPU's, or that of a thread of the host that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observer {
    Cpu(usize),
    Host(u32),
}

/// An entry that became valid, and that only the core that wrote it is sure to see as yet.
#[derive(Clone, Copy, Debug)]
struct Hidden {
    by: Observer,
    before: Pte,
    after: Pte,
}

/// A table and the CPUs' view of it.
#[derive(Default)]
pub(super) struct Space {
    walk: OnceLock<(Weak<dyn Walk>, Regime)>,
    /// Entries that somebody holds LOCKED, and what they held before.
    broken: Mutex<BTreeMap<u64, Pte>>,
    hidden: Mutex<BTreeMap<u64, Hidden>>,
    /// Frames that were tables and are free.
    freed: Mutex<BTreeSet<u64>>,
    notes: Mutex<BTreeMap<u64, Note>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Space {
    /// Says which table it is; once.
    pub fn attach(&self, walk: &Arc<impl Walk + 'static>) -> bool {
        let regime = walk.regime();
        let weak: Weak<dyn Walk> = Arc::downgrade(walk) as Weak<dyn Walk>;
        self.walk.set((weak, regime)).is_ok()
    }

    /// The table, as long as it is there.
    pub fn table(&self) -> Option<(Arc<dyn Walk>, &Regime)> {
        let (weak, regime) = self.walk.get()?;
        Some((weak.upgrade()?, regime))
    }

    pub fn regime(&self) -> Option<&Regime> {
        Some(&self.walk.get()?.1)
    }

    pub fn broke(&self, entry: Pa, old: Pte) {
        lock(&self.broken).insert(entry.get(), old);
    }

    /// What an entry held that is made now.
    pub fn makes(&self, entry: Pa) -> Option<Pte> {
        lock(&self.broken).remove(&entry.get())
    }

    pub fn hide(&self, by: Observer, entry: Pa, before: Pte, after: Pte) {
        let hidden = Hidden { by, before, after };
        lock(&self.hidden).insert(entry.get(), hidden);
    }

    /// The barrier of a core: what it wrote is seen by all.
    pub fn reveal(&self, by: Observer) {
        let mut hidden = lock(&self.hidden);
        if !hidden.is_empty() {
            hidden.retain(|_, store| store.by != by);
        }
    }

    /// What `by` may read in an entry that holds `pte`: still the value before, if another core has just written it.
    pub fn seen(&self, by: Observer, entry: Pa, pte: Pte) -> Pte {
        match lock(&self.hidden).get(&entry.get()) {
            Some(store) if store.by != by && store.after == pte => store.before,
            _ => pte,
        }
    }

    pub fn allocated(&self, frame: Pa) {
        lock(&self.freed).remove(&frame.get());
    }

    pub fn freed(&self, frame: Pa) {
        lock(&self.freed).insert(frame.get());
    }

    pub fn is_freed(&self, frame: Pa) -> bool {
        lock(&self.freed).contains(&frame.get())
    }

    /// Hardware has noted something in the leaf of a page.
    pub fn notes(&self, page: Ipa, output: Pa, young: bool, dirty: bool) {
        let mut notes = lock(&self.notes);
        let note = notes.entry(page.get()).or_insert(Note {
            output,
            young: false,
            dirty: false,
        });
        if note.output != output {
            *note = Note {
                output,
                young: false,
                dirty: false,
            };
        }
        note.young |= young;
        note.dirty |= dirty;
    }

    pub fn note(&self, page: Ipa) -> Option<Note> {
        lock(&self.notes).get(&page.get()).copied()
    }

    /// Pages of [`first`, `end`) of which something was noted.
    pub fn noted(&self, first: u64, end: u64) -> alloc::vec::Vec<Ipa> {
        lock(&self.notes)
            .range(first..end)
            .map(|(&page, _)| Ipa::new(page))
            .collect()
    }

    /// Somebody took what was noted of [`first`, `end`).
    pub fn forget(&self, first: u64, end: u64) {
        let mut notes = lock(&self.notes);
        let gone: alloc::vec::Vec<u64> = notes.range(first..end).map(|(&page, _)| page).collect();
        for page in gone {
            notes.remove(&page);
        }
    }
}
