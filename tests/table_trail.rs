//! A stay remembers the tables that it saw last. Where they were unlinked it comes by the root once, and then stands in those
//! that took their place: how often the memory is asked for a table says so.
#![cfg(all(feature = "std", not(any(loom, shuttle))))]

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use s2pt::arch::{AccessKind, Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
use s2pt::memory::{Arena, ArenaOptions, Frame, OutOfFrames, TableMemory};
use s2pt::table::{Config, Handle, MapOptions, Null, Stage2, Stay};

const PAGE: u64 = 4 << 10;
const BLOCK: u64 = 2 << 20;
const ALL: u64 = 1 << 30;

/// An arena that counts how often a table below the root is looked for.
struct Asked {
    arena: Arena,
    times: AtomicUsize,
}

impl Asked {
    /// How often since the last call of this.
    fn times(&self) -> usize {
        self.times.swap(0, Ordering::Relaxed)
    }
}

impl TableMemory for Asked {
    type Tables<'m> = &'m Self;

    fn tables(&self) -> &Self {
        self
    }

    fn table(&self, pa: Pa) -> &[AtomicU64] {
        self.times.fetch_add(1, Ordering::Relaxed);
        self.arena.table(pa)
    }

    fn reserve(&self, frames: usize) -> Result<(), OutOfFrames> {
        self.arena.reserve(frames)
    }

    fn unreserve(&self, frames: usize) {
        self.arena.unreserve(frames);
    }

    fn take(&self) -> Frame {
        self.arena.take()
    }

    fn take_root(&self, frames: u32) -> Result<Pa, OutOfFrames> {
        self.arena.take_root(frames)
    }

    fn free(&self, frame: Frame) {
        self.arena.free(frame);
    }

    fn put_back(&self, frame: Frame) {
        self.arena.put_back(frame);
    }

    fn free_root(&self, root: Pa, frames: u32) {
        self.arena.free_root(root, frames);
    }

    fn root(&self, pa: Pa, frames: u32) -> &[AtomicU64] {
        self.arena.root(pa, frames)
    }

    fn fill(&self, frame: &mut Frame, value: impl FnMut(usize) -> u64) {
        self.arena.fill(frame, value);
    }

    fn generation(&self, pa: Pa) -> u32 {
        self.arena.generation(pa)
    }

    fn frames_in_use(&self) -> usize {
        self.arena.frames_in_use()
    }
}

/// With a root at level 1, so that a page lies behind two tables.
fn table() -> Stage2<Asked> {
    let memory = Asked {
        arena: Arena::new(ArenaOptions::default()).unwrap(),
        times: AtomicUsize::new(0),
    };
    let geometry = Geometry::new(GeometryOptions::default()).unwrap();
    Stage2::new(Config::new(geometry), memory, Null).unwrap()
}

fn map(view: &Handle<'_, Asked>, ipa: u64) {
    let attrs = Attrs::new(Prot::RW);
    view.map(Ipa::new(ipa), PAGE, Pa::new(ipa), &attrs, MapOptions::FAULT)
        .unwrap();
}

/// What is asked of a page that is mapped, and of the hole behind it, each with the tables that were looked for.
fn looks(table: &Stage2<Asked>, stay: &Stay<'_, '_, Asked, Null, impl s2pt::table::Access>, ipa: u64) -> [usize; 3] {
    let (at, behind) = (Ipa::new(ipa), Ipa::new(ipa + PAGE));
    let attrs = Attrs::new(Prot::RW);
    table.memory().times();
    assert!(stay.lookup(at).unwrap().pte.is_valid());
    let looked = table.memory().times();
    stay.translate(at, AccessKind::Read).unwrap();
    let translated = table.memory().times();
    stay.map(behind, PAGE, Pa::new(ipa + PAGE), &attrs, MapOptions::FAULT)
        .unwrap();
    [looked, translated, table.memory().times()]
}

#[test]
fn a_stay_stands_in_the_table_that_came_after_its_own() {
    let table = table();
    let (vcpu, peer) = (table.handle(), table.handle());
    map(&peer, BLOCK); // so that the table above stays
    let stay = vcpu.stay();
    map(&peer, 0);
    assert_eq!(looks(&table, &stay, 0), [2, 1, 1]);
    peer.unmap(Ipa::new(0), BLOCK).unwrap();
    map(&peer, 2 * PAGE);
    assert!(stay.lookup(Ipa::new(0)).unwrap().pte.is_empty()); // by the table above
    assert_eq!(looks(&table, &stay, 2 * PAGE), [1, 1, 1]);
}

#[test]
fn a_stay_stands_in_the_table_above_that_came_after_its_own() {
    let table = table();
    let (vcpu, peer) = (table.handle(), table.handle());
    let stay = vcpu.stay();
    map(&peer, 0);
    map(&peer, BLOCK);
    assert_eq!(looks(&table, &stay, 0), [2, 1, 1]);
    // Near: the table above is known.
    assert_eq!(looks(&table, &stay, BLOCK), [2, 1, 1]);
    peer.unmap(Ipa::new(0), ALL).unwrap();
    map(&peer, 2 * BLOCK);
    map(&peer, 3 * BLOCK);
    assert!(stay.lookup(Ipa::new(2 * BLOCK)).unwrap().pte.is_valid()); // by the root
    assert_eq!(looks(&table, &stay, 3 * BLOCK), [2, 1, 1]);
}
