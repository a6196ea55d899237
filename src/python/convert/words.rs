//! What can be chosen by a word, and how it is called: the values of the enumerations in `s2pt.types`.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::short;
use crate::arch::{AccessKind, Dialect, FaultKind, MemType};
use crate::table::Existing;
use crate::vm::replay::Order;
use crate::vm::{Backing, DirtyLogMode};

/// Texts of the memory types, in the words of `s2pt.MemType`.
pub const MEM_TYPES: &[(&str, MemType)] = &[
    ("device-nGnRnE", MemType::DeviceNGnRnE),
    ("device-nGnRE", MemType::DeviceNGnRE),
    ("device-nGRE", MemType::DeviceNGRE),
    ("device-GRE", MemType::DeviceGRE),
    ("normal-nc", MemType::NormalNc),
    ("normal-wt", MemType::NormalWt),
    ("normal", MemType::Normal),
    ("as-stage1", MemType::AsStage1),
];

/// Texts of the accesses, in the words of `s2pt.Access`.
pub const ACCESSES: &[(&str, AccessKind)] = &[
    ("r", AccessKind::Read),
    ("w", AccessKind::Write),
    ("x", AccessKind::Execute),
];

pub(super) const EXISTING: &[(&str, Existing)] = &[
    ("replace", Existing::Replace),
    ("keep", Existing::Keep),
    ("error", Existing::Error),
];

pub(super) const BACKINGS: &[(&str, Backing)] = &[
    ("pages", Backing::Pages),
    ("thp", Backing::Thp),
    ("1g", Backing::Huge1G),
];

pub(super) const ORDERS: &[(&str, Order)] = &[
    ("recorded", Order::Recorded),
    ("threads", Order::Threads),
    ("free", Order::Free),
];

pub(super) const FAULTS: &[(&str, FaultKind)] = &[
    ("translation", FaultKind::Translation),
    ("permission", FaultKind::Permission),
    ("access-flag", FaultKind::AccessFlag),
    ("address-size", FaultKind::AddressSize),
];

pub(super) const LOG_MODES: &[(&str, DirtyLogMode)] = &[
    ("auto", DirtyLogMode::Auto),
    ("manual", DirtyLogMode::Manual),
    ("initially-set", DirtyLogMode::ManualInitiallySet),
];

pub(super) const DIALECTS: &[(&str, Dialect)] =
    &[("own", Dialect::Own), ("kvm6", Dialect::Kvm6), ("kvm7", Dialect::Kvm7)];

/// One of several words. The enumerations of `s2pt.types` are texts, so a member and its text are the same here.
pub fn choice<T: Copy>(obj: &Bound<'_, PyAny>, what: &str, choices: &[(&str, T)]) -> PyResult<T> {
    let Ok(text) = obj.cast::<PyString>() else {
        return Err(PyTypeError::new_err(format!("{what} must be text, not {}", short(obj))));
    };
    let text = text.to_cow()?;
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let words: Vec<String> = choices.iter().map(|(word, _)| format!("'{word}'")).collect();
    Err(PyValueError::new_err(format!(
        "{what} must be one of {}, not {}",
        words.join(", "),
        short(obj)
    )))
}
