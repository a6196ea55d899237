//! What mutations of the protocol break without a race: frames that are not given back, entries that stay LOCKED, steps in the
//! wrong order. Peers act from inside of the sink, at the very step at which they hurt most, so nothing depends on timing.
//!
//! All pass; see `tests/protocol_mutations.py`.
#![cfg(all(feature = "std", not(any(loom, shuttle))))]

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use s2pt::arch::{AccessKind, Attrs, CacheOp, Dsb, Geometry, GeometryOptions, Ipa, Level, Pa, Prot, Pte, Tlbi};
use s2pt::memory::{Arena, ArenaOptions, Frame, TableMemory};
use s2pt::table::{Config, Error, Event, Existing, FrameCache, MapOptions, Semantics, Stage2, Tlb};

const PAGE: u64 = 0x1000;
const BLOCK: u64 = 0x20_0000;
const PA: u64 = 0x4000_0000;

type Action = Box<dyn Fn(&Stage2<Arena, Peer>, Event) + Send + Sync>;

/// A sink in which a peer acts: at each step that is not one of his own.
#[derive(Default)]
struct Peer {
    table: OnceLock<std::sync::Weak<Stage2<Arena, Peer>>>,
    action: Mutex<Option<Arc<Action>>>,
    told: Mutex<Vec<Event>>,
}

thread_local!(static INSIDE: Cell<bool> = const { Cell::new(false) });

impl Tlb for Peer {
    fn event(&self, event: Event) {
        if INSIDE.replace(true) {
            return;
        }
        self.told.lock().unwrap().push(event);
        let action = self.action.lock().unwrap().clone();
        if let (Some(action), Some(table)) = (action, self.table.get().and_then(std::sync::Weak::upgrade)) {
            action(&table, event);
        }
        INSIDE.set(false);
    }
}

fn table_as(change: impl FnOnce(&mut Config)) -> Arc<Stage2<Arena, Peer>> {
    let mut config = Config::new(Geometry::new(GeometryOptions::default()).unwrap());
    change(&mut config);
    let arena = Arena::new(ArenaOptions::default()).unwrap();
    let table = Arc::new(Stage2::new(config, arena, Peer::default()).unwrap());
    table.tlb().table.set(Arc::downgrade(&table)).unwrap();
    table
}

fn table() -> Arc<Stage2<Arena, Peer>> {
    table_as(|_| {})
}

fn while_peer<R>(
    table: &Stage2<Arena, Peer>,
    action: impl Fn(&Stage2<Arena, Peer>, Event) + Send + Sync + 'static,
    body: impl FnOnce() -> R,
) -> R {
    *table.tlb().action.lock().unwrap() = Some(Arc::new(Box::new(action)));
    let result = body();
    *table.tlb().action.lock().unwrap() = None;
    result
}

fn pages(existing: Existing) -> MapOptions {
    MapOptions {
        existing,
        largest: Some(Level::L3),
        ..MapOptions::default()
    }
}

fn map(table: &Stage2<Arena, Peer>, ipa: u64, size: u64) {
    let (attrs, options) = (Attrs::new(Prot::RW), pages(Existing::Keep));
    table
        .handle()
        .map(Ipa::new(ipa), size, Pa::new(PA + ipa), &attrs, options)
        .unwrap();
}

/// No entry is held, and every frame is accounted for.
fn settled(table: &Stage2<Arena, Peer>) {
    let view = table.handle();
    view.drain();
    let stats = view.stats();
    assert_eq!((stats.locked, stats.frozen, table.pending_frames()), (0, 0, 0));
    let held = table.memory().stats();
    assert_eq!((held.in_use as u64, held.reserved), (stats.table_frames(), 0));
}

#[test]
fn frames_of_every_operation_come_back() {
    let table = table();
    let view = table.handle();
    map(&table, 0, BLOCK + 3 * PAGE);
    view.unmap(Ipa::new(0), PAGE).unwrap();
    view.unmap(Ipa::new(0), BLOCK).unwrap();
    view.unmap(Ipa::new(BLOCK), 3 * PAGE).unwrap();
    map(&table, 5 << 30, PAGE);
    view.unmap(Ipa::new(5 << 30), 1 << 30).unwrap(); // two levels
    map(&table, 0, BLOCK);
    view.collapse(Ipa::new(0), BLOCK).unwrap();
    view.write_protect(Ipa::new(PAGE), 2 * PAGE).unwrap();
    settled(&table);
    view.unmap(Ipa::new(0), BLOCK).unwrap();
    settled(&table);
    assert_eq!(table.memory().frames_in_use(), 2, "only the root is left");
}

