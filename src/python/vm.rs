//! The class below `s2pt.Vm`: its making, its table, its end.
//!
//! What its guest does is in `vm/guest.rs`, what its host does in `vm/host.rs`, who writes is asked in `vm/dirty.rs`.
//!
//! Every call that may wait for a lock, a stalled TLBI or a fault section of another thread is made detached; a fault of a
//! `lockless` VM waits for nobody, and takes less time than leaving the interpreter.

mod dirty;
mod guest;
mod host;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::convert::{
    BackingArg, BlocksArg, CostsArg, GranuleArg, IpaArg, IpaBits, LevelArg, Number, PaArg, PaBits, PolicyArg,
    SemanticsArg, SizeArg, StallFor, StallHow, WatchArg,
};
use super::open::OpenVm;
use super::sink::{Sink, Watch};
use super::stage2::LONG;
use super::{dirty_log, error, events, exit, leaves, types};
use crate::arch::{BlockRule, GeometryOptions, Granule, Ipa, Pa};
use crate::memory::{Arena, TableMemory};
use crate::sync::Arc;
use crate::vm::{Backing, Policy, Slot, Vcpu, VmOptions};

/// Where guest memory starts unless said otherwise.
const BASE: Ipa = Ipa::new(1 << 30);

/// The memory of a VM: slots over one stage-2 table, with faults, dirty logging and take-back.
///
/// Any number of threads may call it; how faults and changes exclude one another is the policy. The calls release the GIL.
///
/// Parameters
/// ----------
/// memory : int or str, optional
///     Bytes of guest memory in slot 0, from `ipa` on, as in ``"1GiB"``. Without it there are no slots.
/// backing : Backing or str
///     The host's page size, and so the largest block: ``"pages"``, ``"thp"`` (2 MiB), ``"1g"``.
/// policy : Policy or str
///     ``"serial"``, ``"parallel"`` or ``"lockless"``.
/// ipa, pa : int
///     Where slot 0 starts in the guest, and in host memory (by default the same address).
/// ipa_bits, granule, pa_bits, start_level, lpa2, blocks, fwb
///     The table, as for `Stage2`.
/// semantics : Semantics or str
///     ``"kvm"``: faults are handled as KVM handles them, on a table as `Stage2` has it then, with KVM's block levels.
/// execute_eagerly : bool
///     Whether every mapping is executable at once (CTR_EL0.DIC), not only after a fetch.
/// dirty_ring : int
///     Entries of each vCPU's dirty ring, 65536 at most; 0: writes are logged in bitmaps.
/// hd : bool
///     Whether hardware notes writes, for `DirtyLog` with ``log="hardware"``.
/// sink, stall_tlbi_ns, stall_how
///     As for `Stage2`; by default maintenance is counted.
/// costs : Costs, optional
///     What faults, TLBIs, cache operations and table frames cost; `stall_tlbi_ns` is short for that of TLBIs.
///
/// Raises
/// ------
/// GeometryError, AlignmentError, AddressError
///     There is no such table, or the memory does not fit in it.
#[pyclass(name = "Vm", module = "s2pt._core", frozen, subclass, weakref)]
pub struct PyVm {
    vm: Arc<OpenVm>,
}

impl PyVm {
    /// The VM.
    pub const fn open(&self) -> &Arc<OpenVm> {
        &self.vm
    }
}

