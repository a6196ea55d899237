//! `Vm`: the dirty log of a slot, and a run of the benchmark over one.

use numpy::PyArray1;
use pyo3::prelude::*;

use super::PyVm;
use crate::python::convert::{LogKindArg, LogModeArg, Number, SizeArg, SlotId};
use crate::python::dirty_log::{self, DirtyLogJob};
use crate::python::{arrays, error, setup};
use crate::sync::Arc;
use crate::vm::workload::LogKind;

#[pymethods]
impl PyVm {
    /// Log the writes to a slot.
    ///
    /// Parameters
    /// ----------
    /// slot : int
    ///     Its id.
    /// mode : str
    ///     ``"auto"``: the slot is protected now, and what `dirty_log` reports is protected again then. ``"manual"``:
    ///     now, and what `clear_dirty_log` clears. ``"initially-set"``: every page counts as dirty at first, only what
    ///     `clear_dirty_log` clears is protected.
    ///
    /// Raises
    /// ------
    /// S2ptError
    ///     There is no such slot, or it is logged already.
    ///
    /// Notes
    /// -----
    /// Any write after the call is in a later harvest; faults map single pages until the log is off. Maintenance:
    /// unless every page counts as dirty at first, one broadcast TLBI a gigabyte.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> _ = vm.access(0x4000_0000, "w")
    /// >>> vm.enable_dirty_log(0, "auto")
    /// >>> _ = vm.access(0x4000_3000, "w")
    /// >>> vm.dirty_log(0)[:2].tolist()
    /// [8, 0]
    #[pyo3(signature = (slot, mode = LogModeArg::INITIALLY_SET), text_signature = "($self, slot, mode='initially-set')")]
    fn enable_dirty_log(&self, py: Python<'_>, slot: SlotId, mode: LogModeArg) -> PyResult<()> {
        self.away(py, || self.vm.enable_dirty_log(slot.0, mode.0))?
            .map_err(|refused| error::vm(py, refused))
    }

    /// Stop logging a slot.
    ///
    /// Parameters
    /// ----------
    /// slot : int
    ///     Its id.
    ///
    /// Raises
    /// ------
    /// S2ptError
    ///     There is no such slot, or it is not logged.
    ///
    /// Notes
    /// -----
    /// Its pages stay as they are; faults merge them to blocks again.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> vm.enable_dirty_log(0)
    /// >>> vm.disable_dirty_log(0)
    /// >>> vm.access(0x4000_3000, "w").level  # a block again
    /// 2
    fn disable_dirty_log(&self, py: Python<'_>, slot: SlotId) -> PyResult<()> {
        self.away(py, || self.vm.disable_dirty_log(slot.0))?
            .map_err(|refused| error::vm(py, refused))
    }

    /// The dirty bitmap of a slot as a numpy array of uint64: bit ``n % 64`` of word ``n // 64`` is page `n`.
    ///
    /// Parameters
    /// ----------
    /// slot : int
    ///     Its id.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray of uint64
    ///     A word for each 64 pages of the slot.
    ///
    /// Raises
    /// ------
    /// S2ptError
    ///     There is no such slot, or it is not logged.
    ///
    /// Notes
    /// -----
    /// In mode ``"auto"`` the bits are cleared and their pages protected: one TLBI over them, before the call returns.
    /// In the other modes it is a copy.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> vm.enable_dirty_log(0, "auto")
    /// >>> _ = vm.access(0x4000_3000, "w")
    /// >>> int(vm.dirty_log(0)[0]), int(vm.dirty_log(0)[0])
    /// (8, 0)
    fn dirty_log<'py>(&self, py: Python<'py>, slot: SlotId) -> PyResult<Bound<'py, PyArray1<u64>>> {
        let words = self
            .away(py, || self.vm.dirty_log(slot.0))?
            .map_err(|refused| error::vm(py, refused))?;
        Ok(PyArray1::from_vec(py, words))
    }

    /// Clear bits of a slot's log and protect their pages, so that the next write shows again.
    ///
    /// Parameters
    /// ----------
    /// slot : int
    ///     Its id.
    /// first_page, pages : int
    ///     Which pages: multiples of 64, or ending with the slot.
    /// bitmap : numpy.ndarray of uint64
    ///     Bit ``n % 64`` of word ``n // 64`` stands for page ``first_page + n``.
    ///
    /// Raises
    /// ------
    /// AlignmentError, OptionError
    ///     The pages do not start and end at words of the log, or the bitmap is too short.
    /// S2ptError
    ///     There is no such slot, or it is not logged.
    ///
    /// Notes
    /// -----
    /// Call it before the pages are copied. Only bits that are set in both are cleared. Maintenance: one broadcast TLBI
    /// over what was protected, before the call returns.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> vm.enable_dirty_log(0, "manual")
    /// >>> _ = vm.access(0x4000_3000, "w")
    /// >>> dirty = vm.dirty_log(0)
    /// >>> vm.clear_dirty_log(0, first_page=0, pages=64, bitmap=dirty[:1])
    /// >>> int(dirty[0]), int(vm.dirty_log(0)[0])
    /// (8, 0)
    fn clear_dirty_log(
        &self,
        py: Python<'_>,
        slot: SlotId,
        first_page: Number,
        pages: Number,
        bitmap: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let bitmap = arrays::elements("bitmap", bitmap)?;
        let done = self.away(py, || self.vm.clear_dirty_log(slot.0, first_page.0, pages.0, &bitmap))?;
        done.map_err(|refused| error::vm(py, refused))
    }

    /// Prepare a dirty-log run on a slot of this VM; `s2pt.Vm.run` is the way to it.
    #[pyo3(signature = (
        *, slot, vcpus, bytes_per_vcpu, iterations, manual_protect, write_percent, random, seed, log, eager_chunk, slots, overlap
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python method")]
    fn _dirty_log_job(
        &self,
        py: Python<'_>,
        slot: SlotId,
        vcpus: Number,
        bytes_per_vcpu: SizeArg,
        iterations: Number,
        manual_protect: bool,
        write_percent: Number,
        random: bool,
        seed: Number,
        log: LogKindArg,
        eager_chunk: SizeArg,
        slots: Number,
        overlap: bool,
    ) -> PyResult<Py<DirtyLogJob>> {
        let load = setup::load(vcpus, bytes_per_vcpu, overlap, slots, seed);
        let run = dirty_log::options(
            load,
            iterations,
            write_percent,
            random,
            (log, manual_protect, eager_chunk),
        );
        self.vm.check(py)?;
        if (log.0 == LogKind::Ring) != self.vm.ring_mode() {
            let message = "a log 'ring' needs a VM with dirty rings (dirty_ring), and such a VM has no other one";
            return Err(error::option(py, message.to_owned()));
        }
        run.validate(&self.vm, slot.0)
            .map_err(|refused| error::workload(py, &refused))?;
        Py::new(py, dirty_log::prepare(Arc::clone(&self.vm), slot.0, run))
    }
}
