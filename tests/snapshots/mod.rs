//! The snapshots of `tests/data/kvm-tables`, unpacked in memory.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::OnceLock;

use serde_json::Value;

/// One table that KVM built: the dump and what is known about it.
pub struct Snapshot {
    pub name: String,
    pub bin: Vec<u8>,
    pub json: Value,
}

impl Snapshot {
    /// The number under `key`, written `"0x.."`.
    pub fn hex(&self, key: &str) -> u64 {
        hex(&self.json[key])
    }

    /// The list under `key`; empty where there is none.
    pub fn list(&self, key: &str) -> &[Value] {
        self.json[key].as_array().map_or(&[], Vec::as_slice)
    }
}

/// A number, written as a string of hex digits with or without `0x`.
pub fn hex(value: &Value) -> u64 {
    let text = value.as_str().expect("a string");
    u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("hex digits")
}

/// What is in an `.xz` file.
pub fn unxz(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    lzma_rust2::XzReader::new(packed, false)
        .read_to_end(&mut bytes)
        .expect("an xz file");
    bytes
}

/// All snapshots, by name; unpacked once.
pub fn load() -> &'static [Snapshot] {
    static ALL: OnceLock<Vec<Snapshot>> = OnceLock::new();
    ALL.get_or_init(unpack)
}

fn unpack() -> Vec<Snapshot> {
    let packed: &[u8] = include_bytes!("../data/kvm-tables/tables.tar.xz");
    let unpacked = unxz(packed);
    let mut archive = tar::Archive::new(unpacked.as_slice());
    let mut files = BTreeMap::<String, (Option<Vec<u8>>, Option<Value>)>::new();
    for file in archive.entries().expect("a tar archive") {
        let mut file = file.expect("a whole tar archive");
        let path = file.path().expect("a name").into_owned();
        let Some(extension) = path.extension() else { continue };
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("a whole file");
        let parts = files.entry(name).or_default();
        match extension.to_str() {
            Some("bin") => parts.0 = Some(bytes),
            Some("json") => parts.1 = Some(serde_json::from_slice(&bytes).expect("JSON")),
            _ => panic!("unknown file {}", path.display()),
        }
    }
    files
        .into_iter()
        .map(|(name, (bin, json))| Snapshot {
            bin: bin.unwrap_or_else(|| panic!("{name}.bin is missing")),
            json: json.unwrap_or_else(|| panic!("{name}.json is missing")),
            name,
        })
        .collect()
}
