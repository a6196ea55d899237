//! What is said of a VM and of the work that runs over it.

use pyo3::prelude::*;

use super::words::{BACKINGS, FAULTS, LOG_MODES, ORDERS};
use super::{choice, extract, unsigned};
use crate::arch::FaultKind;
use crate::python::error;
use crate::vm::replay::{Order, Sizes};
use crate::vm::workload::{LogKind, SlotTest, Supply};
use crate::vm::{Backing, DirtyLogMode, Policy};

/// An `s2pt.Policy` or its text.
#[derive(Clone, Copy)]
pub struct PolicyArg(pub Policy);

/// An `s2pt.Backing` or its text.
#[derive(Clone, Copy)]
pub struct BackingArg(pub Backing);

/// In which order a trace is replayed.
#[derive(Clone, Copy)]
pub struct OrderArg(pub Order);

/// Who decides how large a mapping of a replay is.
#[derive(Clone, Copy)]
pub struct SizesArg(pub Sizes);

/// The id of a memory slot.
#[derive(Clone, Copy)]
pub struct SlotId(pub u32);

/// Why an access faulted.
#[derive(Clone, Copy)]
pub struct FaultKindArg(pub FaultKind);

/// How a dirty log protects.
#[derive(Clone, Copy)]
pub struct LogModeArg(pub DirtyLogMode);

/// A way to log writes.
#[derive(Clone, Copy)]
pub struct LogKindArg(pub LogKind);

/// What is done to memory slots.
#[derive(Clone, Copy)]
pub struct SlotTestArg(pub SlotTest);

/// Who has the pages that a guest misses.
#[derive(Clone, Copy)]
pub struct SupplyArg(pub Supply);

// What Python leaves out.
impl LogModeArg {
    /// Every page counts as dirty at first.
    pub const INITIALLY_SET: Self = Self(DirtyLogMode::ManualInitiallySet);
}

impl LogKindArg {
    /// A bitmap, and blocks split by the writes.
    pub const LAZY: Self = Self(LogKind::Lazy);
}

extract! {
    PolicyArg = |obj| choice(obj, "policy", &Policy::ALL.map(|policy| (policy.name(), policy)));
    BackingArg = |obj| choice(obj, "backing", BACKINGS);
    OrderArg = |obj| choice(obj, "order", ORDERS);
    SizesArg = |obj| choice(obj, "sizes", &[("recorded", Sizes::Recorded), ("trace", Sizes::Trace)]);
    SlotId = slot_id;
    FaultKindArg = |obj| choice(obj, "kind", FAULTS);
    LogModeArg = |obj| choice(obj, "mode", LOG_MODES);
    LogKindArg = |obj| choice(obj, "log", &LogKind::ALL.map(|(kind, name)| (name, kind)));
    SlotTestArg = |obj| choice(obj, "test", &SlotTest::ALL.map(|(test, name)| (name, test)));
    SupplyArg = |obj| choice(obj, "supply", &Supply::ALL.map(|(supply, name)| (name, supply)));
}

fn slot_id(obj: &Bound<'_, PyAny>) -> PyResult<u32> {
    let id = unsigned("slot", obj)?;
    u32::try_from(id).map_err(|_| error::option(obj.py(), format!("slot {id:#x} is beyond 0xffffffff")))
}
