//! What a table weighs: frames, and what lies beside them, as the operating system counts it.
//!
//! The frames' mapping asks for huge pages, and that flag tells it from everything else the process has. What grows
//! elsewhere while a table is made is what the arena and the table keep beside the frames.

use s2pt::arch::{Ipa, Level};
use s2pt::memory::TableMemory;
use serde_json::{Value, json};

use super::ground::{GIB, Space, TIB, arena, fill, frames, leaf_bytes, table};

/// The design's promise for each table frame.
const SIDE_BUDGET: f64 = 16.0;
/// Frames from which on a page of the host more or less is not seen in the figure.
const ENOUGH: u64 = 16_384;

pub fn measure(quick: bool) -> Value {
    let guests = if quick {
        vec![(Level::L3, 64 * GIB)]
    } else {
        vec![
            (Level::L3, GIB),
            (Level::L3, 16 * GIB),
            (Level::L3, 100 * GIB),
            (Level::L3, TIB),
            (Level::L2, GIB),
            (Level::L2, TIB),
            (Level::L2, 16 * TIB),
            (Level::L1, TIB),
            (Level::L1, 16 * TIB),
        ]
    };
    json!({"budget": SIDE_BUDGET, "points": guests.into_iter().map(|(level, size)| point(level, size)).collect::<Vec<_>>()})
}

fn point(level: Level, size: u64) -> Value {
    let before = Resident::now();
    let arena = arena(frames(size, level));
    let mut guest = table(&arena, Space::Bits48);
    // A frame that was never freed has not used what lies beside it: so each is freed once.
    for _ in 0..2 {
        assert!(guest.exclusive().unmap(Ipa::new(0), size).is_ok());
        fill(&mut guest, 0, size, level);
    }
    let after = Resident::now();
    let in_use = arena.frames_in_use() as u64;
    assert_eq!(in_use, guest.exclusive().stats().table_frames());
    // Roots are in a part of their own, which asks for no huge pages.
    let side = after.beside(in_use).saturating_sub(before.beside(0));
    let per_frame = side as f64 / in_use as f64;
    assert!(
        in_use < ENOUGH || per_frame <= SIDE_BUDGET,
        "{side} bytes beside {in_use} frames: {per_frame} each"
    );
    let per_gib = |bytes: u64| bytes as f64 / (size as f64 / GIB as f64);
    json!({
        "leaf": leaf_bytes(level), "bytes": size, "frames": in_use, "table_bytes": in_use << 12, "side_bytes": side,
        "side_bytes_per_frame": (in_use >= ENOUGH).then_some(per_frame),
        "table_bytes_per_gib": per_gib(in_use << 12), "side_bytes_per_gib": per_gib(side),
    })
}

/// Resident bytes of the process.
pub struct Resident {
    /// In mappings that ask for huge pages.
    huge: u64,
    /// In all others.
    plain: u64,
}

impl Resident {
    pub fn now() -> Self {
        let text = std::fs::read_to_string("/proc/self/smaps").expect("Linux tells what a process occupies");
        let (mut huge, mut plain, mut resident) = (0, 0, 0);
        for line in text.lines() {
            if let Some(kib) = line.strip_prefix("Rss:") {
                resident = kib.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10;
            } else if let Some(flags) = line.strip_prefix("VmFlags:") {
                let here = if flags.split(' ').any(|flag| flag == "hg") {
                    &mut huge
                } else {
                    &mut plain
                };
                *here += resident;
            }
        }
        Self { huge, plain }
    }

    /// Bytes that are no table frame, of which there are `frames`.
    pub fn beside(&self, frames: u64) -> u64 {
        // Where the kernel has no huge pages, frames are resident one by one among all the rest.
        if self.huge > 0 {
            self.plain
        } else {
            self.plain.saturating_sub(frames << 12)
        }
    }
}
