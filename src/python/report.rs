//! Reports of long runs as plain dicts and lists.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::events;
use crate::arch::Level;
use crate::table::{Counts, Stats};
use crate::vm::Counters;

/// Names and numbers.
pub fn numbers<'py>(py: Python<'py>, of: impl Iterator<Item = (&'static str, u64)>) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, number) in of {
        dict.set_item(name, number)?;
    }
    Ok(dict)
}

/// Faults by kind.
pub fn faults<'py>(py: Python<'py>, counters: &Counters) -> PyResult<Bound<'py, PyDict>> {
    numbers(py, counters.faults_by_name())
}

/// Faults by outcome.
pub fn outcomes<'py>(py: Python<'py>, counters: &Counters) -> PyResult<Bound<'py, PyDict>> {
    numbers(py, counters.outcomes_by_name())
}

/// Maintenance by kind, or None if nobody counted.
pub fn maintenance<'py>(py: Python<'py>, counts: Option<&Counts>) -> PyResult<Option<Bound<'py, PyDict>>> {
    counts.map(|counts| events::counts(py, counts)).transpose()
}

/// What a table is made of.
pub fn stats<'py>(py: Python<'py>, stats: &Stats) -> PyResult<Bound<'py, PyDict>> {
    let by_level = |numbers: &[u64; 5]| -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        let mut level = Some(Level::LM1);
        while let Some(here) = level {
            if numbers[here.slot()] != 0 {
                dict.set_item(here.get(), numbers[here.slot()])?;
            }
            level = here.deeper();
        }
        Ok(dict)
    };
    let dict = PyDict::new(py);
    dict.set_item("tables", by_level(&stats.tables)?)?;
    dict.set_item("leaves", by_level(&stats.leaves)?)?;
    dict.set_item("mapped_bytes", stats.mapped_bytes)?;
    dict.set_item("locked", stats.locked)?;
    dict.set_item("frozen", stats.frozen)?;
    dict.set_item("annotated", stats.annotated)?;
    Ok(dict)
}

/// Nanoseconds, as many as 64 bits hold.
pub fn nanoseconds(time: core::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
