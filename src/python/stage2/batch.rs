//! `Stage2`: calls on whole numpy arrays.
//!
//! Everything about the arguments is checked before the first element is worked on.

use core::ops::Range;

use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::PyStage2;
use super::map::{attrs, options};
use crate::arch::{Fault, Ipa, Level, Pa};
use crate::memory::Arena;
use crate::python::answers::code;
use crate::python::arrays::{Answers, elements};
use crate::python::convert::{AccessArg, ExistingArg, LevelArg, MemTypeArg, ProtArg, SizeArg, SoftwareArg};
use crate::python::signals::in_parts;
use crate::python::sink::Sink;
use crate::python::{error, types};
use crate::table::{Error, Existing, Handle, Local, Mapped, Stay};

/// Elements worked on in one stay, during which no retired frame is freed.
const BETWEEN_REPINS: usize = 256;

/// Where the elements of one call are worked on.
type Inside<'v, 't> = Stay<'v, 't, Arena, Sink, Local>;

/// An error of one element, with the element's index on the exception.
fn at_element(py: Python<'_>, (index, refused): (usize, Error)) -> PyErr {
    error::with_index(py, error::table(py, refused), index)
}

/// Whether no range of `size` bytes that starts at one of the addresses would be refused by `check`: the union of their
/// bits tells about alignment and the largest of them about the limit.
fn all_right(addresses: &[u64], check: impl Fn(u64) -> Result<(), Error>) -> bool {
    let (mut union, mut largest) = (0, 0);
    for &address in addresses {
        union |= address;
        largest = largest.max(address);
    }
    // The lowest bit of all is as misaligned as any address, and the largest address as near to the limit.
    check(largest).is_ok() && check(union & union.wrapping_neg()).is_ok()
}

/// Refuses what `map` would refuse of the addresses before it looks at the table.
fn check_spans(table: &Handle<'_, Arena, Sink>, ipa: &[u64], size: u64, pa: &[u64]) -> Result<(), (usize, Error)> {
    let limit = table.config().geometry.pa_limit();
    let of_ipa = check_ranges(table, ipa, size);
    let of_pa = first_refused(pa, |pa| table.check_span("pa", pa, size, limit));
    match (of_ipa, of_pa) {
        (Err(of_ipa), Err(of_pa)) if of_pa.0 < of_ipa.0 => Err(of_pa),
        (Err(of_ipa), _) => Err(of_ipa),
        (Ok(()), of_pa) => of_pa,
    }
}

/// Refuses what `unmap` would refuse of the addresses before it looks at the table.
fn check_ranges(table: &Handle<'_, Arena, Sink>, ipa: &[u64], size: u64) -> Result<(), (usize, Error)> {
    first_refused(ipa, |ipa| table.check_range(Ipa::new(ipa), size).map(drop))
}

/// The first address that `check` refuses, with its index.
fn first_refused(addresses: &[u64], check: impl Fn(u64) -> Result<(), Error>) -> Result<(), (usize, Error)> {
    if addresses.is_empty() || all_right(addresses, &check) {
        return Ok(());
    }
    for (index, &address) in addresses.iter().enumerate() {
        check(address).map_err(|refused| (index, refused))?;
    }
    Ok(())
}

impl PyStage2 {
    /// Runs `work` for every part of the addresses, in order, detached, looking for Ctrl-C now and then; stops at the first
    /// error, which names its element.
    fn parts(
        &self,
        py: Python<'_>,
        addresses: &[u64],
        mut work: impl FnMut(&Inside<'_, '_>, Range<usize>) -> Result<(), (usize, Error)> + Send,
    ) -> PyResult<()> {
        // Also for an empty array: is it open?
        self.table(py)?;
        in_parts(py, addresses.len(), |part, until| {
            let work = &mut work;
            let done = self.detached(py, move |table| {
                let (mut start, count) = (part.start, part.end);
                let mut stay = table.stay();
                loop {
                    let end = count.min(start + BETWEEN_REPINS);
                    stay.prefetch(addresses[start..end].iter().map(|&ipa| Ipa::new(ipa)));
                    work(&stay, start..end)?;
                    if end == count || until.is_over() {
                        return Ok(end);
                    }
                    start = end;
                    stay.repin();
                }
            })?;
            done.map_err(|refused| at_element(py, refused))
        })
    }

    /// Bytes of each element: one page unless given.
    fn element_size(&self, py: Python<'_>, size: Option<SizeArg>) -> PyResult<u64> {
        let page = self.table(py)?.config().geometry.granule().size();
        Ok(size.map_or(page, |size| size.0))
    }
}

