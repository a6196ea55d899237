//! `Stage2`: the frames of its tables, from the arena and back.

use pyo3::prelude::*;

use super::PyStage2;
use crate::arch::{Geometry, Pa};
use crate::memory::{ArenaOptions, TableMemory};
use crate::python::convert::Number;
use crate::python::{error, hook, types};

/// Most table frames of one Python table, where the PA space has room for as many.
const MOST_FRAMES: u64 = 1 << 20;

/// Where table frames start, where the PA space is large enough.
const FIRST_FRAME: u64 = 1 << 32;

/// Table memory in the lower three quarters of the PA space.
pub fn room(geometry: &Geometry, quota: Option<u64>) -> ArenaOptions {
    let granule = geometry.granule();
    let quarter = geometry.pa_limit() / 4;
    ArenaOptions {
        base: Pa::new(FIRST_FRAME.min(quarter)),
        granule,
        // The arena reserves twice as much: at most half of the PA space.
        capacity_frames: MOST_FRAMES.min(quarter / granule.size()) as usize,
        quota: quota.map(|frames| usize::try_from(frames).unwrap_or(usize::MAX)),
    }
}

#[pymethods]
impl PyStage2 {
    /// Table frames that are not free: those of the table, its root included, and those unlinked whose grace period runs.
    ///
    /// After `drain` the table has no others.
    #[getter]
    fn frames_in_use(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.table(py)?.memory().frames_in_use())
    }

    /// What became of the frames of unlinked tables, since the table was made: a `s2pt.types.ReclaimStats`.
    ///
    /// A frame is free when every call that may still stand in it has ended. Who unlinks more than `pending_limit` waits for
    /// that; a call that gets no frames collects what is pending before it raises OutOfFramesError.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2(pending_limit=0)
    /// >>> _ = s2.map(0x1000, 4096, pa=0x1000)
    /// >>> _ = s2.unmap(0x1000, 4096)
    /// >>> s2.reclaim
    /// ReclaimStats(retired=2, freed=2, pending=0, peak=2, overruns=0)
    #[getter]
    fn reclaim<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        types::reclaim(py, &self.table(py)?.reclaim_stats())
    }

    /// Count table frames and leaves by level, and the bytes mapped. Reads every entry of the table once.
    ///
    /// Returns
    /// -------
    /// s2pt.types.Stats
    ///     Beside writers each number is of some moment during the count.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> s2.stats().leaves, s2.stats().mapped_bytes
    /// ({1: 0, 2: 1, 3: 0}, 2097152)
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (shape, census) = self.detached(py, |table| (table.config().geometry, table.stats()))?;
        types::stats(py, &shape, &census)
    }

    /// Wait until every frame that was unlinked is free.
    ///
    /// Waits for the calls of other threads that were under way, at most.
    ///
    /// Raises
    /// ------
    /// S2ptError
    ///     In a function that was given as `sink`: it would wait for the very call that the function is told of.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> _ = s2.unmap(0x4000_0000, "2MiB")
    /// >>> s2.drain()
    /// >>> s2.frames_in_use  # the root
    /// 2
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        // The frees that it would wait for come after the call that the function is told of.
        if hook::inside() {
            let message = "drain waits for the very call that the sink is told of: call it elsewhere";
            return Err(error::base(py, message.into()));
        }
        self.detached(py, |table| table.drain())
    }

    /// Refuse, once, the operation that asks for the `k`-th frame from now on, counting from 0: for tests.
    ///
    /// The operation raises OutOfFramesError and changes nothing. (If unlinked frames are pending it collects them and asks
    /// again, and gets them then: `drain` before, if that must not be.)
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> s2.fail_allocation(1)
    /// >>> s2.map(0x1000, 4096, pa=0x1000)
    /// Traceback (most recent call last):
    ///     ...
    /// s2pt.errors.OutOfFramesError: the operation needs 2 table frames and 1 are available
    /// >>> s2.stats().mapped_bytes
    /// 0
    /// >>> s2.map(0x1000, 4096, pa=0x1000)
    /// Mapped(bytes=4KiB, kept=0B)
    fn fail_allocation(&self, py: Python<'_>, k: Number) -> PyResult<()> {
        self.table(py)?
            .memory()
            .fail_allocation(usize::try_from(k.0).unwrap_or(usize::MAX));
        Ok(())
    }
}
