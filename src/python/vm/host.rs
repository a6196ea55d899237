//! `Vm`: what the host does with its memory: slots, taking back, ageing, protecting and splitting ahead.

use pyo3::prelude::*;

use super::PyVm;
use crate::python::convert::{IpaArg, Number, PaArg, SizeArg, SlotId};
use crate::python::{error, types};
use crate::vm::{PaSource, Slot};

#[pymethods]
impl PyVm {
    /// Add a memory slot. Nothing is mapped by that; faults will.
    ///
    /// Parameters
    /// ----------
    /// id : int
    ///     What the other calls name it by.
    /// ipa, size, pa : int
    ///     Where it starts in the guest, its bytes, where it starts in host memory; multiples of the page size.
    /// host : int, optional
    ///     Its address in the host process: blocks need it congruent to `ipa`. By default `pa`.
    /// readonly : bool
    ///     Whether a write is left to the device model.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     An argument is wrong.
    /// ConflictError
    ///     It overlaps another slot.
    /// S2ptError
    ///     A slot with this id exists already.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> vm.add_slot(1, 0x1_0000_0000, "2MiB", pa=0x8000_0000, readonly=True)
    /// >>> vm.slots
    /// (Slot(0, ipa=0x40000000, size=64MiB, pa=0x40000000), Slot(1, ipa=0x100000000, size=2MiB, pa=0x80000000, readonly))
    #[pyo3(signature = (id, ipa, size, pa, *, host = None, readonly = false))]
    #[expect(clippy::too_many_arguments, reason = "arguments of a Python method")]
    fn add_slot(
        &self,
        py: Python<'_>,
        id: SlotId,
        ipa: IpaArg,
        size: SizeArg,
        pa: PaArg,
        host: Option<Number>,
        readonly: bool,
    ) -> PyResult<()> {
        let slot = Slot {
            host: host.map_or(pa.0.get(), |host| host.0),
            readonly,
            ..Slot::linear(id.0, ipa.0, size.0, pa.0)
        };
        self.away(py, || self.vm.create_slot(slot))?
            .map_err(|refused| error::vm(py, refused))
    }

    /// Remove a slot: when this returns, nothing of it is mapped and no fault can map any of it.
    ///
    /// Parameters
    /// ----------
    /// id : int
    ///     Its id.
    ///
    /// Raises
    /// ------
    /// S2ptError
    ///     There is no such slot.
    ///
    /// Notes
    /// -----
    /// Maintenance: the TLBIs of an unmap, before the call returns.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> _ = vm.access(0x4000_0000, "w")
    /// >>> vm.remove_slot(0)
    /// >>> vm.slots, vm.stats().mapped_bytes
    /// ((), 0)
    fn remove_slot(&self, py: Python<'_>, id: SlotId) -> PyResult<()> {
        self.away(py, || self.vm.delete_slot(id.0))?
            .map(drop)
            .map_err(|refused| error::vm(py, refused))
    }

    /// Move a slot to another guest address; its memory stays what it is. In between it is absent.
    ///
    /// Parameters
    /// ----------
    /// id : int
    ///     Its id.
    /// ipa : int
    ///     Where it starts in the guest from now on, a multiple of the page size.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     The address is wrong.
    /// ConflictError
    ///     It would overlap another slot.
    /// S2ptError
    ///     There is no such slot.
    ///
    /// Notes
    /// -----
    /// After an exception it is where it was. Maintenance: the TLBIs of an unmap, before the call returns.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> vm.move_slot(0, 0x1_0000_0000)
    /// >>> hex(vm.access(0x1_0000_1000).pa)
    /// '0x40001000'
    fn move_slot(&self, py: Python<'_>, id: SlotId, ipa: IpaArg) -> PyResult<()> {
        self.away(py, || self.vm.move_slot(id.0, ipa.0))?
            .map_err(|refused| error::vm(py, refused))
    }

