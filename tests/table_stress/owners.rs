//! Pages with an owner: each thread knows what its own must be, while peers act on the pages between them.

use std::collections::BTreeMap;

use crate::chance::Random;
use crate::soft_tlb::{Jitter, Judge, SoftTlb, page_now};
use crate::support::{Ground, LINE, THREADS, geometry, options, rounds, table};
use s2pt::arch::{Attrs, Granule, Ipa, Level, Pa, Prot};
use s2pt::memory::{Arena, TableMemory};
use s2pt::table::{Error, Existing, Handle, MapOptions, Null, Stage2};

/// What its owner knows of a page.
type Pages = BTreeMap<u64, (u64, Prot)>;

struct Owner {
    ground: Ground,
    me: u64,
    random: Random,
    pages: Pages,
    operations: usize,
}

impl Owner {
    /// A range of one owner: one page of the shared part, or a piece of the own block.
    fn range(&mut self) -> (u64, u64) {
        let Ground { page, block, start, .. } = self.ground;
        if self.random.below(3) > 0 {
            let turn = self.random.below(2 * block / page / THREADS as u64);
            return (start + (turn * THREADS as u64 + self.me) * page, page);
        }
        let own = start + (2 + self.me) * block;
        let size = self.random.pick(&[page, 3 * page, 16 * page, block / 2, block, block]);
        let room = (block - size) / page + 1;
        (own + self.random.below(room) * page, size)
    }

    fn step<T: Judge>(&mut self, view: &Handle<'_, Arena, T>, sink: &T) {
        let ground = self.ground;
        let (ipa, size) = self.range();
        let (at, page) = (Ipa::new(ipa), ground.page);
        let prot = self.random.pick(&[Prot::RW, Prot::RW, Prot::R, Prot::RWX]);
        let had: Vec<u64> = self.pages.range(ipa..ipa + size).map(|(&at, _)| at).collect();
        let bytes = had.len() as u64 * page;
        match self.random.below(20) {
            0..=6 => {
                // On the line, or where the address says who wrote and when.
                let offset = if self.random.below(3) > 0 {
                    LINE
                } else {
                    (2 + self.me) * (1 << 40) + self.random.below(64) * ground.block
                };
                let existing = self.random.pick(&[Existing::Replace, Existing::Keep, Existing::Error]);
                let made = view.map(at, size, Pa::new(ipa + offset), &Attrs::new(prot), options(existing));
                match (existing, made) {
                    (Existing::Keep, Err(Error::Again { .. })) => assert_eq!(bytes, size),
                    (Existing::Error, Err(Error::Conflict { ipa, .. })) => assert_eq!(Some(&ipa.get()), had.first()),
                    (Existing::Replace, made) => {
                        let made = made.unwrap();
                        assert_eq!(made.bytes + made.kept, size);
                        for ipa in (ipa..ipa + size).step_by(page as usize) {
                            self.pages.insert(ipa, (ipa + offset, prot));
                        }
                    }
                    (_, made) => {
                        assert_eq!(made.unwrap().bytes, size - bytes);
                        for ipa in (ipa..ipa + size).step_by(page as usize) {
                            self.pages.entry(ipa).or_insert((ipa + offset, prot));
                        }
                    }
                }
            }
            7 | 8 => {
                assert_eq!(view.unmap(at, size), Ok(bytes), "unmap of {size:#x} at {ipa:#x}");
                self.pages.retain(|at, _| !(ipa..ipa + size).contains(at));
            }
            9 | 10 => {
                assert_eq!(view.write_protect(at, size).unwrap().bytes, bytes);
                for at in &had {
                    self.pages.get_mut(at).unwrap().1 -= Prot::W;
                }
            }
            11 | 12 => match view.relax(at, size, prot) {
                Ok(changed) => {
                    assert_eq!(changed.bytes, bytes);
                    had.iter().for_each(|at| self.pages.get_mut(at).unwrap().1 |= prot);
                }
                Err(error) => assert!(bytes == 0 && matches!(error, Error::NotMapped { .. }), "{error}"),
            },
            13 => match view.protect(at, size, prot) {
                Ok(changed) => {
                    assert_eq!(changed.bytes, bytes);
                    had.iter().for_each(|at| self.pages.get_mut(at).unwrap().1 = prot);
                }
                Err(error) => assert!(bytes == 0 && matches!(error, Error::NotMapped { .. }), "{error}"),
            },
            // Nobody's translation changes by these, so they may touch everybody's pages.
            14 | 15 => {
                let block = ground.start + self.random.below(10) * ground.block;
                view.split(Ipa::new(block), ground.block, Level::L3).unwrap();
            }
            16 | 17 => {
                view.collapse(Ipa::new(ground.start), ground.size).unwrap();
            }
            18 => {
                let any = Ipa::new(ground.start + self.random.below(ground.size / page) * page);
                let flush = self.random.below(2) == 0;
                view.test_and_clear_young(any, page, flush).unwrap();
                let _ = view.mark_young(any, page);
            }
            _ => {
                // All of the own block's translations stay, so all are seen; a piece may come again in a block that a peer
                // has merged meanwhile.
                let own = ground.start + (2 + self.me) * ground.block;
                let (mut seen, mut to) = (0, own);
                for leaf in view.leaves(Ipa::new(own), ground.block).unwrap() {
                    let (from, end) = (leaf.ipa.get(), leaf.ipa.get() + leaf.size);
                    assert!(from >= own && end <= own + ground.block);
                    seen += end.saturating_sub(from.max(to));
                    to = to.max(end);
                }
                let expected = self.pages.range(own..own + ground.block).count() as u64 * page;
                assert_eq!(seen, expected, "leaves of the own block");
            }
        }
        let offset = self.random.below(size / page) * page;
        self.check_page(view, sink, ipa + offset);
        sink.access(view, ipa + offset);
        sink.access(view, ground.start + self.random.below(2 * ground.block / page) * page);
    }

