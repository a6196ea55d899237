//! What all CPUs of a machine have in common.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use core::cell::RefCell;

use super::judge::{Docket, Violation, ViolationKind};
use super::log::{Log, What};
use super::mmu::State;
use super::port::Core;
use crate::arch::Ipa;
use crate::memory::Ram;
use crate::sync::{Mutex, MutexGuard, PoisonError, thread_local, unique_number};
use crate::table::{Counting, Event, Tlb};

/// The CPUs, the guest's memory, and the record of what happened.
pub(super) struct Shared {
    id: u32,
    cpus: Box<[Mutex<State>]>,
    pub ram: Ram,
    pub docket: Docket,
    pub counting: Counting,
    pub log: Log,
}

thread_local! {
    /// The core that this thread is, for each machine that it has worked on lately.
    static CORES: RefCell<VecDeque<(u32, Core)>> = const { RefCell::new(VecDeque::new()) };
}

/// How many machines one thread remembers itself in.
const MACHINES: usize = 8;

impl Shared {
    pub fn new(cpus: usize, ram: Ram, log: usize) -> Self {
        Self {
            id: unique_number(),
            cpus: (0..cpus).map(|_| Mutex::new(State::default())).collect(),
            ram,
            docket: Docket::default(),
            counting: Counting::new(),
            log: Log::new(log),
        }
    }

    pub fn len(&self) -> usize {
        self.cpus.len()
    }

    pub fn cpu(&self, cpu: usize) -> MutexGuard<'_, State> {
        self.cpus[cpu].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each CPU in turn, held while it is looked at.
    pub fn cpus(&self) -> impl Iterator<Item = (usize, MutexGuard<'_, State>)> {
        (0..self.len()).map(|cpu| (cpu, self.cpu(cpu)))
    }

    /// Works with what the calling thread has issued and not completed.
    pub fn with_core(&self, work: impl FnOnce(&mut Core)) {
        // A thread that ends may still free frames, after its own memory of this is gone: it has nothing in the air then.
        let mut work = Some(work);
        let _ = CORES.try_with(|cores| {
            let mut cores = cores.borrow_mut();
            let at = cores.iter().position(|(id, _)| *id == self.id).unwrap_or_else(|| {
                cores.truncate(MACHINES - 1);
                cores.push_front((self.id, Core::new()));
                0
            });
            if let Some(work) = work.take() {
                work(&mut cores[at].1);
            }
        });
        if let Some(work) = work {
            work(&mut Core::new());
        }
    }

    pub fn counted(&self, event: &Event) {
        self.counting.event(*event);
        self.log.add(None, What::Step(*event));
    }

    pub fn violation(&self, kind: ViolationKind, cpu: Option<usize>, ipa: Option<Ipa>, what: String) {
        let sequence = self.log.add(cpu, What::Violation(kind));
        self.docket.add(Violation {
            sequence,
            kind,
            cpu,
            ipa,
            what,
        });
    }
}
