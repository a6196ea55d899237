//! Interleavings without chance: a sink that runs other operations, on another handle, from inside an event.
//!
//! While a TLBI event runs, the operation that offered it holds entries LOCKED. So each test here stands at an exact point of
//! one operation and lets a peer act there.

mod inject;

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use s2pt::arch::{AccessKind, Attrs, EntryKind, Geometry, GeometryOptions, Ipa, Level, MemType, Pa, Prot};
use s2pt::memory::{Arena, ArenaOptions};
use s2pt::table::{Config, Counting, Error, Event, Existing, Handle, MapOptions, Mapped, Stage2};

use inject::{HOOK, Inject, at, fired, is_stage2_tlbi};

const PAGE: u64 = 0x1000;
const BLOCK: u64 = 2 << 20;
const BASE: u64 = 0x8000_0000;

fn becomes_valid(event: Event) -> bool {
    matches!(event, Event::Store { new, .. } if new.is_valid())
}

type Table = Stage2<Arena, Inject>;

/// A hook borrows its table for ever, so tables live as long as the process. Here a leak checker finds them in use.
static TABLES: Mutex<Vec<&'static Table>> = Mutex::new(Vec::new());

fn table_with(config: impl FnOnce(&mut Config)) -> &'static Table {
    let mut all = Config::new(Geometry::new(GeometryOptions::default()).unwrap());
    config(&mut all);
    let arena = Arena::new(ArenaOptions {
        capacity_frames: 4096,
        ..ArenaOptions::default()
    })
    .unwrap();
    let table: &Table = Box::leak(Box::new(Stage2::new(all, arena, Inject).unwrap()));
    TABLES.lock().unwrap().push(table);
    table
}

fn table() -> &'static Table {
    table_with(|_| ())
}

const REPLACE: MapOptions = MapOptions {
    existing: Existing::Replace,
    largest: None,
    over_tables: false,
    flags: s2pt::table::WalkFlags::empty(),
};
const PAGES: MapOptions = MapOptions {
    largest: Some(Level::L3),
    ..REPLACE
};

fn with(existing: Existing) -> MapOptions {
    MapOptions { existing, ..REPLACE }
}

/// Maps to the one line on which blocks form.
fn map(
    view: &Handle<'_, Arena, Inject>,
    ipa: u64,
    size: u64,
    prot: Prot,
    options: MapOptions,
) -> Result<Mapped, Error> {
    view.map(
        Ipa::new(ipa),
        size,
        Pa::new(ipa + (1 << 33)),
        &Attrs::new(prot),
        options,
    )
}

fn mapped(view: &Handle<'_, Arena, Inject>, ipa: u64) -> bool {
    view.lookup(Ipa::new(ipa)).unwrap().pte.is_valid()
}

