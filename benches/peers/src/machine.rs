//! What the figures were measured on.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// Bytes of the caches that one core sees.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Caches {
    pub l1d: usize,
    pub l2: usize,
    pub l3: usize,
}

impl Default for Caches {
    /// For a machine that does not say: common sizes.
    fn default() -> Self {
        Self {
            l1d: 32 << 10,
            l2: 1 << 20,
            l3: 32 << 20,
        }
    }
}

impl Caches {
    /// As the kernel lists them.
    pub fn of_this_machine() -> Self {
        let mut caches = Self::default();
        let folder = Path::new("/sys/devices/system/cpu/cpu0/cache");
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let text = |name: &str| fs::read_to_string(entry.path().join(name)).ok();
            let (Some(level), Some(kind), Some(size)) = (text("level"), text("type"), text("size")) else {
                continue;
            };
            let Some(bytes) = bytes(size.trim()) else { continue };
            match (level.trim(), kind.trim()) {
                ("1", "Data") => caches.l1d = bytes,
                ("2", "Unified" | "Data") => caches.l2 = bytes,
                ("3", "Unified" | "Data") => caches.l3 = bytes,
                _ => {}
            }
        }
        caches
    }
}

/// `1024K`, `32M` or plain bytes.
fn bytes(text: &str) -> Option<usize> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        _ => (text, 0),
    };
    digits.parse::<usize>().ok().map(|number| number << shift)
}

#[derive(Debug, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub caches: Caches,
    pub kernel: String,
    pub rustc: &'static str,
    pub huge_pages: String,
    /// Load average of the last minute, before the first measure.
    pub load: f64,
}

impl Machine {
    pub fn this() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = text("/proc/cpuinfo");
        let processor = cpuinfo
            .lines()
            .find_map(|line| {
                line.strip_prefix("model name")?
                    .split_once(':')
                    .map(|(_, name)| name.trim())
            })
            .unwrap_or(std::env::consts::ARCH);
        let load = text("/proc/loadavg");
        Self {
            processor: processor.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            caches: Caches::of_this_machine(),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            rustc: env!("RUSTC_VERSION"),
            huge_pages: text("/sys/kernel/mm/transparent_hugepage/enabled").trim().to_owned(),
            load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }
}
