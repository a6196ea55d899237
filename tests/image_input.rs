//! Dumps and tables that are broken: each gives the error that names what is wrong, and never more.

#![cfg(not(any(loom, shuttle)))]

mod handmade;

use handmade::Table;
use s2pt::arch::{
    AccessKind, Dialect, El, EntryKind, Format, GeometryOptions, Granule, Ipa, Level, Pa, Prot, Pte, Vtcr, VtcrOptions,
    Vttbr,
};
use s2pt::image::{Differs, Dump, Image, ImageError, ImageOptions, Ptdump, PtdumpStyle};

fn refused(bytes: &[u8]) -> String {
    Dump::parse(bytes).expect_err("a broken dump").to_string()
}

fn set(bytes: &mut [u8], offset: usize, value: u64) {
    bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn a_broken_header_is_refused_with_what_was_found() {
    let good = Table::small().dump();
    assert_eq!(Dump::parse(&good[..]).unwrap().len(), 4);
    assert_eq!(
        refused(b"\x7fELF\x02"),
        "not a stage-2 dump: it begins with bytes [7f, 45, 4c, 46, 02], not \"S2DUMP01\""
    );
    assert_eq!(
        refused(b""),
        "not a stage-2 dump: it begins with bytes [], not \"S2DUMP01\""
    );
    assert_eq!(
        refused(&good[..47]),
        "truncated dump: 0x2f bytes, the header alone has 0x30"
    );

    let with = |offset: usize, value: u64| {
        let mut bytes = good.clone();
        set(&mut bytes, offset, value);
        refused(&bytes)
    };
    assert_eq!(
        with(8, 0x2000),
        "dump page size 0x2000 is none of 0x1000, 0x4000, 0x10000"
    );
    assert_eq!(
        with(8, 0x4000),
        "dump page size 0x4000, but VTCR_EL2 0x802d3558 says a granule of 0x1000"
    );
    assert_eq!(
        with(16, 5),
        "truncated dump: 0x5 pages of 0x1000 bytes need 0x5058 bytes, there are 0x4050"
    );
    assert_eq!(
        with(16, u64::MAX),
        "truncated dump: 0xffffffffffffffff pages of 0x1000 bytes need 0xffffffffffffffff bytes, there are 0x4050"
    );
    assert_eq!(with(16, 3), "dump has 0x4050 bytes, its 0x3 pages end at 0x3048");
    assert_eq!(
        with(24, 0x12000),
        "dump root 0x12000, but VTTBR_EL2 0x7000000010000 says 0x10000"
    );
    assert_eq!(with(32, 0x802d_f558), "VTCR_EL2 0x802df558: TG0 = 3 is no granule");
    assert!(with(32, 0x802d_3518).starts_with("VTCR_EL2 0x802d3518: T0SZ = 24, SL0 = 0: "));
    // Pages: misaligned, twice, descending.
    assert_eq!(
        with(48, 0x10800),
        "address 0x10800 of dump page 0x0 is not a multiple of 0x1000"
    );
    let second = 48 + 4104;
    assert_eq!(
        with(second, 0x10000),
        "address 0x10000 of dump page 0x1 is not above 0x10000, that of the page before"
    );
    assert_eq!(
        with(second, 0),
        "address 0x0 of dump page 0x1 is not above 0x10000, that of the page before"
    );
    assert!(matches!(
        Dump::open("/nonexistent/table.bin"),
        Err(ImageError::Io { .. })
    ));
}

#[test]
fn every_truncation_is_an_error() {
    let good = Table::small().dump();
    for length in 0..good.len() {
        assert!(Dump::parse(&good[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn a_missing_table_is_named_and_the_walk_goes_on() {
    let mut table = Table::small();
    table.table(0x20008, 0x77000);
    let image = table.image();
    let found: Vec<_> = image.leaves().collect();
    let shown: Vec<String> = found
        .iter()
        .map(|leaf| {
            leaf.as_ref()
                .map_or_else(ToString::to_string, |leaf| leaf.ipa.to_string())
        })
        .collect();
    let missing = "level 3 table at 0x77000, for IPA 0x40200000 on, is not there";
    assert_eq!(shown, ["0x40000000", "0x40001000", missing, "0x40400000"]);
    assert_eq!(image.stats().unwrap_err().to_string(), missing);
    assert_eq!(image.to_dump().unwrap_err().to_string(), missing);
    assert_eq!(image.ptdump(PtdumpStyle::Exact).unwrap_err().to_string(), missing);
    assert_eq!(image.path(Ipa::new(0x4020_1000)).unwrap_err().to_string(), missing);
    // An error ends a run, and does not overtake it.
    let runs: Vec<bool> = image.runs().map(|run| run.is_ok()).collect();
    assert_eq!(runs, [true, false, true]);
    let differences: Vec<_> = image.compare(&image).collect();
    assert!(!differences.is_empty() && differences.iter().all(Result::is_err));
}

#[test]
fn no_root_at_all_is_one_error() {
    let mut table = Table::small();
    table.words.clear();
    let vtcr = Vtcr::build(&table.geometry, VtcrOptions::default());
    let vttbr = Vttbr::build(7, Pa::new(table.root), false, &table.geometry).unwrap();
    let image = Image::new(|_: Pa| None, vtcr, vttbr, ImageOptions::default()).unwrap();
    let errors: Vec<_> = image.entries().collect();
    assert_eq!(errors.len(), 1);
    assert!(matches!(errors[0], Err(ImageError::Missing { level: Level::L1, .. })));
}

#[test]
fn cycles_and_shared_tables_end() {
    // Every entry of every table leads back to the same level-2 table: 512^2 ways through it.
    let mut table = Table::new(GeometryOptions::default(), 0x10000);
    for entry in 0..512 {
        table
            .table(0x10000 + 8 * entry, 0x20000)
            .table(0x20000 + 8 * entry, 0x20000);
    }
    let image = table.image();
    let (ok, errors): (Vec<_>, Vec<_>) = image.entries().partition(Result::is_ok);
    assert_eq!((ok.len(), errors.len()), (1024, 1023));
    assert_eq!(
        errors[0].as_ref().unwrap_err().to_string(),
        "level 3 table at 0x20000, for IPA 0x0 on, is in the tree already: a cycle or a shared table"
    );
    assert!(matches!(image.to_dump(), Err(ImageError::Revisited { .. })));
    // A path goes down a level at each step, so it ends anyway: at level 3 the same bits are a page.
    assert_eq!(image.path(Ipa::new(0x1000)).unwrap().len(), 3);
    // The root as its own child.
    let mut table = Table::small();
    table.table(0x10010, 0x10000);
    assert!(
        table
            .image()
            .leaves()
            .any(|leaf| matches!(leaf, Err(ImageError::Revisited { level: Level::L2, .. })))
    );
}

#[test]
fn what_is_no_leaf_is_not_taken_for_one() {
    let mut table = Table::small();
    table.put(0x30010, 0x5001); // level 3 without bit 1
    table.put(0x30018, 0x0400); // locked
    table.put(0x30020, 0x0004); // owned
    let image = table.image();
    let kinds: Vec<_> = image
        .invalid()
        .map(|entry| entry.unwrap())
        .map(|e| (e.pa.get(), e.kind))
        .collect();
    let expected = [
        (0x30010, EntryKind::Reserved),
        (0x30018, EntryKind::Locked),
        (0x30020, EntryKind::Annotated(1)),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(image.leaves().count(), 3);
    let stats = image.stats().unwrap();
    assert_eq!(
        (stats.reserved, stats.locked, stats.annotated, stats.frozen),
        (1, 1, 1, 0)
    );

    // A block where the format has none: level 0 without LPA2.
    let mut table = Table::new(
        GeometryOptions {
            ipa_bits: 48,
            ..Default::default()
        },
        0x10000,
    );
    table.put(0x10008, 0x7fd);
    let entry = table.image().invalid().next().unwrap().unwrap();
    assert_eq!((entry.level, entry.kind), (Level::L0, EntryKind::Reserved));
    let lpa2 = GeometryOptions {
        ipa_bits: 48,
        pa_bits: 52,
        lpa2: true,
        ..Default::default()
    };
    let mut table = Table::new(lpa2, 0x10000);
    table.put(0x10008, 0x4fd);
    let leaf = table.image().leaves().next().unwrap().unwrap();
    assert_eq!((leaf.level, leaf.size), (Level::L0, 1 << 39));
}

#[test]
fn options_that_registers_do_not_say_are_found_out_or_taken() {
    let mut table = Table::small();
    let dialect = |table: &Table| table.image().dialect();
    assert_eq!(dialect(&table), Dialect::Kvm6);
    table.put(0x30018, 1 << 60);
    assert_eq!(dialect(&table), Dialect::Kvm7);
    table.put(0x30020, Pte::from_raw(0x0040_0000_4000_07ff).freeze().raw());
    assert_eq!(dialect(&table), Dialect::Own);

    assert!(!table.image().format().xnx() && !table.image().format().fwb());
    table.put(0x30028, 0x0060_0000_7000_07ff);
    assert!(table.image().format().xnx());
    let leaf = table.image().leaves().nth(2).unwrap().unwrap();
    assert_eq!(leaf.attrs.prot, Prot::RW | Prot::PX);
    let mut fwb = Table::small();
    fwb.words.retain(|at, _| ![0x30000, 0x30008, 0x20010].contains(at));
    fwb.put(0x30000, 0x0040_0000_4000_07db);
    assert!(fwb.image().format().fwb());

    let image = table.image();
    let given = ImageOptions {
        fwb: Some(true),
        xnx: Some(false),
        dialect: Some(Dialect::Kvm6),
        ..Default::default()
    };
    let image = Image::new(|pa| image.memory()(pa), image.vtcr(), image.vttbr(), given).unwrap();
    assert!(image.format().fwb() && !image.format().xnx());
    assert_eq!(image.dialect(), Dialect::Kvm6);
}

#[test]
fn a_root_of_less_than_a_page_may_lie_inside_one() {
    let mut table = Table::new(
        GeometryOptions {
            ipa_bits: 34,
            start_level: Some(Level::L1),
            ..Default::default()
        },
        0x10080,
    );
    table
        .table(0x10080, 0x20000)
        .leaf(0x10080 + 15 * 8, Level::L1, 0, Prot::RW);
    table.leaf(0x20000, Level::L2, 0x20_0000, Prot::R);
    // Not part of the root: never followed.
    table.table(0x10078, 0x7_7000).table(0x10100, 0x7_7000);
    let image = table.image();
    let ipas: Vec<u64> = image.leaves().map(|leaf| leaf.unwrap().ipa.get()).collect();
    assert_eq!(ipas, [0, 15 << 30]);
    let dump = Dump::parse(image.to_dump().unwrap()).unwrap();
    assert_eq!(dump.pages().collect::<Vec<_>>(), [Pa::new(0x10000), Pa::new(0x20000)]);
    let again = dump.into_image(ImageOptions::default()).unwrap();
    assert_eq!(image.compare(&again).count(), 0);
    assert_eq!(again.root(), Pa::new(0x10080));
}

#[test]
fn differences_of_blocks_and_pages_cover_each_byte_once() {
    let mut pages = Table::small();
    let blocks = {
        let mut table = Table::small();
        table.words.remove(&0x30000);
        table.words.remove(&0x30008);
        table.leaf(0x20000, Level::L2, 0, Prot::RW);
        table
    };
    // The block maps 0x40005000 to 0x5000. Of the pages one agrees with it, but for size, and one does not.
    pages.words.clear();
    pages.table(0x10008, 0x20000).table(0x20000, 0x30000);
    pages
        .leaf(0x30028, Level::L3, 0x5000, Prot::RW)
        .leaf(0x30030, Level::L3, 0x9000, Prot::R);
    let (a, b) = (blocks.image(), pages.image());
    let found: Vec<_> = a
        .compare(&b)
        .map(|d| d.unwrap())
        .map(|d| (d.ipa.get(), d.size, d.what))
        .collect();
    let expected = [
        (0x4000_0000, 0x5000, Differs::ONLY_A),
        (0x4000_5000, 0x1000, Differs::SIZE),
        (
            0x4000_6000,
            0x1000,
            Differs::SIZE | Differs::OUTPUT | Differs::PERMISSION,
        ),
        (0x4000_7000, 0x1f_9000, Differs::ONLY_A),
        (0x4040_0000, 0x20_0000, Differs::ONLY_A),
    ];
    assert_eq!(found, expected);
    let texts: Vec<String> = b.compare(&a).map(|d| d.unwrap().to_string()).collect();
    assert_eq!(
        texts[0],
        "0x40000000 +0x5000: only in the second: output 0x0, rw-, level 2"
    );
    assert_eq!(
        texts[2],
        "0x40006000 +0x1000: output 0x9000 / 0x6000 leaf size 0x1000 / 0x200000 permission r-- / rw-"
    );
    assert_eq!(
        texts[3],
        "0x40007000 +0x1f9000: only in the second: output 0x7000, rw-, level 2"
    );

    let mut other = blocks.clone();
    let block = blocks.words[&0x20000];
    other.put(0x20000, block & !Format::AF_BIT | 1 << 55);
    let what: Vec<_> = a.compare(&other.image()).map(|d| d.unwrap().what).collect();
    assert_eq!(what, [Differs::AF | Differs::ATTRIBUTES]);
}

#[test]
fn concatenated_roots_of_every_granule_are_read_and_written() {
    for (granule, ipa_bits) in [(Granule::K4, 43), (Granule::K16, 40), (Granule::K64, 46)] {
        let size = granule.size();
        let mut table = Table::new(
            GeometryOptions {
                granule,
                ipa_bits,
                ..Default::default()
            },
            16 * size,
        );
        let start = table.geometry.start_level();
        let entries = table.geometry.entries(start) as u64;
        assert_eq!(entries, 16 * size / 8);
        let (block, size_at) = (table.geometry.size(Level::L2), table.geometry.size(start));
        // The last entry of the last root page, and the first of the second.
        let (last, second) = (16 * size + 8 * (entries - 1), 17 * size);
        table.table(last, 64 * size);
        let below = start.deeper().unwrap();
        let (pa, level) = if below == Level::L2 {
            (block, below)
        } else {
            (3 * size, below)
        };
        table.leaf(64 * size, level, pa, Prot::RW);
        if table.geometry.block_allowed(start) {
            table.leaf(second, start, size_at, Prot::R);
        }
        let image = table.image();
        let leaves: Vec<_> = image.leaves().map(Result::unwrap).collect();
        assert_eq!(leaves.last().unwrap().ipa.get(), (entries - 1) * size_at);
        assert_eq!(leaves.last().unwrap().pa.get(), pa);
        assert_eq!(leaves.len(), 1 + usize::from(table.geometry.block_allowed(start)));
        let dump = Dump::parse(image.to_dump().unwrap()).unwrap();
        assert_eq!(dump.len(), 17);
        let again = dump.into_image(ImageOptions::default()).unwrap();
        assert_eq!(again.leaves().map(Result::unwrap).collect::<Vec<_>>(), leaves);
    }
}

/// Dumps with random bytes changed: an error or an answer, within bounds, and never a panic.
#[test]
fn garbage_is_an_error_or_an_answer() {
    let good = Table::small().dump();
    let mut random = 0x243f_6a88_85a3_08d3u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (mut refused, mut walked, mut broken) = (0, 0, 0);
    for _ in 0..3_000 {
        let mut bytes = good.clone();
        for _ in 0..1 + next(4) {
            // Half of the changes hit the header or the start of a page, where they matter.
            let page = 48 + 4104 * next(4);
            let offset = match next(4) {
                0 => next(48),
                1 => page + next(40),
                _ => page + next(4104),
            };
            let value = next(256) as u8;
            bytes[offset as usize] = if next(2) == 0 {
                value
            } else {
                bytes[offset as usize] ^ (1 << (value & 7))
            };
        }
        let Ok(dump) = Dump::parse(bytes.as_slice()) else {
            refused += 1;
            continue;
        };
        let Ok(image) = dump.into_image(ImageOptions::default()) else {
            refused += 1;
            continue;
        };
        // At most every entry of every page once, and an error instead of a table.
        let count = image
            .entries()
            .inspect(|entry| broken += usize::from(entry.is_err()))
            .count();
        assert!(count <= 2 * 512 * 4 + 1);
        let _ = (image.stats(), image.path(Ipa::new(next(1 << 40))));
        let walk = image.explain(Ipa::new(next(1 << 40)), AccessKind::Read, El::El1);
        assert!(walk.steps.len() <= 5 && walk.to_string().lines().count() == walk.steps.len() + 1);
        if walked % 8 == 0 {
            let styles = [PtdumpStyle::Exact, PtdumpStyle::Kvm6, PtdumpStyle::Kvm7];
            let text = image.ptdump(styles[next(3) as usize]);
            let _ = text.map(Ptdump::parse);
        }
        if let Ok(again) = image.to_dump() {
            let again = Dump::parse(again).unwrap().into_image(ImageOptions::default()).unwrap();
            assert_eq!(image.compare(&again).count(), 0);
        }
        assert!(image.runs().count() <= image.leaves().count());
        walked += 1;
    }
    assert!(
        refused > 300 && walked > 300 && broken > 100,
        "{refused} refused, {walked} walked, {broken} errors"
    );
}
