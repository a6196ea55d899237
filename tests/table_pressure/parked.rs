//! A reader parked in the midst of a walk keeps exactly what he may stand in: everything retired since he came in, and
//! nothing of what went before, or belongs to another table.
//!
//! In terms of the epochs: a reader who came in at epoch e lets the clock go on to e + 1. A frame is free when the clock is
//! two past the epoch in which it was retired. So what was retired before epoch e goes, and what was retired in epoch e
//! (perhaps a moment before he came) or later stays until he has left.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use s2pt::arch::{Attrs, Ipa, Level, Pa, Prot, Pte};
use s2pt::memory::TableMemory;
use s2pt::table::{Config, Error, Handle, MapOptions, Null, Stage2};

use crate::support::{Memory, arena, audit, geometry, plain};

const PAGE: u64 = 4 << 10;
const BLOCK: u64 = 2 << 20;

type Table = Stage2<Memory>;

fn map(view: &Handle<'_, Memory>, ipa: u64) -> Result<(), Error> {
    let attrs = Attrs::new(Prot::RW);
    view.map(Ipa::new(ipa), PAGE, Pa::new(ipa), &attrs, MapOptions::default())
        .map(drop)
}

fn unmap(view: &Handle<'_, Memory>, ipa: u64) {
    assert_eq!(view.unmap(Ipa::new(ipa), PAGE), Ok(PAGE));
}

/// The table of pages for `ipa`.
fn leaf_table(view: &Handle<'_, Memory>, ipa: u64) -> Pa {
    let mut found = None;
    view.for_each_raw(|entry| {
        let holds = (entry.ipa.get()..entry.ipa.get() + BLOCK).contains(&ipa);
        if entry.level == Level::L2 && entry.pte.is_table(Level::L2) && holds {
            found = Some(view.format().next_table(entry.pte));
        }
    })
    .unwrap();
    found.expect("a table of pages")
}

fn entries(table: &Table, frame: Pa) -> Vec<Pte> {
    let entries = table.memory().table(frame).iter();
    entries
        .map(|entry| Pte::from_raw(entry.load(std::sync::atomic::Ordering::Acquire)))
        .collect()
}

/// Walks the table and stops at its first page until it is told to go on. Says what the walk saw.
fn parked_walk(table: &Table, here: &Sender<()>, go_on: &Receiver<()>) -> Vec<u64> {
    let view = table.handle();
    let mut seen = Vec::new();
    view.for_each_raw(|entry| {
        if entry.level.is_last() {
            if seen.is_empty() {
                here.send(()).unwrap();
                go_on.recv().unwrap();
            }
            seen.push(entry.ipa.get());
        }
    })
    .unwrap();
    seen
}

#[test]
fn a_reader_inside_a_walk_keeps_what_was_retired_since() {
    let table = plain(Some(64), Null, |_| ());
    let (here, parked) = channel();
    let (leave, go_on) = channel();
    let view = table.handle();
    // The block in which he will stand, one that goes before he comes, one that goes later.
    for ipa in [0, PAGE, BLOCK, 2 * BLOCK, 100 * BLOCK] {
        map(&view, ipa).unwrap();
    }
    let earlier = leaf_table(&view, BLOCK);
    {
        // Somebody keeps it from being freed at once, and lets go when the reader is in.
        let other = table.handle();
        other.lookup(Ipa::new(0)).unwrap(); // a thread's first visit moves the epoch on, and the frame should go in this one
        let stay = other.stay();
        unmap(&view, BLOCK);
        assert_eq!(table.pending_frames(), 1);
        std::thread::scope(|scope| {
            let table = &table;
            let reader = scope.spawn(move || parked_walk(table, &here, &go_on));
            parked.recv().unwrap();
            let generation = table.memory().generation(earlier);
            assert_eq!(table.pending_frames(), 1);
            drop(stay);

            // What went before he came is freed beside him, and used again.
            unmap(&view, 100 * BLOCK);
            for _ in 0..1000 {
                view.lookup(Ipa::new(0)).unwrap();
            }
            let before = table.reclaim_stats();
            assert_eq!(
                table.memory().generation(earlier),
                generation + 1,
                "{before:?}: retired before he came, and kept"
            );
            assert_eq!((before.freed, before.pending), (1, 1));

            // What goes now stays as it is: not freed, not written to, each entry FROZEN with what it held.
            let frames = [leaf_table(&view, 0), leaf_table(&view, 2 * BLOCK)];
            let held = frames.map(|frame| entries(table, frame));
            let generations = frames.map(|frame| table.memory().generation(frame));
            unmap(&view, 2 * BLOCK);
            view.unmap(Ipa::new(0), BLOCK).unwrap();
            let check = || {
                for ((frame, held), generation) in frames.iter().zip(&held).zip(generations) {
                    assert_eq!(table.memory().generation(*frame), generation, "{frame} was freed");
                    for (index, (now, before)) in entries(table, *frame).into_iter().zip(held).enumerate() {
                        assert!(now.is_frozen(), "entry {index} of {frame} is {:#x}", now.raw());
                        // A page that went alone was emptied first.
                        assert!(now.thaw() == *before || now.thaw().is_empty());
                    }
                }
            };
            check();
            // Whatever others do: the memory is used up, and none of these frames is handed out.
            let mut block = 200 * BLOCK;
            let refused = loop {
                if let Err(refused) = map(&view, block) {
                    break refused;
                }
                assert!(!frames.contains(&leaf_table(&view, block)));
                block += BLOCK;
            };
            assert!(matches!(refused, Error::OutOfFrames { available: 0, .. }), "{refused}");
            check();
            let stats = table.reclaim_stats();
            assert!(stats.pending >= 3 && stats.freed == 1, "{stats:?}");

            leave.send(()).unwrap();
            let seen = reader.join().unwrap();
            // He stood at page 0. The next one, in the same table, he found gone, and so was everything but what came since.
            assert_eq!(seen[0], 0);
            assert!(seen[1..].iter().all(|&ipa| ipa >= 200 * BLOCK), "{seen:x?}");
            // He has left: who needs a frame finds one, without a drain.
            map(&view, block).unwrap();
        });
    }
    audit(&table);
}

