//! Every interleaving of a few operations on a tiny table, memory orderings included.
//!
//! Tables have two entries, trees two or three levels, memory a handful of frames; the collector is the model of
//! `table/reclaim.rs`. In every execution the table must end in one of the states that some order of the operations
//! allows, with no entry LOCKED or FROZEN and as many frames in use as the root reaches. A walk that touches a frame
//! freed under it panics by the frame's generation.
//!
//! Run: `RUSTFLAGS="--cfg loom" cargo test --release --test loom_table -- --nocapture --test-threads 1`
#![cfg(loom)]

use loom::thread;
use s2pt::arch::{AccessKind, Attrs, Geometry, Ipa, Level, Pa, Prot};
use s2pt::memory::{TableMemory, model::ModelMemory};
use s2pt::sync::Arc;
use s2pt::table::{Config, Error, Existing, Handle, MapOptions, Null, Stage2};

type Memory = Arc<ModelMemory>;
type Table = Stage2<Memory, Null>;

const PAGE: u64 = 0x1000;
const FRAMES: u64 = 0x10_0000;
/// Outputs that tell who mapped.
const A: u64 = 0x4_0000;
const B: u64 = 0x8_0000;

/// Runs a model to its end (or to its bound of preemptions) and says how large it was.
fn model(name: &str, preemptions: Option<usize>, body: impl Fn() + Sync + Send + 'static) {
    let executions = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = executions.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 100_000;
    let start = std::time::Instant::now();
    builder.check(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        body();
    });
    let bound = preemptions.map_or("all".to_string(), |bound| format!("<= {bound}"));
    println!(
        "loom {name}: {} executions ({bound} preemptions) in {:.1} s",
        executions.load(std::sync::atomic::Ordering::Relaxed),
        start.elapsed().as_secs_f64()
    );
}

fn table(levels: u32, frames: u32) -> Arc<Table> {
    let memory = Arc::new(ModelMemory::new(Pa::new(FRAMES), frames, 2));
    Arc::new(Stage2::new(Config::new(Geometry::tiny(levels, 1)), memory, Null).unwrap())
}

fn map(view: &Handle<'_, Memory>, ipa: u64, size: u64, pa: u64, prot: Prot, existing: Existing) -> bool {
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

fn output(view: &Handle<'_, Memory>, ipa: u64) -> Option<u64> {
    view.translate(Ipa::new(ipa), AccessKind::Read)
        .ok()
        .map(|hit| hit.pa.get())
}

/// Runs `body` on a thread with a handle of its own.
fn spawn<R: Send + 'static>(
    table: &Arc<Table>,
    body: impl FnOnce(&Handle<'_, Memory>) -> R + Send + 'static,
) -> thread::JoinHandle<R> {
    let table = table.clone();
    thread::spawn(move || body(&table.handle()))
}

/// Nothing is left behind.
fn settled(table: &Table) {
    let view = table.handle();
    view.drain();
    let stats = view.stats();
    assert_eq!((stats.locked, stats.frozen), (0, 0));
    assert_eq!(table.memory().frames_in_use() as u64, stats.table_frames());
}

#[test]
fn two_maps_race_for_one_empty_slot() {
    model("map/map, the table missing", Some(3), || {
        let table = table(2, 4);
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Keep));
        let mine = map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep);
        let theirs = other.join().unwrap();
        assert!(mine != theirs, "exactly one maps the page");
        assert_eq!(output(&table.handle(), 0), Some(if mine { A } else { B }));
        settled(&table);
    });
}

#[test]
fn two_maps_of_neighbours_share_the_new_table() {
    model("map/map of neighbours, the table missing", Some(3), || {
        let table = table(2, 4);
        let other = spawn(&table, |view| map(view, PAGE, PAGE, B, Prot::RW, Existing::Keep));
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        assert!(other.join().unwrap());
        let view = table.handle();
        assert_eq!((output(&view, 0), output(&view, PAGE)), (Some(A), Some(B)));
        drop(view);
        settled(&table);
    });
}

#[test]
fn a_map_races_an_unmap() {
    model("map/unmap of one slot", Some(3), || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Keep));
        let removed = table.handle().unmap(Ipa::new(0), PAGE).unwrap();
        let mapped = other.join().unwrap();
        // The unmap took A, or the B that came after A was gone is still there.
        assert_eq!(removed, PAGE);
        let left = output(&table.handle(), 0);
        assert_eq!(
            left,
            mapped.then_some(B),
            "a map that was acknowledged after the unmap stays"
        );
        settled(&table);
    });
}

#[test]
fn a_replacing_map_races_an_unmap() {
    model("replace/unmap of one slot", Some(3), || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Replace));
        assert_eq!(table.handle().unmap(Ipa::new(0), PAGE).unwrap(), PAGE);
        assert!(other.join().unwrap());
        assert!(matches!(output(&table.handle(), 0), None | Some(B)));
        settled(&table);
    });
}

