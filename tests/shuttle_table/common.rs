//! Pages that everybody fills and empties, in ranges that cross: a ledger tells what must be there in the end.
//!
//! A fault says how many bytes it filled, an unmap how many it removed, whatever came between. So the sum of both over all
//! threads is what is mapped when they are done.

use super::*;

/// Bytes that one thread put in, less those that it took out.
#[derive(Default)]
pub struct Ledger(i64);

impl Ledger {
    /// One operation on a part of `pages` pages from `start`.
    pub fn change(&mut self, view: &View<'_>, start: u64, pages: u64, short_of_memory: bool) {
        let first = pick(pages);
        let count = if short_of_memory { 1 } else { 1 + pick(pages - first) };
        let (ipa, size) = (Ipa::new(start + first * PAGE), count * PAGE);
        if pick(2) == 0 {
            let pa = 0x10_0000 + ipa.get();
            match view.map(ipa, size, Pa::new(pa), &Attrs::new(Prot::RW), MapOptions::FAULT) {
                Ok(mapped) => self.0 += mapped.bytes as i64,
                Err(Error::Again { .. }) => {} // all was there
                Err(Error::OutOfFrames { .. }) if short_of_memory => {}
                Err(error) => panic!("{error}"),
            }
        } else {
            match view.unmap(ipa, size) {
                Ok(removed) => self.0 -= removed as i64,
                Err(Error::OutOfFrames { .. }) if short_of_memory => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// When all are done.
    pub fn check(ledgers: impl IntoIterator<Item = Ledger>, view: &View<'_>, start: u64, pages: u64) {
        let booked: i64 = ledgers.into_iter().map(|ledger| ledger.0).sum();
        let mut mapped = 0;
        for ipa in (0..pages).map(|page| start + page * PAGE) {
            if let Ok(hit) = view.translate(Ipa::new(ipa), AccessKind::Read) {
                assert_eq!(hit.pa.get(), 0x10_0000 + ipa);
                mapped += PAGE as i64;
            }
        }
        assert_eq!(mapped, booked, "bytes mapped, and bytes booked");
    }
}