#[test]
fn another_table_of_the_same_memory_is_not_held_up() {
    let memory = arena(s2pt::arch::Granule::K4, Some(16));
    let config = Config::new(geometry(s2pt::arch::Granule::K4, 40, false));
    let [one, two] = [(); 2].map(|()| Stage2::new(config, Arc::clone(&memory), Null).unwrap());
    let (first, second) = (one.handle(), two.handle());
    map(&first, 0).unwrap();
    let stay = first.stay();
    unmap(&first, 0);
    // Five hundred times the frames that there are.
    for _ in 0..4000 {
        map(&second, 0).unwrap();
        unmap(&second, 0);
    }
    second.drain();
    assert_eq!((one.pending_frames(), two.reclaim_stats().freed), (2, 8000));
    drop(stay);
    audit_shared(&memory, &[&one, &two]);
}

fn audit_shared(memory: &Memory, tables: &[&Table]) {
    let mut frames = 0;
    for table in tables {
        table.handle().drain();
        frames += table.handle().stats().table_frames();
    }
    assert_eq!((memory.stats().in_use as u64, memory.stats().reserved), (frames, 0));
}

#[test]
fn a_table_dropped_while_frames_are_pending_gives_all_back() {
    for registered in [false, true] {
        let memory = arena(s2pt::arch::Granule::K4, None);
        let config = Config::new(geometry(s2pt::arch::Granule::K4, 40, false));
        let table = Stage2::new(config, Arc::clone(&memory), Null).unwrap();
        // A registration keeps the collector, and so what is pending, until it goes too.
        let registration = registered.then(|| table.register());
        {
            let (view, other) = (table.handle(), table.handle());
            let stay = other.stay();
            for block in 0..8 {
                map(&view, block * BLOCK).unwrap();
                unmap(&view, block * BLOCK);
            }
            map(&view, 0).unwrap();
            drop(stay);
        }
        assert!(table.pending_frames() > 0);
        drop(table);
        assert_eq!(memory.stats().in_use > 0, registered);
        drop(registration);
        assert_eq!((memory.stats().in_use, memory.stats().roots), (0, 0));
    }
}

#[test]
fn a_thread_that_fails_while_it_is_inside_leaves() {
    let table = plain(Some(8), Null, |_| ());
    let failed = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let view = table.handle();
            let _stay = view.stay();
            let other = table.handle();
            map(&other, 0).unwrap();
            unmap(&other, 0);
            assert_eq!(table.pending_frames(), 2);
            std::panic::resume_unwind(Box::new("in the midst"));
        });
        reader.join().is_err()
    });
    assert!(failed);
    let view = table.handle();
    // Ten times the quota.
    for _ in 0..40 {
        map(&view, 0).unwrap();
        unmap(&view, 0);
    }
    audit(&table);
}

/// Tables that a thread will never leave. They live as long as the process, where a leak checker finds them in use.
static LEFT_BEHIND: Mutex<Vec<&'static Table>> = Mutex::new(Vec::new());

/// A stay that is forgotten, in safe code: nothing that is retired later is ever freed, and calls say so at once.
#[test]
fn a_thread_that_ends_without_leaving_blocks_nobody() {
    let table: &'static Table = Box::leak(Box::new(plain(Some(16), Null, |config| config.pending_limit = 2)));
    LEFT_BEHIND.lock().unwrap().push(table);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let view = table.handle();
            std::mem::forget(view.stay());
        });
    });
    let view = table.handle();
    let mut cycles = 0;
    let refused = loop {
        if let Err(refused) = map(&view, 0) {
            break refused;
        }
        unmap(&view, 0);
        cycles += 1;
    };
    assert!(matches!(refused, Error::OutOfFrames { needed: 2, .. }), "{refused}");
    assert_eq!(cycles, 7, "two of the root, two a cycle");
    let stats = table.reclaim_stats();
    assert_eq!((stats.pending, stats.freed, stats.overruns), (14, 0, 6));
    assert_eq!(table.memory().stats().reserved, 0);
}
