//! What the rows share: memory for tables, the guest's size, an order of its pages.

use super::BenchError;
use crate::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
use crate::memory::{Arena, ArenaOptions};
use crate::sync::Arc;
use crate::table::{Config, MapOptions, Null, Stage2};

/// Bytes of a page.
pub const PAGE: u64 = 4 << 10;
/// Bytes of a block at level 2.
pub const BLOCK: u64 = 2 << 20;
/// A gibibyte, in bytes: the guest memory of the budget table.
pub const GIB: u64 = 1 << 30;
/// Where the guest's memory starts: not at zero.
pub const IPA: Ipa = Ipa::new(0x80_0000_0000 - 4 * GIB);
/// Where it lies in physical memory.
pub const PA: Pa = Pa::new(0x40_0000_0000);
/// The largest guest memory: its pages have numbers of 32 bits and an order that is kept in memory.
pub(super) const LARGEST: u64 = 64 * GIB;
/// How many operations a batch does before it lets retired frames go.
pub(super) const REPIN: u64 = 512;

/// A table as the rows use it.
pub type Table = Stage2<Arc<Arena>>;

/// What the rows share.
#[derive(Debug)]
pub struct Bench {
    arena: Arc<Arena>,
    geometry: Geometry,
    size: u64,
    /// Page numbers of the guest memory in random order, each once.
    pub(super) order: Vec<u32>,
}

impl Bench {
    /// Memory for the tables of a guest of `size` bytes, [`GIB`] for the budget table, all of it touched.
    ///
    /// # Errors
    /// [`BenchError::Size`] unless `size` is a multiple of [`BLOCK`], not zero and at most 64 GiB; [`BenchError::Arena`].
    pub fn new(size: u64) -> Result<Self, BenchError> {
        Self::check_size(size)?;
        // What the largest row needs, several times over: a table that was thrown away may have frames retired still.
        let frames = 8 * (size / BLOCK) as usize + 64;
        let arena = Arena::new(ArenaOptions {
            capacity_frames: frames,
            ..ArenaOptions::default()
        })?;
        arena.prefault(frames);
        Ok(Self {
            arena: Arc::new(arena),
            geometry: Geometry::new(GeometryOptions::default()).expect("4K granule, 40-bit IPA"),
            size,
            order: shuffled((size / PAGE) as u32),
        })
    }

    pub(super) fn check_size(size: u64) -> Result<(), BenchError> {
        if size == 0 || !size.is_multiple_of(BLOCK) || size > LARGEST {
            return Err(BenchError::Size { size });
        }
        Ok(())
    }

    /// Bytes of guest memory.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Pages of guest memory.
    pub fn pages(&self) -> u64 {
        self.size / PAGE
    }

    /// Blocks of guest memory.
    pub fn blocks(&self) -> u64 {
        self.size / BLOCK
    }

    /// The pages' numbers in random order.
    pub(super) fn random(&self) -> impl Iterator<Item = u64> {
        self.order.iter().map(|&number| u64::from(number))
    }

    /// An empty table.
    pub fn table(&self) -> Table {
        Stage2::new(Config::new(self.geometry), Arc::clone(&self.arena), Null).expect("a root")
    }

    /// A table with the guest memory mapped by leaves of `level`.
    pub fn mapped(&self, level: Level, prot: Prot) -> Table {
        let mut table = self.table();
        let options = MapOptions {
            largest: Some(level),
            ..MapOptions::default()
        };
        table
            .exclusive()
            .map(IPA, self.size, PA, &Attrs::new(prot), options)
            .expect("room for the guest memory");
        table
    }
}

pub(super) fn page(number: u64) -> Ipa {
    Ipa::new(IPA.get() + number * PAGE)
}

pub(super) fn block(number: u64) -> Ipa {
    Ipa::new(IPA.get() + number * BLOCK)
}

pub(super) fn target(number: u64) -> Pa {
    Pa::new(PA.get() + number * PAGE)
}

/// Every number below `count` once, in an order that is the same in every run (Fisher-Yates over an LCG).
fn shuffled(count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for last in (1..order.len()).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        order.swap(last, ((state >> 33) as usize) % (last + 1));
    }
    order
}