/// What each operation of a peer answers while `locked` is between break and make, and that the rest goes on.
fn peers_meet_locked(table: &'static Table, locked: u64, size: u64) {
    let peer = table.handle().without_waiting();
    let again = |what: &str, result: Result<(), Error>| match result {
        Err(Error::Again { ipa, .. }) => assert_eq!(ipa.get(), locked, "{what}"),
        other => panic!("{what}: {other:?}"),
    };
    let ipa = Ipa::new(locked);
    assert_eq!(
        peer.lookup(ipa).map(|found| found.pte.kind(found.level)),
        Ok(EntryKind::Locked)
    );
    assert!(peer.translate(ipa, AccessKind::Read).is_err());
    again("fault", map(&peer, locked, PAGE, Prot::RW, MapOptions::FAULT).map(drop));
    again("map", map(&peer, locked, PAGE, Prot::RW, REPLACE).map(drop));
    again("unmap", peer.unmap(ipa, PAGE).map(drop));
    again("write_protect", peer.write_protect(ipa, size).map(drop));
    again("protect", peer.protect(ipa, size, Prot::R).map(drop));
    again("relax", peer.relax(ipa, size, Prot::W).map(drop));
    again("mark_young", peer.mark_young(ipa, PAGE).map(drop));
    again(
        "test_and_clear_young",
        peer.test_and_clear_young(ipa, PAGE, true).map(drop),
    );
    again("split", peer.split(ipa, size, Level::L3).map(drop));
    again("collapse", peer.collapse(ipa, size).map(drop));

    // Beside it, in the same table and in others, everything works, also for a handle that waits.
    let other = table.handle();
    let block = locked & !(BLOCK - 1);
    let (next_block, far) = (block + 4 * BLOCK, block + (3 << 30));
    for ipa in [next_block, far] {
        map(&other, ipa, BLOCK, Prot::RW, REPLACE).unwrap();
        other.write_protect(Ipa::new(ipa + PAGE), PAGE).unwrap();
        assert_eq!(other.relax(Ipa::new(ipa), BLOCK, Prot::RW).unwrap().bytes, BLOCK);
        assert_eq!(other.collapse(Ipa::new(ipa), BLOCK), Ok(1));
        other.translate(Ipa::new(ipa + 5), AccessKind::Write).unwrap();
        assert_eq!(other.unmap(Ipa::new(ipa), BLOCK), Ok(BLOCK));
    }
    assert_eq!(other.stats().locked, 1);
}

/// Runs `operation` with the peers of [`peers_meet_locked`] at its first TLBI, then checks that nothing was left behind.
fn nest(table: &'static Table, locked: u64, size: u64, operation: impl FnOnce(&Handle<'_, Arena, Inject>)) {
    at(is_stage2_tlbi, move || peers_meet_locked(table, locked, size));
    let view = table.handle();
    operation(&view);
    assert!(fired(), "the operation issued no TLBI");
    let stats = view.stats();
    assert_eq!((stats.locked, stats.frozen), (0, 0));
    view.drain();
    assert_eq!(table.pending_frames(), 0);
}

#[test]
fn peers_of_an_unmapped_page_are_sent_away_and_the_rest_goes_on() {
    let table = table();
    map(&table.handle(), BASE, BLOCK, Prot::RW, PAGES).unwrap();
    nest(table, BASE + 7 * PAGE, PAGE, |view| {
        assert_eq!(view.unmap(Ipa::new(BASE + 7 * PAGE), PAGE), Ok(PAGE));
    });
}

#[test]
fn peers_of_a_replaced_page_are_sent_away_and_the_rest_goes_on() {
    let table = table();
    map(&table.handle(), BASE, BLOCK, Prot::RW, PAGES).unwrap();
    nest(table, BASE, PAGE, |view| {
        view.map(Ipa::new(BASE), PAGE, Pa::new(0), &Attrs::new(Prot::RW), REPLACE)
            .unwrap();
    });
    let found = table.handle().translate(Ipa::new(BASE), AccessKind::Read).unwrap();
    assert_eq!(found.pa, Pa::new(0));
}

#[test]
fn peers_of_a_cut_block_are_sent_away_and_the_rest_goes_on() {
    let table = table();
    map(&table.handle(), BASE, BLOCK, Prot::RW, REPLACE).unwrap();
    nest(table, BASE + PAGE, PAGE, |view| {
        assert_eq!(view.write_protect(Ipa::new(BASE + PAGE), PAGE).unwrap().leaves, 1);
    });
    map(&table.handle(), BASE, BLOCK, Prot::RW, REPLACE).unwrap();
    nest(table, BASE, BLOCK, |view| {
        assert_eq!(view.split(Ipa::new(BASE), BLOCK, Level::L3), Ok(1))
    });
}