#[test]
fn the_last_page_takes_its_table_along() {
    let table = table();
    map(&table, 0, PAGE);
    table.handle().unmap(Ipa::new(0), PAGE).unwrap();
    settled(&table);
    assert_eq!(table.memory().frames_in_use(), 2, "only the root is left");
}

#[test]
fn frames_at_hand_are_let_go_by_a_call_that_needs_more() {
    let table = table();
    map(&table, 9 * BLOCK, PAGE);
    let cache = FrameCache::new(table.memory(), 2);
    let view = table.handle().with_frame_cache(&cache);
    let (attrs, options) = (Attrs::new(Prot::RW), pages(Existing::Keep));
    let map = |ipa: u64, size: u64| view.map(Ipa::new(ipa), size, Pa::new(PA + ipa), &attrs, options);
    map(8 * BLOCK, PAGE).unwrap(); // one is used, one is at hand
    let in_use = table.memory().frames_in_use();
    table.memory().set_quota(Some(in_use));
    let refused = map(0, 4 * BLOCK);
    assert!(matches!(refused, Err(Error::OutOfFrames { .. })), "{refused:?}");
    map(0, PAGE).expect("the frame at hand is there for who asks for no more");
    drop(view);
    drop(cache);
    settled(&table);
}

#[test]
fn a_cut_without_frames_leaves_the_block_as_it_was() {
    let table = table();
    let attrs = Attrs::new(Prot::RW);
    let options = MapOptions::default();
    table
        .handle()
        .map(Ipa::new(0), BLOCK, Pa::new(PA), &attrs, options)
        .unwrap();
    let in_use = table.memory().frames_in_use();
    table.memory().set_quota(Some(in_use));
    let refused = table.handle().write_protect(Ipa::new(0), PAGE);
    assert!(matches!(refused, Err(Error::OutOfFrames { .. })), "{refused:?}");
    let found = table.handle().without_waiting().lookup(Ipa::new(0)).unwrap();
    assert!(found.pte.is_leaf(Level::L2), "{found:?}");
    settled(&table);
}

#[test]
fn a_map_happens_wholly_or_not_at_all() {
    let shortages: [fn(&Arena, usize); 2] = [
        |arena, frames| arena.fail_allocation(frames),
        |arena, frames| arena.set_quota(Some(arena.frames_in_use() + frames)),
    ];
    for shortage in shortages {
        for frames in 0..8 {
            let table = table();
            map(&table, 9 * BLOCK, PAGE); // so that the tables of pages are linked one by one
            shortage(table.memory(), frames);
            let (attrs, options) = (Attrs::new(Prot::RW), pages(Existing::Keep));
            let view = table.handle();
            let done = view.map(Ipa::new(BLOCK - PAGE), 4 * BLOCK, Pa::new(PA), &attrs, options);
            let mapped = view.stats().mapped_bytes - PAGE;
            assert_eq!(mapped, if done.is_ok() { 4 * BLOCK } else { 0 }, "{done:?}");
            settled(&table);
        }
    }
}

#[test]
fn a_map_that_is_refused_half_way_takes_back_what_it_did() {
    let table = table();
    map(&table, 4 * BLOCK, PAGE); // the table above is there
    let done = Arc::new(AtomicBool::new(false));
    let refused = while_peer(
        &table,
        move |table, event| {
            let first = matches!(event, Event::Store { new, .. } if new.is_locked());
            if first && !done.swap(true, Ordering::Relaxed) {
                map(table, BLOCK, PAGE);
            }
        },
        || {
            let (attrs, options) = (Attrs::new(Prot::RW), pages(Existing::Error));
            table.handle().map(Ipa::new(0), 2 * BLOCK, Pa::new(PA), &attrs, options)
        },
    );
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
    assert_eq!(table.handle().stats().mapped_bytes, 2 * PAGE);
    settled(&table);
}

