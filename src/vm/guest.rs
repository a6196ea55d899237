//! A guest on simulated hardware: one CPU of a machine with the vCPU that handles its faults.

use core::time::Duration;
use std::time::Instant;

use super::vcpu::{AccessError, Vcpu};
use super::{Counters, ExitReason, Outcome, Retry, Vm};
use crate::arch::{Fault, Pa};
use crate::machine::{Access, Bound, Cpu, Regime, Walk};
use crate::memory::TableMemory;
use crate::sync::{AtomicU64, Backoff};
use crate::table::Tlb;

/// What simulated CPUs walk is the VM's table: `port.attach(&vm)`.
impl<M: TableMemory, T: Tlb> Walk for Vm<M, T> {
    fn entry(&self, table: Pa, index: usize) -> Option<&AtomicU64> {
        self.stage2.entry(table, index)
    }

    fn regime(&self) -> Regime {
        self.stage2.regime()
    }
}

/// What became of an access, and what it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// What a read gave; `None` if the vCPU's ring was full, and nothing was done.
    pub value: Option<u64>,
    /// From its first fault until it got through; `None` if it did not fault.
    pub faulted: Option<Duration>,
    /// How much of that it spent because a peer held, or had changed, an entry.
    pub held_up: Duration,
}

/// A CPU of a machine as a VM's vCPU, driven by one thread.
#[derive(Debug)]
pub struct Guest<'v, M: TableMemory, T: Tlb> {
    cpu: &'v Cpu,
    vcpu: Vcpu<'v, M, T>,
    _bound: Bound<'v>,
}

impl<'v, M: TableMemory, T: Tlb> Guest<'v, M, T> {
    /// The calling thread is this CPU from now on.
    pub fn new(vm: &'v Vm<M, T>, cpu: &'v Cpu) -> Self {
        Self {
            vcpu: vm.vcpu(),
            _bound: cpu.bind(),
            cpu,
        }
    }

    /// What its faults were and how they ended, so far.
    pub fn counters(&self) -> Counters {
        self.vcpu.counters()
    }

    /// The CPU.
    pub fn cpu(&self) -> &Cpu {
        self.cpu
    }

    /// Executes an access: on simulated hardware, with the VM handling its faults until it gets through.
    ///
    /// # Errors
    /// [`AccessError`] if there is no memory there, or a fault cannot be handled. A full ring is no error.
    pub fn access(&mut self, access: Access) -> Result<Done, AccessError> {
        self.run(access, Cpu::access)
    }

    /// The same, up to the point where it has its translation: see [`Cpu::begin`].
    ///
    /// # Errors
    /// As [`access`](Self::access).
    pub fn begin(&mut self, access: Access) -> Result<Done, AccessError> {
        self.run(access, |cpu, access| cpu.begin(access).map(|()| 0))
    }

    fn run(
        &mut self,
        access: Access,
        execute: impl Fn(&Cpu, Access) -> Result<u64, Fault>,
    ) -> Result<Done, AccessError> {
        let mut done = Done {
            value: None,
            faulted: None,
            held_up: Duration::ZERO,
        };
        let mut fault = match execute(self.cpu, access) {
            Ok(value) => {
                done.value = Some(value);
                return Ok(done);
            }
            Err(fault) => fault,
        };
        let since = Instant::now();
        let mut backoff = Backoff::new();
        loop {
            match self.vcpu.handle_fault(&fault)? {
                Outcome::Handled(_) => {}
                Outcome::Again(retry) => {
                    let waiting = Instant::now();
                    backoff.wait();
                    if retry == Retry::Peer {
                        done.held_up += waiting.elapsed();
                    }
                }
                Outcome::Exit(ExitReason::RingFull) => return Ok(done),
                Outcome::Exit(reason) => return Err(AccessError::Exit { ipa: fault.ipa, reason }),
            }
            match execute(self.cpu, access) {
                Ok(value) => {
                    done.value = Some(value);
                    done.faulted = Some(since.elapsed());
                    return Ok(done);
                }
                Err(next) => fault = next,
            }
        }
    }
}
