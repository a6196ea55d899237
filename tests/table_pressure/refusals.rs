//! Every allocation of long scripts fails once: each refusal leaves everything as it was, and the rest of the script goes
//! on as if nothing had happened, compared with a twin that never ran short.

use s2pt::arch::{Granule, Level};
use s2pt::memory::TableMemory;
use s2pt::table::{Access, Error, FrameCache, Handle, Null, Stage2, View};

use crate::script::{Answer, Call, Script};
use crate::support::{Contents, Memory, audit, contents, dose, geometry, unlistened};

/// How the table is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Shared, with nothing pending when an operation begins: no refusal can be made good by collecting.
    Drained,
    /// Shared, with what the operations before have left pending.
    Shared,
    /// A fault path's handle.
    WithoutWaiting,
    /// A handle with frames of its own.
    Cache,
    /// Inside the table all the time, so that nothing is freed.
    Stay,
    Exclusive,
}

/// What must be the same before and after a refusal: all entries, the frames that the table has, and no reservation.
///
/// The cache may have been filled, and what was pending may have been freed; neither is the table's.
fn state<A: Access>(view: &View<'_, Memory, Null, A>, memory: &Memory, aside: usize) -> (Contents, usize, usize) {
    let stats = memory.stats();
    (contents(view), stats.in_use - aside, stats.reserved)
}

#[derive(Default)]
struct Tally {
    calls: u64,
    refusals: u64,
    /// Calls that were answered though the memory had refused them, once pending frames were collected.
    made_good: u64,
}

/// Makes `call` with its first frame refused, then its second and so on, until it is answered.
fn refuse_each(
    memory: &Memory,
    tally: &mut Tally,
    call: Call,
    make: &mut dyn FnMut() -> Answer,
    state: &dyn Fn() -> (Contents, usize, usize),
) -> Answer {
    let before = state();
    for k in 0.. {
        memory.fail_allocation(k);
        let answer = make();
        let armed = memory.failing().is_some();
        memory.fail_allocation(usize::MAX);
        match answer {
            Err(Error::OutOfFrames { needed, available }) => {
                assert!(!armed && needed > available, "{call:?}: {needed} of {available}");
                assert_eq!(state(), before, "{call:?} with request {k} refused");
                tally.refusals += 1;
            }
            answer => {
                tally.calls += 1;
                tally.made_good += u64::from(!armed);
                return answer;
            }
        }
    }
    unreachable!()
}

fn run(granule: Granule, ipa_bits: u8, lpa2: bool, way: Way, calls: u64) -> Tally {
    let geometry = geometry(granule, ipa_bits, lpa2);
    let (mut table, mut twin) = (unlistened(geometry, false), unlistened(geometry, false));
    let memory = Memory::clone(table.memory());
    let mut script = Script::new(geometry, false, u64::from(ipa_bits) << 8 | way as u64);
    let mut tally = Tally::default();
    let same = |call: Call, answer: Answer, contents: &Contents, frames: usize, twin: &Stage2<Memory>| {
        let reference = twin.handle();
        assert_eq!(answer, call.on(&reference), "{call:?}");
        assert_eq!(contents, &crate::support::contents(&reference), "after {call:?}");
        reference.drain();
        assert_eq!(frames, twin.memory().frames_in_use(), "after {call:?}");
    };
    if way == Way::Exclusive {
        for _ in 0..calls {
            let call = script.next();
            let view = table.exclusive();
            let now = || state(&view, &memory, 0);
            let answer = refuse_each(&memory, &mut tally, call, &mut || call.on(&view), &now);
            let (contents, frames, _) = now();
            let reference = twin.exclusive();
            assert_eq!(answer, call.on(&reference), "{call:?}");
            assert_eq!(contents, crate::support::contents(&reference), "after {call:?}");
            assert_eq!(frames, twin.memory().frames_in_use(), "after {call:?}");
        }
    } else {
        let cache = FrameCache::new(table.memory(), usize::from(way == Way::Cache));
        let plain = table.handle();
        let view: Handle<'_, Memory> = match way {
            Way::Cache => plain.with_frame_cache(&cache),
            Way::WithoutWaiting => plain.without_waiting(),
            _ => plain,
        };
        let mut stay = (way == Way::Stay).then(|| view.stay());
        for number in 0..calls {
            let call = script.next();
            if way == Way::Drained {
                view.drain();
            }
            let now = || state(&view, &memory, cache.held() + table.pending_frames());
            let mut make = || match &stay {
                Some(stay) => call.within(stay),
                None => call.on(&view),
            };
            let answer = refuse_each(&memory, &mut tally, call, &mut make, &now);
            let (contents, frames, _) = now();
            same(call, answer, &contents, frames, &twin);
            if number % 16 == 0 {
                stay.iter_mut().for_each(|stay| stay.repin());
            }
        }
        drop(stay);
    }
    audit(&table);
    // Where frames are at hand the memory is seldom asked, and where some are pending it seldom has the last word.
    let final_word = matches!(way, Way::Drained | Way::Stay | Way::Exclusive);
    let least = if final_word { calls / 8 } else { 0 };
    assert!(tally.refusals > least, "{} refusals", tally.refusals);
    println!(
        "{granule:?} {ipa_bits} {way:?}: {} calls, {} allocations refused, 0 changes; {} more made good by collecting",
        tally.calls, tally.refusals, tally.made_good
    );
    tally
}

