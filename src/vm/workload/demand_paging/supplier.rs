//! Who gives missing pages: threads at queues of requests, as the readers of a userfaultfd are.
//!
//! A page is missing, on its way or there. Who is asked for it and finds it missing brings it; who finds it on its way or
//! there has nothing to do, and that is no error: two vCPUs may have asked. A vCPU waits until it is there.

use std::collections::VecDeque;

use super::{DemandPaging, FILLED, Supply};
use crate::arch::{Ipa, Pa};
use crate::memory::Ram;
use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError, thread};
use crate::vm::workload::crew::NoThreads;
use crate::vm::workload::load::Region;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Missing,
    OnItsWay,
    There,
}

/// Pages whose numbers are alike modulo the number of shards, so that waiting for one wakes few.
struct Shard {
    pages: Mutex<Vec<State>>,
    came: Condvar,
}

#[derive(Default)]
struct Requests {
    wanted: VecDeque<u64>,
    closed: bool,
}

#[derive(Default)]
struct Queue {
    requests: Mutex<Requests>,
    changed: Condvar,
}

/// The suppliers of a run.
pub(super) struct Suppliers<'r> {
    options: DemandPaging,
    /// The first page of the host, and its size.
    base: u64,
    size: u64,
    memory: (u64, u64),
    shards: Vec<Shard>,
    queues: Vec<Queue>,
    ram: &'r Ram,
    counts: Mutex<(u64, u64)>,
}

const SHARDS: u64 = 64;

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'r> Suppliers<'r> {
    /// Suppliers at so many queues, of pages of `size` bytes; without queues everything is there.
    pub(super) fn new(options: DemandPaging, region: &Region, size: u64, queues: usize, ram: &'r Ram) -> Self {
        let memory = (region.base.get(), region.base.get() + region.bytes);
        let base = memory.0 / size;
        let pages = if queues == 0 { 0 } else { memory.1.div_ceil(size) - base };
        let shard = |_| Shard {
            pages: Mutex::new(vec![State::Missing; pages.div_ceil(SHARDS) as usize]),
            came: Condvar::new(),
        };
        Self {
            options,
            base,
            size,
            memory,
            shards: (0..SHARDS).map(shard).collect(),
            queues: (0..queues).map(|_| Queue::default()).collect(),
            ram,
            counts: Mutex::default(),
        }
    }

    /// Starts the threads.
    pub(super) fn start<'s>(&'s self, scope: &'s thread::Scope<'s, '_>, readers: u32) -> Result<(), NoThreads> {
        let wanted = self.queues.len() * readers as usize;
        for started in 0..wanted {
            let queue = &self.queues[started % self.queues.len()];
            let thread = thread::Builder::new().spawn_scoped(scope, move || self.serve(queue));
            if thread.is_err() {
                return Err(NoThreads { wanted, started });
            }
        }
        Ok(())
    }

    /// Asks for the page at `ipa` on behalf of vCPU `index`, and waits until it is there.
    pub(super) fn want(&self, index: usize, ipa: Ipa) {
        let Some(queue) = self.queues.get(index % self.queues.len().max(1)) else {
            return;
        };
        let number = ipa.get() / self.size - self.base;
        let (shard, at) = (&self.shards[(number % SHARDS) as usize], (number / SHARDS) as usize);
        if lock(&shard.pages)[at] == State::There {
            return;
        }
        lock(&queue.requests).wanted.push_back(number);
        queue.changed.notify_one();
        let mut pages = lock(&shard.pages);
        while pages[at] != State::There {
            pages = shard.came.wait(pages).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many pages were given, and how often one was there before.
    pub(super) fn counts(&self) -> (u64, u64) {
        *lock(&self.counts)
    }

    /// The life of a supplier.
    fn serve(&self, queue: &Queue) {
        while let Some(number) = queue.next() {
            self.options.delay.pay();
            let brought = self.bring(number);
            let mut counts = lock(&self.counts);
            if brought {
                counts.0 += 1;
            } else {
                counts.1 += 1;
            }
        }
    }

    /// Brings a page, unless it is there or on its way.
    fn bring(&self, number: u64) -> bool {
        let (shard, at) = (&self.shards[(number % SHARDS) as usize], (number / SHARDS) as usize);
        {
            let mut pages = lock(&shard.pages);
            if pages[at] != State::Missing {
                return false;
            }
            pages[at] = State::OnItsWay;
        }
        if self.options.supply == Supply::Missing {
            let first = ((self.base + number) * self.size).max(self.memory.0);
            let end = ((self.base + number + 1) * self.size).min(self.memory.1);
            for page in (first..end).step_by(Ram::PAGE as usize) {
                self.ram.fill_page(Pa::new(page), FILLED);
            }
        }
        lock(&shard.pages)[at] = State::There;
        shard.came.notify_all();
        true
    }
}

impl Queue {
    /// The next request; `None` when there will be none.
    fn next(&self) -> Option<u64> {
        let mut requests = lock(&self.requests);
        loop {
            if let Some(number) = requests.wanted.pop_front() {
                return Some(number);
            }
            if requests.closed {
                return None;
            }
            requests = self.changed.wait(requests).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Sends the suppliers home.
pub(super) struct Close<'s, 'r>(pub(super) &'s Suppliers<'r>);

impl Drop for Close<'_, '_> {
    fn drop(&mut self) {
        for queue in &self.0.queues {
            lock(&queue.requests).closed = true;
            queue.changed.notify_all();
        }
    }
}
