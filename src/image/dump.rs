//! Dump files: `S2DUMP01`.
//!
//! All numbers are 64-bit little-endian. Header: the magic `S2DUMP01`, page size, number of pages, root address,
//! VTCR_EL2, VTTBR_EL2. Then the pages, each its address and its bytes, by ascending address. Nothing follows.
//!
//! The numbers of the header are only ever compared with the length of the file, never used to allocate.

#[cfg(feature = "std")]
use alloc::vec::Vec;

use super::{Image, ImageError, ImageOptions, ReadMemory};
use crate::arch::{Granule, Pa, Vtcr, Vttbr};

/// First bytes of a dump.
pub(super) const MAGIC: [u8; 8] = *b"S2DUMP01";
/// Magic and five numbers.
pub(super) const HEADER: usize = 48;
/// The address before each page.
const ADDRESS: usize = 8;

/// A dump, checked, over bytes that are borrowed (`Dump<&[u8]>`) or owned (`Dump<Vec<u8>>`).
///
/// ```no_run
/// use s2pt::image::{Dump, ImageOptions};
/// let image = Dump::open("table.bin")?.into_image(ImageOptions::default())?;
/// println!("VTCR_EL2 {}, {} leaves", image.vtcr(), image.leaves().count());
/// # Ok::<(), s2pt::image::ImageError>(())
/// ```
#[derive(Clone)]
pub struct Dump<B> {
    bytes: B,
    page_size: usize,
    pages: usize,
    vtcr: Vtcr,
    vttbr: Vttbr,
}

#[cfg(feature = "std")]
impl Dump<Vec<u8>> {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// [`ImageError::Io`], else as [`Dump::parse`].
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self, ImageError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| ImageError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(bytes)
    }
}

impl<B: AsRef<[u8]>> Dump<B> {
    /// Checks the header, the registers, the length and the addresses of the pages; not what is in the pages.
    ///
    /// # Errors
    ///
    /// [`ImageError`] with the first thing that is wrong.
    pub fn parse(bytes: B) -> Result<Self, ImageError> {
        let raw = bytes.as_ref();
        let have = raw.len() as u64;
        if !raw.starts_with(&MAGIC) {
            let found = raw[..raw.len().min(MAGIC.len())].to_vec();
            return Err(ImageError::Magic { found });
        }
        if raw.len() < HEADER {
            return Err(ImageError::Header {
                have,
                need: HEADER as u64,
            });
        }
        let field = |index: usize| word(raw, MAGIC.len() + 8 * index);
        let [page_size, pages, root, vtcr, vttbr] = core::array::from_fn(field);
        let (vtcr, vttbr) = (Vtcr::new(vtcr), Vttbr::new(vttbr));

        let granule = Granule::from_size(page_size).ok_or(ImageError::PageSize { found: page_size })?;
        let geometry = vtcr.geometry().map_err(|rule| ImageError::Vtcr { vtcr, rule })?;
        if geometry.granule() != granule {
            let granule = geometry.granule().size();
            return Err(ImageError::Granule {
                page_size,
                vtcr,
                granule,
            });
        }
        let need = (page_size + ADDRESS as u64)
            .checked_mul(pages)
            .and_then(|bytes| bytes.checked_add(HEADER as u64))
            .unwrap_or(u64::MAX);
        if have < need {
            return Err(ImageError::Truncated {
                pages,
                page_size,
                need,
                have,
            });
        }
        if have > need {
            return Err(ImageError::Trailing { pages, need, have });
        }
        let (header, root) = (Pa::new(root), vttbr.baddr(&geometry));
        if header != root {
            return Err(ImageError::Root { header, vttbr, root });
        }
        let dump = Self {
            page_size: page_size as usize,
            pages: pages as usize,
            bytes,
            vtcr,
            vttbr,
        };
        dump.check_addresses()?;
        Ok(dump)
    }

    fn check_addresses(&self) -> Result<(), ImageError> {
        let page_size = self.page_size as u64;
        let mut previous = None;
        for index in 0..self.pages {
            let pa = self.page_address(index);
            let index = index as u64;
            if !pa.is_aligned(page_size) {
                return Err(ImageError::PageAddress { index, pa, page_size });
            }
            match previous {
                Some(previous) if pa <= previous => return Err(ImageError::PageOrder { index, pa, previous }),
                _ => previous = Some(pa),
            }
        }
        Ok(())
    }

    /// VTCR_EL2.
    pub fn vtcr(&self) -> Vtcr {
        self.vtcr
    }

    /// VTTBR_EL2.
    pub fn vttbr(&self) -> Vttbr {
        self.vttbr
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> u64 {
        self.page_size as u64
    }

    /// Number of pages.
    pub fn len(&self) -> usize {
        self.pages
    }

    /// Whether there is no page at all.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// Addresses of the pages, ascending.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = Pa> + '_ {
        (0..self.pages).map(|index| self.page_address(index))
    }

    /// The table in it.
    ///
    /// # Errors
    ///
    /// As [`Image::new`].
    pub fn into_image(self, options: ImageOptions) -> Result<Image<Self>, ImageError> {
        let (vtcr, vttbr) = (self.vtcr, self.vttbr);
        Image::new(self, vtcr, vttbr, options)
    }

    fn page_offset(&self, index: usize) -> usize {
        HEADER + index * (ADDRESS + self.page_size)
    }

    fn page_address(&self, index: usize) -> Pa {
        Pa::new(word(self.bytes.as_ref(), self.page_offset(index)))
    }

    /// The bytes of the page at `pa`.
    fn page(&self, pa: Pa) -> Option<&[u8]> {
        let (mut low, mut high) = (0, self.pages);
        while low < high {
            let middle = low.midpoint(high);
            match self.page_address(middle).cmp(&pa) {
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Greater => high = middle,
                core::cmp::Ordering::Equal => {
                    let start = self.page_offset(middle) + ADDRESS;
                    return Some(&self.bytes.as_ref()[start..start + self.page_size]);
                }
            }
        }
        None
    }
}

impl<B: AsRef<[u8]>> ReadMemory for Dump<B> {
    fn read_u64(&self, pa: Pa) -> Option<u64> {
        let mut entry = [0];
        self.read_table(pa, &mut entry).then_some(entry[0])
    }

    fn read_table(&self, pa: Pa, entries: &mut [u64]) -> bool {
        let (mut pa, mut rest) = (pa, entries);
        while !rest.is_empty() {
            let first = pa.align_down(self.page_size as u64);
            let Some(page) = self.page(first) else { return false };
            let words = &page[pa.offset_from(first) as usize..];
            let (now, later) = rest.split_at_mut(rest.len().min(words.len() / 8));
            for (index, entry) in now.iter_mut().enumerate() {
                *entry = word(words, 8 * index);
            }
            let Some(next) = first.checked_add(self.page_size as u64) else {
                return later.is_empty();
            };
            (pa, rest) = (next, later);
        }
        true
    }
}

impl<B> core::fmt::Debug for Dump<B> {
    /// The header; the pages would fill screens.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Dump")
            .field("page_size", &self.page_size)
            .field("pages", &self.pages)
            .field("vtcr", &self.vtcr)
            .field("vttbr", &self.vttbr)
            .finish_non_exhaustive()
    }
}

/// The number at `offset`, which is inside.
fn word(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}
