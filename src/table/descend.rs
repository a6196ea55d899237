//! Straight down to the entry of one address: a load a level and nothing else.
//!
//! Every fault and every lookup goes this way, so it is compiled twice: once for tables of 4 KiB with plain descriptors,
//! where the shift from level to level, the mask of an index and that of an address are constants, and once for all
//! other shapes. Both are the same lines.

use super::View;
use super::entry::Table;
use super::reclaim::Access;
use super::tlb::Tlb;
use crate::arch::{Format, Geometry, Granule, Ipa, Level, Pa, Pte};
use crate::memory::TableMemory;

/// What a walk has to know of a table's shape.
trait Shape: Copy {
    /// IPA bits that a table below the root resolves.
    fn stride(self) -> u32;

    /// The table behind a TABLE entry.
    fn next_table(self, pte: Pte) -> Pa;
}

/// 4 KiB, addresses up to bit 47 where they are.
#[derive(Clone, Copy)]
struct Plain4K;

impl Shape for Plain4K {
    #[inline(always)]
    fn stride(self) -> u32 {
        Granule::K4.stride()
    }

    #[inline(always)]
    fn next_table(self, pte: Pte) -> Pa {
        Pa::new(pte.raw() & Format::PLAIN_4K)
    }
}

/// Whatever the table was made for.
#[derive(Clone, Copy)]
struct AsMade<'t> {
    geometry: &'t Geometry,
    format: &'t Format,
}

impl Shape for AsMade<'_> {
    #[inline(always)]
    fn stride(self) -> u32 {
        self.geometry.stride()
    }

    #[inline(always)]
    fn next_table(self, pte: Pte) -> Pa {
        self.format.next_table(pte)
    }
}

/// Whether tables of this shape are walked as [`Plain4K`].
pub(crate) fn is_plain(geometry: &Geometry, format: &Format) -> bool {
    geometry.stride() == Plain4K.stride() && format.output_mask() == Format::PLAIN_4K
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// The entry at which the walk for `ipa` ends, at `last` or above, as it is at this moment.
    #[inline(always)]
    pub(crate) fn descend<'g>(&'g self, guard: &'g A::Guard, ipa: Ipa, last: Level) -> (Table<'g>, usize, Pte) {
        if self.core.plain {
            return self.descend_as(Plain4K, guard, ipa, last);
        }
        let shape = AsMade {
            geometry: &self.core.config.geometry,
            format: &self.core.format,
        };
        self.descend_as(shape, guard, ipa, last)
    }

    #[inline(always)]
    fn descend_as<'g>(
        &'g self,
        shape: impl Shape,
        guard: &'g A::Guard,
        ipa: Ipa,
        last: Level,
    ) -> (Table<'g>, usize, Pte) {
        let tables = self.tables;
        let mut table = self.root_table(guard);
        let (mut shift, root_mask) = self.core.config.geometry.root_index();
        let mut index = (ipa.get() >> (shift & 63)) as usize & root_mask;
        let last_shift = self.core.config.geometry.shift(last);
        loop {
            let pte = self.load(table, index);
            if shift <= last_shift || !pte.is_table_above_pages() {
                return (table, index, pte);
            }
            table = self.table_behind(tables, table, shape.next_table(pte));
            shift -= shape.stride();
            index = (ipa.get() >> (shift & 63)) as usize & ((1 << shape.stride()) - 1);
        }
    }
}
