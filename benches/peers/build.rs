//! Says which compiler built the program and which s2pt is in it, for the report.

use std::fs;
use std::process::Command;

const MANIFEST: &str = "../../Cargo.toml";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = std::env::var("RUSTC").expect("cargo says which compiler it uses");
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .expect("a compiler that runs");
    println!(
        "cargo:rustc-env=RUSTC_VERSION={}",
        String::from_utf8_lossy(&version.stdout).trim()
    );

    println!("cargo:rerun-if-changed={MANIFEST}");
    let manifest = fs::read_to_string(MANIFEST).expect("the manifest of s2pt");
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = "));
    println!(
        "cargo:rustc-env=S2PT_VERSION={}",
        version.expect("a version").trim_matches('"')
    );
}
