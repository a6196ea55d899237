//! The table as its owner holds it, and the two ways into it.

use super::descend::is_plain;
use super::error::Error;
use super::frames::{FrameCache, Reserve};
use super::pressure::Backlog;
use super::reclaim::{Access, Alone, Collector, Local, drain, free_subtree};
use super::semantics::Semantics;
use super::tlb::{Event, Null, Tlb};
use super::way::Trail;
use crate::arch::{Attrs, Format, FormatOptions, Geometry, Ipa, Level, Pa, Prot, Pte, Vtcr, VtcrOptions, Vttbr};
use crate::memory::TableMemory;
use crate::sync::{Arc, AtomicU64, AtomicUsize, Ordering};
use core::cell::Cell;

/// What a table is made for; fixed for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Granule, IPA and PA sizes, start level, root, block levels.
    pub geometry: Geometry,
    /// FEAT_S2FWB: memory types are forced, no cache maintenance by software.
    pub fwb: bool,
    /// FEAT_XNX: execution is granted to EL1 and EL0 separately.
    pub xnx: bool,
    /// The VMID that VTTBR_EL2 carries.
    pub vmid: u16,
    /// FEAT_TLBIRANGE: one TLBI can name a range.
    pub tlbi_range: bool,
    /// Hardware sets the access flag (VTCR_EL2.HA): an access to a leaf without it does not fault.
    pub ha: bool,
    /// Hardware manages dirty state (VTCR_EL2.HD): a write to a leaf with DBM does not fault.
    pub hd: bool,
    /// How many retired frames may wait for walkers to leave before calls that retire frames wait too: see
    /// [`ReclaimStats`](super::ReclaimStats). `usize::MAX`: no limit.
    pub pending_limit: usize,
    /// Whose habits it has. KVM's come with KVM's block levels: [`Config::kvm`] sets both.
    pub semantics: Semantics,
}

/// More than short walks and a thread that lost its core leave pending, and less than hurts.
const PENDING_BYTES: u64 = 64 << 20;

impl Config {
    /// A table of this geometry on a CPU with range TLBIs and hardware access flag, without FWB and XNX, VMID 1, and no more than 64 MiB
    /// of retired frames.
    pub const fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            fwb: false,
            xnx: false,
            vmid: 1,
            tlbi_range: true,
            ha: true,
            hd: false,
            pending_limit: (PENDING_BYTES / geometry.granule().size()) as usize,
            semantics: Semantics::Exact,
        }
    }

    /// The same with KVM's semantics, and blocks only at the levels that KVM uses.
    ///
    /// ```
    /// use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
    /// use s2pt::memory::{Arena, ArenaOptions};
    /// use s2pt::table::{Config, MapOptions, Null, Stage2};
    ///
    /// let geometry = Geometry::new(GeometryOptions::default())?;
    /// let table = Stage2::new(Config::kvm(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// let view = table.handle();
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?;
    /// assert_eq!(view.unmap(Ipa::new(0x1000), 0x1000)?, 2 << 20); // the whole block
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn kvm(geometry: Geometry) -> Self {
        Self {
            geometry: geometry.with_kvm_blocks(),
            semantics: Semantics::Kvm,
            ..Self::new(geometry)
        }
    }
}

/// What every view of a table shares. Frames reached from `root` belong to it.
#[doc(hidden)]
pub struct Core<M: TableMemory, T: Tlb> {
    pub(crate) config: Config,
    pub(crate) format: Format,
    /// Walked with constants, see `descend.rs`.
    pub(crate) plain: bool,
    pub(crate) memory: M,
    pub(crate) tlb: T,
    pub(crate) root: Pa,
    pub(crate) vttbr: Vttbr,
    /// Frames retired and not yet free.
    pub(crate) pending: AtomicUsize,
    /// What has been retired, and how calls dealt with it.
    pub(crate) backlog: Backlog,
    /// Subtrees that exclusive access has freed.
    pub(crate) freed: AtomicUsize,
    /// Operations that have taken rights away in place and whose TLBI may still be under way.
    pub(crate) narrowing: AtomicUsize,
}

