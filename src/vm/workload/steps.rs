//! Measuring a run step by step: what the host does, and passes of the vCPUs.

use core::fmt::Display;
use core::time::Duration;
use std::time::Instant;

use super::control::{Control, Ended};
use super::crew::Crew;
use super::load::Leaves;
use super::report::{Expected, Maintenance, PhaseReport, since};
use crate::memory::TableMemory;
use crate::table::Counts;
use crate::vm::{Counters, Error, Vm};

/// The steps of a run on `vm` so far. `P` names a step.
pub(crate) struct Steps<'v, M: TableMemory, T: Maintenance, P> {
    pub(crate) vm: &'v Vm<M, T>,
    control: &'v Control,
    phases: Vec<PhaseReport<P>>,
}

impl<'v, M: TableMemory, T: Maintenance, P: Copy + Display> Steps<'v, M, T, P> {
    /// None yet. `control` is told which step it is, and asked before each.
    pub(crate) const fn new(vm: &'v Vm<M, T>, control: &'v Control) -> Self {
        Self {
            vm,
            control,
            phases: Vec::new(),
        }
    }

    /// Measures a step of the host, which is done to its end once it has begun.
    pub(crate) fn host<R>(
        &mut self,
        phase: P,
        work: impl FnOnce(&'v Vm<M, T>) -> Result<R, Error>,
    ) -> Result<R, Ended> {
        self.begin(phase)?;
        let (before, since) = (self.vm.stage2().tlb().maintenance(), Instant::now());
        let result = work(self.vm)?;
        self.note(phase, since.elapsed(), Counters::default(), before);
        Ok(result)
    }

    /// A step that is not begun because the run is to end is the one that was cut short, too.
    fn begin(&mut self, phase: P) -> Result<(), Ended> {
        self.control.enter(phase);
        self.control.go_on().inspect_err(|_: &Ended| {
            let now = self.vm.stage2().tlb().maintenance();
            self.note(phase, Duration::ZERO, Counters::default(), now);
            if let Some(last) = self.phases.last_mut() {
                last.complete = false;
            }
        })
    }

    /// Measures a pass of the vCPUs; `expected` are the faults that it should take.
    pub(crate) fn vcpus<W>(
        &mut self,
        phase: P,
        crew: &Crew<'_, W, Ended>,
        pass: W,
        expected: Option<Expected>,
    ) -> Result<(), Ended> {
        self.begin(phase)?;
        let before = self.vm.stage2().tlb().maintenance();
        let done = crew.pass(pass);
        self.note(phase, done.elapsed, done.counters, before);
        if let Some(last) = self.phases.last_mut() {
            last.complete = done.ended.is_ok();
            // The formulas are of whole passes.
            last.expected = expected.filter(|_| last.complete);
        }
        done.ended
    }

    /// Measures a step of host and vCPUs together, whose passes `work` leads: it says what they counted, which faults there
    /// should have been, and how it ended.
    pub(crate) fn both(
        &mut self,
        phase: P,
        work: impl FnOnce() -> (Counters, Option<Expected>, Result<(), Ended>),
    ) -> Result<(), Ended> {
        self.begin(phase)?;
        let (before, since) = (self.vm.stage2().tlb().maintenance(), Instant::now());
        let (counters, expected, ended) = work();
        self.note(phase, since.elapsed(), counters, before);
        if let Some(last) = self.phases.last_mut() {
            last.complete = ended.is_ok();
            last.expected = expected.filter(|_| last.complete);
        }
        ended
    }

    /// What the last step found.
    pub(crate) fn found(&mut self, found: u64) {
        if let Some(last) = self.phases.last_mut() {
            last.found = Some(found);
        }
    }

    pub(crate) fn into_phases(self) -> Vec<PhaseReport<P>> {
        self.phases
    }

    fn note(&mut self, phase: P, elapsed: Duration, counters: Counters, before: Option<Counts>) {
        let stage2 = self.vm.stage2();
        self.phases.push(PhaseReport {
            phase,
            complete: true,
            elapsed,
            counters,
            maintenance: since(stage2.tlb().maintenance(), before),
            frames: stage2.memory().frames_in_use(),
            found: None,
            expected: None,
        });
    }
}

/// The leaves that faults make of a region, if nothing is mapped yet and so nothing but the formulas decides.
pub(crate) fn fresh<M: TableMemory, T: Maintenance>(vm: &Vm<M, T>, region: &super::load::Region) -> Option<Leaves> {
    let empty = vm.stage2().handle().stats().mapped_bytes == 0;
    if empty { region.leaves(vm) } else { None }
}