/// A peer who found a page mapped as he wants it relies on it, whatever becomes of the call that mapped it.
#[test]
fn what_a_map_that_may_replace_nothing_has_shown_stays() {
    // The page in the way comes at once, or when the first page can be seen.
    for early in [true, false] {
        let table = table();
        map(&table, 4 * BLOCK, PAGE); // the table above is there
        let (kept, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let peer = told.clone();
        let done = while_peer(
            &table,
            move |table, _| {
                let view = table.handle().without_waiting();
                let (attrs, options) = (Attrs::new(Prot::RW), pages(Existing::Replace));
                let page = |ipa| view.map(Ipa::new(ipa), PAGE, Pa::new(PA + ipa), &attrs, options);
                let shown = view.translate(Ipa::new(0), AccessKind::Read).is_ok();
                if shown && page(0).is_ok_and(|mapped| mapped.kept == PAGE) {
                    peer.store(true, Ordering::Relaxed);
                }
                if (shown || early) && !kept.swap(true, Ordering::Relaxed) {
                    let _ = page(2 * BLOCK);
                }
            },
            || {
                let (attrs, options) = (Attrs::new(Prot::RW), pages(Existing::Error));
                table.handle().map(Ipa::new(0), 3 * BLOCK, Pa::new(PA), &attrs, options)
            },
        );
        assert_eq!(done.is_ok(), !early, "{done:?}");
        assert_eq!(told.load(Ordering::Relaxed), !early);
        let all = if early { 2 * PAGE } else { 3 * BLOCK + PAGE };
        assert_eq!(table.handle().stats().mapped_bytes, all);
        settled(&table);
    }
}

#[test]
fn a_table_that_a_peer_empties_beside_a_refused_map_goes() {
    let table = table();
    map(&table, 0, PAGE);
    map(&table, 4 * BLOCK, PAGE);
    let done = AtomicBool::new(false);
    let refused = while_peer(
        &table,
        move |table, event| {
            let first = matches!(event, Event::Store { new, .. } if new.is_locked());
            if first && !done.swap(true, Ordering::Relaxed) {
                table.handle().without_waiting().unmap(Ipa::new(0), PAGE).unwrap();
                map(table, BLOCK, PAGE);
            }
        },
        || {
            let (attrs, options) = (Attrs::new(Prot::RW), pages(Existing::Error));
            table.handle().map(Ipa::new(PAGE), BLOCK, Pa::new(PA), &attrs, options)
        },
    );
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
    let stats = table.handle().stats();
    assert_eq!(stats.mapped_bytes, 2 * PAGE);
    assert_eq!(
        table.handle().lookup(Ipa::new(0)).unwrap().level,
        Level::L2,
        "the table of pages is gone"
    );
    settled(&table);
}

#[test]
fn entries_of_a_peer_between_ones_own_stay_locked() {
    let table = table();
    map(&table, 0, PAGE);
    map(&table, 2 * PAGE, 2 * PAGE);
    // While page 2 is being locked a peer has page 1, which was passed by as a hole.
    while_peer(
        &table,
        |table, event| {
            let is_page_2 = |entry: Pa| entry.get() % PAGE == 16;
            if matches!(event, Event::Store { entry, new, .. } if new.is_locked() && is_page_2(entry)) {
                let page_1 = table.handle().poke(Ipa::new(PAGE), Level::L3, Pte::LOCKED).unwrap();
                assert!(page_1.is_empty() || page_1.is_locked());
            }
        },
        || table.handle().unmap(Ipa::new(0), 3 * PAGE),
    )
    .unwrap();
    let found = table.handle().without_waiting().lookup(Ipa::new(PAGE)).unwrap();
    assert!(found.pte.is_locked(), "{found:?}");
    table.handle().poke(Ipa::new(PAGE), Level::L3, Pte::EMPTY).unwrap();
    settled(&table);
}

#[test]
fn who_does_not_wait_lets_go_of_what_he_holds() {
    let table = table();
    map(&table, 0, 3 * PAGE);
    let held = table.handle().poke(Ipa::new(PAGE), Level::L3, Pte::LOCKED).unwrap();
    let again = table.handle().without_waiting().unmap(Ipa::new(0), 3 * PAGE);
    assert!(matches!(again, Err(Error::Again { .. })), "{again:?}");
    table.handle().poke(Ipa::new(PAGE), Level::L3, held).unwrap();
    settled(&table);
}

#[test]
fn kvm_unmaps_beside_a_locked_entry_and_lets_go() {
    let table = table_as(|config| {
        (config.semantics, config.fwb, config.tlbi_range) = (Semantics::Kvm, true, true);
    });
    map(&table, 0, 3 * PAGE);
    let held = table.handle().poke(Ipa::new(PAGE), Level::L3, Pte::LOCKED).unwrap();
    table.handle().without_waiting().unmap(Ipa::new(0), 3 * PAGE).unwrap();
    table.handle().poke(Ipa::new(PAGE), Level::L3, held).unwrap();
    settled(&table);
    assert_eq!(table.handle().stats().mapped_bytes, PAGE);
}

#[test]
fn nobody_maps_a_page_before_its_tlbi() {
    let table = table();
    map(&table, 0, 8 * PAGE);
    let taken = Arc::new(AtomicBool::new(false));
    let seen = taken.clone();
    let unmap = || {
        table.handle().unmap(Ipa::new(0), PAGE).unwrap();
        table.handle().unmap(Ipa::new(2 * PAGE), 3 * PAGE).unwrap();
    };
    while_peer(
        &table,
        move |table, event| {
            let Event::Tlbi(Tlbi::Ipa { ipa, .. } | Tlbi::Range { ipa, .. }) = event else {
                return;
            };
            let view = table.handle().without_waiting();
            let (attrs, options) = (Attrs::new(Prot::RW), MapOptions::FAULT);
            let mapped = view.map(ipa, PAGE, Pa::new(PA + BLOCK), &attrs, options);
            seen.store(mapped.is_ok() || seen.load(Ordering::Relaxed), Ordering::Relaxed);
        },
        unmap,
    );
    assert!(
        !taken.load(Ordering::Relaxed),
        "a page was mapped while its old translation was in use"
    );
    settled(&table);
}

#[test]
fn steps_of_maintenance_come_in_their_order() {
    let table = table();
    map(&table, PAGE, PAGE);
    let take = || core::mem::take(&mut *table.tlb().told.lock().unwrap());
    take();
    map(&table, 0, PAGE);
    let told = take();
    let clean = matches!(told[0], Event::Cache(CacheOp::DataCleanInvalidate { .. }));
    let stored = matches!(told[1], Event::Store { release: true, .. });
    assert!(clean && stored && told[2..] == [Event::Publish], "{told:#?}");
    table.handle().unmap(Ipa::new(0), PAGE).unwrap();
    let told = take();
    let store = |event| matches!(event, &Event::Store { .. });
    assert!(store(&told[0]) && store(&told[7]), "{told:#?}");
    assert_eq!(
        (told[1], told[3], told[5]),
        (Event::Dsb(Dsb::Ishst), Event::Dsb(Dsb::Ish), Event::Dsb(Dsb::Ish))
    );
    assert!(matches!(
        (told[2], told[4]),
        (Event::Tlbi(Tlbi::Ipa { .. }), Event::Tlbi(Tlbi::Stage1 { .. }))
    ));
    assert_eq!((told[6], told.len()), (Event::Isb, 8));
}

#[test]
fn a_stay_that_has_repinned_stands_nowhere() {
    let table = table();
    map(&table, 0, PAGE);
    let view = table.handle();
    let mut stay = view.stay();
    assert!(stay.lookup(Ipa::new(0)).unwrap().pte.is_valid());
    std::thread::scope(|scope| {
        let peer = scope.spawn(|| {
            let view = table.handle();
            view.unmap(Ipa::new(0), BLOCK).unwrap();
            view.drain();
            map(&table, BLOCK, PAGE);
        });
        // Frames come free because the stay lets go of them, again and again.
        while !peer.is_finished() {
            stay.repin();
            std::thread::yield_now();
        }
        peer.join().unwrap();
    });
    assert!(stay.lookup(Ipa::new(0)).unwrap().pte.is_empty());
    assert!(stay.lookup(Ipa::new(BLOCK)).unwrap().pte.is_valid());
    drop(stay);
    settled(&table);
}

#[test]
fn a_stay_sees_what_became_of_its_table() {
    let table = table();
    map(&table, 0, PAGE);
    let view = table.handle();
    let stay = view.stay();
    assert!(stay.lookup(Ipa::new(0)).unwrap().pte.is_valid());
    table.handle().unmap(Ipa::new(0), 1 << 30).unwrap();
    map(&table, PAGE, PAGE);
    assert!(stay.lookup(Ipa::new(0)).unwrap().pte.is_empty());
    assert!(stay.lookup(Ipa::new(PAGE)).unwrap().pte.is_valid());
    let (attrs, options) = (Attrs::new(Prot::RW), MapOptions::FAULT);
    stay.map(Ipa::new(2 * PAGE), PAGE, Pa::new(PA), &attrs, options)
        .unwrap();
    drop(stay);
    assert!(table.handle().lookup(Ipa::new(2 * PAGE)).unwrap().pte.is_valid());
    settled(&table);
}

#[test]
fn a_frame_comes_zeroed() {
    let arena = Arena::new(ArenaOptions::default()).unwrap();
    for _ in 0..2 {
        arena.reserve(1).unwrap();
        let mut frame: Frame = arena.take();
        assert!(
            arena
                .table(frame.pa())
                .iter()
                .all(|entry| entry.load(Ordering::Relaxed) == 0)
        );
        arena.fill(&mut frame, |index| index as u64 + 1);
        arena.free(frame);
    }
}

/// A frame is taken the moment it is on the free list, while the call that frees it may still be under way.
#[test]
fn a_frame_stays_as_its_taker_filled_it() {
    let arena = Arena::new(ArenaOptions {
        capacity_frames: 256,
        ..ArenaOptions::default()
    });
    let arena = arena.unwrap();
    for _ in 0..200 {
        arena.reserve(1).unwrap();
        let freed = arena.take();
        let wanted = freed.pa();
        let going = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let freeing = scope.spawn(|| {
                going.store(true, Ordering::Release);
                arena.free(freed);
            });
            while !going.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            // The last one that went back is found first. So none of the others goes back before the wanted one is found.
            let mut others = Vec::new();
            let mut frame = loop {
                if arena.reserve(1).is_err() {
                    std::thread::yield_now(); // all are out; the wanted one is about to be counted
                    continue;
                }
                let frame = arena.take();
                if frame.pa() == wanted {
                    break frame;
                }
                others.push(frame);
            };
            arena.fill(&mut frame, |_| 7);
            freeing.join().unwrap();
            let entries = arena.table(wanted);
            let whole = entries.iter().all(|entry| entry.load(Ordering::Relaxed) == 7);
            assert!(whole, "a frame was zeroed under who had taken it");
            others.into_iter().chain([frame]).for_each(|frame| arena.free(frame));
        });
    }
    assert_eq!((arena.stats().in_use, arena.stats().reserved), (0, 0));
}

