//! Tests of the arena, single-threaded first, then under stress.

use std::collections::HashSet;
use std::panic::catch_unwind;
use std::sync::Barrier;

use super::model::ModelMemory;
use super::{Arena, ArenaError, ArenaOptions, Frame, OutOfFrames, TableMemory};
use crate::arch::{Granule, Pa};
use crate::sync::{Arc, AtomicU64, AtomicUsize, Ordering};

const PAGE: u64 = 4096;

fn arena(capacity_frames: usize) -> Arena {
    Arena::new(ArenaOptions {
        capacity_frames,
        ..Default::default()
    })
    .unwrap()
}

fn one<M: TableMemory>(memory: &M) -> Frame {
    memory.reserve(1).unwrap();
    memory.take()
}

fn is_zero(entries: &[AtomicU64]) -> bool {
    entries.iter().all(|entry| entry.load(Ordering::Relaxed) == 0)
}

/// What every table memory owes, one frame at a time.
fn keeps_the_contract<M: TableMemory>(memory: &M, capacity: usize) {
    assert_eq!(memory.frames_in_use(), 0);
    memory.reserve(capacity).unwrap();
    assert_eq!(
        memory.reserve(1),
        Err(OutOfFrames {
            needed: 1,
            available: 0
        })
    );
    assert_eq!(memory.frames_in_use(), 0, "reserved frames are not in use");
    memory.unreserve(capacity - 1);
    let mut frame = memory.take();
    assert_eq!(memory.frames_in_use(), 1);
    assert_eq!(
        memory.reserve(capacity),
        Err(OutOfFrames {
            needed: capacity,
            available: capacity - 1
        })
    );

    let pa = frame.pa();
    assert!(is_zero(memory.table(pa)));
    memory.fill(&mut frame, |index| index as u64 * 3 + 1);
    assert!(
        memory
            .table(pa)
            .iter()
            .enumerate()
            .all(|(i, e)| e.load(Ordering::Relaxed) == i as u64 * 3 + 1)
    );
    let generation = memory.generation(pa);
    memory.free(frame);
    assert_ne!(memory.generation(pa), generation);
    assert!(is_zero(memory.table(pa)), "zeroed when freed");
    assert_eq!(memory.frames_in_use(), 0);

    // Every frame once: all distinct, all zero, and not one more.
    memory.reserve(capacity).unwrap();
    let frames: Vec<Frame> = (0..capacity).map(|_| memory.take()).collect();
    let distinct: HashSet<Pa> = frames.iter().map(Frame::pa).collect();
    assert_eq!(distinct.len(), capacity);
    assert!(distinct.iter().all(|pa| is_zero(memory.table(*pa))));
    assert_eq!(memory.frames_in_use(), capacity);
    frames.into_iter().for_each(|frame| memory.free(frame));
    assert_eq!(memory.frames_in_use(), 0);
}

/// A frame that is put back stays with the reservation, zeroed, and is nobody else's.
fn puts_back_into_the_reservation<M: TableMemory>(memory: &M, capacity: usize) {
    memory.reserve(capacity).unwrap();
    let mut frame = memory.take();
    let pa = frame.pa();
    memory.fill(&mut frame, |_| 9);
    let generation = memory.generation(pa);
    memory.put_back(frame);
    assert_eq!(memory.frames_in_use(), 0);
    assert_ne!(memory.generation(pa), generation);
    let refused = OutOfFrames {
        needed: 1,
        available: 0,
    };
    assert_eq!(memory.reserve(1), Err(refused));
    let frames: HashSet<Pa> = (0..capacity).map(|_| memory.take().into_pa()).collect();
    assert!(frames.len() == capacity && frames.contains(&pa));
    assert!(is_zero(memory.table(pa)));
    assert_eq!(memory.frames_in_use(), capacity);
}

#[test]
fn a_frame_put_back_stays_reserved() {
    puts_back_into_the_reservation(&arena(5), 5);
    puts_back_into_the_reservation(&&ModelMemory::new(Pa::new(0), 3, 2), 3);
    puts_back_into_the_reservation(&Arc::new(arena(1)), 1);
}

