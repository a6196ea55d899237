//! Mapping a range: what a fault does for one page, and what a loader does for a terabyte.

use super::View;
use super::error::Error;
use super::reclaim::Access;
use super::semantics::WalkFlags;
use super::tlb::Tlb;
use super::wanted::Leaves;
use super::way::{ByAccess, Way};
use crate::arch::{Attrs, Format, Ipa, Level, Pa, Pte};
use crate::memory::TableMemory;
use core::borrow::Borrow;

/// What `map` does where something is mapped already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Existing {
    /// It makes way: changed in place where only permissions differ, by break-before-make otherwise.
    #[default]
    Replace,
    /// It stays; only holes are filled. This is the fault path: a peer was faster.
    Keep,
    /// It is an error, and nothing is mapped at all, nor was for a moment. While it is not decided nobody can use the range:
    /// who comes to it waits, or is told [`Again`](Error::Again). (With KVM's semantics pages may be mapped for a moment.)
    Error,
}

/// How to map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapOptions {
    /// What to do where something is mapped.
    pub existing: Existing,
    /// The smallest level number that a leaf may have, which is the largest block: `Some(Level::L3)` forces pages.
    /// `None`: whatever the geometry allows.
    pub largest: Option<Level>,
    /// With [`Existing::Keep`]: where a block fits, it may take the place of a table and what is mapped in it.
    pub over_tables: bool,
    /// How KVM would walk. Only with [`Semantics::Kvm`](super::Semantics::Kvm).
    pub flags: WalkFlags,
}

impl MapOptions {
    /// A fault: fill the hole, leave alone what a peer mapped meanwhile.
    pub const FAULT: Self = Self {
        existing: Existing::Keep,
        largest: None,
        over_tables: false,
        flags: WalkFlags::empty(),
    };

    /// A fault as KVM handles it, for a table with its semantics: what translates to the same memory is left alone, and
    /// everything else makes way.
    pub const KVM_FAULT: Self = Self {
        existing: Existing::Replace,
        largest: None,
        over_tables: false,
        flags: WalkFlags::FAULT,
    };
}

