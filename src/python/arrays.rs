//! numpy arrays as plain vectors, and back.
//!
//! Arrays are copied before the interpreter is left: a borrow of rust-numpy does not keep Python from writing to them.

use numpy::{
    Element, PyArray1, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods, dtype,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::convert::short;

/// The elements of a uint64 array with so many dimensions, copied in C order, and its shape. Strides and alignment of the
/// array do not matter.
pub fn words(what: &str, obj: &Bound<'_, PyAny>, dimensions: usize) -> PyResult<(Vec<u64>, Vec<usize>)> {
    let py = obj.py();
    let Ok(array) = obj.cast::<PyUntypedArray>() else {
        let kind = obj.get_type();
        let message = format!(
            "{what} must be a numpy array of uint64, not {} ({})",
            kind.name()?,
            short(obj)
        );
        return Err(PyTypeError::new_err(message));
    };
    if !array.dtype().is_equiv_to(&dtype::<u64>(py)) {
        let message = format!("{what} must be an array of uint64, not of {}", array.dtype());
        return Err(PyTypeError::new_err(message));
    }
    if array.ndim() != dimensions {
        let plural = if dimensions == 1 { "" } else { "s" };
        let message = format!("{what} must have {dimensions} dimension{plural}, not {}", array.ndim());
        return Err(PyValueError::new_err(message));
    }
    // A plain copy where the layout is plain; else numpy makes an array whose layout is.
    let plain = array.is_c_contiguous() && array.is_aligned();
    let tidy = if plain {
        obj.clone()
    } else {
        obj.call_method1("copy", ("C",))?
    };
    Ok((tidy.cast::<PyArrayDyn<u64>>()?.to_vec()?, array.shape().to_vec()))
}

/// Elements up to which a copy costs less than the object that keeps a vector alive for numpy.
const FEW: usize = 1 << 10;

/// The elements as an array, which takes over the memory of a long vector.
pub fn array<T: Element + Copy>(py: Python<'_>, elements: Vec<T>) -> Bound<'_, PyArray1<T>> {
    if elements.len() <= FEW {
        PyArray1::from_slice(py, &elements)
    } else {
        PyArray1::from_vec(py, elements)
    }
}
