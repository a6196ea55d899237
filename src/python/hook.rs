//! A Python function as the sink of a table.

use core::cell::Cell;
use std::thread_local;

use pyo3::prelude::*;

use super::events;
use crate::table::Event;

thread_local! {
    /// How many functions this thread is in, one called by what another does.
    static CALLED: Cell<usize> = const { Cell::new(0) };
}

/// Whether the calling thread is in a function that is told of something. The entry may be its own to release, and its walk
/// is pinned: whatever it does now must wait for nobody, or it waits for itself.
#[inline]
pub fn inside() -> bool {
    CALLED.try_with(|called| called.get() > 0).unwrap_or(false)
}

/// The calling thread is in a function until this goes.
struct Called;

impl Called {
    fn new() -> Self {
        let _ = CALLED.try_with(|called| called.set(called.get() + 1));
        Self
    }
}

impl Drop for Called {
    fn drop(&mut self) {
        let _ = CALLED.try_with(|called| called.set(called.get() - 1));
    }
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
        // Nobody listens any more once the interpreter is on its way out: threads of Rust may still be at work then.
        let _ = Python::try_attach(|py| {
            // A table may go, and its frames with it, while an exception is on its way: it is none of the function's.
            let on_its_way = PyErr::take(py);
            let _called = Called::new();
            let called = events::describe(py, event).and_then(|told| self.0.call1(py, told));
            if let Err(raised) = called {
                raised.write_unraisable(py, Some(self.0.bind(py)));
            }
            if let Some(error) = on_its_way {
                error.restore(py);
            }
        });
    }
}