#[test]
fn a_walker_meets_an_unmap() {
    model("walker/unmap, deferred free", Some(3), || {
        let table = table(2, 3);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let walker = spawn(&table, |view| output(view, 0));
        table.handle().unmap(Ipa::new(0), PAGE).unwrap();
        assert!(matches!(walker.join().unwrap(), None | Some(A)));
        assert_eq!(output(&table.handle(), 0), None);
        settled(&table);
    });
}

#[test]
fn a_walker_that_finds_a_new_table_finds_it_filled() {
    model("walker/map that brings its table", Some(3), || {
        let table = table(2, 3);
        let walker = spawn(&table, |view| view.lookup(Ipa::new(0)).unwrap());
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let found = walker.join().unwrap();
        assert_eq!(
            found.level == Level::L3,
            found.pte.is_valid(),
            "the table was linked before it was filled"
        );
        settled(&table);
    });
}

#[test]
fn a_freed_table_is_not_reused_under_a_walker() {
    model("walker/unmap/reuse of the frame", Some(3), || {
        // Two frames in all: the second map must take the very frame that the unmap gave back.
        let table = table(2, 2);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let walker = spawn(&table, |view| output(view, 0));
        let view = table.handle();
        view.unmap(Ipa::new(0), PAGE).unwrap();
        view.drain();
        assert!(map(&view, 2 * PAGE, PAGE, B, Prot::RW, Existing::Keep));
        assert!(
            matches!(walker.join().unwrap(), None | Some(A)),
            "the walker saw the other table's page"
        );
        drop(view);
        settled(&table);
    });
}

#[test]
fn a_collapse_meets_a_fault_below() {
    model("collapse/map below", Some(3), || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let other = spawn(&table, |view| map(view, PAGE, PAGE, A + PAGE, Prot::RW, Existing::Keep));
        table.handle().collapse(Ipa::new(0), 2 * PAGE).unwrap();
        assert!(other.join().unwrap());
        let view = table.handle();
        assert_eq!((output(&view, 0), output(&view, PAGE)), (Some(A), Some(A + PAGE)));
        drop(view);
        settled(&table);
    });
}

#[test]
fn a_collapse_loses_no_permission() {
    model("collapse/relax below", Some(3), || {
        let table = table(2, 4);
        let pages = MapOptions {
            largest: Some(Level::L3),
            ..MapOptions::default()
        };
        table
            .handle()
            .map(Ipa::new(0), 2 * PAGE, Pa::new(A), &Attrs::new(Prot::R), pages)
            .unwrap();
        let other = spawn(&table, |view| view.relax(Ipa::new(0), PAGE, Prot::W).unwrap().leaves);
        table.handle().collapse(Ipa::new(0), 2 * PAGE).unwrap();
        assert_eq!(other.join().unwrap(), 1);
        let view = table.handle();
        let prot = |ipa| view.translate(Ipa::new(ipa), AccessKind::Read).unwrap().prot;
        assert_eq!(
            (prot(0), prot(PAGE)),
            (Prot::RW, Prot::R),
            "an acknowledged permission stays, and spreads nowhere"
        );
        drop(view);
        settled(&table);
    });
}

#[test]
fn a_cut_meets_a_fault_in_the_block() {
    model("cut/cut of one block", Some(3), || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, 2 * PAGE, A, Prot::R, Existing::Keep));
        let other = spawn(&table, |view| view.relax(Ipa::new(PAGE), PAGE, Prot::W).unwrap().leaves);
        assert_eq!(table.handle().relax(Ipa::new(0), PAGE, Prot::W).unwrap().leaves, 1);
        assert_eq!(other.join().unwrap(), 1);
        let view = table.handle();
        for ipa in [0, PAGE] {
            let hit = view.translate(Ipa::new(ipa), AccessKind::Write).unwrap();
            assert_eq!((hit.pa.get(), hit.prot), (A + ipa, Prot::RW));
        }
        drop(view);
        settled(&table);
    });
}

#[test]
fn rights_added_and_taken_in_place_are_never_lost() {
    model("relax/ageing of one page", Some(3), || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::R, Existing::Keep));
        let other = spawn(&table, |view| view.relax(Ipa::new(0), PAGE, Prot::W).unwrap().leaves);
        assert!(table.handle().test_and_clear_young(Ipa::new(0), PAGE, true).unwrap());
        assert_eq!(other.join().unwrap(), 1);
        let hit = table.handle().translate(Ipa::new(0), AccessKind::Write).unwrap();
        assert!(!table.format().af(hit.leaf) && hit.prot == Prot::RW);
        settled(&table);
    });
}

#[test]
fn a_nested_freeze_waits_for_a_locked_child() {
    model("unlink of two levels/replace below", Some(3), || {
        let table = table(3, 6);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        // The replacing map holds the page LOCKED between break and make; the unmap freezes two levels around it.
        let other = spawn(&table, |view| map(view, 0, PAGE, B, Prot::RW, Existing::Replace));
        let removed = table.handle().unmap(Ipa::new(0), 4 * PAGE).unwrap();
        assert!(other.join().unwrap());
        assert_eq!(removed, PAGE);
        assert!(matches!(output(&table.handle(), 0), None | Some(B)));
        settled(&table);
    });
}

