//! A long run: it has threads of its own, and Python looks at it now and then.
//!
//! All runs are of one class, `Job`, which knows how to start, wait, cancel and tell. Each kind of run is a class below it
//! that has nothing but a constructor.
//!
//! The run never touches the interpreter, so it does not matter who waits for it and how: a Python thread that waits is
//! detached and comes back after at most the time that it gave, to see Ctrl-C and to draw its progress bar.

use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use pyo3::PyClass;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::fork::Presence;
use super::signals::BETWEEN_SIGNALS;
use super::{error, exit};
use crate::bench::BenchError;
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, thread};
use crate::vm::replay::ReplayError;
use crate::vm::workload::{Control, WorkloadError};

/// Why a run came to no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A workload refused or failed.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// The replay refused or failed.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The measurement of the budget table refused.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// The operating system gave no thread.
    #[error("cannot start a thread: {0}")]
    NoThread(std::io::Error),
    /// A thread panicked.
    #[error("internal error: {0}")]
    Panic(String),
}

/// What a run measured, as Python gets it.
pub trait Found: Send + Sync + 'static {
    /// As plain dicts, lists and arrays.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>>;
}

type Work = Box<dyn FnOnce(&Control) -> Result<Arc<dyn Found>, Failure> + Send>;

enum State {
    Ready(Work),
    Running,
    Ended(Result<Arc<dyn Found>, Failure>),
}

struct Shared {
    state: Mutex<State>,
    ended: Condvar,
    control: Control,
    presence: Presence,
}

/// A run that was prepared, is under way, or has ended: ``start``, ``wait``, ``progress``, ``cancel``, ``result``.
///
/// It has threads of its own. Dropping it asks the run to end.
#[pyclass(module = "s2pt._core", frozen, subclass)]
pub struct Job(Arc<Shared>);

impl Job {
    /// Prepares `work`; nothing runs yet.
    pub fn new<R: Found>(work: impl FnOnce(&Control) -> Result<R, Failure> + Send + 'static) -> Self {
        let work = |control: &Control| work(control).map(|found| Arc::new(found) as Arc<dyn Found>);
        Self(Arc::new(Shared {
            state: Mutex::new(State::Ready(Box::new(work))),
            ended: Condvar::new(),
            control: Control::new(),
            presence: Presence::new(),
        }))
    }

    /// The job as an object of the class of its kind.
    pub fn of_kind<K: PyClass<BaseType = Self>>(self, kind: K) -> PyClassInitializer<K> {
        PyClassInitializer::from(self).add_subclass(kind)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a run that goes on in another process.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.0.presence.check(py, "job")
    }

    /// Whether the run has ended when so much time is over; None if it was not started.
    fn has_ended_within(&self, time: Duration) -> Option<bool> {
        let deadline = Instant::now() + time;
        let mut state = self.state();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match *state {
                State::Ended(_) => return Some(true),
                State::Ready(_) => return None,
                State::Running if left.is_zero() => return Some(false),
                State::Running => {}
            }
            let waited = self.0.ended.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[pymethods]
impl Job {
    /// Start the run and return at once.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        self.check(py)?;
        let mut state = self.state();
        match core::mem::replace(&mut *state, State::Running) {
            State::Ready(work) => {
                let shared = Arc::clone(&self.0);
                // Before the thread is there: a fork in between must find it.
                shared.presence.begin();
                let started = thread::Builder::new().spawn(move || shared.run(work));
                if let Err(refused) = started {
                    let refused = Failure::NoThread(refused);
                    let raised = error::failure(py, &refused);
                    *state = State::Ended(Err(refused));
                    self.0.presence.end();
                    return Err(raised);
                }
                Ok(())
            }
            other => {
                *state = other;
                Err(error::base(py, String::from("the job was started already")))
            }
        }
    }

    /// Wait until the run has ended, at most so many seconds; return whether it has. Releases the GIL.
    fn wait(&self, py: Python<'_>, timeout_s: f64) -> PyResult<bool> {
        // Whatever is no duration is none: a negative one, NaN; and nobody waits for longer than a year.
        let longest = Duration::try_from_secs_f64(timeout_s.clamp(0.0, 3.2e7)).unwrap_or_default();
        let deadline = Instant::now() + longest;
        loop {
            self.check(py)?;
            let left = deadline.saturating_duration_since(Instant::now());
            match exit::detach(py, || self.has_ended_within(left.min(BETWEEN_SIGNALS))) {
                None => return Err(error::base(py, String::from("the job was not started"))),
                Some(false) if left > BETWEEN_SIGNALS => py.check_signals()?,
                Some(ended) => return Ok(ended),
            }
        }
    }

    /// Return how many steps are done, how many there are in all (0: not known yet), and what is being done.
    fn progress(&self) -> (u64, u64, String) {
        let (done, total) = self.0.control.progress();
        (done, total, self.0.control.step())
    }

    /// Ask the run to end; `result` then has what there was up to there.
    fn cancel(&self) {
        self.0.control.cancel();
    }

    /// Return what was measured, as plain dicts; raise what ended the run early.
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.check(py)?;
        let found = match &*self.state() {
            State::Ended(Ok(found)) => Arc::clone(found),
            State::Ended(Err(failure)) => return Err(error::failure(py, failure)),
            _ => return Err(error::base(py, String::from("the job has not ended"))),
        };
        found.to_dict(py)
    }
}

impl Shared {
    fn run(&self, work: Work) {
        // The run's own data is dropped with it, and the control holds plain numbers.
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&self.control)));
        let ended = match outcome {
            Ok(ended) => ended,
            Err(panic) => Err(Failure::Panic(message(&*panic))),
        };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Ended(ended);
        self.ended.notify_all();
        self.presence.end();
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.0.control.cancel();
    }
}

fn message(panic: &(dyn core::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| String::from("a thread panicked"))
}
