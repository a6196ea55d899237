//! The class `s2pt.Stage2`: its making, its configuration, its end.
//!
//! The class is frozen and owns its table through an `Arc`, so any number of Python threads may call it. Each call
//! clones the `Arc` and works on that: `close()` takes the table away from later calls and never from one under way.
//! What can be called is in the files of this folder, one for each kind of question or change.

mod attrs;
mod batch;
mod frames;
mod image;
mod leaves;
mod maintenance;
mod map;
mod query;

pub use leaves::LeafIterator;

use pyo3::prelude::*;
use pyo3::types::PyAny;

use super::convert::{
    BlocksArg, GranuleArg, IpaArg, IpaBits, LevelArg, Number, PaBits, SemanticsArg, StallFor, StallHow, Vmid, WatchArg,
    unsigned,
};
use super::hook::{self, Hook};
use super::open::{Open, Table};
use super::sink::{Sink, Watch};
use super::{error, exit, types};
use crate::arch::{BlockRule, Geometry, GeometryOptions, Granule, Pte};
use crate::memory::{Arena, TableMemory};
use crate::sync::{Arc, RwLock};
use crate::table::{Config, Handle};

/// Bytes of the range, in pages, from which on a call may take more than about 10 microseconds: then it detaches.
pub const LONG: u64 = 1024;

/// A live stage-2 table that any number of threads may change at once.
///
/// No call takes a lock that another call could wait for: calls on different pages run side by side, calls on the same
/// page happen in some order. Calls on small ranges keep the GIL, as releasing it would cost more than the call; calls
/// on ranges of more than 1024 pages, calls on whole arrays and all calls of a table whose TLBIs stall release it.
///
/// Parameters
/// ----------
/// ipa_bits : int
///     Bits of the input address, 32..52; above 48 needs `lpa2`, or the 64KiB granule.
/// granule : int or str
///     Page and table size: 4096, 16384 or 65536 bytes, or a text such as ``"4KiB"``.
/// pa_bits : int
///     Bits of the output address: 32, 36, 40, 42, 44, 48 or 52.
/// start_level : int, optional
///     Level of the root; None as KVM chooses it (a root of up to 16 concatenated frames).
/// lpa2, fwb, xnx : bool
///     FEAT_LPA2 descriptors, FEAT_S2FWB memory types, FEAT_XNX execute permissions.
/// blocks : Blocks or str, optional
///     ``"arch"``: blocks wherever the architecture allows them; ``"kvm"``: where KVM makes them. None is as `semantics`.
/// semantics : Semantics or str
///     ``"exact"``: an operation changes its range and nothing else. ``"kvm"``: as Linux KVM 6.12, which treats stage 2 as a
///     cache: blocks are split by forgetting the rest, unmapped and write-protected whole; leaves with the same output are
///     left alone; an operation that runs out of frames ends part way; `write_protect` leaves the TLBI to its caller.
/// vmid : int
///     The VMID in VTTBR_EL2, 16 bits.
/// frames : int, optional
///     How many table frames there may be, the root's included; None for as many as there is room for (2**20 with a
///     PA space of more than 34 bits).
/// pending_limit : int, optional
///     How many unlinked frames may wait for readers to leave before calls that unlink more wait with them, for a tenth of a
///     second at most (`reclaim`); None for 64 MiB of frames.
/// tlbi_range : bool
///     Whether the CPU has range TLBIs (FEAT_TLBIRANGE).
/// ha, hd : bool
///     Whether the hardware sets the access flag, and the dirty state; `hd` needs `ha`.
/// sink : str or callable, optional
///     ``"counting"`` counts the maintenance that the operations ask for (`counts`), ``"recording"`` keeps it (`events`).
///     A function is called as ``sink(kind, fields)`` (as in `s2pt.events.Event`) for each TLBI of stage 2, cache
///     operation, table frame and store that replaces something, at the moment when it happens; in a TLBI the
///     entry is held. Whatever the function calls waits for nobody, as through `without_waiting`; it may not `drain`. What it
///     raises is reported as what a destructor raises: the operation goes on. At exit it is told no more, other threads being
///     waited for until they come out of it, two seconds at most.
/// stall_tlbi_ns : int
///     How long each stage-2 TLBI makes its caller wait, in nanoseconds: what it costs on a large machine.
/// stall_how : str
///     ``"sleep"`` gives up the core while it waits, ``"spin"`` does not.
///
/// Raises
/// ------
/// GeometryError
///     There is no such table; the message says which rule it breaks.
/// OutOfFramesError
///     The root alone needs more than `frames`.
///
/// See Also
/// --------
/// s2pt.model.ModelStage2 : the same in plain Python, to be read.
///
/// Examples
/// --------
/// >>> from s2pt import Prot, Stage2
/// >>> s2 = Stage2(ipa_bits=40)
/// >>> s2.map(0x8000_0000, "2MiB", pa=0x4000_0000, prot=Prot.RW)
/// Mapped(bytes=2MiB, kept=0B)
/// >>> s2.translate(0x8000_1234)
/// Translation(pa=0x40001234, level=2, prot=RW, memtype=NORMAL)
/// >>> hex(s2.vtcr)
/// '0x802d3558'
#[pyclass(name = "Stage2", module = "s2pt", frozen, weakref)]
pub struct PyStage2 {
    /// None once closed. Held for the length of an `Arc` clone, never while Python code runs.
    table: RwLock<Option<Arc<Open>>>,
    /// Whether its calls wait for what a peer holds.
    patient: bool,
}