/// What a `map` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// Bytes whose translation was written.
    pub bytes: u64,
    /// Bytes that were mapped and stay as they were: the same translation already, or kept.
    pub kept: u64,
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Maps `size` bytes from `ipa` to as many from `pa` with `attrs`, in the largest leaves that fit.
    ///
    /// `ipa`, `pa` and `size` are multiples of the page size. A leaf may stand at a level if the geometry and
    /// [`MapOptions::largest`] allow it, the range covers it and both addresses are aligned to its size. Whole new
    /// tables are built in private and linked with one compare-exchange. A block that the range covers in part is cut:
    /// the rest keeps its translation. What replaces a table frees it after a grace period.
    ///
    /// [`Attrs::contiguous`] is ignored: the hint would outlive its group.
    ///
    /// Maintenance: cache operations on the new output (none with FWB, instructions only if executable); nothing else for
    /// a hole; a broadcast TLBI where a translation is replaced, complete before the new one is visible; in-place for a
    /// change of permissions; one barrier that publishes the result.
    ///
    /// # Errors
    /// [`Error::Alignment`], [`Error::ZeroSize`], [`Error::Address`] (IPA or PA space), [`Error::Attrs`];
    /// [`Error::Conflict`] under [`Existing::Error`]; [`Error::Again`] under [`Existing::Keep`] if the
    /// whole range was mapped already; [`Error::OutOfFrames`]. Nothing was changed then.
    ///
    /// One corner remains, and only with the memory used up to the last frame: frames are counted before the first
    /// change, and a peer who at that moment unmaps or collapses tables of the same range makes more of them necessary.
    /// What he gave back serves, once it is free. If somebody else takes it first, or a walker keeps it, then
    /// [`Error::OutOfFrames`] may come part way (never under [`Existing::Error`]); doing the same again completes it.
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, Error, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// # let view = table.handle();
    /// let attrs = Attrs::new(Prot::RW);
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0x4000_0000), &attrs, MapOptions::default())?; // a block
    /// let done = view.map(Ipa::new(0x1000), 0x2000, Pa::new(0x4000_1000), &attrs, MapOptions::default())?;
    /// assert_eq!((done.bytes, done.kept), (0, 0x2000)); // it translated like that already
    /// let fault = view.map(Ipa::new(0x1000), 0x1000, Pa::new(0x4000_1000), &attrs, MapOptions::FAULT);
    /// assert!(matches!(fault, Err(Error::Again { .. }))); // another vCPU was faster
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn map(&self, ipa: Ipa, size: u64, pa: Pa, attrs: &Attrs, options: MapOptions) -> Result<Mapped, Error> {
        if self.map_leaf(|| self.access.pin(), &ByAccess, (ipa, size, pa), attrs, &options) {
            return Ok(Mapped { bytes: size, kept: 0 });
        }
        self.map_range(ipa, size, pa, attrs, options)
    }

    /// Any request, and what is wrong with it.
    #[inline(never)]
    pub(crate) fn map_range(
        &self,
        ipa: Ipa,
        size: u64,
        pa: Pa,
        attrs: &Attrs,
        options: MapOptions,
    ) -> Result<Mapped, Error> {
        let end = match self.check_range(ipa, size) {
            Ok(end) => end,
            Err(refused) => return Err(self.first_refusal(ipa, attrs, refused)),
        };
        if !self.kvm() && !options.flags.is_empty() {
            return Err(Error::Flags { flags: options.flags });
        }
        let leaves = self.leaves_of(ipa, size, pa, attrs, &options)?;
        let start = ipa.get();
        if self.kvm() {
            return if options.flags.contains(WalkFlags::HANDLE_FAULT) {
                self.impatient().install(start, end, leaves, options)
            } else {
                self.install(start, end, leaves, options)
            };
        }
        self.install(start, end, leaves, options)
    }

    /// What is refused first: KVM looks at the attributes before the range.
    #[cold]
    fn first_refusal(&self, ipa: Ipa, attrs: &Attrs, otherwise: Error) -> Error {
        match self.core.format.attr_bits(Level::L3, attrs) {
            Err(reason) if self.kvm() => Error::Attrs { ipa, reason },
            _ => otherwise,
        }
    }

    /// The fault path's common case: one leaf, the table for it is there, and the entry is empty. True if this mapped it.
    /// Whatever else is asked or found, and whatever is wrong, [`map_range`](Self::map_range) deals with.
    #[inline(always)]
    pub(crate) fn map_leaf<G: Borrow<A::Guard>>(
        &self,
        enter: impl FnOnce() -> G,
        way: &impl Way,
        (ipa, size, pa): (Ipa, u64, Pa),
        attrs: &Attrs,
        options: &MapOptions,
    ) -> bool {
        let geometry = &self.core.config.geometry;
        let Some(level) = geometry.leaf_level(size) else {
            return false;
        };
        let stray = (ipa.get() | pa.get()) & (size - 1) != 0;
        if stray || ipa.get() >= geometry.ipa_limit() || pa.get() >= geometry.pa_limit() || size > geometry.pa_limit() {
            return false;
        }
        let strange = !options.flags.is_empty() && !self.kvm();
        if strange || level < options.largest.unwrap_or(level) {
            return false;
        }
        let (known, mut page) = self.encoded.get();
        if page == 0 || known != *attrs {
            page = self.core.format.encode(Level::L3, attrs);
            if page == 0 {
                return false;
            }
            self.encoded.set((*attrs, page));
        }
        let bits = if level.is_last() { page } else { Format::block_of(page) };
        // The contiguous hint speaks for a group of entries; the table changes them one by one, so it never sets it.
        let leaf = Pte::from_raw(bits & !Format::CONTIGUOUS_BIT | self.core.format.output_bits(pa));
        let guard = enter();
        let (table, index, found) = way.find(self, guard.borrow(), ipa, level);
        let empty = mutated!(
            LockedFilled | FrozenFilled,
            super::entry::fillable(found),
            found.is_empty()
        );
        if table.level != level || !empty {
            return false;
        }
        if mutated!(OutputCleanedLate, false, T::ACTIVE) && !options.flags.contains(WalkFlags::SKIP_CMO) {
            self.prepare_output(level, found, leaf);
        }
        let done = self.publish(table, index, found, leaf).is_ok();
        mutated!(OutputCleanedLate, self.prepare_output(level, found, leaf));
        if done {
            mutated!(PublishBarrierFault, (), self.publish_barrier());
        }
        done
    }

    /// Checks a request and works out its leaves.
    #[inline]
    fn leaves_of(&self, ipa: Ipa, size: u64, pa: Pa, attrs: &Attrs, options: &MapOptions) -> Result<Leaves<'_>, Error> {
        let geometry = &self.core.config.geometry;
        let format = &self.core.format;
        self.check_span("pa", pa.get(), size, geometry.pa_limit())?;
        let largest = options.largest.unwrap_or(Level::LM1);
        let bits = format
            .attr_bits(Level::L3, attrs)
            .map_err(|reason| Error::Attrs { ipa, reason })?;
        // The contiguous hint speaks for a group of entries; the table changes them one by one, so it never sets it.
        let page = bits & !Format::CONTIGUOUS_BIT;
        let block = format.relevel(Pte::from_raw(page), Level::L3, Level::L2).raw();
        Ok(Leaves {
            geometry,
            format,
            block,
            page,
            offset: pa.get().wrapping_sub(ipa.get()),
            largest,
        })
    }
}
