//! Differences of tables and texts, in any combination.

use std::boxed::Box;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyTuple, PyType};

use super::convert::short;
use super::exit::Ask;
use super::image::{Memory, PyImage};
use super::ptdump::PyPtdump;
use super::{error, exit, types};
use crate::arch::Prot;
use crate::image::{Comparable, Difference, Differs, Image, ImageError, Piece, Ptdump, Side, diff};

/// One of the two.
#[derive(Clone, Copy)]
enum Source<'a> {
    Image(&'a Image<Memory>),
    Text(&'a Ptdump),
}

impl Comparable for Source<'_> {
    fn pieces(&self) -> impl Iterator<Item = Result<Piece, ImageError>> {
        let pieces: Box<dyn Iterator<Item = _>> = match self {
            Self::Image(image) => Box::new(image.pieces()),
            Self::Text(text) => Box::new(text.pieces()),
        };
        pieces
    }

    fn known_end(&self) -> u64 {
        match self {
            Self::Image(image) => image.known_end(),
            Self::Text(text) => text.known_end(),
        }
    }

    fn told(&self) -> Prot {
        match self {
            Self::Image(image) => image.told(),
            Self::Text(text) => text.told(),
        }
    }

    fn tells_invalid(&self) -> bool {
        match self {
            Self::Image(image) => image.tells_invalid(),
            Self::Text(text) => text.tells_invalid(),
        }
    }
}

fn source<'a>(obj: &'a Bound<'_, PyAny>) -> PyResult<Source<'a>> {
    if let Ok(image) = obj.cast::<PyImage>() {
        return Ok(Source::Image(image.get().image()));
    }
    match obj.cast::<PyPtdump>() {
        Ok(text) => Ok(Source::Text(text.get().dump())),
        Err(_) => {
            let message = format!("other must be an Image or a Ptdump, not {}", short(obj));
            Err(pyo3::exceptions::PyTypeError::new_err(message))
        }
    }
}

fn list<'py>(one: &Bound<'py, PyAny>, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    let py = one.py();
    let (a, b) = (source(one)?, source(other)?);
    let found: Result<Vec<Difference>, ImageError> = exit::detach(py, || diff(&a, &b).collect());
    let list = PyList::empty(py);
    for one in found.map_err(|refused| error::dump(py, &refused))? {
        list.append(difference(py, &one)?)?;
    }
    Ok(list)
}

#[pymethods]
impl PyImage {
    /// Compare with another table, or with the text of one.
    ///
    /// What does not matter to a difference is not told apart: a block that became pages with the same permissions is one
    /// difference in size, wherever the pages lie. Beside a text, only what it shows is compared: no output addresses,
    /// memory types and invalid entries, and nothing behind its end.
    ///
    /// Parameters
    /// ----------
    /// other : Image or Ptdump
    ///     See `s2pt.image.diff` for live tables and files.
    ///
    /// Returns
    /// -------
    /// list of s2pt.image.Difference
    ///     In order of IPA, neighbours with the same difference joined; empty if the tables translate alike, with equal
    ///     leaves and equal invalid entries.
    ///
    /// Raises
    /// ------
    /// ImageError
    ///     One of the tables cannot be walked.
    ///
    /// Examples
    /// --------
    /// >>> from s2pt import Stage2
    /// >>> s2 = Stage2()
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> image = s2.image()
    /// >>> _ = s2.unmap(0x4000_0000, 4096)
    /// >>> image.diff(s2.image())
    /// [Difference(ipa=0x40000000, size=4KiB, only_a), Difference(ipa=0x40001000, size=2044KiB, size)]
    #[pyo3(text_signature = "($self, other)")]
    fn diff<'py>(slf: &Bound<'py, Self>, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        list(slf.as_any(), other)
    }
}

#[pymethods]
impl PyPtdump {
    /// Compare with a table or with another text: `Image.diff`.
    #[pyo3(text_signature = "($self, other)")]
    fn diff<'py>(slf: &Bound<'py, Self>, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        list(slf.as_any(), other)
    }
}

/// An `s2pt.image.Difference`.
fn difference<'py>(py: Python<'py>, one: &Difference) -> PyResult<Bound<'py, PyAny>> {
    static DIFFERENCE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let names = [
        (Differs::ONLY_A, "only_a"),
        (Differs::ONLY_B, "only_b"),
        (Differs::OUTPUT, "output"),
        (Differs::SIZE, "size"),
        (Differs::PERMISSION, "permission"),
        (Differs::AF, "af"),
        (Differs::ATTRIBUTES, "attributes"),
        (Differs::INVALID, "invalid"),
    ];
    let what = names
        .iter()
        .filter(|(flag, _)| one.what.contains(*flag))
        .map(|(_, name)| *name);
    let what = PyTuple::new(py, what.collect::<Vec<_>>())?;
    let arguments = (one.ipa.get(), one.size, side(py, one.a)?, side(py, one.b)?, what);
    DIFFERENCE.import(py, "s2pt.image", "Difference")?.ask(arguments)
}

/// An `s2pt.image.Side`.
fn side(py: Python<'_>, side: Option<Side>) -> PyResult<Option<Bound<'_, PyAny>>> {
    static SIDE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let Some(side) = side else { return Ok(None) };
    let class = SIDE.import(py, "s2pt.image", "Side")?;
    let made = match side {
        Side::Invalid { level, raw } => {
            let prot = types::prot(py, Prot::NONE)?;
            class.ask((level.get(), None::<u64>, None::<u64>, prot, false, (), raw.raw()))?
        }
        Side::Leaf {
            level,
            size,
            pa,
            prot,
            af,
            attrs,
        } => {
            let rest = attrs.map(|attrs| -> PyResult<_> {
                Ok((
                    types::mem_type(py, attrs.memtype)?,
                    attrs.shareability.to_string(),
                    attrs.dbm,
                    attrs.contiguous,
                    attrs.software,
                ))
            });
            let prot = types::prot(py, prot)?;
            let pa = pa.map(|pa| pa.get());
            match rest.transpose()? {
                Some(rest) => class.ask((level.get(), size, pa, prot, af, rest))?,
                None => class.ask((level.get(), size, pa, prot, af))?,
            }
        }
    };
    Ok(Some(made))
}