impl PyStage2 {
    /// The table, or ClosedError.
    pub fn table(&self, py: Python<'_>) -> PyResult<Arc<Open>> {
        let slot = self.table.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let table = slot.clone();
        drop(slot);
        let table = table.ok_or_else(|| error::closed(py, String::from("this Stage2 was closed")))?;
        table.check(py)?;
        Ok(table)
    }

    /// Runs `work` on a handle of the calling thread; detached from the interpreter if `bytes` or the sink make it long.
    pub fn with<R: Send>(
        &self,
        py: Python<'_>,
        bytes: u64,
        work: impl FnOnce(&Handle<'_, Arena, Sink>) -> R + Send,
    ) -> PyResult<R> {
        let table = self.table(py)?;
        let long = bytes > LONG * table.config().geometry.granule().size() || table.tlb().stalls();
        let work = self.patiently(work);
        Ok(if long {
            table.detached(py, work)
        } else {
            table.work(work)
        })
    }

    /// As [`with`](Self::with), for work that is long in any case.
    pub fn detached<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&Handle<'_, Arena, Sink>) -> R + Send,
    ) -> PyResult<R> {
        let table = self.table(py)?;
        let work = self.patiently(work);
        Ok(table.detached(py, work))
    }

    /// Whether a call made now may wait for what a peer holds. In a sink's function the peer may be the caller himself.
    pub fn is_patient(&self) -> bool {
        self.patient && !hook::inside()
    }

    /// `work` on a handle that waits or does not, as this object's calls do.
    fn patiently<R>(
        &self,
        work: impl FnOnce(&Handle<'_, Arena, Sink>) -> R + Send,
    ) -> impl FnOnce(&Handle<'_, Arena, Sink>) -> R + Send {
        let patient = self.is_patient();
        move |handle: &Handle<'_, Arena, Sink>| {
            if patient {
                work(handle)
            } else {
                work(&handle.without_waiting())
            }
        }
    }
}

