//! Retired frames do not pile up: who retires more than the limit allows waits for the grace period, but never for ever.

use std::sync::Barrier;

use s2pt::arch::{Attrs, Ipa, Level, Pa, Prot};
use s2pt::memory::TableMemory;
use s2pt::table::{Error, Handle, MapOptions, Null, Tlb};

use crate::support::{Memory, audit, plain};

const PAGE: u64 = 4 << 10;
const BLOCK: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

fn map<T: Tlb>(view: &Handle<'_, Memory, T>, ipa: u64, size: u64) -> Result<(), Error> {
    let pages = MapOptions {
        largest: Some(Level::L3),
        ..MapOptions::default()
    };
    view.map(Ipa::new(ipa), size, Pa::new(ipa), &Attrs::new(Prot::RW), pages)
        .map(drop)
}

#[test]
fn with_a_limit_of_none_every_call_waits_until_its_frames_are_free() {
    let table = plain(None, Null, |config| config.pending_limit = 0);
    let view = table.handle();
    map(&view, 0, PAGE).unwrap();
    // In every way to retire a table: whole, with its last page, under a block, by a merge, under a mark.
    let aligned = |size| {
        view.map(
            Ipa::new(BLOCK),
            size,
            Pa::new(BLOCK),
            &Attrs::new(Prot::RW),
            MapOptions::default(),
        )
    };
    let ways: [(&str, &dyn Fn() -> bool); 5] = [
        ("unmap", &|| view.unmap(Ipa::new(BLOCK), BLOCK) == Ok(BLOCK)),
        ("last page", &|| {
            (0..512).all(|page| view.unmap(Ipa::new(BLOCK + page * PAGE), PAGE) == Ok(PAGE))
        }),
        ("map", &|| aligned(BLOCK).is_ok()),
        ("collapse", &|| view.collapse(Ipa::new(BLOCK), BLOCK) == Ok(1)),
        ("annotate", &|| view.annotate(Ipa::new(BLOCK), BLOCK, 7) == Ok(())),
    ];
    for (number, (name, way)) in ways.into_iter().enumerate() {
        let _ = view.unmap(Ipa::new(BLOCK), BLOCK);
        map(&view, BLOCK, BLOCK).unwrap();
        let before = table.reclaim_stats().retired;
        assert!(way(), "{name}");
        let stats = table.reclaim_stats();
        assert!(stats.retired > before, "{name} {number} retires a table");
        assert_eq!((stats.pending, stats.overruns), (0, 0), "{name}");
    }
    audit(&table);
}

/// Long calls let go on the way: what waits is a fraction of what goes.
#[test]
fn a_long_call_does_not_leave_all_it_retires_to_its_end() {
    // Of 16 GiB in pages, and of a block's worth of tables a call may have one more subtree before it looks.
    for (limit, most) in [(64, 64 + 2 * 513), (2000, 2000 + 2 * 513)] {
        let table = plain(None, Null, |config| config.pending_limit = limit);
        let view = table.handle();
        // Somebody comes and goes meanwhile.
        map(&view, 100 * GIB, PAGE).unwrap();
        map(&view, 0, 16 * GIB).unwrap();
        view.unmap(Ipa::new(0), 16 * GIB).unwrap();
        let stats = table.reclaim_stats();
        assert_eq!(stats.retired, 16 * 513);
        assert!(stats.peak <= most, "{stats:?}");
        map(&view, 0, 8 * GIB).unwrap();
        // 512 blocks of 2 MiB a gigabyte, and that is one block then.
        assert_eq!(view.collapse(Ipa::new(0), 8 * GIB), Ok(8 * 513));
        let stats = table.reclaim_stats();
        assert_eq!(stats.retired, 24 * 513);
        assert!(stats.peak <= most, "{stats:?}");
        assert_eq!(stats.overruns, 0);
        assert!(stats.pending <= limit as u64, "{stats:?}");
        audit(&table);
    }
}

/// A reader who does not leave: nobody waits for him for ever. The limit is overrun and says so; then the quota is what
/// bounds the frames, and its refusal is the usual one. Once he leaves, everything goes on by itself.
#[test]
fn a_parked_reader_holds_up_frames_and_nobody() {
    let quota = 64;
    let table = plain(Some(quota), Null, |config| config.pending_limit = 4);
    let gate = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let view = table.handle();
            let stay = view.stay();
            gate.wait();
            gate.wait();
            drop(stay);
        });
        gate.wait();
        let view = table.handle();
        map(&view, 0, PAGE).unwrap();
        let refused = loop {
            if let Err(refused) = map(&view, BLOCK, PAGE) {
                break refused;
            }
            // Taking away needs no frame and is never refused.
            view.unmap(Ipa::new(BLOCK), PAGE).unwrap();
        };
        assert_eq!(
            refused,
            Error::OutOfFrames {
                needed: 1,
                available: 0
            }
        );
        let (stats, memory) = (table.reclaim_stats(), table.memory().stats());
        assert_eq!((stats.pending, stats.freed), (quota as u64 - 4, 0));
        assert_eq!(
            (stats.retired, stats.peak, stats.overruns),
            (stats.pending, stats.pending, stats.pending - 4)
        );
        assert_eq!((memory.in_use, memory.reserved), (quota, 0));
        // A fault fills a hole and waits for nobody, whatever is pending.
        map(&view, PAGE, PAGE).unwrap();
        assert_eq!(table.reclaim_stats().overruns, stats.overruns);
        gate.wait();
    });
    // No drain: the call that needs a frame finds it.
    let view = table.handle();
    map(&view, BLOCK, PAGE).unwrap();
    view.unmap(Ipa::new(BLOCK), PAGE).unwrap();
    let stats = table.reclaim_stats();
    assert!(stats.pending <= 4, "{stats:?}");
    audit(&table);
}

/// Who stays in the table himself, or does not wait, does not wait for himself.
#[test]
fn who_is_inside_does_not_wait() {
    let table = plain(Some(7), Null, |config| config.pending_limit = 0);
    let vcpu = table.handle();
    map(&vcpu, 0, PAGE).unwrap();
    let stay = vcpu.stay();
    for view in [&*stay, &vcpu.without_waiting()] {
        let before = table.reclaim_stats();
        map(view, BLOCK, PAGE).unwrap();
        view.unmap(Ipa::new(BLOCK), PAGE).unwrap();
        let stats = table.reclaim_stats();
        assert_eq!(
            (stats.pending, stats.overruns),
            (before.pending + 1, before.overruns + 1)
        );
    }
    map(&stay, BLOCK, PAGE).unwrap();
    map(&stay, 2 * BLOCK, PAGE).unwrap_err(); // two of the root, three below, two pending
    drop(stay);
    map(&vcpu, 2 * BLOCK, PAGE).unwrap();
    audit(&table);
}

/// Exclusive access begins with what was retired before: its frames are there, and a drain has nothing to wait for.
#[test]
fn what_was_retired_before_is_free_for_who_is_alone() {
    let mut table = plain(Some(4), Null, |_| ());
    let view = table.handle();
    let stay = view.stay();
    map(&view, 0, PAGE).unwrap();
    view.unmap(Ipa::new(0), PAGE).unwrap();
    drop(stay);
    assert_eq!(table.pending_frames(), 2);
    let alone = table.exclusive();
    alone.drain();
    let attrs = Attrs::new(Prot::RW);
    let mapped = alone.map(Ipa::new(0), PAGE, Pa::new(0), &attrs, MapOptions::default());
    assert_eq!(mapped.unwrap().bytes, PAGE);
    assert_eq!(table.memory().frames_in_use(), 4);
}