impl<M: TableMemory, T: Tlb> Drop for Core<M, T> {
    fn drop(&mut self) {
        // The last owner: no view, no pending retirement (each holds the core). No TLBI is due: whoever destroys a
        // table has taken it off every CPU before.
        let geometry = self.config.geometry;
        let (frames, level) = (geometry.root_frames(), geometry.start_level());
        if let Some(deeper) = level.deeper() {
            for entry in self.memory.root(self.root, frames) {
                let value = Pte::from_raw(entry.load(Ordering::Relaxed));
                if value.is_table(level) {
                    free_subtree(self, self.format.next_table(value), deeper);
                }
            }
        }
        self.memory.free_root(self.root, frames);
    }
}

/// A stage-2 translation table.
///
/// `M` is where its frames come from, `T` receives its maintenance. It is `Send` and `Sync`; each thread works through
/// its own [`Handle`].
///
/// ```
/// use s2pt::arch::{AccessKind, Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
/// use s2pt::memory::{Arena, ArenaOptions};
/// use s2pt::table::{Config, MapOptions, Null, Stage2};
///
/// let geometry = Geometry::new(GeometryOptions::default())?; // 4K granule, 40-bit IPA, two root pages
/// let arena = Arena::new(ArenaOptions::default())?;
/// let table = Stage2::new(Config::new(geometry), arena, Null)?;
///
/// let vcpu = table.handle();
/// vcpu.map(Ipa::new(0x8000_0000), 2 << 20, Pa::new(0x4000_0000), &Attrs::new(Prot::RW), MapOptions::default())?;
/// let hit = vcpu.translate(Ipa::new(0x8000_1234), AccessKind::Write).unwrap();
/// assert_eq!(hit.pa, Pa::new(0x4000_1234));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Stage2<M: TableMemory, T: Tlb = Null> {
    pub(crate) core: Arc<Core<M, T>>,
    collector: Collector,
}

/// Shared access to a table by one thread. Cheap to use, not so cheap to make: keep one per vCPU.
pub type Handle<'t, M, T = Null> = View<'t, M, T, Local>;

/// Access by the only user: the same operations with plain stores, frames freed at once.
pub type Exclusive<'t, M, T = Null> = View<'t, M, T, Alone>;

/// A way into a table, shared or exclusive by its access mode `A`. All operations are defined on it.
pub struct View<'t, M: TableMemory, T: Tlb, A: Access> {
    /// What retired frames keep until they are free.
    pub(crate) owner: &'t Arc<Core<M, T>>,
    /// The same, one step nearer.
    pub(crate) core: &'t Core<M, T>,
    /// The entries of the root, all of its frames side by side.
    pub(crate) root: &'t [AtomicU64],
    /// Where the other tables are.
    pub(crate) tables: M::Tables<'t>,
    pub(crate) access: A,
    /// The attributes of the last leaf, and how a page says them (0: there was none). A slot of guest memory has the same for
    /// all of its pages.
    pub(crate) encoded: Cell<(Attrs, u64)>,
    /// Tables that exclusive access has seen.
    pub(crate) trail: Trail,
    /// Whether a LOCKED entry is waited for, or answered with [`Error::Again`].
    pub(crate) wait: bool,
    /// How many table frames one call may take.
    pub(crate) frames: usize,
    /// Whether a call has retired frames and not looked yet how many wait.
    pub(crate) owes: Cell<bool>,
    /// Frames at hand.
    pub(crate) cache: A::Cache<'t, M>,
}

impl<M: TableMemory, T: Tlb> core::fmt::Debug for Stage2<M, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Stage2({:?}, root {})", self.core.config.geometry, self.core.root)
    }
}

impl<M: TableMemory, T: Tlb, A: Access> core::fmt::Debug for View<'_, M, T, A> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let kind = if A::SHARED { "shared" } else { "exclusive" };
        write!(
            f,
            "View({kind}, {:?}, root {})",
            self.core.config.geometry, self.core.root
        )
    }
}

