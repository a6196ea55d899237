//! The dirty-log run as a job.

use core::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::convert::{BackingArg, CostsArg, Number, PolicyArg, SizeArg, StallFor, StallHow};
use super::job::{Found, Job};
use super::open::OpenVm;
use super::sink::{Sink, Watch};
use super::{error, report};
use crate::arch::{GeometryOptions, Ipa, Pa};
use crate::sync::Arc;
use crate::table::Stats;
use crate::vm::workload::{DirtyLog, DirtyLogReport, Load, LogKind};
use crate::vm::{Machine, Slot};

/// Where the guest's memory starts, in its own space and in the host's.
const BASE: u64 = 1 << 30;

/// The granule of a job's own VM.
const PAGE: u64 = 4096;

/// The one slot of a job's own VM.
const SLOT: u32 = 0;

/// What is known after a run.
pub struct Measured {
    report: DirtyLogReport,
    longest_hold: Duration,
    waits: u64,
    stats: Stats,
}

/// Prepares a run over `slot` of a VM.
pub fn prepare(vm: Arc<OpenVm>, slot: u32, run: DirtyLog) -> PyClassInitializer<DirtyLogJob> {
    let job = Job::new(move |control| {
        let _inside = vm.enter();
        let report = run.run(&vm, slot, control)?;
        let handle = vm.stage2().handle();
        handle.drain();
        Ok(Measured {
            report,
            longest_hold: vm.longest_hold(),
            waits: vm.waits(),
            stats: handle.stats(),
        })
    });
    job.of_kind(DirtyLogJob)
}

/// A run of KVM's dirty_log_perf_test in threads of its own.
#[pyclass(module = "s2pt._core", frozen, extends = Job)]
pub struct DirtyLogJob;

#[pymethods]
impl DirtyLogJob {
    /// Prepare a run on a VM of its own; nothing runs yet.
    #[new]
    #[pyo3(signature = (
        *, vcpus, bytes_per_vcpu, iterations, backing, manual_protect, write_percent, random, seed, policy,
        stall_tlbi_ns = StallFor::NONE, stall_how = StallHow::SLEEP, costs = None
    ), text_signature = "(*, vcpus, bytes_per_vcpu, iterations, backing, manual_protect, write_percent, random, seed, \
        policy, stall_tlbi_ns=0, stall_how='sleep', costs=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python constructor")]
    fn new(
        py: Python<'_>,
        vcpus: Number,
        bytes_per_vcpu: SizeArg,
        iterations: Number,
        backing: BackingArg,
        manual_protect: bool,
        write_percent: Number,
        random: bool,
        seed: Number,
        policy: PolicyArg,
        stall_tlbi_ns: StallFor,
        stall_how: StallHow,
        costs: Option<CostsArg>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let costs = CostsArg::with(costs, py, stall_tlbi_ns, stall_how)?;
        let run = options(
            vcpus,
            bytes_per_vcpu,
            iterations,
            manual_protect,
            write_percent,
            random,
            seed,
        );
        // A slot that can be made whenever the options are right, so that wrong ones are refused in their own words.
        let memory = run
            .load
            .bytes_per_vcpu
            .saturating_mul(run.load.vcpus as u64)
            .clamp(PAGE, u64::MAX - PAGE);
        let memory = memory.next_multiple_of(PAGE);
        let bits = 64 - memory.saturating_add(BASE).leading_zeros();
        let machine = Machine {
            geometry: GeometryOptions {
                ipa_bits: bits.clamp(40, 48) as u8,
                ..GeometryOptions::default()
            },
            policy: policy.0,
            backing: backing.0,
            memory,
            exit_cost: costs.exit,
            ..Machine::default()
        };
        let sink = Sink::new(Watch::Counting(Box::default()), Some(costs.stall()));
        let vm = machine.build(sink).map_err(|refused| error::machine(py, refused))?;
        let slot = Slot::linear(SLOT, Ipa::new(BASE), memory, Pa::new(BASE));
        vm.create_slot(slot).map_err(|refused| error::vm(py, refused))?;
        run.validate(&vm, SLOT)
            .map_err(|refused| error::workload(py, &refused))?;
        Ok(prepare(Arc::new(OpenVm::new(vm)), SLOT, run))
    }
}

impl Found for Measured {
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let phases = PyList::empty(py);
        for phase in &self.report.phases {
            let row = PyDict::new(py);
            row.set_item("phase", phase.phase.to_string())?;
            row.set_item("complete", phase.complete)?;
            row.set_item("elapsed_ns", report::nanoseconds(phase.elapsed))?;
            row.set_item("faults", report::faults(py, &phase.counters)?)?;
            row.set_item("outcomes", report::outcomes(py, &phase.counters)?)?;
            row.set_item("maintenance", report::maintenance(py, phase.maintenance.as_ref())?)?;
            row.set_item("frames", phase.frames)?;
            row.set_item("dirty_pages", phase.found)?;
            phases.append(row)?;
        }
        let result = PyDict::new(py);
        result.set_item("complete", self.report.complete)?;
        result.set_item("vcpus", self.report.vcpus)?;
        result.set_item("accesses", self.report.accesses)?;
        result.set_item("phases", phases)?;
        result.set_item("longest_hold_ns", report::nanoseconds(self.longest_hold))?;
        result.set_item("waits", self.waits)?;
        result.set_item("stats", report::stats(py, &self.stats)?)?;
        Ok(result)
    }
}

/// The options of the run that the arguments say; numbers beyond their type are left for the run to refuse.
pub fn options(
    vcpus: Number,
    bytes_per_vcpu: SizeArg,
    iterations: Number,
    manual_protect: bool,
    write_percent: Number,
    random: bool,
    seed: Number,
) -> DirtyLog {
    DirtyLog {
        load: Load {
            vcpus: usize::try_from(vcpus.0).unwrap_or(usize::MAX),
            bytes_per_vcpu: bytes_per_vcpu.0,
            seed: seed.0,
            ..Load::default()
        },
        iterations: u32::try_from(iterations.0).unwrap_or(u32::MAX),
        write_percent: u8::try_from(write_percent.0).unwrap_or(u8::MAX),
        random,
        log: LogKind::Lazy.options(manual_protect, 0),
    }
}
