//! Attributes in place: the right to write taken from a whole range and given to one page, and the access flag.

use std::hint::black_box;

use super::setup::{IPA, PAGE, REPIN, page};
use super::{Bench, Meter};
use crate::arch::{Level, Prot};

pub fn write_protect_shared(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        assert_eq!(
            vcpu.write_protect(IPA, bench.size()).expect("a mapped range").leaves,
            bench.pages()
        );
    });
}

pub fn write_protect_exclusive(bench: &Bench, meter: &mut dyn Meter) {
    let mut table = bench.mapped(Level::L3, Prot::RW);
    meter.measure(&mut || {
        assert_eq!(
            table
                .exclusive()
                .write_protect(IPA, bench.size())
                .expect("a mapped range")
                .leaves,
            bench.pages()
        );
    });
}

pub fn relax_page(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::R);
    let vcpu = table.handle();
    meter.measure(&mut || {
        for number in 0..bench.pages() {
            black_box(vcpu.relax(page(number), PAGE, Prot::W)).expect("a mapped page");
        }
    });
}

pub fn relax_page_batch(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::R);
    let vcpu = table.handle();
    meter.measure(&mut || {
        let mut stay = vcpu.stay();
        for number in 0..bench.pages() {
            if number % REPIN == 0 {
                stay.repin();
            }
            black_box(vcpu.relax(page(number), PAGE, Prot::W)).expect("a mapped page");
        }
    });
}

/// Every page is young before, and old after.
pub fn age(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        assert!(
            vcpu.test_and_clear_young(IPA, bench.size(), true)
                .expect("a mapped range")
        );
    });
}
