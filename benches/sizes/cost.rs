//! Nanoseconds of each operation over guests of every size, in 4K pages, 2M blocks and 1G blocks.
//!
//! Operations on one leaf take leaves in random order, spread over the whole guest: what grows with the size is the
//! way to the entry, which leaves the caches. Operations on the whole guest are given per leaf.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use s2pt::arch::{AccessKind, Attrs, Ipa, Level, Pa, Prot};
use s2pt::memory::Arena;
use s2pt::table::{Handle, MapOptions};
use serde_json::{Value, json};

use super::ground::{
    MIB, PA, Space, TIB, Table, arena, available_memory, clock_overhead, fill, frames, leaf_bytes, leaves_of, summary,
    table, timed,
};

/// The first size and the factor from one to the next; both powers of two, as the order of the leaves needs them.
const SMALLEST: u64 = MIB;
const FACTOR: u64 = 4;
/// Leaves that one round of single operations touches at most.
const SAMPLE: u64 = 1 << 16;
/// Operations in a round at least; small guests are gone through several times.
const LEAST: u64 = 1 << 12;
const ROUNDS: usize = 9;
/// Leaves from which on a round over the whole guest takes seconds.
const MANY: u64 = 1 << 24;
const FEW_ROUNDS: usize = 3;

/// Times an operation over all leaves of a pass.
type Each<'e> = dyn FnMut(&'static str, &dyn Fn(Ipa)) + 'e;

type Times = BTreeMap<&'static str, Vec<f64>>;

pub fn measure(quick: bool) -> Value {
    let largest = if quick { 16 * MIB } else { 16 * TIB };
    let mut points = Vec::new();
    for level in [Level::L3, Level::L2, Level::L1] {
        let mut size = SMALLEST.max(leaf_bytes(level));
        while size <= largest {
            let needed = frames(size, level);
            if (needed as u64) << 12 > available_memory() / 4 {
                break;
            }
            points.push(point(level, size, needed, quick));
            size *= FACTOR;
        }
    }
    json!({"ipa_bits": Space::Bits48.bits(), "sample": SAMPLE, "points": points})
}

fn point(level: Level, size: u64, needed: usize, quick: bool) -> Value {
    let leaves = size / leaf_bytes(level);
    let rounds = match (quick, leaves >= MANY) {
        (true, _) => 1,
        (false, true) => FEW_ROUNDS,
        (false, false) => ROUNDS,
    };
    // What is retired and not yet free, and what a shared `map` sets aside, needs room beside the table.
    let arena = arena(2 * needed + 64);
    arena.prefault(needed);
    let mut times = Times::new();
    let mut guest = table(&arena, Space::Bits48);
    fill(&mut guest, 0, size, level);
    for _ in 0..rounds {
        singles(&guest, level, leaves, &mut times);
    }
    drop(guest);
    for _ in 0..rounds {
        whole(&table(&arena, Space::Bits48), level, size, &mut times);
    }
    let operations: BTreeMap<_, _> = times.into_iter().map(|(name, times)| (name, summary(times))).collect();
    json!({"leaf": leaf_bytes(level), "bytes": size, "leaves": leaves, "operations": operations})
}

/// Each operation on single leaves; the table is as before in the end.
fn singles(guest: &Table, level: Level, leaves: u64, times: &mut Times) {
    let (vcpu, bytes) = (guest.handle(), leaf_bytes(level));
    let fault = MapOptions {
        largest: Some(level),
        ..MapOptions::FAULT
    };
    let count = leaves.min(SAMPLE);
    let order: Vec<Ipa> = (0..count)
        .map(|number| Ipa::new(scatter(number, leaves) * bytes))
        .collect();
    let (passes, overhead) = (LEAST.div_ceil(count), clock_overhead());
    let mut sums: BTreeMap<&'static str, Duration> = BTreeMap::new();
    let mut each = |name, operation: &dyn Fn(Ipa)| {
        let (time, ()) = timed(|| order.iter().for_each(|&ipa| operation(ipa)));
        *sums.entry(name).or_default() += time.saturating_sub(overhead);
    };
    for _ in 0..passes {
        pass(&vcpu, &mut each, bytes, fault);
    }
    for (name, time) in sums {
        times.entry(name).or_default().push(per(time, count * passes));
    }
}

/// Each operation once on each leaf that `each` goes through.
fn pass(vcpu: &Handle<'_, Arc<Arena>>, each: &mut Each<'_>, bytes: u64, fault: MapOptions) {
    let attrs = Attrs::new(Prot::RW);
    each("lookup", &|ipa| {
        black_box(vcpu.lookup(ipa)).expect("mapped");
    });
    each("translate", &|ipa| {
        black_box(vcpu.translate(ipa, AccessKind::Write)).expect("mapped");
    });
    each("write_protect", &|ipa| {
        black_box(vcpu.write_protect(ipa, bytes)).expect("mapped");
    });
    each("relax", &|ipa| {
        black_box(vcpu.relax(ipa, bytes, Prot::W)).expect("mapped");
    });
    each("unmap", &|ipa| {
        assert_eq!(vcpu.unmap(ipa, bytes).expect("mapped"), bytes);
    });
    vcpu.drain();
    each("fault", &|ipa| {
        let pa = Pa::new(PA.get() + ipa.get());
        black_box(vcpu.map(ipa, bytes, pa, &attrs, fault)).expect("a hole");
    });
}

/// Each operation on the whole guest, from an empty table to an empty table.
fn whole(guest: &Table, level: Level, size: u64, times: &mut Times) {
    let (vcpu, start) = (guest.handle(), Ipa::new(0));
    let leaves = size / leaf_bytes(level);
    let overhead = clock_overhead();
    let mut all = |name, operation: &dyn Fn()| {
        let time = timed(operation).0.saturating_sub(overhead);
        times.entry(name).or_default().push(per(time, leaves));
    };
    all("map_all", &|| {
        let mapped = vcpu.map(start, size, PA, &Attrs::new(Prot::RW), leaves_of(level));
        black_box(mapped).expect("an empty table");
    });
    all("write_protect_all", &|| {
        assert_eq!(vcpu.write_protect(start, size).expect("mapped").leaves, leaves);
    });
    all("unmap_all", &|| {
        assert_eq!(vcpu.unmap(start, size).expect("mapped"), size);
        vcpu.drain();
    });
}

fn per(time: Duration, operations: u64) -> f64 {
    time.as_nanos() as f64 / operations as f64
}

/// A permutation of the numbers below `count`, a power of two, that looks random to caches and prefetchers.
fn scatter(number: u64, count: u64) -> u64 {
    let (bits, mask) = (count.trailing_zeros(), count - 1);
    // Adding, multiplying by an odd number and folding high bits onto low ones each lose nothing.
    let mixed = (number + 0x5851).wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
    let folded = mixed ^ (mixed >> bits.div_ceil(2).max(1));
    folded.wrapping_mul(0xd6e8_feb8_6659_fd93) & mask
}
