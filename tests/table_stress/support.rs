//! Tables, and rounds of eight threads over one.

use std::sync::Barrier;
use std::sync::atomic::Ordering;

use crate::soft_tlb::Judge;
use s2pt::arch::{Geometry, GeometryOptions, Granule, Level};
use s2pt::memory::{Arena, ArenaOptions, TableMemory};
use s2pt::table::{Config, Existing, Handle, MapOptions, Stage2, Tlb};

pub const THREADS: usize = 8;
/// Output address minus IPA where mappings lie on the line on which blocks form.
pub const LINE: u64 = 1 << 33;

pub fn geometry(granule: Granule, ipa_bits: u8) -> Geometry {
    let options = GeometryOptions {
        granule,
        ipa_bits,
        ..GeometryOptions::default()
    };
    Geometry::new(options).unwrap()
}

pub fn table<T: Tlb>(geometry: Geometry, tlbi_range: bool, sink: T) -> Stage2<Arena, T> {
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

pub fn options(existing: Existing) -> MapOptions {
    MapOptions {
        existing,
        ..MapOptions::default()
    }
}

/// Between rounds, with all threads out: no traces of a change under way, and every frame accounted for.
pub fn check_quiet<T: Judge>(table: &Stage2<Arena, T>) {
    let view = table.handle();
    view.drain();
    let stats = view.stats();
    assert_eq!((stats.locked, stats.frozen, table.pending_frames()), (0, 0, 0));
    assert_eq!(table.memory().frames_in_use() as u64, stats.table_frames());
    assert_eq!(table.memory().stats().reserved, 0, "a reservation leaked");
    table.tlb().check_all(&view);
}

/// Runs `round(thread, round)` on eight threads, all of them at a barrier before and after each, and `check` alone in between.
pub fn rounds<T: Judge, S: Send>(
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

/// Who owns which page. Two blocks are shared: their pages belong to the threads in turn. Behind them each thread has a block
/// of its own. All of it lies across a border of the level above, as high as the space goes.
#[derive(Clone, Copy)]
pub struct Ground {
    pub page: u64,
    pub block: u64,
    pub start: u64,
    pub size: u64,
}

impl Ground {
    pub fn new(geometry: &Geometry) -> Self {
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
