//! What is left of a table in a process that was forked.
//!
//! The child has the memory and one thread. Where nobody else was at work at that moment, it has a table like any other.
//! Where somebody was, an entry may be held, or an epoch pinned, by a thread that is not there any more, and whoever waited
//! for it would wait for ever: so the child's calls are refused. Calls that keep the GIL cannot be under way when another
//! thread forks, so those that leave it are all that is counted; a Python without a GIL forks at its own risk.

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict};

use super::{error, exit};
use crate::sync::{AtomicU32, AtomicUsize, Ordering};

/// How many forks lie between the first process and this one.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Has every fork counted, in the child, before its Python goes on.
pub fn watch(py: Python<'_>) -> PyResult<()> {
    let count = PyCFunction::new_closure(py, None, None, |_, _| {
        // Relaxed, here and below: at this moment the process has one thread, and a number is all there is.
        FORKS.fetch_add(1, Ordering::Relaxed);
        exit::forked();
    })?;
    let options = PyDict::new(py);
    options.set_item("after_in_child", count)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&options))?;
    Ok(())
}

/// Who is at work in an object away from the interpreter, and in which process that began.
#[derive(Debug)]
pub struct Presence {
    inside: AtomicUsize,
    forks: AtomicU32,
}

/// A thread at work.
pub struct Inside<'p>(&'p Presence);

impl Presence {
    /// Nobody, in this process.
    pub fn new() -> Self {
        Self {
            inside: AtomicUsize::new(0),
            forks: AtomicU32::new(FORKS.load(Ordering::Relaxed)),
        }
    }

    /// The calling thread is at work until the result goes.
    pub fn enter(&self) -> Inside<'_> {
        self.begin();
        Inside(self)
    }

    /// A thread is at work until [`end`](Self::end), whichever thread calls that.
    pub fn begin(&self) {
        self.inside.fetch_add(1, Ordering::Relaxed);
    }

    /// The other end of [`begin`](Self::begin).
    pub fn end(&self) {
        self.inside.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the object is whole: no fork left somebody's work in it half done.
    #[inline]
    pub fn is_whole(&self) -> bool {
        let forks = FORKS.load(Ordering::Relaxed);
        self.forks.load(Ordering::Relaxed) == forks || self.adopted(forks)
    }

    /// The first look after a fork.
    #[cold]
    fn adopted(&self, forks: u32) -> bool {
        let whole = self.inside.load(Ordering::Relaxed) == 0;
        if whole {
            self.forks.store(forks, Ordering::Relaxed);
        }
        whole
    }

    /// Refuses what is not whole; `what` names it.
    #[inline]
    pub fn check(&self, py: Python<'_>, what: &str) -> PyResult<()> {
        if self.is_whole() {
            return Ok(());
        }
        let message =
            format!("another thread was at work in this {what} when the process was forked: it stays closed here");
        Err(error::closed(py, message))
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