#[test]
fn peers_of_an_unlinked_table_are_sent_away_and_the_rest_goes_on() {
    let table = table();
    map(&table.handle(), BASE, BLOCK, Prot::RW, PAGES).unwrap();
    nest(table, BASE, BLOCK, |view| {
        assert_eq!(view.collapse(Ipa::new(BASE), BLOCK), Ok(1))
    });
    map(&table.handle(), BASE, BLOCK, Prot::RW, PAGES).unwrap();
    table.handle().split(Ipa::new(BASE), BLOCK, Level::L3).unwrap();
    nest(table, BASE, BLOCK, |view| {
        assert_eq!(view.unmap(Ipa::new(BASE), BLOCK), Ok(BLOCK))
    });
    map(&table.handle(), BASE, PAGE, Prot::RW, PAGES).unwrap();
    nest(table, BASE, PAGE, |view| {
        // The page, then the table that it leaves empty: the hook stands at the page.
        assert_eq!(view.unmap(Ipa::new(BASE), PAGE), Ok(PAGE));
    });
    assert_eq!(table.handle().stats().table_frames(), 2);
}

/// A peer inside of a table that is being unlinked finds the way back to the root, and his page where he put it.
#[test]
fn a_fault_beside_the_unlink_of_an_empty_table_is_not_lost() {
    let table = table();
    let view = table.handle();
    map(&view, BASE, PAGE, Prot::RW, REPLACE).unwrap();
    // At the last entry's make the table is empty, and not yet unlinked.
    at(
        |event| matches!(event, Event::Store { old, new, .. } if old.is_locked() && new.is_empty()),
        || {
            map(&table.handle(), BASE + 9 * PAGE, PAGE, Prot::RW, MapOptions::FAULT).unwrap();
        },
    );
    assert_eq!(view.unmap(Ipa::new(BASE), PAGE), Ok(PAGE));
    assert!(fired());
    assert!(mapped(&view, BASE + 9 * PAGE));
    assert_eq!(view.unmap(Ipa::new(BASE), BLOCK), Ok(PAGE));
    assert_eq!(view.stats().table_frames(), 2);
}

/// The access flag and the permission that a peer changes after the look and before the freeze decide.
#[test]
fn a_collapse_takes_back_what_it_froze_when_a_peer_was_faster() {
    let table = table();
    let view = table.handle();
    map(&view, BASE, BLOCK, Prot::RW, PAGES).unwrap();
    at(
        |event| matches!(event, Event::Store { new, .. } if new.is_frozen()),
        || {
            // Entry 0 is frozen, entry 511 not yet: whoever stands in the table may still change it. From the root
            // nobody comes in.
            let peer = table.handle().without_waiting();
            assert!(matches!(
                peer.write_protect(Ipa::new(BASE + 511 * PAGE), PAGE),
                Err(Error::Again { .. })
            ));
        },
    );
    assert_eq!(view.collapse(Ipa::new(BASE), BLOCK), Ok(1));
    assert!(fired());
    assert_eq!(view.lookup(Ipa::new(BASE)).unwrap().level, Level::L2);
}

// ---- what does not hold yet ----

/// A finds the page writable and clears the bit; before his TLBI, B asks for the same and is told that it is done.
#[test]
fn write_protect_returns_only_when_no_cpu_can_write() {
    for (operation, harvest) in [(0, false), (1, false), (2, false), (0, true), (1, true), (2, true)] {
        let table = table();
        let view = table.handle();
        map(&view, BASE, 4 * PAGE, Prot::RW, PAGES).unwrap();
        let flushed = std::rc::Rc::new(std::cell::Cell::new(false));
        let seen = std::rc::Rc::clone(&flushed);
        // The first page is narrowed; its TLBI comes after the fourth.
        at(becomes_valid, move || {
            let covered = std::rc::Rc::clone(&seen);
            HOOK.with(|slot| {
                *slot.borrow_mut() = Some(Box::new(move |event| {
                    covered.set(is_stage2_tlbi(event));
                    covered.get()
                }));
            });
            let peer = table.handle();
            match operation {
                0 => drop(peer.write_protect(Ipa::new(BASE), PAGE).unwrap()),
                1 => drop(peer.protect(Ipa::new(BASE), PAGE, Prot::R).unwrap()),
                _ => drop(map(&peer, BASE, PAGE, Prot::R, REPLACE).unwrap()),
            }
            HOOK.with(|slot| slot.borrow_mut().take());
        });
        if harvest {
            view.write_protect_leaves([(Ipa::new(BASE), 4 * PAGE)]).unwrap();
        } else {
            view.write_protect(Ipa::new(BASE), 4 * PAGE).unwrap();
        }
        assert!(
            flushed.get(),
            "peer {operation} returned while the old translation was still cached (harvest: {harvest})"
        );
    }
}

