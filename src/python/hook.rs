//! A Python function as the sink of a table.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::events;
use super::exit::{self, Ask};
use crate::table::Event;

/// Whether the calling thread is in a function that is told of something. The entry may be its own to release, and its walk
/// is pinned: whatever it does now must wait for nobody, or it waits for itself.
#[inline]
pub fn inside() -> bool {
    exit::depth() > 0
}

/// Called with what is done (TLBIs of stage 2, cache operations, frames, stores that replace something), in order, on the thread that causes it and at the moment when it happens.
#[derive(Debug)]
pub struct Hook(Py<PyAny>);

impl Hook {
    /// A hook that calls `function(kind, fields)`.
    pub const fn new(function: Py<PyAny>) -> Self {
        Self(function)
    }

    /// Passes an event on. An exception cannot reach the caller of the operation, which must go on: it is reported as
    /// Python reports one in a destructor.
    pub fn call(&self, event: &Event) {
        // A large map has little else than stores into empty entries, and the barriers around a TLBI are always the same.
        let told = match event {
            Event::Store { old, .. } => !old.is_empty(),
            Event::Tlbi(tlbi) => tlbi.is_stage2(),
            Event::Dsb(_) | Event::Isb | Event::Publish | Event::Fill { .. } | Event::Return => false,
            _ => true,
        };
        if !told {
            return;
        }
        // Nobody listens any more once the interpreter is on its way out: threads may still be at work then.
        let Some(_called) = exit::enter() else {
            return;
        };
        exit::stopping(|| Python::try_attach(|py| self.tell(py, event)));
    }

    fn tell(&self, py: Python<'_>, event: &Event) {
        // A table may go, and its frames with it, while an exception is on its way: it is none of the function's.
        let on_its_way = PyErr::take(py);
        // In a stop of its own: the attachment must not be given back by a thread that is ended.
        exit::stopping(|| {
            let told = events::describe(py, event).and_then(|told| told.into_pyobject(py));
            let called = told.and_then(|told: Bound<'_, PyTuple>| self.0.bind(py).ask(&told));
            if let Err(raised) = called {
                raised.write_unraisable(py, Some(self.0.bind(py)));
            }
        });
        if let Some(error) = on_its_way {
            error.restore(py);
        }
    }
}
