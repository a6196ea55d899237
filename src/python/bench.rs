//! The measurement of the budget table as a job.

use core::time::Duration;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use rustix::time::{ClockId, clock_gettime};

use super::convert::{Number, SizeArg};
use super::error;
use super::job::{Found, Job};
use crate::bench::{BenchError, Measured, ROWS, Row, Run};

/// Times of the rows of the budget table, in nanoseconds an operation, measured in a thread of its own.
#[pyclass(module = "s2pt._core", frozen, extends = Job)]
pub struct BenchJob;

#[pymethods]
impl BenchJob {
    /// Prepare the measurement of the named rows, or of all; nothing runs yet.
    #[new]
    #[pyo3(signature = (*, rows = None, rounds, size))]
    fn new(
        py: Python<'_>,
        rows: Option<&Bound<'_, PyAny>>,
        rounds: Number,
        size: SizeArg,
    ) -> PyResult<PyClassInitializer<Self>> {
        let refused = |refused: BenchError| error::bench(py, &refused);
        let rows = match rows {
            Some(rows) => names(rows)?
                .iter()
                .map(|name| Row::named(name))
                .collect::<Result<_, _>>(),
            None => Ok(ROWS.iter().collect()),
        };
        let run = Run::new(rows.map_err(refused)?, rounds.0, size.0).map_err(refused)?;
        let job = Job::new(move |control| {
            control.start(run.steps());
            let goes_on = || {
                control.add(1);
                !control.is_cancelled()
            };
            Ok(run.measure(worked, goes_on)?)
        });
        Ok(job.of_kind(Self))
    }
}

impl Found for Measured {
    /// In nanoseconds an operation.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let rows = PyList::empty(py);
        for timed in &self.rows {
            let row = PyDict::new(py);
            row.set_item("id", timed.row.id)?;
            row.set_item("title", timed.row.title)?;
            row.set_item("operations", timed.operations)?;
            row.set_item("rounds", timed.nanoseconds.len())?;
            row.set_item("budget_ns", timed.row.budget_ns)?;
            row.set_item("kvm_ns", timed.row.kvm_ns)?;
            row.set_item("median_ns", timed.median())?;
            row.set_item("minimum_ns", timed.minimum())?;
            rows.append(row)?;
        }
        let result = PyDict::new(py);
        result.set_item("complete", self.complete)?;
        result.set_item("rows", rows)?;
        Ok(result)
    }
}

/// The texts in a sequence, one by one: however many it says that there are, there need not be.
fn names(rows: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    if rows.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err("rows must be several texts, not one"));
    }
    rows.try_iter()?.map(|row| row?.extract()).collect()
}

/// Processor time of the calling thread: a row never sleeps, and what others run meanwhile is not its cost.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