/// A and B map overlapping ranges of one line with `Error`; B is acknowledged, A meets him and leaves him all of his.
#[test]
fn a_refused_map_takes_back_only_its_own() {
    let table = table();
    let view = table.handle();
    map(&view, BASE + 100 * PAGE, PAGE, Prot::R, REPLACE).unwrap();
    let locks = |event| matches!(event, Event::Store { new, .. } if new.is_locked());
    at(locks, || {
        let peer = table.handle();
        assert_eq!(
            map(&peer, BASE + 4 * PAGE, 8 * PAGE, Prot::RW, with(Existing::Error))
                .unwrap()
                .bytes,
            8 * PAGE
        );
    });
    let refused = map(&view, BASE, 8 * PAGE, Prot::RW, with(Existing::Error));
    assert!(fired() && matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
    for page in 0..12 {
        assert_eq!(mapped(&view, BASE + page * PAGE), page >= 4, "page {page}");
    }
}

/// A peer takes away a table that `Keep` had counted on, and with it the last frames: the spare ones serve.
#[test]
fn a_fault_finds_frames_for_what_a_peer_took_away() {
    let table = table();
    let view = table.handle();
    let next = BASE + BLOCK;
    map(&view, next - 2 * PAGE, PAGE, Prot::RW, PAGES).unwrap();
    map(&view, next + PAGE, PAGE, Prot::RW, PAGES).unwrap();
    at(becomes_valid, move || {
        table.handle().unmap(Ipa::new(next), BLOCK).unwrap();
        table.memory().set_quota(Some(0));
    });
    let done = map(&view, next - 2 * PAGE, 10 * PAGE, Prot::RW, with(Existing::Keep)).unwrap();
    assert!(fired());
    assert_eq!((done.bytes, done.kept), (9 * PAGE, PAGE));
    assert!((0..10).all(|page| mapped(&view, next + page * PAGE - 2 * PAGE)));
}

/// A peer merges the table at the end of the range after the frames were counted.
#[test]
fn unmap_and_write_protect_fail_whole() {
    for protect in [false, true] {
        let table = table();
        let view = table.handle();
        map(&view, BASE, 2 * BLOCK, Prot::RW, PAGES).unwrap();
        let when = if protect { becomes_valid } else { is_stage2_tlbi };
        at(when, || {
            assert_eq!(table.handle().collapse(Ipa::new(BASE + BLOCK), BLOCK), Ok(1));
            table.memory().set_quota(Some(0));
        });
        let range = (Ipa::new(BASE + PAGE), BLOCK);
        let failed = if protect {
            view.write_protect(range.0, range.1).map(drop)
        } else {
            view.unmap(range.0, range.1).map(drop)
        };
        assert!(fired());
        if failed.is_err() {
            view.translate(range.0, AccessKind::Write)
                .expect("an operation that failed has changed nothing");
        }
    }
}

/// A fault that may put its block over a table meets a peer inside that table.
#[test]
fn a_fault_over_a_table_does_not_wait() {
    let (done, finished) = mpsc::channel();
    std::thread::spawn(move || {
        let table = table();
        map(&table.handle(), BASE, BLOCK, Prot::RW, PAGES).unwrap();
        at(is_stage2_tlbi, move || {
            let options = MapOptions {
                over_tables: true,
                ..MapOptions::FAULT
            };
            done.send(map(&table.handle().without_waiting(), BASE, BLOCK, Prot::RW, options))
                .unwrap();
        });
        table.handle().unmap(Ipa::new(BASE + 5 * PAGE), PAGE).unwrap();
    });
    let answer = finished
        .recv_timeout(Duration::from_secs(3))
        .expect("the fault waits for ever");
    assert!(matches!(answer, Err(Error::Again { .. })), "{answer:?}");
}

/// The memory types are looked at before the walk; a peer maps a device in between.
#[test]
fn a_device_never_becomes_executable() {
    let table = table();
    let view = table.handle();
    map(&view, BASE, 2 * PAGE, Prot::RW, PAGES).unwrap();
    let device = Attrs {
        memtype: MemType::DeviceNGnRE,
        ..Attrs::new(Prot::RW)
    };
    at(becomes_valid, move || {
        let ipa = Ipa::new(BASE + PAGE);
        table.handle().map(ipa, PAGE, Pa::new(0), &device, REPLACE).unwrap();
    });
    let _ = view.relax(Ipa::new(BASE), 2 * PAGE, Prot::X);
    assert!(fired());
    let found = view.translate(Ipa::new(BASE + PAGE), AccessKind::Read).unwrap();
    assert!(
        found.memtype.is_device() && !found.prot.intersects(Prot::X),
        "{found:?}"
    );
}

#[test]
fn leaves_beside_a_locked_entry_are_seen() {
    let table = table();
    map(&table.handle(), BASE, BLOCK, Prot::RW, PAGES).unwrap();
    at(is_stage2_tlbi, || {
        let peer = table.handle().without_waiting();
        let seen = peer.leaves(Ipa::new(BASE), BLOCK).unwrap().count();
        assert!(seen >= 511, "{seen} leaves of 511 that stay all the time");
    });
    table.handle().unmap(Ipa::new(BASE + 511 * PAGE), PAGE).unwrap();
    assert!(fired());
}

#[test]
fn with_hardware_dirty_state_a_read_only_leaf_is_read_only() {
    let table = table_with(|config| config.hd = true);
    let view = table.handle();
    let attrs = Attrs {
        dbm: true,
        ..Attrs::new(Prot::RW)
    };
    view.map(Ipa::new(BASE), PAGE, Pa::new(0), &attrs, REPLACE).unwrap();
    view.protect(Ipa::new(BASE), PAGE, Prot::R).unwrap();
    assert!(view.translate(Ipa::new(BASE), AccessKind::Write).is_err());
}

#[test]
fn the_contiguous_hint_does_not_outlive_its_group() {
    let table = table();
    let view = table.handle();
    let attrs = Attrs {
        contiguous: true,
        ..Attrs::new(Prot::RW)
    };
    let mapped = view.map(Ipa::new(BASE), 16 * PAGE, Pa::new(1 << 33), &attrs, PAGES);
    if mapped.is_ok() {
        view.unmap(Ipa::new(BASE + 3 * PAGE), PAGE).unwrap();
        for leaf in view.leaves(Ipa::new(BASE), 16 * PAGE).unwrap() {
            assert!(
                !leaf.attrs.contiguous,
                "a CPU may still cache all 16 pages from {}",
                leaf.ipa
            );
        }
    }
}

#[test]
fn a_512g_block_stands_where_lpa2_allows_it() {
    let geometry = Geometry::new(GeometryOptions {
        ipa_bits: 48,
        pa_bits: 52,
        lpa2: true,
        start_level: Some(Level::L0),
        ..GeometryOptions::default()
    })
    .unwrap();
    assert!(geometry.block_allowed(Level::L0));
    let table = table_with(|config| config.geometry = geometry);
    let view = table.handle();
    let size = geometry.size(Level::L0);
    view.map(Ipa::new(size), size, Pa::new(size), &Attrs::new(Prot::RW), REPLACE)
        .unwrap();
    assert_eq!(view.lookup(Ipa::new(size)).unwrap().level, Level::L0);
}

#[test]
fn a_wide_relax_does_not_invalidate_page_by_page() {
    let mut config = Config::new(Geometry::new(GeometryOptions::default()).unwrap());
    config.tlbi_range = false;
    let table = Stage2::new(config, Arena::new(ArenaOptions::default()).unwrap(), Counting::new()).unwrap();
    let view = table.handle();
    let far = BASE + (8 << 30);
    for ipa in [BASE, far] {
        view.map(Ipa::new(ipa), PAGE, Pa::new(ipa), &Attrs::new(Prot::R), REPLACE)
            .unwrap();
    }
    view.relax(Ipa::new(BASE), far + PAGE - BASE, Prot::W).unwrap();
    let issued = table.tlb().counts().tlbi();
    assert!(issued <= 512, "{issued} invalidations for two pages");
}

/// A range that covers a part of a block cuts it no finer than it was asked to.
#[test]
fn a_split_stops_at_the_level_asked_for() {
    let geometry = Geometry::new(GeometryOptions {
        ipa_bits: 36,
        ..GeometryOptions::default()
    })
    .unwrap();
    let table = Stage2::new(
        Config::new(geometry),
        Arena::new(ArenaOptions::default()).unwrap(),
        Counting::new(),
    )
    .unwrap();
    let view = table.handle();
    let attrs = Attrs::new(Prot::RW);
    view.map(Ipa::new(0), 1 << 32, Pa::new(0x4000_0000), &attrs, REPLACE)
        .unwrap();
    assert_eq!(view.split(Ipa::new(PAGE), 0x3f_f000, Level::L2), Ok(1));
    assert_eq!(view.stats().leaves, [0, 0, 3, 512, 0]);
}

/// Beside a peer whose TLBI is under way, who takes a right that is gone already waits for it with a TLBI of his own. A leaf
/// that is old already promises nothing that could be missed: ageing it sends none.
#[test]
fn ageing_what_is_old_sends_no_tlbi_beside_peers() {
    let table = table();
    let view = table.handle();
    let (near, far) = (Ipa::new(BASE), Ipa::new(BASE + BLOCK));
    map(&view, BASE, 8 * PAGE, Prot::RW, PAGES).unwrap();
    map(&view, far.get(), BLOCK, Prot::RW, REPLACE).unwrap();
    assert_eq!(view.test_and_clear_young(near, 4 * PAGE, true), Ok(true));
    assert_eq!(view.test_and_clear_young(far, BLOCK, true), Ok(true));
    at(is_stage2_tlbi, move || {
        let peer = table.handle();
        let tlbis = |operation: &dyn Fn()| inject::counted(is_stage2_tlbi, operation);
        for (ipa, size) in [(near, 4 * PAGE), (near, PAGE), (far, BLOCK), (far, PAGE)] {
            let aged = tlbis(&|| assert_eq!(peer.test_and_clear_young(ipa, size, true), Ok(false)));
            assert_eq!(aged, 0, "{ipa}, {size:#x}");
        }
        // The pages behind them are young still.
        assert_eq!(
            tlbis(&|| assert_eq!(peer.test_and_clear_young(near, 8 * PAGE, true), Ok(true))),
            1
        );
        // And a right is another thing.
        let protected = || {
            tlbis(&|| {
                peer.write_protect(near, PAGE).unwrap();
            })
        };
        assert_eq!(protected(), 1);
        assert_eq!(protected(), 1);
    });
    view.write_protect(Ipa::new(BASE + 7 * PAGE), PAGE).unwrap();
    assert!(fired());
    // Ageing is no narrowing that peers would have to wait for.
    at(is_stage2_tlbi, move || {
        let peer = table.handle();
        let again = inject::counted(is_stage2_tlbi, || {
            peer.write_protect(near, PAGE).unwrap();
        });
        assert_eq!(again, 0);
    });
    view.mark_young(near, PAGE).unwrap();
    assert_eq!(view.test_and_clear_young(near, PAGE, true), Ok(true));
    assert!(fired());
}
