//! Frames run out for threads side by side, all the time and at every point. Each page has one owner, who knows what it must
//! be: a refused call has changed nothing, or in the one [corner](super::corner) a beginning of its range. In the end every frame is
//! accounted for.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use s2pt::arch::{Attrs, Format, Granule, Ipa, Level, Pa, Prot, Pte};
use s2pt::table::{Error, Existing, FrameCache, Handle, MapOptions, Null, Stage2};

use crate::chance::Random;
use crate::support::{Memory, arena, audit, dose, geometry};

const THREADS: u64 = 4;
/// Output address minus IPA where blocks form.
const LINE: u64 = 1 << 33;

/// What a page is: an output with its rights and access flag, an owner's mark, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Leaf { pa: u64, prot: Prot, young: bool },
    Mark(u64),
}

type Pages = BTreeMap<u64, Page>;

#[derive(Default)]
struct Tally {
    calls: AtomicU64,
    refused: AtomicU64,
    unchanged: AtomicU64,
    part_way: AtomicU64,
}

struct Owner<'t> {
    me: u64,
    page: u64,
    block: u64,
    start: u64,
    random: Random,
    pages: Pages,
    tally: &'t Tally,
}

fn now(view: &Handle<'_, Memory>, ipa: u64) -> Option<Page> {
    loop {
        let found = view.lookup(Ipa::new(ipa)).unwrap();
        let format: &Format = view.format();
        return if found.pte.is_locked() {
            std::thread::yield_now();
            continue;
        } else if found.pte.is_leaf(found.level) {
            Some(Page::Leaf {
                pa: format.output(found.pte, found.level).get() + (ipa - found.base.get()),
                prot: format.prot(found.pte),
                young: format.af(found.pte),
            })
        } else if found.pte.is_empty() {
            None
        } else {
            Some(Page::Mark(found.pte.raw()))
        };
    }
}

