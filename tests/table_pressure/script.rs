//! Long scripts of random operations, all kinds, on a few blocks across a border of the level above.

use s2pt::arch::{Attrs, Geometry, Ipa, Level, MemType, Pa, Prot};
use s2pt::table::{Access, Error, Existing, MapOptions, Stay, Tlb, View, WalkFlags};

use crate::chance::Random;
use crate::support::Memory;

#[derive(Clone, Copy, Debug)]
pub enum What {
    Map(Pa, Attrs, MapOptions),
    Unmap,
    Protect(Prot),
    WriteProtect,
    Relax(Prot),
    Split(Level),
    Collapse,
    Annotate(u64),
    MarkYoung,
    TestYoung,
    ClearYoung(bool),
    FlushCache,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub ipa: Ipa,
    pub size: u64,
    pub what: What,
}

/// What an operation answers, in numbers.
pub type Answer = Result<(u64, u64), Error>;

macro_rules! make {
    ($on:expr, $call:expr) => {{
        let Call { ipa, size, what } = $call;
        match what {
            What::Map(pa, attrs, options) => $on
                .map(ipa, size, pa, &attrs, options)
                .map(|done| (done.bytes, done.kept)),
            What::Unmap => $on.unmap(ipa, size).map(|bytes| (bytes, 0)),
            What::Protect(prot) => $on.protect(ipa, size, prot).map(|done| (done.leaves, done.bytes)),
            What::WriteProtect => $on.write_protect(ipa, size).map(|done| (done.leaves, done.bytes)),
            What::Relax(prot) => $on.relax(ipa, size, prot).map(|done| (done.leaves, done.bytes)),
            What::Split(to) => $on.split(ipa, size, to).map(|cut| (cut, 0)),
            What::Collapse => $on.collapse(ipa, size).map(|blocks| (blocks, 0)),
            What::Annotate(owner) => $on.annotate(ipa, size, owner).map(|()| (0, 0)),
            What::MarkYoung => $on.mark_young(ipa, size).map(|done| (done.leaves, done.bytes)),
            What::TestYoung => $on.test_young(ipa, size).map(|young| (u64::from(young), 0)),
            What::ClearYoung(flush) => $on
                .test_and_clear_young(ipa, size, flush)
                .map(|young| (u64::from(young), 0)),
            What::FlushCache => $on.flush_cache(ipa, size).map(|bytes| (bytes, 0)),
        }
    }};
}

impl Call {
    pub fn on<T: Tlb, A: Access>(self, view: &View<'_, Memory, T, A>) -> Answer {
        make!(view, self)
    }

    /// The same by the ways that only a stay has.
    pub fn within<T: Tlb, A: Access>(self, stay: &Stay<'_, '_, Memory, T, A>) -> Answer {
        make!(stay, self)
    }

    pub fn end(self) -> u64 {
        self.ipa.get() + self.size
    }
}

/// Where a script works.
pub struct Script {
    random: Random,
    geometry: Geometry,
    kvm: bool,
    pub window: u64,
}

/// Output address minus IPA where blocks form.
const LINE: u64 = 1 << 32;

/// Blocks that operations begin in; they reach two further.
const BLOCKS: u64 = 4;

impl Script {
    pub fn new(geometry: Geometry, kvm: bool, seed: u64) -> Self {
        let block = geometry.size(Level::L2);
        let above = block << geometry.granule().stride();
        let window = above.min(geometry.ipa_limit() - 2 * BLOCKS * block) - 2 * block;
        Self {
            random: Random(seed),
            geometry,
            kvm,
            window,
        }
    }

    pub fn next(&mut self) -> Call {
        let random = &mut self.random;
        let (page, block) = (self.geometry.granule().size(), self.geometry.size(Level::L2));
        let (mut ipa, size) = random.range(self.window, page, block, BLOCKS);
        let prot = random.pick(&[Prot::RW, Prot::RW, Prot::R, Prot::RWX, Prot::NONE]);
        let dice = random.below(26);
        let aligned = dice >= 20 || matches!(dice, 13 | 14);
        let what = match dice {
            0..=6 => self.map(ipa, prot),
            7 | 8 => What::Unmap,
            9 => What::Protect(prot),
            10 => What::WriteProtect,
            11 => What::Relax(prot),
            12 => What::Split(random.pick(&[Level::L3, Level::L3, Level::L2])),
            13 | 14 => What::Collapse,
            15 => What::Annotate(if self.kvm {
                random.below(2)
            } else {
                random.pick(&[0, 1, 7])
            }),
            16 => What::MarkYoung,
            17 => What::TestYoung,
            18 => What::ClearYoung(random.below(2) == 0),
            19 => What::FlushCache,
            // Whole blocks come and go, so that there is always something to cut, and to build.
            20..=23 => {
                ipa &= !(block - 1);
                What::Map(Pa::new(LINE + ipa), Attrs::new(prot), MapOptions::default())
            }
            _ => What::Unmap,
        };
        let ipa = Ipa::new(if aligned { ipa & !(block - 1) } else { ipa });
        let size = if aligned { 2 * block } else { size };
        Call { ipa, size, what }
    }

    fn map(&mut self, ipa: u64, prot: Prot) -> What {
        let random = &mut self.random;
        // Half of the outputs continue one line, so that blocks can form and merge.
        let pa = if random.below(2) == 0 {
            LINE + ipa
        } else {
            0x40_0000_0000 + random.below(1 << 18) * self.geometry.granule().size()
        };
        let mut attrs = Attrs::new(prot);
        attrs.af = random.below(4) > 0;
        if random.below(8) == 0 && !prot.contains(Prot::X) {
            attrs.memtype = MemType::DeviceNGnRE;
        }
        attrs.software = random.below(3) as u8;
        let flags = if self.kvm && random.below(2) == 0 {
            WalkFlags::FAULT
        } else {
            WalkFlags::empty()
        };
        let options = MapOptions {
            existing: random.pick(&[Existing::Replace, Existing::Replace, Existing::Keep, Existing::Error]),
            largest: random.pick(&[None, None, None, Some(Level::L3)]),
            over_tables: random.below(4) == 0,
            flags,
        };
        What::Map(Pa::new(pa), attrs, options)
    }
}
