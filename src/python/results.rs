//! The results that calls return by the million: what `s2pt/types.py` declares as frozen dataclasses, stored here.
//!
//! A frozen dataclass sets each of its fields by a call of `object.__setattr__`: 100 ns a field, more than the operations
//! themselves take. So the module declares fields, documentation and repr, and its decorator `_stored_natively` puts the
//! class of the same name from here in the dataclass's place; objects of it are made in one allocation. Like a
//! dataclass it takes whatever it is given for a field.

use pyo3::IntoPyObjectExt;
use pyo3::basic::CompareOp;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

/// Declares classes by their fields.
macro_rules! results {
    ($($(#[$doc:meta])* $name:ident { $($field:ident),* $(,)? })*) => {$(
        $(#[$doc])*
        #[pyclass(module = "s2pt.types", frozen)]
        pub struct $name {
            $(
                #[pyo3(get)]
                pub $field: Py<PyAny>,
            )*
        }

        impl $name {
            fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
                PyTuple::new(py, [$(self.$field.bind(py)),*])
            }
        }

        #[pymethods]
        impl $name {
            #[new]
            #[allow(clippy::too_many_arguments, reason = "the fields of a result")]
            fn new($($field: Py<PyAny>),*) -> Self {
                Self { $($field),* }
            }

            fn __richcmp__(&self, py: Python<'_>, other: &Bound<'_, PyAny>, how: CompareOp) -> PyResult<Py<PyAny>> {
                match (other.cast_exact::<Self>(), how) {
                    (Ok(other), CompareOp::Eq | CompareOp::Ne) => {
                        let compared = self.fields(py)?.rich_compare(other.get().fields(py)?, how)?;
                        Ok(compared.unbind())
                    }
                    _ => Ok(py.NotImplemented()),
                }
            }

            fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
                self.fields(py)?.hash()
            }

            /// How pickle and copy make another one.
            fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyType>, Bound<'py, PyTuple>)> {
                Ok((py.get_type::<Self>(), self.fields(py)?))
            }
        }
    )*};
}

results! {
    /// One leaf.
    Mapping { ipa, size, pa, level, prot, memtype, af, software, raw }

    /// What an access gets.
    Translation { pa, level, prot, memtype }

    /// What a map did.
    Mapped { bytes, kept }

    /// What a change of attributes did.
    Changed { leaves, bytes }

    /// Where a walk ended.
    Entry { raw, level, base, kind }
}

/// Any value as an object.
pub fn object<'py>(py: Python<'py>, value: impl IntoPyObject<'py>) -> PyResult<Py<PyAny>> {
    value.into_py_any(py)
}
