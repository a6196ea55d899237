//! Tables for tests, word by word.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;

use s2pt::arch::{Attrs, Format, FormatOptions, Geometry, GeometryOptions, Level, Pa, Prot, Vtcr, VtcrOptions, Vttbr};
use s2pt::image::{Image, ImageOptions};

/// A table made by hand: word by word.
#[derive(Clone)]
pub struct Table {
    pub geometry: Geometry,
    pub format: Format,
    pub root: u64,
    pub words: BTreeMap<u64, u64>,
}

impl Table {
    pub fn new(options: GeometryOptions, root: u64) -> Self {
        let geometry = Geometry::new(options).unwrap();
        let format = Format::new(&geometry, FormatOptions::default());
        Self {
            geometry,
            format,
            root,
            words: BTreeMap::new(),
        }
    }

    /// 4K granule, 40-bit IPA: two root pages at 0x10000, level 2 at 0x20000, level 3 at 0x30000 for IPA 0x40000000 on.
    pub fn small() -> Self {
        let mut table = Self::new(GeometryOptions::default(), 0x10000);
        table.table(0x10008, 0x20000).table(0x20000, 0x30000);
        table
            .leaf(0x30000, Level::L3, 0x5000, Prot::RW)
            .leaf(0x30008, Level::L3, 0x6000, Prot::RW);
        table.leaf(0x20010, Level::L2, 0x4000_0000, Prot::RX);
        table
    }

    pub fn put(&mut self, at: u64, raw: u64) -> &mut Self {
        self.words.insert(at, raw);
        self
    }

    pub fn table(&mut self, at: u64, next: u64) -> &mut Self {
        self.put(at, self.format.table(Pa::new(next)).raw())
    }

    pub fn leaf(&mut self, at: u64, level: Level, pa: u64, prot: Prot) -> &mut Self {
        self.put(
            at,
            self.format.leaf(level, Pa::new(pa), &Attrs::new(prot)).unwrap().raw(),
        )
    }

    /// Every page that has a word is there, the others are not.
    pub fn image(&self) -> Image<impl Fn(Pa) -> Option<u64> + '_> {
        let page = self.geometry.granule().size();
        let read = move |pa: Pa| {
            let first = pa.align_down(page).get();
            let present = first == self.root & !(page - 1)
                || (self.root..self.root + self.geometry.root_size()).contains(&first)
                || self.words.range(first..first + page).next().is_some();
            present.then(|| self.words.get(&pa.get()).copied().unwrap_or(0))
        };
        let vtcr = Vtcr::build(&self.geometry, VtcrOptions::default());
        let vttbr = Vttbr::build(7, Pa::new(self.root), false, &self.geometry).unwrap();
        Image::new(read, vtcr, vttbr, ImageOptions::default()).unwrap()
    }

    pub fn dump(&self) -> Vec<u8> {
        self.image().to_dump().unwrap()
    }
}
