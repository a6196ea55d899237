//! Who listens to a Python table's maintenance: nobody, a counter, a recorder; each with or without a stall.
//!
//! One type for all of them, so that the operations are compiled once; the choice is a match on a field.

use super::hook::Hook;
use crate::machine::Port;
use crate::sync::OnceLock;
use crate::table::{Counting, Counts, Event, Recording, Stall, Tlb};
use crate::vm::workload::Maintenance;

/// What is kept of the events.
#[derive(Debug)]
pub enum Watch {
    /// Nothing.
    Nobody,
    /// How many there were of each kind.
    Counting(Box<Counting>),
    /// The events themselves.
    Recording(Recording),
    /// Nothing: a function is told of each as it happens.
    Hook(Hook),
}

/// The sink of every table made from Python.
#[derive(Debug)]
pub struct Sink {
    watch: Watch,
    stall: Option<Stall>,
    /// Whether there is anything to do from the beginning on: the first look that an event costs most tables.
    listens: bool,
    /// The simulated CPUs that walk the table, once there are some.
    port: OnceLock<Port>,
}

impl Sink {
    /// A sink that keeps what `watch` says, and makes maintenance cost what `stall` says.
    pub fn new(watch: Watch, stall: Option<Stall>) -> Self {
        let stall = stall.filter(|stall| !stall.is_none());
        let listens = !matches!(watch, Watch::Nobody) || stall.is_some();
        Self {
            watch,
            stall,
            listens,
            port: OnceLock::new(),
        }
    }

    /// From now on everything goes to the CPUs of a machine, too. False if there are some already.
    pub fn plug(&self, port: Port) -> bool {
        self.port.set(port).is_ok()
    }

    /// What is kept.
    pub const fn watch(&self) -> &Watch {
        &self.watch
    }

    /// A call is over.
    #[inline]
    pub fn returned(&self) {
        if let Watch::Recording(recording) = &self.watch {
            recording.returned();
        }
    }

    /// Whether a call may take long however little it does.
    ///
    /// A function as the sink may wait for anything, and for the GIL first of all: a peer that waits for the entry that its
    /// caller holds must not hold the GIL meanwhile.
    pub const fn stalls(&self) -> bool {
        self.stall.is_some() || matches!(self.watch, Watch::Hook(_))
    }
}

impl Maintenance for Sink {
    fn maintenance(&self) -> Option<Counts> {
        match &self.watch {
            Watch::Counting(counting) => Some(counting.counts()),
            Watch::Nobody | Watch::Recording(_) | Watch::Hook(_) => None,
        }
    }
}

impl Tlb for Sink {
    fn watches(&self) -> bool {
        !matches!(self.watch, Watch::Nobody) || self.port.get().is_some()
    }

    fn contents(&self) -> bool {
        matches!(&self.watch, Watch::Recording(recording) if recording.contents())
    }

    #[inline(always)]
    fn listens(&self) -> bool {
        self.listens || self.port.get().is_some()
    }

    #[inline(always)]
    fn event(&self, event: Event) {
        if self.listens() {
            self.pass_on(event);
        }
    }
}

impl Sink {
    #[inline(never)]
    fn pass_on(&self, event: Event) {
        match &self.watch {
            Watch::Nobody => {}
            Watch::Counting(counting) => counting.event(event),
            Watch::Recording(recording) => recording.event(event),
            Watch::Hook(hook) => hook.call(&event),
        }
        if let Some(port) = self.port.get() {
            port.event(event);
        }
        if let Some(stall) = &self.stall {
            stall.event(event);
        }
    }
}
