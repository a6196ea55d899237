//! Unmapping: a range in one call, and page by page. The frames' way back to the arena is part of the work.

use super::setup::{IPA, PAGE, REPIN, page};
use super::{Bench, Meter};
use crate::arch::{Level, Prot};

pub fn shared(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        assert_eq!(vcpu.unmap(IPA, bench.size()).expect("a mapped range"), bench.size());
        vcpu.drain();
    });
}

pub fn exclusive(bench: &Bench, meter: &mut dyn Meter) {
    let mut table = bench.mapped(Level::L3, Prot::RW);
    meter.measure(&mut || {
        assert_eq!(
            table.exclusive().unmap(IPA, bench.size()).expect("a mapped range"),
            bench.size()
        );
    });
}

/// The last page of each table takes the table with it.
pub fn one_page(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        for number in 0..bench.pages() {
            assert_eq!(vcpu.unmap(page(number), PAGE).expect("a mapped page"), PAGE);
        }
        vcpu.drain();
    });
}

pub fn one_page_batch(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        let mut stay = vcpu.stay();
        for number in 0..bench.pages() {
            if number % REPIN == 0 {
                stay.repin();
            }
            assert_eq!(vcpu.unmap(page(number), PAGE).expect("a mapped page"), PAGE);
        }
        drop(stay);
        vcpu.drain();
    });
}
