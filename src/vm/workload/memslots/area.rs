//! Where the slots lie, and which part of the memory a turn is about.

use crate::arch::{Ipa, Pa};
use crate::memory::TableMemory;
use crate::table::Tlb;
use crate::vm::{Error, Slot, Vm};

/// Where the guest's memory starts, in its own space and in the host's.
pub(super) const BASE: u64 = 1 << 30;

/// A run of pages, counted from the start of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) first: u64,
    pub(super) pages: u64,
}

impl Area {
    /// The part of it that vCPU `index` of so many has: the first ones take a page more, where they do not go evenly.
    pub(super) fn part(self, index: usize, vcpus: usize) -> Self {
        let (index, vcpus) = (index as u64, vcpus as u64);
        let (each, more) = (self.pages / vcpus, self.pages % vcpus);
        Self {
            first: self.first + index * each + index.min(more),
            pages: each + u64::from(index < more),
        }
    }

    /// The first and the second half.
    pub(super) const fn halves(self) -> [Self; 2] {
        let pages = self.pages / 2;
        let second = Self {
            first: self.first + pages,
            pages: self.pages - pages,
        };
        [Self { pages, ..self }, second]
    }
}

/// The slots of a run, one behind the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) page: u64,
    pub(super) all: Area,
    pub(super) slots: u32,
    /// Bytes of each but the last one, which has the rest.
    pub(super) each: u64,
}

impl Layout {
    /// `bytes` bytes in so many slots; whole pages of the host, if the slots are large enough for one.
    pub(super) fn new<M: TableMemory, T: Tlb>(vm: &Vm<M, T>, bytes: u64, slots: u32) -> Self {
        let (page, even) = (vm.page_size(), bytes / u64::from(slots));
        let unit = if even >= vm.largest_size() {
            vm.largest_size()
        } else {
            page
        };
        Self {
            page,
            all: Area {
                first: 0,
                pages: bytes / page,
            },
            slots,
            each: even / unit * unit,
        }
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.all.pages * self.page
    }

    pub(super) fn slot(&self, id: u32) -> Slot {
        let start = u64::from(id) * self.each;
        let size = if id + 1 == self.slots {
            self.bytes() - start
        } else {
            self.each
        };
        Slot::linear(id, Ipa::new(BASE + start), size, Pa::new(BASE + start))
    }

    /// Pages on both sides of the beginning of the last slot, or before it, as many as there are.
    pub(super) fn around_last(&self, bytes: u64, inside: bool) -> Area {
        let pages = (bytes / self.page).max(2);
        let last = u64::from(self.slots - 1) * self.each / self.page;
        let end = if inside {
            (last + pages / 2).min(self.all.pages)
        } else {
            last
        };
        let first = end.saturating_sub(pages);
        Area {
            first,
            pages: end - first,
        }
    }

    pub(super) fn ipa(&self, page: u64) -> Ipa {
        Ipa::new(BASE + page * self.page)
    }

    pub(super) const fn pa(&self, page: u64) -> Pa {
        Pa::new(BASE + page * self.page)
    }
}

/// The slots that were made, gone again whatever ends the run.
pub(super) struct Made<'v, M: TableMemory, T: Tlb> {
    pub(super) vm: &'v Vm<M, T>,
    pub(super) count: u32,
}

impl<M: TableMemory, T: Tlb> Made<'_, M, T> {
    pub(super) fn make(&mut self, layout: &Layout) -> Result<(), Error> {
        for id in 0..layout.slots {
            self.vm.create_slot(layout.slot(id))?;
            self.count += 1;
        }
        Ok(())
    }

    pub(super) fn remove(&mut self) -> Result<(), Error> {
        while let Some(last) = self.count.checked_sub(1) {
            self.count = last;
            self.vm.delete_slot(last)?;
        }
        Ok(())
    }
}

impl<M: TableMemory, T: Tlb> Drop for Made<'_, M, T> {
    fn drop(&mut self) {
        // Something is there only after an error, which is reported.
        while self.count > 0 {
            let _ = self.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_whole_one_after_the_other() {
        for (pages, vcpus) in [(10, 3), (2, 4), (64, 1), (7, 7)] {
            let all = Area { first: 5, pages };
            let mut next = all.first;
            for index in 0..vcpus {
                let part = all.part(index, vcpus);
                assert_eq!(part.first, next);
                next += part.pages;
            }
            assert_eq!(next, all.first + pages);
            let [one, two] = all.halves();
            assert_eq!((one.first + one.pages, two.first + two.pages), (two.first, next));
        }
    }
}
