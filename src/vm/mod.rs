//! What a hypervisor does around the table: memory slots, faults, taking memory back, dirty logging.
//!
//! A [`Vm`] owns a [`Stage2`] and the [`Slot`]s that say which guest addresses are memory. Each vCPU thread makes itself
//! a [`Vcpu`] and gives it the faults that its guest takes; any thread may meanwhile change slots, take memory back
//! ([`Vm::take_back`]), age it ([`Vm::age`]) or harvest the dirty log ([`Vm::dirty_log`]). How these exclude one another is
//! the [`Policy`]: two locks as in KVM's history, or none. The table calls are the same under each, so measuring one
//! against the other measures the locks.
//!
//! [`workload`] runs whole experiments on real threads, [`replay`] the recorded faults of a real guest.

mod age;
mod backing;
mod changes;
mod cost;
mod counters;
mod dirty;
mod error;
mod fault;
mod guest;
mod host;
mod invalidate;
mod options;
mod policy;
pub mod replay;
mod ring;
mod sequence;
mod slots;
mod vcpu;
pub mod workload;

pub use crate::table::Cost;
pub use backing::Backing;
pub use cost::Costs;
pub use counters::{Counters, FaultClass, OutcomeClass};
pub use dirty::{DirtyLogMode, DirtyLogOptions, DirtyTracking};
pub use error::Error;
pub use fault::{ExitReason, Handled, HostPage, Outcome, Retry};
pub use guest::{Done, Guest};
pub use invalidate::{Invalidation, Taken};
pub use options::{BuildError, VmOptions};
pub use policy::Policy;
pub use ring::DirtyPage;
pub use slots::{PaSource, Slot};
pub use vcpu::{AccessError, Parked, Vcpu};

use core::time::Duration;

use crate::arch::{Geometry, Ipa, Level};
use crate::memory::TableMemory;
use crate::table::{self, Handle, MapOptions, Null, Stage2, Tlb};

/// What a VM is made for; fixed for its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmConfig {
    /// How faults and changes exclude one another.
    pub policy: Policy,
    /// Page size with which the host backs slots that describe themselves; the largest block that any fault maps.
    pub backing: Backing,
    /// Grant execution with every mapping of normal memory, which is right where the CPU needs no instruction cache
    /// maintenance (CTR_EL0.DIC). Otherwise only a fetch grants it.
    pub execute_eagerly: bool,
    /// Entries of each vCPU's dirty ring, 16 at least; 0: writes are logged in bitmaps. Fixed before there are vCPUs, as KVM's
    /// capability is.
    pub dirty_ring: u32,
    /// What a vCPU pays for leaving the guest and coming back, at each fault.
    pub exit_cost: Cost,
}

/// Entries of the smallest dirty ring.
const LEAST_RING: u32 = 16;

/// A virtual machine's memory: slots over one stage-2 table.
///
/// `Send` and `Sync`: share it by reference or in an `Arc`. See the [module](self) for who calls what.
#[derive(Debug)]
pub struct Vm<M: TableMemory, T: Tlb = Null> {
    pub(crate) stage2: Stage2<M, T>,
    config: VmConfig,
    largest: Level,
    pub(crate) slots: slots::Slots,
    pub(crate) gate: policy::Gate,
    pub(crate) sequence: sequence::Sequence,
    pub(crate) rings: ring::Rings,
}

impl<M: TableMemory, T: Tlb> Vm<M, T> {
    /// A VM over `stage2`, without slots.
    pub fn new(stage2: Stage2<M, T>, config: VmConfig) -> Self {
        let geometry = &stage2.config().geometry;
        let largest = config.backing.largest(geometry);
        Self {
            config,
            largest,
            slots: slots::Slots::default(),
            gate: policy::Gate::new(config.policy),
            sequence: sequence::Sequence::new(geometry.size(largest)),
            rings: ring::Rings::new(match config.dirty_ring {
                0 => 0,
                entries => entries.max(LEAST_RING),
            }),
            stage2,
        }
    }

