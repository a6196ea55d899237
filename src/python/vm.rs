//! The class below `s2pt.Vm`: a VM's memory, one call at a time.
//!
//! Every call that may wait for a lock, a stalled TLBI or a fault section of another thread is made detached; a fault of a
//! `lockless` VM waits for nobody, and takes less time than leaving the interpreter.

use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::convert::{
    AccessArg, BackingArg, BlocksArg, CostsArg, FaultKindArg, GranuleArg, IpaArg, IpaBits, LevelArg, LogKindArg,
    LogModeArg, Number, PaArg, PaBits, PolicyArg, SemanticsArg, SizeArg, SlotId, StallFor, StallHow, WatchArg,
};
use super::dirty_log::{self, DirtyLogJob};
use super::open::OpenVm;
use super::signals::in_parts;
use super::sink::{Sink, Watch};
use super::stage2::LONG;
use super::{arrays, error, events, exit, leaves, setup, types};
use crate::arch::{BlockRule, Fault, FaultKind, GeometryOptions, Granule, Ipa, Pa};
use crate::memory::{Arena, TableMemory};
use crate::sync::Arc;
use crate::table;
use crate::vm::workload::LogKind;
use crate::vm::{self, Backing, Outcome, PaSource, Policy, Slot, Vcpu, VmOptions};

