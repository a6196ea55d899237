//! A table of this crate as an image: what the table says of itself and what a stranger reads are the same.

#![cfg(not(any(loom, shuttle)))]

use s2pt::arch::{Attrs, Dialect, Geometry, GeometryOptions, Granule, Ipa, Level, Mapping, MemType, Pa, Prot};
use s2pt::image::{Differs, Dump, Image, ImageError, ImageOptions, compare};
use s2pt::memory::{Arena, ArenaOptions};
use s2pt::sync::Arc;
use s2pt::table::{Config, MapOptions, Null, Stage2};

fn arena(granule: Granule) -> Arc<Arena> {
    let options = ArenaOptions {
        granule,
        capacity_frames: 4096,
        ..Default::default()
    };
    Arc::new(Arena::new(options).unwrap())
}

fn leaves(table: &Stage2<Arc<Arena>, Null>) -> Vec<Mapping> {
    table
        .handle()
        .leaves(Ipa::new(0), table.config().geometry.ipa_limit())
        .unwrap()
        .collect()
}

#[test]
fn every_geometry_reads_back_as_it_was_made() {
    let mut shapes = 0;
    for granule in Granule::ALL {
        for (ipa_bits, lpa2, pa_bits) in [
            (32, false, 40),
            (36, false, 48),
            (40, false, 48),
            (48, false, 48),
            (52, true, 52),
        ] {
            let lpa2 = lpa2 && granule != Granule::K64;
            let geometry = Geometry::new(GeometryOptions {
                granule,
                ipa_bits,
                pa_bits,
                lpa2,
                ..Default::default()
            })
            .unwrap();
            let arena = arena(granule);
            let config = Config {
                fwb: ipa_bits != 36,
                xnx: true,
                ..Config::new(geometry)
            };
            let table = Stage2::new(config, arena.clone(), Null).unwrap();
            let (page, block) = (granule.size(), geometry.size(Level::L2));
            let handle = table.handle();
            let map = |ipa: u64, size: u64, pa: u64, attrs: Attrs| {
                handle
                    .map(Ipa::new(ipa), size, Pa::new(pa), &attrs, MapOptions::default())
                    .unwrap();
            };
            map(0, 3 * page, 5 * page, Attrs::new(Prot::RWX));
            map(block, 2 * block, 4 * block, Attrs::new(Prot::RW));
            map(
                4 * block,
                page,
                page,
                Attrs {
                    memtype: MemType::DeviceNGnRE,
                    ..Attrs::new(Prot::RW)
                },
            );
            map(
                4 * block + page,
                page,
                2 * page,
                Attrs {
                    software: 9,
                    af: false,
                    ..Attrs::new(Prot::R | Prot::UX)
                },
            );
            map(
                geometry.ipa_limit() - page,
                page,
                geometry.pa_limit() - page,
                Attrs::new(Prot::R),
            );
            handle.unmap(Ipa::new(page), page).unwrap();
            handle.write_protect(Ipa::new(block + page), page).unwrap();

            let image = Image::new(
                |pa| arena.read(pa),
                table.vtcr(),
                table.vttbr(),
                ImageOptions::default(),
            )
            .unwrap();
            assert_eq!((image.root(), *image.geometry()), (table.root(), geometry));
            assert_eq!(
                (image.format().fwb(), image.format().xnx()),
                (config.fwb, true),
                "found out from the leaves"
            );
            let own = leaves(&table);
            let read: Vec<Mapping> = image.leaves().collect::<Result<_, _>>().unwrap();
            assert_eq!(read, own);
            let difference = compare(own.iter().copied().map(Ok::<_, ImageError>), image.leaves()).next();
            assert!(difference.is_none(), "{difference:?}");

            // The same once more by way of a file.
            let dump = Dump::parse(image.to_dump().unwrap()).unwrap();
            let frames = s2pt::memory::TableMemory::frames_in_use(&*arena);
            assert_eq!(
                dump.len(),
                frames,
                "every frame in use is in the dump, and nothing else"
            );
            let again = dump.into_image(ImageOptions::default()).unwrap();
            assert_eq!(again.leaves().collect::<Result<Vec<_>, _>>().unwrap(), own);
            let stats = (again.stats().unwrap(), handle.stats());
            // The table counts the frames of its root, an image counts the root.
            let mut tables = stats.1.tables;
            assert_eq!(tables[geometry.start_level().slot()], u64::from(geometry.root_frames()));
            tables[geometry.start_level().slot()] = 1;
            assert_eq!(stats.0.tables, tables);
            assert_eq!(stats.0.mapped_bytes(), stats.1.mapped_bytes);
            shapes += 1;
        }
    }
    assert_eq!(shapes, 15);
}

