//! What guest and host do in a turn: the guest's writes and checks, the host's take-backs and moves beside them.

use super::area::{Area, Layout};
use crate::arch::{AccessKind, Ipa, Pa};
use crate::memory::{Ram, TableMemory};
use crate::sync::{AtomicBool, Mutex, Ordering, PoisonError, thread};
use crate::table::Tlb;
use crate::vm::workload::control::{Control, Ended};
use crate::vm::workload::error::WorkloadError;
use crate::vm::{AccessError, Error, ExitReason, Vcpu, Vm};

/// What the guest does in a turn. Several vCPUs divide the pages among them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Turn {
    /// Writes the first words of the pages of an area.
    Write { area: Area, value: u64 },
    /// Writes the first word of its first page.
    Touch { area: Area, value: u64 },
    /// Checks the words in the middle of the pages, and writes the first ones.
    Exchange { area: Area, check: u64, value: u64 },
    /// Writes an area again and again until the host is done. What is not there exits.
    Roam { area: Area },
}

/// What guest and host share in a run.
pub(super) struct Shared<'r> {
    pub(super) layout: Layout,
    pub(super) ram: &'r Ram,
    pub(super) control: &'r Control,
    /// Whether the host is done moving.
    pub(super) over: AtomicBool,
    wrong: Mutex<u64>,
}

/// Pages between two looks at the control.
const STRIDE: u64 = 256;

impl<'r> Shared<'r> {
    pub(super) fn new(layout: Layout, ram: &'r Ram, control: &'r Control) -> Self {
        Self {
            layout,
            ram,
            control,
            over: AtomicBool::new(false),
            wrong: Mutex::default(),
        }
    }

    /// Words that were not what they should be.
    pub(super) fn wrong(&self) -> u64 {
        *self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_wrong(&self, wrong: u64) {
        *self.wrong.lock().unwrap_or_else(PoisonError::into_inner) += wrong;
    }

    /// Where the host finds the word in the middle of a page.
    fn middle(&self, page: u64) -> Pa {
        Pa::new(self.layout.pa(page).get() + self.layout.page / 2)
    }

    /// What a vCPU does in a turn.
    pub(super) fn turn<M: TableMemory, T: Tlb>(
        &self,
        vcpu: &mut Vcpu<'_, M, T>,
        index: usize,
        vcpus: usize,
        turn: Turn,
    ) -> Result<(), Ended> {
        let failed = |reason| WorkloadError::Access { vcpu: index, reason };
        match turn {
            Turn::Write { area, value } => self.each(area.part(index, vcpus), |ipa| {
                let hit = vcpu.access(ipa, AccessKind::Write).map_err(failed)?;
                self.ram.write(hit.pa, 8, value);
                Ok(())
            }),
            Turn::Touch { area, value } => {
                let part = area.part(index, vcpus);
                let first = Area {
                    pages: part.pages.min(1),
                    ..part
                };
                self.each(first, |ipa| {
                    let hit = vcpu.access(ipa, AccessKind::Write).map_err(failed)?;
                    self.ram.write(hit.pa, 8, value);
                    Ok(())
                })
            }
            Turn::Exchange { area, check, value } => {
                let mut wrong = 0;
                self.each(area.part(index, vcpus), |ipa| {
                    let hit = vcpu.access(ipa, AccessKind::Write).map_err(failed)?;
                    let middle = Pa::new(hit.pa.get() + self.layout.page / 2);
                    wrong += u64::from(self.ram.read(middle, 8) != Some(check));
                    self.ram.write(hit.pa, 8, value);
                    Ok(())
                })?;
                self.count_wrong(wrong);
                Ok(())
            }
            Turn::Roam { area } => {
                let part = area.part(index, vcpus);
                // Relaxed: it orders nothing but the end.
                while !self.over.load(Ordering::Relaxed) {
                    self.each(part, |ipa| match vcpu.access(ipa, AccessKind::Write) {
                        Ok(hit) => {
                            self.ram.write(hit.pa, 8, ipa.get());
                            Ok(())
                        }
                        Err(AccessError::Exit {
                            reason: ExitReason::Mmio,
                            ..
                        }) => Ok(()),
                        Err(reason) => Err(failed(reason)),
                    })?;
                    if part.pages == 0 {
                        thread::yield_now();
                    }
                }
                Ok(())
            }
        }
    }

    fn each(&self, part: Area, mut page: impl FnMut(Ipa) -> Result<(), WorkloadError>) -> Result<(), Ended> {
        for n in 0..part.pages {
            if n % STRIDE == 0 {
                self.control.go_on()?;
            }
            page(self.layout.ipa(part.first + n))?;
        }
        Ok(())
    }

    /// The host takes an area back, `pages` at a time, and drops what was in it. Bytes that were mapped.
    pub(super) fn take_back<M: TableMemory, T: Tlb>(
        &self,
        vm: &Vm<M, T>,
        area: Area,
        pages: u64,
    ) -> Result<u64, Error> {
        let (mut at, end, mut taken) = (area.first, area.first + area.pages, 0);
        while at < end {
            let next = end.min(at + pages);
            let gone = vm.invalidate(self.layout.ipa(at), (next - at) * self.layout.page)?;
            for page in at..next {
                self.ram.write(self.layout.pa(page), 8, 0);
            }
            taken += gone.end().bytes;
            at = next;
        }
        Ok(taken)
    }

    /// The host looks at the first words of some pages.
    pub(super) fn check(&self, pages: impl Iterator<Item = u64>, value: impl Fn(u64) -> u64) {
        let wrong = |&page: &u64| self.ram.read(self.layout.pa(page), 8) != Some(value(page));
        self.count_wrong(pages.filter(wrong).count() as u64);
    }

    /// The host's half of an exchange: checks the first words of all pages, and writes those in the middle.
    pub(super) fn answer(&self, check: u64, value: u64) {
        self.check(0..self.layout.all.pages, |_| check);
        for page in 0..self.layout.all.pages {
            self.ram.write(self.middle(page), 8, value);
        }
    }
}
