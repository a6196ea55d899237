//! The memory behind an image: bytes that were taken in, or a function that is asked for them.

use core::cell::RefCell;
use std::collections::BTreeMap;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;

use crate::arch::Pa;
use crate::image::{Dump, ReadMemory};
use crate::python::arrays::no_memory;
use crate::python::convert::short;
use crate::python::error;
use crate::python::exit::Ask;

/// Where the table's bytes are.
pub enum Memory {
    /// In a dump.
    Dump(Dump<Vec<u8>>),
    /// In one run of memory from an address on.
    Flat(Pa, Vec<u8>),
    /// In the pieces that a function gave, by address.
    Pieces(BTreeMap<u64, Vec<u64>>),
}

impl ReadMemory for Memory {
    fn read_u64(&self, pa: Pa) -> Option<u64> {
        match self {
            Self::Dump(dump) => dump.read_u64(pa),
            Self::Flat(base, bytes) => {
                let start = usize::try_from(pa.get().checked_sub(base.get())?).ok()?;
                let word = bytes.get(start..start.checked_add(8)?)?;
                Some(u64::from_le_bytes(word.try_into().ok()?))
            }
            Self::Pieces(pieces) => {
                let (start, words) = pieces.range(..=pa.get()).next_back()?;
                words.get(usize::try_from((pa.get() - start) / 8).ok()?).copied()
            }
        }
    }
}

/// Reads through a Python function and keeps what it read.
pub struct Reader<'py> {
    read: Bound<'py, PyAny>,
    pieces: RefCell<BTreeMap<u64, Vec<u64>>>,
    failed: RefCell<Option<PyErr>>,
}

impl<'py> Reader<'py> {
    /// Of a function ``read(pa, size)``.
    pub fn new(read: Bound<'py, PyAny>) -> Self {
        Self {
            read,
            pieces: RefCell::default(),
            failed: RefCell::default(),
        }
    }

    /// What it read, or what the function raised.
    pub fn into_memory(self) -> PyResult<Memory> {
        match self.failed.into_inner() {
            Some(failure) => Err(failure),
            None => Ok(Memory::Pieces(self.pieces.into_inner())),
        }
    }

    fn ask(&self, pa: Pa, words: usize) -> PyResult<Option<Vec<u64>>> {
        let answer = self.read.ask((pa.get(), 8 * words))?;
        if answer.is_none() {
            return Ok(None);
        }
        let buffer = PyBuffer::<u8>::get(&answer)?;
        if buffer.item_count() != 8 * words {
            let message = format!("read({pa}, {:#x}) gave {:#x} bytes", 8 * words, buffer.item_count());
            return Err(error::image(answer.py(), message));
        }
        let bytes = buffer.to_vec(answer.py())?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(Some(words.iter().map(|word| u64::from_le_bytes(*word)).collect()))
    }
}

impl ReadMemory for &Reader<'_> {
    fn read_u64(&self, pa: Pa) -> Option<u64> {
        let mut word = [0];
        self.read_table(pa, &mut word).then_some(word[0])
    }

    fn read_table(&self, pa: Pa, entries: &mut [u64]) -> bool {
        if self.failed.borrow().is_some() {
            return false;
        }
        let known = self
            .pieces
            .borrow()
            .get(&pa.get())
            .filter(|words| words.len() == entries.len())
            .cloned();
        let answer = known.map_or_else(|| self.ask(pa, entries.len()), |words| Ok(Some(words)));
        match answer {
            Ok(Some(words)) => {
                entries.copy_from_slice(&words);
                self.pieces.borrow_mut().insert(pa.get(), words);
                true
            }
            Ok(None) => false,
            Err(failure) => {
                *self.failed.borrow_mut() = Some(failure);
                false
            }
        }
    }
}

/// The bytes of an object that has some, copied.
pub fn bytes(what: &str, obj: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let py = obj.py();
    let buffer = match PyBuffer::<u8>::get(obj) {
        Ok(buffer) => buffer,
        Err(refused) if refused.is_instance_of::<PyTypeError>(py) || refused.is_instance_of::<PyBufferError>(py) => {
            let message = format!("{what} must be bytes, not {}", short(obj));
            return Err(PyTypeError::new_err(message));
        }
        // An object may say anything when it is asked for its bytes.
        Err(other) => return Err(other),
    };
    let (mut copied, count) = (Vec::new(), buffer.item_count());
    copied.try_reserve_exact(count).map_err(|_| no_memory())?;
    copied.resize(count, 0);
    buffer.copy_to_slice(py, &mut copied)?;
    Ok(copied)
}
