//! A table, or a VM, that is open to Python, and how its threads get at it.
//!
//! Registering a thread with a table's epoch collector costs several times what a call on one page does, and a handle
//! cannot be kept in a Python object: it borrows the table and belongs to one thread. So each thread remembers its
//! registrations with the tables, and its vCPUs of the VMs, that it used last. No other thread sees them: calls share
//! nothing but the table itself.

use core::cell::RefCell;
use core::ops::Deref;
use std::thread_local;

use super::sink::Sink;
use crate::arch::Pa;
use crate::machine::{Regime, Walk};
use crate::memory::Arena;
use crate::sync::AtomicU64;
use crate::table::{Handle, Local, Stage2};
use crate::vm::{Parked, Policy, Vcpu, Vm};

/// The table behind the classes.
pub type Table = Stage2<Arena, Sink>;

/// The VM behind the classes.
pub type Machine = Vm<Arena, Sink>;

/// With how many tables, and how many VMs, a thread stays registered.
const REMEMBERED: usize = 4;

thread_local! {
    /// The last one used stands last.
    static REGISTRATIONS: RefCell<Vec<Local>> = const { RefCell::new(Vec::new()) };
    /// Likewise; a vCPU at work is not among them.
    static VCPUS: RefCell<Vec<Parked>> = const { RefCell::new(Vec::new()) };
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
        let remembered = REGISTRATIONS.try_with(|all| self.remembered(&all.borrow()));
        let handle = remembered.ok().flatten();
        work(&handle.unwrap_or_else(|| self.registered()))
    }

    #[inline]
    fn remembered(&self, all: &[Local]) -> Option<Handle<'_, Arena, Sink>> {
        all.iter().rev().find_map(|local| self.0.handle_of(local))
    }

    /// Registers the calling thread, and remembers that.
    #[cold]
    fn registered(&self) -> Handle<'_, Arena, Sink> {
        let local = self.0.register();
        let handle = self.0.handle_of(&local);
        let _ = REGISTRATIONS.try_with(|all| remember(all, local));
        // It is of this table: it was just made.
        handle.unwrap_or_else(|| self.0.handle())
    }
}

/// Puts `new` into a thread's memory, and what it has no more room for out of it: after it was let go, since a
/// registration that ends may free frames, which a function as the sink is told of, and it may call anything.
fn remember<T>(all: &RefCell<Vec<T>>, new: T) {
    let forgotten = {
        let mut all = all.borrow_mut();
        let full = all.len() == REMEMBERED;
        let forgotten = full.then(|| all.remove(0));
        all.push(new);
        forgotten
    };
    drop(forgotten);
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

/// A VM and the promise to tidy up behind it.
pub struct OpenVm(Machine);

impl OpenVm {
    /// Opens a VM.
    pub const fn new(vm: Machine) -> Self {
        Self(vm)
    }

    /// Runs `work` on a vCPU of the calling thread, whose counters start at zero.
    #[inline]
    pub fn vcpu<R>(&self, work: impl FnOnce(&mut Vcpu<'_, Arena, Sink>) -> R) -> R {
        let remembered = VCPUS.try_with(|all| self.remembered(&mut all.borrow_mut()));
        let mut vcpu = remembered.ok().flatten().unwrap_or_else(|| self.0.vcpu());
        let done = work(&mut vcpu);
        // A thread that is ending remembers nothing.
        let _ = VCPUS.try_with(|all| remember(all, vcpu.park()));
        done
    }

    #[inline(always)]
    fn remembered(&self, all: &mut Vec<Parked>) -> Option<Vcpu<'_, Arena, Sink>> {
        // Mostly the last one, which is tried without a look.
        for place in (0..all.len()).rev() {
            match self.0.unpark(all.remove(place)) {
                Ok(vcpu) => return Some(vcpu),
                Err(other) => all.insert(place, other),
            }
        }
        None
    }

    /// Whether a fault may wait: for a lock, or for a TLBI that stalls.
    pub fn may_wait(&self) -> bool {
        self.0.config().policy != Policy::Lockless || self.0.stage2().tlb().stalls()
    }
}

impl Deref for OpenVm {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.0
    }
}

impl Drop for OpenVm {
    fn drop(&mut self) {
        // As for a table.
        self.0.stage2().handle().drain();
    }
}

/// What is open to Python is what a simulated CPU walks.
macro_rules! walked {
    ($($class:ty => $stage2:expr),* $(,)?) => {$(
        impl Walk for $class {
            fn entry(&self, table: Pa, index: usize) -> Option<&AtomicU64> {
                let stage2: fn(&Self) -> &Table = $stage2;
                stage2(self).entry(table, index)
            }

            fn regime(&self) -> Regime {
                let stage2: fn(&Self) -> &Table = $stage2;
                stage2(self).regime()
            }
        }
    )*};
}

walked!(Open => |open| &open.0, OpenVm => |open| open.0.stage2());
