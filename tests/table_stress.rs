//! Eight threads change one table at once. Whatever they do, no acknowledged operation may be lost, no CPU may keep a translation
//! that was taken away, and every frame must come back.
//!
//! The judge of stale translations is a small simulated TLB shared by all threads: it caches leaves as it finds them and drops only
//! what a broadcast TLBI names, with the level hint taken at its word.

#[path = "chance/mod.rs"]
mod chance;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};

use chance::Random;
use s2pt::arch::{Attrs, Dsb, Geometry, GeometryOptions, Granule, Ipa, Level, Pa, Prot, Pte, Scope, Tlbi};
use s2pt::memory::{Arena, ArenaOptions, TableMemory};
use s2pt::table::{Config, Error, Event, Existing, Handle, MapOptions, Null, Record, Recording, Stage2, Tlb};

const THREADS: usize = 8;
/// Output address minus IPA where mappings lie on the line on which blocks form.
const LINE: u64 = 1 << 33;

/// Gives peers the core where it hurts most: while an entry is LOCKED, and between a freeze and the next.
#[derive(Default)]
struct Jitter(AtomicU64);

impl Tlb for Jitter {
    fn event(&self, event: Event) {
        let often = match event {
            Event::Tlbi(_) | Event::Dsb(_) => 2,
            Event::Store { old, new, .. } if old.is_locked() || new.is_locked() => 4,
            Event::Store { .. } => 64,
            _ => return,
        };
        if self.0.fetch_add(1, Ordering::Relaxed).is_multiple_of(often) {
            std::thread::yield_now();
        }
    }
}

/// A leaf as a TLB holds it.
#[derive(Clone, Copy, Debug)]
struct Cached {
    level: Level,
    size: u64,
    pa: u64,
    prot: Prot,
}

/// One TLB for all: local invalidations leave it alone, as they do any other core's.
struct SoftTlb {
    entries: Mutex<HashMap<u64, Vec<Cached>>>,
    page: u64,
    jitter: Jitter,
}

impl SoftTlb {
    fn new(page: u64) -> Self {
        Self {
            entries: Mutex::default(),
            page,
            jitter: Jitter::default(),
        }
    }

    /// An access: the walk and the fill are one step for an invalidation, as a DSB waits for walks under way.
    fn access<T: Tlb>(&self, view: &Handle<'_, Arena, T>, ipa: u64) {
        let mut entries = self.entries.lock().unwrap();
        let found = view.lookup(Ipa::new(ipa)).unwrap();
        if !found.pte.is_leaf(found.level) {
            return;
        }
        let format = view.format();
        let cached = Cached {
            level: found.level,
            size: view.config().geometry.size(found.level),
            pa: format.output(found.pte, found.level).get(),
            prot: format.prot(found.pte),
        };
        entries.entry(found.base.get()).or_default().push(cached);
    }

    fn drop_range(&self, start: u64, end: u64, level: Option<Level>) {
        let gone = |base: u64, cached: &Cached| {
            base < end && base + cached.size > start && level.is_none_or(|level| level == cached.level)
        };
        self.entries.lock().unwrap().retain(|&base, all| {
            all.retain(|cached| !gone(base, cached));
            !all.is_empty()
        });
    }

    /// What is cached for a page, as output addresses and rights.
    fn cached(&self, ipa: u64) -> Vec<(u64, Prot)> {
        let entries = self.entries.lock().unwrap();
        let hits = entries
            .iter()
            .flat_map(|(&base, all)| all.iter().map(move |cached| (base, cached)));
        hits.filter(|(base, cached)| (*base..base + cached.size).contains(&ipa))
            .map(|(base, cached)| (cached.pa + (ipa - base), cached.prot))
            .collect()
    }

    /// Nothing is cached that the table does not say; narrower rights are allowed.
    fn check_all<T: Tlb>(&self, view: &Handle<'_, Arena, T>) {
        let entries = self.entries.lock().unwrap();
        for (&base, all) in entries.iter() {
            for cached in all {
                for ipa in (base..base + cached.size).step_by(self.page as usize) {
                    let now = page_now(view, ipa);
                    let stale =
                        !now.is_some_and(|(pa, prot)| pa == cached.pa + (ipa - base) && prot.contains(cached.prot));
                    assert!(!stale, "{ipa:#x} is {now:x?}, a CPU holds {cached:x?} from {base:#x}");
                }
            }
        }
    }
}

