//! Frames that one thread retires are freed by others, a few at a time and all of them in the end.

#![cfg(not(any(loom, shuttle)))]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
use s2pt::memory::{Arena, ArenaOptions, TableMemory};
use s2pt::table::{Config, Event, MapOptions, Stage2, Tlb};

const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;
/// Where the faults are, apart from what is unmapped.
const OWN: u64 = 512 * GIB;
/// What one call may free for others.
const BOUND: usize = 128;

/// Counts frames that go back.
#[derive(Default)]
struct Freed(AtomicUsize);

impl Tlb for Freed {
    fn event(&self, event: Event) {
        if matches!(event, Event::Free { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A table of so many levels with `size` bytes of pages mapped from 0 on.
fn filled(ipa_bits: u8, size: u64) -> Stage2<Arc<Arena>, Freed> {
    let geometry = Geometry::new(GeometryOptions {
        ipa_bits,
        ..GeometryOptions::default()
    });
    let arena = Arc::new(Arena::new(ArenaOptions::default()).unwrap());
    let mut table = Stage2::new(Config::new(geometry.unwrap()), arena, Freed::default()).unwrap();
    let pages = MapOptions {
        largest: Some(Level::L3),
        ..MapOptions::default()
    };
    let mapped = table
        .exclusive()
        .map(Ipa::new(0), size, Pa::new(0), &Attrs::new(Prot::RW), pages);
    mapped.unwrap();
    table
}

#[test]
fn no_fault_frees_many_frames_of_others_and_faults_alone_free_all() {
    // Subtrees of 513 frames, and with four levels one of more than 2,000.
    for (bits, frames) in [(40, 4 * 513), (48, 1 + 4 * 513)] {
        let table = filled(bits, 4 * GIB);
        let (owner, vcpu, attrs) = (table.handle(), table.handle(), Attrs::new(Prot::RW));
        // Somebody stands in the table meanwhile, so that the owner himself can free nothing.
        let other = table.handle();
        let stay = other.stay();
        owner
            .unmap(Ipa::new(0), if bits == 40 { 4 * GIB } else { OWN })
            .unwrap();
        assert_eq!(table.pending_frames(), frames);
        assert_eq!(table.tlb().0.load(Ordering::Relaxed), 0);
        drop(stay);
        let (mut before, mut page) = (0, 0);
        while table.pending_frames() > 0 {
            let (ipa, pa) = (
                Ipa::new(OWN + page % (GIB / PAGE) * PAGE),
                Pa::new(page % (GIB / PAGE) * PAGE),
            );
            let _ = vcpu.map(ipa, PAGE, pa, &attrs, MapOptions::FAULT);
            let freed = table.tlb().0.load(Ordering::Relaxed);
            assert!(freed - before <= BOUND, "fault {page} freed {} frames", freed - before);
            assert!(page < 100_000, "{} frames are never freed", table.pending_frames());
            before = freed;
            page += 1;
        }
        assert_eq!(before, frames);
        assert_eq!(table.memory().frames_in_use() as u64, owner.stats().table_frames());
    }
}