/// Accesses of an array between two looks at the clock.
const BETWEEN_LOOKS: usize = 64;

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
    fn remove_slot(&self, py: Python<'_>, id: SlotId) -> PyResult<()> {
        self.away(py, || self.vm.delete_slot(id.0))?
            .map(drop)
            .map_err(|refused| error::vm(py, refused))
    }

    /// Move a slot to another guest address; its memory stays what it is. In between it is absent.
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

    /// Execute an access as a guest does: ask the MMU, handle the faults that it reports, until it succeeds.
    ///
    /// Returns
    /// -------
    /// Translation
    ///
    /// Raises
    /// ------
    /// GuestExit
    ///     There is no memory there, or it may not be written: `reason` says so.
    /// OutOfFramesError
    ///     Too few frames for the tables.
    #[pyo3(signature = (ipa, access = AccessArg::READ), text_signature = "($self, ipa, access='r')")]
    fn access<'py>(&self, py: Python<'py>, ipa: IpaArg, access: AccessArg) -> PyResult<Bound<'py, PyAny>> {
        self.vm.check(py)?;
        let tried = match self.vm.may_wait() {
            true => Ok(None),
            false => self.vm.vcpu(|vcpu| vcpu.try_access(ipa.0, access.0)),
        };
        let done = match tried {
            Ok(Some(hit)) => Ok(hit),
            Ok(None) => self.away(py, || self.vm.vcpu(|vcpu| vcpu.access(ipa.0, access.0)))?,
            Err(refused) => Err(refused),
        };
        match done {
            Ok(hit) => types::translation(py, &hit),
            Err(refused) => Err(error::access(py, refused)),
        }
    }

    /// Execute an access to each address of an array, by one vCPU; return how many faults that took.
    ///
    /// Raises
    /// ------
    /// GuestExit, OutOfFramesError
    ///     As for `access`, with the element's index as `index`; the accesses before it are done.
    /// KeyboardInterrupt
    ///     Between two accesses: those before it are done.
    #[pyo3(signature = (ipa, access = AccessArg::READ), text_signature = "($self, ipa, access='r')")]
    fn touch(&self, py: Python<'_>, ipa: &Bound<'_, PyAny>, access: AccessArg) -> PyResult<u64> {
        let ipa = arrays::elements("ipa", ipa)?;
        let mut faults = 0;
        in_parts(py, ipa.len(), |part, until| {
            self.away(py, || {
                self.vm.vcpu(|vcpu| {
                    let mut next = part.start;
                    // A look at the clock costs as much as an access that hits.
                    while next < part.end && !(next % BETWEEN_LOOKS == 0 && next > part.start && until.is_over()) {
                        vcpu.access(Ipa::new(ipa[next]), access.0)
                            .map_err(|refused| (next, refused))?;
                        next += 1;
                    }
                    faults += vcpu.counters().total();
                    Ok(next)
                })
            })?
            .map_err(|(index, refused)| error::with_index(py, error::access(py, refused), index))
        })?;
        Ok(faults)
    }

    /// What the MMU answers to an access at this moment; as `Stage2.translate`.
    #[pyo3(signature = (ipa, access = AccessArg::READ), text_signature = "($self, ipa, access='r')")]
    fn translate<'py>(&self, py: Python<'py>, ipa: IpaArg, access: AccessArg) -> PyResult<Bound<'py, PyAny>> {
        self.vm.check(py)?;
        match self.vm.vcpu(|vcpu| vcpu.translate(ipa.0, access.0)) {
            Ok(hit) => types::translation(py, &hit),
            Err(refused) => Err(error::fault(py, &refused)),
        }
    }

    /// Handle one fault: map what the slot has there, or say who else has to act. The guest then tries again.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     The faulting address, any byte.
    /// access : Access or str
    ///     What the guest did.
    /// kind : str
    ///     What the syndrome says: ``"translation"``, ``"permission"`` or ``"access-flag"``.
    /// level : int, optional
    ///     The level that the syndrome names; None: the one at which a walk ends now.
    /// s1ptw : bool
    ///     Whether the access was a stage-1 walk's own.
    ///
    /// Returns
    /// -------
    /// tuple of str
    ///     ``"handled"`` with how (``"mapped"``, ``"collapsed"``, ``"relaxed"``, ``"split"``, ``"marked-young"``);
    ///     ``"again"`` with why (``"invalidated"``, ``"slots-changed"``, ``"peer"``): nothing was done; or ``"exit"`` with
    ///     the reason (``"mmio"``, ``"read-only"``, ``"fetch"``, ``"address-size"``).
    ///
    /// Examples
    /// --------
    /// >>> import s2pt
    /// >>> vm = s2pt.Vm(memory="64MiB")
    /// >>> vm.handle_fault(0x4000_1234, "w")
    /// ('handled', 'mapped')
    /// >>> vm.handle_fault(0x900_0000)
    /// ('exit', 'mmio')
    #[pyo3(signature = (
        ipa, access = AccessArg::READ, *, kind = FaultKindArg(FaultKind::Translation), level = None,
        s1ptw = false
    ), text_signature = "($self, ipa, access='r', *, kind='translation', level=None, s1ptw=False)")]
    fn handle_fault<'py>(
        &self,
        py: Python<'py>,
        ipa: IpaArg,
        access: AccessArg,
        kind: FaultKindArg,
        level: Option<LevelArg>,
        s1ptw: bool,
    ) -> PyResult<Bound<'py, PyTuple>> {
        self.handle(py, |vcpu| {
            let level = match level {
                Some(level) => level.0,
                None => vcpu.handle().lookup(ipa.0)?.level,
            };
            Ok(Fault {
                ipa: ipa.0,
                access: access.0,
                kind: kind.0,
                level,
                s1ptw,
            })
        })
    }

    /// Handle the fault that three registers report; as `handle_fault`.
    ///
    /// Raises
    /// ------
    /// S2ptError
    ///     The registers report no stage-2 fault of a guest.
    fn handle_syndrome<'py>(
        &self,
        py: Python<'py>,
        esr: Number,
        far: Number,
        hpfar: Number,
    ) -> PyResult<Bound<'py, PyTuple>> {
        match Fault::from_registers(esr.0, far.0, hpfar.0) {
            Ok(fault) => self.handle(py, |_| Ok(fault)),
            Err(refused) => Err(error::base(py, refused.to_string())),
        }
    }

    /// Take a range back for the host: nothing of it is mapped any more, faults under way retry.
    ///
    /// Returns
    /// -------
    /// tuple of int and bool
    ///     Bytes that were mapped, and whether whole blocks went for want of frames to split them.
    fn take_back(&self, py: Python<'_>, ipa: IpaArg, size: SizeArg) -> PyResult<(u64, bool)> {
        let taken = self.away(py, || self.vm.take_back(ipa.0, size.0))?;
        taken
            .map(|taken| (taken.bytes, taken.widened))
            .map_err(|refused| error::vm(py, refused))
    }

    /// Whether anything in the range was accessed since its flags were cleared; clear them if asked to.
    #[pyo3(signature = (ipa, size, clear = true))]
    fn age(&self, py: Python<'_>, ipa: IpaArg, size: SizeArg, clear: bool) -> PyResult<bool> {
        self.briefly(py, size.0, |vcpu| self.vm.age_by(vcpu.handle(), ipa.0, size.0, clear))?
            .map_err(|refused| error::vm(py, refused))
    }

    /// Take the right to write from every leaf of which a part is in the range, whole; none is split.
    fn write_protect<'py>(&self, py: Python<'py>, ipa: IpaArg, size: SizeArg) -> PyResult<Bound<'py, PyAny>> {
        let changed = self.briefly(py, size.0, |vcpu| {
            self.vm.write_protect_by(vcpu.handle(), ipa.0, size.0)
        })?;
        types::changed(py, &changed.map_err(|refused| error::vm(py, refused))?)
    }

    /// Split every block in the range to pages ahead of the writes that would; return how many were split.
    fn split(&self, py: Python<'_>, ipa: IpaArg, size: SizeArg) -> PyResult<u64> {
        self.away(py, || self.vm.split(ipa.0, size.0))?
            .map_err(|refused| error::vm(py, refused))
    }

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
    fn disable_dirty_log(&self, py: Python<'_>, slot: SlotId) -> PyResult<()> {
        self.away(py, || self.vm.disable_dirty_log(slot.0))?
            .map_err(|refused| error::vm(py, refused))
    }

    /// The dirty bitmap of a slot as a numpy array of uint64: bit ``n % 64`` of word ``n // 64`` is page `n`.
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

    /// The leaves of the table as a structured numpy array, with the fields of `Stage2.leaves_array`.
    fn leaves_array<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let limit = self.vm.stage2().config().geometry.ipa_limit();
        let rows = self.away(py, || leaves::Rows::of(&self.vm.stage2().handle(), Ipa::new(0), limit))?;
        rows.map_err(|refused| error::table(py, refused))?.into_array(py)
    }

    /// Count table frames and leaves by level, a `s2pt.types.Stats`.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let census = self.away(py, || self.vm.stage2().handle().stats())?;
        types::stats(py, &self.vm.stage2().config().geometry, &census)
    }

    /// How much maintenance there was so far, by kind; None if the VM does not count.
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
    /// Handles the fault that `fault` tells a vCPU of the calling thread.
    fn handle<'py>(
        &self,
        py: Python<'py>,
        fault: impl FnOnce(&Vcpu<'_, Arena, Sink>) -> Result<Fault, table::Error> + Send,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let handle = |vcpu: &mut Vcpu<'_, Arena, Sink>| -> Result<Outcome, vm::Error> {
            let fault = fault(vcpu)?;
            vcpu.handle_fault(&fault)
        };
        let outcome = self.briefly(py, 0, handle)?;
        types::outcome(py, outcome.map_err(|refused| error::vm(py, refused))?)
    }

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
