//! The Python extension module `s2pt._core`: parse, detach, call, convert. It holds no logic of its own.
//!
//! Everything of PyO3 is in this folder. Arguments become plain values in `convert.rs`, results the dataclasses of
//! `s2pt/types.py` in `types.rs`, errors the exceptions of `s2pt/errors.py` in `error.rs`.
//!
//! A class and what can be called on it are a file and a folder: `stage2`, `vm`, `machine`, `image`. Long runs are jobs
//! (`job.rs`), a file for each kind. What stands between a call and the core: `exit.rs` (away from the interpreter and
//! back), `open.rs` (who is inside of a table), `hook.rs` (a sink's function), `fork.rs`, `signals.rs`.

mod answers;
mod arch;
mod arrays;
mod bench;
mod convert;
mod diff;
mod dirty_log;
mod error;
mod events;
mod exit;
mod explain;
mod fork;
mod history;
mod hook;
mod image;
mod job;
mod leaves;
mod machine;
mod migrate;
mod open;
mod ptdump;
mod replay;
mod report;
mod results;
mod run;
mod setup;
mod signals;
mod sink;
mod stage2;
mod types;
mod vm;
mod workloads;

/// What Python without a GIL asks of a class: calls of several threads share the object and none borrows it alone, so no
/// call is refused because another is under way. `get` compiles for frozen classes that are `Sync`, and no others.
#[expect(dead_code, reason = "compiling is all that it is for")]
fn shared_by_all_threads() {
    macro_rules! shared {
        ($($class:ty),* $(,)?) => {$(
            let _ = |object: &pyo3::Bound<'_, $class>| { object.get(); };
        )*};
    }
    shared!(stage2::PyStage2, stage2::LeafIterator, vm::PyVm);
    shared!(machine::PyMachine, machine::PyCpu);
    shared!(image::PyImage, image::ImageLeaves, ptdump::PyPtdump);
    shared!(
        job::Job,
        setup::Setup,
        workloads::AccessTrackingJob,
        workloads::DemandPagingJob,
        workloads::MemslotsJob,
        workloads::PageTableJob,
        dirty_log::DirtyLogJob,
        migrate::MigrateJob,
        replay::ReplayJob,
        bench::BenchJob
    );
    shared!(
        results::Mapping,
        results::Translation,
        results::Mapped,
        results::Changed,
        results::Entry
    );
}

/// The private extension module behind the package `s2pt`.
#[pyo3::pymodule(gil_used = false)]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::answers::read_syndromes;
    #[pymodule_export]
    use super::arch::{explain_entry, explain_esr, explain_vtcr, explain_vttbr};
    #[pymodule_export]
    use super::bench::BenchJob;
    #[pymodule_export]
    use super::dirty_log::DirtyLogJob;
    #[pymodule_export]
    use super::image::{ImageLeaves, PyImage};
    #[pymodule_export]
    use super::job::Job;
    #[pymodule_export]
    use super::machine::{PyCpu, PyMachine};
    #[pymodule_export]
    use super::migrate::MigrateJob;
    #[pymodule_export]
    use super::ptdump::PyPtdump;
    #[pymodule_export]
    use super::replay::ReplayJob;
    #[pymodule_export]
    use super::results::{Changed, Entry, Mapped, Mapping, Translation};
    #[pymodule_export]
    use super::setup::Setup;
    #[pymodule_export]
    use super::stage2::{LeafIterator, PyStage2};
    #[pymodule_export]
    use super::vm::PyVm;
    #[pymodule_export]
    use super::workloads::{AccessTrackingJob, DemandPagingJob, MemslotsJob, PageTableJob};

    /// Names of the faults that this build can be told to have, each with what is wrong.
    #[cfg(s2pt_faults)]
    #[pyfunction]
    fn seeded_faults() -> Vec<(&'static str, &'static str)> {
        crate::faults::Seeded::NAMES.to_vec()
    }

    /// Imports what calls need later, so that a broken installation fails at import.
    #[pymodule_init]
    fn initialise(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        py.import("numpy")?;
        super::error::initialise(py)?;
        super::fork::watch(py)?;
        super::exit::watch(py)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("LEAF_DTYPE", super::leaves::dtype(py)?)
    }
}
