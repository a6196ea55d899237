//! A huge table goes: how long that takes its owner, and how long another thread's operation stands still meanwhile.
//!
//! The other thread faults pages in all the time, each fault timed by itself. Its longest fault while the owner does
//! nothing is what the machine adds (interrupts, the hypervisor); what is longer beside the unmap is the table's doing.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use s2pt::arch::{Attrs, Ipa, Level, Pa, Prot};
use s2pt::memory::TableMemory;
use s2pt::table::MapOptions;
use serde_json::{Value, json};

use super::ground::{GIB, MIB, PA, PAGE, Space, Table, arena, fill, frames, milliseconds, summary, table, timed};

/// Where the bystander has memory of its own: in another subtree of any level.
const OWN: u64 = 512 * GIB;
const OWN_SIZE: u64 = 256 * MIB;

pub fn measure(quick: bool) -> Value {
    let (size, rounds) = if quick { (256 * MIB, 1) } else { (100 * GIB, 5) };
    // One entry of level 0 is 512 GiB; its table has 262,144 frames below.
    let entry = if quick { GIB } else { 512 * GIB };
    json!({
        "bytes": size,
        "alone": alone(size, rounds),
        "beside": [
            beside("nothing is unmapped", size, Space::Bits40, rounds, Where::Apart, false),
            beside("faults elsewhere, 3 levels", size, Space::Bits40, rounds, Where::Apart, true),
            beside("faults elsewhere, 4 levels", size, Space::Bits48, rounds, Where::Apart, true),
            beside("faults in the range, 3 levels", size, Space::Bits40, rounds, Where::Inside, true),
            beside("faults elsewhere, one entry of level 0", entry, Space::Bits48, rounds, Where::Apart, true),
            beside("faults in the range, one entry of level 0", entry, Space::Bits48, rounds, Where::Inside, true),
        ],
    })
}

/// The owner has the table for himself.
fn alone(size: u64, rounds: usize) -> Value {
    let arena = arena(frames(size, Level::L3) + 64);
    let (mut shared, mut drained, mut exclusive, mut dropped) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let filled = || {
        let mut guest = table(&arena, Space::Bits40);
        fill(&mut guest, 0, size, Level::L3);
        guest
    };
    for _ in 0..rounds {
        let guest = filled();
        let vcpu = guest.handle();
        shared.push(timed(|| assert_eq!(vcpu.unmap(Ipa::new(0), size).expect("mapped"), size)).0);
        drained.push(timed(|| vcpu.drain()).0);
        drop(vcpu);
        drop(guest);
        let mut guest = filled();
        exclusive.push(timed(|| assert_eq!(guest.exclusive().unmap(Ipa::new(0), size).expect("mapped"), size)).0);
        drop(guest);
        let guest = filled();
        dropped.push(timed(|| drop(guest)).0);
        assert_eq!(arena.frames_in_use(), 0);
    }
    json!({
        "unmap_shared_ms": milliseconds(&shared), "drain_ms": milliseconds(&drained),
        "unmap_exclusive_ms": milliseconds(&exclusive), "drop_ms": milliseconds(&dropped),
    })
}

/// Where the other thread's pages are.
#[derive(Clone, Copy, PartialEq)]
enum Where {
    /// In memory of its own.
    Apart,
    /// All over the range that is unmapped.
    Inside,
}

/// One thread unmaps, or only waits as long, while another faults.
fn beside(title: &str, size: u64, space: Space, rounds: usize, place: Where, unmaps: bool) -> Value {
    // Twice, for what is retired still when the faults make the same tables anew.
    let capacity = 2 * frames(size, Level::L3) + frames(OWN_SIZE, Level::L3) + 4096;
    let arena = arena(capacity);
    arena.prefault(capacity);
    let (mut took, mut longest, mut worked, mut ordinary) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut pending = 0;
    let mut usual = Duration::from_millis(100);
    for _ in 0..rounds {
        let mut guest = table(&arena, space);
        fill(&mut guest, 0, size, Level::L3);
        let (gate, ended) = (Barrier::new(2), AtomicBool::new(false));
        let faults = thread::scope(|scope| {
            let other = scope.spawn(|| bystander(&guest, size, place, &gate, &ended));
            let vcpu = guest.handle();
            gate.wait();
            let (time, ()) = timed(|| {
                if unmaps {
                    black_box(vcpu.unmap(Ipa::new(0), size)).expect("a range");
                    vcpu.drain();
                } else {
                    let start = Instant::now();
                    while start.elapsed() < usual {
                        std::hint::spin_loop();
                    }
                }
            });
            usual = time;
            took.push(time);
            ended.store(true, Ordering::Relaxed);
            other.join().expect("a bystander")
        });
        longest.push(faults.longest);
        worked.push(faults.worked);
        ordinary.push(faults.mean_ns);
        pending = pending.max(faults.pending);
    }
    json!({
        "title": title, "bytes": size, "levels": if space.bits() == 40 { 3 } else { 4 }, "owner_ms": milliseconds(&took),
        "fault_mean_ns": summary(ordinary), "longest_fault_ms": milliseconds(&longest),
        "peak_pending_frames": pending, "most_work_in_a_fault_ms": milliseconds(&worked),
    })
}

struct Faults {
    /// The longest in time that passed.
    longest: Duration,
    /// The longest in processor time: without waits for a peer, and without what others ran meanwhile.
    worked: Duration,
    mean_ns: f64,
    /// The most frames that waited to be freed.
    pending: usize,
}

/// Faults pages in until told to end, each under the clock; its own pages it takes back in between.
fn bystander(guest: &Table, size: u64, place: Where, gate: &Barrier, ended: &AtomicBool) -> Faults {
    let (vcpu, attrs) = (guest.handle(), Attrs::new(Prot::RW));
    let (mut longest, mut most, mut total, mut count) = (Duration::ZERO, Duration::ZERO, Duration::ZERO, 0_u32);
    let (mut state, mut pending) = (1_u64, 0);
    gate.wait();
    while !ended.load(Ordering::Relaxed) {
        for page in 0..OWN_SIZE / PAGE {
            let ipa = match place {
                Where::Apart => OWN + page * PAGE,
                Where::Inside => {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    (state >> 16) % (size / PAGE) * PAGE
                }
            };
            let before = worked();
            let (time, _) = timed(|| {
                black_box(vcpu.map(Ipa::new(ipa), PAGE, Pa::new(PA.get() + ipa), &attrs, MapOptions::FAULT)).is_ok()
            });
            most = most.max((worked() - before).min(time)); // the clocks' own work is no fault's

            longest = longest.max(time);
            total += time;
            count += 1;
            pending = pending.max(guest.pending_frames());
            if ended.load(Ordering::Relaxed) {
                break;
            }
        }
        if place == Where::Apart {
            vcpu.unmap(Ipa::new(OWN), OWN_SIZE).expect("a range");
        }
    }
    Faults {
        longest,
        worked: most,
        pending,
        mean_ns: total.as_nanos() as f64 / f64::from(count),
    }
}

/// Processor time of the calling thread.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.try_into().expect("a time since the thread's start")
}
