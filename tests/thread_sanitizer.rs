//! Eight threads do everything there is to one table, as ThreadSanitizer can judge it.
//!
//! ThreadSanitizer reports a plain access and another one of the same word that nothing orders. The plain accesses of the
//! table are those to frames that their holder is alone with: a new table is filled before it is linked, a frame is zeroed
//! when it is freed. So a release that is missing where a table is linked, an acquire where a walk follows it, a grace
//! period that is too short, a frame that is handed out while somebody reads it: each is a race here, in whatever order
//! the threads happened to run.
//!
//! std is not instrumented, so what orders memory inside of it is not seen: locks under contention, channels, barriers,
//! scopes, the test runner. Hence a program of its own (`harness = false`), and between the threads nothing but the table,
//! `spawn` and `join`. crossbeam-epoch says its fences in a way that ThreadSanitizer understands. The crate's own fences
//! order atomics with atomics only, so nothing needs to be said about them. Nothing is suppressed.
//!
//! ```text
//! RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer" \
//!     S2PT_CAMPAIGN_SECONDS=20 cargo test --profile faults --target x86_64-unknown-linux-gnu --test thread_sanitizer
//! ```
//!
//! `S2PT_SEED_A_RACE=1` has two threads break the rule about private frames instead: ThreadSanitizer must end that with
//! exit code 66. Without the sanitizer it is a stress test like others, and short.
#![cfg(not(any(loom, shuttle)))]