impl<M: TableMemory, T: Tlb> Stage2<M, T> {
    /// Makes an empty table: one root, allocated from `memory`, nothing mapped.
    ///
    /// # Errors
    /// [`Error::OutOfFrames`] if the memory has no room for the root; [`Error::Root`] if the memory lies where
    /// VTTBR_EL2 cannot point to.
    pub fn new(config: Config, memory: M, tlb: T) -> Result<Self, Error> {
        let geometry = &config.geometry;
        let format = Format::new(
            geometry,
            FormatOptions {
                fwb: config.fwb,
                xnx: config.xnx,
            },
        );
        let root = memory.take_root(geometry.root_frames())?;
        let vttbr = match Vttbr::build(config.vmid, root, false, geometry) {
            Ok(vttbr) => vttbr,
            Err(reason) => {
                memory.free_root(root, geometry.root_frames());
                return Err(reason.into());
            }
        };
        if T::ACTIVE {
            tlb.event(Event::Allocate { frame: root });
            tlb.event(Event::Publish);
        }
        let core = Core {
            config,
            format,
            plain: is_plain(geometry, &format),
            memory,
            tlb,
            root,
            vttbr,
            pending: AtomicUsize::new(0),
            backlog: Backlog::default(),
            freed: AtomicUsize::new(0),
            narrowing: AtomicUsize::new(0),
        };
        Ok(Self {
            core: Arc::new(core),
            collector: Collector::new(),
        })
    }

    /// What the table was made for.
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// How descriptors are laid out in it.
    pub fn format(&self) -> &Format {
        &self.core.format
    }

    /// Where its frames come from.
    pub fn memory(&self) -> &M {
        &self.core.memory
    }

    /// Who receives its maintenance.
    pub fn tlb(&self) -> &T {
        &self.core.tlb
    }

    /// Physical address of the root.
    pub fn root(&self) -> Pa {
        self.core.root
    }

    /// Frames that were unlinked and wait for walkers to leave.
    pub fn pending_frames(&self) -> usize {
        self.core.pending.load(Ordering::Acquire)
    }

    /// The value of VTCR_EL2 that makes a CPU walk this table.
    pub fn vtcr(&self) -> Vtcr {
        let config = &self.core.config;
        let options = VtcrOptions {
            ha: config.ha,
            hd: config.hd,
            ..VtcrOptions::default()
        };
        Vtcr::build(&config.geometry, options)
    }

    /// The value of VTTBR_EL2 that makes a CPU walk this table.
    pub fn vttbr(&self) -> Vttbr {
        self.core.vttbr
    }

    /// Shared access for the calling thread, registered with the table's collector.
    pub fn handle(&self) -> Handle<'_, M, T> {
        View::new(&self.core, self.collector.register())
    }

    /// A registration of the calling thread that borrows nothing, for callers who cannot keep a handle: see
    /// [`handle_of`](Self::handle_of). It should not outlive the table by long: it keeps the collector.
    pub fn register(&self) -> Local {
        self.collector.register()
    }

    /// A handle out of a registration of the calling thread, at next to no cost; `None` if the registration is with
    /// another table.
    pub fn handle_of(&self, local: &Local) -> Option<Handle<'_, M, T>> {
        local
            .is_of(&self.collector)
            .then(|| View::new(&self.core, local.clone()))
    }

    /// Exclusive access. What was retired before is freed first.
    pub fn exclusive(&mut self) -> Exclusive<'_, M, T> {
        if self.pending_frames() > 0 {
            self.handle().free_pending();
        }
        View::new(&self.core, Alone::new())
    }
}

impl<'t, M: TableMemory, T: Tlb> Handle<'t, M, T> {
    /// The same handle, which takes its table frames out of `cache`.
    ///
    /// For a vCPU that faults memory in: a new table takes three exchanges on words that all vCPUs share; with a cache of
    /// eight frames it does so once in eight times. A cache belongs to one thread, and to this table's memory.
    ///
    /// # Panics
    /// If the cache was not made for [`Stage2::memory`] of this table.
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, FrameCache, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// let cache = FrameCache::new(table.memory(), 8);
    /// let vcpu = table.handle().with_frame_cache(&cache);
    /// vcpu.map(Ipa::new(0), 4096, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::FAULT)?;
    /// assert_eq!(table.memory().stats().in_use, 2 + 8); // two root frames; two of the eight are tables now
    /// drop(cache);
    /// assert_eq!(table.memory().stats().in_use, 2 + 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_frame_cache(self, cache: &'t FrameCache<'t, M>) -> Self {
        assert!(
            cache.is_of(&self.core.memory),
            "a frame cache of another memory than the table's"
        );
        View {
            cache: Some(cache),
            ..self
        }
    }

    /// The same handle for a fault path: where a peer holds an entry LOCKED it answers [`Error::Again`] at once, so
    /// that the vCPU can re-enter the guest, instead of waiting for him. A range of several leaves may have been changed up
    /// to the address that the error names; doing the same again completes it.
    #[must_use]
    pub fn without_waiting(&self) -> Self {
        self.impatient()
    }
}

