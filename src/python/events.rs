//! Maintenance events as Python sees them: counts as a dict, recorded steps as `s2pt.events.Event`.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyType};

use super::exit::Ask;
use super::open::Table;
use super::{exit, report, types};
use crate::arch::{CacheOp, Dsb, Scope, Tlbi};
use crate::table::{Counts, Event, Record, Recording};

static EVENT: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// Counts by name.
pub fn counts<'py>(py: Python<'py>, counts: &Counts) -> PyResult<Bound<'py, PyDict>> {
    report::numbers(py, counts.iter())
}

/// A `s2pt.recording.Recording` of what a table did since it was asked the last time.
pub fn recording<'py>(py: Python<'py>, table: &Table, watch: &Recording) -> PyResult<Bound<'py, PyAny>> {
    let (records, dropped) = exit::detach(py, || (watch.take(), watch.dropped()));
    let config = table.config();
    let setup = PyDict::new(py);
    setup.set_item("geometry", types::geometry(py, &config.geometry)?)?;
    setup.set_item("root", table.root().get())?;
    setup.set_item("vmid", config.vmid)?;
    setup.set_item("fwb", config.fwb)?;
    setup.set_item("xnx", config.xnx)?;
    setup.set_item("tlbi_range", config.tlbi_range)?;
    setup.set_item("semantics", if config.semantics.is_kvm() { "kvm" } else { "exact" })?;
    let module = py.import("s2pt.recording")?;
    let setup = module.getattr("Setup")?.ask_with((), &setup)?;
    module.getattr("Recording")?.ask((setup, list(py, records)?, dropped))
}

/// A list of `s2pt.events.Event`.
pub fn list(py: Python<'_>, records: Vec<Record>) -> PyResult<Bound<'_, PyAny>> {
    let class = EVENT.import(py, "s2pt.events", "Event")?;
    let list = PyList::empty(py);
    for record in records {
        let (kind, fields) = describe(py, &record.event)?;
        list.append(class.ask((record.sequence, record.thread, kind, fields))?)?;
    }
    Ok(list.into_any())
}

const fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Broadcast => "broadcast",
        Scope::Local => "local",
    }
}

/// The kind of an event and what belongs to it.
pub fn describe<'py>(py: Python<'py>, event: &Event) -> PyResult<(&'static str, Bound<'py, PyDict>)> {
    let fields = PyDict::new(py);
    let kind = match *event {
        Event::Store {
            entry,
            old,
            new,
            release,
        } => {
            fields.set_item("entry", entry.get())?;
            fields.set_item("old", old.raw())?;
            fields.set_item("new", new.raw())?;
            fields.set_item("release", release)?;
            "store"
        }
        Event::Tlbi(Tlbi::Ipa {
            ipa,
            level,
            scope: reach,
        }) => {
            fields.set_item("ipa", ipa.get())?;
            fields.set_item("level", level.map(|level| level.get()))?;
            fields.set_item("scope", scope(reach))?;
            "tlbi_ipa"
        }
        Event::Tlbi(Tlbi::Range {
            ipa,
            pages,
            level,
            scope: reach,
        }) => {
            fields.set_item("ipa", ipa.get())?;
            fields.set_item("pages", pages)?;
            fields.set_item("level", level.map(|level| level.get()))?;
            fields.set_item("scope", scope(reach))?;
            "tlbi_range"
        }
        Event::Tlbi(Tlbi::Vmid) => "tlbi_vmid",
        Event::Tlbi(Tlbi::Stage1 { scope: reach }) => {
            fields.set_item("scope", scope(reach))?;
            "tlbi_stage1"
        }
        Event::Dsb(dsb) => {
            let domain = match dsb {
                Dsb::Ishst => "ishst",
                Dsb::Ish => "ish",
                Dsb::Nshst => "nshst",
                Dsb::Nsh => "nsh",
            };
            fields.set_item("domain", domain)?;
            "dsb"
        }
        Event::Isb => "isb",
        Event::Cache(CacheOp::DataCleanInvalidate { pa, size }) => {
            fields.set_item("pa", pa.get())?;
            fields.set_item("size", size)?;
            "cache_data"
        }
        Event::Cache(CacheOp::InstructionInvalidate { pa, size }) => {
            fields.set_item("pa", pa.get())?;
            fields.set_item("size", size)?;
            "cache_instruction"
        }
        Event::Allocate { frame } => {
            fields.set_item("frame", frame.get())?;
            "allocate"
        }
        Event::Retire { frame, level } => {
            fields.set_item("frame", frame.get())?;
            fields.set_item("level", level.get())?;
            "retire"
        }
        Event::Free { frame } => {
            fields.set_item("frame", frame.get())?;
            "free"
        }
        Event::Publish => "publish",
        Event::Fill {
            entry,
            count,
            first,
            step,
        } => {
            fields.set_item("entry", entry.get())?;
            fields.set_item("count", count)?;
            fields.set_item("first", first.raw())?;
            fields.set_item("step", step)?;
            "fill"
        }
        Event::Return => "return",
    };
    Ok((kind, fields))
}
