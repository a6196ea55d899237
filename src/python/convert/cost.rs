//! How long a step of the simulated machine takes, and how its caller waits meanwhile.

use core::time::Duration;

use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::prelude::*;

use super::{choice, extract, unsigned};
use crate::python::error;
use crate::table::{Stall, StallKind};
use crate::vm::{Cost, Costs};

/// How a stalled TLBI waits.
#[derive(Clone, Copy)]
pub struct StallHow(pub StallKind);

/// How long a TLBI stalls.
#[derive(Clone, Copy)]
pub struct StallFor(Duration);

/// What one step costs: an `s2pt.Cost`.
#[derive(Clone, Copy)]
pub struct CostArg(pub Cost);

/// What steps cost: an `s2pt.Costs`.
#[derive(Clone, Copy)]
pub struct CostsArg(pub Costs);

impl CostsArg {
    /// The costs, with the TLBI's said another way.
    pub fn with(costs: Option<Self>, py: Python<'_>, stall: StallFor, how: StallHow) -> PyResult<Costs> {
        let mut costs = costs.map_or_else(Costs::default, |costs| costs.0);
        if !stall.0.is_zero() {
            if !costs.tlbi.is_none() {
                let message = "stall_tlbi_ns and costs both say what a TLBI costs";
                return Err(error::option(py, String::from(message)));
            }
            costs.tlbi = Cost::new(stall.0, how.0);
        }
        Ok(costs)
    }
}

impl StallFor {
    /// Not at all.
    pub const NONE: Self = Self(Duration::ZERO);

    /// Nobody can interrupt a TLBI: no longer than one bears to wait for Ctrl-C.
    const LONGEST: Duration = Duration::from_secs(1);

    /// The stall, if there is one.
    pub fn stall(self, how: StallHow) -> Option<Stall> {
        (!self.0.is_zero()).then(|| Stall::new(self.0, how.0))
    }
}

impl StallHow {
    /// The thread gives up its core.
    pub const SLEEP: Self = Self(StallKind::Sleep);
}

extract! {
    StallHow = |obj| choice(obj, "stall_how", &[("sleep", StallKind::Sleep), ("spin", StallKind::Spin)]);
    StallFor = stall;
    CostArg = |obj| cost("a cost", obj);
    CostsArg = costs;
}

fn stall(obj: &Bound<'_, PyAny>) -> PyResult<Duration> {
    at_most_a_second("stall_tlbi_ns", obj)
}

fn at_most_a_second(what: &str, obj: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let stall = Duration::from_nanos(unsigned(what, obj)?);
    if stall > StallFor::LONGEST {
        let (value, most) = (stall.as_nanos(), StallFor::LONGEST.as_nanos());
        return Err(error::option(
            obj.py(),
            format!("{what} {value:#x} is beyond {most:#x}, one second"),
        ));
    }
    Ok(stall)
}

fn costs(obj: &Bound<'_, PyAny>) -> PyResult<Costs> {
    let part = |name: &str| cost(name, &attribute(obj, name)?);
    Ok(Costs {
        tlbi: part("tlbi")?,
        exit: part("exit")?,
        copy: part("copy")?,
        cache: part("cache")?,
        allocation: part("allocation")?,
    })
}

fn cost(what: &str, obj: &Bound<'_, PyAny>) -> PyResult<Cost> {
    let duration = at_most_a_second(what, &attribute(obj, "ns")?)?;
    let how: StallHow = attribute(obj, "how")?.extract()?;
    Ok(Cost::new(duration, how.0))
}

/// An attribute of what should be an `s2pt.Costs` or an `s2pt.Cost`.
fn attribute<'py>(obj: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    obj.getattr(name).map_err(|e| {
        if e.is_instance_of::<PyAttributeError>(obj.py()) {
            PyTypeError::new_err("costs must be an s2pt.Costs")
        } else {
            e
        }
    })
}