impl Owner<'_> {
    /// A range of one owner: a page of the two blocks that all share in turn, or a piece of the own block.
    fn range(&mut self) -> (u64, u64) {
        let (page, block) = (self.page, self.block);
        if self.random.below(3) == 0 {
            let turn = self.random.below(2 * block / page / THREADS);
            return (self.start + (turn * THREADS + self.me) * page, page);
        }
        let own = self.start + (2 + self.me) * block;
        let size = self.random.pick(&[page, 3 * page, 16 * page, block / 2, block, block]);
        let room = (block - size) / page + 1;
        (own + self.random.below(room) * page, size)
    }

    /// Whether the page is as it was, access flag aside: merging and cutting by peers may make it young or leave it.
    fn same(a: Option<Page>, b: Option<Page>) -> bool {
        match (a, b) {
            (
                Some(Page::Leaf { pa, prot, .. }),
                Some(Page::Leaf {
                    pa: to, prot: rights, ..
                }),
            ) => pa == to && prot == rights,
            (a, b) => a == b,
        }
    }

    /// Compares a range with what is known of it after a call that would have made it `wanted`. Says how many pages are done.
    fn check(
        &mut self,
        view: &Handle<'_, Memory>,
        (ipa, size): (u64, u64),
        refused: bool,
        whole: bool,
        wanted: &dyn Fn(u64, Option<Page>) -> Option<Page>,
    ) {
        let mut ended = false;
        let mut done = 0;
        for at in (ipa..ipa + size).step_by(self.page as usize) {
            let (old, is) = (self.pages.get(&at).copied(), now(view, at));
            let new = wanted(at, old);
            if !refused {
                assert!(Self::same(is, new), "{at:#x} is {is:x?}, and not {new:x?}");
            } else if !Self::same(old, new) {
                // A beginning is done, then nothing is.
                if Self::same(is, new) && !ended {
                    done += 1;
                } else {
                    assert!(Self::same(is, old), "{at:#x} is {is:x?} after a refusal, was {old:x?}");
                    ended = true;
                }
            } else {
                assert!(Self::same(is, old), "{at:#x} is {is:x?} after a refusal, was {old:x?}");
            }
            match is {
                Some(page) => self.pages.insert(at, page),
                None => self.pages.remove(&at),
            };
        }
        if refused {
            let tally = self.tally;
            tally.refused.fetch_add(1, Ordering::Relaxed);
            assert!(done == 0 || !whole, "{done} pages done by a call that must not");
            let kind = if done == 0 { &tally.unchanged } else { &tally.part_way };
            kind.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn step(&mut self, view: &Handle<'_, Memory>) {
        let range = self.range();
        let (ipa, size) = range;
        let (at, page) = (Ipa::new(ipa), self.page);
        let prot = self.random.pick(&[Prot::RW, Prot::RW, Prot::R]);
        let single = size == page;
        self.tally.calls.fetch_add(1, Ordering::Relaxed);
        let starved = |error: &Error| matches!(error, Error::OutOfFrames { .. });
        let mapped = |old: Option<Page>| matches!(old, Some(Page::Leaf { .. }));
        let occupied = self.pages.range(ipa..ipa + size).next().is_some();
        let any = self.pages.range(ipa..ipa + size).any(|(_, page)| mapped(Some(*page)));
        let marked = self.pages.range(ipa..ipa + size).any(|(_, page)| !mapped(Some(*page)));
        match self.random.below(20) {
            0..=7 => {
                let offset = if self.random.below(3) > 0 {
                    LINE
                } else {
                    (2 + self.me) << 40
                };
                let existing = self.random.pick(&[Existing::Replace, Existing::Keep, Existing::Error]);
                let options = MapOptions {
                    existing,
                    ..MapOptions::default()
                };
                let done = view.map(at, size, Pa::new(ipa + offset), &Attrs::new(prot), options);
                let refused = match &done {
                    Ok(_) => false,
                    Err(error) if starved(error) => true,
                    Err(Error::Conflict { .. }) => {
                        assert!(marked || existing == Existing::Error && occupied);
                        return self.check(view, range, false, true, &|_, old| old);
                    }
                    Err(Error::Again { .. }) if existing == Existing::Keep => {
                        return self.check(view, range, false, true, &|_, old| old);
                    }
                    Err(error) => panic!("{error}"),
                };
                let whole = single || existing == Existing::Error;
                self.check(view, range, refused, whole, &|ipa, old| match old {
                    Some(page) if existing == Existing::Keep => Some(page),
                    _ => Some(Page::Leaf {
                        pa: ipa + offset,
                        prot,
                        young: true,
                    }),
                });
            }
            8..=10 => {
                let refused = view
                    .unmap(at, size)
                    .is_err_and(|error| starved(&error) || panic!("{error}"));
                self.check(view, range, refused, single, &|_, _| None);
            }
            11..=13 => {
                let done = view.protect(at, size, prot);
                let refused = match &done {
                    Ok(_) => false,
                    Err(error) if starved(error) => true,
                    Err(Error::NotMapped { .. }) => {
                        assert!(!any);
                        false
                    }
                    Err(error) => panic!("{error}"),
                };
                self.check(view, range, refused, single, &|_, old| match old {
                    Some(Page::Leaf { pa, young, .. }) => Some(Page::Leaf { pa, prot, young }),
                    other => other,
                });
            }
            14 => {
                let owner = 1 + self.me;
                let refused = view
                    .annotate(at, size, owner)
                    .is_err_and(|error| starved(&error) || panic!("{error}"));
                let mark = Pte::annotated(owner).unwrap().raw();
                self.check(view, range, refused, single, &|_, _| Some(Page::Mark(mark)));
            }
            // Nobody's translation changes by these, so they may touch everybody's pages.
            15 | 16 => {
                let block = self.start + self.random.below(2 + THREADS) * self.block;
                match view.split(Ipa::new(block), self.block, Level::L3) {
                    Ok(_) => {}
                    Err(error) if starved(&error) => {
                        self.tally.refused.fetch_add(1, Ordering::Relaxed);
                        self.tally.unchanged.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            _ => {
                let block = self.start + self.random.below(2 + THREADS) * self.block;
                view.collapse(Ipa::new(block), self.block).unwrap();
            }
        }
    }
}

fn run(granule: Granule, ipa_bits: u8, lpa2: bool, spare: usize, cached: bool, calls: u64) {
    let geometry = geometry(granule, ipa_bits, lpa2);
    let config = s2pt::table::Config::new(geometry);
    let (page, block) = (granule.size(), geometry.size(Level::L2));
    let start = (block << granule.stride()).min(geometry.ipa_limit() - (2 + THREADS) * block) - block;
    let table = Stage2::new(config, arena(granule, None), Null).unwrap();
    // The tables above the pages stay, so that the quota is about the blocks: fewer tables of pages than blocks.
    table
        .handle()
        .annotate(Ipa::new(start - page), page, 99)
        .and_then(|()| {
            table
                .handle()
                .annotate(Ipa::new(start + (2 + THREADS) * block), page, 99)
        })
        .unwrap();
    table.memory().set_quota(Some(table.memory().stats().in_use + spare));
    let tally = Tally::default();
    let (barrier, done) = (Barrier::new(THREADS as usize + 1), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let owners: Vec<_> = (0..THREADS)
            .map(|me| {
                let (table, tally, barrier) = (&table, &tally, &barrier);
                scope.spawn(move || {
                    let cache = FrameCache::new(table.memory(), usize::from(cached && me == 0));
                    let view = table.handle();
                    let view = if cached { view.with_frame_cache(&cache) } else { view };
                    let mut owner = Owner {
                        me,
                        page,
                        block,
                        start,
                        random: Random(me << 32 | calls),
                        pages: Pages::new(),
                        tally,
                    };
                    barrier.wait();
                    (0..calls).for_each(|_| owner.step(&view));
                    for (&ipa, &known) in &owner.pages {
                        assert!(Owner::same(now(&view, ipa), Some(known)), "{ipa:#x} in the end");
                    }
                })
            })
            .collect();
        // One more fails requests of whoever comes next, at every distance.
        let (table, barrier, done) = (&table, &barrier, &done);
        scope.spawn(move || {
            barrier.wait();
            let mut k = 0;
            while !done.load(Ordering::Relaxed) {
                if table.memory().failing().is_none() {
                    table.memory().fail_allocation(k % 5);
                    k += 1;
                }
                std::thread::yield_now();
            }
            table.memory().fail_allocation(usize::MAX);
        });
        let ended: Vec<_> = owners.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|end| end.expect("an owner found its pages"));
    });
    table.memory().set_quota(None);
    audit(&table);
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{granule:?} {ipa_bits}, {spare} frames for {} blocks, cache {cached}: {} calls, {} refused, {} of them changed nothing, \
         {} did a beginning; most pending {}",
        2 + THREADS,
        count(&tally.calls),
        count(&tally.refused),
        count(&tally.unchanged),
        count(&tally.part_way),
        table.reclaim_stats().peak,
    );
    assert!(count(&tally.refused) > 0);
    assert_eq!(count(&tally.refused), count(&tally.unchanged) + count(&tally.part_way));
}

#[test]
fn owners_find_their_pages_after_every_refusal() {
    let calls = dose("S2PT_PRESSURE_CALLS", 240);
    for cached in [false, true] {
        run(Granule::K4, 40, false, 4, cached, 2 * calls);
        run(Granule::K4, 52, true, 3, cached, calls);
        run(Granule::K16, 40, false, 4, cached, calls / 4);
        run(Granule::K64, 42, false, 4, cached, calls / 16);
    }
}
