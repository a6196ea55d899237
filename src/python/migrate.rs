//! The migration as a job.

use core::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::convert::{BackingArg, CostsArg, LogKindArg, Number, PolicyArg, SemanticsArg, SizeArg, StallHow};
use super::job::{Found, Job};
use super::{error, report};
use crate::arch::{GeometryOptions, Ipa, Pa};
use crate::machine::{Machine, MachineOptions, Port};
use crate::memory::Arena;
use crate::sync::Arc;
use crate::table::Stall;
use crate::vm::workload::{LatencyReport, LogKind, Migrate, MigrateReport, Throughput};
use crate::vm::{self, Cost, Slot, Vm};

/// Where the guest's memory starts, in its own space and in the host's.
const BASE: u64 = 1 << 30;

/// The one slot.
const SLOT: u32 = 0;

/// A live migration in threads of its own.
#[pyclass(module = "s2pt._core", frozen, extends = Job)]
pub struct MigrateJob;

#[pymethods]
impl MigrateJob {
    /// Prepare a migration of a VM of its own; nothing runs yet.
    #[new]
    #[pyo3(signature = (
        *, memory, vcpus, backing, policy, semantics, log, manual_protect, ring_entries, eager_chunk, write_percent,
        hot_percent, think_ns, bandwidth, downtime_ns, rounds, warm_up_ns, take_backs, too_early, seed, think_how,
        costs
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python constructor")]
    fn new(
        py: Python<'_>,
        memory: SizeArg,
        vcpus: Number,
        backing: BackingArg,
        policy: PolicyArg,
        semantics: SemanticsArg,
        log: LogKindArg,
        manual_protect: bool,
        ring_entries: Number,
        eager_chunk: SizeArg,
        write_percent: Number,
        hot_percent: Number,
        think_ns: Number,
        bandwidth: Option<SizeArg>,
        downtime_ns: Number,
        rounds: Number,
        warm_up_ns: Number,
        take_backs: Number,
        too_early: bool,
        seed: Number,
        think_how: StallHow,
        costs: CostsArg,
    ) -> PyResult<PyClassInitializer<Self>> {
        let percent = |number: Number| u8::try_from(number.0).unwrap_or(u8::MAX);
        let few = |number: Number| u32::try_from(number.0).unwrap_or(u32::MAX);
        let costs = costs.0;
        let run = Migrate {
            vcpus: usize::try_from(vcpus.0).unwrap_or(usize::MAX),
            write_percent: percent(write_percent),
            hot_percent: percent(hot_percent),
            think: Cost::new(Duration::from_nanos(think_ns.0), think_how.0),
            copy: costs.copy,
            log: log.0.options(manual_protect, eager_chunk.0),
            bandwidth: bandwidth.map(|bandwidth| bandwidth.0),
            downtime: Duration::from_nanos(downtime_ns.0),
            rounds: few(rounds),
            warm_up: Duration::from_nanos(warm_up_ns.0),
            take_backs: few(take_backs),
            too_early,
            seed: seed.0,
        };
        let machine = Machine::new(MachineOptions {
            cpus: run.vcpus.clamp(1, 1024),
            ram: Some((Pa::new(BASE), memory.0)),
            ..MachineOptions::default()
        });
        let refused = |reason| error::option(py, format!("memory {:#x}: {reason}", memory.0));
        let machine = machine.map_err(refused)?;
        let port = machine.port();
        let bits = 64 - memory.0.saturating_add(BASE).leading_zeros();
        let options = vm::VmOptions {
            geometry: GeometryOptions {
                ipa_bits: bits.clamp(40, 48) as u8,
                ..GeometryOptions::default()
            },
            policy: policy.0,
            backing: backing.0,
            semantics: semantics.0,
            hd: log.0 == LogKind::Hardware,
            dirty_ring: if log.0 == LogKind::Ring { few(ring_entries) } else { 0 },
            exit_cost: costs.exit,
            memory: memory.0,
            ..vm::VmOptions::default()
        };
        let vm = options.build((port.clone(), costs.stall()));
        let vm: Arc<Vm<Arena, (Port, Stall)>> = Arc::new(vm.map_err(|refused| error::build(py, refused))?);
        port.attach(&vm);
        machine.load(&port);
        let slot = Slot::linear(SLOT, Ipa::new(BASE), memory.0, Pa::new(BASE));
        vm.create_slot(slot).map_err(|refused| error::vm(py, refused))?;
        run.check(&vm, SLOT, &machine)
            .map_err(|refused| error::workload(py, &refused))?;
        let job = Job::new(move |control| Ok(run.run(&vm, SLOT, &machine, control)?));
        Ok(job.of_kind(Self))
    }
}

impl Found for MigrateReport {
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let rounds = PyList::empty(py);
        for round in &self.rounds {
            let row = PyDict::new(py);
            row.set_item("pages", round.pages)?;
            row.set_item("sent_ns", report::nanoseconds(round.sent))?;
            row.set_item("harvested_ns", report::nanoseconds(round.harvested))?;
            row.set_item("found", round.found)?;
            rounds.append(row)?;
        }
        let result = PyDict::new(py);
        result.set_item("rounds", rounds)?;
        for (name, number) in [
            ("pages_sent", self.pages_sent),
            ("last_pages", self.last_pages),
            ("downtime_ns", report::nanoseconds(self.downtime)),
            ("elapsed_ns", report::nanoseconds(self.elapsed)),
            ("enabled_ns", report::nanoseconds(self.enabled)),
            ("wrong_reads", self.wrong_reads),
            ("longest_hold_ns", report::nanoseconds(self.longest_hold)),
            ("violations", self.violations),
        ] {
            result.set_item(name, number)?;
        }
        result.set_item("complete", self.complete)?;
        result.set_item("cut", self.cut.as_deref())?;
        result.set_item("lost_bytes", self.lost_bytes)?;
        result.set_item("before", throughput(py, &self.before)?)?;
        result.set_item("during", throughput(py, &self.during)?)?;
        result.set_item("faults", report::faults(py, &self.counters)?)?;
        result.set_item("outcomes", report::outcomes(py, &self.counters)?)?;
        result.set_item("latency", latency(py, &self.faults.report())?)?;
        result.set_item("held_up", latency(py, &self.held_up)?)?;
        let buckets: Vec<_> = self
            .faults
            .buckets()
            .map(|(end, count)| (report::nanoseconds(end), count))
            .collect();
        result.set_item("latency_buckets", buckets)?;
        Ok(result)
    }
}

fn throughput<'py>(py: Python<'py>, done: &Throughput) -> PyResult<Bound<'py, PyDict>> {
    let time = report::nanoseconds(done.time);
    report::numbers(py, [("accesses", done.accesses), ("time_ns", time)].into_iter())
}

fn latency<'py>(py: Python<'py>, times: &LatencyReport) -> PyResult<Bound<'py, PyDict>> {
    let ns = report::nanoseconds;
    let figures = [
        ("count", times.count),
        ("p50_ns", ns(times.p50)),
        ("p99_ns", ns(times.p99)),
        ("p999_ns", ns(times.p999)),
        ("max_ns", ns(times.max)),
    ];
    report::numbers(py, figures.into_iter())
}