    /// A vCPU for the calling thread. Making one registers the thread with the table; keep it.
    pub fn vcpu(&self) -> Vcpu<'_, M, T> {
        Vcpu::new(self)
    }

    /// What it was made for.
    pub fn config(&self) -> VmConfig {
        self.config
    }

    /// The table itself. Looking at it is always right; who changes it changes it behind the VM's back.
    pub fn stage2(&self) -> &Stage2<M, T> {
        &self.stage2
    }

    /// How often a change by the host found a fault section that it had to wait for (policy `Lockless`).
    pub fn waits(&self) -> u64 {
        self.gate.waits()
    }

    /// The longest time for which one change by the host excluded all faults (zero under `Lockless`).
    pub fn longest_hold(&self) -> Duration {
        self.gate.longest_hold()
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.stage2.config().geometry
    }

    /// Whether writes to logged slots go to dirty rings, and not into bitmaps.
    pub fn ring_mode(&self) -> bool {
        self.rings.exist()
    }

    /// Whether faults are handled as KVM handles them, on a table with its semantics.
    pub(crate) fn kvm(&self) -> bool {
        self.stage2.config().semantics.is_kvm()
    }

    /// How a fault maps: `exact`, or the one way in which KVM's faults map.
    pub(crate) fn fault_options(&self, exact: MapOptions) -> MapOptions {
        if self.kvm() { MapOptions::KVM_FAULT } else { exact }
    }

    pub(crate) fn page_size(&self) -> u64 {
        self.geometry().granule().size()
    }

    /// Level of the largest leaf that a fault maps.
    pub(crate) fn largest(&self) -> Level {
        self.largest
    }

    /// Its size in bytes.
    pub(crate) fn largest_size(&self) -> u64 {
        self.geometry().size(self.largest)
    }

    /// Bytes of the smallest block of the granule.
    pub(crate) fn smallest_block(&self) -> u64 {
        self.geometry().size(Level::L2)
    }

    /// Checks a range as the table does, before anything is begun. Returns its exclusive end.
    pub(crate) fn check_range(&self, ipa: Ipa, size: u64) -> Result<u64, Error> {
        let (page, limit) = (self.page_size(), self.geometry().ipa_limit());
        for (what, value) in [("ipa", ipa.get()), ("size", size)] {
            if value % page != 0 {
                return Err(table::Error::Alignment {
                    what,
                    value,
                    required: page,
                }
                .into());
            }
        }
        if size == 0 {
            return Err(table::Error::ZeroSize { ipa, required: page }.into());
        }
        match ipa.get().checked_add(size) {
            Some(end) if end <= limit => Ok(end),
            _ => Err(table::Error::Address {
                what: "ipa",
                value: ipa.get(),
                size,
                limit,
            }
            .into()),
        }
    }

    /// Cuts [`start`, `end`) at multiples of KVM's largest block: what one exclusive section does at a time.
    pub(crate) fn chunks(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + use<M, T> {
        let chunk = backing::chunk(self.geometry());
        let mut at = start;
        core::iter::from_fn(move || {
            let next = end.min((at / chunk + 1) * chunk);
            let part = (at, next - at);
            at = next;
            (part.1 != 0).then_some(part)
        })
    }

    /// The range grown to the leaves that it cuts.
    pub(crate) fn whole_leaves(&self, handle: &Handle<'_, M, T>, ipa: Ipa, size: u64) -> Result<(Ipa, u64), Error> {
        let geometry = self.geometry();
        let last = Ipa::new(ipa.get() + size - self.page_size());
        let (first, after) = (handle.lookup(ipa)?, handle.lookup(last)?);
        let start = if first.pte.is_leaf(first.level) {
            first.base
        } else {
            ipa
        };
        let end = if after.pte.is_leaf(after.level) {
            after.base.get() + geometry.size(after.level)
        } else {
            ipa.get() + size
        };
        Ok((start, end - start.get()))
    }
}
