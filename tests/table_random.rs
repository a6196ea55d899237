//! Long random scripts against a flat page-by-page oracle, in shared and in exclusive mode, over several geometries.

#[path = "chance/mod.rs"]
mod chance;

use std::collections::BTreeMap;

use chance::Random;
use s2pt::arch::{AccessKind, Attrs, BlockRule, FaultKind, Geometry, GeometryOptions, Granule, Ipa, Level, Pa, Prot};
use s2pt::memory::{Arena, ArenaOptions, TableMemory};
use s2pt::table::{Access, Config, Error, Existing, MapOptions, Null, Stage2, Tlb, View};

/// What one page maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    pa: u64,
    prot: Prot,
}

fn geometry(granule: Granule, ipa_bits: u8, lpa2: bool) -> Geometry {
    let pa_bits = if lpa2 || granule == Granule::K64 { 52 } else { 48 };
    Geometry::new(GeometryOptions {
        granule,
        ipa_bits,
        pa_bits,
        start_level: None,
        lpa2,
        blocks: BlockRule::Architecture,
    })
    .unwrap()
}

fn arena(granule: Granule) -> Arena {
    Arena::new(ArenaOptions {
        granule,
        ..ArenaOptions::default()
    })
    .unwrap()
}

/// One random operation on the table and on the oracle; both must agree on what came of it.
fn step<M: TableMemory, T: Tlb, A: Access>(
    view: &View<'_, M, T, A>,
    pages: &mut BTreeMap<u64, Page>,
    random: &mut Random,
    window: u64,
) {
    let geometry = view.config().geometry;
    let page = geometry.granule().size();
    let block = geometry.size(Level::L2);
    let (ipa, size) = random.range(window, page, block, 4);
    // Half of the outputs continue one line, so that blocks can form and merge.
    let pa = if random.below(2) == 0 {
        0x1_0000_0000 + ipa
    } else {
        0x40_0000_0000 + random.below(1 << 20) * page
    };
    let prots = [Prot::RW, Prot::R, Prot::RWX, Prot::NONE];
    let prot = prots[random.below(4) as usize];
    let mapped: Vec<u64> = pages.range(ipa..ipa + size).map(|(&at, _)| at).collect();
    let inside = (ipa..ipa + size).step_by(page as usize);
    match random.below(9) {
        0..=2 => {
            let existing = [Existing::Replace, Existing::Keep, Existing::Error][random.below(3) as usize];
            let options = MapOptions {
                existing,
                ..MapOptions::default()
            };
            let result = view.map(Ipa::new(ipa), size, Pa::new(pa), &Attrs::new(prot), options);
            let full = mapped.len() as u64 * page == size;
            match existing {
                Existing::Error if !mapped.is_empty() => {
                    assert!(
                        matches!(result, Err(Error::Conflict { ipa: at, .. }) if at.get() == mapped[0]),
                        "{result:?}"
                    );
                }
                Existing::Keep if full => assert!(matches!(result, Err(Error::Again { .. })), "{result:?}"),
                Existing::Keep | Existing::Error => {
                    assert_eq!(result.unwrap().bytes, size - mapped.len() as u64 * page);
                    for at in inside {
                        pages.entry(at).or_insert(Page {
                            pa: pa + (at - ipa),
                            prot,
                        });
                    }
                }
                Existing::Replace => {
                    let mapped = result.unwrap();
                    assert_eq!(mapped.bytes + mapped.kept, size);
                    pages.extend(inside.map(|at| {
                        (
                            at,
                            Page {
                                pa: pa + (at - ipa),
                                prot,
                            },
                        )
                    }));
                }
            }
        }
        3 | 4 => {
            assert_eq!(view.unmap(Ipa::new(ipa), size).unwrap(), mapped.len() as u64 * page);
            for at in mapped {
                pages.remove(&at);
            }
        }
        5 => {
            assert_eq!(
                view.write_protect(Ipa::new(ipa), size).unwrap().bytes,
                mapped.len() as u64 * page
            );
            for at in mapped {
                pages.get_mut(&at).unwrap().prot -= Prot::W;
            }
        }
        6 => match view.relax(Ipa::new(ipa), size, prot) {
            Ok(changed) => {
                assert_eq!(changed.bytes, mapped.len() as u64 * page);
                for at in mapped {
                    pages.get_mut(&at).unwrap().prot |= prot;
                }
            }
            Err(error) => assert!(
                mapped.is_empty() && matches!(error, Error::NotMapped { .. }),
                "{error:?}"
            ),
        },
        7 => match view.protect(Ipa::new(ipa), size, prot) {
            Ok(_) => mapped.iter().for_each(|at| pages.get_mut(at).unwrap().prot = prot),
            Err(error) => assert!(
                mapped.is_empty() && matches!(error, Error::NotMapped { .. }),
                "{error:?}"
            ),
        },
        _ => {
            if random.below(2) == 0 {
                view.split(Ipa::new(ipa), size, Level::L3).unwrap();
            } else {
                view.collapse(Ipa::new(ipa & !(block - 1)), 2 * block).unwrap();
            }
        }
    }
}

