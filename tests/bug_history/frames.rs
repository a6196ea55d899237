//! Table frames: none leaked, none freed twice, none used after it was freed.

use std::collections::BTreeSet;
use std::sync::Arc;

use s2pt::arch::{GeometryOptions, Ipa, Level, Pa, Prot};
use s2pt::memory::{Arena, ArenaOptions, TableMemory};
use s2pt::table::{Config, Error, Event, Null, Stage2};

use crate::support::*;

#[test]
pub fn b01_remapping_leaks_no_frame() {
    let table = table();
    let view = table.handle();
    for round in 0..100 {
        let pa = Pa::new(round * BLOCK);
        let attrs = s2pt::arch::Attrs::new(Prot::RW);
        view.map(Ipa::new(BASE), BLOCK, pa, &attrs, REPLACE).unwrap(); // over the table of the last round
        view.map(Ipa::new(BASE + PAGE), PAGE, Pa::new(0), &attrs, REPLACE)
            .unwrap(); // into the block
        view.map(Ipa::new(BASE + PAGE), PAGE, Pa::new(PAGE), &attrs, REPLACE)
            .unwrap();
    }
    audit(&table);
    assert_eq!(view.stats().table_frames(), 4);
    view.unmap(Ipa::new(BASE), BLOCK).unwrap();
    audit(&table);
    assert_eq!(table.memory().frames_in_use(), root_frames(&table));
}

#[test]
pub fn b04_every_frame_of_a_concatenated_root_is_used_and_kept() {
    let memory = Arc::new(Arena::new(ArenaOptions::default()).unwrap());
    let geometry = s2pt::arch::Geometry::new(GeometryOptions {
        ipa_bits: 43,
        ..GeometryOptions::default()
    })
    .unwrap();
    assert_eq!((geometry.start_level(), geometry.root_frames()), (Level::L1, 16));
    let table = Stage2::new(Config::new(geometry), Arc::clone(&memory), Null).unwrap();
    let view = table.handle();
    let attrs = s2pt::arch::Attrs::new(Prot::RW);
    let pages: Vec<u64> = (0..16).map(|frame| (frame << 39) | (frame * PAGE)).collect();
    for (n, &ipa) in pages.iter().enumerate() {
        view.map(Ipa::new(ipa), PAGE, Pa::new(ipa >> 27), &attrs, REPLACE)
            .unwrap();
        assert_eq!(view.stats().table_frames(), 16 + 2 * (n as u64 + 1));
    }
    for &ipa in &pages {
        assert_eq!(view.unmap(Ipa::new(ipa), PAGE), Ok(PAGE));
    }
    view.drain();
    assert_eq!(memory.frames_in_use(), 16, "the root stays, all of it");
    drop(view);
    drop(table);
    assert_eq!((memory.frames_in_use(), memory.stats().roots), (0, 0));
}

/// Exclusive access frees at once, and memory is so short that the next table is the frame just freed: whoever walked on
/// into it would find another table's entries there (in debug builds, a panic).
#[test]
pub fn b10_a_walk_does_not_enter_the_table_it_has_just_freed() {
    let table = table();
    let view = table.handle();
    map(&view, BASE, BLOCK, Prot::R, PAGES).unwrap();
    map(&view, BASE + BLOCK + PAGE, PAGE, Prot::R, PAGES).unwrap();
    drop(view);
    let mut table = Arc::into_inner(table).unwrap();
    let in_use = table.memory().frames_in_use();
    table.memory().set_quota(Some(in_use));
    let view = table.exclusive();
    // A block over the first table, which frees a frame; pages in a hole, which take it.
    let done = map(&view, BASE, 2 * BLOCK, Prot::RW, REPLACE).unwrap();
    assert_eq!(done.bytes, 2 * BLOCK, "no byte is mapped twice");
    map(&view, BASE + 2 * BLOCK, 3 * PAGE, Prot::RW, PAGES).unwrap();
    for ipa in (BASE..BASE + 2 * BLOCK + 3 * PAGE).step_by(PAGE as usize) {
        assert_eq!(output(&view, ipa), Some(ipa + OFFSET), "{ipa:#x}");
        assert!(writable(&view, ipa));
    }
    assert_eq!(view.lookup(Ipa::new(BASE)).unwrap().level, Level::L2);
    assert_eq!(view.stats().table_frames(), 4);
    let mut free = BTreeSet::new();
    for event in log(&table) {
        match event {
            Event::Free { frame } => assert!(free.insert(frame.get()), "{frame} was freed twice"),
            Event::Allocate { frame } => {
                free.remove(&frame.get());
            }
            Event::Store { entry, new, .. } => {
                let frame = entry.align_down(PAGE);
                assert!(
                    !free.contains(&frame.get()),
                    "{:#x} was stored into {frame}, which is free",
                    new.raw()
                );
            }
            _ => {}
        }
    }
}

