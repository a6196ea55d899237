//! What a row cannot be cheaper than: a compare-exchange, an epoch pin.

use std::hint::black_box;

use super::{Bench, Meter};
use crate::sync::{AtomicU64, Ordering};

pub fn compare_exchange(bench: &Bench, meter: &mut dyn Meter) {
    let entries: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
    meter.measure(&mut || {
        for number in 0..bench.pages() {
            let (entry, old) = (&entries[(number % 512) as usize], number / 512);
            let done = entry.compare_exchange(old, old + 1, Ordering::Release, Ordering::Relaxed);
            assert!(black_box(done).is_ok());
        }
    });
}

pub fn epoch_pin(bench: &Bench, meter: &mut dyn Meter) {
    let collector = crossbeam_epoch::Collector::new();
    let local = collector.register();
    meter.measure(&mut || {
        for _ in 0..bench.pages() {
            black_box(&local.pin());
        }
    });
}
