//! `Image`: its leaves, one by one and as an array.

use std::vec;

use pyo3::prelude::*;

use super::PyImage;
use crate::arch::Mapping;
use crate::python::convert::OnErrors;
use crate::python::leaves::Rows;
use crate::python::{error, exit, types};
use crate::sync::{Mutex, PoisonError};

#[pymethods]
impl PyImage {
    /// Iterate over the leaves in order of IPA.
    ///
    /// Parameters
    /// ----------
    /// errors : str
    ///     ``"raise"`` the first ImageError, or ``"skip"`` what cannot be read.
    ///
    /// Returns
    /// -------
    /// iterator of Mapping
    ///     `memtype` is a plain text where MemAttr has a value without a name in `MemType`.
    ///
    /// Raises
    /// ------
    /// ImageError
    ///     A table is not there, or is reached twice: the error has the IPA and the level. The whole table is walked
    ///     before the first leaf is handed out.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Stage2
    /// >>> s2 = Stage2()
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> image = s2.image()
    /// >>> [hex(leaf.ipa) for leaf in image.leaves()]
    /// ['0x40000000']
    #[pyo3(signature = (errors = OnErrors::Raise), text_signature = "($self, errors='raise')")]
    fn leaves(&self, py: Python<'_>, errors: OnErrors) -> PyResult<ImageLeaves> {
        let leaves = self.collect(py, errors)?;
        Ok(ImageLeaves(Mutex::new(leaves.into_iter())))
    }

    fn __iter__(&self, py: Python<'_>) -> PyResult<ImageLeaves> {
        self.leaves(py, OnErrors::Raise)
    }

    /// The leaves as a structured numpy array, with the fields of `Stage2.leaves_array`.
    ///
    /// Parameters
    /// ----------
    /// errors : str
    ///     As for `leaves`.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray
    ///     One dimension, in order of IPA.
    ///
    /// Raises
    /// ------
    /// ImageError
    ///     As `leaves`.
    #[pyo3(signature = (errors = OnErrors::Raise), text_signature = "($self, errors='raise')")]
    fn leaves_array<'py>(&self, py: Python<'py>, errors: OnErrors) -> PyResult<Bound<'py, PyAny>> {
        let leaves = self.collect(py, errors)?;
        let mut rows = Rows::new();
        exit::detach(py, || leaves.iter().for_each(|leaf| rows.push(leaf)));
        rows.into_array(py)
    }
}

impl PyImage {
    /// All leaves, or the first error unless errors are to be skipped.
    fn collect(&self, py: Python<'_>, errors: OnErrors) -> PyResult<Vec<Mapping>> {
        let collected = exit::detach(py, || {
            let leaves = self.0.leaves();
            match errors {
                OnErrors::Raise => leaves.collect::<Result<Vec<_>, _>>(),
                OnErrors::Skip => Ok(leaves.filter_map(Result::ok).collect()),
            }
        });
        collected.map_err(|refused| error::dump(py, &refused))
    }
}

/// Iterator over the leaves of an `Image`, each a `Mapping`.
#[pyclass(module = "s2pt._core", frozen)]
pub struct ImageLeaves(Mutex<vec::IntoIter<Mapping>>);

#[pymethods]
impl ImageLeaves {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        // Held while a leaf is taken, never while Python code runs.
        let leaf = self.0.lock().unwrap_or_else(PoisonError::into_inner).next();
        leaf.map(|leaf| types::mapping(py, &leaf)).transpose()
    }

    fn __length_hint__(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
