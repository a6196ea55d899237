//! Dirty state in hardware's hands: a leaf that is *clean* lacks the right to write and has DBM, so that the first write makes
//! it writable, without a fault (VTCR_EL2.HD). Writable is dirty.
//!
//! Whoever takes the dirty state of a leaf makes it clean by the exchange that reads it, so a write that hardware notes
//! between look and exchange makes the exchange fail, and is seen at the second look. A CPU that holds the leaf as writable
//! writes without noting it: so the state counts as taken only when the TLBI is complete, and the caller hears of it then.

use super::View;
use super::attrs::Changed;
use super::batch::Batch;
use super::error::Error;
use super::maintenance::Stale;
use super::reclaim::Access;
use super::rewrite::Flush;
use super::tlb::Tlb;
use super::walk::{At, Step, Visitor};
use crate::arch::{Format, Ipa, Pte};
use crate::memory::TableMemory;
use alloc::vec::Vec;

/// What becomes of the leaves whose dirty state is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clean {
    /// They are clean: hardware notes the next write.
    Watched,
    /// They may not be written to at all, not even by hardware's leave.
    Protected,
}

impl Clean {
    /// What a leaf is then.
    const fn of(self, pte: Pte) -> Pte {
        let raw = pte.raw();
        Pte::from_raw(match self {
            Self::Watched if raw & Format::WRITE_BIT != 0 => raw & !Format::WRITE_BIT | Format::DBM_BIT,
            Self::Watched => raw,
            Self::Protected => raw & !(Format::WRITE_BIT | Format::DBM_BIT),
        })
    }
}

/// Makes dirty leaves clean and remembers which they were.
struct Harvest {
    then: Clean,
    dirty: Vec<(Ipa, u64)>,
    stale: Stale,
}

impl<M: TableMemory, T: Tlb, A: Access> Visitor<M, T, A> for Harvest {
    fn entry<'g>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        _: &'g A::Guard,
        _: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error> {
        if !pte.is_valid() {
            return Ok(Step::Next);
        }
        if pte.is_table(at.level()) {
            return Ok(Step::Descend);
        }
        let new = self.then.of(pte);
        if new != pte && view.change(at.table, at.index, pte, new).is_err() {
            return Ok(Step::Retry);
        }
        if pte.raw() & Format::WRITE_BIT != 0 {
            match self.dirty.last_mut() {
                Some((ipa, size)) if ipa.get() + *size == at.base => *size += at.size,
                _ => self.dirty.push((Ipa::new(at.base), at.size)),
            }
        }
        if new != pte {
            self.stale.add(Ipa::new(at.base), at.size, Some(at.level()));
        }
        Ok(Step::Next)
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Puts the dirty state of every writable leaf that the range touches into hardware's hands: it is clean then, and the
    /// next write makes it dirty without a fault. Holes, and leaves that may not be written to, are skipped.
    ///
    /// Whole leaves: a block is dirty or clean as a whole. For a log by the page, split it before.
    /// `ipa` and `size` (bytes) are multiples of the page size. Maintenance: one broadcast TLBI over what changed, complete
    /// when this returns: every later write is noted.
    ///
    /// # Errors
    /// [`Error::NoDirtyState`] if the table was made without [`Config::hd`](super::Config::hd); errors of the range.
    ///
    /// ```
    /// use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Pa, Prot};
    /// use s2pt::machine::{Access, Machine, MachineOptions};
    /// use s2pt::memory::{Arena, ArenaOptions};
    /// use s2pt::sync::Arc;
    /// use s2pt::table::{Clean, Config, MapOptions, Stage2};
    ///
    /// let machine = Machine::new(MachineOptions::default())?;
    /// let port = machine.port();
    /// let config = Config { hd: true, ..Config::new(Geometry::new(GeometryOptions::default())?) };
    /// let table = Arc::new(Stage2::new(config, Arena::new(ArenaOptions::default())?, port.clone())?);
    /// port.attach(&table);
    /// machine.load(&port);
    /// let view = table.handle();
    /// let pages = MapOptions { largest: Some(s2pt::arch::Level::L3), ..MapOptions::default() };
    /// view.map(Ipa::new(0), 0x4000, Pa::new(0), &Attrs::new(Prot::RW), pages)?;
    ///
    /// view.watch_writes(Ipa::new(0), 0x4000)?;
    /// machine.cpu(0).access(Access::write(Ipa::new(0x2008), 8, 1)).unwrap(); // no fault
    /// assert_eq!(view.take_dirty(Ipa::new(0), 0x4000, Clean::Watched)?, [(Ipa::new(0x2000), 0x1000)]);
    /// assert!(view.take_dirty(Ipa::new(0), 0x4000, Clean::Watched)?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn watch_writes(&self, ipa: Ipa, size: u64) -> Result<Changed, Error> {
        let end = self.check_range(ipa, size)?;
        self.check_dirty_state()?;
        let clean = |_: &Format, pte: Pte| Clean::Watched.of(pte);
        Ok(self.rewrite(ipa.get(), end, clean, Flush::Broadcast, true)?.changed)
    }

