//! The fuzz targets over their seeds: what `fuzz/` found worth keeping, without libFuzzer.
//!
//! A seed is an input of one target that reaches code no smaller seed reaches, or one that once broke something. They are
//! packed in `tests/data/fuzz`, a folder for each target; `fuzz/README.md` says how they are made.

#![cfg(not(any(loom, shuttle)))]

mod fuzz_targets;

use std::io::Read;

/// The least number of seeds of a target: fewer means that the archive is not what it was.
const FEWEST: usize = 20;

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let packed: &[u8] = include_bytes!("data/fuzz/seeds.tar.xz");
    let mut unpacked = Vec::new();
    lzma_rust2::XzReader::new(packed, false)
        .read_to_end(&mut unpacked)
        .expect("an xz file");
    let mut archive = tar::Archive::new(unpacked.as_slice());
    let mut seeds = Vec::new();
    for file in archive.entries().expect("a tar archive") {
        let mut file = file.expect("a whole tar archive");
        let path = file.path().expect("a name").into_owned();
        if file.header().entry_type().is_file() && path.starts_with(target) {
            let mut seed = Vec::new();
            file.read_to_end(&mut seed).expect("a whole file");
            seeds.push((path.display().to_string(), seed));
        }
    }
    seeds
}

fn all(target: &str, run: fn(&[u8])) {
    let seeds = seeds(target);
    assert!(seeds.len() >= FEWEST, "{} seeds of {target}", seeds.len());
    for (name, seed) in seeds {
        if std::panic::catch_unwind(|| run(&seed)).is_err() {
            panic!("seed {name}");
        }
    }
}

#[test]
fn table() {
    all("table", fuzz_targets::table::run);
}

#[test]
fn image() {
    all("image", fuzz_targets::image::run);
}

#[test]
fn arch() {
    all("arch", fuzz_targets::arch::run);
}

#[test]
fn ptdump() {
    all("ptdump", fuzz_targets::ptdump::run);
}

#[test]
fn dump() {
    all("dump", fuzz_targets::dump::run);
}