#[path = "chance/mod.rs"]
mod chance;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chance::Random;
use s2pt::arch::{AccessKind, Attrs, EntryKind, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
use s2pt::memory::{Arena, ArenaOptions, TableMemory};
use s2pt::table::{Config, Error, Event, Existing, FrameCache, Handle, MapOptions, Null, Stage2, Stay, Tlb};

const THREADS: u64 = 8;
/// Of one thread in a round.
const OPERATIONS: usize = 399;
const PAGE: u64 = 0x1000;
const BLOCK: u64 = 2 << 20;
/// Pages of the first two blocks belong to the threads in turn; behind them each thread has a block of its own.
const START: u64 = 3 << 30;
const SHARED: u64 = 2 * BLOCK;
/// Output address minus IPA where mappings lie on the line on which blocks form.
const LINE: u64 = 1 << 33;

/// Gives peers the core while an entry is LOCKED, and counts.
#[derive(Default)]
struct Jitter {
    events: AtomicU64,
    freed: AtomicU64,
}

impl Tlb for Jitter {
    fn event(&self, event: Event) {
        // Relaxed all over: what this orders, ThreadSanitizer would take for the table's own order.
        let often = match event {
            Event::Free { .. } => {
                self.freed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Event::Tlbi(_) | Event::Dsb(_) => 2,
            Event::Store { old, new, .. } if old.is_locked() || new.is_locked() => 4,
            Event::Store { .. } => 64,
            _ => return,
        };
        if self.events.fetch_add(1, Ordering::Relaxed).is_multiple_of(often) {
            std::thread::yield_now();
        }
    }
}

/// What its owner knows of a page that is not empty.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Page {
    Mapped(u64, Prot),
    Marked(u64),
}

struct Owner {
    me: u64,
    random: Random,
    pages: BTreeMap<u64, Page>,
}

impl Owner {
    /// One page of the shared blocks, or a piece of the own one.
    fn range(&mut self) -> (u64, u64) {
        if self.random.below(3) > 0 {
            let turn = self.random.below(SHARED / PAGE / THREADS);
            return (START + (turn * THREADS + self.me) * PAGE, PAGE);
        }
        let size = self.random.pick(&[PAGE, 5 * PAGE, BLOCK / 4, BLOCK]);
        let own = START + SHARED + self.me * BLOCK;
        (own + self.random.below((BLOCK - size) / PAGE + 1) * PAGE, size)
    }

    /// One operation, by a handle or inside of a stay, and a look at what it left.
    fn step<T: Tlb>(&mut self, view: &Way<'_, '_, T>) {
        let (ipa, size) = self.range();
        let at = Ipa::new(ipa);
        let prot = self.random.pick(&[Prot::RW, Prot::RW, Prot::R, Prot::RWX]);
        let pages = || (ipa..ipa + size).step_by(PAGE as usize);
        let mapped = |pages: &BTreeMap<u64, Page>| {
            let hits = pages
                .range(ipa..ipa + size)
                .filter(|(_, page)| matches!(page, Page::Mapped(..)));
            hits.map(|(&at, _)| at).collect::<Vec<_>>()
        };
        let had = mapped(&self.pages);
        let bytes = had.len() as u64 * PAGE;
        let marked = self
            .pages
            .range(ipa..ipa + size)
            .any(|(_, page)| matches!(page, Page::Marked(_)));
        let set = |pages: &mut BTreeMap<u64, Page>, change: &dyn Fn(Prot) -> Prot| {
            for at in &had {
                let Some(Page::Mapped(_, prot)) = pages.get_mut(at) else {
                    unreachable!()
                };
                *prot = change(*prot);
            }
        };
        let none = |error: Error| assert!(bytes == 0 && matches!(error, Error::NotMapped { .. }), "{error}");
        match self.random.below(20) {
            0..=5 => {
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
                match view.map(at, size, Pa::new(ipa + offset), &Attrs::new(prot), options) {
                    Ok(_) => {
                        for ipa in pages() {
                            let new = Page::Mapped(ipa + offset, prot);
                            if existing == Existing::Replace {
                                self.pages.insert(ipa, new);
                            } else {
                                self.pages.entry(ipa).or_insert(new);
                            }
                        }
                    }
                    // A mark is written over by nobody.
                    Err(Error::Conflict { .. } | Error::Again { .. }) if marked => {}
                    Err(Error::Conflict { .. }) => assert!(existing == Existing::Error && bytes > 0),
                    Err(error) => {
                        assert!(
                            matches!(error, Error::Again { .. }) && existing == Existing::Keep,
                            "{error}"
                        );
                        assert_eq!(bytes, size);
                    }
                }
            }
            6..=8 => {
                assert_eq!(view.unmap(at, size), Ok(bytes));
                self.pages.retain(|at, _| !(ipa..ipa + size).contains(at));
            }
            // Single pages only: a range with marks in it would be refused nearly always.
            9 if size == PAGE && ipa < START + SHARED => {
                let mark = self.random.below(4);
                view.annotate(at, size, mark).unwrap();
                for at in pages() {
                    self.pages.remove(&at);
                    if mark > 0 {
                        self.pages.insert(at, Page::Marked(mark));
                    }
                }
            }
            10 | 11 => {
                assert_eq!(view.write_protect(at, size).unwrap().bytes, bytes);
                set(&mut self.pages, &|prot| prot - Prot::W);
            }
            12 => match view.relax(at, size, prot) {
                Ok(_) => set(&mut self.pages, &|old| old | prot),
                Err(error) => none(error),
            },
            13 => match view.protect(at, size, prot) {
                Ok(_) => set(&mut self.pages, &|_| prot),
                Err(error) => none(error),
            },
            _ => self.meddle(view),
        }
        let offset = self.random.below(size / PAGE) * PAGE;
        self.check(view, ipa + offset);
    }

    /// What changes nobody's translation, anywhere.
    fn meddle<T: Tlb>(&mut self, view: &Way<'_, '_, T>) {
        let block = Ipa::new(START + self.random.below(2 + THREADS) * BLOCK);
        let page = Ipa::new(block.get() + self.random.below(BLOCK / PAGE) * PAGE);
        match self.random.below(7) {
            0 => drop(view.split(block, BLOCK, Level::L3).unwrap()),
            1 => drop(view.collapse(Ipa::new(START), SHARED + THREADS * BLOCK).unwrap()),
            2 => drop(
                view.test_and_clear_young(page, PAGE, self.random.below(2) == 0)
                    .unwrap(),
            ),
            3 => drop(view.mark_young(page, PAGE)),
            4 => drop(view.leaves(block, BLOCK).unwrap().count()),
            5 => drop(view.flush_cache(block, BLOCK).unwrap()),
            _ => drop(view.translate(page, AccessKind::Read)),
        }
    }

    /// A page is as its owner left it, once nobody is between break and make there.
    fn check<T: Tlb>(&self, view: &Way<'_, '_, T>, ipa: u64) {
        let found = loop {
            let found = view.lookup(Ipa::new(ipa)).unwrap();
            if !found.pte.is_locked() {
                break found;
            }
            std::thread::yield_now();
        };
        let page = match found.pte.kind(found.level) {
            EntryKind::Annotated(owner) => Some(Page::Marked(owner)),
            _ if found.pte.is_leaf(found.level) => {
                let output = view.format().output(found.pte, found.level).get() + (ipa - found.base.get());
                Some(Page::Mapped(output, view.format().prot(found.pte)))
            }
            kind => {
                assert_eq!(kind, EntryKind::Empty);
                None
            }
        };
        assert_eq!(page, self.pages.get(&ipa).copied(), "thread {} at {ipa:#x}", self.me);
    }

    /// One round of one thread: some steps by each way into the table.
    fn round<T: Tlb>(&mut self, table: &Stage2<Arena, T>) {
        let cache = FrameCache::new(table.memory(), 8);
        let (plain, cached) = (table.handle(), table.handle().with_frame_cache(&cache));
        for step in 0..OPERATIONS / 3 {
            self.step(&Way::View(&plain));
            self.step(&Way::View(&cached));
            if step % 50 == 0 {
                plain.drain();
            }
        }
        let mut stay = cached.stay();
        for step in 0..OPERATIONS / 3 {
            if step % 16 == 0 {
                stay.repin();
            }
            self.step(&Way::Stay(&stay));
        }
    }
}

/// A handle, or a stay: what a stay does in its own way goes to it.
enum Way<'v, 't, T: Tlb> {
    View(&'v Handle<'t, Arena, T>),
    Stay(&'v Stay<'v, 't, Arena, T, s2pt::table::Local>),
}

impl<'t, T: Tlb> std::ops::Deref for Way<'_, 't, T> {
    type Target = Handle<'t, Arena, T>;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::View(view) => view,
            Self::Stay(stay) => stay,
        }
    }
}

