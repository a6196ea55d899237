//! What the recorded events of eight threads must show: break, invalidate, make, free, in this order.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::chance::Random;
use crate::soft_tlb::Jitter;
use crate::support::{LINE, geometry, options, rounds, table};
use s2pt::arch::{Attrs, Dsb, Granule, Ipa, Level, Pa, Prot, Pte, Scope, Tlbi};
use s2pt::memory::Arena;
use s2pt::table::{Event, Existing, Handle, MapOptions, Record, Recording, Stage2, Tlb};

/// Every break is followed, in its own thread, by a TLBI that covers it and a DSB, and only then by the make; every right that
/// goes is invalidated before the call returns; a frame goes back after the make of its parent entry, and nobody writes to it then.
#[test]
fn the_log_shows_break_invalidate_make_free() {
    let geometry = geometry(Granule::K4, 40);
    let table = table(geometry, true, (Recording::new(1 << 20), Jitter::default()));
    let (page, block, start) = (0x1000u64, 2u64 << 20, 1u64 << 30);
    let view = table.handle();
    // One page that nobody touches keeps the level-2 table, so that every entry's address tells its IPA.
    let map_page = |ipa: u64| {
        view.map(
            Ipa::new(ipa),
            page,
            Pa::new(ipa + LINE),
            &Attrs::new(Prot::RW),
            MapOptions::default(),
        )
    };
    map_page(start + 511 * block).unwrap();
    let level2 = table.tlb().0.take();
    let linked = level2.iter().find_map(|record| match record.event {
        Event::Store { new, .. } if new.is_valid() => Some(table.format().next_table(new)),
        _ => None,
    });
    let level2 = linked.unwrap().get();
    let round = |view: &Handle<'_, Arena, (Recording, Jitter)>, random: &mut Random| {
        for _ in 0..60 {
            let size = random.pick(&[page, 4 * page, block, block / 2, 2 * block]);
            let mut ipa = start + random.below(3 * block / page) * page;
            if random.below(2) == 0 {
                ipa &= !(block - 1);
            }
            let at = Ipa::new(ipa);
            let prot = random.pick(&[Prot::RW, Prot::R, Prot::RWX]);
            let _ = match random.below(9) {
                0..=2 => {
                    let options = options(random.pick(&[Existing::Replace, Existing::Keep, Existing::Error]));
                    let offset = random.pick(&[LINE, LINE, 5 * LINE]);
                    view.map(at, size, Pa::new(ipa + offset), &Attrs::new(prot), options)
                        .map(drop)
                }
                3 => view.unmap(at, size).map(drop),
                4 => view.write_protect(at, size).map(drop),
                5 => view.relax(at, size, prot).map(drop),
                6 => view.split(at, size, Level::L3).map(drop),
                7 => view.collapse(Ipa::new(start), 4 * block).map(drop),
                _ => view.test_and_clear_young(at, size, true).map(drop),
            };
            table.tlb().0.returned();
        }
    };
    let judged = AtomicU64::new(0);
    let check = |_: &Handle<'_, Arena, (Recording, Jitter)>, _: &Random| ();
    for seed in 0..2 {
        rounds(&table, 1, |me| Random(seed << 8 | me as u64), round, check);
        assert_eq!(table.tlb().0.dropped(), 0);
        // A frame that was linked in an earlier log has no link in this one: start each from an empty ground.
        view.unmap(Ipa::new(start), 8 * block).unwrap();
        table.tlb().0.returned();
        view.drain();
        let log = table.tlb().0.take();
        judged.fetch_add(judge(&log, &table, level2, start), Ordering::Relaxed);
    }
    assert!(
        judged.load(Ordering::Relaxed) > 1000,
        "{judged:?} breaks are too few to tell"
    );
}

/// What a thread has broken and not made yet.
#[derive(Clone, Copy, Debug)]
struct Broken {
    ipa: u64,
    size: u64,
    level: Level,
    /// 0: not invalidated, 1: a TLBI was issued, 2: it is complete.
    done: u8,
    /// A TABLE or what is under one: the TLBI must have no level hint.
    subtree: bool,
}

/// The life of one frame as a table of level 3.
#[derive(Clone, Copy, Debug, Default)]
struct Life {
    from: u64,
    to: u64,
    ipa: Option<u64>,
    retired: Option<u64>,
}