#[pymethods]
impl PyStage2 {
    /// Map many ranges of one size: `ipa[i]` to `pa[i]`, in order of the array.
    ///
    /// Parameters
    /// ----------
    /// ipa, pa : numpy.ndarray of uint64
    ///     One dimension, equally long; bytes, multiples of the page size. The arrays are copied at the start of the call.
    /// size : int or str, optional
    ///     Bytes of each range; a page unless given.
    /// prot, memtype, existing, largest, software, af
    ///     As for `map`, for all ranges. With ``"keep"`` a range that is mapped already is no error and counts in `kept`.
    ///
    /// Returns
    /// -------
    /// Mapped
    ///     Sums over all ranges.
    ///
    /// Raises
    /// ------
    /// TypeError, ValueError
    ///     An argument is no such array, or the lengths differ.
    /// AlignmentError, AddressError, LevelError, AttributesError
    ///     An element or an argument is wrong. All are checked first: nothing has changed.
    /// ConflictError, OutOfFramesError
    ///     At the range whose index the exception has as `index`: the ranges before it are mapped, it and those after it
    ///     are not.
    ///
    /// Notes
    /// -----
    /// Releases the GIL. Ctrl-C ends it between two elements, as it does every call on an array: those before are done.
    /// One epoch registration for the whole array; a range costs what `map` costs in Rust.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np
    /// >>> s2 = Stage2()
    /// >>> ipa = np.arange(1000, dtype=np.uint64) * 4096
    /// >>> s2.map_many(ipa, ipa + (1 << 30))
    /// Mapped(bytes=4000KiB, kept=0B)
    #[pyo3(signature = (
        ipa, pa, size = None, prot = ProtArg::RW, *, memtype = MemTypeArg::NORMAL, existing = ExistingArg::REPLACE, largest = None, software = SoftwareArg::NONE, af = true
    ), text_signature = "($self, ipa, pa, size=None, prot=Prot.RW, *, memtype=MemType.NORMAL, existing='replace', \
        largest=None, software=0, af=True)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python method")]
    fn map_many<'py>(
        &self,
        py: Python<'py>,
        ipa: &Bound<'py, PyAny>,
        pa: &Bound<'py, PyAny>,
        size: Option<SizeArg>,
        prot: ProtArg,
        memtype: MemTypeArg,
        existing: ExistingArg,
        largest: Option<LevelArg>,
        software: SoftwareArg,
        af: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (ipa, pa) = (elements("ipa", ipa)?, elements("pa", pa)?);
        if ipa.len() != pa.len() {
            let message = format!("ipa and pa must be equally long, not {} and {}", ipa.len(), pa.len());
            return Err(PyValueError::new_err(message));
        }
        let size = self.element_size(py, size)?;
        let (attrs, options) = (attrs(prot, memtype, software, af), options(existing, largest, false));
        let checked = self.detached(py, |table| {
            check_spans(table, &ipa, size, &pa)?;
            match (ipa.first(), table.format().attr_bits(Level::L3, &attrs)) {
                (Some(&first), Err(reason)) => Err((
                    0,
                    Error::Attrs {
                        ipa: Ipa::new(first),
                        reason,
                    },
                )),
                _ => Ok(()),
            }
        })?;
        checked.map_err(|refused| at_element(py, refused))?;
        let keep = options.existing == Existing::Keep;
        let mut sum = Mapped::default();
        self.parts(py, &ipa, |table, part| {
            for (index, (&ipa, &pa)) in part.clone().zip(ipa[part.clone()].iter().zip(&pa[part])) {
                match table.map(Ipa::new(ipa), size, Pa::new(pa), &attrs, options) {
                    Ok(done) => {
                        sum.bytes += done.bytes;
                        sum.kept += done.kept;
                    }
                    Err(Error::Again { .. }) if keep => sum.kept += size,
                    Err(refused) => return Err((index, refused)),
                }
            }
            Ok(())
        })?;
        types::mapped(py, &sum)
    }

    /// Unmap many ranges of one size; return how many bytes were mapped.
    ///
    /// Parameters
    /// ----------
    /// ipa : numpy.ndarray of uint64
    ///     One dimension; bytes, multiples of the page size. Copied at the start of the call.
    /// size : int or str, optional
    ///     Bytes of each range; a page unless given.
    ///
    /// Raises
    /// ------
    /// TypeError, ValueError
    ///     `ipa` is no such array.
    /// AlignmentError, AddressError
    ///     An element is wrong. All are checked first: nothing has changed.
    /// OutOfFramesError
    ///     A block could not be split, at the range whose index the exception has as `index`; those before it are done.
    ///
    /// Notes
    /// -----
    /// Releases the GIL. Each range has a TLBI of its own: where the ranges adjoin, one `unmap` is far cheaper.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np
    /// >>> s2 = Stage2()
    /// >>> pages = np.arange(0x4000_0000, 0x4000_4000, 4096, dtype=np.uint64)
    /// >>> _ = s2.map_many(pages, pages)
    /// >>> s2.unmap_many(pages[::2])
    /// 8192
    #[pyo3(signature = (ipa, size = None))]
    fn unmap_many(&self, py: Python<'_>, ipa: &Bound<'_, PyAny>, size: Option<SizeArg>) -> PyResult<u64> {
        let ipa = elements("ipa", ipa)?;
        let size = self.element_size(py, size)?;
        let checked = self.detached(py, |table| check_ranges(table, &ipa, size))?;
        checked.map_err(|refused| at_element(py, refused))?;
        let mut sum = 0;
        self.parts(py, &ipa, |table, part| {
            for (index, &ipa) in part.clone().zip(&ipa[part]) {
                sum += table.unmap(Ipa::new(ipa), size).map_err(|refused| (index, refused))?;
            }
            Ok(())
        })?;
        Ok(sum)
    }

    /// Translate many addresses, each as `translate` does; faults are answers here, not exceptions.
    ///
    /// Parameters
    /// ----------
    /// ipa : numpy.ndarray of uint64
    ///     One dimension, any byte addresses. Copied at the start of the call.
    /// access : Access or str
    ///     ``"r"``, ``"w"`` or ``"x"``, for all.
    ///
    /// Returns
    /// -------
    /// pa : numpy.ndarray of uint64
    ///     Physical addresses; 0 where there is a fault.
    /// level : numpy.ndarray of int8
    ///     The level of the leaf, or at which the walk ended.
    /// fault : numpy.ndarray of uint8
    ///     `FaultCode` of each: 0 none, 1 translation, 2 access flag, 3 permission, 4 address size.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np
    /// >>> s2 = Stage2()
    /// >>> s2.map(0, "2MiB", pa=0x4000_0000)
    /// Mapped(bytes=2MiB, kept=0B)
    /// >>> pa, level, fault = s2.translate_many(np.array([0x1234, 0x20_0000], dtype=np.uint64))
    /// >>> [hex(a) for a in pa.tolist()], level.tolist(), fault.tolist()
    /// (['0x40001234', '0x0'], [2, 2], [0, 1])
    #[pyo3(signature = (ipa, access = AccessArg::READ), text_signature = "($self, ipa, access='r')")]
    #[expect(clippy::type_complexity, reason = "three arrays")]
    fn translate_many<'py>(
        &self,
        py: Python<'py>,
        ipa: &Bound<'py, PyAny>,
        access: AccessArg,
    ) -> PyResult<(
        Bound<'py, PyArray1<u64>>,
        Bound<'py, PyArray1<i8>>,
        Bound<'py, PyArray1<u8>>,
    )> {
        let ipa = elements("ipa", ipa)?;
        let len = ipa.len();
        let (mut pa, mut level, mut fault) = (Answers::new(py, len)?, Answers::new(py, len)?, Answers::new(py, len)?);
        let (pas, levels, faults) = (pa.slice()?, level.slice()?, fault.slice()?);
        self.parts(py, &ipa, |table, part| {
            let found = pas[part.clone()].iter_mut().zip(&mut levels[part.clone()]);
            let found = found.zip(&mut faults[part.clone()]);
            for (&ipa, ((pa, at), fault)) in ipa[part].iter().zip(found) {
                match table.translate(Ipa::new(ipa), access.0) {
                    Ok(hit) => (*pa, *at) = (hit.pa.get(), hit.level.get()),
                    Err(Fault { kind, level, .. }) => (*at, *fault) = (level.get(), code(kind)),
                }
            }
            Ok(())
        })?;
        Ok((pa.array(py), level.array(py), fault.array(py)))
    }

    /// Access many addresses as a CPU would: translate each, and set the access flag where `ha` says that hardware does.
    ///
    /// Parameters
    /// ----------
    /// ipa : numpy.ndarray of uint64
    ///     One dimension, any byte addresses. Copied at the start of the call.
    /// access : Access or str
    ///     ``"r"``, ``"w"`` or ``"x"``, for all.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray of uint8
    ///     `FaultCode` of each access, 0 for none.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np
    /// >>> s2 = Stage2()
    /// >>> s2.map(0, "2MiB", pa=0x4000_0000, af=False)
    /// Mapped(bytes=2MiB, kept=0B)
    /// >>> s2.touch(np.array([0x1234, 0x20_0000], dtype=np.uint64), "w").tolist(), s2.test_young(0, "2MiB")
    /// ([0, 1], True)
    #[pyo3(signature = (ipa, access = AccessArg::READ), text_signature = "($self, ipa, access='r')")]
    fn touch<'py>(
        &self,
        py: Python<'py>,
        ipa: &Bound<'py, PyAny>,
        access: AccessArg,
    ) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let ipa = elements("ipa", ipa)?;
        let mut answers = Answers::new(py, ipa.len())?;
        let faults = answers.slice()?;
        self.parts(py, &ipa, |table, part| {
            let page = table.config().geometry.size(Level::L3);
            for (index, (&ipa, fault)) in part.clone().zip(ipa[part.clone()].iter().zip(&mut faults[part])) {
                let here = Ipa::new(ipa);
                match table.translate(here, access.0) {
                    Ok(hit) if table.format().af(hit.leaf) => {}
                    Ok(_) => match table.mark_young(here.align_down(page), page) {
                        // Unmapped by a peer since: the access came first.
                        Ok(_) | Err(Error::NotMapped { .. }) => {}
                        Err(refused) => return Err((index, refused)),
                    },
                    Err(refused) => *fault = code(refused.kind),
                }
            }
            Ok(())
        })?;
        Ok(answers.array(py))
    }
}
