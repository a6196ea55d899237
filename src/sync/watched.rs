//! loom's atomics, so that its search forgets nothing and repeats little.
//!
//! loom tries the other order of two steps of different threads on one atomic if one of them writes it. But it keeps only
//! the last step on each, so the load that comes before most writes (read an entry, compare-exchange it) hides the loads that
//! other threads did before, and whole orders are never tried: a model of a collapse and a fault below it "ended" after one
//! execution. Here an atomic is a loom atomic for each thread. A thread loads its own; who writes, writes them all in one
//! step, each with the ordering that he gave. So each load is set against each write, and two loads of different threads
//! are never set against each other. Nothing else is shared, so no order comes about that the atomic would not bring.
//!
//! loom takes SeqCst accesses for AcqRel. So that models can rest on them, a SeqCst store, exchange or addition is here one
//! with Release or AcqRel and a SeqCst fence behind it, and a SeqCst load one with Acquire. That is weaker than SeqCst where
//! loads only are set against each other (two readers who see two writes in different orders), so a model may fail where the
//! code does not; and it says nothing of Relaxed accesses around such ones, which the fence orders and an access would not.
//!
//! What loom's atomics hold are numbers of writes; the values are beside them. So two writes of one value are told apart.
//! As long as there is one thread, and again when all others have been joined, nothing is a step. What need not be tried
//! at all is in `search.rs`.

use super::Ordering;
use super::search::{self, THREADS};
use loom::sync::atomic;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{LockResult, Mutex as Plain, MutexGuard, PoisonError};

/// No number of a write.
const NONE: usize = usize::MAX;

#[derive(Debug)]
struct Cell {
    id: usize,
    /// For each thread.
    copies: [atomic::AtomicUsize; THREADS],
    values: Plain<Values>,
}

/// What was written.
#[derive(Debug)]
struct Values {
    all: Vec<u64>,
    /// Which write each was.
    ranks: Vec<u32>,
    newest: usize,
}

impl Values {
    fn get(&self) -> u64 {
        self.all[self.newest]
    }

    fn set(&mut self, value: u64) {
        self.all[self.newest] = value;
    }

    fn push(&mut self, value: u64) -> usize {
        self.all.push(value);
        self.ranks.push(0);
        self.all.len() - 1
    }
}

impl Cell {
    fn new(value: u64) -> Self {
        Self {
            id: search::new_cell(),
            copies: [(); THREADS].map(|()| atomic::AtomicUsize::new(0)),
            values: Plain::new(Values {
                all: vec![value],
                ranks: vec![0],
                newest: 0,
            }),
        }
    }

    fn values(&self) -> MutexGuard<'_, Values> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `step` if it is one for loom, as thread number so-and-so. `None`: nobody else is there, or sees it.
    fn seen<R>(id: usize, writes: bool, step: impl FnOnce(usize) -> R) -> Option<R> {
        if search::alone() || search::is_over() || search::is_own(id, writes) {
            Self::ask();
            return None;
        }
        let me = search::running();
        let done = step(me);
        search::goes_on(me);
        if search::is_over() {
            Self::ask();
            return None;
        }
        search::to_try().into_iter().for_each(pass);
        Some(done)
    }

    /// After an execution was cut short at a step in whose place this thread's next should be tried.
    fn ask() {
        if search::asks() {
            pass(search::running());
        }
    }

    /// The number of the newest write.
    fn newest(&self, me: usize, order: Ordering) -> usize {
        let found = self.copies[me].compare_exchange(NONE, NONE, Ordering::Relaxed, order);
        found.expect_err("no write has this number")
    }

    /// The step was seen: is it none that was taken before?
    fn counts(&self, writes: bool, read: usize) -> bool {
        let rank = self.values().ranks[read];
        search::step(self.id, writes, rank)
    }

    fn load(&self, order: Ordering) -> u64 {
        let order = if order == Ordering::SeqCst {
            Ordering::Acquire
        } else {
            order
        };
        let read = Self::seen(self.id, false, |me| {
            // Decided before others may run; if one writes then, an older value that is read is a repetition.
            if search::races(self.id) {
                self.newest(me, order)
            } else {
                self.copies[me].load(order)
            }
        });
        match read {
            Some(read) if self.counts(false, read) => self.values().all[read],
            _ => self.values().get(),
        }
    }

    /// In one step with what came before it: loom should not try what others could do in between.
    fn at_once<R>(work: impl FnOnce() -> R) -> R {
        loom::stop_exploring();
        let done = work();
        loom::explore();
        done
    }

    /// Write number `new` is the newest now.
    fn wrote(&self, new: usize) {
        let mut values = self.values();
        values.newest = new;
        values.ranks[new] = search::writes(self.id);
    }

    fn store(&self, value: u64, order: Ordering) {
        if order == Ordering::SeqCst {
            self.store(value, Ordering::Release);
            return fence(Ordering::SeqCst);
        }
        let seen = Self::seen(self.id, true, |me| {
            let new = self.values().push(value);
            self.copies[me].store(new, order);
            (me, new)
        });
        let Some((me, new)) = seen else {
            return self.values().set(value);
        };
        let old = self.values().newest;
        if !self.counts(true, old) {
            return self.values().set(value);
        }
        Self::at_once(|| {
            for (_, copy) in self.copies.iter().enumerate().filter(|&(thread, _)| thread != me) {
                copy.store(new, order);
            }
        });
        self.wrote(new);
    }

