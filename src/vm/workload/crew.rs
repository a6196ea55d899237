//! vCPU threads that do passes together: all start a pass at once, the host waits for the last.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use core::time::Duration;

use crate::memory::TableMemory;
use crate::sync::{Barrier, Mutex, MutexGuard, PoisonError, thread};
use crate::table::Tlb;
use crate::vm::{Counters, Vcpu, Vm};

/// What the threads share. `P` is what one pass needs to know.
struct Board<P, E> {
    start: Barrier,
    end: Barrier,
    /// The pass to do; `None` ends the threads.
    pass: Mutex<Option<P>>,
    /// What the vCPUs counted in this pass.
    counters: Mutex<Counters>,
    failed: Mutex<Option<Failure<E>>>,
}

enum Failure<E> {
    Error(E),
    Panic(Box<dyn core::any::Any + Send>),
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The vCPU threads, as the host sees them.
pub(crate) struct Crew<'b, P, E>(&'b Board<P, E>);

impl<P, E> Crew<'_, P, E> {
    /// Lets every vCPU do one pass and waits for all. Returns how long the last took and what all counted.
    pub(crate) fn pass(&self, pass: P) -> Result<(Duration, Counters), E> {
        *lock(&self.0.pass) = Some(pass);
        let since = Instant::now();
        self.0.start.wait();
        self.0.end.wait();
        let elapsed = since.elapsed();
        match lock(&self.0.failed).take() {
            Some(Failure::Error(e)) => return Err(e),
            Some(Failure::Panic(payload)) => resume_unwind(payload),
            None => {}
        }
        Ok((elapsed, core::mem::take(&mut *lock(&self.0.counters))))
    }
}

/// Sends the threads home, whichever way the host leaves.
struct Dismiss<'b, P, E>(&'b Board<P, E>);

impl<P, E> Drop for Dismiss<'_, P, E> {
    fn drop(&mut self) {
        *lock(&self.0.pass) = None;
        self.0.start.wait();
    }
}

/// Runs `host` beside `vcpus` threads, each with a vCPU of `vm`. `job(vcpu, index, pass)` is one vCPU's part of a pass.
pub(crate) fn run<M, T, P, E, R>(
    vm: &Vm<M, T>,
    vcpus: usize,
    job: impl Fn(&mut Vcpu<'_, M, T>, usize, &P) -> Result<(), E> + Sync,
    host: impl FnOnce(&Crew<'_, P, E>) -> Result<R, E>,
) -> Result<R, E>
where
    M: TableMemory,
    T: Tlb,
    P: Clone + Send,
    E: Send,
{
    let board = Board {
        start: Barrier::new(vcpus + 1),
        end: Barrier::new(vcpus + 1),
        pass: Mutex::new(None),
        counters: Mutex::default(),
        failed: Mutex::new(None),
    };
    thread::scope(|scope| {
        for index in 0..vcpus {
            let (board, job) = (&board, &job);
            scope.spawn(move || {
                let mut vcpu = vm.vcpu();
                loop {
                    board.start.wait();
                    let Some(pass) = lock(&board.pass).clone() else { break };
                    let before = vcpu.counters();
                    // A thread that vanished would leave the others at the barrier for ever.
                    let failure = match catch_unwind(AssertUnwindSafe(|| job(&mut vcpu, index, &pass))) {
                        Ok(Ok(())) => None,
                        Ok(Err(e)) => Some(Failure::Error(e)),
                        Err(payload) => Some(Failure::Panic(payload)),
                    };
                    *lock(&board.counters) += vcpu.counters() - before;
                    if failure.is_some() {
                        *lock(&board.failed) = failure;
                    }
                    board.end.wait();
                }
            });
        }
        let _dismiss = Dismiss(&board);
        host(&Crew(&board))
    })
}
