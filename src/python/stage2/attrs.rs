//! `Stage2`: what a leaf allows, and whether it was accessed.

use pyo3::prelude::*;

use super::PyStage2;
use crate::python::convert::{IpaArg, ProtArg, SizeArg};
use crate::python::{error, types};

#[pymethods]
impl PyStage2 {
    /// Give every leaf of a range exactly the permissions `prot`; what is not mapped is skipped.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Bytes, a multiple of the page size.
    /// size : int or str
    ///     Bytes, a multiple of the page size, not zero; or a text such as ``"2MiB"``.
    /// prot : Prot
    ///     What each leaf allows afterwards.
    ///
    /// Returns
    /// -------
    /// Changed
    ///     How many leaves were rewritten, and how many bytes of the range are mapped.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     An argument is wrong.
    /// AttributesError
    ///     Execute on device or non-cacheable memory, or half of it without FEAT_XNX.
    /// NotMappedError
    ///     Nothing in the range is mapped.
    /// OutOfFramesError
    ///     Too few frames to split a block of which a part is in the range.
    ///
    /// Notes
    /// -----
    /// Maintenance: one broadcast TLBI for what lost a permission, before the call returns.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.map(0x4000_0000, "4MiB", pa=0x8000_0000)
    /// Mapped(bytes=4MiB, kept=0B)
    /// >>> s2.protect(0x4000_0000, "2MiB", Prot.RX)
    /// Changed(leaves=1, bytes=2MiB)
    fn protect<'py>(&self, py: Python<'py>, ipa: IpaArg, size: SizeArg, prot: ProtArg) -> PyResult<Bound<'py, PyAny>> {
        let done = self.with(py, size.0, |table| table.protect(ipa.0, size.0, prot.0))?;
        types::changed(py, &done.map_err(|refused| error::table(py, refused))?)
    }

    /// Take the write permission from every leaf of a range; what is not mapped is skipped.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Bytes, a multiple of the page size.
    /// size : int or str
    ///     Bytes, a multiple of the page size, not zero; or a text such as ``"2MiB"``.
    ///
    /// Returns
    /// -------
    /// Changed
    ///     How many leaves were rewritten, and how many bytes of the range are mapped.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     An argument is wrong.
    /// OutOfFramesError
    ///     Too few frames to split a block of which a part is in the range.
    ///
    /// Notes
    /// -----
    /// Maintenance: one broadcast TLBI over the range, before the call returns: no CPU writes there any more. With
    /// ``semantics="kvm"`` none: `flush_tlb` is the caller's.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// Mapped(bytes=2MiB, kept=0B)
    /// >>> s2.write_protect(0x4000_0000, 4096)
    /// Changed(leaves=1, bytes=4KiB)
    /// >>> s2.translate(0x4000_0000, "w")
    /// Traceback (most recent call last):
    ///     ...
    /// s2pt.errors.PermissionFault: IPA 0x40000000: the level 3 leaf does not allow write
    fn write_protect<'py>(&self, py: Python<'py>, ipa: IpaArg, size: SizeArg) -> PyResult<Bound<'py, PyAny>> {
        let done = self.with(py, size.0, |table| table.write_protect(ipa.0, size.0))?;
        types::changed(py, &done.map_err(|refused| error::table(py, refused))?)
    }

    /// Add the permissions `prot` to every leaf of a range; nothing is taken away, what is not mapped is skipped.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Bytes, a multiple of the page size.
    /// size : int or str
    ///     Bytes, a multiple of the page size, not zero; or a text such as ``"2MiB"``.
    /// prot : Prot
    ///     What each leaf allows besides.
    ///
    /// Returns
    /// -------
    /// Changed
    ///     How many leaves were rewritten, and how many bytes of the range are mapped.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     An argument is wrong.
    /// AttributesError
    ///     Execute on device or non-cacheable memory, or half of it without FEAT_XNX.
    /// NotMappedError
    ///     Nothing in the range is mapped.
    /// OutOfFramesError
    ///     Too few frames to split a block of which a part is in the range.
    ///
    /// Notes
    /// -----
    /// Maintenance: a TLBI on the calling core only; another core that still has the old entry faults once more.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> _ = s2.write_protect(0x4000_0000, "2MiB")
    /// >>> s2.relax(0x4000_0000, 4096, Prot.W)  # one page of the block
    /// Changed(leaves=1, bytes=4KiB)
    /// >>> s2[0x4000_0000].prot, s2[0x4000_1000].prot
    /// (Prot.RW, Prot.R)
    fn relax<'py>(&self, py: Python<'py>, ipa: IpaArg, size: SizeArg, prot: ProtArg) -> PyResult<Bound<'py, PyAny>> {
        let done = self.with(py, size.0, |table| table.relax(ipa.0, size.0, prot.0))?;
        types::changed(py, &done.map_err(|refused| error::table(py, refused))?)
    }

    /// Set the access flag of every leaf of which a part is in the range.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Bytes, a multiple of the page size.
    /// size : int or str
    ///     Bytes, a multiple of the page size, not zero; or a text such as ``"2MiB"``.
    ///
    /// Returns
    /// -------
    /// Changed
    ///     How many leaves were rewritten, and how many bytes of the range are mapped.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     An argument is wrong.
    /// NotMappedError
    ///     Nothing in the range is mapped.
    ///
    /// Notes
    /// -----
    /// Maintenance: none, since an entry without the flag is never cached.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> _ = s2.test_and_clear_young(0x4000_0000, "2MiB")
    /// >>> s2.mark_young(0x4000_0000, 4096)  # the whole block is young
    /// Changed(leaves=1, bytes=4KiB)
    fn mark_young<'py>(&self, py: Python<'py>, ipa: IpaArg, size: SizeArg) -> PyResult<Bound<'py, PyAny>> {
        let done = self.with(py, size.0, |table| table.mark_young(ipa.0, size.0))?;
        types::changed(py, &done.map_err(|refused| error::table(py, refused))?)
    }

    /// Whether a leaf of which a part is in the range has its access flag set.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Bytes, a multiple of the page size.
    /// size : int or str
    ///     Bytes, a multiple of the page size, not zero; or a text such as ``"2MiB"``.
    ///
    /// Returns
    /// -------
    /// bool
    ///     Holes are not young.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     An argument is wrong.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> s2.test_young(0x4000_0000, 4096), s2.test_young(0x5000_0000, 4096)
    /// (True, False)
    fn test_young(&self, py: Python<'_>, ipa: IpaArg, size: SizeArg) -> PyResult<bool> {
        let young = self.with(py, size.0, |table| table.test_young(ipa.0, size.0))?;
        young.map_err(|refused| error::table(py, refused))
    }

    /// Answer as `test_young`, and clear the flag of every such leaf.
    ///
    /// Parameters
    /// ----------
    /// ipa, size : int
    ///     Bytes, multiples of the page size.
    /// flush : bool
    ///     Whether to invalidate the TLBs too, so that the next access sets the flag again. Without it the flag can stay
    ///     clear as long as a TLB has the entry, as in KVM's ``kvm_test_age_gfn``.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     An argument is wrong.
    ///
    /// Notes
    /// -----
    /// Maintenance: none, or with `flush` one broadcast TLBI, before the call returns.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// Mapped(bytes=2MiB, kept=0B)
    /// >>> s2.test_and_clear_young(0x4000_0000, "2MiB"), s2.test_young(0x4000_0000, "2MiB")
    /// (True, False)
    #[pyo3(signature = (ipa, size, flush = false))]
    fn test_and_clear_young(&self, py: Python<'_>, ipa: IpaArg, size: SizeArg, flush: bool) -> PyResult<bool> {
        let young = self.with(py, size.0, |table| table.test_and_clear_young(ipa.0, size.0, flush))?;
        young.map_err(|refused| error::table(py, refused))
    }
}