#[test]
fn a_change_shows_as_a_difference() {
    let arena = arena(Granule::K4);
    let geometry = Geometry::new(GeometryOptions::default()).unwrap();
    let table = Stage2::new(Config::new(geometry), arena.clone(), Null).unwrap();
    let handle = table.handle();
    handle
        .map(
            Ipa::new(0),
            4 << 20,
            Pa::new(1 << 30),
            &Attrs::new(Prot::RW),
            MapOptions::default(),
        )
        .unwrap();
    let image = || {
        Image::new(
            |pa| arena.read(pa),
            table.vtcr(),
            table.vttbr(),
            ImageOptions::default(),
        )
        .unwrap()
    };
    let before = Dump::parse(image().to_dump().unwrap())
        .unwrap()
        .into_image(ImageOptions::default())
        .unwrap();
    handle.write_protect(Ipa::new(0x5000), 0x1000).unwrap();
    handle.unmap(Ipa::new(2 << 20), 2 << 20).unwrap();
    let now = image();
    let found: Vec<_> = before.compare(&now).map(Result::unwrap).collect();
    // The block was split: 511 pages differ in size only, one in permission too; the other block is gone.
    assert_eq!(found.iter().filter(|d| d.what == Differs::SIZE).count(), 511);
    assert_eq!(
        found
            .iter()
            .filter(|d| d.what == Differs::SIZE | Differs::PERMISSION)
            .count(),
        1
    );
    assert_eq!(
        found
            .iter()
            .filter(|d| d.what == Differs::ONLY_A && d.size == 2 << 20)
            .count(),
        1
    );
    assert_eq!(found.len(), 513);
}

/// Threads map, split and unmap while others read the table as an image: every read ends, and gives only what some
/// thread put there.
#[test]
fn reading_beside_writers_ends_and_invents_nothing() {
    const PA: u64 = 1 << 30;
    let arena = arena(Granule::K4);
    let geometry = Geometry::new(GeometryOptions::default()).unwrap();
    let table = Stage2::new(Config::new(geometry), arena.clone(), Null).unwrap();
    let options = ImageOptions {
        dialect: Some(Dialect::Own),
        fwb: Some(false),
        xnx: Some(false),
        ..Default::default()
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for slot in 0..2u64 {
            let table = &table;
            let done = &done;
            scope.spawn(move || {
                let handle = table.handle();
                let ipa = slot << 30;
                for _ in 0..300 {
                    let map = |size| {
                        handle.map(
                            Ipa::new(ipa),
                            size,
                            Pa::new(PA + ipa),
                            &Attrs::new(Prot::RW),
                            MapOptions::default(),
                        )
                    };
                    map(8 << 20).unwrap();
                    handle.split(Ipa::new(ipa), 2 << 20, Level::L3).unwrap();
                    handle.unmap(Ipa::new(ipa), 8 << 20).unwrap();
                }
                done.store(true, std::sync::atomic::Ordering::Relaxed);
            });
        }
        scope.spawn(|| {
            let mut read = 0;
            let handle = table.handle();
            while !done.load(std::sync::atomic::Ordering::Relaxed) || read == 0 {
                // As long as this lives no frame that the walk can reach is freed.
                let _stay = handle.stay();
                let image = Image::new(|pa| arena.read(pa), table.vtcr(), table.vttbr(), options).unwrap();
                for leaf in image.leaves().flatten() {
                    assert_eq!(leaf.pa.get(), PA + leaf.ipa.get(), "{leaf:?}");
                    assert!(leaf.ipa.get() & ((1 << 30) - 1) < 8 << 20, "{leaf:?}");
                    assert_eq!(leaf.attrs.prot, Prot::RW);
                }
                read += 1;
            }
        });
    });
    assert_eq!(leaves(&table), []);
}