    /// Read, decide, write.
    fn update(&self, success: Ordering, failure: Ordering, new: impl FnOnce(u64) -> Option<u64>) -> Result<u64, u64> {
        let seen = Self::seen(self.id, true, |me| (me, self.newest(me, Ordering::Relaxed)));
        let value = self.values().get();
        let new = new(value);
        let outcome = if new.is_some() { Ok(value) } else { Err(value) };
        let quietly = || {
            if let Some(new) = new {
                self.values().set(new);
            }
            outcome
        };
        let Some((me, read)) = seen else {
            let outcome = quietly();
            if success == Ordering::SeqCst && new.is_some() {
                fence(Ordering::SeqCst);
            }
            return outcome;
        };
        assert_eq!(
            read,
            self.values().newest,
            "two stores that nothing orders, and an exchange"
        );
        if !self.counts(new.is_some(), read) {
            return quietly();
        }
        let Some(new) = new else {
            Self::at_once(|| self.newest(me, failure));
            return outcome;
        };
        let new = self.values().push(new);
        Self::at_once(|| {
            for copy in &self.copies {
                let done = copy.compare_exchange(read, new, success, Ordering::Relaxed);
                assert_eq!(done, Ok(read), "the copies are one atomic");
            }
        });
        self.wrote(new);
        if success == Ordering::SeqCst {
            fence(Ordering::SeqCst);
        }
        outcome
    }
}

/// What sets steps on different cells against each other.
struct Turns {
    /// Fences: each depends on each.
    fences: Turn,
    fence_cell: usize,
    /// Steps that each thread's next should be set against, where loom would not: see `search`.
    all: [Turn; THREADS],
}

struct Turn(atomic::AtomicUsize);

impl Turn {
    fn new() -> Self {
        Self(atomic::AtomicUsize::new(0))
    }

    fn pass(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A step of the calling thread, or one that should be set against the next of `thread`.
fn pass(thread: usize) {
    let me = search::running();
    Cell::at_once(|| TURNS.with_borrow(|turns| turns.as_ref().expect("a model runs").all[thread].pass()));
    search::goes_on(me);
}

std::thread_local! {
    static TURNS: RefCell<Option<Rc<Turns>>> = const { RefCell::new(None) };
}

/// Before each execution, inside of it.
pub(super) fn begin() {
    search::begin();
    TURNS.set(Some(Rc::new(Turns {
        fences: Turn::new(),
        fence_cell: search::fence_cell(),
        all: [(); THREADS].map(|()| Turn::new()),
    })));
}

/// After it.
pub(super) fn end() {
    TURNS.set(None);
}

/// As in `std`. A step too: which of two fences comes first decides what is seen behind them.
pub fn fence(order: Ordering) {
    let turns = TURNS.with_borrow(|turns| turns.clone().expect("a model runs"));
    if Cell::seen(turns.fence_cell, true, |_| turns.fences.pass()).is_some() {
        search::step(turns.fence_cell, true, search::writes(turns.fence_cell));
    }
    if !search::is_over() {
        atomic::fence(order);
    }
}

/// As in `std`. What is done under the lock must not be a step: locking is one, the rest belongs to it.
#[derive(Debug)]
pub struct Mutex<T> {
    cell: Cell,
    data: Plain<T>,
}

#[allow(missing_docs)]
impl<T> Mutex<T> {
    pub fn new(data: T) -> Self {
        Self {
            cell: Cell::new(0),
            data: Plain::new(data),
        }
    }

    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        // AcqRel: who comes later sees what all others did before they came.
        let _ = self
            .cell
            .update(Ordering::AcqRel, Ordering::Relaxed, |turn| Some(turn + 1));
        self.data.lock()
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

macro_rules! watched {
    ($name:ident, $value:ty, $from:expr) => {
        /// As in `std`.
        #[derive(Debug)]
        pub struct $name(Cell);

        #[allow(missing_docs)]
        impl $name {
            pub fn new(value: $value) -> Self {
                Self(Cell::new(value as u64))
            }

            pub fn load(&self, order: Ordering) -> $value {
                $from(self.0.load(order))
            }

            pub fn store(&self, value: $value, order: Ordering) {
                self.0.store(value as u64, order);
            }

            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                let (Ok(old) | Err(old)) = self.0.update(order, Ordering::Relaxed, |_| Some(value as u64));
                $from(old)
            }

            pub fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let exchanged = |found| (found == old as u64).then_some(new as u64);
                self.0
                    .update(success, failure, exchanged)
                    .map($from)
                    .map_err($from)
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
        watched!($name, $value, |value: u64| value as $value);

        #[allow(missing_docs)]
        impl $name {
            fn always(&self, order: Ordering, new: impl FnOnce($value) -> $value) -> $value {
                let new = |old| Some(new(old as $value) as u64);
                let (Ok(old) | Err(old)) = self.0.update(order, Ordering::Relaxed, new);
                old as $value
            }

            pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                self.always(order, |old| old.wrapping_add(value))
            }

            pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                self.always(order, |old| old.wrapping_sub(value))
            }

            pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                self.always(order, |old| old & value)
            }

            pub fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                self.always(order, |old| old.max(value))
            }

            pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                self.always(order, |old| old | value)
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

watched!(AtomicBool, bool, |value: u64| value != 0);
counts!(AtomicU32, u32);
counts!(AtomicU64, u64);
counts!(AtomicUsize, usize);
