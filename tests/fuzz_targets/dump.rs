//! Any bytes as a file in format `S2DUMP01`: taken exactly if it is one, and then the table in it is walked.

use s2pt::arch::{AccessKind, El, Geometry, GeometryOptions, Granule, Ipa, Pa, Vtcr, VtcrOptions, Vttbr};
use s2pt::image::{Dump, ImageOptions};

use super::bytes::Bytes;

const HEADER: usize = 48;
const ENTRIES_LOOKED_AT: usize = 20_000;

pub fn run(input: &[u8]) {
    if input.starts_with(b"S2DU") {
        file(input);
    } else {
        let mut bytes = Bytes::new(input);
        let made = made(&mut bytes);
        file(&made);
    }
}

/// The numbers at the beginning, and how long the file should be.
fn is_one(file: &[u8]) -> bool {
    let number = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("eight bytes"));
    if file.len() < HEADER || &file[..8] != b"S2DUMP01" {
        return false;
    }
    let [page, pages, root, vtcr, vttbr] = [8, 16, 24, 32, 40].map(number);
    let Ok(geometry) = Vtcr::new(vtcr).geometry() else {
        return false;
    };
    if geometry.granule().size() != page || Vttbr::new(vttbr).baddr(&geometry).get() != root {
        return false;
    }
    if u128::from(pages) * u128::from(page + 8) + HEADER as u128 != file.len() as u128 {
        return false;
    }
    let addresses: Vec<u64> = (0..pages as usize)
        .map(|n| number(HEADER + n * (page as usize + 8)))
        .collect();
    addresses.iter().all(|at| at % page == 0) && addresses.is_sorted_by(|a, b| a < b)
}

fn file(file: &[u8]) {
    let dump = match Dump::parse(file) {
        Ok(dump) => dump,
        Err(error) => {
            assert!(!is_one(file), "{error}");
            assert!(error.to_string().len() < 400, "{error}");
            return;
        }
    };
    assert!(is_one(file), "{dump:?}");
    assert_eq!(dump.pages().len(), dump.len());
    assert_eq!(dump.is_empty(), dump.pages().next().is_none());
    let pages: Vec<Pa> = dump.pages().collect();
    let Ok(image) = dump.into_image(ImageOptions::default()) else {
        return;
    };
    let mut errors = 0;
    for entry in image.entries().take(ENTRIES_LOOKED_AT) {
        match entry {
            Err(_) => errors += 1,
            Ok(entry) => {
                let page = entry.pa.align_down(image.memory().page_size());
                assert!(
                    pages.binary_search(&page).is_ok(),
                    "{entry:?} of a page that is not there"
                );
            }
        }
    }
    for leaf in image.leaves().flatten().take(64) {
        let hit = image.translate(Ipa::new(leaf.end() - 1), AccessKind::Read, El::El1);
        if let Ok(hit) = hit {
            assert_eq!(hit.pa.get(), leaf.pa.get() + leaf.size - 1);
        }
    }
    if let Ok(again) = image.to_dump() {
        assert!(errors == 0);
        let again = Dump::parse(again).unwrap_or_else(|error| panic!("{error}"));
        // No page that was not there, and each with the same words.
        assert!(again.pages().all(|page| pages.binary_search(&page).is_ok()));
        let again = again.into_image(ImageOptions::default()).expect("the same registers");
        assert_eq!(image.compare(&again).count(), 0);
    }
}

/// A file with a header that is right, or nearly so, and pages of few words.
fn made(bytes: &mut Bytes<'_>) -> Vec<u8> {
    bytes.byte();
    let granule = bytes.of(&[
        Granule::K4,
        Granule::K4,
        Granule::K4,
        Granule::K4,
        Granule::K16,
        Granule::K64,
    ]);
    let options = GeometryOptions {
        granule,
        ipa_bits: 32 + bytes.below(9) as u8,
        ..Default::default()
    };
    let Ok(geometry) = Geometry::new(options) else {
        return b"S2DUMP01".to_vec();
    };
    let page = granule.size();
    let root = page * 16 * bytes.below(3);
    let vttbr = Vttbr::new(1 << 48 | root);
    let pages = bytes.below(8);
    let numbers = [
        page,
        pages,
        root,
        Vtcr::build(&geometry, VtcrOptions::default()).raw(),
        vttbr.raw(),
    ];
    let mut file = b"S2DUMP01".to_vec();
    file.extend(numbers.into_iter().flat_map(u64::to_le_bytes));
    let mut at = if bytes.one_in(4) { page * bytes.below(40) } else { root };
    for _ in 0..pages {
        file.extend(at.to_le_bytes());
        let mut words = vec![0u64; (page / 8) as usize];
        for _ in 0..bytes.below(6) {
            let index = bytes.below(8) as usize * bytes.of(&[1, (page / 64) as usize]);
            let word = root + page * bytes.below(40);
            words[index] = match bytes.below(4) {
                0 | 1 => word | 3,
                2 => word | 0x0040_0000_0000_07ff,
                _ => bytes.word(),
            };
        }
        file.extend(words.into_iter().flat_map(u64::to_le_bytes));
        at = at.wrapping_add(if bytes.one_in(16) {
            bytes.word()
        } else {
            page * (1 + bytes.below(2))
        });
    }
    for _ in 0..bytes.below(3) {
        let at = if bytes.bool() {
            bytes.below(HEADER as u64) as usize
        } else {
            bytes.word() as usize % file.len()
        };
        file[at] ^= 1 << bytes.below(8);
    }
    match bytes.below(16) {
        15 => file.truncate(bytes.word() as usize % file.len()),
        14 => file.extend(bytes.rest()),
        _ => {}
    }
    file
}
