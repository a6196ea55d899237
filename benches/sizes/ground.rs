//! What the parts share: tables of any size, times, the process's memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
use s2pt::memory::{Arena, ArenaOptions};
use s2pt::table::{Config, MapOptions, Null, Stage2};
use serde_json::{Value, json};

pub const PAGE: u64 = 4 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const TIB: u64 = 1 << 40;
/// Where the largest guests lie in physical memory; apart from the table frames.
pub const PA: Pa = Pa::new(64 * TIB);

pub type Table = Stage2<Arc<Arena>>;

/// Bits of input address, thus levels of a walk.
#[derive(Clone, Copy)]
pub enum Space {
    /// 40 bits: 3 levels, from two concatenated frames at level 1; a subtree is at most 1 GiB.
    Bits40,
    /// 48 bits: 4 levels, from level 0.
    Bits48,
}

impl Space {
    pub fn bits(self) -> u8 {
        match self {
            Self::Bits40 => 40,
            Self::Bits48 => 48,
        }
    }
}

/// Frames that `size` bytes in leaves of `level` take at most, from 48 bits on down.
pub fn frames(size: u64, level: Level) -> usize {
    let mut frames = 0;
    let mut covered = 512 * leaf_bytes(level);
    while covered <= 512 * GIB {
        frames += size.div_ceil(covered) + 1;
        covered *= 512;
    }
    frames as usize + 2
}

/// Bytes of a leaf at `level` under the 4K granule.
pub fn leaf_bytes(level: Level) -> u64 {
    PAGE << (9 * (3 - level.get()))
}

/// Table memory for so many frames.
pub fn arena(frames: usize) -> Arc<Arena> {
    let options = ArenaOptions {
        capacity_frames: frames,
        ..ArenaOptions::default()
    };
    Arc::new(Arena::new(options).expect("address space for the tables"))
}

pub fn table(arena: &Arc<Arena>, space: Space) -> Table {
    let options = GeometryOptions {
        ipa_bits: space.bits(),
        ..GeometryOptions::default()
    };
    let geometry = Geometry::new(options).expect("4K granule");
    Stage2::new(Config::new(geometry), Arc::clone(arena), Null).expect("a root")
}

/// Leaves of one level, whatever the range would allow.
pub fn leaves_of(level: Level) -> MapOptions {
    MapOptions {
        largest: Some(level),
        ..MapOptions::default()
    }
}

/// Maps `size` bytes from `ipa` on in leaves of `level`, read and write.
pub fn fill(table: &mut Table, ipa: u64, size: u64, level: Level) {
    let pa = Pa::new(PA.get() + ipa);
    table
        .exclusive()
        .map(Ipa::new(ipa), size, pa, &Attrs::new(Prot::RW), leaves_of(level))
        .expect("room for the guest");
}

/// What reading the clock twice takes.
pub fn clock_overhead() -> Duration {
    let mut times: Vec<Duration> = (0..1001).map(|_| timed(|| ()).0).collect();
    times.sort();
    times[times.len() / 2]
}

pub fn timed<R>(body: impl FnOnce() -> R) -> (Duration, R) {
    let start = Instant::now();
    let result = body();
    (start.elapsed(), result)
}

/// Smallest and middle of some figures, as JSON.
pub fn summary(mut figures: Vec<f64>) -> Value {
    figures.sort_by(f64::total_cmp);
    json!({"min": figures[0], "median": figures[figures.len() / 2]})
}

/// Smallest and middle of some times, in milliseconds.
pub fn milliseconds(times: &[Duration]) -> Value {
    summary(times.iter().map(|time| time.as_secs_f64() * 1e3).collect())
}

/// A line of `/proc/meminfo`, in bytes; 0 where there is none.
pub fn available_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