#[test]
fn arena_and_model_keep_the_contract_also_behind_pointers() {
    keeps_the_contract(&arena(7), 7);
    keeps_the_contract(&Arc::new(arena(1)), 1);
    keeps_the_contract(&&ModelMemory::new(Pa::new(0x10000), 5, 2), 5);
}

#[test]
fn every_granule_has_frames_of_its_size() {
    for (granule, entries) in [(Granule::K4, 512), (Granule::K16, 2048), (Granule::K64, 8192)] {
        let base = Pa::new(granule.size() * 3);
        let arena = Arena::new(ArenaOptions {
            base,
            granule,
            capacity_frames: 4,
            quota: None,
        })
        .unwrap();
        let first = one(&arena);
        let second = one(&arena);
        assert_eq!((first.pa(), second.pa().get()), (base, base.get() + granule.size()));
        assert_eq!(arena.table(first.pa()).len(), entries);
        assert_eq!(arena.root(first.pa(), 2).len(), 2 * entries);
    }
}

#[test]
fn a_quota_limits_frames_and_roots_together() {
    let arena = arena(64);
    arena.set_quota(Some(5));
    let root = arena.take_root(2).unwrap();
    assert_eq!(arena.frames_in_use(), 2);
    arena.reserve(3).unwrap();
    assert_eq!(
        arena.reserve(1),
        Err(OutOfFrames {
            needed: 1,
            available: 0
        })
    );
    assert_eq!(
        arena.take_root(1),
        Err(OutOfFrames {
            needed: 1,
            available: 0
        })
    );
    // Below what is out: nothing more until enough came back.
    arena.set_quota(Some(1));
    arena.unreserve(3);
    assert_eq!(
        arena.reserve(1),
        Err(OutOfFrames {
            needed: 1,
            available: 0
        })
    );
    arena.free_root(root, 2);
    arena.reserve(1).unwrap();
    arena.set_quota(None);
    arena.reserve(63).unwrap();
    assert_eq!(
        arena.reserve(1),
        Err(OutOfFrames {
            needed: 1,
            available: 0
        })
    );
    let stats = arena.stats();
    assert_eq!(
        (stats.capacity, stats.quota, stats.in_use, stats.reserved),
        (64, 64, 0, 64)
    );
}

#[test]
fn the_kth_request_fails_once() {
    {
        let memory = arena(64);
        memory.fail_allocation(0);
        assert_eq!(
            memory.reserve(1),
            Err(OutOfFrames {
                needed: 1,
                available: 0
            })
        );
        memory.reserve(1).unwrap();
        // The 5th frame falls into the second request of three.
        memory.fail_allocation(5);
        memory.reserve(3).unwrap();
        assert_eq!(
            memory.reserve(3),
            Err(OutOfFrames {
                needed: 3,
                available: 2
            })
        );
        memory.reserve(3).unwrap();
        memory.fail_allocation(1);
        assert!(memory.take_root(2).is_err());
        let root = memory.take_root(2).unwrap();
        memory.free_root(root, 2);
        memory.unreserve(7);
        assert_eq!(memory.stats().in_use + memory.stats().reserved, 0);
    }
    let model = ModelMemory::new(Pa::new(0), 8, 2);
    model.fail_allocation(1);
    model.reserve(1).unwrap();
    assert_eq!(
        model.reserve(1),
        Err(OutOfFrames {
            needed: 1,
            available: 0
        })
    );
    model.reserve(1).unwrap();
}