#[test]
fn who_waits_for_a_peer_holds_nothing_meanwhile() {
    let exact: fn(&mut Config) = |_| {};
    let kvm: fn(&mut Config) = |config| {
        (config.semantics, config.fwb, config.tlbi_range) = (Semantics::Kvm, true, true);
    };
    for change in [exact, kvm] {
        let table = table_as(change);
        map(&table, 0, 3 * PAGE);
        let peer = Ipa::new(PAGE);
        let held = table.handle().poke(peer, Level::L3, Pte::LOCKED).unwrap();
        std::thread::scope(|scope| {
            let unmap = scope.spawn(|| table.handle().unmap(Ipa::new(0), 2 * PAGE));
            // Page 0 goes although page 1 keeps the walk waiting. (The deadline is for who does not let go of it.)
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            let waits = table.handle().without_waiting();
            let gone = loop {
                match waits.lookup(Ipa::new(0)).unwrap().pte.is_empty() {
                    false if std::time::Instant::now() < deadline => std::thread::yield_now(),
                    gone => break gone,
                }
            };
            table.handle().poke(peer, Level::L3, held).unwrap();
            assert_eq!(unmap.join().unwrap(), Ok(2 * PAGE));
            assert!(gone, "page 0 is held while the walk waits for the peer who has page 1");
        });
        settled(&table);
    }
}
