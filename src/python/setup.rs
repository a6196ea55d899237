//! What experiments on a VM of their own have in common: the vCPUs, their memory, the VM, what its steps cost.

use pyo3::prelude::*;

use super::convert::{BackingArg, CostsArg, Number, PolicyArg, SemanticsArg, SizeArg};
use super::error;
use super::open::OpenVm;
use super::sink::{Sink, Watch};
use crate::arch::{GeometryOptions, Ipa, Pa};
use crate::sync::Arc;
use crate::table::Stall;
use crate::vm::workload::Load;
use crate::vm::{Costs, Slot, VmOptions};

/// Where the guest's memory starts, in its own space and in the host's.
const BASE: u64 = 1 << 30;

/// The granule of a VM made here.
const PAGE: u64 = 4096;

/// The first slot.
pub const SLOT: u32 = 0;

/// What experiments on a VM of their own have in common.
#[pyclass(module = "s2pt._core", frozen)]
pub struct Setup {
    pub load: Load,
    vm_options: VmOptions,
    stall: Stall,
}

#[pymethods]
impl Setup {
    #[new]
    #[pyo3(signature = (
        *, vcpus, bytes_per_vcpu, backing, policy, overlap = false, slots = Number(1),
        semantics = SemanticsArg::EXACT, costs = None
    ), text_signature = "(*, vcpus, bytes_per_vcpu, backing, policy, overlap=False, slots=1, semantics='exact', \
        costs=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python constructor")]
    fn new(
        vcpus: Number,
        bytes_per_vcpu: SizeArg,
        backing: BackingArg,
        policy: PolicyArg,
        overlap: bool,
        slots: Number,
        semantics: SemanticsArg,
        costs: Option<CostsArg>,
    ) -> Self {
        let load = load(vcpus, bytes_per_vcpu, overlap, slots, Number(1)); // nothing is random
        let costs = costs.map_or_else(Costs::default, |costs| costs.0);
        Self::of(load, backing, policy, semantics, costs)
    }
}

impl Setup {
    /// What the arguments say.
    pub fn of(load: Load, backing: BackingArg, policy: PolicyArg, semantics: SemanticsArg, costs: Costs) -> Self {
        Self {
            load,
            vm_options: VmOptions {
                policy: policy.0,
                backing: backing.0,
                semantics: semantics.0,
                exit_cost: costs.exit,
                ..VmOptions::default()
            },
            stall: costs.stall(),
        }
    }
}

/// The load that the arguments say; numbers beyond their type are left for the run to refuse.
pub fn load(vcpus: Number, bytes_per_vcpu: SizeArg, overlap: bool, slots: Number, seed: Number) -> Load {
    Load {
        vcpus: usize::try_from(vcpus.0).unwrap_or(usize::MAX),
        bytes_per_vcpu: bytes_per_vcpu.0,
        overlap,
        slots: u32::try_from(slots.0).unwrap_or(u32::MAX),
        seed: seed.0,
    }
}

impl Setup {
    /// A VM with the memory of all vCPUs, its slots one behind the other; `change` says what else is special about it.
    pub fn open(&self, py: Python<'_>, change: impl FnOnce(&mut VmOptions)) -> PyResult<Arc<OpenVm>> {
        let (vm, memory) = self.open_empty(py, change)?;
        let slots = u64::from(self.load.slots);
        let each = (memory / PAGE / slots).max(1) * PAGE;
        for n in 0..slots {
            let start = BASE + n * each;
            // What does not go evenly is the last one's.
            let size = if n + 1 == slots {
                memory.saturating_sub(n * each)
            } else {
                each
            };
            let slot = Slot::linear(SLOT + n as u32, Ipa::new(start), size, Pa::new(start));
            vm.create_slot(slot).map_err(|refused| error::vm(py, refused))?;
        }
        Ok(vm)
    }

    /// The same without slots, and how much memory all vCPUs have.
    pub fn open_empty(&self, py: Python<'_>, change: impl FnOnce(&mut VmOptions)) -> PyResult<(Arc<OpenVm>, u64)> {
        self.load.validate().map_err(|refused| error::workload(py, &refused))?;
        // Slots that can be made whenever the options are right, so that wrong ones are refused in their own words.
        let memory = self.load.bytes_per_vcpu.saturating_mul(self.load.vcpus as u64);
        let memory = memory.clamp(PAGE, u64::MAX - PAGE).next_multiple_of(PAGE);
        let bits = 64 - memory.saturating_add(BASE).leading_zeros();
        let mut vm_options = VmOptions {
            geometry: GeometryOptions {
                ipa_bits: bits.clamp(40, 48) as u8,
                ..GeometryOptions::default()
            },
            memory,
            ..self.vm_options
        };
        change(&mut vm_options);
        let sink = Sink::new(Watch::Counting(Box::default()), Some(self.stall));
        let vm = vm_options.build(sink).map_err(|refused| error::build(py, refused))?;
        Ok((Arc::new(OpenVm::new(vm)), memory))
    }
}
