//! Frames that a vCPU keeps at hand: fetched together, given back, and never in the way of who needs them.

use std::sync::Arc;

use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
use s2pt::memory::{Arena, ArenaOptions};
use s2pt::table::{Config, Error, FrameCache, Handle, MapOptions, Null, Stage2};

const PAGE: u64 = 4 << 10;
const BLOCK: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

type Memory = Arc<Arena>;

fn table(frames: usize) -> Stage2<Memory> {
    let geometry = Geometry::new(GeometryOptions::default()).unwrap();
    let arena = Arena::new(ArenaOptions {
        capacity_frames: frames,
        ..ArenaOptions::default()
    });
    Stage2::new(Config::new(geometry), Arc::new(arena.unwrap()), Null).unwrap()
}

fn fault(vcpu: &Handle<'_, Memory>, ipa: u64) -> Result<(), Error> {
    let (ipa, pa, attrs) = (Ipa::new(ipa), Pa::new(ipa), Attrs::new(Prot::RW));
    vcpu.map(ipa, PAGE, pa, &attrs, MapOptions::FAULT).map(drop)
}

#[test]
fn frames_are_fetched_together_and_given_back() {
    let table = table(64);
    let in_use = || table.memory().stats().in_use;
    let cache = FrameCache::new(table.memory(), 8);
    let vcpu = table.handle().with_frame_cache(&cache);
    assert_eq!(in_use(), 2, "nothing is fetched before it is needed");
    fault(&vcpu, 0).unwrap(); // tables at levels 2 and 3
    assert_eq!((in_use(), table.memory().stats().reserved), (2 + 8, 0));
    for block in 1..7 {
        fault(&vcpu, block * BLOCK).unwrap();
        assert_eq!(in_use(), 2 + 8, "block {block}");
    }
    fault(&vcpu, 7 * BLOCK).unwrap(); // the ninth
    assert_eq!(in_use(), 2 + 16);
    drop(cache);
    assert_eq!(in_use(), 2 + 9);
    assert_eq!(vcpu_tables(&table), 9);
}

fn vcpu_tables(table: &Stage2<Memory>) -> u64 {
    let stats = table.handle().stats();
    stats.table_frames() - u64::from(table.config().geometry.root_frames())
}

#[test]
fn the_last_frames_are_found_and_their_lack_is_told() {
    let table = table(2 + 5);
    let cache = FrameCache::new(table.memory(), 8);
    let vcpu = table.handle().with_frame_cache(&cache);
    // The memory cannot spare eight; the tables are built all the same, down to the last frame.
    for block in 0..4 {
        fault(&vcpu, block * BLOCK).unwrap();
    }
    let before = vcpu_tables(&table);
    let refused = fault(&vcpu, 4 * BLOCK).unwrap_err();
    assert!(
        matches!(
            refused,
            Error::OutOfFrames {
                needed: 1,
                available: 0
            }
        ),
        "{refused}"
    );
    assert_eq!(vcpu_tables(&table), before);
    assert_eq!(table.memory().stats().reserved, 0);
    // What is freed comes back to whoever asks.
    vcpu.unmap(Ipa::new(0), BLOCK).unwrap();
    vcpu.drain();
    fault(&vcpu, 4 * BLOCK).unwrap();
}

#[test]
fn a_call_that_is_refused_leaves_the_frames_at_hand() {
    let table = table(2 + 4);
    let cache = FrameCache::new(table.memory(), 4);
    let vcpu = table.handle().with_frame_cache(&cache);
    fault(&vcpu, 0).unwrap(); // two of four
    let (pages, attrs) = (8 * BLOCK, Attrs::new(Prot::RW));
    let scattered = MapOptions {
        largest: Some(s2pt::arch::Level::L3),
        ..MapOptions::default()
    };
    let refused = vcpu
        .map(Ipa::new(GIB), pages, Pa::new(GIB), &attrs, scattered)
        .unwrap_err();
    assert!(matches!(refused, Error::OutOfFrames { .. }), "{refused}");
    // Both are still there.
    fault(&vcpu, BLOCK).unwrap();
    fault(&vcpu, 2 * BLOCK).unwrap();
    assert!(fault(&vcpu, 3 * BLOCK).is_err());
}

#[test]
fn a_budget_counts_frames_at_hand_too() {
    let table = table(64);
    let cache = FrameCache::new(table.memory(), 8);
    let vcpu = table.handle().with_frame_cache(&cache).with_frames(1);
    let refused = fault(&vcpu, 0).unwrap_err();
    assert!(matches!(refused, Error::OutOfFrames { needed: 2, .. }), "{refused}");
    assert_eq!(vcpu_tables(&table), 0);
}

#[test]
fn vcpus_with_frames_of_their_own_populate_one_table() {
    let table = table(1024);
    std::thread::scope(|scope| {
        for vcpu in 0..4 {
            let table = &table;
            scope.spawn(move || {
                let cache = FrameCache::new(table.memory(), 8);
                let handle = table.handle().with_frame_cache(&cache);
                for page in 0..4096 {
                    // Neighbouring pages go to different vCPUs, so that all build the same tables.
                    fault(&handle, (4 * page + vcpu) * PAGE).unwrap();
                }
            });
        }
    });
    let vcpu = table.handle();
    vcpu.drain();
    assert_eq!(vcpu.leaves(Ipa::new(0), 4 * 4096 * PAGE).unwrap().count(), 4 * 4096);
    assert_eq!(table.memory().stats().in_use as u64, vcpu.stats().table_frames());
}

#[test]
#[should_panic(expected = "a frame cache of another memory than the table's")]
fn frames_of_another_memory_are_refused() {
    let (table, other) = (table(64), table(64));
    let cache = FrameCache::new(other.memory(), 8);
    let _ = table.handle().with_frame_cache(&cache);
}

#[test]
fn the_only_user_may_be_sent_to_another_thread() {
    fn sent<T: Send>(_: &T) {}
    let mut table = table(64);
    sent(&table.exclusive());
}
