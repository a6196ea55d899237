//! The Python extension module `s2pt._core`: parses arguments, detaches, calls the crate, converts results.

use pyo3::prelude::*;

/// The private extension module behind the Python package `s2pt`.
#[pymodule]
fn _core(_module: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
