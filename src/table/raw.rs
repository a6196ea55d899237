//! Entries as they are, for those who compare tables bit by bit.

use super::View;
use super::error::Error;
use super::reclaim::Access;
use super::tlb::Tlb;
use crate::arch::{Ipa, Level, Pte};
use crate::memory::TableMemory;

/// An entry that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw {
    /// The first IPA that it translates, or would.
    pub ipa: Ipa,
    /// Its level.
    pub level: Level,
    /// Its value.
    pub pte: Pte,
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Calls `each` for every entry of the table that is not empty, parents first, in ascending order: tables, leaves, marks,
    /// and on a handle that does not wait also LOCKED entries. Beside writers it is weakly consistent, as
    /// [`leaves`](Self::leaves) is.
    ///
    /// # Errors
    /// [`Error::Again`] on a handle that does not wait, if a peer takes the tables apart as they are read.
    ///
    /// ```
    /// # use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
    /// # use s2pt::memory::{Arena, ArenaOptions};
    /// # use s2pt::table::{Config, MapOptions, Null, Stage2};
    /// # let geometry = Geometry::new(GeometryOptions::default())?;
    /// # let table = Stage2::new(Config::new(geometry), Arena::new(ArenaOptions::default())?, Null)?;
    /// # let view = table.handle();
    /// view.map(Ipa::new(0), 2 << 20, Pa::new(0), &Attrs::new(Prot::RW), MapOptions::default())?; // one block
    /// let mut levels = Vec::new();
    /// view.for_each_raw(|entry| levels.push(entry.level))?;
    /// assert_eq!(levels, [Level::L1, Level::L2]); // the entry of a table, and in it the block
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn for_each_raw(&self, mut each: impl FnMut(Raw)) -> Result<(), Error> {
        self.for_each_entry_once(|_, at, pte| {
            if !pte.is_empty() {
                each(Raw {
                    ipa: Ipa::new(at.base),
                    level: at.level(),
                    pte,
                });
            }
        })
    }

    /// For tests: writes `value` over the entry at `level` for `ipa`, past the protocol and without maintenance, and returns
    /// what was there. This is how an entry comes to be LOCKED whose owner never returns.
    ///
    /// # Errors
    /// [`Error::NotMapped`] if the walk ends above `level`; errors of the range.
    pub fn poke(&self, ipa: Ipa, level: Level, value: Pte) -> Result<Pte, Error> {
        let page = self.core.config.geometry.granule().size();
        self.check_range(ipa.align_down(page), page)?;
        loop {
            let guard = self.access.pin();
            let (table, index, found) = self.descend(&guard, ipa, level);
            if table.level != level {
                return Err(Error::NotMapped {
                    ipa,
                    level: table.level,
                });
            }
            if self.overwrite(table, index, found, value).is_ok() {
                return Ok(found);
            }
        }
    }
}
