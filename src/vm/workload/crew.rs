//! vCPU threads that do passes together: all start a pass at once, the host waits for the last.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use core::time::Duration;

use crate::memory::TableMemory;
use crate::sync::{Barrier, Condvar, Mutex, MutexGuard, PoisonError, thread};
use crate::table::Tlb;
use crate::vm::{Counters, Vcpu, Vm};

/// The operating system gave fewer threads than a run needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run needs {wanted} threads, and no more than {started} could be started")]
pub struct NoThreads {
    /// How many there should have been.
    pub wanted: usize,
    /// How many there were.
    pub started: usize,
}

/// Where the threads wait until all are there: a barrier would keep some for ever if others never came.
#[derive(Default)]
struct Gate {
    opened: Mutex<Option<bool>>,
    changed: Condvar,
}

impl Gate {
    /// Sends the threads to work, or home.
    fn open(&self, to_work: bool) {
        *lock(&self.opened) = Some(to_work);
        self.changed.notify_all();
    }

    /// Waits for that; whether to work.
    fn pass(&self) -> bool {
        let mut opened = lock(&self.opened);
        loop {
            match *opened {
                Some(to_work) => return to_work,
                None => opened = self.changed.wait(opened).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

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

/// What became of a pass. Times and counts hold for what was done, also if it was not done to its end.
pub(crate) struct Passed<E> {
    /// How long the last vCPU took.
    pub elapsed: Duration,
    /// What all counted.
    pub counters: Counters,
    /// Whether all came to the end of their part, or why one did not.
    pub ended: Result<(), E>,
}

/// The vCPU threads, as the host sees them.
pub(crate) struct Crew<'b, P, E>(&'b Board<P, E>);

impl<P, E> Crew<'_, P, E> {
    /// Lets every vCPU do one pass and waits for all.
    pub(crate) fn pass(&self, pass: P) -> Passed<E> {
        self.pass_beside(pass, || ()).0
    }

    /// The same, with `work` done by the calling thread meanwhile.
    pub(crate) fn pass_beside<R>(&self, pass: P, work: impl FnOnce() -> R) -> (Passed<E>, R) {
        *lock(&self.0.pass) = Some(pass);
        let since = Instant::now();
        self.0.start.wait();
        // The vCPUs wait for each other and for this thread, whatever becomes of its work.
        let worked = catch_unwind(AssertUnwindSafe(work));
        self.0.end.wait();
        let elapsed = since.elapsed();
        let ended = match lock(&self.0.failed).take() {
            Some(Failure::Error(e)) => Err(e),
            Some(Failure::Panic(payload)) => resume_unwind(payload),
            None => Ok(()),
        };
        let passed = Passed {
            elapsed,
            counters: core::mem::take(&mut *lock(&self.0.counters)),
            ended,
        };
        match worked {
            Ok(result) => (passed, result),
            Err(payload) => resume_unwind(payload),
        }
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
    E: Send + From<NoThreads>,
{
    let gate = Gate::default();
    let board = Board {
        start: Barrier::new(vcpus + 1),
        end: Barrier::new(vcpus + 1),
        pass: Mutex::new(None),
        counters: Mutex::default(),
        failed: Mutex::new(None),
    };
    thread::scope(|scope| {
        for index in 0..vcpus {
            let (board, job, gate) = (&board, &job, &gate);
            let started = thread::Builder::new().spawn_scoped(scope, move || {
                if !gate.pass() {
                    return;
                }
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
            if started.is_err() {
                gate.open(false);
                let none = NoThreads {
                    wanted: vcpus,
                    started: index,
                };
                return Err(none.into());
            }
        }
        gate.open(true);
        let _dismiss = Dismiss(&board);
        host(&Crew(&board))
    })
}
