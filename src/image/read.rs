//! How an image gets at its memory.

use crate::arch::Pa;

/// Physical memory that can be read: implemented by every `Fn(Pa) -> Option<u64>`.
///
/// ```
/// use s2pt::arch::Pa;
/// use s2pt::image::ReadMemory;
/// let words = [1u64, 2, 3];
/// let memory = |pa: Pa| words.get((pa.get() / 8) as usize).copied();
/// let mut entries = [0; 2];
/// assert!(memory.read_table(Pa::new(8), &mut entries));
/// assert_eq!(entries, [2, 3]);
/// assert!(!memory.read_table(Pa::new(16), &mut entries));
/// ```
pub trait ReadMemory {
    /// The 64-bit little-endian word at `pa`, a multiple of 8; `None` where there is no memory.
    fn read_u64(&self, pa: Pa) -> Option<u64>;

    /// Reads `entries.len()` words from `pa` on; `false` if one of them is not there.
    ///
    /// The default reads word by word; override it where a table at a time is cheaper.
    fn read_table(&self, pa: Pa, entries: &mut [u64]) -> bool {
        entries.iter_mut().enumerate().all(|(index, entry)| {
            let value = pa.checked_add(index as u64 * 8).and_then(|pa| self.read_u64(pa));
            value.is_some_and(|value| {
                *entry = value;
                true
            })
        })
    }
}

impl<F: Fn(Pa) -> Option<u64>> ReadMemory for F {
    fn read_u64(&self, pa: Pa) -> Option<u64> {
        self(pa)
    }
}
