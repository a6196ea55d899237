//! The way into a table that its operations are defined on: shared by many threads, or exclusive.

use super::config::Config;
use super::error::Error;
use super::frames::{FrameCache, Reserve};
use super::reclaim::{Access, Alone, Local, drain};
use super::shared::Core;
use super::tlb::{Null, Tlb};
use super::way::Trail;
use crate::arch::{Attrs, Format, Ipa, Level, Prot};
use crate::memory::TableMemory;
use crate::sync::{Arc, AtomicU64};
use core::cell::Cell;

/// Shared access to a table by one thread. Cheap to use, not so cheap to make: keep one per vCPU.
pub type Handle<'t, M, T = Null> = View<'t, M, T, Local>;

/// Access by the only user: the same operations with plain stores, frames freed at once.
pub type Exclusive<'t, M, T = Null> = View<'t, M, T, Alone>;

/// A way into a table, shared or exclusive by its access mode `A`. All operations are defined on it.
///
/// A shared view belongs to one thread. Any number of threads, each with its own, may do anything at the same time, on any
/// ranges: each entry changes atomically, and what a call takes away no CPU uses when it returns. Ranges are given in
/// bytes and are never rounded: one that is misaligned, empty or beyond the IPA space is refused before anything changes
/// (in the methods below: "errors of the range").
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

impl<'t, M: TableMemory, T: Tlb> Handle<'t, M, T> {
    /// The same handle, which takes its table frames out of `cache`.
    ///
    /// For a vCPU that faults memory in: a new table takes three exchanges on words that all vCPUs share; with a cache of
    /// eight frames it does so once in eight times. A cache belongs to one thread, and to this table's memory.
    ///
    /// # Panics
    /// If the cache was not made for [`Stage2::memory`](super::Stage2::memory) of this table.
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
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot, Pte};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, Error, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// # let view = table.handle();
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?; // one block
    /// view.poke(Ipa::new(0), Level::L2, Pte::LOCKED)?; // as if a peer were between break and make
    /// assert!(matches!(view.without_waiting().unmap(Ipa::new(0), 2 << 20), Err(Error::Again { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn without_waiting(&self) -> Self {
        self.impatient()
    }
}

impl<'t, M: TableMemory, T: Tlb, A: Access> View<'t, M, T, A> {
    pub(super) fn new(owner: &'t Arc<Core<M, T>>, access: A) -> Self {
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
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, Error, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// # let view = table.handle();
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?; // one block
    /// let refused = view.with_frames(0).unmap(Ipa::new(0), 0x1000); // to keep the rest takes a table
    /// assert!(matches!(refused, Err(Error::OutOfFrames { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
    /// (a sink, a visitor, a [`Stay`](super::Stay)). An example is at
    /// [`Stage2::reclaim_stats`](super::Stage2::reclaim_stats).
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