impl<'t, M: TableMemory, T: Tlb, A: Access> View<'t, M, T, A> {
    fn new(owner: &'t Arc<Core<M, T>>, access: A) -> Self {
        let core: &Core<M, T> = owner;
        View {
            owner,
            core,
            root: core.memory.root(core.root, core.config.geometry.root_frames()),
            tables: core.memory.tables(),
            access,
            encoded: Cell::new((Attrs::new(Prot::NONE), 0)),
            trail: Trail::default(),
            wait: true,
            frames: usize::MAX,
            owes: Cell::new(false),
            cache: A::Cache::default(),
        }
    }

    /// The same view once more.
    pub(crate) fn again(&self) -> Self {
        View {
            owner: self.owner,
            core: self.core,
            root: self.root,
            tables: self.tables,
            access: self.access.clone(),
            encoded: self.encoded.clone(),
            trail: Trail::default(),
            wait: self.wait,
            frames: self.frames,
            owes: Cell::new(false),
            cache: self.cache,
        }
    }

    /// Sets frames aside for one operation.
    pub(crate) fn reserve(&self) -> Reserve<'_, M> {
        Reserve::new(&self.core.memory, A::cache(self.cache), self.frames)
    }

    /// The same view that waits for no LOCKED entry.
    pub(crate) fn impatient(&self) -> Self {
        View {
            wait: false,
            ..self.again()
        }
    }

    /// The same view, of which each call may take `frames` table frames at most: what KVM's callers put into the cache that
    /// they pass. A call that needs more answers [`Error::OutOfFrames`].
    #[must_use]
    pub fn with_frames(&self, frames: usize) -> Self {
        View { frames, ..self.again() }
    }

    /// Whether the table has KVM's habits.
    #[inline(always)]
    pub(crate) fn kvm(&self) -> bool {
        self.core.config.semantics.is_kvm()
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// What the table was made for.
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// How descriptors are laid out in the table.
    pub fn format(&self) -> &Format {
        &self.core.format
    }

    /// Waits until every retired frame is back in the memory.
    ///
    /// It waits for every other thread's walk that was under way to end, so it must not be called from inside a walk
    /// (a sink, a visitor).
    pub fn drain(&self) {
        drain(self.core, &self.access);
    }

    /// Checks a range of IPAs: page-aligned, not empty, inside the IPA space. Returns its exclusive end.
    #[inline]
    pub(crate) fn check_range(&self, ipa: Ipa, size: u64) -> Result<u64, Error> {
        let geometry = &self.core.config.geometry;
        self.check_span("ipa", ipa.get(), size, geometry.ipa_limit())?;
        Ok(ipa.get() + size)
    }

    /// Checks a range of addresses against a limit.
    #[inline(always)]
    pub(crate) fn check_span(&self, what: &'static str, start: u64, size: u64, limit: u64) -> Result<(), Error> {
        let page = self.core.config.geometry.size(Level::L3);
        let right = (start | size) & (page - 1) == 0 && size != 0 && size <= limit && start <= limit - size;
        if right {
            Ok(())
        } else {
            self.refuse_span(what, start, size, limit)
        }
    }

    /// What is wrong with it.
    #[cold]
    fn refuse_span(&self, what: &'static str, start: u64, size: u64, limit: u64) -> Result<(), Error> {
        let page = self.core.config.geometry.granule().size();
        if start & (page - 1) != 0 {
            return Err(Error::Alignment {
                what,
                value: start,
                required: page,
            });
        }
        if size == 0 {
            return Err(Error::ZeroSize {
                ipa: Ipa::new(start),
                required: page,
            });
        }
        if size & (page - 1) != 0 {
            return Err(Error::Alignment {
                what: "size",
                value: size,
                required: page,
            });
        }
        match start.checked_add(size) {
            Some(end) if end <= limit => Ok(()),
            _ => Err(Error::Address {
                what,
                value: start,
                size,
                limit,
            }),
        }
    }
}
