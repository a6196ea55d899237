//! The other side: memory that pages are copied to, no faster than the bandwidth, and that is compared at the end.

use core::time::Duration;
use std::time::Instant;

use super::super::control::{Control, Ended};
use super::super::error::WorkloadError;
use super::Migrate;
use crate::arch::Pa;
use crate::memory::Ram;
use crate::vm::{Cost, PaSource, Slot};

/// Pages copied between two looks at the clock.
const STRIDE: usize = 64;

pub(super) struct Transfer<'r> {
    source: &'r Ram,
    destination: Ram,
    base: u64,
    bytes: u64,
    page: u64,
    bandwidth: Option<u64>,
    copy: Cost,
    sent: u64,
    control: &'r Control,
}

impl<'r> Transfer<'r> {
    pub(super) fn new(
        source: &'r Ram,
        slot: &Slot,
        page: u64,
        options: &Migrate,
        control: &'r Control,
    ) -> Result<Self, WorkloadError> {
        let base = match slot.source {
            PaSource::Linear(pa) => pa.get(),
            PaSource::Supplied => 0, // was refused before
        };
        let destination = Ram::new(Pa::new(base), slot.size).map_err(|_| WorkloadError::Memory { bytes: slot.size })?;
        Ok(Self {
            source,
            destination,
            base,
            bytes: slot.size,
            page,
            bandwidth: options.bandwidth,
            copy: options.copy,
            sent: 0,
            control,
        })
    }

    /// Copies pages of the slot, as they are.
    pub(super) fn send(&mut self, pages: &[u64]) -> Result<(), Ended> {
        self.control.expect(pages.len() as u64);
        let since = Instant::now();
        for (part, pages) in pages.chunks(STRIDE).enumerate() {
            self.control.go_on()?;
            for pa in pages.iter().flat_map(|&page| self.parts(page)) {
                self.source.copy_page(&self.destination, pa);
            }
            self.copy.pay_for(pages.len() as u64);
            self.sent += pages.len() as u64;
            self.control.add(pages.len() as u64);
            if let Some(bandwidth) = self.bandwidth {
                let bytes = (part * STRIDE + pages.len()) as u64 * self.page;
                let due = Duration::from_secs_f64(bytes as f64 / bandwidth as f64);
                let ahead = due.saturating_sub(since.elapsed());
                // The operating system's slack is as long as some sleeps: it is made up for by later ones.
                if ahead > Duration::from_micros(100) {
                    self.control.sleep(ahead)?;
                }
            }
        }
        Ok(())
    }

    /// The parts of a page that are copied at a time.
    fn parts(&self, page: u64) -> impl Iterator<Item = Pa> + use<> {
        let first = self.base + page * self.page;
        (first..first + self.page).step_by(Ram::PAGE as usize).map(Pa::new)
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// How many bytes are not the same on both sides.
    pub(super) fn differing_bytes(&self) -> u64 {
        let parts = (self.base..self.base + self.bytes).step_by(Ram::PAGE as usize);
        parts
            .map(|pa| self.source.differing_bytes(&self.destination, Pa::new(pa)))
            .sum()
    }
}