/// All ways into one kind of table.
fn all_ways(granule: Granule, ipa_bits: u8, lpa2: bool) {
    let calls = dose("S2PT_PRESSURE_CALLS", 160) / if granule == Granule::K64 { 10 } else { 1 };
    let calls = if granule == Granule::K16 { calls / 4 } else { calls };
    for way in [
        Way::Drained,
        Way::Shared,
        Way::WithoutWaiting,
        Way::Cache,
        Way::Stay,
        Way::Exclusive,
    ] {
        let tally = run(granule, ipa_bits, lpa2, way, calls);
        // Only where something may be pending does collecting help.
        let helps = !matches!(way, Way::Drained | Way::Exclusive);
        assert!(helps || tally.made_good == 0, "{way:?}: {} made good", tally.made_good);
        assert!(way != Way::Shared || tally.made_good > 0);
    }
}

#[test]
fn k4_40() {
    all_ways(Granule::K4, 40, false);
}

#[test]
fn k4_52_lpa2() {
    all_ways(Granule::K4, 52, true);
}

#[test]
fn k16_40() {
    all_ways(Granule::K16, 40, false);
}

#[test]
fn k16_52_lpa2() {
    all_ways(Granule::K16, 52, true);
}

#[test]
fn k64_42() {
    all_ways(Granule::K64, 42, false);
}

#[test]
fn k64_52() {
    all_ways(Granule::K64, 52, false);
}

/// A call that needs many frames: each of them is refused once.
#[test]
fn every_frame_of_a_gigabyte_of_pages() {
    use s2pt::arch::{Attrs, Ipa, Pa, Prot};
    use s2pt::table::MapOptions;
    let table = unlistened(geometry(Granule::K4, 40, false), false);
    let (view, memory) = (table.handle(), Memory::clone(table.memory()));
    let pages = MapOptions {
        largest: Some(Level::L3),
        ..MapOptions::default()
    };
    let (ipa, size, pa) = (Ipa::new(1 << 30), 1 << 30, Pa::new(0));
    let before = (contents(&view), memory.stats());
    for k in 0..513 {
        memory.fail_allocation(k);
        let refused = view.map(ipa, size, pa, &Attrs::new(Prot::RW), pages);
        assert_eq!(
            refused,
            Err(Error::OutOfFrames {
                needed: 513,
                available: k
            })
        );
        assert_eq!((contents(&view), memory.stats()), before, "frame {k}");
    }
    memory.fail_allocation(513);
    assert_eq!(
        view.map(ipa, size, pa, &Attrs::new(Prot::RW), pages).unwrap().bytes,
        size
    );
    memory.fail_allocation(usize::MAX);
    view.unmap(ipa, size).unwrap();
    audit(&table);
}
