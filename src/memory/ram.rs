//! Guest memory as bytes: what the output addresses of a table lead to in a simulation.

#[cfg(not(shuttle))]
use super::region::Region;
use crate::arch::Pa;
use crate::sync::{AtomicU64, Ordering};
use alloc::vec::Vec;

/// Bytes of a page of [`Ram`].
const PAGE: u64 = 4096;

/// A few words, for the model checker.
#[cfg(shuttle)]
#[derive(Debug)]
struct Region(alloc::boxed::Box<[AtomicU64]>, u64);

#[cfg(shuttle)]
impl Region {
    fn new(base: Pa, shift: u32, count: u32, _: u32) -> std::io::Result<Self> {
        let words = (count as usize) << (shift - 3);
        Ok(Self((0..words).map(|_| AtomicU64::new(0)).collect(), base.get()))
    }

    fn tables(&self, pa: Pa, _: u32) -> &[AtomicU64] {
        let first = ((pa.get() - self.1) / 8) as usize;
        &self.0[first..first + (PAGE / 8) as usize]
    }
}

/// A run of physical memory that simulated CPUs read and write, zero at first.
///
/// Words are atomic, so any number of threads may use it at once; bytes are little-endian, as Arm guests have them. It
/// costs host memory only where it was written.
#[derive(Debug)]
pub struct Ram {
    region: Region,
    base: u64,
    bytes: u64,
}

impl Ram {
    /// `bytes` bytes from `base` on; both are rounded to whole 4 KiB pages, outwards.
    ///
    /// # Errors
    /// What the operating system says if it has no address space for so much, `InvalidInput` beyond 2^31 pages.
    pub fn new(base: Pa, bytes: u64) -> std::io::Result<Self> {
        let start = base.align_down(PAGE);
        let pages = bytes.saturating_add(base.offset_from(start)).div_ceil(PAGE).max(1);
        let count = u32::try_from(pages)
            .ok()
            .filter(|&count| count < 1 << 31)
            .ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(Self {
            region: Region::new(start, PAGE.trailing_zeros(), count, 0)?,
            base: start.get(),
            bytes: u64::from(count) * PAGE,
        })
    }

    /// Address of the first byte.
    pub fn base(&self) -> Pa {
        Pa::new(self.base)
    }

    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        self.bytes
    }

    /// The word that holds the byte at `pa`, and that byte's place in it.
    fn word(&self, pa: Pa) -> Option<(&AtomicU64, u32)> {
        let offset = pa.get().checked_sub(self.base).filter(|&offset| offset < self.bytes)?;
        let page = self.region.tables(Pa::new(self.base + offset / PAGE * PAGE), 1);
        Some((&page[(offset % PAGE / 8) as usize], (offset % 8) as u32))
    }

    /// `size` (1, 2, 4 or 8) bytes at `pa`, which is a multiple of `size`; `None` outside.
    pub fn read(&self, pa: Pa, size: u32) -> Option<u64> {
        let (word, at) = self.word(pa)?;
        // Relaxed: what a guest's own ordering is, the guest says.
        Some(word.load(Ordering::Relaxed) >> (8 * at) & mask(size))
    }

    /// Writes `size` bytes of `value` at `pa`, as [`read`](Self::read); `false` outside.
    pub fn write(&self, pa: Pa, size: u32, value: u64) -> bool {
        let Some((word, at)) = self.word(pa) else {
            return false;
        };
        if size == 8 {
            word.store(value, Ordering::Relaxed);
            return true;
        }
        let (mask, value) = (mask(size) << (8 * at), (value & mask(size)) << (8 * at));
        let merged = |old: u64| Some(old & !mask | value);
        // Relaxed: as above; the exchange keeps the other bytes of the word.
        word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, merged).is_ok()
    }

    /// The words of the 4 KiB page at `pa`, a multiple of 4 KiB; `None` outside.
    pub fn page(&self, pa: Pa) -> Option<&[AtomicU64]> {
        let offset = pa.get().checked_sub(self.base).filter(|&offset| offset < self.bytes)?;
        pa.is_aligned(PAGE)
            .then(|| self.region.tables(Pa::new(self.base + offset), 1))
    }

    /// The bytes of `[pa, pa + size)` as they are now, one word at a time; `None` unless all of it is inside. `pa` and
    /// `size` are multiples of 8.
    pub fn bytes(&self, pa: Pa, size: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
        let end = pa.get().checked_add(size)?;
        for at in (pa.get()..end).step_by(8) {
            bytes.extend_from_slice(&self.read(Pa::new(at), 8)?.to_le_bytes());
        }
        Some(bytes)
    }
}

const fn mask(size: u32) -> u64 {
    u64::MAX >> (64 - 8 * size)
}