macro_rules! either {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        impl<T: Tlb> Way<'_, '_, T> {
            $(fn $name(&self, $($argument: $type),*) -> $result {
                match self {
                    Self::View(view) => view.$name($($argument),*),
                    Self::Stay(stay) => stay.$name($($argument),*),
                }
            })*
        }
    };
}

either! {
    map(ipa: Ipa, size: u64, pa: Pa, attrs: &Attrs, options: MapOptions) -> Result<s2pt::table::Mapped, Error>;
    unmap(ipa: Ipa, size: u64) -> Result<u64, Error>;
    relax(ipa: Ipa, size: u64, prot: Prot) -> Result<s2pt::table::Changed, Error>;
    lookup(ipa: Ipa) -> Result<s2pt::table::Lookup, Error>;
    translate(ipa: Ipa, access: AccessKind) -> Result<s2pt::table::Translation, s2pt::arch::Fault>;
}

fn table<T: Tlb>(sink: T) -> Arc<Stage2<Arena, T>> {
    let arena = Arena::new(ArenaOptions {
        capacity_frames: 2048,
        ..ArenaOptions::default()
    })
    .unwrap();
    let geometry = Geometry::new(GeometryOptions::default()).unwrap();
    Arc::new(Stage2::new(Config::new(geometry), arena, sink).unwrap())
}

/// Rounds until the time is over, one at least; returns how many, and the table.
fn campaign<T: Tlb + 'static>(mut table: Arc<Stage2<Arena, T>>, time: Duration) -> (usize, Arc<Stage2<Arena, T>>) {
    let begun = Instant::now();
    let mut owners: Vec<_> = (0..THREADS)
        .map(|me| Owner {
            me,
            random: Random(me << 32),
            pages: BTreeMap::new(),
        })
        .collect();
    let mut rounds = 0;
    while rounds == 0 || begun.elapsed() < time {
        let threads: Vec<_> = owners
            .into_iter()
            .map(|mut owner| {
                let table = Arc::clone(&table);
                std::thread::spawn(move || {
                    owner.round(&table);
                    owner
                })
            })
            .collect();
        owners = threads
            .into_iter()
            .map(|thread| thread.join().expect("a thread failed"))
            .collect();
        let view = table.handle();
        view.drain();
        let stats = view.stats();
        assert_eq!((stats.locked, stats.frozen, table.pending_frames()), (0, 0, 0));
        assert_eq!(table.memory().frames_in_use() as u64, stats.table_frames());
        for owner in &owners {
            owner.pages.keys().for_each(|&ipa| owner.check(&Way::View(&view), ipa));
        }
        drop(view);
        // Alone: the same entries and frames without exchanges, after those of others and before them.
        let alone = Arc::get_mut(&mut table).expect("all have left").exclusive();
        alone.split(Ipa::new(START), SHARED, Level::L3).unwrap();
        alone.unmap(Ipa::new(START + SHARED), THREADS * BLOCK).unwrap();
        owners
            .iter_mut()
            .for_each(|owner| owner.pages.retain(|&ipa, _| ipa < START + SHARED));
        rounds += 1;
    }
    (rounds, table)
}

/// Fills a private frame while another thread looks at it, which `TableMemory::table` forbids.
fn seed_a_race() {
    let arena = Arc::new(Arena::new(ArenaOptions::default()).unwrap());
    arena.reserve(1).unwrap();
    let mut frame = arena.take();
    let (peer, pa) = (Arc::clone(&arena), frame.pa());
    let reader = std::thread::spawn(move || {
        peer.table(pa)
            .iter()
            .map(|entry| entry.load(Ordering::Acquire) & 1)
            .sum::<u64>()
    });
    arena.fill(&mut frame, |index| index as u64);
    println!("{} odd entries were seen", reader.join().unwrap());
    arena.free(frame);
}

fn main() {
    // What nextest asks of a program with tests.
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--list") {
        if !arguments.iter().any(|argument| argument == "--ignored") {
            println!("a_crowd_on_one_table: test");
        }
        return;
    }
    if std::env::var_os("S2PT_SEED_A_RACE").is_some() {
        return seed_a_race();
    }
    let seconds = std::env::var("S2PT_CAMPAIGN_SECONDS").map_or(0.0, |seconds| seconds.parse().expect("seconds"));
    let time = Duration::from_secs_f64(seconds / 2.0);
    let (without, _) = campaign(table(Null), time);
    let (with, table) = campaign(table(Jitter::default()), time);
    let rounds = without + with;
    let operations = rounds as u64 * THREADS * OPERATIONS as u64;
    let freed = table.tlb().freed.load(Ordering::Relaxed);
    println!("{rounds} rounds of {THREADS} threads, {operations} operations; with the sink, {freed} frames were freed");
    assert!(freed > 0, "nothing was freed, so no grace period was tried");
}
