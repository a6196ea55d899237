//! A table that is open to Python, and how its threads get at it.
//!
//! Registering a thread with a table's epoch collector costs several times what a call on one page does, and a handle
//! cannot be kept in a Python object: it borrows the table and belongs to one thread. So each thread remembers its
//! registrations with the tables that it used last.

use core::cell::RefCell;
use core::ops::Deref;
use std::thread_local;

use super::sink::Sink;
use crate::memory::Arena;
use crate::table::{Handle, Local, Stage2};

/// The table behind the classes.
pub type Table = Stage2<Arena, Sink>;

/// With how many tables a thread stays registered.
const REMEMBERED: usize = 4;

thread_local! {
    /// The last one used stands last.
    static REGISTRATIONS: RefCell<Vec<Local>> = const { RefCell::new(Vec::new()) };
}

/// A table and the promise to tidy up behind it.
pub struct Open(Table);

impl Open {
    /// Opens a table.
    pub const fn new(table: Table) -> Self {
        Self(table)
    }

    /// Runs `work` on a handle of the calling thread.
    #[inline]
    pub fn work<R>(&self, work: impl FnOnce(&Handle<'_, Arena, Sink>) -> R) -> R {
        // A thread that is ending has no memory of its own any more; it registers for this call alone.
        let remembered = REGISTRATIONS.try_with(|all| self.remembered(&mut all.borrow_mut()));
        work(&remembered.unwrap_or_else(|_| self.0.handle()))
    }

    fn remembered(&self, all: &mut Vec<Local>) -> Handle<'_, Arena, Sink> {
        if let Some(handle) = all.iter().rev().find_map(|local| self.0.handle_of(local)) {
            return handle;
        }
        if all.len() == REMEMBERED {
            all.remove(0);
        }
        let local = self.0.register();
        let handle = self.0.handle_of(&local);
        all.push(local);
        // It is of this table: it was just made.
        handle.unwrap_or_else(|| self.0.handle())
    }
}

impl Deref for Open {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Retired frames hold on to the table's memory, and registrations that threads remember to the retired frames.
        self.0.handle().drain();
    }
}
