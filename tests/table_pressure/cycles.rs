//! Collapse and split in turn, as often as one likes, in a quota that has not one frame to spare.
//!
//! `S2PT_PRESSURE_CYCLES` sets the number of cycles of the one thread; threads side by side share a sixteenth of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use s2pt::arch::{AccessKind, Attrs, Ipa, Level, Pa, Prot};
use s2pt::table::{Error, Handle, MapOptions, Null};

use crate::support::{Memory, audit, dose, plain};

const PAGE: u64 = 4 << 10;
const BLOCK: u64 = 2 << 20;
const OFFSET: u64 = 1 << 34;
/// Two frames of the root, and the table above the blocks.
const BASE_FRAMES: usize = 3;

fn cycles() -> u64 {
    dose("S2PT_PRESSURE_CYCLES", 24_000)
}

fn map_block(view: &Handle<'_, Memory>, ipa: u64) {
    let (at, pa) = (Ipa::new(ipa), Pa::new(ipa + OFFSET));
    view.map(at, BLOCK, pa, &Attrs::new(Prot::RW), MapOptions::default())
        .unwrap();
}

fn cycle(view: &Handle<'_, Memory>, ipa: u64) -> Result<(), Error> {
    assert_eq!(view.split(Ipa::new(ipa), BLOCK, Level::L3)?, 1);
    assert_eq!(view.collapse(Ipa::new(ipa), BLOCK)?, 1);
    Ok(())
}

#[test]
fn one_thread() {
    for spare in [0, 8] {
        // One table of pages, and so many that may be on their way back.
        let table = plain(Some(BASE_FRAMES + 1 + spare), Null, |_| ());
        let view = table.handle();
        map_block(&view, 0);
        let began = Instant::now();
        let count = if spare == 0 { cycles() } else { cycles() / 10 };
        for number in 0..count {
            cycle(&view, 0).unwrap_or_else(|error| panic!("cycle {number}: {error}"));
        }
        let (took, stats) = (began.elapsed(), table.reclaim_stats());
        println!(
            "{count} cycles in {} frames: {took:?}, most pending {}",
            BASE_FRAMES + 1 + spare,
            stats.peak
        );
        assert_eq!(stats.retired, count);
        assert!(stats.peak <= 1 + spare as u64, "{stats:?}");
        assert_eq!(stats.overruns, 0);
        audit(&table);
    }
}

/// Threads that cycle blocks of their own, a frame for each and none to spare, beside vCPUs that read all of them and
/// fault pages in and out.
#[test]
fn threads_beside_faulting_readers() {
    for threads in [2, 4] {
        const READERS: u64 = 2;
        // The readers' pages lie in one table.
        let table = plain(Some(BASE_FRAMES + 1 + threads as usize), Null, |_| ());
        let view = table.handle();
        let faults = threads * BLOCK;
        (0..threads).for_each(|block| map_block(&view, block * BLOCK));
        let page = |ipa: u64| (Ipa::new(ipa), PAGE, Pa::new(ipa + OFFSET));
        let map = |view: &Handle<'_, Memory>, ipa: u64| {
            let (ipa, size, pa) = page(ipa);
            view.map(ipa, size, pa, &Attrs::new(Prot::RW), MapOptions::FAULT)
        };
        // One page of the table stays, and the table with it.
        map(&view, faults).unwrap();
        let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        let count = cycles() / 16 / threads;
        let began = Instant::now();
        std::thread::scope(|scope| {
            for reader in 0..READERS {
                let (table, done, reads, map) = (&table, &done, &reads, &map);
                scope.spawn(move || {
                    let view = table.handle();
                    let mut number = 0;
                    while !done.load(Ordering::Relaxed) {
                        number += 1;
                        let own = faults + (1 + reader) * PAGE;
                        map(&view, own).unwrap();
                        assert_eq!(view.unmap(Ipa::new(own), PAGE), Ok(PAGE));
                        let ipa = number * 0x12_3458 % (threads * BLOCK);
                        match view.translate(Ipa::new(ipa), AccessKind::Write) {
                            Ok(found) => assert_eq!(found.pa.get(), ipa + OFFSET),
                            // Between break and make.
                            Err(fault) => assert_eq!(fault.kind, s2pt::arch::FaultKind::Translation),
                        }
                    }
                    reads.fetch_add(number, Ordering::Relaxed);
                });
            }
            let workers: Vec<_> = (0..threads)
                .map(|block| {
                    let table = &table;
                    scope.spawn(move || {
                        let view = table.handle();
                        (0..count).try_for_each(|_| cycle(&view, block * BLOCK))
                    })
                })
                .collect();
            let ended: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Relaxed);
            for end in ended {
                assert_eq!(end.expect("no panic"), Ok(()));
            }
        });
        let stats = table.reclaim_stats();
        println!(
            "{threads} threads of {count} cycles in {} frames beside {READERS} readers: {:?}, most pending {}, {} faults",
            BASE_FRAMES + 1 + threads as usize,
            began.elapsed(),
            stats.peak,
            reads.load(Ordering::Relaxed)
        );
        assert_eq!(stats.retired, threads * count);
        // A frame is free a moment before it stops counting as pending, once for each who is freeing one.
        assert!(stats.peak <= threads + threads + READERS, "{stats:?}");
        audit(&table);
    }
}
