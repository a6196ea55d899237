//! The end of the interpreter while threads are at work.
//!
//! Threads of Python that nobody waits for, and threads of runs, go on while the interpreter goes. CPython ends such a thread
//! where it next asks for the interpreter: it unwinds the thread's stack, through frames of Rust too, and what is dropped on
//! the way is dropped by a thread that is not attached. An attachment that ends there is a fatal error; an operation that
//! ends there leaves its entries LOCKED. So there is
//!
//! - a gate before what is called in the middle of an operation (a function as the sink). It closes at exit, when all that was
//!   registered later has run: nobody goes in any more, and who is inside is waited for. Whoever is at work then brings his
//!   operation to its end, and asks for the interpreter after that;
//! - a stop wherever a thread asks for the interpreter: one that is ended there stays there, and unwinds nothing. It is as
//!   CPython itself does it from 3.14 on.
//!
//! Who does not come out of a function (it waits for ever, it counts for ever) is waited for a while, and then left to the
//! stop.

use core::cell::Cell;
use core::hint::black_box;
use core::time::Duration;
use std::thread_local;
use std::time::Instant;

use pyo3::call::PyCallArgs;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict};

use super::signals::BETWEEN_SIGNALS;
use crate::sync::{AtomicU32, Ordering, thread};

/// For how long the end waits for those who are inside.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the end sleeps between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// How many are inside; the top bit says that the gate is closed. Relaxed everywhere: only the number matters, and whoever
/// is inside ends with the interpreter, which is the order of what he did there.
static GATE: AtomicU32 = AtomicU32::new(0);
const CLOSED: u32 = 1 << 31;

thread_local! {
    /// How many times this thread is inside, one function called by what another does.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// Whether this thread closed the gate. It has the interpreter until the very end.
    static LAST: Cell<bool> = const { Cell::new(false) };
}

/// How many functions the calling thread is in.
pub fn depth() -> u32 {
    DEPTH.try_with(Cell::get).unwrap_or(0)
}

/// The calling thread is in a function until this goes.
pub struct Called;

/// Through the gate; None if it is closed. Who is inside already, and who closed it, may always.
pub fn enter() -> Option<Called> {
    if depth() > 0 || LAST.try_with(Cell::get).unwrap_or(false) {
        GATE.fetch_add(1, Ordering::Relaxed);
    } else {
        let more = |gate: u32| (gate & CLOSED == 0).then_some(gate + 1);
        GATE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
    }
    let _ = DEPTH.try_with(|depth| depth.set(depth.get() + 1));
    Some(Called)
}

impl Drop for Called {
    fn drop(&mut self) {
        let _ = DEPTH.try_with(|depth| depth.set(depth.get() - 1));
        GATE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Closes the gate, and waits until only the caller is inside.
fn close(py: Python<'_>) -> PyResult<()> {
    let _ = LAST.try_with(|last| last.set(true));
    GATE.fetch_or(CLOSED, Ordering::Relaxed);
    let (own, began) = (depth(), Instant::now());
    let inside = || GATE.load(Ordering::Relaxed) & !CLOSED > own;
    while inside() && began.elapsed() < PATIENCE {
        py.detach(|| {
            let part = Instant::now();
            while inside() && part.elapsed() < BETWEEN_SIGNALS {
                thread::sleep(BETWEEN_LOOKS);
            }
        });
        py.check_signals()?;
    }
    Ok(())
}

/// In the child of a fork: whoever else was inside is not there any more, and the child's end is to come.
pub fn forked() {
    GATE.store(depth(), Ordering::Relaxed);
}

/// Has the gate closed at exit. What was registered before this module was imported runs later, untold.
pub fn watch(py: Python<'_>) -> PyResult<()> {
    let close = PyCFunction::new_closure(py, None, None, |args, _| close(args.py()))?;
    py.import("atexit")?.call_method1("register", (close,))?;
    Ok(())
}

/// Where a thread that the interpreter's end has ended stays for good. A panic goes on.
struct Stop;

impl Drop for Stop {
    fn drop(&mut self) {
        while !thread::panicking() {
            thread::park();
        }
    }
}

/// Runs `work`, in which the thread asks for the interpreter: if that ends the thread, it ends here, and no frame of the
/// caller is unwound.
pub fn stopping<R>(work: impl FnOnce() -> R) -> R {
    let (mut work, mut done) = (Some(work), None);
    let mut run = || done = work.take().map(|work| work());
    // C functions are taken not to unwind. The compiler must not see that there is nothing else in `work`, or it leaves
    // the stop out.
    let run: &mut dyn FnMut() = black_box(&mut run);
    let stop = Stop;
    run();
    core::mem::forget(stop);
    done.expect("it was run")
}

/// Does `work` away from the interpreter: [`Python::detach`], but for a thread that cannot come back.
pub fn detach<R: Send>(py: Python<'_>, work: impl FnOnce() -> R + Send) -> R {
    stopping(|| py.detach(work))
}

/// Calls of what may be Python's own code: it asks for the interpreter again and again.
pub trait Ask<'py> {
    /// [`call1`](PyAnyMethods::call1), but for a thread that cannot come back.
    fn ask(&self, arguments: impl PyCallArgs<'py>) -> PyResult<Bound<'py, PyAny>>;
    /// [`call`](PyAnyMethods::call), but for a thread that cannot come back.
    fn ask_with(&self, arguments: impl PyCallArgs<'py>, named: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>>;
}

impl<'py> Ask<'py> for Bound<'py, PyAny> {
    fn ask(&self, arguments: impl PyCallArgs<'py>) -> PyResult<Self> {
        stopping(|| self.call1(arguments))
    }

    fn ask_with(&self, arguments: impl PyCallArgs<'py>, named: &Bound<'py, PyDict>) -> PyResult<Self> {
        stopping(|| self.call(arguments, Some(named)))
    }
}