    /// The slots as tuples of id, ipa, size, pa (None unless linear), host, readonly; ascending by `ipa`.
    #[expect(clippy::type_complexity, reason = "the fields of a slot")]
    fn _slots(&self, py: Python<'_>) -> PyResult<Vec<(u32, u64, u64, Option<u64>, u64, bool)>> {
        self.vm.check(py)?;
        let row = |slot: Slot| {
            let pa = match slot.source {
                PaSource::Linear(pa) => Some(pa.get()),
                PaSource::Supplied => None,
            };
            (slot.id, slot.ipa.get(), slot.size, pa, slot.host, slot.readonly)
        };
        Ok(self.vm.slots().into_iter().map(row).collect())
    }

    /// Take a range back for the host: nothing of it is mapped any more, faults under way retry.
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
    /// tuple of int and bool
    ///     Bytes that were mapped, and whether whole blocks went for want of frames to split them.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     An argument is wrong.
    ///
    /// Notes
    /// -----
    /// Exactly the range is unmapped, but where no frame is left to keep the rest of a block. A fault that comes after
    /// it maps what the slot has there. Maintenance: the TLBIs of an unmap, before the call returns.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> _ = vm.access(0x4000_0000, "w")  # maps a block
    /// >>> vm.take_back(0x4000_0000, "8KiB")
    /// (8192, False)
    fn take_back(&self, py: Python<'_>, ipa: IpaArg, size: SizeArg) -> PyResult<(u64, bool)> {
        let taken = self.away(py, || self.vm.take_back(ipa.0, size.0))?;
        taken
            .map(|taken| (taken.bytes, taken.widened))
            .map_err(|refused| error::vm(py, refused))
    }

    /// Whether anything in the range was accessed since its flags were cleared; clear them if asked to.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Bytes, a multiple of the page size.
    /// size : int or str
    ///     Bytes, a multiple of the page size, not zero; or a text such as ``"2MiB"``.
    /// clear : bool
    ///     Whether to clear the flags, and to invalidate the TLBs so that the next access shows.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     An argument is wrong.
    ///
    /// Notes
    /// -----
    /// Works on whole leaves and splits none. Maintenance: one broadcast TLBI over what was cleared, before the call
    /// returns.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> _ = vm.access(0x4000_0000)
    /// >>> vm.age(0x4000_0000, "64MiB"), vm.age(0x4000_0000, "64MiB")
    /// (True, False)
    #[pyo3(signature = (ipa, size, clear = true))]
    fn age(&self, py: Python<'_>, ipa: IpaArg, size: SizeArg, clear: bool) -> PyResult<bool> {
        self.briefly(py, size.0, |vcpu| self.vm.age_by(vcpu.handle(), ipa.0, size.0, clear))?
            .map_err(|refused| error::vm(py, refused))
    }

    /// Take the right to write from every leaf of which a part is in the range, whole; none is split.
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
    ///
    /// Notes
    /// -----
    /// Nothing is marked as dirty by that. Maintenance: one broadcast TLBI, before the call returns.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> _ = vm.access(0x4000_0000, "w")
    /// >>> vm.write_protect(0x4000_0000, 4096)
    /// Changed(leaves=1, bytes=4KiB)
    fn write_protect<'py>(&self, py: Python<'py>, ipa: IpaArg, size: SizeArg) -> PyResult<Bound<'py, PyAny>> {
        let changed = self.briefly(py, size.0, |vcpu| {
            self.vm.write_protect_by(vcpu.handle(), ipa.0, size.0)
        })?;
        types::changed(py, &changed.map_err(|refused| error::vm(py, refused))?)
    }

    /// Split every block in the range to pages ahead of the writes that would; return how many were split.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Bytes, a multiple of the page size.
    /// size : int or str
    ///     Bytes, a multiple of the page size, not zero; or a text such as ``"2MiB"``.
    ///
    /// Raises
    /// ------
    /// AlignmentError, AddressError
    ///     An argument is wrong.
    /// OutOfFramesError
    ///     Too few frames for the tables; what lies gigabytes before is split then.
    ///
    /// Notes
    /// -----
    /// Maintenance: break-before-make with one broadcast TLBI for each block.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> _ = vm.access(0x4000_0000, "w")
    /// >>> vm.split(0x4000_0000, "64MiB")
    /// 1
    fn split(&self, py: Python<'_>, ipa: IpaArg, size: SizeArg) -> PyResult<u64> {
        self.away(py, || self.vm.split(ipa.0, size.0))?
            .map_err(|refused| error::vm(py, refused))
    }
}