/// Every page of the window translates as the oracle says, and the leaves add up to the same.
fn compare<M: TableMemory, T: Tlb, A: Access>(view: &View<'_, M, T, A>, pages: &BTreeMap<u64, Page>, window: u64) {
    let geometry = view.config().geometry;
    let page = geometry.granule().size();
    let size = 8 * geometry.size(Level::L2);
    for ipa in (window..window + size).step_by(page as usize) {
        let found = view.translate(Ipa::new(ipa + 8), AccessKind::Read);
        match pages.get(&ipa) {
            None => assert_eq!(found.unwrap_err().kind, FaultKind::Translation, "{ipa:#x}"),
            Some(expected) if !expected.prot.contains(Prot::R) => {
                assert_eq!(found.unwrap_err().kind, FaultKind::Permission, "{ipa:#x}");
            }
            Some(expected) => {
                let found = found.unwrap();
                assert_eq!(
                    (found.pa.get(), found.prot),
                    (expected.pa + 8, expected.prot),
                    "{ipa:#x}"
                );
            }
        }
    }
    let bytes: u64 = view.leaves(Ipa::new(window), size).unwrap().map(|leaf| leaf.size).sum();
    assert_eq!(bytes, pages.len() as u64 * page);
    let stats = view.stats();
    assert_eq!((stats.locked, stats.frozen, stats.mapped_bytes), (0, 0, bytes));
}

fn script(granule: Granule, ipa_bits: u8, lpa2: bool, exclusive: bool) {
    let geometry = geometry(granule, ipa_bits, lpa2);
    let mut table = Stage2::new(Config::new(geometry), arena(granule), Null).unwrap();
    // A window across a border of the level above, as far up as the space goes.
    let above = geometry.size(Level::L2) * (geometry.granule().size() / 8);
    let window = above.min(geometry.ipa_limit() - 8 * geometry.size(Level::L2)) - 2 * geometry.size(Level::L2);
    let mut pages = BTreeMap::new();
    let mut random = Random(u64::from(ipa_bits) << 8 | granule.size());
    let steps = if granule == Granule::K64 { 60 } else { 400 };
    if exclusive {
        let view = table.exclusive();
        (0..steps).for_each(|_| step(&view, &mut pages, &mut random, window));
        compare(&view, &pages, window);
    } else {
        let view = table.handle();
        (0..steps).for_each(|_| step(&view, &mut pages, &mut random, window));
        view.drain();
        compare(&view, &pages, window);
    }
    let view = table.handle();
    assert_eq!(table.memory().frames_in_use() as u64, view.stats().table_frames());
    view.unmap(Ipa::new(0), geometry.ipa_limit()).unwrap();
    view.drain();
    assert_eq!(table.memory().frames_in_use() as u32, geometry.root_frames());
}

macro_rules! scripts {
    ($($name:ident: $granule:ident $bits:literal $lpa2:literal,)*) => {$(
        mod $name {
            #[test]
            fn shared() {
                super::script(s2pt::arch::Granule::$granule, $bits, $lpa2, false);
            }

            #[test]
            fn exclusive() {
                super::script(s2pt::arch::Granule::$granule, $bits, $lpa2, true);
            }
        }
    )*};
}

scripts! {
    k4_ipa32: K4 32 false,
    k4_ipa40: K4 40 false,
    k4_ipa48: K4 48 false,
    k4_ipa52: K4 52 true,
    k16_ipa36: K16 36 false,
    k16_ipa40: K16 40 false,
    k16_ipa52: K16 52 true,
    k64_ipa42: K64 42 false,
    k64_ipa52: K64 52 false,
}
