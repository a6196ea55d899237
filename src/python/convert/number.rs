//! Whole numbers of 64 bits out of whatever Python gives.

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyFloat, PyInt};

use crate::python::error;
use crate::python::exit::{Ask, stopping};

/// The integer `obj` as an unsigned 64-bit value; `what` names it in the message when it is none.
pub fn unsigned(what: &str, obj: &Bound<'_, PyAny>) -> PyResult<u64> {
    let number = integer(what, obj)?;
    // Python reads signed integers far quicker, and hardly an address has its top bit set.
    if let Ok(value @ 0..) = number.extract::<i64>() {
        return Ok(value as u64);
    }
    number.extract::<u64>().or_else(|_| {
        // Of a subclass the value alone: what it says about itself may be anything.
        let number = index(&number)?;
        let shown = number.call_method1(intern!(obj.py(), "__format__"), ("#x",))?;
        let shown = cut(shown.to_string());
        let reason = if number.lt(0)? {
            "is negative"
        } else {
            "does not fit in 64 bits"
        };
        Err(error::address(obj.py(), format!("{what} {shown} {reason}")))
    })
}

/// `obj` as an int, asked for its value once. What would convert silently but is no integer is refused: `bool`, `float`,
/// and everything without `__index__`.
pub(super) fn integer<'py>(what: &str, obj: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // An `int` of a subclass is its own index: an `IntFlag` above all.
    if obj.is_instance_of::<PyInt>() && !obj.is_exact_instance_of::<PyBool>() {
        return Ok(obj.clone());
    }
    let py = obj.py();
    let wrong =
        obj.is_instance_of::<PyBool>() || obj.is_instance_of::<PyFloat>() || !obj.hasattr(intern!(py, "__index__"))?;
    if wrong {
        let kind = obj.get_type();
        let message = format!("{what} must be an integer, not {} ({})", kind.name()?, short(obj));
        return Err(PyTypeError::new_err(message));
    }
    index(obj)
}

/// `operator.index`: an exact int.
pub(super) fn index<'py>(obj: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static INDEX: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    INDEX.import(obj.py(), "operator", "index")?.ask((obj,))
}

/// `repr(obj)`, cut to a length that fits in a message.
pub fn short(obj: &Bound<'_, PyAny>) -> String {
    cut(stopping(|| obj.repr()).map_or_else(|_| String::from("?"), |repr| repr.to_string()))
}

/// A text as long as fits in a message.
fn cut(text: String) -> String {
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}