    fn check_page<T: Judge>(&self, view: &Handle<'_, Arena, T>, sink: &T, ipa: u64) {
        let expected = self.pages.get(&ipa).copied();
        assert_eq!(page_now(view, ipa), expected, "thread {} at {ipa:#x}", self.me);
        for (pa, prot) in sink.cached(ipa) {
            let fresh = expected.is_some_and(|(now, rights)| now == pa && rights.contains(prot));
            assert!(fresh, "{ipa:#x} is {expected:x?}, a CPU uses {pa:#x} {prot}");
        }
    }

    /// All own pages, those that are mapped and those that must not be.
    fn check<T: Judge>(&self, view: &Handle<'_, Arena, T>) {
        let Ground { page, block, start, .. } = self.ground;
        let shared = (start + self.me * page..start + 2 * block).step_by(THREADS * page as usize);
        let own = start + (2 + self.me) * block;
        for ipa in shared.chain((own..own + block).step_by(page as usize)) {
            assert_eq!(
                page_now(view, ipa),
                self.pages.get(&ipa).copied(),
                "thread {} at {ipa:#x}",
                self.me
            );
        }
    }

    /// Now and then the two shared blocks are all of one piece, so that they merge and are cut all the time.
    fn even_out<T: Judge>(&mut self, view: &Handle<'_, Arena, T>) {
        let Ground { page, block, start, .. } = self.ground;
        for ipa in (start + self.me * page..start + 2 * block).step_by(THREADS * page as usize) {
            view.map(
                Ipa::new(ipa),
                page,
                Pa::new(ipa + LINE),
                &Attrs::new(Prot::RW),
                MapOptions::default(),
            )
            .unwrap();
            self.pages.insert(ipa, (ipa + LINE, Prot::RW));
        }
        view.collapse(Ipa::new(start), 2 * block).unwrap();
    }

    fn clear<T: Judge>(&mut self, view: &Handle<'_, Arena, T>) {
        for (ipa, _) in std::mem::take(&mut self.pages) {
            assert_eq!(view.unmap(Ipa::new(ipa), self.ground.page), Ok(self.ground.page));
        }
    }
}

/// Each thread keeps a sequential record of its own pages while peers act on the pages between them.
fn owners<T: Judge>(table: &Stage2<Arena, T>, number_of_rounds: usize, operations: usize) {
    let ground = Ground::new(&table.config().geometry);
    let state = |me: usize| Owner {
        ground,
        me: me as u64,
        random: Random(me as u64 * 0x1234_5678_9abc),
        pages: Pages::new(),
        operations: 0,
    };
    let round = |view: &Handle<'_, Arena, T>, owner: &mut Owner| {
        match owner.operations / operations % 4 {
            1 | 2 => owner.even_out(view),
            // Everything goes, tables too, while others start to come.
            3 => owner.clear(view),
            _ => {}
        }
        for _ in 0..operations {
            owner.step(view, table.tlb());
            owner.operations += 1;
        }
    };
    rounds(table, number_of_rounds, state, round, |view, owner| owner.check(view));
    let view = table.handle();
    view.unmap(Ipa::new(0), ground.start + ground.size).unwrap();
    view.drain();
    assert_eq!(
        table.memory().frames_in_use() as u32,
        table.config().geometry.root_frames()
    );
}

#[test]
fn owners_lose_nothing_without_a_sink() {
    owners(&table(geometry(Granule::K4, 40), true, Null), 8, 200);
}

#[test]
fn owners_lose_nothing_and_no_cpu_keeps_a_stale_translation() {
    let geometry = geometry(Granule::K4, 40);
    owners(&table(geometry, true, SoftTlb::new(0x1000)), 6, 100);
    owners(&table(geometry, false, SoftTlb::new(0x1000)), 4, 60);
}

#[test]
fn owners_lose_nothing_at_the_top_of_sixteen_root_pages() {
    let geometry = geometry(Granule::K4, 43);
    assert_eq!(geometry.root_frames(), 16);
    owners(&table(geometry, true, Jitter::default()), 4, 100);
}

#[test]
fn owners_lose_nothing_in_tables_of_8192_entries() {
    owners(&table(geometry(Granule::K64, 42), true, Jitter::default()), 2, 8);
}
