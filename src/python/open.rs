//! A table, or a VM, that is open to Python, and how its threads get at it.
//!
//! Registering a thread with a table's epoch collector costs several times what a call on one page does, and a handle
//! cannot be kept in a Python object: it borrows the table and belongs to one thread. So each thread remembers its
//! registrations with the tables, and its vCPUs of the VMs, that it used last. No other thread sees them: calls share
//! nothing but the table itself.

use core::cell::RefCell;
use core::ops::Deref;
use std::thread_local;

use pyo3::prelude::*;

use super::exit;
use super::fork::{Inside, Presence};
use super::sink::Sink;
use crate::arch::Pa;
use crate::machine::{Regime, Walk};
use crate::memory::Arena;
use crate::sync::{Arc, AtomicU64};
use crate::table::{Handle, Local, Stage2};
use crate::vm::{Parked, Policy, Vcpu, Vm};

/// The table behind the classes.
pub type Table = Stage2<Arena, Sink>;

/// The VM behind the classes.
pub type HostedVm = Vm<Arena, Sink>;

/// With how many tables, and how many VMs, a thread stays registered.
const REMEMBERED: usize = 4;

thread_local! {
    /// The last one used stands last.
    static REGISTRATIONS: RefCell<Vec<Kept<Local>>> = const { RefCell::new(Vec::new()) };
    /// Likewise; a vCPU at work is not among them.
    static VCPUS: RefCell<Vec<Kept<Parked>>> = const { RefCell::new(Vec::new()) };
}

/// What a thread remembers of an object. It gives it up when it ends, after Python has called it gone, and is at work in
/// the object once more meanwhile.
struct Kept<T> {
    /// There until it is given up.
    thing: Option<T>,
    presence: Arc<Presence>,
}

impl<T> Kept<T> {
    fn new(thing: T, presence: &Arc<Presence>) -> Self {
        Self {
            thing: Some(thing),
            presence: Arc::clone(presence),
        }
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        if let Some(thing) = self.thing.take() {
            let _inside = self.presence.enter();
            drop(thing);
        }
    }
}

/// A table and the promise to tidy up behind it.
pub struct Open {
    table: Table,
    presence: Arc<Presence>,
}

impl Open {
    /// Opens a table.
    pub fn new(table: Table) -> Self {
        Self {
            table,
            presence: Arc::new(Presence::new()),
        }
    }

    /// Refuses a table that a fork left half changed.
    #[inline]
    pub fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.presence.check(py, "Stage2")
    }

    /// The calling thread is at work away from the interpreter until the result goes.
    pub fn enter(&self) -> Inside<'_> {
        self.presence.enter()
    }

    /// Runs `work` as [`work`](Self::work) does, away from the interpreter.
    pub fn detached<R: Send>(&self, py: Python<'_>, work: impl FnOnce(&Handle<'_, Arena, Sink>) -> R + Send) -> R {
        let _inside = self.enter();
        exit::detach(py, || self.work(work))
    }

    /// Runs `work` on a handle of the calling thread.
    #[inline]
    pub fn work<R>(&self, work: impl FnOnce(&Handle<'_, Arena, Sink>) -> R) -> R {
        // A thread that is ending has no memory of its own any more; it registers for this call alone.
        let remembered = REGISTRATIONS.try_with(|all| self.remembered(&all.borrow()));
        let handle = remembered.ok().flatten();
        let done = work(&handle.unwrap_or_else(|| self.registered()));
        self.table.tlb().returned();
        done
    }

    #[inline]
    fn remembered(&self, all: &[Kept<Local>]) -> Option<Handle<'_, Arena, Sink>> {
        let locals = all.iter().rev().filter_map(|kept| kept.thing.as_ref());
        locals.into_iter().find_map(|local| self.table.handle_of(local))
    }

    /// Registers the calling thread, and remembers that.
    #[cold]
    fn registered(&self) -> Handle<'_, Arena, Sink> {
        let local = self.table.register();
        let handle = self.table.handle_of(&local);
        let _ = REGISTRATIONS.try_with(|all| remember(all, Kept::new(local, &self.presence)));
        // It is of this table: it was just made.
        handle.unwrap_or_else(|| self.table.handle())
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
        &self.table
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Retired frames hold on to the table's memory, and registrations that threads remember to the retired frames. Where
        // a fork left a thread's pin behind, they would never go: then the memory is the process's until its end.
        if self.presence.is_whole() {
            self.table.handle().drain();
        }
    }
}

/// A VM and the promise to tidy up behind it.
pub struct OpenVm {
    vm: HostedVm,
    presence: Arc<Presence>,
}

impl OpenVm {
    /// Opens a VM.
    pub fn new(vm: HostedVm) -> Self {
        Self {
            vm,
            presence: Arc::new(Presence::new()),
        }
    }

    /// Refuses a VM that a fork left half changed.
    #[inline]
    pub fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.presence.check(py, "Vm")
    }

    /// The calling thread is at work away from the interpreter until the result goes.
    pub fn enter(&self) -> Inside<'_> {
        self.presence.enter()
    }

    /// Runs `work` on a vCPU of the calling thread, whose counters start at zero.
    #[inline]
    pub fn vcpu<R>(&self, work: impl FnOnce(&mut Vcpu<'_, Arena, Sink>) -> R) -> R {
        let remembered = VCPUS.try_with(|all| self.remembered(&mut all.borrow_mut()));
        let mut vcpu = remembered.ok().flatten().unwrap_or_else(|| self.vm.vcpu());
        let done = work(&mut vcpu);
        self.vm.stage2().tlb().returned();
        // A thread that is ending remembers nothing.
        let _ = VCPUS.try_with(|all| self.remember(all, vcpu.park()));
        done
    }

    #[inline(always)]
    fn remembered(&self, all: &mut [Kept<Parked>]) -> Option<Vcpu<'_, Arena, Sink>> {
        // Mostly the last one, which is tried without a look. Its place stays, empty, behind all others.
        for place in (0..all.len()).rev() {
            let Some(parked) = all[place].thing.take() else {
                continue;
            };
            match self.vm.unpark(parked) {
                Ok(vcpu) => {
                    all[place..].rotate_left(1);
                    return Some(vcpu);
                }
                Err(other) => all[place].thing = Some(other),
            }
        }
        None
    }

    /// Remembers a vCPU: in the place that it left, or in one of its own.
    #[inline(always)]
    fn remember(&self, all: &RefCell<Vec<Kept<Parked>>>, parked: Parked) {
        if let Some(last) = all.borrow_mut().last_mut()
            && last.thing.is_none()
            && Arc::ptr_eq(&last.presence, &self.presence)
        {
            last.thing = Some(parked);
            return;
        }
        remember(all, Kept::new(parked, &self.presence));
    }

    /// Whether a fault may wait: for a lock, or for a TLBI that stalls.
    pub fn may_wait(&self) -> bool {
        self.vm.config().policy != Policy::Lockless || self.vm.stage2().tlb().stalls()
    }
}

impl Deref for OpenVm {
    type Target = HostedVm;

    fn deref(&self) -> &HostedVm {
        &self.vm
    }
}

impl Drop for OpenVm {
    fn drop(&mut self) {
        // As for a table.
        if self.presence.is_whole() {
            self.vm.stage2().handle().drain();
        }
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

walked!(Open => |open| &open.table, OpenVm => |open| open.vm.stage2());
