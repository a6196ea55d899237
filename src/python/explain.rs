//! Walks and faults for Python.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

use super::exit::Ask;
use super::types;
use crate::arch::{AccessKind, Fault, FaultKind};
use crate::image::{Explanation, Next, Step};

/// What a fault says, in words.
pub fn fault(fault: &Fault) -> String {
    let level = fault.level;
    match fault.kind {
        FaultKind::Translation => format!("no translation at level {level}"),
        FaultKind::AccessFlag => format!("access flag clear at level {level}"),
        FaultKind::Permission => {
            let access = match fault.access {
                AccessKind::Read => "read",
                AccessKind::Write => "write",
                AccessKind::Execute => "execute",
            };
            format!("the level {level} leaf does not allow {access}")
        }
        FaultKind::AddressSize => format!("output address too large at level {level}"),
        other => format!("{other:?} at level {level}"),
    }
}

/// The word for a kind of fault.
const fn kind(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Translation => "translation",
        FaultKind::AccessFlag => "access-flag",
        FaultKind::Permission => "permission",
        FaultKind::AddressSize => "address-size",
        _ => "external-abort",
    }
}

/// The `s2pt.explain.Explanation` of a walk.
pub fn explanation<'py>(py: Python<'py>, walk: &Explanation) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static FAULT: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let steps: Vec<_> = walk.steps.iter().map(|one| step(py, one)).collect::<PyResult<_>>()?;
    let fault = match walk.outcome {
        Ok(_) => None,
        Err(fault) => {
            let class = FAULT.import(py, "s2pt.explain", "WalkFault")?;
            Some(class.ask((kind(fault.kind), fault.level.get()))?)
        }
    };
    let hit = walk
        .outcome
        .as_ref()
        .ok()
        .map(|hit| types::translation(py, hit))
        .transpose()?;
    let arguments = (
        walk.ipa.get(),
        types::access(py, walk.access)?,
        PyTuple::new(py, steps)?,
        hit,
        fault,
    );
    CLASS.import(py, "s2pt.explain", "Explanation")?.ask(arguments)
}

/// The `s2pt.explain.Step` of one entry.
fn step<'py>(py: Python<'py>, step: &Step) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let entry = &step.entry;
    let (table, mapping) = match step.next {
        Next::Table(table) => (Some(table.get()), None),
        Next::Leaf(leaf) => (None, Some(types::mapping(py, &leaf)?)),
        Next::Nothing => (None, None),
    };
    let arguments = (
        entry.level.get(),
        step.index,
        entry.ipa.get(),
        entry.size,
        types::kind(entry.kind),
        entry.pa.get(),
        entry.pte.raw(),
        table,
        mapping,
        step.fault.map(kind),
    );
    CLASS.import(py, "s2pt.explain", "Step")?.ask(arguments)
}

/// What `s2pt.view` makes of a table.
pub fn view<'py>(table: &Bound<'py, PyAny>, kind: &str) -> PyResult<Bound<'py, PyAny>> {
    table.py().import("s2pt.view")?.call_method1(kind, (table,))
}
