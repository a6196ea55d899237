//! numpy arrays as plain slices: what calls read is copied, what they answer is written where it will stay.
//!
//! Arrays are copied before the interpreter is left: a borrow of rust-numpy does not keep Python from writing to them. The
//! copies of one thread use the same memory again and again, as fresh memory costs a page fault for each 512 elements,
//! which is a good part of what the table takes for them.

use core::cell::RefCell;
use core::mem;
use core::ops::Deref;
use std::thread_local;

use numpy::{
    Element, PyArray1, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyReadwriteArray1, PyUntypedArray,
    PyUntypedArrayMethods, dtype,
};
use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use super::convert::short;
use super::exit::Ask;

/// How many copies a thread keeps the memory of, and how many elements of each: 16 MiB in all.
const KEPT: usize = 2;
const KEPT_ELEMENTS: usize = 1 << 20;

/// Elements up to which plain vectors cost less than anything else.
const FEW: usize = 1 << 10;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u64>>> = const { RefCell::new(Vec::new()) };
}

/// The copied elements of an array.
pub struct Elements(Vec<u64>);

impl Deref for Elements {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.0
    }
}

impl Drop for Elements {
    fn drop(&mut self) {
        let memory = mem::take(&mut self.0);
        if memory.capacity() <= FEW || memory.capacity() > KEPT_ELEMENTS {
            return;
        }
        // A thread that is ending keeps nothing.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < KEPT {
                spare.push(memory);
            }
        });
    }
}

/// The elements of a one-dimensional uint64 array, copied. Its stride and alignment do not matter.
pub fn elements(what: &str, obj: &Bound<'_, PyAny>) -> PyResult<Elements> {
    let array = checked(what, obj, 1)?;
    if array.len() <= FEW {
        return Ok(Elements(array.to_vec()?));
    }
    let mut memory = SPARE
        .try_with(|spare| spare.borrow_mut().pop())
        .ok()
        .flatten()
        .unwrap_or_default();
    memory.clear();
    append(&mut memory, &array)?;
    Ok(Elements(memory))
}

/// The elements of a uint64 array with so many dimensions, copied in C order, and its shape. Strides and alignment of the
/// array do not matter.
pub fn words(what: &str, obj: &Bound<'_, PyAny>, dimensions: usize) -> PyResult<(Vec<u64>, Vec<usize>)> {
    let array = checked(what, obj, dimensions)?;
    let mut memory = Vec::new();
    append(&mut memory, &array)?;
    Ok((memory, array.shape().to_vec()))
}

/// Copies the elements behind those in `memory`; too many for the machine's memory are refused as Python refuses them.
fn append(memory: &mut Vec<u64>, array: &Bound<'_, PyArrayDyn<u64>>) -> PyResult<()> {
    let array = array.try_readonly()?;
    let elements = array.as_slice()?;
    memory.try_reserve_exact(elements.len()).map_err(|_| no_memory())?;
    memory.extend_from_slice(elements);
    Ok(())
}

/// What Python says when memory is short.
pub fn no_memory() -> PyErr {
    PyMemoryError::new_err(())
}

/// A uint64 array with so many dimensions, in C order and aligned: the one given, or a copy.
fn checked<'py>(what: &str, obj: &Bound<'py, PyAny>, dimensions: usize) -> PyResult<Bound<'py, PyArrayDyn<u64>>> {
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
    // A plain copy where the layout is plain; else numpy makes an array whose layout is. Not by a method of the array: those
    // of a subclass may do and give anything.
    static ARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let plain = array.is_c_contiguous() && array.is_aligned();
    let tidy = if plain {
        obj.clone()
    } else {
        let options = PyDict::new(py);
        options.set_item("order", "C")?;
        options.set_item("subok", false)?;
        ARRAY.import(py, "numpy", "array")?.ask_with((obj,), &options)?
    };
    Ok(tidy.cast_into::<PyArrayDyn<u64>>()?)
}

/// Where a call writes its answers: the array that it returns, as numpy takes memory in huge pages where there is much;
/// for few elements a vector that is copied at the end.
pub enum Answers<'py, T: Element> {
    Few(Vec<T>),
    // Nobody else knows this array yet, so the borrow is all that there is to be kept.
    Many(PyReadwriteArray1<'py, T>),
}

impl<'py, T: Element + Copy + Default> Answers<'py, T> {
    /// So many zeros.
    pub fn new(py: Python<'py>, len: usize) -> PyResult<Self> {
        Ok(if len <= FEW {
            Self::Few(vec![T::default(); len])
        } else {
            // Numpy itself says when there is no memory for so many.
            static ZEROS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            let array = ZEROS.import(py, "numpy", "zeros")?.call1((len, dtype::<T>(py)))?;
            Self::Many(array.cast_into::<PyArray1<T>>()?.try_readwrite()?)
        })
    }

    /// The elements.
    pub fn slice(&mut self) -> PyResult<&mut [T]> {
        match self {
            Self::Few(few) => Ok(few),
            Self::Many(array) => Ok(array.as_slice_mut()?),
        }
    }

    /// The array.
    pub fn array(self, py: Python<'py>) -> Bound<'py, PyArray1<T>> {
        match self {
            Self::Few(few) => PyArray1::from_slice(py, &few),
            Self::Many(array) => (**array).clone(),
        }
    }
}
