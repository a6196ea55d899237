//! loom's atomics, so that its search forgets nothing.
//!
//! loom tries the other order of two steps of different threads on one atomic if one of them writes it. But it keeps only
//! the last step on each, so the load that comes before most writes (read an entry, compare-exchange it) hides the loads that
//! other threads did before, and whole orders are never tried: a model of a collapse and a fault below it "ended" after one
//! execution. Here each thread has a word beside the atomic. Its loads step on that; a write steps on all of them before
//! it happens. The words are changed by read-modify-writes only, of which loom forgets none, so each load is set against
//! each write, and two loads against each other never. The words are Relaxed and bring no order; which values a load
//! may see is still loom's business.

use super::Ordering;
use loom::sync::atomic;
use loom::thread;

/// The main thread of a model and the others.
pub(crate) const THREADS: usize = 3;

#[derive(Debug)]
struct Steps([atomic::AtomicUsize; THREADS]);

impl Steps {
    fn new() -> Self {
        Self([(); THREADS].map(|()| atomic::AtomicUsize::new(0)))
    }

    fn step(&self, thread: usize) {
        self.0[thread].fetch_add(1, Ordering::Relaxed);
    }

    fn load(&self) {
        let id = format!("{:?}", thread::current().id());
        let number = id.trim_matches(|c: char| !c.is_ascii_digit()).parse();
        let thread: usize = number.expect("loom numbers its threads");
        assert!(thread < THREADS, "a model of more than {THREADS} threads");
        self.step(thread);
    }

    /// `glance` is a load of the atomic: it makes loom forget the loads of others, which the words keep better.
    fn write<R>(&self, glance: impl FnOnce(), write: impl FnOnce() -> R) -> R {
        self.step(0);
        // The rest is one step with the first: loom should not try what others could do in between.
        loom::stop_exploring();
        (1..THREADS).for_each(|thread| self.step(thread));
        glance();
        let done = write();
        loom::explore();
        done
    }
}

macro_rules! watched {
    ($name:ident, $value:ty) => {
        /// As in `std`.
        #[derive(Debug)]
        pub struct $name {
            steps: Steps,
            word: atomic::$name,
        }

        #[allow(missing_docs)]
        impl $name {
            pub fn new(value: $value) -> Self {
                Self {
                    steps: Steps::new(),
                    word: atomic::$name::new(value),
                }
            }

            fn write<R>(&self, write: impl FnOnce(&atomic::$name) -> R) -> R {
                let glance = || {
                    self.word.load(Ordering::Relaxed);
                };
                self.steps.write(glance, || write(&self.word))
            }

            pub fn load(&self, order: Ordering) -> $value {
                self.steps.load();
                self.word.load(order)
            }

            pub fn store(&self, value: $value, order: Ordering) {
                self.write(|word| word.store(value, order));
            }

            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                self.write(|word| word.swap(value, order))
            }

            pub fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.write(|word| word.compare_exchange(old, new, success, failure))
            }

            pub fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(old, new, success, failure)
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new(<$value>::default())
            }
        }
    };
}

macro_rules! counts {
    ($name:ident, $value:ty) => {
        watched!($name, $value);

        #[allow(missing_docs)]
        impl $name {
            pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                self.write(|word| word.fetch_add(value, order))
            }

            pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                self.write(|word| word.fetch_sub(value, order))
            }

            pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                self.write(|word| word.fetch_or(value, order))
            }

            pub fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                mut update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut value = self.load(failure);
                while let Some(new) = update(value) {
                    match self.compare_exchange_weak(value, new, success, failure) {
                        Ok(_) => return Ok(value),
                        Err(found) => value = found,
                    }
                }
                Err(value)
            }
        }
    };
}

watched!(AtomicBool, bool);
counts!(AtomicU32, u32);
counts!(AtomicU64, u64);
counts!(AtomicUsize, usize);