#[pymethods]
impl PyStage2 {
    #[new]
    #[pyo3(signature = (
        ipa_bits = IpaBits(40), granule = GranuleArg(Granule::K4), pa_bits = PaBits(48), *, start_level = None, lpa2 = false, fwb = false, xnx = false,
        blocks = None, semantics = SemanticsArg::EXACT, vmid = Vmid(1), frames = None, pending_limit = None, tlbi_range = true, ha = true, hd = false, sink = None,
        stall_tlbi_ns = StallFor::NONE, stall_how = StallHow::SLEEP
    ), text_signature = "(ipa_bits=40, granule='4KiB', pa_bits=48, *, start_level=None, lpa2=False, fwb=False, \
        xnx=False, blocks=None, semantics='exact', vmid=1, frames=None, pending_limit=None, tlbi_range=True, ha=True, hd=False, sink=None, \
        stall_tlbi_ns=0, stall_how='sleep')")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python constructor")]
    fn new(
        py: Python<'_>,
        ipa_bits: IpaBits,
        granule: GranuleArg,
        pa_bits: PaBits,
        start_level: Option<LevelArg>,
        lpa2: bool,
        fwb: bool,
        xnx: bool,
        blocks: Option<BlocksArg>,
        semantics: SemanticsArg,
        vmid: Vmid,
        frames: Option<&Bound<'_, PyAny>>,
        pending_limit: Option<&Bound<'_, PyAny>>,
        tlbi_range: bool,
        ha: bool,
        hd: bool,
        sink: Option<&Bound<'_, PyAny>>,
        stall_tlbi_ns: StallFor,
        stall_how: StallHow,
    ) -> PyResult<Self> {
        let kvm = semantics.0.is_kvm();
        if kvm && matches!(blocks, Some(BlocksArg(BlockRule::Architecture))) {
            let message = "semantics='kvm' has KVM's block levels: blocks must be 'kvm', or left out";
            return Err(error::option(py, message.into()));
        }
        let options = GeometryOptions {
            granule: granule.0,
            ipa_bits: ipa_bits.0,
            pa_bits: pa_bits.0,
            start_level: start_level.map(|level| level.0),
            lpa2,
            blocks: blocks.map_or(BlockRule::Architecture, |blocks| blocks.0),
        };
        if hd && !ha {
            let message = "hd needs ha: hardware that manages the dirty state manages the access flag too";
            return Err(error::geometry(py, message.into()));
        }
        let geometry = Geometry::new(options).map_err(|refused| error::shape(py, refused))?;
        let standard = if kvm {
            Config::kvm(geometry)
        } else {
            Config::new(geometry)
        };
        let limit = pending_limit
            .map(|limit| unsigned("pending_limit", limit))
            .transpose()?;
        let config = Config {
            fwb,
            xnx,
            vmid: vmid.0,
            tlbi_range,
            ha,
            hd,
            pending_limit: limit.map_or(standard.pending_limit, |limit| {
                usize::try_from(limit).unwrap_or(usize::MAX)
            }),
            ..standard
        };
        let quota = frames.map(|frames| unsigned("frames", frames)).transpose()?;
        let stall = stall_tlbi_ns.stall(stall_how);
        let sink = Sink::new(watch(sink)?, stall);
        let arena = Arena::new(frames::room(&geometry, quota)).map_err(|refused| error::arena(py, refused))?;
        let table = Table::new(config, arena, sink).map_err(|refused| error::table(py, refused))?;
        Ok(Self {
            table: RwLock::new(Some(Arc::new(Open::new(table)))),
            patient: true,
        })
    }

    /// VTCR_EL2 for this table, an int.
    #[getter]
    fn vtcr(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.table(py)?.vtcr().raw())
    }

    /// VTTBR_EL2 for this table, an int.
    #[getter]
    fn vttbr(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.table(py)?.vttbr().raw())
    }

    /// Physical address of the root, an int.
    #[getter]
    fn root(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.table(py)?.root().get())
    }

    /// The shape of the table, a `s2pt.types.Geometry`.
    #[getter]
    fn geometry<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        types::geometry(py, &self.table(py)?.config().geometry)
    }

    /// Whether `close` was called.
    #[getter]
    fn closed(&self) -> bool {
        self.table
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .is_none()
    }

    /// The same table through an object whose calls wait for nobody: what a vCPU's fault handler uses, and what a function
    /// given as `sink` must use, since the entry of the TLBI that it hears of is held by its own thread.
    ///
    /// Where a peer holds an entry a call raises `Again` (``semantics="kvm"``: only operations of a fault do, others pass
    /// over the entry, as KVM's). The two objects are closed each by itself; the table goes with the last.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> _ = s2.map(0x1000, 4096, pa=0x1000)
    /// >>> _ = s2.poke(0x1000, 3, 0x400)  # as if a peer were between break and make
    /// >>> s2.without_waiting().unmap(0x1000, 4096)
    /// Traceback (most recent call last):
    ///     ...
    /// s2pt.errors.Again: 0x1000 is being changed by a peer, or was changed first (level 3): try again
    fn without_waiting(&self, py: Python<'_>) -> PyResult<Self> {
        Ok(Self {
            table: RwLock::new(Some(self.table(py)?)),
            patient: false,
        })
    }

    /// For tests: write any value over the entry at `level` for an address, past the protocol, and return what was there.
    ///
    /// 0x400 leaves the entry LOCKED, as a peer would who never comes back.
    ///
    /// Parameters
    /// ----------
    /// ipa : int
    ///     Any byte address.
    /// level : int
    ///     At which level the entry is, -1..3.
    /// value : int
    ///     Its 64 bits.
    ///
    /// Raises
    /// ------
    /// AddressError, LevelError
    ///     An argument is wrong.
    /// OptionError
    ///     The value is a table descriptor.
    /// NotMappedError
    ///     The walk ends above that level.
    ///
    /// Examples
    /// --------
    /// >>> s2 = Stage2()
    /// >>> _ = s2.map(0x4000_0000, "2MiB", pa=0x8000_0000)
    /// >>> hex(s2.poke(0x4000_0000, 2, 0))
    /// '0x400000800007fd'
    #[pyo3(signature = (ipa, level, value))]
    fn poke(&self, py: Python<'_>, ipa: IpaArg, level: LevelArg, value: Number) -> PyResult<u64> {
        if Pte::from_raw(value.0).is_table(level.0) {
            // Nobody who follows it would look where it leads.
            let message = format!(
                "value {:#x} is a table descriptor: poke writes no way out of the table",
                value.0
            );
            return Err(error::option(py, message));
        }
        let old = self.with(py, 0, |table| table.poke(ipa.0, level.0, Pte::from_raw(value.0)))?;
        Ok(old.map_err(|refused| error::table(py, refused))?.raw())
    }

    /// Give the table up. Calls that other threads have under way end as if nothing happened; then its memory is freed.
    ///
    /// Every later call raises ClosedError, except `close` itself, `closed` and `repr`.
    ///
    /// Examples
    /// --------
    /// >>> with Stage2() as s2:  # closes it at the end
    /// ...     _ = s2.map(0x1000, 4096, pa=0x1000)
    /// >>> s2.closed
    /// True
    fn close(&self, py: Python<'_>) {
        let table = self
            .table
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .take();
        exit::detach(py, move || drop(table));
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().table(slf.py())?;
        Ok(slf)
    }

    #[pyo3(signature = (kind, error, trace, /))]
    fn __exit__(&self, py: Python<'_>, kind: &Bound<'_, PyAny>, error: &Bound<'_, PyAny>, trace: &Bound<'_, PyAny>) {
        let _ = (kind, error, trace);
        self.close(py);
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let Ok(table) = self.table(py) else {
            return String::from("<Stage2 closed>");
        };
        let bits = table.config().geometry.ipa_bits();
        let (vtcr, frames) = (table.vtcr().raw(), table.memory().frames_in_use());
        format!("<Stage2 ipa_bits={bits} vtcr={vtcr:#x} frames={frames}>")
    }
}

/// Who listens: nobody, a keeper by name, or a function.
fn watch(sink: Option<&Bound<'_, PyAny>>) -> PyResult<Watch> {
    match sink {
        None => Ok(Watch::Nobody),
        Some(function) if function.is_callable() => Ok(Watch::Hook(Hook::new(function.clone().unbind()))),
        Some(name) => Ok(name.extract::<WatchArg>()?.watch()),
    }
}
