//! What a workload measured on a VM, as a job finds it.

use core::fmt::Display;
use core::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::job::{Found, Job};
use super::open::OpenVm;
use super::report;
use crate::sync::Arc;
use crate::table::Stats;
use crate::vm::workload::{
    AccessPhase, Control, DemandPagingReport, Expected, MemslotsReport, PageTableReport, PagingPhase, Phase, RunReport,
    SlotPhase, Stage, WorkloadError,
};

/// A workload's report, which puts itself into a dict.
pub trait Told: Send + Sync + 'static {
    fn tell(&self, py: Python<'_>, into: &Bound<'_, PyDict>) -> PyResult<()>;
}

/// A report and the VM as it was left.
struct Measured<R> {
    report: R,
    longest_hold: Duration,
    waits: u64,
    stats: Stats,
}

/// Prepares a run on a VM.
pub fn prepare<R: Told>(
    vm: Arc<OpenVm>,
    run: impl FnOnce(&OpenVm, &Control) -> Result<R, WorkloadError> + Send + 'static,
) -> Job {
    Job::new(move |control| {
        let _inside = vm.enter();
        let report = run(&vm, control)?;
        let handle = vm.stage2().handle();
        handle.drain();
        Ok(Measured {
            report,
            longest_hold: vm.longest_hold(),
            waits: vm.waits(),
            stats: handle.stats(),
        })
    })
}

impl<R: Told> Found for Measured<R> {
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let result = PyDict::new(py);
        self.report.tell(py, &result)?;
        result.set_item("longest_hold_ns", report::nanoseconds(self.longest_hold))?;
        result.set_item("waits", self.waits)?;
        result.set_item("stats", report::stats(py, &self.stats)?)?;
        Ok(result)
    }
}

/// The name of a step.
trait Step: Display + Copy + Send + Sync + 'static {}

impl Step for Phase {}
impl Step for AccessPhase {}
impl Step for Stage {}
impl Step for PagingPhase {}
impl Step for SlotPhase {}

impl<P: Step> Told for RunReport<P> {
    fn tell(&self, py: Python<'_>, into: &Bound<'_, PyDict>) -> PyResult<()> {
        let phases = PyList::empty(py);
        for phase in &self.phases {
            let row = PyDict::new(py);
            row.set_item("phase", phase.phase.to_string())?;
            row.set_item("complete", phase.complete)?;
            row.set_item("elapsed_ns", report::nanoseconds(phase.elapsed))?;
            row.set_item("faults", report::faults(py, &phase.counters)?)?;
            row.set_item("handled", expected(py, Expected::of(&phase.counters))?)?;
            row.set_item(
                "expected",
                phase.expected.map(|faults| expected(py, faults)).transpose()?,
            )?;
            row.set_item("outcomes", report::outcomes(py, &phase.counters)?)?;
            row.set_item("maintenance", report::maintenance(py, phase.maintenance.as_ref())?)?;
            row.set_item("frames", phase.frames)?;
            row.set_item("found", phase.found)?;
            phases.append(row)?;
        }
        into.set_item("complete", self.complete)?;
        into.set_item("vcpus", self.vcpus)?;
        into.set_item("accesses", self.accesses)?;
        into.set_item("phases", phases)
    }
}

/// Faults that change the table, by what the guest lacked.
fn expected<'py>(py: Python<'py>, faults: Expected) -> PyResult<Bound<'py, PyDict>> {
    let by_lack = [
        ("translation", faults.translation),
        ("permission", faults.permission),
        ("access_flag", faults.access_flag),
    ];
    report::numbers(py, by_lack.into_iter())
}

impl Told for PageTableReport {
    fn tell(&self, py: Python<'_>, into: &Bound<'_, PyDict>) -> PyResult<()> {
        self.run.tell(py, into)?;
        into.set_item("blocks", self.blocks)?;
        into.set_item("pages", self.pages)
    }
}

impl Told for MemslotsReport {
    fn tell(&self, py: Python<'_>, into: &Bound<'_, PyDict>) -> PyResult<()> {
        self.run.tell(py, into)?;
        into.set_item("iterations", self.iterations)?;
        into.set_item("taken_back", self.taken_back)?;
        into.set_item("wrong_words", self.wrong_words)
    }
}

impl Told for DemandPagingReport {
    fn tell(&self, py: Python<'_>, into: &Bound<'_, PyDict>) -> PyResult<()> {
        self.run.tell(py, into)?;
        into.set_item("pages", self.pages)?;
        into.set_item("written", self.written)?;
        into.set_item("supplied", self.supplied)?;
        into.set_item("existed", self.existed)?;
        into.set_item("wrong_pages", self.wrong_pages)
    }
}
