//! Every interleaving of a few operations on a tiny table, memory orderings included.
//!
//! Tables have two entries, trees two or three levels, memory a handful of frames; the collector is the model of
//! `table/reclaim/model.rs`. In every execution the table must end in one of the states that some order of the operations
//! allows, with no entry LOCKED or FROZEN and as many frames in use as the root reaches. A walk that touches a frame
//! which is not ordered before the freeing of that frame fails the model (`memory/life.rs`).
//!
//! A model ends when all is explored. The moves on one entry, pair by pair, are in `src/table/loom_tests`.
//!
//! Run: `RUSTFLAGS="--cfg loom" cargo test --release --test loom_table -- --nocapture --test-threads 1`.
#![cfg(loom)]

mod again;
mod blocks;
mod grace;
mod hardware;
mod maps;
mod rights;
mod unlinks;

use s2pt::arch::{AccessKind, Attrs, Geometry, Ipa, Level, Pa, Prot, Pte};
use s2pt::memory::{TableMemory, model::ModelMemory};
use s2pt::sync::{Arc, thread};
use s2pt::table::{Config, Error, Existing, Handle, MapOptions, Null, Stage2, Tlb};

type Memory = Arc<ModelMemory>;
type Table<T = Null> = Stage2<Memory, T>;

const PAGE: u64 = 0x1000;
const FRAMES: u64 = 0x10_0000;
/// Outputs that tell who mapped.
const A: u64 = 0x4_0000;
const B: u64 = 0x8_0000;

/// A table whose memory has a frame for each table that is made in all.
fn table(levels: u32, frames: u32) -> Arc<Table> {
    let memory = ModelMemory::plenty(Pa::new(FRAMES), frames, 2);
    table_of(Config::new(Geometry::tiny(levels, 1)), memory, Null)
}

fn table_of<T: Tlb>(config: Config, memory: ModelMemory, tlb: T) -> Arc<Table<T>> {
    Arc::new(Stage2::new(config, Arc::new(memory), tlb).unwrap())
}

/// True if the page was mapped, false if something was there, or in the way.
fn map<T: Tlb>(view: &Handle<'_, Memory, T>, ipa: u64, size: u64, pa: u64, prot: Prot, existing: Existing) -> bool {
    let options = MapOptions {
        existing,
        ..MapOptions::default()
    };
    match view.map(Ipa::new(ipa), size, Pa::new(pa), &Attrs::new(prot), options) {
        Ok(_) => true,
        Err(Error::Again { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Pages, whatever larger would fit.
fn map_pages(table: &Table, ipa: u64, pages: u64, pa: u64, prot: Prot) {
    let options = MapOptions {
        largest: Some(Level::L3),
        ..MapOptions::default()
    };
    let view = table.handle();
    view.map(Ipa::new(ipa), pages * PAGE, Pa::new(pa), &Attrs::new(prot), options)
        .unwrap();
}

fn output<T: Tlb>(view: &Handle<'_, Memory, T>, ipa: u64) -> Option<u64> {
    let hit = view.translate(Ipa::new(ipa), AccessKind::Read).ok()?;
    Some(hit.pa.get())
}

fn prot(table: &Table, ipa: u64) -> Option<Prot> {
    let view = table.handle();
    let hit = view.translate(Ipa::new(ipa), AccessKind::Read).ok()?;
    Some(hit.prot)
}

/// Runs `body` on a thread with a handle of its own.
fn spawn<T: Tlb + 'static, R: Send + 'static>(
    table: &Arc<Table<T>>,
    body: impl FnOnce(&Handle<'_, Memory, T>) -> R + Send + 'static,
) -> thread::JoinHandle<R> {
    let table = table.clone();
    thread::spawn(move || body(&table.handle()))
}

/// Nothing is left behind.
fn settled<T: Tlb>(table: &Table<T>) {
    let view = table.handle();
    view.drain();
    let stats = view.stats();
    assert_eq!((stats.locked, stats.frozen), (0, 0));
    assert_eq!(table.memory().frames_in_use() as u64, stats.table_frames());
}

/// The outputs of all pages.
fn outputs(table: &Table, pages: u64) -> Vec<Option<u64>> {
    let view = table.handle();
    (0..pages).map(|page| output(&view, page * PAGE)).collect()
}
