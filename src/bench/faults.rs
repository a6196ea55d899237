//! Mapping: page by page as faults come, and a range in one call.

use std::hint::black_box;

use super::setup::{IPA, PA, PAGE, REPIN, page, target};
use super::{Bench, Meter};
use crate::arch::{Attrs, Level, Prot};
use crate::table::MapOptions;

pub fn fault_page(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.table();
    let (vcpu, attrs) = (table.handle(), Attrs::new(Prot::RW));
    meter.measure(&mut || {
        for number in 0..bench.pages() {
            black_box(vcpu.map(page(number), PAGE, target(number), &attrs, MapOptions::FAULT)).expect("a free page");
        }
    });
}

pub fn fault_page_random(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.table();
    let (vcpu, attrs) = (table.handle(), Attrs::new(Prot::RW));
    meter.measure(&mut || {
        for number in bench.random() {
            black_box(vcpu.map(page(number), PAGE, target(number), &attrs, MapOptions::FAULT)).expect("a free page");
        }
    });
}

pub fn fault_page_batch(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.table();
    let (vcpu, attrs) = (table.handle(), Attrs::new(Prot::RW));
    meter.measure(&mut || {
        let mut stay = vcpu.stay();
        for number in 0..bench.pages() {
            if number % REPIN == 0 {
                stay.repin();
            }
            black_box(stay.map(page(number), PAGE, target(number), &attrs, MapOptions::FAULT)).expect("a free page");
        }
    });
}

pub fn fault_page_exclusive(bench: &Bench, meter: &mut dyn Meter) {
    let mut table = bench.table();
    let attrs = Attrs::new(Prot::RW);
    meter.measure(&mut || {
        let only = table.exclusive();
        for number in 0..bench.pages() {
            black_box(only.map(page(number), PAGE, target(number), &attrs, MapOptions::FAULT)).expect("a free page");
        }
    });
}

pub fn map_pages(bench: &Bench, meter: &mut dyn Meter) {
    map_all(bench, meter, Level::L3);
}

pub fn map_blocks(bench: &Bench, meter: &mut dyn Meter) {
    map_all(bench, meter, Level::L2);
}

/// The whole range in one call, in leaves of `level`.
fn map_all(bench: &Bench, meter: &mut dyn Meter, level: Level) {
    let table = bench.table();
    let (vcpu, attrs) = (table.handle(), Attrs::new(Prot::RW));
    let options = MapOptions {
        largest: Some(level),
        ..MapOptions::default()
    };
    meter.measure(&mut || {
        black_box(vcpu.map(IPA, bench.size(), PA, &attrs, options)).expect("an empty table");
    });
}
