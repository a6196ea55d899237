//! Frames that are unlinked and wait for walkers to leave: how many there are, what they weigh, how long `drain` takes.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use s2pt::arch::{Attrs, Ipa, Level, Pa, Prot};
use s2pt::memory::TableMemory;
use s2pt::table::MapOptions;
use serde_json::{Value, json};

use super::ground::{GIB, MIB, PA, PAGE, Space, Table, arena, fill, milliseconds, summary, table, timed};
use super::memory::Resident;

const BLOCK: u64 = 2 * MIB;

pub fn measure(quick: bool) -> Value {
    let long = Duration::from_millis(if quick { 20 } else { 1000 });
    json!({
        "storms": [storm(1, long), storm(4, long)],
        "held": held(if quick { 64 * MIB } else { 16 * GIB }),
        "drain": drain(if quick { 2 } else { 31 }),
    })
}

/// So many threads fault pages in at random, as many take whole tables of the same GiB away.
fn storm(pairs: u64, long: Duration) -> Value {
    let arena = arena(1 << 16);
    let mut guest = table(&arena, Space::Bits40);
    fill(&mut guest, 0, GIB, Level::L3);
    let (ended, unlinked, peak) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    let faults: u64 = thread::scope(|scope| {
        for number in 0..pairs {
            let (guest, ended, unlinked, peak) = (&guest, &ended, &unlinked, &peak);
            scope.spawn(move || {
                let vcpu = guest.handle();
                let mut block = number;
                while !ended.load(Ordering::Relaxed) {
                    block = (block + 1) % (GIB / BLOCK);
                    let removed = vcpu.unmap(Ipa::new(block * BLOCK), BLOCK).expect("a range");
                    unlinked.fetch_add(u64::from(removed > 0), Ordering::Relaxed);
                    peak.fetch_max(guest.pending_frames() as u64, Ordering::Relaxed);
                }
            });
        }
        let faulting = (0..pairs).map(|number| {
            let (guest, ended) = (&guest, &ended);
            scope.spawn(move || fault_at_random(guest, GIB, number, || !ended.load(Ordering::Relaxed)))
        });
        let faulting: Vec<_> = faulting.collect();
        thread::sleep(long);
        ended.store(true, Ordering::Relaxed);
        faulting.into_iter().map(|thread| thread.join().expect("a vCPU")).sum()
    });
    let seconds = start.elapsed().as_secs_f64();
    let left = guest.pending_frames();
    let (drained, ()) = timed(|| guest.handle().drain());
    assert_eq!(guest.pending_frames(), 0);
    assert_eq!(arena.frames_in_use() as u64, guest.exclusive().stats().table_frames());
    json!({
        "threads": 2 * pairs, "seconds": seconds, "faults": faults, "frames_retired": unlinked.into_inner(),
        "peak_frames": peak.into_inner(), "frames_left": left, "drain_us": drained.as_secs_f64() * 1e6,
    })
}

/// Faults pages of the first `size` bytes in at random; how many calls that were.
fn fault_at_random(guest: &Table, size: u64, seed: u64, goes_on: impl Fn() -> bool) -> u64 {
    let (vcpu, attrs) = (guest.handle(), Attrs::new(Prot::RW));
    let (mut state, mut faults) = (seed, 0);
    while goes_on() {
        for _ in 0..256 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let ipa = (state >> 16) % (size / PAGE) * PAGE;
            let pa = Pa::new(PA.get() + ipa);
            // Mapped already, or a peer is at it: either way the vCPU goes on.
            let _ = black_box(vcpu.map(Ipa::new(ipa), PAGE, pa, &attrs, MapOptions::FAULT));
            faults += 1;
        }
    }
    faults
}

/// One thread stays in the table while another unmaps `size` bytes, table by table: what the wait costs in memory.
fn held(size: u64) -> Value {
    let tables = (size / BLOCK) as usize;
    let arena = arena(2 * tables);
    let mut guest = table(&arena, Space::Bits40);
    fill(&mut guest, 0, size, Level::L3);
    let (inside, leave) = (Barrier::new(2), mpsc::channel::<()>());
    thread::scope(|scope| {
        let (sender, receiver) = leave;
        let (guest, entered) = (&guest, &inside);
        let other = scope.spawn(move || {
            let vcpu = guest.handle();
            let stay = vcpu.stay();
            entered.wait();
            let _ = receiver.recv();
            drop(stay);
        });
        inside.wait();
        let vcpu = guest.handle();
        let before = Resident::now();
        for block in 0..size / BLOCK {
            assert_eq!(vcpu.unmap(Ipa::new(block * BLOCK), BLOCK).expect("mapped"), BLOCK);
        }
        let (after, pending) = (Resident::now(), guest.pending_frames());
        assert!(pending >= tables, "{pending} of {tables} frames wait");
        drop(sender);
        other.join().expect("the one who stayed");
        let (drained, ()) = timed(|| vcpu.drain());
        let grown = after.beside(0).saturating_sub(before.beside(0));
        json!({
            "frames": pending, "side_bytes_per_frame": grown as f64 / pending as f64,
            "drain_us": drained.as_secs_f64() * 1e6,
        })
    })
}

/// `drain` with nothing to do, after a GiB of pages was unmapped, and the same beside a vCPU that faults all the time.
fn drain(rounds: usize) -> Value {
    let arena = arena(1 << 13);
    let mut guest = table(&arena, Space::Bits40);
    fill(&mut guest, GIB, GIB, Level::L3);
    let idle: Vec<f64> = {
        let vcpu = guest.handle();
        let drain = |_| timed(|| (0..1000).for_each(|_| vcpu.drain())).0.as_nanos() as f64 / 1000.0;
        (0..rounds).map(drain).collect()
    };
    let mut after = |beside: bool| -> Vec<Duration> {
        (0..rounds)
            .map(|_| {
                fill(&mut guest, 0, GIB, Level::L3);
                let ended = AtomicBool::new(false);
                thread::scope(|scope| {
                    if beside {
                        let other = &guest;
                        let goes_on = || !ended.load(Ordering::Relaxed);
                        scope.spawn(move || fault_at_random(other, PAGE, 0, goes_on));
                    }
                    let vcpu = guest.handle();
                    assert!(vcpu.unmap(Ipa::new(GIB), GIB).is_ok());
                    assert!(vcpu.unmap(Ipa::new(0), GIB).is_ok());
                    let (time, ()) = timed(|| vcpu.drain());
                    ended.store(true, Ordering::Relaxed);
                    time
                })
            })
            .collect()
    };
    let (alone, beside) = (after(false), after(true));
    json!({
        "idle_ns": summary(idle), "after_gib_ms": milliseconds(&alone), "after_gib_beside_a_fault_ms": milliseconds(&beside),
    })
}
