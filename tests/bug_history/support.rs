//! Small recorded tables, and what can be read from a recording.

use std::cell::Cell;
use std::sync::Arc;

use s2pt::arch::{AccessKind, Attrs, Dsb, Geometry, GeometryOptions, Ipa, Level, Pa, Prot, Scope, Tlbi};
use s2pt::memory::{Arena, ArenaOptions, TableMemory};
use s2pt::table::{Access, Config, Error, Event, Existing, MapOptions, Mapped, Recording, Semantics, Stage2, View};

use crate::inject::Inject;

pub const PAGE: u64 = 0x1000;
pub const BLOCK: u64 = 2 << 20;
pub const GIB: u64 = 1 << 30;
pub const BASE: u64 = 0x8000_0000;
/// PA minus IPA in [`map`].
pub const OFFSET: u64 = 1 << 33;

pub type Sink = (Recording, Inject);
pub type Table = Stage2<Arena, Sink>;

pub const REPLACE: MapOptions = MapOptions {
    existing: Existing::Replace,
    ..MapOptions::FAULT
};
pub const PAGES: MapOptions = MapOptions {
    largest: Some(Level::L3),
    ..REPLACE
};

thread_local! {
    /// Of the tables that this thread makes.
    static SEMANTICS: Cell<Semantics> = const { Cell::new(Semantics::Exact) };
}

/// Runs a test on tables with KVM's semantics.
pub fn under_kvm(test: impl FnOnce()) {
    SEMANTICS.set(Semantics::Kvm);
    test();
}

/// A table of this shape; hooks share it, so it stands in an `Arc`.
pub fn table_with(options: GeometryOptions, change: impl FnOnce(&mut Config)) -> Arc<Table> {
    let geometry = Geometry::new(options).unwrap();
    let mut config = Config::new(geometry);
    config.semantics = SEMANTICS.get();
    change(&mut config);
    let arena = Arena::new(ArenaOptions {
        granule: geometry.granule(),
        capacity_frames: 4096,
        ..ArenaOptions::default()
    })
    .unwrap();
    Arc::new(Stage2::new(config, arena, (Recording::new(1 << 20), Inject)).unwrap())
}

/// 4K granule, 40-bit IPA, two root frames.
pub fn table() -> Arc<Table> {
    table_with(GeometryOptions::default(), |_| ())
}

/// Maps to the one line on which blocks form.
pub fn map<A: Access>(
    view: &View<'_, Arena, Sink, A>,
    ipa: u64,
    size: u64,
    prot: Prot,
    options: MapOptions,
) -> Result<Mapped, Error> {
    let pa = Pa::new(ipa + OFFSET);
    view.map(Ipa::new(ipa), size, pa, &Attrs::new(prot), options)
}

/// For answers that a step does not look at.
pub fn ok<R>(result: Result<R, Error>) {
    result.unwrap();
}

/// Where a read of `ipa` goes.
pub fn output<A: Access>(view: &View<'_, Arena, Sink, A>, ipa: u64) -> Option<u64> {
    view.translate(Ipa::new(ipa), AccessKind::Read)
        .ok()
        .map(|hit| hit.pa.get())
}

pub fn writable<A: Access>(view: &View<'_, Arena, Sink, A>, ipa: u64) -> bool {
    view.translate(Ipa::new(ipa), AccessKind::Write).is_ok()
}

/// What happened since the last call, in order.
pub fn log(table: &Table) -> Vec<Event> {
    table.tlb().0.take().into_iter().map(|record| record.event).collect()
}

/// The stage-2 TLBIs among them.
pub fn stage2_tlbis(log: &[Event]) -> Vec<Tlbi> {
    let tlbis = log.iter().filter_map(|event| match event {
        Event::Tlbi(tlbi) if tlbi.is_stage2() => Some(*tlbi),
        _ => None,
    });
    tlbis.collect()
}

/// The level hint of a TLBI that names addresses.
pub fn hint(tlbi: Tlbi) -> Option<Level> {
    match tlbi {
        Tlbi::Ipa { level, .. } | Tlbi::Range { level, .. } => level,
        Tlbi::Vmid | Tlbi::Stage1 { .. } => None,
    }
}

/// Whether a broadcast TLBI removes what a CPU cached from a leaf at `level` that translates `ipa`.
pub fn drops(tlbi: Tlbi, ipa: u64, level: Level) -> bool {
    let size = |level: Level| PAGE << (9 * (3 - i32::from(level.get())));
    let base = ipa & !(size(level) - 1);
    let overlaps = |start: u64, end: u64| start < base + size(level) && end > base;
    match tlbi {
        Tlbi::Ipa {
            ipa: at,
            level: hint,
            scope: Scope::Broadcast,
        } => overlaps(at.get(), at.get() + 1) && hint.is_none_or(|hint| hint == level),
        Tlbi::Range {
            ipa: at,
            pages,
            level: hint,
            scope: Scope::Broadcast,
        } => overlaps(at.get(), at.get() + pages * PAGE) && hint.is_none_or(|hint| hint == level),
        Tlbi::Vmid => true,
        _ => false,
    }
}

/// Every frame in use is reached from the root, nothing is reserved, and no entry is between break and make.
pub fn audit(table: &Table) {
    let view = table.handle();
    view.drain();
    let (stats, memory) = (view.stats(), table.memory().stats());
    assert_eq!((stats.locked, stats.frozen), (0, 0));
    assert_eq!(memory.reserved, 0, "frames set aside and forgotten");
    assert_eq!(memory.in_use as u64, stats.table_frames(), "frames that nobody reaches");
    assert_eq!(table.memory().frames_in_use(), memory.in_use);
}

/// Frames of the root.
pub fn root_frames(table: &Table) -> usize {
    table.config().geometry.root_frames() as usize
}

/// Checks the order of one operation's events: each stage-2 TLBI comes after a DSB for the stores before it, is complete
/// (DSB) before stage 1 is invalidated, and that before anything is made. Returns the number of TLBIs.
pub fn check_order(log: &[Event]) -> usize {
    let mut tlbis = 0;
    let mut rest = log;
    while let Some(first) = rest
        .iter()
        .position(|event| matches!(event, Event::Tlbi(tlbi) if tlbi.is_stage2()))
    {
        let singles = rest[first..]
            .iter()
            .take_while(|event| matches!(event, Event::Tlbi(tlbi) if tlbi.is_stage2()))
            .count();
        let Event::Tlbi(tlbi) = rest[first] else { unreachable!() };
        let (before, after, scope) = match tlbi.scope() {
            Scope::Broadcast => (Dsb::Ishst, Dsb::Ish, Scope::Broadcast),
            Scope::Local => (Dsb::Nshst, Dsb::Nsh, Scope::Local),
        };
        assert_eq!(rest[first - 1], Event::Dsb(before), "the store may still be on its way");
        let then = &rest[first + singles..];
        assert_eq!(then[0], Event::Dsb(after), "the TLBI may still be on its way");
        if tlbi != Tlbi::Vmid {
            let stage1 = [Event::Tlbi(Tlbi::Stage1 { scope }), Event::Dsb(after)];
            assert_eq!(then[1..3], stage1, "combined entries stay");
        }
        tlbis += singles;
        rest = then;
    }
    tlbis
}

/// Frames that were freed, in order.
pub fn freed(log: &[Event]) -> Vec<Pa> {
    let frames = log.iter().filter_map(|event| match event {
        Event::Free { frame } => Some(*frame),
        _ => None,
    });
    frames.collect()
}
