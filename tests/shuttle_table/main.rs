//! Random schedules of random operations on a whole small table.
//!
//! Two to four threads do everything that a table can do. Whatever the schedule, each finds the pages that are its own as it
//! left them (`owned.rs`), what was put into common pages less what was taken out is what is there (`common.rs`), no entry is
//! left LOCKED or FROZEN, and as many frames are in use as the root reaches. Shuttle makes every atomic sequentially
//! consistent: it finds errors of the protocol, not of the orderings (loom does).
//!
//! Run: `RUSTFLAGS="--cfg shuttle" cargo test --release --test shuttle_table`. Each test prints its seed, a failure also its
//! schedule.
//!
//! | variable | |
//! |---|---|
//! | `S2PT_SHUTTLE_SCHEDULES` | how many schedules each test tries |
//! | `S2PT_SHUTTLE_SEED` | the seed of all of them: the same schedules once more |
//! | `S2PT_SHUTTLE_REPLAY` | a failed schedule, or a file that holds one, of the test that is named on the command line |
#![cfg(shuttle)]

mod common;
mod machine;
mod owned;
mod replay;
mod scenario;

use s2pt::arch::{AccessKind, Attrs, Geometry, Ipa, Level, Pa, Prot, Pte};
use s2pt::memory::{TableMemory, model::ModelMemory};
use s2pt::sync::Arc;
use s2pt::table::{Config, Error, Existing, FrameCache, Handle, MapOptions, Null, Semantics, Stage2, Tlb};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::thread;

type Memory = Arc<ModelMemory>;
type View<'t> = Handle<'t, Memory>;

const PAGE: u64 = 0x1000;
/// Entries of a table.
const ENTRIES: u64 = 4;
const BLOCK: u64 = PAGE * ENTRIES;

fn pick(below: u64) -> u64 {
    thread_rng().gen_range(0..below)
}

fn one_of<T: Copy>(choices: &[T]) -> T {
    choices[pick(choices.len() as u64) as usize]
}

/// One of two outputs for an address: each line goes on, so that neighbours can merge, and tells one from the other.
fn output(ipa: u64) -> u64 {
    0x10_0000 + ipa + 0x10_0000 * pick(2)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number(name: &str) -> Option<u64> {
    variable(name).map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

/// Tries `scenario` in schedules that are random, and in such with few, well placed preemptions, which find what uniformly
/// random ones rarely do.
fn check(name: &str, pct: bool, scenario: fn()) {
    if let Some(schedule) = variable("S2PT_SHUTTLE_REPLAY") {
        return replay::replay(scenario, &schedule);
    }
    let schedules = number("S2PT_SHUTTLE_SCHEDULES").unwrap_or(4_000) as usize;
    let seed = number("S2PT_SHUTTLE_SEED").unwrap_or_else(|| {
        use std::hash::{BuildHasher, Hasher};
        std::hash::RandomState::new().build_hasher().finish()
    });
    let kind = if pct { "PCT, depth 3" } else { "random" };
    println!("shuttle | {name} | {kind} | seed {seed}");
    let start = std::time::Instant::now();
    if pct {
        run(PctScheduler::new_from_seed(seed, 3, schedules), scenario);
    } else {
        run(RandomScheduler::new_from_seed(seed, schedules), scenario);
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("shuttle | {name} | {kind} | {schedules} schedules | {seconds:.1} s");
}

fn run(scheduler: impl Scheduler + 'static, scenario: fn()) {
    let mut config = shuttle::Config::new();
    config.silence_warnings = true; // about atomics being sequentially consistent: see above
    shuttle::Runner::new(scheduler, config).run(scenario);
}

/// Nothing is left behind.
fn settled<T: Tlb>(table: &Stage2<Memory, T>) {
    let view = table.handle();
    view.drain();
    let stats = view.stats();
    assert_eq!((stats.locked, stats.frozen), (0, 0));
    assert_eq!(table.memory().frames_in_use() as u64, stats.table_frames());
}
