//! Each contestant does what its rows measure: looked at after every operation, before anything is timed.

use crate::layout::{BLOCK, ENTRIES, IPA, PA, PAGE, Size, output, page};
use crate::pool::pool;
use crate::table::{Can, Contestant, Leaf, Op, Table};

/// How many pages are looked at after each operation, spread over all of them.
const PROBES: u64 = 64;

/// Does every operation that `C` has.
///
/// # Panics
///
/// If one did something else than its row says.
pub fn check<C: Contestant>(size: Size) {
    use Op::*;
    for op in [
        MapPages,
        MapBlocks,
        Fault,
        Translate,
        WriteProtect,
        Relax,
        Unmap,
        UnmapFree,
        UnmapPage,
        Split,
        Collapse,
    ] {
        if matches!(C::can(op), Can::Not(_)) {
            continue;
        }
        pool().tidy();
        let mut table = C::new(pool());
        let empty = pool().frames_out();
        let mut session = table.session();
        Check {
            view: C::view(&mut session),
            size,
            what: format!("{}, {op:?}", C::about().id),
        }
        .one(op);
        if op == UnmapFree {
            C::settle(&mut session);
            // Tables between the root and the leaves' may stay: the range covers a part of what they map.
            let (left, between) = (pool().frames_out() - empty, C::about().levels.saturating_sub(2));
            assert!(
                left <= between as usize,
                "{}: {left} table frames are still out",
                C::about().id
            );
        }
    }
}

struct Check<V> {
    view: V,
    size: Size,
    what: String,
}

impl<V: Table> Check<V> {
    fn one(&mut self, op: Op) {
        let (size, block) = (self.size.bytes, self.size.blocks() / 2);
        let inside = IPA + block * BLOCK;
        match op {
            Op::MapPages => {
                self.unmapped();
                self.view.map_pages(IPA, size, PA);
                self.mapped(PAGE, true);
            }
            Op::MapBlocks => {
                self.view.map_blocks(IPA, size, PA);
                self.mapped(BLOCK, true);
            }
            Op::Fault | Op::FaultRandom => {
                let numbers = 0..self.size.pages();
                for number in numbers.clone().step_by(2).chain(numbers.skip(1).step_by(2)) {
                    self.view.fault(page(number), output(number));
                }
                self.mapped(PAGE, true);
            }
            Op::Translate => {
                self.view.map_pages(IPA, BLOCK, PA);
                self.view.map_blocks(IPA + BLOCK, size - BLOCK, PA + BLOCK);
                for offset in [0, PAGE + 5, BLOCK - 1, BLOCK, BLOCK + 3 * PAGE + 7, size - 1] {
                    assert_eq!(self.view.translate(IPA + offset), Some(PA + offset), "{}", self.what);
                }
                for outside in [IPA - 1, IPA + size, IPA + size + BLOCK] {
                    assert_eq!(self.view.translate(outside), None, "{}", self.what);
                }
            }
            Op::WriteProtect => {
                self.view.map_pages(IPA, size, PA);
                self.view.write_protect(IPA, size);
                self.mapped(PAGE, false);
            }
            Op::Relax => {
                self.view.map_pages(IPA, size, PA);
                self.view.write_protect(IPA, size);
                self.view.relax(page(3));
                self.leaf(3, PAGE, true);
                self.leaf(2, PAGE, false);
                self.leaf(4, PAGE, false);
            }
            Op::Unmap | Op::UnmapFree => {
                self.view.map_pages(IPA, size, PA);
                if op == Op::Unmap {
                    self.view.unmap(IPA, size);
                } else {
                    self.view.unmap_free(IPA, size);
                }
                self.unmapped();
            }
            Op::UnmapPage => {
                self.view.map_pages(IPA, size, PA);
                self.view.unmap_page(page(3));
                assert_eq!(self.view.leaf(page(3)), None, "{}", self.what);
                self.leaf(2, PAGE, true);
                self.leaf(4, PAGE, true);
                (0..self.size.pages())
                    .filter(|&number| number != 3)
                    .for_each(|number| self.view.unmap_page(page(number)));
                self.unmapped();
            }
            Op::Split => {
                self.view.map_blocks(IPA, size, PA);
                self.view.split(inside);
                for number in block * ENTRIES..(block + 1) * ENTRIES {
                    self.leaf(number, PAGE, true);
                }
                self.leaf(block * ENTRIES - 1, BLOCK, true);
                self.leaf((block + 1) * ENTRIES, BLOCK, true);
            }
            Op::Collapse => {
                self.view.map_pages(IPA, size, PA);
                self.view.collapse(inside);
                for number in block * ENTRIES..(block + 1) * ENTRIES {
                    self.leaf(number, BLOCK, true);
                }
                self.leaf(block * ENTRIES - 1, PAGE, true);
                // A table that is not uniform stays as it is.
                let other = IPA + (block - 1) * BLOCK;
                self.view.write_protect(other + PAGE, PAGE);
                self.view.collapse(other);
                self.leaf((block - 1) * ENTRIES, PAGE, true);
                self.leaf((block - 1) * ENTRIES + 1, PAGE, false);
            }
        }
    }

    /// Page `number` translates as it should, by a leaf of `size` bytes.
    fn leaf(&mut self, number: u64, size: u64, writable: bool) {
        let pa = output(number);
        let expected = Some(Leaf { pa, size, writable });
        assert_eq!(self.view.leaf(page(number)), expected, "{}, page {number}", self.what);
        assert_eq!(
            self.view.translate(page(number)),
            Some(pa),
            "{}, page {number}",
            self.what
        );
    }

    fn probes(&self) -> impl Iterator<Item = u64> + use<V> {
        let last = self.size.pages() - 1;
        (0..self.size.pages())
            .step_by((self.size.pages() / PROBES).max(1) as usize)
            .chain([last])
    }

    fn mapped(&mut self, size: u64, writable: bool) {
        self.probes().for_each(|number| self.leaf(number, size, writable));
    }

    fn unmapped(&mut self) {
        for number in self.probes() {
            assert_eq!(self.view.leaf(page(number)), None, "{}, page {number}", self.what);
            assert_eq!(self.view.translate(page(number)), None, "{}, page {number}", self.what);
        }
    }
}
