//! The table as its owner holds it, and the ways into it.

use super::config::Config;
use super::descend::is_plain;
use super::error::Error;
use super::pressure::Backlog;
use super::reclaim::{Alone, Collector, Local};
use super::shared::Core;
use super::tlb::{Event, Null, Tlb};
use super::view::{Exclusive, Handle, View};
use crate::arch::{Format, FormatOptions, Pa, Vtcr, VtcrOptions, Vttbr};
use crate::memory::TableMemory;
use crate::sync::{Arc, AtomicUsize, Ordering};

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

impl<M: TableMemory, T: Tlb> core::fmt::Debug for Stage2<M, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Stage2({:?}, root {})", self.core.config.geometry, self.core.root)
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
