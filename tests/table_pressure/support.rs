//! Tables, their exact contents, and chance that is the same every time.

use std::sync::Arc;

use s2pt::arch::{BlockRule, Geometry, GeometryOptions, Granule, Level};
use s2pt::memory::{Arena, ArenaOptions};
use s2pt::table::{Access, Config, Null, Stage2, Tlb, View};

pub type Memory = Arc<Arena>;

pub fn geometry(granule: Granule, ipa_bits: u8, lpa2: bool) -> Geometry {
    let pa_bits = if lpa2 || granule == Granule::K64 { 52 } else { 48 };
    Geometry::new(GeometryOptions {
        granule,
        ipa_bits,
        pa_bits,
        lpa2,
        blocks: BlockRule::Architecture,
        ..GeometryOptions::default()
    })
    .unwrap()
}

pub fn arena(granule: Granule, quota: Option<usize>) -> Memory {
    let options = ArenaOptions {
        granule,
        capacity_frames: 1 << 16,
        quota,
        ..ArenaOptions::default()
    };
    Arc::new(Arena::new(options).unwrap())
}

/// A table of 4 KiB pages with a 40-bit IPA space.
pub fn plain<T: Tlb>(quota: Option<usize>, sink: T, config: impl FnOnce(&mut Config)) -> Stage2<Memory, T> {
    let mut all = Config::new(geometry(Granule::K4, 40, false));
    config(&mut all);
    Stage2::new(all, arena(Granule::K4, quota), sink).unwrap()
}

/// Every entry that is not empty, bit by bit; of a table only that it is there: its address is the memory's affair.
pub type Contents = Vec<(u64, Level, u64)>;

pub fn contents<T: Tlb, A: Access>(view: &View<'_, Memory, T, A>) -> Contents {
    let mut all = Contents::new();
    view.for_each_raw(|entry| {
        let table = entry.pte.is_table(entry.level);
        let raw = if table { u64::MAX } else { entry.pte.raw() };
        all.push((entry.ipa.get(), entry.level, raw));
    })
    .unwrap();
    all
}

/// With nobody inside: no traces of a change under way, everything retired is free, and every frame is accounted for.
pub fn audit<T: Tlb>(table: &Stage2<Memory, T>) {
    let view = table.handle();
    view.drain();
    let (stats, memory, reclaimed) = (view.stats(), table.memory().stats(), table.reclaim_stats());
    assert_eq!((stats.locked, stats.frozen), (0, 0));
    assert_eq!(
        (memory.in_use as u64, memory.reserved),
        (stats.table_frames(), 0),
        "frames that nothing reaches"
    );
    assert_eq!((reclaimed.pending, reclaimed.freed), (0, reclaimed.retired));
}

/// A dose for every day, or the one that the environment asks for, as in a campaign.
pub fn dose(variable: &str, every_day: u64) -> u64 {
    let asked = std::env::var(variable).ok();
    asked.map_or(every_day, |text| text.parse().expect("a number"))
}

pub fn unlistened(geometry: Geometry, kvm: bool) -> Stage2<Memory, Null> {
    let config = if kvm {
        Config::kvm(geometry)
    } else {
        Config::new(geometry)
    };
    Stage2::new(config, arena(geometry.granule(), None), Null).unwrap()
}
