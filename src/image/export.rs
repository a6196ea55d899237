//! Writing a table as `S2DUMP01`.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use super::dump::{HEADER, MAGIC};
use super::{Image, ImageError, ReadMemory};
use crate::arch::{Ipa, Level, Pa, Pte};

impl<R: ReadMemory> Image<R> {
    /// The table as a dump: every page that the walk reads, each read once, by ascending address.
    ///
    /// # Errors
    ///
    /// The first table page that is not there, or that is reached twice.
    ///
    /// ```
    /// # use s2pt::arch::{Geometry, GeometryOptions, Pa, Vtcr, VtcrOptions, Vttbr};
    /// # use s2pt::image::{Dump, Image, ImageOptions};
    /// # let geometry = Geometry::new(GeometryOptions { ipa_bits: 36, ..Default::default() })?;
    /// # let vtcr = Vtcr::build(&geometry, VtcrOptions::default());
    /// # let vttbr = Vttbr::build(1, Pa::new(0x8000), false, &geometry)?;
    /// # let memory = |pa: Pa| (pa.get() / 0x1000 == 8).then_some(0);
    /// let image = Image::new(memory, vtcr, vttbr, ImageOptions::default())?;
    /// let bytes = image.to_dump()?; // one page: the root
    /// assert_eq!(bytes.len(), 48 + 8 + 4096);
    /// assert_eq!(Dump::parse(bytes.as_slice())?.vtcr(), vtcr);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_dump(&self) -> Result<Vec<u8>, ImageError> {
        let pages = self.pages()?;
        let page_size = self.geometry().granule().size();
        let mut bytes = Vec::with_capacity(HEADER + pages.len() * (8 + page_size as usize));
        bytes.extend_from_slice(&MAGIC);
        let header = [
            page_size,
            pages.len() as u64,
            self.root().get(),
            self.vtcr().raw(),
            self.vttbr().raw(),
        ];
        let words = pages
            .iter()
            .flat_map(|(pa, page)| core::iter::once(pa.get()).chain(page.iter().copied()));
        bytes.extend(header.into_iter().chain(words).flat_map(u64::to_le_bytes));
        Ok(bytes)
    }

    /// All table pages, whole, by address.
    fn pages(&self) -> Result<BTreeMap<Pa, Vec<u64>>, ImageError> {
        let geometry = self.geometry();
        let (start, page_size) = (geometry.start_level(), geometry.granule().size());
        let mut pages = BTreeMap::new();
        // A root of less than a page may begin inside one.
        let root = self.root().align_down(page_size);
        let mut to_read: Vec<(Pa, Ipa, Level)> = Vec::new();
        for frame in 0..u64::from(geometry.root_frames()) {
            let span = page_size / 8 * geometry.size(start);
            to_read.push((Pa::new(root.get() + frame * page_size), Ipa::new(frame * span), start));
        }
        while let Some((table, ipa, level)) = to_read.pop() {
            let mut page = vec![0; (page_size / 8) as usize];
            if !self.memory().read_table(table, &mut page) {
                return Err(ImageError::Missing { table, ipa, level });
            }
            // Only what the hardware would read is followed: the root may be a part of a page.
            let walked = if level == start && geometry.entries(start) < page.len() {
                let first = (self.root().offset_from(root) / 8) as usize;
                first..first + geometry.entries(start)
            } else {
                0..page.len()
            };
            if let Some(deeper) = level.deeper() {
                let size = geometry.size(level);
                for (index, &raw) in page[walked].iter().enumerate() {
                    let pte = Pte::from_raw(raw);
                    if pte.is_table(level) {
                        let below = Ipa::new(ipa.get() + index as u64 * size);
                        to_read.push((self.format().next_table(pte), below, deeper));
                    }
                }
            }
            if pages.insert(table, page).is_some() {
                return Err(ImageError::Revisited { table, ipa, level });
            }
        }
        Ok(pages)
    }
}
