//! Blocks taken apart, written under dirty logging, and put together again.

use super::setup::{BLOCK, IPA, PAGE, block};
use super::{Bench, Meter};
use crate::arch::{Ipa, Level, Prot};

pub fn split_block(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L2, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        for number in 0..bench.blocks() {
            assert_eq!(vcpu.split(block(number), BLOCK, Level::L3).expect("a block"), 1);
        }
    });
}

/// One page in the middle of each write-protected block becomes writable; the other 511 stay mapped as they were.
pub fn dirty_write(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L2, Prot::R);
    let vcpu = table.handle();
    meter.measure(&mut || {
        for number in 0..bench.blocks() {
            let written = Ipa::new(block(number).get() + 0x123 * PAGE);
            assert_eq!(vcpu.relax(written, PAGE, Prot::W).expect("a block").leaves, 1);
        }
    });
    assert_eq!(
        vcpu.leaves(IPA, bench.size())
            .expect("a range")
            .map(|leaf| leaf.size)
            .sum::<u64>(),
        bench.size(),
        "a translation was lost"
    );
}

pub fn collapse(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        for number in 0..bench.blocks() {
            assert_eq!(vcpu.collapse(block(number), BLOCK).expect("a full table"), 1);
        }
        vcpu.drain();
    });
}
