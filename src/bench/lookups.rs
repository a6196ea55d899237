//! Reading: pages in random order, one by one, and all leaves in ascending order.

use std::hint::black_box;

use super::setup::{IPA, REPIN, page};
use super::{Bench, Meter};
use crate::arch::{AccessKind, Level, Prot};

pub fn lookup(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        for number in bench.random() {
            black_box(vcpu.lookup(page(number))).expect("a mapped page");
        }
    });
}

pub fn lookup_batch(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        let mut stay = vcpu.stay();
        for chunk in bench.order.chunks(REPIN as usize) {
            stay.repin();
            for &number in chunk {
                black_box(stay.lookup(page(u64::from(number)))).expect("a mapped page");
            }
        }
    });
}

pub fn translate(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        for number in bench.random() {
            black_box(vcpu.translate(page(number), AccessKind::Read)).expect("a mapped page");
        }
    });
}

pub fn translate_batch(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        let mut stay = vcpu.stay();
        for chunk in bench.order.chunks(REPIN as usize) {
            stay.repin();
            for &number in chunk {
                black_box(vcpu.translate(page(u64::from(number)), AccessKind::Read)).expect("a mapped page");
            }
        }
    });
}

/// One ascending iteration over the leaves of the whole range.
pub fn leaves(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        let seen = vcpu
            .leaves(IPA, bench.size())
            .expect("a range")
            .map(|leaf| black_box(leaf).size);
        assert_eq!(seen.sum::<u64>(), bench.size());
    });
}