#[test]
fn an_unlink_meets_a_collapse_of_the_level_below() {
    model("unlink/collapse of nested levels", Some(3), || {
        let table = table(3, 6);
        let pages = MapOptions {
            largest: Some(Level::L3),
            ..MapOptions::default()
        };
        table
            .handle()
            .map(Ipa::new(0), 2 * PAGE, Pa::new(A), &Attrs::new(Prot::RW), pages)
            .unwrap();
        let other = spawn(&table, |view| view.collapse(Ipa::new(0), 2 * PAGE).unwrap());
        assert_eq!(table.handle().unmap(Ipa::new(0), 4 * PAGE).unwrap(), 2 * PAGE);
        assert!(other.join().unwrap() <= 1);
        assert_eq!(output(&table.handle(), 0), None);
        settled(&table);
    });
}

#[test]
fn two_unmaps_of_the_last_two_pages_free_the_table() {
    model("unmap/unmap of the last two pages", Some(3), || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        assert!(map(&table.handle(), PAGE, PAGE, B, Prot::RW, Existing::Keep));
        let other = spawn(&table, |view| view.unmap(Ipa::new(PAGE), PAGE).unwrap());
        assert_eq!(table.handle().unmap(Ipa::new(0), PAGE).unwrap(), PAGE);
        assert_eq!(other.join().unwrap(), PAGE);
        settled(&table);
        assert_eq!(table.memory().frames_in_use(), 1, "only the root is left");
    });
}

#[test]
fn an_unlink_that_is_called_off_loses_nothing() {
    model("unlink of an empty table/map into it", Some(3), || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let other = spawn(&table, |view| map(view, PAGE, PAGE, B, Prot::RW, Existing::Keep));
        assert_eq!(table.handle().unmap(Ipa::new(0), PAGE).unwrap(), PAGE);
        assert!(other.join().unwrap());
        let view = table.handle();
        assert_eq!((output(&view, 0), output(&view, PAGE)), (None, Some(B)));
        drop(view);
        settled(&table);
    });
}

#[test]
fn a_stay_that_has_seen_a_table_meets_its_unlink() {
    model("stay/unlink of the table that it has seen", Some(3), || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::RW, Existing::Keep));
        let other = spawn(&table, |view| {
            let removed = view.unmap(Ipa::new(0), 2 * PAGE).unwrap();
            assert!(map(view, 0, PAGE, B, Prot::RW, Existing::Keep));
            removed
        });
        let view = table.handle();
        let stay = view.stay();
        let seen = stay.lookup(Ipa::new(0)).unwrap();
        assert!(seen.pte.is_leaf(Level::L3) || seen.pte.is_locked() || seen.pte.is_empty());
        let options = MapOptions::FAULT;
        let mapped = stay.map(Ipa::new(PAGE), PAGE, Pa::new(A + PAGE), &Attrs::new(Prot::RW), options);
        assert_eq!(mapped.unwrap().bytes, PAGE);
        drop(stay);
        let removed = other.join().unwrap();
        assert_eq!(output(&view, 0), Some(B));
        // The page went with the others, and was counted, or it is there.
        match output(&view, PAGE) {
            Some(pa) => assert_eq!((pa, removed), (A + PAGE, PAGE)),
            None => assert_eq!(removed, 2 * PAGE),
        }
        settled(&table);
    });
}

#[test]
fn what_two_unmaps_leave_empty_is_freed_though_neither_emptied_it_alone() {
    model("unmap/unmap of a range, a table above them", Some(2), || {
        let table = table(3, 8);
        let view = table.handle();
        assert!(map(&view, 0, PAGE, A, Prot::RW, Existing::Keep));
        assert!(map(&view, 2 * PAGE, 2 * PAGE, A + 2 * PAGE, Prot::RW, Existing::Keep)); // a block
        drop(view);
        let other = spawn(&table, |view| view.unmap(Ipa::new(0), PAGE).unwrap());
        // The hole beside the page, and the block behind the next entry of the table above.
        table.handle().unmap(Ipa::new(PAGE), 3 * PAGE).unwrap();
        other.join().unwrap();
        settled(&table);
        assert_eq!(table.handle().stats().table_frames(), 1, "an empty table stays linked");
    });
}

#[test]
fn a_table_emptied_beside_a_merge_that_is_called_off_is_freed() {
    model("unmap of both pages/collapse", Some(2), || {
        let table = table(2, 4);
        let view = table.handle();
        assert!(map(&view, 0, PAGE, A, Prot::RW, Existing::Keep));
        assert!(map(&view, PAGE, PAGE, A + PAGE, Prot::RW, Existing::Keep));
        drop(view);
        let other = spawn(&table, |view| view.collapse(Ipa::new(0), 2 * PAGE).unwrap());
        let view = table.handle();
        view.unmap(Ipa::new(0), PAGE).unwrap();
        view.unmap(Ipa::new(PAGE), PAGE).unwrap();
        drop(view);
        other.join().unwrap();
        settled(&table);
        assert_eq!(table.handle().stats().table_frames(), 1, "an empty table stays linked");
    });
}