#[pymethods]
impl PyVm {
    #[new]
    #[pyo3(signature = (
        memory = None, *, backing = BackingArg(Backing::Thp), policy = PolicyArg(Policy::Lockless), ipa = IpaArg(BASE),
        pa = None, ipa_bits = IpaBits(40), granule = GranuleArg(Granule::K4), pa_bits = PaBits(48), start_level = None,
        lpa2 = false, blocks = BlocksArg(BlockRule::Architecture), fwb = false, semantics = SemanticsArg::EXACT, execute_eagerly = false,
        dirty_ring = Number(0), hd = false, sink = Some(WatchArg::COUNTING), stall_tlbi_ns = StallFor::NONE, stall_how = StallHow::SLEEP,
        costs = None
    ), text_signature = "(memory=None, *, backing='thp', policy='lockless', ipa=1073741824, pa=None, ipa_bits=40, \
        granule='4KiB', pa_bits=48, start_level=None, lpa2=False, blocks='arch', fwb=False, semantics='exact', execute_eagerly=False, \
        dirty_ring=0, hd=False, sink='counting', stall_tlbi_ns=0, stall_how='sleep', costs=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python constructor")]
    fn new(
        py: Python<'_>,
        memory: Option<SizeArg>,
        backing: BackingArg,
        policy: PolicyArg,
        ipa: IpaArg,
        pa: Option<PaArg>,
        ipa_bits: IpaBits,
        granule: GranuleArg,
        pa_bits: PaBits,
        start_level: Option<LevelArg>,
        lpa2: bool,
        blocks: BlocksArg,
        fwb: bool,
        semantics: SemanticsArg,
        execute_eagerly: bool,
        dirty_ring: Number,
        hd: bool,
        sink: Option<WatchArg>,
        stall_tlbi_ns: StallFor,
        stall_how: StallHow,
        costs: Option<CostsArg>,
    ) -> PyResult<Self> {
        let costs = CostsArg::with(costs, py, stall_tlbi_ns, stall_how)?;
        let mut vm_options = VmOptions {
            geometry: GeometryOptions {
                granule: granule.0,
                ipa_bits: ipa_bits.0,
                pa_bits: pa_bits.0,
                start_level: start_level.map(|level| level.0),
                lpa2,
                blocks: blocks.0,
            },
            policy: policy.0,
            backing: backing.0,
            execute_eagerly,
            exit_cost: costs.exit,
            dirty_ring: u32::try_from(dirty_ring.0)
                .unwrap_or(u32::MAX)
                .min(dirty_log::MOST_ENTRIES),
            hd,
            fwb,
            semantics: semantics.0,
            ..VmOptions::default()
        };
        if let Some(memory) = memory {
            vm_options.memory = memory.0;
        }
        let sink = Sink::new(sink.map_or(Watch::Nobody, WatchArg::watch), Some(costs.stall()));
        let vm = vm_options.build(sink).map_err(|refused| error::build(py, refused))?;
        if let Some(memory) = memory {
            let pa = pa.map_or(Pa::new(ipa.0.get()), |pa| pa.0);
            let slot = Slot::linear(0, ipa.0, memory.0, pa);
            vm.create_slot(slot).map_err(|refused| error::vm(py, refused))?;
        }
        Ok(Self {
            vm: Arc::new(OpenVm::new(vm)),
        })
    }

    /// The leaves of the table as a structured numpy array, with the fields of `Stage2.leaves_array`.
    ///
    /// Returns
    /// -------
    /// numpy.ndarray
    ///     One dimension, in ascending order; beside writers each leaf was there at some moment of the call.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> _ = vm.access(0x4000_0000, "w")
    /// >>> vm.leaves_array()["size"].tolist()
    /// [2097152]
    fn leaves_array<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let limit = self.vm.stage2().config().geometry.ipa_limit();
        let rows = self.away(py, || leaves::Rows::of(&self.vm.stage2().handle(), Ipa::new(0), limit))?;
        rows.map_err(|refused| error::table(py, refused))?.into_array(py)
    }

    /// Count table frames and leaves by level, a `s2pt.types.Stats`.
    ///
    /// Returns
    /// -------
    /// s2pt.types.Stats
    ///     Beside writers each number is of some moment during the count.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> _ = vm.access(0x4000_0000, "w")
    /// >>> vm.stats().mapped_bytes
    /// 2097152
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let census = self.away(py, || self.vm.stage2().handle().stats())?;
        types::stats(py, &self.vm.stage2().config().geometry, &census)
    }

    /// How much maintenance there was so far, by kind; None if the VM does not count.
    ///
    /// Returns
    /// -------
    /// dict of str to int, or None
    ///     Numbers of stores to entries, TLBIs of each kind, barriers, cache operations, frames.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> _ = vm.access(0x4000_0000, "w")
    /// >>> before = vm.counts()["tlbi_ipa"]
    /// >>> _ = vm.take_back(0x4000_0000, "2MiB")
    /// >>> before, vm.counts()["tlbi_ipa"]
    /// (0, 1)
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        match self.vm.stage2().tlb().watch() {
            Watch::Counting(counting) => events::counts(py, &counting.counts()).map(Some),
            _ => Ok(None),
        }
    }

    /// Take what the table recorded since the last call, as `Stage2.trace` does.
    ///
    /// The steps of a `DirtyLog` run have no marks for the ends of calls.
    ///
    /// Returns
    /// -------
    /// s2pt.recording.Recording
    ///
    /// Raises
    /// ------
    /// S2ptError
    ///     The VM was not made with ``sink="recording"``.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB", sink="recording")
    /// >>> _ = vm.access(0x4000_0000, "w")
    /// >>> vm.trace().check().ok
    /// True
    fn trace<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.vm.stage2().tlb().watch() {
            Watch::Recording(recording) => events::recording(py, self.vm.stage2(), recording),
            _ => Err(error::base(
                py,
                String::from("nothing was recorded: the VM needs sink=\"recording\""),
            )),
        }
    }

    /// Wait until every table frame that was unlinked is free.
    ///
    /// Notes
    /// -----
    /// Waits for the calls of other threads that were under way, at most.
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> _ = vm.access(0x4000_0000, "w")
    /// >>> _ = vm.take_back(0x4000_0000, "64MiB")
    /// >>> vm.drain()
    /// >>> vm.frames_in_use  # the root
    /// 2
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        self.away(py, || self.vm.stage2().handle().drain())
    }

    /// Table frames that are not free.
    #[getter]
    fn frames_in_use(&self) -> usize {
        self.vm.stage2().memory().frames_in_use()
    }

    /// VTCR_EL2, an int.
    #[getter]
    fn vtcr(&self) -> u64 {
        self.vm.stage2().vtcr().raw()
    }

    /// VTTBR_EL2, an int.
    #[getter]
    fn vttbr(&self) -> u64 {
        self.vm.stage2().vttbr().raw()
    }

    /// The shape of the table, a `s2pt.types.Geometry`.
    #[getter]
    fn geometry<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        types::geometry(py, &self.vm.stage2().config().geometry)
    }

    /// The lock policy, ``"serial"``, ``"parallel"`` or ``"lockless"``.
    #[getter]
    fn policy(&self) -> &'static str {
        self.vm.config().policy.name()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        if self.vm.check(py).is_err() {
            return String::from("<Vm left half changed by a fork>");
        }
        let memory: u64 = self.vm.slots().iter().map(|slot| slot.size).sum();
        let (policy, frames) = (self.policy(), self.frames_in_use());
        format!(
            "<Vm memory={memory:#x} policy={policy} vtcr={:#x} frames={frames}>",
            self.vtcr()
        )
    }
}

impl PyVm {
    /// Runs `work` on a vCPU of the calling thread; detached if it may wait, or if `bytes` make it long.
    fn briefly<R: Send>(
        &self,
        py: Python<'_>,
        bytes: u64,
        work: impl FnOnce(&mut Vcpu<'_, Arena, Sink>) -> R + Send,
    ) -> PyResult<R> {
        if self.vm.may_wait() || bytes > LONG * self.vm.stage2().config().geometry.granule().size() {
            self.away(py, || self.vm.vcpu(work))
        } else {
            self.vm.check(py)?;
            Ok(self.vm.vcpu(work))
        }
    }

    /// Runs `work` away from the interpreter.
    fn away<R: Send>(&self, py: Python<'_>, work: impl FnOnce() -> R + Send) -> PyResult<R> {
        self.vm.check(py)?;
        let _inside = self.vm.enter();
        Ok(exit::detach(py, work))
    }
}
