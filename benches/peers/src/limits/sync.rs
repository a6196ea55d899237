//! Exchanges, epochs and locks.

use std::hint::{self, black_box};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::nanoseconds;
use crate::clock::measure;
use crate::layout::ENTRIES;

/// Entry after entry of one table, as faults in order do it.
pub fn compare_exchange(steps: u64) -> f64 {
    let entries: Vec<AtomicU64> = (0..ENTRIES).map(|_| AtomicU64::new(0)).collect();
    let time = measure(|| {
        for step in 0..steps {
            let (entry, old) = (&entries[(step % ENTRIES) as usize], step / ENTRIES);
            let done = entry.compare_exchange(old, old + 1, Ordering::Release, Ordering::Relaxed);
            assert!(black_box(done).is_ok());
        }
    });
    nanoseconds(time, steps)
}

#[repr(align(128))]
struct Line([AtomicU64; 2]);

/// Time that passes for each success of a thread while a second one does the same, `apart` words away.
pub fn contended(steps: u64, apart: usize) -> f64 {
    let line = Line([AtomicU64::new(0), AtomicU64::new(0)]);
    let gate = AtomicUsize::new(2);
    let times = thread::scope(|scope| {
        let start = |word: usize| {
            let (word, gate) = (&line.0[word], &gate);
            scope.spawn(move || {
                gate.fetch_sub(1, Ordering::AcqRel);
                while gate.load(Ordering::Acquire) > 0 {
                    hint::spin_loop();
                }
                let start = Instant::now();
                for _ in 0..steps {
                    let mut old = word.load(Ordering::Relaxed);
                    while let Err(found) = word.compare_exchange(old, old + 1, Ordering::Release, Ordering::Relaxed) {
                        old = found;
                    }
                }
                start.elapsed()
            })
        };
        [start(0), start(apart)].map(|worker| worker.join().expect("a worker"))
    });
    nanoseconds(times[0].max(times[1]), steps)
}

pub fn pin(steps: u64) -> impl FnMut() -> f64 {
    let local = crossbeam_epoch::Collector::new().register();
    move || {
        let time = measure(|| (0..steps).for_each(|_| drop(black_box(local.pin()))));
        nanoseconds(time, steps)
    }
}

pub fn repin(steps: u64) -> impl FnMut() -> f64 {
    let local = crossbeam_epoch::Collector::new().register();
    move || {
        let mut guard = local.pin();
        let time = measure(|| (0..steps).for_each(|_| black_box(&mut guard).repin()));
        nanoseconds(time, steps)
    }
}

/// A lock taken and released: one function for each kind and way.
macro_rules! lock {
    ($name:ident, $lock:ty, $way:ident $($ok:tt)*) => {
        pub fn $name(steps: u64) -> impl FnMut() -> f64 {
            let lock = <$lock>::new(0);
            move || {
                let time = measure(|| (0..steps).for_each(|_| drop(black_box(black_box(&lock).$way()$($ok)*))));
                nanoseconds(time, steps)
            }
        }
    };
}

lock!(parking_lot_read, parking_lot::RwLock<u64>, read);
lock!(parking_lot_write, parking_lot::RwLock<u64>, write);
lock!(std_read, std::sync::RwLock<u64>, read.expect("no writer panicked"));
lock!(std_write, std::sync::RwLock<u64>, write.expect("no writer panicked"));
