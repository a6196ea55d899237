//! Pages without an owner: every operation on every range, nested unlinks included.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::chance::Random;
use crate::soft_tlb::{Jitter, Judge, SoftTlb};
use crate::support::{Ground, LINE, geometry, options, rounds, table};
use s2pt::arch::{Attrs, Granule, Ipa, Level, Pa, Prot};
use s2pt::memory::{Arena, TableMemory};
use s2pt::table::{Error, Existing, Handle, MapOptions, Null, Stage2};

/// No owners: every operation on every range, nested unlinks included. What is there at the end must be something that somebody
/// could have written, and what the TLB holds must be there.
fn chaos<T: Judge>(table: &Stage2<Arena, T>, number_of_rounds: usize, operations: usize, no_wait: bool) {
    let geometry = table.config().geometry;
    let Ground { page, block, start, .. } = Ground::new(&geometry);
    let above = geometry.size(Level::L1);
    let state = |me: usize| Random(me as u64 * 77);
    let round = |view: &Handle<'_, Arena, T>, random: &mut Random| {
        let fault = view.without_waiting();
        for _ in 0..operations {
            let view = if no_wait && random.below(3) == 0 { &fault } else { view };
            let size = random.pick(&[page, page, 9 * page, block / 2, block, block, 2 * block, block + page]);
            let mut ipa = start + random.below(3 * block / page) * page;
            if random.below(2) == 0 {
                ipa &= !(block - 1);
            }
            let at = Ipa::new(ipa);
            let prot = random.pick(&[Prot::RW, Prot::R, Prot::RWX, Prot::RW]);
            let answer = match random.below(12) {
                0..=3 => {
                    let offset = random.pick(&[LINE, LINE, LINE, 3 * LINE + page]);
                    let options = MapOptions {
                        existing: random.pick(&[Existing::Replace, Existing::Keep, Existing::Error]),
                        largest: random.pick(&[None, None, Some(Level::L3)]),
                        over_tables: random.below(2) == 0,
                        flags: s2pt::table::WalkFlags::empty(),
                    };
                    view.map(at, size, Pa::new(ipa + offset), &Attrs::new(prot), options)
                        .map(drop)
                }
                4 => view.unmap(at, size).map(drop),
                5 if random.below(8) == 0 => {
                    // Both tables of the level above, whole: everything goes, with what peers hold inside.
                    let first = start & !(above - 1);
                    view.unmap(Ipa::new(first), (2 * above).min(geometry.ipa_limit() - first))
                        .map(drop)
                }
                5 | 6 => view.write_protect(at, size).map(drop),
                7 => view.relax(at, size, prot).map(drop),
                8 => view.protect(at, size, prot).map(drop),
                9 => view.split(at, size, Level::L3).map(drop),
                10 => view.collapse(Ipa::new(start), 4 * block).map(drop),
                _ => view.test_and_clear_young(at, size, true).map(drop),
            };
            match answer {
                Ok(()) | Err(Error::NotMapped { .. } | Error::Conflict { .. } | Error::Again { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            table.tlb().access(view, start + random.below(4 * block / page) * page);
        }
    };
    rounds(table, number_of_rounds, state, round, |view, _| {
        for leaf in view.leaves(Ipa::new(0), geometry.ipa_limit()).unwrap() {
            let offset = leaf.pa.get() - leaf.ipa.get();
            assert!([LINE, 3 * LINE + page].contains(&offset), "{leaf:x?}");
            assert!(leaf.level == Level::L3 || leaf.level == Level::L2);
        }
    });
    let view = table.handle();
    view.unmap(Ipa::new(0), geometry.ipa_limit()).unwrap();
    view.drain();
    assert_eq!(table.memory().frames_in_use() as u32, geometry.root_frames());
}

#[test]
fn chaos_leaves_nothing_behind() {
    chaos(&table(geometry(Granule::K4, 40), true, Null), 6, 200, true);
    chaos(&table(geometry(Granule::K4, 40), true, Jitter::default()), 4, 100, true);
}

#[test]
fn chaos_leaves_no_stale_translation() {
    chaos(
        &table(geometry(Granule::K4, 40), true, SoftTlb::new(0x1000)),
        8,
        100,
        true,
    );
    chaos(
        &table(geometry(Granule::K4, 40), false, SoftTlb::new(0x1000)),
        4,
        60,
        false,
    );
}

#[test]
fn chaos_in_tables_of_2048_and_8192_entries() {
    chaos(
        &table(geometry(Granule::K16, 40), true, SoftTlb::new(0x4000)),
        3,
        15,
        true,
    );
    chaos(&table(geometry(Granule::K64, 42), true, Jitter::default()), 1, 8, true);
}

/// Frames run out all the time; whatever was reserved and not used must come back.
#[test]
fn chaos_without_frames_loses_no_reservation() {
    let table = table(geometry(Granule::K4, 40), true, Jitter::default());
    let Ground { page, block, start, .. } = Ground::new(&table.config().geometry);
    table.memory().set_quota(Some(8));
    let refused = AtomicU64::new(0);
    let round = |view: &Handle<'_, Arena, Jitter>, random: &mut Random| {
        for _ in 0..150 {
            let ipa = start + random.below(4 * block / page) * page;
            let size = random.pick(&[page, 3 * page, block, 2 * block + page]);
            let at = Ipa::new(ipa);
            let answer = match random.below(5) {
                0 | 1 => {
                    let options = options(random.pick(&[Existing::Replace, Existing::Keep, Existing::Error]));
                    view.map(at, size, Pa::new(ipa + LINE), &Attrs::new(Prot::RW), options)
                        .map(drop)
                }
                2 => view.unmap(at, size).map(drop),
                3 => view.write_protect(at, size).map(drop),
                _ => view.split(at, size, Level::L3).map(drop),
            };
            match answer {
                Err(Error::OutOfFrames { .. }) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                Ok(()) | Err(Error::Conflict { .. } | Error::Again { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    rounds(&table, 8, |me| Random(me as u64), round, |_, _| ());
    assert!(refused.load(Ordering::Relaxed) > 0);
}

/// An iterator stands in a table that a peer merges.
#[test]
fn leaves_do_not_overlap_beside_a_collapse() {
    let table = table(geometry(Granule::K4, 40), true, Null);
    let (block, running) = (2u64 << 20, std::sync::atomic::AtomicBool::new(true));
    table
        .handle()
        .map(
            Ipa::new(block),
            block,
            Pa::new(block),
            &Attrs::new(Prot::RW),
            MapOptions::default(),
        )
        .unwrap();
    let overlaps = std::thread::scope(|scope| {
        scope.spawn(|| {
            let view = table.handle();
            while running.load(Ordering::Relaxed) {
                view.split(Ipa::new(block), block, Level::L3).unwrap();
                view.collapse(Ipa::new(block), block).unwrap();
            }
        });
        let view = table.handle();
        let bytes = || {
            view.leaves(Ipa::new(block), block)
                .unwrap()
                .map(|leaf| leaf.size)
                .sum::<u64>()
        };
        let overlaps = (0..20_000).filter(|_| bytes() != block).count();
        running.store(false, Ordering::Relaxed);
        overlaps
    });
    assert_eq!(overlaps, 0, "of 20000 iterations over one block");
}