    /// Ends [`watch_writes`](Self::watch_writes): what hardware watched may be written to, and is not noted any more.
    ///
    /// Take the dirty state before, if it matters. Maintenance: none, rights are only added.
    ///
    /// # Errors
    /// Errors of the range.
    pub fn unwatch_writes(&self, ipa: Ipa, size: u64) -> Result<Changed, Error> {
        let end = self.check_range(ipa, size)?;
        let open = |_: &Format, pte: Pte| {
            if pte.raw() & Format::DBM_BIT == 0 {
                return pte;
            }
            Pte::from_raw(pte.raw() & !Format::DBM_BIT | Format::WRITE_BIT)
        };
        Ok(self.rewrite(ipa.get(), end, open, Flush::None, true)?.changed)
    }

    /// Takes the dirty state of the leaves that the range touches: says which were written to since it was taken last, and
    /// makes them clean. Whole leaves.
    ///
    /// Returns runs of addresses and bytes, ascending; a run may begin before `ipa` and end behind the range, where a block
    /// does. What is copied after this contains every write that it reports, and each later write is noted for the next.
    /// A leaf that may be written to counts as dirty, whoever gave the right.
    /// `ipa` and `size` (bytes) are multiples of the page size. Maintenance: one broadcast TLBI over what was dirty, complete
    /// when this returns.
    ///
    /// # Errors
    /// [`Error::NoDirtyState`] if the table was made without [`Config::hd`](super::Config::hd); errors of the range.
    ///
    /// An example is at [`watch_writes`](Self::watch_writes).
    pub fn take_dirty(&self, ipa: Ipa, size: u64, then: Clean) -> Result<Vec<(Ipa, u64)>, Error> {
        let end = self.check_range(ipa, size)?;
        self.check_dirty_state()?;
        let mut harvest = Harvest {
            then,
            dirty: Vec::new(),
            stale: Stale::NONE,
        };
        self.narrowing();
        let walked = self.walk(ipa.get(), end, &mut harvest);
        self.invalidate(harvest.stale);
        self.narrowed();
        walked?;
        Ok(harvest.dirty)
    }

    /// Does to a watched leaf what hardware does at a write: makes it dirty. For simulations of guests that do not go through
    /// simulated hardware; on a leaf that is not watched it does nothing. `ipa` is a multiple of the page size.
    ///
    /// # Errors
    /// Errors of the address.
    pub fn note_write(&self, ipa: Ipa) -> Result<(), Error> {
        let page = self.core.config.geometry.granule().size();
        let end = self.check_range(ipa, page)?;
        let write = |_: &Format, pte: Pte| {
            if pte.raw() & Format::DBM_BIT == 0 {
                return pte;
            }
            Pte::from_raw(pte.raw() | Format::WRITE_BIT)
        };
        self.rewrite(ipa.get(), end, write, Flush::None, true).map(drop)
    }

    fn check_dirty_state(&self) -> Result<(), Error> {
        if self.core.config.hd {
            Ok(())
        } else {
            Err(Error::NoDirtyState)
        }
    }
}
