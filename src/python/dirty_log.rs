//! The dirty-log run as a job.

use pyo3::prelude::*;

use super::convert::{BackingArg, CostsArg, LogKindArg, Number, PolicyArg, SemanticsArg, SizeArg, StallFor, StallHow};
use super::error;
use super::job::Job;
use super::open::OpenVm;
use super::run;
use super::setup::{SLOT, Setup};
use crate::sync::Arc;
use crate::vm::workload::{DirtyLog, Load, LogKind};

/// Prepares a run over the slots from `slot` on of a VM.
pub fn prepare(vm: Arc<OpenVm>, slot: u32, run: DirtyLog) -> PyClassInitializer<DirtyLogJob> {
    let job = run::prepare(vm, move |vm, control| run.run(vm, slot, control));
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
        semantics = SemanticsArg::EXACT, log = LogKindArg::LAZY, ring_entries = Number(65536), eager_chunk = SizeArg(2 << 20),
        slots = Number(1), overlap = false, stall_tlbi_ns = StallFor::NONE, stall_how = StallHow::SLEEP, costs = None
    ), text_signature = "(*, vcpus, bytes_per_vcpu, iterations, backing, manual_protect, write_percent, random, seed, \
        policy, semantics='exact', log='lazy', ring_entries=65536, eager_chunk=2097152, slots=1, overlap=False, \
        stall_tlbi_ns=0, stall_how='sleep', costs=None)")]
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
        semantics: SemanticsArg,
        log: LogKindArg,
        ring_entries: Number,
        eager_chunk: SizeArg,
        slots: Number,
        overlap: bool,
        stall_tlbi_ns: StallFor,
        stall_how: StallHow,
        costs: Option<CostsArg>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let costs = CostsArg::with(costs, py, stall_tlbi_ns, stall_how)?;
        let load = super::setup::load(vcpus, bytes_per_vcpu, overlap, slots, seed);
        let setup = Setup::of(load, backing, policy, semantics, costs);
        let vm = setup.open(py, |vm_options| {
            vm_options.hd = log.0 == LogKind::Hardware;
            if log.0 == LogKind::Ring {
                vm_options.dirty_ring = u32::try_from(ring_entries.0).unwrap_or(u32::MAX).clamp(1, MOST_ENTRIES);
            }
        })?;
        let run = options(
            load,
            iterations,
            write_percent,
            random,
            (log, manual_protect, eager_chunk),
        );
        run.validate(&**vm, SLOT)
            .map_err(|refused| error::workload(py, &refused))?;
        Ok(prepare(vm, SLOT, run))
    }
}

/// As many as KVM allows.
pub const MOST_ENTRIES: u32 = 1 << 16;

/// The options of the run that the arguments say; numbers beyond their type are left for the run to refuse.
pub fn options(
    load: Load,
    iterations: Number,
    write_percent: Number,
    random: bool,
    (log, manual_protect, eager_chunk): (LogKindArg, bool, SizeArg),
) -> DirtyLog {
    DirtyLog {
        load,
        iterations: u32::try_from(iterations.0).unwrap_or(u32::MAX),
        write_percent: u8::try_from(write_percent.0).unwrap_or(u8::MAX),
        random,
        log: log.0.options(manual_protect, eager_chunk.0),
    }
}
