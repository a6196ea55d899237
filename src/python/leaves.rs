//! Leaves as rows of a structured numpy array, every field 8 bytes wide.

use numpy::{PyArray1, PyArrayDescr};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::arrays::no_memory;
use super::sink::Sink;
use crate::arch::{Ipa, Level, Pa, Prot, Pte};
use crate::memory::Arena;
use crate::table::{self, Error, Handle};

/// Fields of a row, in order; `leaves_array` of Python speaks of them.
const FIELDS: [(&str, &str); 9] = [
    ("ipa", "<u8"),
    ("size", "<u8"),
    ("pa", "<u8"),
    ("level", "<i8"),
    ("prot", "<u8"),
    ("memtype", "<u8"),
    ("af", "<u8"),
    ("software", "<u8"),
    ("raw", "<u8"),
];

static DTYPE: PyOnceLock<Py<PyArrayDescr>> = PyOnceLock::new();

/// The dtype of a row.
pub fn dtype(py: Python<'_>) -> PyResult<Bound<'_, PyArrayDescr>> {
    let made = DTYPE.get_or_try_init(py, || PyArrayDescr::new(py, FIELDS.to_vec()).map(Bound::unbind))?;
    Ok(made.bind(py).clone())
}

/// Words, row after row, until the machine's memory is full.
#[derive(Debug, Default)]
struct Words {
    words: Vec<u64>,
    full: bool,
}

impl Words {
    fn add(&mut self, row: &[u64]) {
        if self.full || self.words.try_reserve(row.len()).is_err() {
            self.full = true;
        } else {
            self.words.extend_from_slice(row);
        }
    }

    /// The words as a structured array that owns them.
    fn into_array<'py>(self, py: Python<'py>, dtype: Bound<'py, PyArrayDescr>) -> PyResult<Bound<'py, PyAny>> {
        if self.full {
            return Err(no_memory());
        }
        PyArray1::from_vec(py, self.words).call_method1("view", (dtype,))
    }
}

/// Rows, row after row.
#[derive(Debug, Default)]
pub struct Rows(Words);

impl Rows {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The leaves that a range of a live table touches, whole, in ascending order.
    pub fn of(table: &Handle<'_, Arena, Sink>, ipa: Ipa, size: u64) -> Result<Self, Error> {
        let end = table.check_range(ipa, size)?;
        let mut rows = Self::new();
        table.for_each_leaf(ipa.get(), end, |leaf| {
            // A peer may merge pages into a block while they are collected: the walk meets them again, as one.
            while rows.last_ipa().is_some_and(|last| last >= leaf.ipa.get()) {
                rows.0.words.truncate(rows.0.words.len() - FIELDS.len());
            }
            rows.push(&leaf);
        })?;
        Ok(rows)
    }

    fn last_ipa(&self) -> Option<u64> {
        self.0.words.rchunks_exact(FIELDS.len()).next().map(|row| row[0])
    }

    /// Adds a leaf of a live table.
    pub fn push(&mut self, leaf: &table::Mapping) {
        self.add(
            leaf.ipa,
            leaf.size,
            leaf.pa,
            leaf.level,
            leaf.attrs.prot,
            leaf.attrs.software,
            leaf.raw,
        );
    }

    /// Adds a leaf given by its parts.
    #[expect(clippy::too_many_arguments, reason = "the fields of a row")]
    pub fn add(&mut self, ipa: Ipa, size: u64, pa: Pa, level: Level, prot: Prot, software: u8, raw: Pte) {
        let bits = raw.raw();
        self.0.add(&[
            ipa.get(),
            size,
            pa.get(),
            i64::from(level.get()) as u64,
            u64::from(prot.bits()),
            bits >> 2 & 0xf,
            bits >> 10 & 1,
            u64::from(software),
            bits,
        ]);
    }

    /// The rows as a structured array that owns them.
    pub fn into_array(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        self.0.into_array(py, dtype(py)?)
    }
}

/// Fields of an entry, in order.
const RAW_FIELDS: [(&str, &str); 3] = [("ipa", "<u8"), ("level", "<i8"), ("raw", "<u8")];

static RAW_DTYPE: PyOnceLock<Py<PyArrayDescr>> = PyOnceLock::new();

/// Entries, row after row.
#[derive(Debug, Default)]
pub struct RawRows(Words);

impl RawRows {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry.
    pub fn push(&mut self, entry: &table::Raw) {
        self.0
            .add(&[entry.ipa.get(), i64::from(entry.level.get()) as u64, entry.pte.raw()]);
    }

    /// The rows as a structured array that owns them.
    pub fn into_array(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let dtype = RAW_DTYPE.get_or_try_init(py, || PyArrayDescr::new(py, RAW_FIELDS.to_vec()).map(Bound::unbind))?;
        self.0.into_array(py, dtype.bind(py).clone())
    }
}
