//! KVM's other tests as jobs: each on a VM of its own, which the `Setup` describes.

use core::time::Duration;

use pyo3::prelude::*;

use super::convert::{CostArg, Number, SlotTestArg, SupplyArg};
use super::error;
use super::job::Job;
use super::run::prepare;
use super::setup::{SLOT, Setup};
use crate::vm::workload::{AccessTracking, DemandPaging, Memslots, PageTable};

/// A run on a VM, over the slots from one on if it does not make its own, as a job; unless it is refused.
macro_rules! job {
    ($py:ident, $vm:ident, $run:ident $(, $slot:ident)?) => {{
        let refused = |refused| error::workload($py, &refused);
        $run.validate(&**$vm $(, $slot)?).map_err(refused)?;
        let job = prepare($vm, move |vm, control| $run.run(vm $(, $slot)?, control));
        Ok(job.of_kind(Self))
    }};
}

/// KVM's access_tracking_perf_test: pages marked idle, and what the next access costs.
#[pyclass(module = "s2pt._core", frozen, extends = Job)]
pub struct AccessTrackingJob;

#[pymethods]
impl AccessTrackingJob {
    /// Prepare a run on a VM of its own; nothing runs yet.
    #[new]
    #[pyo3(signature = (setup, *, hardware_af))]
    fn new(py: Python<'_>, setup: &Bound<'_, Setup>, hardware_af: bool) -> PyResult<PyClassInitializer<Self>> {
        let setup = setup.get();
        let run = AccessTracking { load: setup.load };
        let vm = setup.open(py, |vm_options| vm_options.ha = hardware_af)?;
        job!(py, vm, run, SLOT)
    }
}

/// KVM's kvm_page_table_test: blocks made, broken up under logging, and made again.
#[pyclass(module = "s2pt._core", frozen, extends = Job)]
pub struct PageTableJob;

#[pymethods]
impl PageTableJob {
    /// Prepare a run on a VM of its own; nothing runs yet.
    #[new]
    fn new(py: Python<'_>, setup: &Bound<'_, Setup>) -> PyResult<PyClassInitializer<Self>> {
        let setup = setup.get();
        let run = PageTable { load: setup.load };
        let vm = setup.open(py, |_| {})?;
        job!(py, vm, run, SLOT)
    }
}

/// KVM's demand_paging_test: memory that comes page by page.
#[pyclass(module = "s2pt._core", frozen, extends = Job)]
pub struct DemandPagingJob;

#[pymethods]
impl DemandPagingJob {
    /// Prepare a run on a VM of its own; nothing runs yet.
    #[new]
    #[pyo3(signature = (setup, *, supply, one_queue, readers, delay))]
    fn new(
        py: Python<'_>,
        setup: &Bound<'_, Setup>,
        supply: SupplyArg,
        one_queue: bool,
        readers: Number,
        delay: CostArg,
    ) -> PyResult<PyClassInitializer<Self>> {
        let setup = setup.get();
        let run = DemandPaging {
            load: setup.load,
            supply: supply.0,
            one_queue,
            readers: u32::try_from(readers.0).unwrap_or(u32::MAX),
            delay: delay.0,
        };
        let vm = setup.open(py, |_| {})?;
        job!(py, vm, run, SLOT)
    }
}

/// KVM's memslot_perf_test: slots and memory that come and go under a guest.
#[pyclass(module = "s2pt._core", frozen, extends = Job)]
pub struct MemslotsJob;

#[pymethods]
impl MemslotsJob {
    /// Prepare a run on a VM of its own; nothing runs yet.
    #[new]
    #[pyo3(signature = (setup, *, test, time_ns, iterations))]
    fn new(
        py: Python<'_>,
        setup: &Bound<'_, Setup>,
        test: SlotTestArg,
        time_ns: Number,
        iterations: Option<Number>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let setup = setup.get();
        let run = Memslots {
            load: setup.load,
            test: test.0,
            time: Duration::from_nanos(time_ns.0),
            iterations: iterations.map(|iterations| iterations.0),
        };
        // A slot that is moved has as much room behind the memory, from a gigabyte on.
        let (vm, _) = setup.open_empty(py, |vm_options| {
            let end = vm_options.memory.saturating_mul(2).saturating_add(4 << 30);
            let bits = 64 - end.leading_zeros();
            vm_options.geometry.ipa_bits = bits.clamp(40, 48) as u8;
        })?;
        job!(py, vm, run)
    }
}
