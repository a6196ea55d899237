//! Says which compiler built the program, for the report.

use std::process::Command;

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
}