impl Tlb for SoftTlb {
    fn event(&self, event: Event) {
        match event {
            Event::Tlbi(Tlbi::Ipa {
                ipa,
                level,
                scope: Scope::Broadcast,
            }) => self.drop_range(ipa.get(), ipa.get() + self.page, level),
            Event::Tlbi(Tlbi::Range {
                ipa,
                pages,
                level,
                scope: Scope::Broadcast,
            }) => self.drop_range(ipa.get(), ipa.get() + pages * self.page, level),
            Event::Tlbi(Tlbi::Vmid) => self.entries.lock().unwrap().clear(),
            _ => {}
        }
        self.jitter.event(event);
    }
}

/// What a sink can say about stale translations.
trait Judge: Tlb + Sized {
    fn access(&self, _: &Handle<'_, Arena, Self>, _: u64) {}
    fn cached(&self, _: u64) -> Vec<(u64, Prot)> {
        Vec::new()
    }
    fn check_all(&self, _: &Handle<'_, Arena, Self>) {}
}

impl Judge for Null {}
impl Judge for Jitter {}

impl Judge for SoftTlb {
    fn access(&self, view: &Handle<'_, Arena, Self>, ipa: u64) {
        SoftTlb::access(self, view, ipa);
    }
    fn cached(&self, ipa: u64) -> Vec<(u64, Prot)> {
        SoftTlb::cached(self, ipa)
    }
    fn check_all(&self, view: &Handle<'_, Arena, Self>) {
        SoftTlb::check_all(self, view);
    }
}

impl<A: Tlb> Judge for (Recording, A) {}

/// Output and rights of a page, once nobody is between break and make there.
fn page_now<T: Tlb>(view: &Handle<'_, Arena, T>, ipa: u64) -> Option<(u64, Prot)> {
    loop {
        let found = view.lookup(Ipa::new(ipa)).unwrap();
        if found.pte.is_locked() {
            std::thread::yield_now();
            continue;
        }
        assert!(!found.pte.is_frozen());
        let format = view.format();
        return found.pte.is_leaf(found.level).then(|| {
            let output = format.output(found.pte, found.level).get();
            (output + (ipa - found.base.get()), format.prot(found.pte))
        });
    }
}

fn geometry(granule: Granule, ipa_bits: u8) -> Geometry {
    let options = GeometryOptions {
        granule,
        ipa_bits,
        ..GeometryOptions::default()
    };
    Geometry::new(options).unwrap()
}

fn table<T: Tlb>(geometry: Geometry, tlbi_range: bool, sink: T) -> Stage2<Arena, T> {
    let arena = Arena::new(ArenaOptions {
        granule: geometry.granule(),
        capacity_frames: 4096,
        ..ArenaOptions::default()
    })
    .unwrap();
    let mut config = Config::new(geometry);
    config.tlbi_range = tlbi_range;
    Stage2::new(config, arena, sink).unwrap()
}

fn options(existing: Existing) -> MapOptions {
    MapOptions {
        existing,
        ..MapOptions::default()
    }
}

/// Between rounds, with all threads out: no traces of a change under way, and every frame accounted for.
fn check_quiet<T: Judge>(table: &Stage2<Arena, T>) {
    let view = table.handle();
    view.drain();
    let stats = view.stats();
    assert_eq!((stats.locked, stats.frozen, table.pending_frames()), (0, 0, 0));
    assert_eq!(table.memory().frames_in_use() as u64, stats.table_frames());
    assert_eq!(table.memory().stats().reserved, 0, "a reservation leaked");
    table.tlb().check_all(&view);
}

/// Runs `round(thread, round)` on eight threads, all of them at a barrier before and after each, and `check` alone in between.
fn rounds<T: Judge, S: Send>(
    table: &Stage2<Arena, T>,
    rounds: usize,
    state: impl Fn(usize) -> S + Sync,
    round: impl Fn(&Handle<'_, Arena, T>, &mut S) + Sync,
    check: impl Fn(&Handle<'_, Arena, T>, &S) + Sync,
) {
    let barrier = Barrier::new(THREADS);
    let failed = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for me in 0..THREADS {
            let (barrier, failed, state, round, check) = (&barrier, &failed, &state, &round, &check);
            scope.spawn(move || {
                let view = table.handle();
                let mut mine = state(me);
                // A thread that fails must still come to every barrier, or the others wait for ever.
                let mut broken = None;
                let mut guarded = |work: &mut dyn FnMut()| {
                    if !failed.load(Ordering::SeqCst)
                        && let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                    {
                        failed.store(true, Ordering::SeqCst);
                        broken = Some(panic);
                    }
                    barrier.wait();
                };
                for _ in 0..rounds {
                    guarded(&mut || {});
                    guarded(&mut || round(&view, &mut mine));
                    guarded(&mut || check(&view, &mine));
                    guarded(&mut || {
                        if me == 0 {
                            check_quiet(table);
                        }
                    });
                }
                if let Some(panic) = broken {
                    std::panic::resume_unwind(panic);
                }
            });
        }
    });
}

/// What its owner knows of a page.
type Pages = BTreeMap<u64, (u64, Prot)>;

/// Who owns which page. Two blocks are shared: their pages belong to the threads in turn. Behind them each thread has a block
/// of its own. All of it lies across a border of the level above, as high as the space goes.
#[derive(Clone, Copy)]
struct Ground {
    page: u64,
    block: u64,
    start: u64,
    size: u64,
}

impl Ground {
    fn new(geometry: &Geometry) -> Self {
        let (page, block) = (geometry.granule().size(), geometry.size(Level::L2));
        let above = block << geometry.granule().stride();
        let size = (2 + THREADS as u64) * block;
        let border = (geometry.ipa_limit() - size).next_multiple_of(above.min(geometry.ipa_limit()));
        let start = (border - block).min(geometry.ipa_limit() - size);
        Self {
            page,
            block,
            start,
            size,
        }
    }
}

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

/// No owners: every operation on every range, nested unlinks included. What is there at the end must be something that somebody
/// could have written, and what the TLB holds must be there.
fn chaos<T: Judge>(table: &Stage2<Arena, T>, number_of_rounds: usize, operations: usize, no_wait: bool) {
    let geometry = table.config().geometry;
    let Ground { page, block, start, .. } = Ground::new(&geometry);
    let above = geometry.size(Level::L1);
    let state = |me: usize| Random(me as u64 * 77);
    let round = |view: &Handle<'_, Arena, T>, random: &mut Random| {
        let fault = view.without_waiting();
        for _ in 0..operations {
            let view = if no_wait && random.below(3) == 0 { &fault } else { view };
            let size = random.pick(&[page, page, 9 * page, block / 2, block, block, 2 * block, block + page]);
            let mut ipa = start + random.below(3 * block / page) * page;
            if random.below(2) == 0 {
                ipa &= !(block - 1);
            }
            let at = Ipa::new(ipa);
            let prot = random.pick(&[Prot::RW, Prot::R, Prot::RWX, Prot::RW]);
            let answer = match random.below(12) {
                0..=3 => {
                    let offset = random.pick(&[LINE, LINE, LINE, 3 * LINE + page]);
                    let options = MapOptions {
                        existing: random.pick(&[Existing::Replace, Existing::Keep, Existing::Error]),
                        largest: random.pick(&[None, None, Some(Level::L3)]),
                        over_tables: random.below(2) == 0,
                        flags: s2pt::table::WalkFlags::empty(),
                    };
                    view.map(at, size, Pa::new(ipa + offset), &Attrs::new(prot), options)
                        .map(drop)
                }
                4 => view.unmap(at, size).map(drop),
                5 if random.below(8) == 0 => {
                    // Both tables of the level above, whole: everything goes, with what peers hold inside.
                    let first = start & !(above - 1);
                    view.unmap(Ipa::new(first), (2 * above).min(geometry.ipa_limit() - first))
                        .map(drop)
                }
                5 | 6 => view.write_protect(at, size).map(drop),
                7 => view.relax(at, size, prot).map(drop),
                8 => view.protect(at, size, prot).map(drop),
                9 => view.split(at, size, Level::L3).map(drop),
                10 => view.collapse(Ipa::new(start), 4 * block).map(drop),
                _ => view.test_and_clear_young(at, size, true).map(drop),
            };
            match answer {
                Ok(()) | Err(Error::NotMapped { .. } | Error::Conflict { .. } | Error::Again { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            table.tlb().access(view, start + random.below(4 * block / page) * page);
        }
    };
    rounds(table, number_of_rounds, state, round, |view, _| {
        for leaf in view.leaves(Ipa::new(0), geometry.ipa_limit()).unwrap() {
            let offset = leaf.pa.get() - leaf.ipa.get();
            assert!([LINE, 3 * LINE + page].contains(&offset), "{leaf:x?}");
            assert!(leaf.level == Level::L3 || leaf.level == Level::L2);
        }
    });
    let view = table.handle();
    view.unmap(Ipa::new(0), geometry.ipa_limit()).unwrap();
    view.drain();
    assert_eq!(table.memory().frames_in_use() as u32, geometry.root_frames());
}

#[test]
fn chaos_leaves_nothing_behind() {
    chaos(&table(geometry(Granule::K4, 40), true, Null), 6, 200, true);
    chaos(&table(geometry(Granule::K4, 40), true, Jitter::default()), 4, 100, true);
}

#[test]
fn chaos_leaves_no_stale_translation() {
    chaos(
        &table(geometry(Granule::K4, 40), true, SoftTlb::new(0x1000)),
        8,
        100,
        true,
    );
    chaos(
        &table(geometry(Granule::K4, 40), false, SoftTlb::new(0x1000)),
        4,
        60,
        false,
    );
}

#[test]
fn chaos_in_tables_of_2048_and_8192_entries() {
    chaos(
        &table(geometry(Granule::K16, 40), true, SoftTlb::new(0x4000)),
        3,
        15,
        true,
    );
    chaos(&table(geometry(Granule::K64, 42), true, Jitter::default()), 1, 8, true);
}

/// Frames run out all the time; whatever was reserved and not used must come back.
#[test]
fn chaos_without_frames_loses_no_reservation() {
    let table = table(geometry(Granule::K4, 40), true, Jitter::default());
    let Ground { page, block, start, .. } = Ground::new(&table.config().geometry);
    table.memory().set_quota(Some(8));
    let refused = AtomicU64::new(0);
    let round = |view: &Handle<'_, Arena, Jitter>, random: &mut Random| {
        for _ in 0..150 {
            let ipa = start + random.below(4 * block / page) * page;
            let size = random.pick(&[page, 3 * page, block, 2 * block + page]);
            let at = Ipa::new(ipa);
            let answer = match random.below(5) {
                0 | 1 => {
                    let options = options(random.pick(&[Existing::Replace, Existing::Keep, Existing::Error]));
                    view.map(at, size, Pa::new(ipa + LINE), &Attrs::new(Prot::RW), options)
                        .map(drop)
                }
                2 => view.unmap(at, size).map(drop),
                3 => view.write_protect(at, size).map(drop),
                _ => view.split(at, size, Level::L3).map(drop),
            };
            match answer {
                Err(Error::OutOfFrames { .. }) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                Ok(()) | Err(Error::Conflict { .. } | Error::Again { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    rounds(&table, 8, |me| Random(me as u64), round, |_, _| ());
    assert!(refused.load(Ordering::Relaxed) > 0);
}

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

/// An iterator stands in a table that a peer merges.
#[test]
fn leaves_do_not_overlap_beside_a_collapse() {
    let table = table(geometry(Granule::K4, 40), true, Null);
    let (block, running) = (2u64 << 20, std::sync::atomic::AtomicBool::new(true));
    table
        .handle()
        .map(
            Ipa::new(block),
            block,
            Pa::new(block),
            &Attrs::new(Prot::RW),
            MapOptions::default(),
        )
        .unwrap();
    let overlaps = std::thread::scope(|scope| {
        scope.spawn(|| {
            let view = table.handle();
            while running.load(Ordering::Relaxed) {
                view.split(Ipa::new(block), block, Level::L3).unwrap();
                view.collapse(Ipa::new(block), block).unwrap();
            }
        });
        let view = table.handle();
        let bytes = || {
            view.leaves(Ipa::new(block), block)
                .unwrap()
                .map(|leaf| leaf.size)
                .sum::<u64>()
        };
        let overlaps = (0..20_000).filter(|_| bytes() != block).count();
        running.store(false, Ordering::Relaxed);
        overlaps
    });
    assert_eq!(overlaps, 0, "of 20000 iterations over one block");
}

/// KVM's semantics under the same judge: blocks go whole, so nobody owns a page; what must hold is that no CPU keeps what the
/// table no longer says, that every leaf maps its own memory, and that every frame is accounted for.
fn as_kvm(one_tlbi: bool, seed: u64) {
    let geometry = geometry(Granule::K4, 36);
    let sink = SoftTlb::new(geometry.granule().size());
    let arena = Arena::new(ArenaOptions {
        capacity_frames: 4096,
        ..ArenaOptions::default()
    })
    .unwrap();
    let config = Config {
        fwb: one_tlbi,
        tlbi_range: one_tlbi,
        ..Config::kvm(geometry)
    };
    let table = Stage2::new(config, arena, sink).unwrap();
    let ground = Ground::new(&geometry);
    let pages = ground.size / ground.page;
    let range = |random: &mut Random| {
        let most = random.pick(&[1, 3, 512, 1500]);
        let (first, count) = (random.below(pages), 1 + random.below(most));
        let (first, count) = if random.below(3) == 0 {
            (first / 512 * 512, count.next_multiple_of(512))
        } else {
            (first, count)
        };
        let first = first.min(pages - count.min(pages));
        (
            Ipa::new(ground.start + first * ground.page),
            count.min(pages - first) * ground.page,
        )
    };
    rounds(
        &table,
        12,
        |me| Random(seed << 8 | me as u64),
        |view, random| {
            for _ in 0..60 {
                let (ipa, size) = range(random);
                let pa = Pa::new(ipa.get() + LINE);
                let fault = random.below(2) == 0;
                let vcpu = if fault {
                    view.without_waiting()
                } else {
                    view.with_frames(usize::MAX)
                };
                let done = match random.below(12) {
                    0..=4 => {
                        let prot = random.pick(&[Prot::R, Prot::RW, Prot::RWX]);
                        let software = random.below(2) as u8;
                        let attrs = Attrs {
                            software,
                            ..Attrs::new(prot)
                        };
                        let options = if fault {
                            MapOptions::KVM_FAULT
                        } else {
                            MapOptions::default()
                        };
                        vcpu.map(ipa, size, pa, &attrs, options).map(drop)
                    }
                    5..=7 => vcpu.unmap(ipa, size).map(drop),
                    8 => vcpu.relax(ipa, ground.page, Prot::RW).map(drop),
                    9 => vcpu.split(ipa, size, Level::L3).map(drop),
                    10 => vcpu.write_protect(ipa, size).and_then(|_| vcpu.flush_tlb(ipa, size)),
                    _ => vcpu.annotate(ipa, ground.page, random.below(2)),
                };
                assert!(
                    matches!(done, Ok(()) | Err(Error::Again { .. } | Error::Conflict { .. })),
                    "{done:?}"
                );
                table.tlb().access(view, ipa.get());
            }
        },
        |view, _| {
            for leaf in view.leaves(Ipa::new(0), geometry.ipa_limit()).unwrap() {
                assert_eq!(leaf.pa.get(), leaf.ipa.get() + LINE);
            }
        },
    );
    let rest = table.handle();
    rest.unmap(Ipa::new(0), geometry.ipa_limit()).unwrap();
    rest.drain();
    assert_eq!(rest.stats().table_frames(), u64::from(geometry.root_frames()));
    assert_eq!(table.memory().frames_in_use() as u64, rest.stats().table_frames());
}

#[test]
fn kvm_semantics_leaf_by_leaf() {
    as_kvm(false, 1);
}

#[test]
fn kvm_semantics_with_one_tlbi() {
    as_kvm(true, 2);
}
