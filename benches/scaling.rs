//! What more threads do to the time: disjoint faults on two threads, and TLBIs that stall.
//!
//! Prints one JSON object. One thread and several are measured in turn, in the same run, so that a machine that slows
//! down meanwhile slows both.

use std::cell::Cell;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
use s2pt::bench::{BLOCK, GIB, IPA, PA, PAGE};
use s2pt::memory::{Arena, ArenaOptions};
use s2pt::table::{Config, MapOptions, Null, Stage2, Stall, StallKind, Tlb};

/// Pages that each thread faults in, from its own GiB.
const FAULTS: u64 = GIB / PAGE;
const ROUNDS: usize = 401;
const STALL: Duration = Duration::from_micros(200);
/// Blocks that each stalled thread breaks: one TLBI each.
const BREAKS: u64 = 25;
const STALLED_ROUNDS: usize = 31;

fn new_table<T: Tlb>(arena: &Arc<Arena>, tlb: T) -> Stage2<Arc<Arena>, T> {
    let geometry = Geometry::new(GeometryOptions::default()).expect("4K granule, 40-bit IPA");
    Stage2::new(Config::new(geometry), Arc::clone(arena), tlb).expect("a root")
}

/// Time from the first thread's start to the last one's end. Each thread prepares, calls what it is given, and works.
///
/// The threads read the clock themselves: whoever only watches them may be off the processor when they start.
fn together(threads: u64, work: impl Fn(u64, &dyn Fn()) + Sync) -> Duration {
    let gate = Barrier::new(threads as usize);
    let begin = || {
        gate.wait();
        Instant::now()
    };
    let spans: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let spawn = |thread| {
            let (work, begin) = (&work, &begin);
            scope.spawn(move || {
                let start = Cell::new(None);
                work(thread, &|| start.set(Some(begin())));
                (start.get().expect("each thread begins"), Instant::now())
            })
        };
        let workers: Vec<_> = (0..threads).map(spawn).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker"))
            .collect()
    });
    let first = spans.iter().map(|span| span.0).min().expect("a thread");
    spans.iter().map(|span| span.1).max().expect("a thread") - first
}

/// Each thread faults in the pages of its own GiB.
fn disjoint_faults(arena: &Arc<Arena>, threads: u64) -> Duration {
    let table = new_table(arena, Null);
    together(threads, |thread, ready| {
        let (vcpu, attrs) = (table.handle(), Attrs::new(Prot::RW));
        let (ipa, pa) = (IPA.get() + thread * GIB, PA.get() + thread * GIB);
        ready();
        for page in 0..FAULTS {
            let (ipa, pa) = (Ipa::new(ipa + page * PAGE), Pa::new(pa + page * PAGE));
            vcpu.map(ipa, PAGE, pa, &attrs, MapOptions::FAULT).expect("a free page");
        }
    })
}

/// Each thread writes into blocks of its own under dirty logging; each write breaks a block, so it waits for a TLBI.
fn stalled_breaks(arena: &Arc<Arena>, threads: u64) -> Duration {
    let mut table = new_table(arena, Stall::new(STALL, StallKind::Sleep));
    let size = threads * BREAKS * BLOCK;
    let options = MapOptions {
        largest: Some(Level::L2),
        ..MapOptions::default()
    };
    table
        .exclusive()
        .map(IPA, size, PA, &Attrs::new(Prot::R), options)
        .expect("room for the blocks");
    together(threads, |thread, ready| {
        let vcpu = table.handle();
        ready();
        for number in 0..BREAKS {
            let ipa = Ipa::new(IPA.get() + (thread * BREAKS + number) * BLOCK);
            vcpu.relax(ipa, PAGE, Prot::W).expect("a mapped block");
        }
    })
}

/// The best times with one thread and with `threads`, measured in turn.
///
/// The best round is the one that other processes disturbed least; what the table itself costs is in every round.
fn compare(rounds: usize, threads: u64, measure: impl Fn(u64) -> Duration) -> (Duration, Duration) {
    measure(threads); // warm
    let best = |times: Vec<Duration>| times.into_iter().min().unwrap_or(Duration::MAX);
    let (one, many): (Vec<_>, Vec<_>) = (0..rounds).map(|_| (measure(1), measure(threads))).unzip();
    (best(one), best(many))
}

fn main() {
    let options = ArenaOptions {
        capacity_frames: 8192,
        ..ArenaOptions::default()
    };
    let arena = Arc::new(Arena::new(options).expect("an arena of 32 MiB"));
    arena.prefault(8192);
    let (one, two) = compare(ROUNDS, 2, |threads| disjoint_faults(&arena, threads));
    let (alone, stalled) = compare(STALLED_ROUNDS, 48, |threads| stalled_breaks(&arena, threads));
    let millions = |threads: f64, time: Duration| threads * FAULTS as f64 / time.as_secs_f64() / 1e6;
    println!(
        "{{\"faults_per_thread\": {FAULTS}, \"one_thread_mfaults\": {:.3}, \"two_threads_mfaults\": {:.3}, \
         \"stall_us\": {}, \"breaks_per_thread\": {BREAKS}, \"one_stalled_ms\": {:.3}, \"48_stalled_ms\": {:.3}}}",
        millions(1.0, one),
        millions(2.0, two),
        STALL.as_micros(),
        alone.as_secs_f64() * 1e3,
        stalled.as_secs_f64() * 1e3,
    );
}
