//! `Stage2`: its leaves, one by one and as arrays.

use core::mem;
use std::vec;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::PyStage2;
use crate::arch::Ipa;
use crate::memory::Arena;
use crate::python::convert::{IpaArg, SizeArg};
use crate::python::leaves::{RawRows, Rows};
use crate::python::sink::Sink;
use crate::python::{error, hook, types};
use crate::sync::{Mutex, TryLockError};
use crate::table::{Error, Handle, Mapping};

/// Leaves that the iterator collects at a time: few at first, for those who look at the first one only.
const FIRST_STEP: usize = 8;
const STEP: usize = 256;

#[pymethods]
impl PyStage2 {
    /// Iterate over the leaves of which a part is in the range, each whole, in ascending order.
    ///
    /// Beside writers the iterator is weakly consistent: each leaf was there at some moment of the iteration, and one
    /// that stayed all the time is seen exactly once. A held iterator holds nothing up.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Where the range starts, a multiple of the page size.
    /// size : int or str, optional
    ///     Bytes; without it: to the end of the IPA space.
    ///
    /// Returns
    /// -------
    /// iterator of Mapping
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     An argument is wrong.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.map(0x1ff000, "12KiB", pa=0x1ff000)
    /// Mapped(bytes=12KiB, kept=0B)
    /// >>> [hex(leaf.ipa) for leaf in s2.leaves(0x200000, "8KiB")]
    /// ['0x200000', '0x201000']
    #[pyo3(signature = (ipa = IpaArg::ZERO, size = None), text_signature = "($self, ipa=0, size=None)")]
    fn leaves(slf: &Bound<'_, Self>, ipa: IpaArg, size: Option<SizeArg>) -> PyResult<LeafIterator> {
        let (start, end) = slf.get().span(slf.py(), ipa, size)?;
        let cursor = Cursor {
            next: start,
            end,
            step: FIRST_STEP,
            ready: Vec::new().into_iter(),
        };
        Ok(LeafIterator {
            table: slf.clone().unbind(),
            cursor: Mutex::new(cursor),
        })
    }

    fn __iter__(slf: &Bound<'_, Self>) -> PyResult<LeafIterator> {
        Self::leaves(slf, IpaArg::ZERO, None)
    }

    /// The leaves of a range as a structured numpy array; as `leaves`, without an object for each.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Where the range starts, a multiple of the page size.
    /// size : int or str, optional
    ///     Bytes; without it: to the end of the IPA space.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray
    ///     One dimension; fields ipa, size, pa, level, prot, memtype (the descriptor's MemAttr), af, software, raw, each of
    ///     8 bytes (`level` signed, the others unsigned).
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     An argument is wrong.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.map(0x4000_0000, "4MiB", pa=0x8000_0000)
    /// Mapped(bytes=4MiB, kept=0B)
    /// >>> a = s2.leaves_array()
    /// >>> int(a["size"].sum()) == 4 << 20, a["level"].tolist()
    /// (True, [2, 2])
    #[pyo3(signature = (ipa = IpaArg::ZERO, size = None), text_signature = "($self, ipa=0, size=None)")]
    fn leaves_array<'py>(&self, py: Python<'py>, ipa: IpaArg, size: Option<SizeArg>) -> PyResult<Bound<'py, PyAny>> {
        let (start, end) = self.span(py, ipa, size)?;
        let rows = self.detached(py, |table| Rows::of(table, Ipa::new(start), end - start))?;
        rows.map_err(|refused| error::table(py, refused))?.into_array(py)
    }

    /// Every entry that is not empty, as it is: tables, leaves, marks, entries that a peer holds.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray
    ///     One dimension, in ascending order, a table before what is in it; fields ipa, level, raw, each of 8 bytes (`level`
    ///     signed). Through `without_waiting` LOCKED entries are among them.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> [(hex(ipa), level, hex(raw)) for ipa, level, raw in s2.entries_array().tolist()]
    /// [('0x40000000', 1, '0x100000003'), ('0x40000000', 2, '0x400000800007fd')]
    fn entries_array<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let rows = self.detached(py, |table| {
            let mut rows = RawRows::new();
            table.for_each_raw(|entry| rows.push(&entry)).map(|()| rows)
        })?;
        rows.map_err(|refused| error::table(py, refused))?.into_array(py)
    }
}

impl PyStage2 {
    /// Start and exclusive end of a range whose size may be left out, checked.
    fn span(&self, py: Python<'_>, ipa: IpaArg, size: Option<SizeArg>) -> PyResult<(u64, u64)> {
        let start = ipa.0;
        let table = self.table(py)?;
        // An IPA beyond the space leaves size 1, which is refused for the IPA's sake.
        let rest = table.config().geometry.ipa_limit().saturating_sub(start.get()).max(1);
        let size = size.map_or(rest, |size| size.0);
        let checked = table.work(|handle| handle.leaves(start, size).map(drop));
        checked.map_err(|refused| error::table(py, refused))?;
        Ok((start.get(), start.get() + size))
    }
}

/// Where an iterator stands.
struct Cursor {
    next: u64,
    end: u64,
    step: usize,
    ready: vec::IntoIter<Mapping>,
}

/// Iterator over the leaves of a `Stage2`, each a `Mapping`.
#[pyclass(module = "s2pt._core", frozen)]
pub struct LeafIterator {
    table: Py<PyStage2>,
    /// Held while leaves are collected, never while Python code runs.
    cursor: Mutex<Cursor>,
}

#[pymethods]
impl LeafIterator {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let leaf = self.advance(py)?;
        leaf.map(|leaf| types::mapping(py, &leaf)).transpose()
    }
}

impl LeafIterator {
    fn advance(&self, py: Python<'_>) -> PyResult<Option<Mapping>> {
        let table = self.table.get().table(py)?;
        let patient = self.table.get().is_patient();
        if hook::inside() {
            // The call that the sink's function is told of may be this iterator's own.
            let mut cursor = match self.cursor.try_lock() {
                Ok(cursor) => cursor,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    return Err(PyValueError::new_err("this iterator is giving its next leaf already"));
                }
            };
            let found = table.work(|handle| cursor.advance(&handle.without_waiting()));
            return found.map_err(|refused| error::table(py, refused));
        }
        let advance = |handle: &Handle<'_, Arena, Sink>| {
            let mut cursor = self.cursor.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if patient {
                cursor.advance(handle)
            } else {
                cursor.advance(&handle.without_waiting())
            }
        };
        // A peer may hold an entry until a function, its sink, gets the GIL. Nobody waits for the cursor while attached then.
        let collected = if table.tlb().stalls() {
            table.detached(py, advance)
        } else {
            table.work(advance)
        };
        collected.map_err(|refused| error::table(py, refused))
    }
}

impl Cursor {
    /// The next leaf, from what was collected or from the table.
    fn advance(&mut self, table: &Handle<'_, Arena, Sink>) -> Result<Option<Mapping>, Error> {
        if let Some(leaf) = self.ready.next() {
            return Ok(Some(leaf));
        }
        if self.next >= self.end {
            return Ok(None);
        }
        let step = mem::replace(&mut self.step, STEP);
        let (start, size) = (Ipa::new(self.next), self.end - self.next);
        let found: Vec<_> = table.leaves(start, size)?.take(step).collect();
        self.next = if found.len() < step {
            self.end
        } else {
            found[step - 1].ipa.get() + found[step - 1].size
        };
        self.ready = found.into_iter();
        Ok(self.ready.next())
    }
}
