//! `Stage2`: maintenance, asked for and looked back at.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::PyStage2;
use crate::python::convert::{IpaArg, SizeArg};
use crate::python::sink::Watch;
use crate::python::{error, events, exit};

#[pymethods]
impl PyStage2 {
    /// Clean and invalidate the data caches for everything cacheable that a range maps; return the number of bytes.
    ///
    /// With FEAT_S2FWB nothing is due, and the result is 0. With ``semantics="kvm"`` blocks count whole.
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
    ///
    /// Notes
    /// -----
    /// Maintenance: one cache operation for each leaf.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2(sink="counting")
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> _ = s2.map(0x4020_0000, 4096, pa=0x1000, memtype="device-nGnRE")
    /// >>> before = s2.counts()["cache_data"]
    /// >>> s2.flush_cache(0x4000_0000, "4MiB")
    /// 2097152
    /// >>> s2.counts()["cache_data"] - before
    /// 1
    fn flush_cache(&self, py: Python<'_>, ipa: IpaArg, size: SizeArg) -> PyResult<u64> {
        let done = self.with(py, size.0, |table| table.flush_cache(ipa.0, size.0))?;
        done.map_err(|refused| error::table(py, refused))
    }

    /// Make every CPU forget what it has cached of a range: one range TLBI, or one of the whole VMID where the CPU has none.
    ///
    /// Calls invalidate by themselves what they must; only `write_protect` with ``semantics="kvm"`` leaves it to its caller.
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
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2(semantics="kvm", sink="counting")
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> _ = s2.write_protect(0x4000_0000, "2MiB")
    /// >>> s2.counts()["tlbi_range"]
    /// 0
    /// >>> s2.flush_tlb(0x4000_0000, "2MiB")
    /// >>> s2.counts()["tlbi_range"]
    /// 1
    fn flush_tlb(&self, py: Python<'_>, ipa: IpaArg, size: SizeArg) -> PyResult<()> {
        let done = self.with(py, size.0, |table| table.flush_tlb(ipa.0, size.0))?;
        done.map_err(|refused| error::table(py, refused))
    }

    /// How much maintenance the operations have asked for so far, by kind.
    ///
    /// Returns
    /// -------
    /// dict of str to int
    ///     Numbers of stores to entries, TLBIs of each kind, barriers, cache operations, frames.
    ///
    /// Raises
    /// ------
    /// S2ptError
    ///     The table was not made with ``sink="counting"``.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2(sink="counting")
    /// >>> s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// Mapped(bytes=2MiB, kept=0B)
    /// >>> before = s2.counts()["tlbi_ipa"]
    /// >>> s2.unmap(0x4000_0000, "2MiB")
    /// 2097152
    /// >>> before, s2.counts()["tlbi_ipa"]
    /// (0, 1)
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        match self.table(py)?.tlb().watch() {
            Watch::Counting(counting) => events::counts(py, &counting.counts()),
            _ => Err(error::base(
                py,
                String::from("nothing was counted: the table needs sink=\"counting\""),
            )),
        }
    }

    /// Take what was recorded since the last call: every store, TLBI, barrier, cache operation and frame, in order.
    ///
    /// The last 65536 events of each thread are kept.
    ///
    /// Returns
    /// -------
    /// list of s2pt.events.Event
    ///
    /// Raises
    /// ------
    /// S2ptError
    ///     The table was not made with ``sink="recording"``.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2(sink="recording")
    /// >>> s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// Mapped(bytes=2MiB, kept=0B)
    /// >>> _ = s2.events()
    /// >>> s2.write_protect(0x4000_0000, "2MiB")
    /// Changed(leaves=1, bytes=2MiB)
    /// >>> [event.kind for event in s2.events()]
    /// ['store', 'dsb', 'tlbi_ipa', 'dsb', 'tlbi_stage1', 'dsb', 'isb', 'return']
    fn events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let table = self.table(py)?;
        match table.tlb().watch() {
            Watch::Recording(recording) => events::list(py, exit::detach(py, || recording.take())),
            _ => Err(error::base(
                py,
                String::from("nothing was recorded: the table needs sink=\"recording\""),
            )),
        }
    }

    /// Take what was recorded since the last call as an object that can be checked, saved, and written for casemate.
    ///
    /// The same steps as `events` gives, and what one has to know of the table to read them. The last 65536 events of each
    /// thread are kept; a recording that lost some cannot be checked.
    ///
    /// Returns
    /// -------
    /// s2pt.recording.Recording
    ///
    /// Raises
    /// ------
    /// S2ptError
    ///     The table was not made with ``sink="recording"``.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2(sink="recording")
    /// >>> s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// Mapped(bytes=2MiB, kept=0B)
    /// >>> s2.unmap(0x4000_0000, 4096)
    /// 4096
    /// >>> report = s2.trace().check()
    /// >>> report.ok, report["I2"].checked > 0
    /// (True, True)
    fn trace<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let table = self.table(py)?;
        match table.tlb().watch() {
            Watch::Recording(recording) => events::recording(py, &table, recording),
            _ => Err(error::base(
                py,
                String::from("nothing was recorded: the table needs sink=\"recording\""),
            )),
        }
    }
}