#[test]
fn roots_are_contiguous_aligned_zero_and_used_again() {
    for base in [0x1_0000_0000, 0x1_0000_3000u64] {
        let options = ArenaOptions {
            base: Pa::new(base),
            capacity_frames: 48,
            ..Default::default()
        };
        let arena = Arena::new(options).unwrap();
        let mut taken = HashSet::new();
        let mut roots = Vec::new();
        for frames in [1, 2, 16, 4, 8, 3] {
            let root = arena.take_root(frames).unwrap();
            let align = u64::from(frames.next_power_of_two()) * PAGE;
            assert!(root.is_aligned(align), "{frames} frames at {root}");
            for frame in 0..u64::from(frames) {
                assert!(taken.insert(root.get() + frame * PAGE), "handed out twice");
            }
            let entries = arena.root(root, frames);
            assert_eq!(entries.len(), 512 * frames as usize);
            assert!(is_zero(entries));
            entries
                .iter()
                .for_each(|entry| entry.store(u64::MAX, Ordering::Relaxed));
            roots.push((root, frames));
        }
        assert_eq!(arena.frames_in_use(), 34);
        assert_eq!(arena.stats().roots, 6);
        let generation = arena.generation(roots[0].0);
        roots.iter().for_each(|(root, frames)| arena.free_root(*root, *frames));
        assert_ne!(arena.generation(roots[0].0), generation);
        assert_eq!(arena.frames_in_use(), 0);
        // Merged again: all of it can be had in the largest runs, and is zero.
        let again: HashSet<Pa> = (0..3).map(|_| arena.take_root(16).unwrap()).collect();
        assert_eq!(again.len(), 3);
        assert!(
            again
                .iter()
                .all(|root| root.is_aligned(16 * PAGE) && is_zero(arena.root(*root, 16)))
        );
        assert!(roots.iter().any(|(root, _)| again.contains(root)));
        assert!(arena.take_root(1).is_err());
    }
}

#[test]
fn roots_do_not_eat_the_frames_that_others_reserve() {
    let arena = arena(32);
    let roots: Vec<Pa> = (0..32).map(|_| arena.take_root(1).unwrap()).collect();
    roots.into_iter().for_each(|root| arena.free_root(root, 1));
    arena.reserve(32).unwrap();
    let frames: HashSet<Pa> = (0..32).map(|_| arena.take().into_pa()).collect();
    assert_eq!(frames.len(), 32);
}

/// The message of the panic of `call`.
fn panic_of(call: impl FnOnce() + std::panic::UnwindSafe) -> String {
    *catch_unwind(call)
        .unwrap_err()
        .downcast::<String>()
        .expect("a formatted panic")
}

#[test]
fn an_address_outside_panics_with_the_address() {
    let arena = arena(16);
    let (base, end) = (arena.base().get(), arena.end().get());
    for pa in [
        0,
        base - PAGE,
        base - 1,
        base + 8,
        base + PAGE - 1,
        end,
        end + PAGE,
        u64::MAX,
    ] {
        assert!(!arena.contains(Pa::new(pa)));
        let message = panic_of(std::panic::AssertUnwindSafe(|| {
            arena.table(Pa::new(pa));
        }));
        assert!(message.contains(&format!("{pa:#x}")), "{message}");
    }
    assert!(arena.contains(Pa::new(end - PAGE)));
    let last = Pa::new(end - PAGE);
    assert_eq!(arena.root(last, 1).len(), 512);
    let message = panic_of(std::panic::AssertUnwindSafe(|| {
        arena.root(last, 2);
    }));
    assert!(
        message.contains(&format!("2 table frame(s) at {:#x}", end - PAGE)),
        "{message}"
    );
}

#[test]
fn frames_and_roots_go_back_only_where_they_came_from() {
    let (one_arena, other) = (arena(4), arena(4));
    let frame = one(&one_arena);
    let message = panic_of(std::panic::AssertUnwindSafe(|| other.free(frame)));
    assert!(message.contains("another memory"), "{message}");
    let root = one_arena.take_root(2).unwrap();
    for (pa, frames) in [(root, 1), (Pa::new(root.get() + PAGE), 1), (one_arena.base(), 2)] {
        let message = panic_of(std::panic::AssertUnwindSafe(|| one_arena.free_root(pa, frames)));
        assert!(message.contains(&format!("at {:#x}", pa.get())), "{message}");
    }
    one_arena.free_root(root, 2);
}

#[test]
fn options_out_of_range_are_refused_with_their_values() {
    let build = |base, granule, capacity_frames| {
        Arena::new(ArenaOptions {
            base: Pa::new(base),
            granule,
            capacity_frames,
            quota: None,
        })
    };
    let error = build(0x1800, Granule::K4, 4).unwrap_err();
    assert_eq!(
        error.to_string(),
        "base 0x1800 of the table memory is not a multiple of 0x1000"
    );
    assert!(matches!(build(0x1000, Granule::K16, 4), Err(ArenaError::Base { .. })));
    for (base, capacity) in [(0, 0), (0, usize::MAX), (0, 1 << 30), (1 << 52, 1), (!0xfff, 1)] {
        assert!(matches!(
            build(base, Granule::K4, capacity),
            Err(ArenaError::Capacity { .. })
        ));
    }
    assert!(matches!(
        build((1 << 52) - 0x8000, Granule::K4, 8),
        Err(ArenaError::Capacity { .. })
    ));
    let high = build((1 << 52) - 0x20000, Granule::K4, 8).unwrap();
    assert_eq!(high.take_root(8).map(|pa| pa.is_aligned(0x8000)), Ok(true));
}

