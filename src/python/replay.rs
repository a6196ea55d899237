//! The replay of a recorded guest as a job.

use core::time::Duration;

use numpy::{PyArray1, PyArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::arrays;
use super::convert::{
    GranuleArg, IpaBits, LevelArg, Number, OrderArg, PolicyArg, SemanticsArg, SizesArg, StallFor, StallHow,
};
use super::job::{Found, Job};
use super::sink::{Sink, Watch};
use super::{error, exit, report};
use crate::arch::GeometryOptions;
use crate::table::Mapping;
use crate::vm::replay::{COLUMNS, Event, Replay, ReplayReport};
use crate::vm::{Backing, VmOptions};

/// What is known after a replay.
struct Replayed {
    report: ReplayReport,
    longest_hold: Duration,
    waits: u64,
}

/// One pass over a recorded trace, in threads of its own.
#[pyclass(module = "s2pt._core", frozen, extends = Job)]
pub struct ReplayJob;

#[pymethods]
impl ReplayJob {
    /// Prepare a replay on a VM of its own; nothing runs yet. `events` holds the rows, 21 words each, and is copied.
    #[new]
    #[pyo3(signature = (
        events, *, ipa_bits, granule, start_level, lpa2, policy, order, sizes, semantics = SemanticsArg::EXACT, threads = None, stall_tlbi_ns = StallFor::NONE,
        stall_how = StallHow::SLEEP
    ), text_signature = "(events, *, ipa_bits, granule, start_level, lpa2, policy, order, sizes, semantics='exact', threads=None, \
        stall_tlbi_ns=0, stall_how='sleep')")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python constructor")]
    fn new(
        py: Python<'_>,
        events: &Bound<'_, PyAny>,
        ipa_bits: IpaBits,
        granule: GranuleArg,
        start_level: Option<LevelArg>,
        lpa2: bool,
        policy: PolicyArg,
        order: OrderArg,
        sizes: SizesArg,
        semantics: SemanticsArg,
        threads: Option<Number>,
        stall_tlbi_ns: StallFor,
        stall_how: StallHow,
    ) -> PyResult<PyClassInitializer<Self>> {
        let events = rows(py, events)?;
        let vm_options = VmOptions {
            geometry: GeometryOptions {
                granule: granule.0,
                ipa_bits: ipa_bits.0,
                pa_bits: if lpa2 { 52 } else { 48 },
                start_level: start_level.map(|level| level.0),
                lpa2,
                ..GeometryOptions::default()
            },
            policy: policy.0,
            semantics: semantics.0,
            // The rows say how large the host's pages are.
            backing: Backing::Huge1G,
            ..VmOptions::default()
        };
        let stall = stall_tlbi_ns.stall(stall_how);
        let sink = Sink::new(Watch::Counting(Box::default()), stall);
        let vm = vm_options.build(sink).map_err(|refused| error::build(py, refused))?;
        let replay = Replay {
            order: order.0,
            sizes: sizes.0,
            threads: threads.map(|threads| usize::try_from(threads.0).unwrap_or(usize::MAX)),
        };
        let job = Job::new(move |control| {
            let report = replay.run(&vm, &events, control)?;
            Ok(Replayed {
                report,
                longest_hold: vm.longest_hold(),
                waits: vm.waits(),
            })
        });
        Ok(job.of_kind(Self))
    }
}

impl Found for Replayed {
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let done = &self.report;
        let levels = done.level_differences.iter();
        let levels = levels.map(|one| (one.row, one.ipa.get(), one.theirs.get(), one.ours.get()));
        let exits = done
            .exit_differences
            .iter()
            .map(|one| (one.row, one.ipa.get(), one.ours));
        let snapshots = PyList::empty(py);
        for snapshot in &done.snapshots {
            snapshots.append((snapshot.row, snapshot.dump, leaves(py, &snapshot.leaves)?))?;
        }
        let result = PyDict::new(py);
        result.set_item("complete", done.complete)?;
        result.set_item("elapsed_ns", report::nanoseconds(done.elapsed))?;
        result.set_item("threads", done.threads)?;
        result.set_item("faults", done.faults)?;
        result.set_item("mmio", done.mmio)?;
        result.set_item("skipped", done.skipped)?;
        result.set_item("no_pa", done.no_pa)?;
        result.set_item("fault_kinds", report::faults(py, &done.counters)?)?;
        result.set_item("outcomes", report::outcomes(py, &done.counters)?)?;
        result.set_item("maintenance", report::maintenance(py, done.maintenance.as_ref())?)?;
        result.set_item("levels_checked", done.levels_checked)?;
        result.set_item("levels_skipped", done.levels_skipped)?;
        result.set_item("level_differences", levels.collect::<Vec<_>>())?;
        result.set_item("exit_differences", exits.collect::<Vec<_>>())?;
        result.set_item("taken_back", done.taken_back)?;
        result.set_item("snapshots", snapshots)?;
        result.set_item("stats", report::stats(py, &done.stats)?)?;
        result.set_item("frames", done.frames)?;
        result.set_item("longest_hold_ns", report::nanoseconds(self.longest_hold))?;
        result.set_item("waits", self.waits)?;
        Ok(result)
    }
}

/// The rows of a trace.
fn rows(py: Python<'_>, events: &Bound<'_, PyAny>) -> PyResult<Vec<Event>> {
    let (words, shape) = arrays::words("events", events, 2)?;
    if shape[1] != COLUMNS {
        let message = format!("events must have {COLUMNS} columns, not {}", shape[1]);
        return Err(PyValueError::new_err(message));
    }
    let (rows, _) = words.as_chunks::<COLUMNS>();
    exit::detach(py, || {
        let events = rows.iter().enumerate();
        events
            .map(|(row, words)| Event::from_row(words).map_err(|reason| (row, reason)))
            .collect::<Result<_, _>>()
    })
    .map_err(|(row, reason)| error::trace(py, format!("row {row}: {reason}")))
}

/// Rows of ipa, size, pa, prot, access flag.
fn leaves<'py>(py: Python<'py>, leaves: &[Mapping]) -> PyResult<Bound<'py, PyAny>> {
    let mut words = Vec::with_capacity(5 * leaves.len());
    for leaf in leaves {
        let (prot, young) = (u64::from(leaf.attrs.prot.bits()), u64::from(leaf.attrs.af));
        words.extend([leaf.ipa.get(), leaf.size, leaf.pa.get(), prot, young]);
    }
    Ok(PyArray1::from_vec(py, words).reshape([leaves.len(), 5])?.into_any())
}
