//! Threads of a model, whose end is no step of the search.
//!
//! loom's own `join` sets the end of a thread against the wait for it, and tries both orders of everything before once more.
//! Here a thread that is done waits until it is joined, and hands what it has seen to who joins it.

use super::search;
use std::sync::{Arc, Mutex};

pub use loom::thread::yield_now;

/// As in `std`; must be joined.
pub struct JoinHandle<R> {
    number: usize,
    result: Arc<Mutex<Option<R>>>,
}

/// As in `std`.
pub fn spawn<R: 'static>(body: impl FnOnce() -> R + 'static) -> JoinHandle<R> {
    let number = search::spawned();
    let (parent, joiner) = (search::running(), loom::thread::current());
    let result = Arc::new(Mutex::new(None));
    let told = result.clone();
    loom::thread::spawn(move || {
        search::goes_on(number);
        let done = body();
        search::finished(number);
        while !search::is_joining(parent, number) {
            pause(number);
        }
        // What this thread has seen, the joining one has seen from now on.
        joiner.unpark();
        *told.lock().unwrap() = Some(done);
    });
    JoinHandle { number, result }
}

impl<R> JoinHandle<R> {
    /// As in `std`. A panic of the other thread ends the model.
    ///
    /// # Errors
    /// None.
    pub fn join(self) -> std::thread::Result<R> {
        search::joins(self.number);
        let me = search::running();
        loop {
            // Not a pause: loom knows then that this thread cannot go on, and tries those that it waits for in its place.
            loom::thread::park();
            search::goes_on(me);
            if let Some(result) = self.result.lock().unwrap().take() {
                search::joined(self.number);
                return Ok(result);
            }
        }
    }
}

fn pause(me: usize) {
    yield_now();
    search::goes_on(me);
}
