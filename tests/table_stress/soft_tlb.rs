//! What listens to the table: a sink that gives the core away, and a TLB that says who keeps a stale translation.
//!
//! One TLB is shared by all threads: it caches leaves as it finds them and drops only what a broadcast TLBI names, with the
//! level hint taken at its word.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use s2pt::arch::{Ipa, Level, Prot, Scope, Tlbi};
use s2pt::memory::Arena;
use s2pt::table::{Event, Handle, Null, Recording, Tlb};

/// Gives peers the core where it hurts most: while an entry is LOCKED, and between a freeze and the next.
#[derive(Default)]
pub struct Jitter(AtomicU64);

impl Tlb for Jitter {
    fn event(&self, event: Event) {
        let often = match event {
            Event::Tlbi(_) | Event::Dsb(_) => 2,
            Event::Store { old, new, .. } if old.is_locked() || new.is_locked() => 4,
            Event::Store { .. } => 64,
            _ => return,
        };
        if self.0.fetch_add(1, Ordering::Relaxed).is_multiple_of(often) {
            std::thread::yield_now();
        }
    }
}

/// A leaf as a TLB holds it.
#[derive(Clone, Copy, Debug)]
pub struct Cached {
    level: Level,
    size: u64,
    pa: u64,
    prot: Prot,
}

/// One TLB for all: local invalidations leave it alone, as they do any other core's.
pub struct SoftTlb {
    entries: Mutex<HashMap<u64, Vec<Cached>>>,
    page: u64,
    jitter: Jitter,
}

impl SoftTlb {
    pub fn new(page: u64) -> Self {
        Self {
            entries: Mutex::default(),
            page,
            jitter: Jitter::default(),
        }
    }

    /// An access: the walk and the fill are one step for an invalidation, as a DSB waits for walks under way.
    pub fn access<T: Tlb>(&self, view: &Handle<'_, Arena, T>, ipa: u64) {
        let mut entries = self.entries.lock().unwrap();
        let found = view.lookup(Ipa::new(ipa)).unwrap();
        if !found.pte.is_leaf(found.level) {
            return;
        }
        let format = view.format();
        let cached = Cached {
            level: found.level,
            size: view.config().geometry.size(found.level),
            pa: format.output(found.pte, found.level).get(),
            prot: format.prot(found.pte),
        };
        entries.entry(found.base.get()).or_default().push(cached);
    }

    pub fn drop_range(&self, start: u64, end: u64, level: Option<Level>) {
        let gone = |base: u64, cached: &Cached| {
            base < end && base + cached.size > start && level.is_none_or(|level| level == cached.level)
        };
        self.entries.lock().unwrap().retain(|&base, all| {
            all.retain(|cached| !gone(base, cached));
            !all.is_empty()
        });
    }

    /// What is cached for a page, as output addresses and rights.
    pub fn cached(&self, ipa: u64) -> Vec<(u64, Prot)> {
        let entries = self.entries.lock().unwrap();
        let hits = entries
            .iter()
            .flat_map(|(&base, all)| all.iter().map(move |cached| (base, cached)));
        hits.filter(|(base, cached)| (*base..base + cached.size).contains(&ipa))
            .map(|(base, cached)| (cached.pa + (ipa - base), cached.prot))
            .collect()
    }

    /// Nothing is cached that the table does not say; narrower rights are allowed.
    pub fn check_all<T: Tlb>(&self, view: &Handle<'_, Arena, T>) {
        let entries = self.entries.lock().unwrap();
        for (&base, all) in entries.iter() {
            for cached in all {
                for ipa in (base..base + cached.size).step_by(self.page as usize) {
                    let now = page_now(view, ipa);
                    let stale =
                        !now.is_some_and(|(pa, prot)| pa == cached.pa + (ipa - base) && prot.contains(cached.prot));
                    assert!(!stale, "{ipa:#x} is {now:x?}, a CPU holds {cached:x?} from {base:#x}");
                }
            }
        }
    }
}

impl Tlb for SoftTlb {
    fn event(&self, event: Event) {
        match event {
            Event::Tlbi(Tlbi::Ipa {
                ipa,
                level,
                scope: Scope::Broadcast,
            }) => self.drop_range(ipa.get(), ipa.get() + self.page, level),
            Event::Tlbi(Tlbi::Range {
                ipa,
                pages,
                level,
                scope: Scope::Broadcast,
            }) => self.drop_range(ipa.get(), ipa.get() + pages * self.page, level),
            Event::Tlbi(Tlbi::Vmid) => self.entries.lock().unwrap().clear(),
            _ => {}
        }
        self.jitter.event(event);
    }
}

/// What a sink can say about stale translations.
pub trait Judge: Tlb + Sized {
    fn access(&self, _: &Handle<'_, Arena, Self>, _: u64) {}
    fn cached(&self, _: u64) -> Vec<(u64, Prot)> {
        Vec::new()
    }
    fn check_all(&self, _: &Handle<'_, Arena, Self>) {}
}

impl Judge for Null {}
impl Judge for Jitter {}

impl Judge for SoftTlb {
    fn access(&self, view: &Handle<'_, Arena, Self>, ipa: u64) {
        SoftTlb::access(self, view, ipa);
    }
    fn cached(&self, ipa: u64) -> Vec<(u64, Prot)> {
        SoftTlb::cached(self, ipa)
    }
    fn check_all(&self, view: &Handle<'_, Arena, Self>) {
        SoftTlb::check_all(self, view);
    }
}

impl<A: Tlb> Judge for (Recording, A) {}

/// Output and rights of a page, once nobody is between break and make there.
pub fn page_now<T: Tlb>(view: &Handle<'_, Arena, T>, ipa: u64) -> Option<(u64, Prot)> {
    loop {
        let found = view.lookup(Ipa::new(ipa)).unwrap();
        if found.pte.is_locked() {
            std::thread::yield_now();
            continue;
        }
        assert!(!found.pte.is_frozen());
        let format = view.format();
        return found.pte.is_leaf(found.level).then(|| {
            let output = format.output(found.pte, found.level).get();
            (output + (ipa - found.base.get()), format.prot(found.pte))
        });
    }
}
