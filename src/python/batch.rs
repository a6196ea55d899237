//! `Stage2`: calls on whole numpy arrays.
//!
//! Everything about the arguments is checked before the first element is worked on.

use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::answers::code;
use super::arrays;
use super::change::{attrs, options};
use super::convert::{AccessArg, ExistingArg, LevelArg, MemTypeArg, ProtArg, SizeArg, SoftwareArg};
use super::sink::Sink;
use super::stage2::PyStage2;
use super::{error, types};
use crate::arch::{Fault, Ipa, Level, Pa};
use crate::memory::Arena;
use crate::table::{Error, Existing, Handle, Mapped};

/// Elements worked on between two looks for Ctrl-C.
const BETWEEN_SIGNALS: usize = 1 << 16;

/// Elements worked on in one stay, during which no retired frame is freed.
const BETWEEN_REPINS: usize = 256;

/// The elements of a one-dimensional uint64 array, copied.
fn elements(what: &str, obj: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
    arrays::words(what, obj, 1).map(|(elements, _)| elements)
}

/// An error of one element, with the element's index on the exception.
fn at_element(py: Python<'_>, (index, refused): (usize, Error)) -> PyErr {
    error::with_index(py, error::table(py, refused), index)
}

/// Refuses what `map` would refuse of the addresses before it looks at the table.
fn check_spans(table: &Handle<'_, Arena, Sink>, ipa: &[u64], size: u64, pa: &[u64]) -> Result<(), (usize, Error)> {
    let limit = table.config().geometry.pa_limit();
    for (index, (&ipa, &pa)) in ipa.iter().zip(pa).enumerate() {
        let checked = table.check_range(Ipa::new(ipa), size).map(drop);
        let checked = checked.and_then(|()| table.check_span("pa", pa, size, limit));
        checked.map_err(|refused| (index, refused))?;
    }
    Ok(())
}

impl PyStage2 {
    /// Runs `each` for every index below `count`, detached, looking for Ctrl-C now and then; stops at the first error.
    fn each(
        &self,
        py: Python<'_>,
        count: usize,
        mut each: impl FnMut(&Handle<'_, Arena, Sink>, usize) -> Result<(), Error> + Send,
    ) -> PyResult<()> {
        // Also for an empty array: is it open?
        self.table(py)?;
        let mut start = 0;
        while start < count {
            let end = count.min(start + BETWEEN_SIGNALS);
            let work = &mut each;
            let done = self.detached(py, move |table| {
                let mut stay = table.stay();
                (start..end).try_for_each(|index| {
                    if index % BETWEEN_REPINS == 0 {
                        stay.repin();
                    }
                    work(table, index).map_err(|refused| (index, refused))
                })
            })?;
            done.map_err(|refused| at_element(py, refused))?;
            start = end;
            py.check_signals()?;
        }
        Ok(())
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
    /// Releases the GIL. One epoch registration for the whole array; a range costs what `map` costs in Rust.
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
        let mut sum = Mapped::default();
        self.each(py, ipa.len(), |table, index| {
            match table.map(Ipa::new(ipa[index]), size, Pa::new(pa[index]), &attrs, options) {
                Ok(done) => {
                    sum.bytes += done.bytes;
                    sum.kept += done.kept;
                }
                Err(Error::Again { .. }) if options.existing == Existing::Keep => sum.kept += size,
                Err(refused) => return Err(refused),
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
    #[pyo3(signature = (ipa, size = None))]
    fn unmap_many(&self, py: Python<'_>, ipa: &Bound<'_, PyAny>, size: Option<SizeArg>) -> PyResult<u64> {
        let ipa = elements("ipa", ipa)?;
        let size = self.element_size(py, size)?;
        let checked = self.detached(py, |table| {
            for (index, &ipa) in ipa.iter().enumerate() {
                table
                    .check_range(Ipa::new(ipa), size)
                    .map_err(|refused| (index, refused))?;
            }
            Ok(())
        })?;
        checked.map_err(|refused| at_element(py, refused))?;
        let mut sum = 0;
        self.each(py, ipa.len(), |table, index| {
            sum += table.unmap(Ipa::new(ipa[index]), size)?;
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
        let (mut pas, mut levels, mut faults) = (vec![0; ipa.len()], vec![0; ipa.len()], vec![0; ipa.len()]);
        self.each(py, ipa.len(), |table, index| {
            match table.translate(Ipa::new(ipa[index]), access.0) {
                Ok(hit) => (pas[index], levels[index]) = (hit.pa.get(), hit.level.get()),
                Err(Fault { kind, level, .. }) => (levels[index], faults[index]) = (level.get(), code(kind)),
            }
            Ok(())
        })?;
        Ok((
            PyArray1::from_vec(py, pas),
            PyArray1::from_vec(py, levels),
            PyArray1::from_vec(py, faults),
        ))
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
        let mut faults = vec![0; ipa.len()];
        self.each(py, ipa.len(), |table, index| {
            let page = table.config().geometry.size(Level::L3);
            let here = Ipa::new(ipa[index]);
            match table.translate(here, access.0) {
                Ok(hit) if hit.attrs.af => {}
                Ok(_) => match table.mark_young(here.align_down(page), page) {
                    // Unmapped by a peer since: the access came first.
                    Ok(_) | Err(Error::NotMapped { .. }) => {}
                    Err(refused) => return Err(refused),
                },
                Err(fault) => faults[index] = code(fault.kind),
            }
            Ok(())
        })?;
        Ok(PyArray1::from_vec(py, faults))
    }
}
