//! Models that tell mutations of the protocol apart which the others let pass: what a call promises about maintenance that a
//! peer is still at, unlinks that are called off, and tables found by an exchange that lost.
//!
//! Run: `RUSTFLAGS="--cfg loom" cargo test --release --test loom_mutations -- --nocapture --test-threads 1`
#![cfg(loom)]

use s2pt::arch::{Attrs, Geometry, Ipa, Level, Pa, Prot, Tlbi};
use s2pt::memory::{TableMemory, model::ModelMemory};
use s2pt::sync::{Arc, AtomicUsize, Ordering, explore, thread};
use s2pt::table::{Config, Error, Event, Existing, Handle, MapOptions, Stage2, Tlb};

type Memory = Arc<ModelMemory>;

const PAGE: u64 = 0x1000;
const A: u64 = 0x4_0000;
const B: u64 = 0x8_0000;

/// Hears what the models ask about. Relaxed: what a call promises must be ordered by the table.
struct Told {
    stage2: AtomicUsize,
    freed: AtomicUsize,
}

impl Tlb for Told {
    fn event(&self, event: Event) {
        match event {
            Event::Tlbi(Tlbi::Stage1 { .. }) => {}
            Event::Tlbi(_) => drop(self.stage2.fetch_add(1, Ordering::Relaxed)),
            Event::Free { .. } => drop(self.freed.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    fn watches(&self) -> bool {
        false
    }
}

type Table = Stage2<Memory, Told>;
type View<'t> = Handle<'t, Memory, Told>;

fn table(levels: u32, frames: u32) -> Arc<Table> {
    table_of(levels, 1, frames)
}

/// With `1 << stride` entries a table.
fn table_of(levels: u32, stride: u32, frames: u32) -> Arc<Table> {
    let memory = Arc::new(ModelMemory::new(Pa::new(0x10_0000), frames, 1 << stride));
    let told = Told {
        stage2: AtomicUsize::new(0),
        freed: AtomicUsize::new(0),
    };
    Arc::new(Stage2::new(Config::new(Geometry::tiny(levels, stride)), memory, told).unwrap())
}

fn map(view: &View<'_>, ipa: u64, size: u64, pa: u64, existing: Existing) -> Result<u64, Error> {
    let options = MapOptions {
        existing,
        ..MapOptions::default()
    };
    let mapped = view.map(Ipa::new(ipa), size, Pa::new(pa), &Attrs::new(Prot::RW), options)?;
    Ok(mapped.bytes)
}

fn spawn<R: Send + 'static>(
    table: &Arc<Table>,
    body: impl FnOnce(&Table) -> R + Send + 'static,
) -> thread::JoinHandle<R> {
    let table = table.clone();
    thread::spawn(move || body(&table))
}

fn settled(table: &Table) {
    let view = table.handle();
    view.drain();
    let stats = view.stats();
    assert_eq!((stats.locked, stats.frozen), (0, 0));
    assert_eq!(table.memory().frames_in_use() as u64, stats.table_frames());
}

#[test]
fn who_finds_a_right_gone_returns_after_a_tlbi() {
    explore("write_protect/write_protect of one page", || {
        let table = table(2, 3);
        map(&table.handle(), 0, PAGE, A, Existing::Keep).unwrap();
        let protect = |table: &Table| {
            assert_eq!(table.handle().write_protect(Ipa::new(0), PAGE).unwrap().bytes, PAGE);
            let told = table.tlb().stage2.load(Ordering::Relaxed);
            assert!(told > 0, "a CPU may still write through its TLB");
        };
        let other = spawn(&table, move |table| protect(table));
        protect(&table);
        other.join().unwrap();
    });
}

/// Inside of a stay no pin, and no fence of one, stands between what is announced and the exchange.
#[test]
fn who_finds_a_right_gone_by_a_stay_returns_after_a_tlbi() {
    explore("write_protect/write_protect of one page, inside of stays", || {
        let table = table(2, 3);
        map(&table.handle(), 0, PAGE, A, Existing::Keep).unwrap();
        let protect = |table: &Table| {
            let view = table.handle();
            let stay = view.stay();
            assert_eq!(stay.write_protect(Ipa::new(0), PAGE).unwrap().bytes, PAGE);
            let told = table.tlb().stage2.load(Ordering::Relaxed);
            assert!(told > 0, "a CPU may still write through its TLB");
        };
        let other = spawn(&table, move |table| protect(table));
        protect(&table);
        other.join().unwrap();
    });
}

#[test]
fn who_maps_what_a_peer_has_narrowed_returns_after_a_tlbi() {
    explore("map/write_protect of one page", || {
        let table = table(2, 3);
        map(&table.handle(), 0, PAGE, A, Existing::Keep).unwrap();
        let other = spawn(&table, |table| {
            table.handle().write_protect(Ipa::new(0), PAGE).unwrap().leaves
        });
        let view = table.handle();
        let options = MapOptions {
            existing: Existing::Replace,
            ..MapOptions::default()
        };
        let narrow = Attrs::new(Prot::R);
        view.map(Ipa::new(0), PAGE, Pa::new(A), &narrow, options).unwrap();
        let told = table.tlb().stage2.load(Ordering::Relaxed);
        assert!(told > 0, "a CPU may still write through its TLB");
        drop(view);
        other.join().unwrap();
    });
}

/// Who was inside when the table went, and drains then, is the one who frees it.
#[test]
fn what_is_drained_was_told() {
    explore("unmap and drain/lookup and drain", || {
        let table = table(2, 3);
        map(&table.handle(), 0, PAGE, A, Existing::Keep).unwrap();
        let other = spawn(&table, |table| {
            let view = table.handle();
            view.lookup(Ipa::new(PAGE)).unwrap();
            view.drain();
        });
        let view = table.handle();
        view.unmap(Ipa::new(0), PAGE).unwrap();
        view.drain();
        assert_eq!(table.tlb().freed.load(Ordering::Relaxed), 1);
        drop(view);
        other.join().unwrap();
    });
}

/// A block over tables, of which one holds an owner's mark: the unlink has frozen two levels when it is called off.
fn refused(view: &View<'_>) {
    let refused = map(view, 0, 4 * PAGE, B, Existing::Replace);
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
}

/// The mark, on the last page.
fn marked(table: &Table) {
    table.handle().annotate(Ipa::new(3 * PAGE), PAGE, 7).unwrap();
}

#[test]
fn a_walker_finds_tables_filled_where_an_unlink_was_called_off() {
    explore("walker/unlink of two levels that is called off", || {
        let table = table(3, 5);
        marked(&table);
        let walker = spawn(&table, |table| table.handle().lookup(Ipa::new(0)).unwrap());
        let view = table.handle();
        assert_eq!(map(&view, 0, PAGE, A, Existing::Keep).unwrap(), PAGE);
        refused(&view);
        let found = walker.join().unwrap();
        assert!(!found.pte.is_frozen());
        assert!(
            found.level != Level::L3 || found.pte.is_valid(),
            "the table was not filled"
        );
        assert!(view.lookup(Ipa::new(0)).unwrap().pte.is_valid());
        drop(view);
        settled(&table);
    });
}

#[test]
fn an_unlink_that_is_called_off_meets_another_below() {
    explore("unlink of two levels that is called off/unmap below", || {
        let table = table(3, 5);
        marked(&table);
        map(&table.handle(), 0, 2 * PAGE, A, Existing::Keep).unwrap();
        table.handle().split(Ipa::new(0), 2 * PAGE, Level::L3).unwrap();
        let other = spawn(&table, |table| table.handle().unmap(Ipa::new(0), 2 * PAGE).unwrap());
        refused(&table.handle());
        assert_eq!(other.join().unwrap(), 2 * PAGE);
        let found = table.handle().lookup(Ipa::new(0)).unwrap();
        assert!(found.pte.is_empty(), "{found:?}");
        settled(&table);
    });
}

#[test]
fn an_unlink_above_meets_one_that_is_called_off() {
    explore("unlink of two levels/unlink below that is called off", || {
        let table = table(3, 5);
        map(&table.handle(), 0, PAGE, A, Existing::Keep).unwrap();
        table.handle().annotate(Ipa::new(PAGE), PAGE, 7).unwrap();
        let other = spawn(&table, |table| map(&table.handle(), 0, 2 * PAGE, B, Existing::Replace));
        let removed = table.handle().unmap(Ipa::new(0), 4 * PAGE).unwrap();
        match other.join().unwrap() {
            Ok(bytes) => assert_eq!((bytes, removed), (2 * PAGE, PAGE), "after the mark was gone"),
            Err(error) => assert!(matches!(error, Error::Conflict { .. }) && removed == PAGE, "{error}"),
        }
        settled(&table);
    });
}

/// Entries are thawed in ascending order: a walk inside of the table can lock the first and find the next FROZEN.
#[test]
fn who_meets_a_frozen_entry_lets_go_of_what_he_holds() {
    explore("unmap of two pages/unlink that is called off", || {
        let table = table_of(2, 2, 3);
        let view = table.handle();
        for page in [0, PAGE] {
            map(&view, page, PAGE, A + page, Existing::Keep).unwrap();
        }
        view.annotate(Ipa::new(3 * PAGE), PAGE, 7).unwrap();
        drop(view);
        let other = spawn(&table, |table| table.handle().unmap(Ipa::new(0), 2 * PAGE).unwrap());
        refused(&table.handle());
        assert_eq!(other.join().unwrap(), 2 * PAGE);
        settled(&table);
    });
}

#[test]
fn an_unlink_follows_a_table_that_a_peer_links_before_its_freeze() {
    explore("unlink of two levels/map that brings a table", || {
        let table = table(3, 6);
        map(&table.handle(), 0, PAGE, A, Existing::Keep).unwrap();
        let other = spawn(&table, |table| map(&table.handle(), 2 * PAGE, PAGE, B, Existing::Keep));
        let view = table.handle();
        let removed = view.unmap(Ipa::new(0), 4 * PAGE).unwrap();
        assert_eq!(other.join().unwrap(), Ok(PAGE));
        let left = u64::from(view.lookup(Ipa::new(2 * PAGE)).unwrap().pte.is_valid()) * PAGE;
        assert_eq!(
            removed + left,
            2 * PAGE,
            "what was acknowledged was counted, or is there"
        );
        drop(view);
        settled(&table);
    });
}

#[test]
fn two_marks_of_one_page_do_not_mix_with_a_page() {
    explore("annotate/map of one page", || {
        let table = table(2, 4);
        map(&table.handle(), PAGE, PAGE, A, Existing::Keep).unwrap();
        let other = spawn(&table, |table| table.handle().annotate(Ipa::new(0), PAGE, 7).is_ok());
        let view = table.handle();
        let mapped = map(&view, 0, PAGE, B, Existing::Keep).is_ok();
        let marked = other.join().unwrap();
        let found = view.lookup(Ipa::new(0)).unwrap().pte;
        // The mark goes over a page, a page does not go over the mark.
        assert!(
            marked && !found.is_valid() && !found.is_empty(),
            "{found:?}, mapped {mapped}"
        );
        // Where it went over one, that was broken and invalidated before.
        let told = table.tlb().stage2.load(Ordering::Relaxed);
        assert!(!mapped || told > 0, "a CPU may still use the page below the mark");
        drop(view);
        settled(&table);
    });
}