#[test]
pub fn b11_an_unlinked_subtree_is_freed_down_to_its_top() {
    for collapse in [true, false] {
        let table = table();
        let view = table.handle();
        // One table of level 2 and 512 below it.
        map(&view, GIB, GIB, Prot::RW, PAGES).unwrap();
        assert_eq!(table.memory().frames_in_use(), root_frames(&table) + 513);
        log(&table);
        if collapse {
            assert_eq!(view.collapse(Ipa::new(GIB), GIB), Ok(513));
        } else {
            map(&view, GIB, GIB, Prot::R, REPLACE).unwrap();
        }
        audit(&table);
        assert_eq!(table.memory().frames_in_use(), root_frames(&table));
        assert_eq!(freed(&log(&table)).len(), 513);
    }
}

/// Every request for a frame fails once, in each operation that builds a table. Nothing has changed then, nothing is kept,
/// and nothing goes back that was not taken.
#[test]
pub fn b14_an_operation_that_fails_for_want_of_frames_frees_each_frame_once() {
    type Operation = fn(&s2pt::table::Handle<'_, Arena, Sink>) -> Result<(), Error>;
    let operations: [(&str, Operation); 6] = [
        ("split", |view| view.split(Ipa::new(GIB), GIB, Level::L3).map(drop)),
        ("unmap", |view| view.unmap(Ipa::new(GIB + PAGE), PAGE).map(drop)),
        ("write_protect", |view| {
            view.write_protect(Ipa::new(GIB + PAGE), PAGE).map(drop)
        }),
        ("protect", |view| {
            view.protect(Ipa::new(GIB + PAGE), PAGE, Prot::R).map(drop)
        }),
        ("relax", |view| {
            view.relax(Ipa::new(GIB + PAGE), PAGE, Prot::X).map(drop)
        }),
        ("map", |view| {
            view.map(
                Ipa::new(GIB + PAGE),
                PAGE,
                Pa::new(0),
                &s2pt::arch::Attrs::new(Prot::R),
                REPLACE,
            )
            .map(drop)
        }),
    ];
    for (name, operation) in operations {
        let table = table();
        let view = table.handle();
        map(&view, GIB, GIB, Prot::RW, REPLACE).unwrap();
        let mut failures = 0;
        loop {
            let before = (view.stats(), table.memory().stats());
            table.memory().fail_allocation(failures);
            match operation(&view) {
                Err(Error::OutOfFrames { .. }) => failures += 1,
                done => break assert_eq!(done, Ok(()), "{name}"),
            }
            assert_eq!(
                (view.stats(), table.memory().stats()),
                before,
                "{name}, request {failures}"
            );
            audit(&table);
        }
        assert!(failures > 0, "{name} takes frames");
        audit(&table);
    }
}

/// In every way to lose a table: its entry is broken, then comes the TLBI, then the wait for it, and only then the free.
#[test]
pub fn b15_a_table_is_freed_after_its_tlbi_is_complete() {
    for range in [true, false] {
        for way in 0..4 {
            for exclusive in [false, true] {
                let table = table_with(GeometryOptions::default(), |config| config.tlbi_range = range);
                map(&table.handle(), BASE, BLOCK, Prot::RW, PAGES).unwrap();
                let mut table = Arc::into_inner(table).unwrap();
                log(&table);
                let lose = |unmap: &dyn Fn(u64, u64), collapse: &dyn Fn(), over: &dyn Fn()| match way {
                    0 => unmap(BASE, BLOCK),
                    1 => (0..BLOCK / PAGE).for_each(|page| unmap(BASE + page * PAGE, PAGE)),
                    2 => collapse(),
                    _ => over(),
                };
                if exclusive {
                    let view = table.exclusive();
                    lose(
                        &|ipa, size| ok(view.unmap(Ipa::new(ipa), size)),
                        &|| ok(view.collapse(Ipa::new(BASE), BLOCK)),
                        &|| ok(map(&view, BASE, BLOCK, Prot::R, REPLACE)),
                    );
                } else {
                    let view = table.handle();
                    lose(
                        &|ipa, size| ok(view.unmap(Ipa::new(ipa), size)),
                        &|| ok(view.collapse(Ipa::new(BASE), BLOCK)),
                        &|| ok(map(&view, BASE, BLOCK, Prot::R, REPLACE)),
                    );
                    view.drain();
                }
                let log = log(&table);
                let frames = freed(&log);
                assert!(!frames.is_empty(), "way {way} frees a table");
                for frame in frames {
                    let free = log.iter().position(|&event| event == Event::Free { frame }).unwrap();
                    let broken = |event: &Event| {
                        matches!(event, Event::Store { old, new, .. }
                            if new.is_locked() && old.raw() & 3 == 3 && old.raw() & 0xffff_ffff_f000 == frame.get())
                    };
                    let broken = log.iter().position(broken).expect("its entry was broken");
                    let tlbi = |event: &Event| matches!(event, Event::Tlbi(tlbi) if drops(*tlbi, BASE, Level::L3));
                    let tlbi = broken + log[broken..].iter().position(tlbi).expect("invalidated");
                    let wait = |event: &Event| *event == Event::Dsb(s2pt::arch::Dsb::Ish);
                    let wait = tlbi + log[tlbi..].iter().position(wait).expect("waited for");
                    assert!(
                        wait < free,
                        "way {way}, range {range}, exclusive {exclusive}: {frame} free too early"
                    );
                }
            }
        }
    }
}

/// Parts that end in the middle of tables, at every level, one after the other.
#[test]
pub fn b22_taken_apart_in_pieces_each_table_is_freed_once() {
    let table = table();
    let view = table.handle();
    let size = 3 * GIB;
    let pages = || (0..size / BLOCK).map(|n| GIB + n * BLOCK + n % 512 * PAGE);
    for ipa in pages() {
        map(&view, ipa, PAGE, Prot::RW, PAGES).unwrap();
    }
    let tables = table.memory().frames_in_use() - root_frames(&table);
    assert_eq!(tables, 3 + 3 * 512);
    log(&table);
    let (mut at, piece, mut removed) = (GIB, 0x1357_9000, 0);
    while at < GIB + size {
        let end = (at + piece).min(GIB + size);
        removed += view.unmap(Ipa::new(at), end - at).unwrap();
        assert!(
            pages()
                .filter(|&ipa| ipa >= end)
                .all(|ipa| output(&view, ipa) == Some(ipa + OFFSET))
        );
        at = end;
    }
    assert_eq!(removed, pages().count() as u64 * PAGE);
    audit(&table);
    assert_eq!(table.memory().frames_in_use(), root_frames(&table));
    let frames = freed(&log(&table));
    assert_eq!(frames.len(), tables);
    assert_eq!(frames.iter().map(|pa| pa.get()).collect::<BTreeSet<_>>().len(), tables);
}