#[test]
fn prefault_changes_nothing() {
    let arena = arena(8);
    let mut frame = one(&arena);
    arena.fill(&mut frame, |_| 7);
    arena.prefault(usize::MAX);
    assert!(
        arena
            .table(frame.pa())
            .iter()
            .all(|entry| entry.load(Ordering::Relaxed) == 7)
    );
    assert_eq!(arena.stats().touched, 1);
    arena.free(frame);
}

/// Pages of this process that are in memory, in bytes.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn prefault_brings_frames_into_memory() {
    let arena = arena(1 << 14);
    let before = resident();
    arena.prefault(1 << 14);
    let grown = resident().saturating_sub(before);
    // Other tests of this process may give memory back meanwhile.
    assert!(grown > 48 << 20, "only {grown:#x} bytes of 64 MiB");
}

/// Threads reserve, take, write, check and free at random out of a pool that is too small for all of them.
#[test]
fn stress_no_frame_is_handed_out_twice() {
    const THREADS: usize = 8;
    const ROUNDS: usize = 4000;
    const CAPACITY: usize = 40;
    let arena = arena(CAPACITY);
    let owners: Vec<AtomicUsize> = (0..CAPACITY).map(|_| AtomicUsize::new(0)).collect();
    let refused = AtomicUsize::new(0);
    let barrier = Barrier::new(THREADS);
    let worker = |me: usize| {
        let mut random = (me as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % below as u64) as usize
        };
        let mut held: Vec<Frame> = Vec::new();
        barrier.wait();
        for round in 0..ROUNDS {
            let want = next(7);
            if arena.reserve(want).is_err() {
                refused.fetch_add(1, Ordering::Relaxed);
            } else {
                let used = next(want + 1);
                for _ in 0..used {
                    let mut frame = arena.take();
                    let slot = ((frame.pa().get() - arena.base().get()) / PAGE) as usize;
                    assert_eq!(
                        owners[slot].swap(me + 1, Ordering::Relaxed),
                        0,
                        "frame {} handed out twice",
                        frame.pa()
                    );
                    assert!(is_zero(arena.table(frame.pa())), "frame {} is not zero", frame.pa());
                    arena.fill(&mut frame, |index| (round * index) as u64 | 1);
                    held.push(frame);
                }
                arena.unreserve(want - used);
            }
            if round % 64 == 0
                && let Ok(root) = arena.take_root(2)
            {
                assert!(is_zero(arena.root(root, 2)));
                arena.root(root, 2)[1023].store(me as u64, Ordering::Relaxed);
                arena.free_root(root, 2);
            }
            while held.len() > next(8) {
                let frame = held.swap_remove(next(held.len()));
                let slot = ((frame.pa().get() - arena.base().get()) / PAGE) as usize;
                assert_eq!(owners[slot].swap(0, Ordering::Relaxed), me + 1);
                assert!(
                    arena.table(frame.pa())[7].load(Ordering::Relaxed) & 1 == 1,
                    "somebody wrote to our frame"
                );
                arena.free(frame);
            }
        }
        held
    };
    let held: Vec<Frame> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|me| scope.spawn(move || worker(me))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(arena.frames_in_use(), held.len());
    assert_eq!(arena.stats().reserved, 0);
    assert!(
        refused.load(Ordering::Relaxed) > 0,
        "the pool was never short: the test shows too little"
    );
    held.into_iter().for_each(|frame| arena.free(frame));
    assert_eq!(arena.frames_in_use(), 0);
    // Nothing got lost on the way.
    arena.reserve(CAPACITY).unwrap();
    let all: HashSet<Pa> = (0..CAPACITY).map(|_| arena.take().into_pa()).collect();
    assert_eq!(all.len(), CAPACITY);
}