fn judge<T: Tlb>(log: &[Record], table: &Stage2<Arena, T>, level2: u64, start: u64) -> u64 {
    let (page, block) = (0x1000u64, 2u64 << 20);
    let ipa_of_level2 = |entry: u64| (entry & !0xfff == level2).then(|| start + (entry & 0xfff) / 8 * block);
    // Frames: which IPA each translated while it was out.
    let mut lives: HashMap<u64, Vec<Life>> = HashMap::new();
    for record in log {
        match record.event {
            Event::Allocate { frame } => lives.entry(frame.get()).or_default().push(Life {
                from: record.sequence,
                to: u64::MAX,
                ..Life::default()
            }),
            Event::Free { frame } => {
                let life = lives
                    .get_mut(&frame.get())
                    .and_then(|all| all.last_mut())
                    .expect("freed, never taken");
                assert_eq!(life.to, u64::MAX, "{frame} was freed twice");
                life.to = record.sequence;
            }
            _ => {}
        }
    }
    let life_at = |lives: &HashMap<u64, Vec<Life>>, frame: u64, sequence: u64| {
        lives
            .get(&frame)
            .and_then(|all| all.iter().position(|life| (life.from..=life.to).contains(&sequence)))
    };
    for record in log {
        match record.event {
            Event::Store { entry, new, .. } if new.is_table(Level::L2) && !new.is_frozen() => {
                let Some(ipa) = ipa_of_level2(entry.get()) else {
                    continue;
                };
                let frame = table.format().next_table(new).get();
                let life = life_at(&lives, frame, record.sequence).expect("a free frame was linked");
                lives.get_mut(&frame).unwrap()[life].ipa = Some(ipa);
            }
            Event::Retire { frame, .. } => {
                let life = life_at(&lives, frame.get(), record.sequence).expect("a free frame was retired");
                let life = &mut lives.get_mut(&frame.get()).unwrap()[life];
                assert!(
                    life.retired.replace(record.sequence).is_none(),
                    "{frame} was retired twice"
                );
            }
            _ => {}
        }
    }
    for (frame, all) in &lives {
        for life in all.iter().filter(|life| life.to != u64::MAX) {
            assert_eq!(life.ipa.is_some(), life.retired.is_some(), "{frame:#x}: {life:?}");
            assert!(
                life.retired.is_none_or(|retired| retired < life.to),
                "{frame:#x}: {life:?}"
            );
        }
    }
    let mut breaks = 0;
    let threads: std::collections::BTreeSet<usize> = log.iter().map(|record| record.thread).collect();
    for thread in threads {
        let mut open: HashMap<u64, Broken> = HashMap::new();
        let mut narrowed: Vec<Broken> = Vec::new();
        let mut just_made = None;
        for record in log.iter().filter(|record| record.thread == thread) {
            let place = |entry: u64| -> (u64, Level) {
                if let Some(ipa) = ipa_of_level2(entry) {
                    return (ipa, Level::L2);
                }
                let life = life_at(&lives, entry & !0xfff, record.sequence);
                let life = life.unwrap_or_else(|| panic!("{entry:#x} was written in a free frame: {record:?}"));
                let base = lives[&(entry & !0xfff)][life]
                    .ipa
                    .expect("a table that nobody linked was written");
                (base + (entry & 0xfff) / 8 * page, Level::L3)
            };
            match record.event {
                Event::Store { entry, old, new, .. } => {
                    let entry = entry.get();
                    let (ipa, level) = place(entry);
                    let size = if level == Level::L2 { block } else { page };
                    let broken = Broken {
                        ipa,
                        size,
                        level,
                        done: 0,
                        subtree: old.is_table(level) || new.is_frozen(),
                    };
                    just_made = None;
                    if old.is_locked() {
                        let broken = open.remove(&entry).expect("a make without a break");
                        // A table that was not unlinked after all gets its value back without any TLBI.
                        let called_off = broken.done == 0 && new.is_table(level) && broken.subtree;
                        assert!(called_off || broken.done == 2, "{broken:?} was made too early");
                        if called_off {
                            let inside = open.values().any(|b| (ipa..ipa + size).contains(&b.ipa));
                            assert!(!inside, "an entry stayed frozen");
                        } else {
                            open.retain(|_, b| {
                                let inside = (ipa..ipa + size).contains(&b.ipa);
                                assert!(!inside || b.done == 2, "{b:?} went without a TLBI");
                                !inside
                            });
                        }
                        just_made = Some(ipa);
                    } else if new.is_locked() || new.is_frozen() {
                        assert!(old.is_valid() || new.is_frozen() || !old.is_frozen());
                        let before = open.insert(entry, broken);
                        assert!(before.is_none());
                        breaks += 1;
                        if !old.is_valid() {
                            open.get_mut(&entry).unwrap().done = 2;
                        }
                    } else if old.is_frozen() {
                        open.remove(&entry).expect("a thaw by somebody else");
                    } else if old.is_valid() && loses(table, old, new) {
                        assert!(new.is_valid(), "{old} became {new} without a break");
                        narrowed.push(broken);
                    }
                }
                Event::Tlbi(tlbi) if tlbi.is_stage2() && tlbi.scope() == Scope::Broadcast => {
                    let (from, to, hint) = match tlbi {
                        Tlbi::Ipa { ipa, level, .. } => {
                            let size = if level == Some(Level::L2) { block } else { page };
                            (ipa.get() & !(size - 1), (ipa.get() & !(size - 1)) + size, level)
                        }
                        Tlbi::Range { ipa, pages, level, .. } => (ipa.get(), ipa.get() + pages * page, level),
                        _ => (0, u64::MAX, None),
                    };
                    for broken in open.values_mut().chain(&mut narrowed).filter(|broken| broken.done == 0) {
                        let covered = from <= broken.ipa && broken.ipa + broken.size <= to;
                        let hinted = match hint {
                            Some(level) => level == broken.level && !broken.subtree,
                            None => true,
                        };
                        if covered && hinted {
                            broken.done = 1;
                        }
                    }
                }
                Event::Dsb(Dsb::Ish) => {
                    for broken in open.values_mut().chain(&mut narrowed).filter(|broken| broken.done == 1) {
                        broken.done = 2;
                    }
                }
                Event::Return => {
                    assert!(open.is_empty(), "a call returned and left {open:?}");
                    for broken in narrowed.drain(..) {
                        assert_eq!(broken.done, 2, "{broken:?} is still writable somewhere");
                    }
                }
                Event::Retire { frame, .. } => {
                    let life = life_at(&lives, frame.get(), record.sequence).unwrap();
                    assert_eq!(
                        just_made,
                        lives[&frame.get()][life].ipa,
                        "retired before the make of its parent"
                    );
                }
                _ => {}
            }
        }
    }
    breaks
}

/// Whether a leaf loses a right or its access flag.
fn loses<T: Tlb>(table: &Stage2<Arena, T>, old: Pte, new: Pte) -> bool {
    let format = table.format();
    !new.is_valid() || format.af(old) && !format.af(new) || !format.prot(new).contains(format.prot(old))
}
