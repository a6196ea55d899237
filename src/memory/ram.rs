//! Guest memory as bytes: what the output addresses of a table lead to in a simulation.

#[cfg(not(shuttle))]
use super::region::Region;
use crate::arch::Pa;
use crate::sync::{Arc, AtomicU64, Ordering, RwLock};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Bytes of a page of [`Ram`].
const PAGE: u64 = 4096;

/// Physical memory that simulated CPUs read and write, zero at first.
///
/// Words are atomic, so any number of threads may use it at once; bytes are little-endian, as Arm guests have them. It
/// costs host memory only where it was written.
#[derive(Debug)]
pub struct Ram(Kind);

#[derive(Debug)]
enum Kind {
    /// One run of addresses.
    #[cfg(not(shuttle))]
    Run { region: Region, base: u64, bytes: u64 },
    /// Memory at every address, page by page: a look-up under a lock for each access.
    Everywhere(RwLock<BTreeMap<u64, Arc<[AtomicU64]>>>),
}

impl Ram {
    /// Memory at every physical address.
    pub fn everywhere() -> Self {
        Self(Kind::Everywhere(RwLock::new(BTreeMap::new())))
    }

    /// `bytes` bytes from `base` on; both are rounded to whole 4 KiB pages, outwards.
    ///
    /// # Errors
    /// What the operating system says if it has no address space for so much, `InvalidInput` beyond 2^31 pages.
    #[cfg(not(shuttle))]
    pub fn new(base: Pa, bytes: u64) -> std::io::Result<Self> {
        let start = base.align_down(PAGE);
        let pages = bytes.saturating_add(base.offset_from(start)).div_ceil(PAGE).max(1);
        let count = u32::try_from(pages)
            .ok()
            .filter(|&count| count < 1 << 31)
            .ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(Self(Kind::Run {
            region: Region::new(start, PAGE.trailing_zeros(), count, 0)?,
            base: start.get(),
            bytes: u64::from(count) * PAGE,
        }))
    }

    /// Works with the words of the 4 KiB page that holds `pa`; `None` if no memory is there.
    fn with_page<R>(&self, pa: Pa, write: bool, work: impl FnOnce(Option<&[AtomicU64]>) -> R) -> Option<R> {
        let page = pa.align_down(PAGE);
        match &self.0 {
            #[cfg(not(shuttle))]
            Kind::Run { region, base, bytes } => {
                page.get().checked_sub(*base).filter(|offset| offset < bytes)?;
                Some(work(Some(region.tables(page, 1))))
            }
            Kind::Everywhere(pages) => {
                let found = pages.read().ok()?.get(&page.get()).cloned();
                let found = found.or_else(|| {
                    let fresh = || (0..PAGE / 8).map(|_| AtomicU64::new(0)).collect();
                    write.then(|| {
                        pages
                            .write()
                            .ok()
                            .map(|mut all| all.entry(page.get()).or_insert_with(fresh).clone())
                    })?
                });
                Some(work(found.as_deref()))
            }
        }
    }

    /// `size` (1, 2, 4 or 8) bytes at `pa`, which is a multiple of `size`; `None` where no memory is.
    pub fn read(&self, pa: Pa, size: u32) -> Option<u64> {
        let (index, at) = place(pa);
        // Relaxed: what a guest's own ordering is, the guest says. A page never written is zero.
        let word = |page: Option<&[AtomicU64]>| page.map_or(0, |page| page[index].load(Ordering::Relaxed));
        Some(self.with_page(pa, false, word)? >> at & mask(size))
    }

    /// Writes `size` bytes of `value` at `pa`, as [`read`](Self::read); `false` where no memory is.
    pub fn write(&self, pa: Pa, size: u32, value: u64) -> bool {
        let (index, at) = place(pa);
        let written = self.with_page(pa, true, |page| {
            let Some(page) = page else { return false };
            let word = &page[index];
            if size == 8 {
                word.store(value, Ordering::Relaxed);
                return true;
            }
            let (mask, value) = (mask(size) << at, (value & mask(size)) << at);
            // Relaxed: as above; the exchange keeps the other bytes of the word.
            let merged = |old: u64| Some(old & !mask | value);
            word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, merged).is_ok()
        });
        written.unwrap_or(false)
    }

    /// The bytes of `[pa, pa + size)` as they are now, one word at a time; `None` unless all of it is memory. `pa` and
    /// `size` are multiples of 8.
    pub fn bytes(&self, pa: Pa, size: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
        let end = pa.get().checked_add(size)?;
        for at in (pa.get()..end).step_by(8) {
            bytes.extend_from_slice(&self.read(Pa::new(at), 8)?.to_le_bytes());
        }
        Some(bytes)
    }

    /// Bytes of a page, the unit of [`copy_page`](Self::copy_page) and [`differing_bytes`](Self::differing_bytes).
    pub const PAGE: u64 = PAGE;

    /// Copies the 4 KiB page that holds `pa` to the same address of `to`, word by word, each as it is when its turn comes.
    /// Where either has no memory nothing is copied.
    pub fn copy_page(&self, to: &Self, pa: Pa) {
        self.with_page(pa, false, |from| {
            to.with_page(pa, true, |to| {
                let Some(to) = to else { return };
                for (index, word) in to.iter().enumerate() {
                    // Relaxed: as for a guest's own accesses.
                    let value = from.map_or(0, |from| from[index].load(Ordering::Relaxed));
                    word.store(value, Ordering::Relaxed);
                }
            })
        });
    }

    /// Fills the 4 KiB page that holds `pa` with `word`, where memory is.
    pub fn fill_page(&self, pa: Pa, word: u64) {
        self.with_page(pa, true, |page| {
            for place in page.into_iter().flatten() {
                // Relaxed: as for a guest's own accesses.
                place.store(word, Ordering::Relaxed);
            }
        });
    }

    /// How many bytes of the 4 KiB page that holds `pa` are not the same in `other`; where there is no memory there are zeros.
    pub fn differing_bytes(&self, other: &Self, pa: Pa) -> u64 {
        let page = |ram: &Self| {
            let words = |page: Option<&[AtomicU64]>| -> Option<Vec<u64>> {
                Some(page?.iter().map(|word| word.load(Ordering::Relaxed)).collect())
            };
            ram.with_page(pa, false, words)
                .flatten()
                .unwrap_or_else(|| alloc::vec![0; (PAGE / 8) as usize])
        };
        let (ours, theirs) = (page(self), page(other));
        let bytes =
            |(ours, theirs): (&u64, &u64)| (ours ^ theirs).to_le_bytes().iter().filter(|&&byte| byte != 0).count();
        ours.iter().zip(&theirs).map(bytes).sum::<usize>() as u64
    }
}

/// The word of a page that holds the byte at `pa`, and how many bits stand before that byte.
const fn place(pa: Pa) -> (usize, u32) {
    ((pa.get() % PAGE / 8) as usize, (pa.get() % 8 * 8) as u32)
}

const fn mask(size: u32) -> u64 {
    u64::MAX >> (64 - 8 * size)
}
