//! Step 3: what a fault is to install, as the table in the header of `fault` says. Nothing changes yet, and nothing that
//! was looked at here is relied on later: `install` looks again.

use super::{ExitReason, Handled, HostPage, Outcome, Retry};
use crate::arch::{AccessKind, Attrs, Fault, FaultKind, Ipa, Level, Pa, Prot};
use crate::memory::TableMemory;
use crate::table::{Existing, MapOptions, Tlb};
use crate::vm::backing::largest_in_slot;
use crate::vm::error::Error;
use crate::vm::slots::{Entry, PaSource, Slot};
use crate::vm::vcpu::Vcpu;

/// What a fault is about to install, decided before the section that installs it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plan {
    Map {
        ipa: Ipa,
        size: u64,
        pa: Pa,
        attrs: Attrs,
        options: MapOptions,
        done: Handled,
    },
    Relax {
        ipa: Ipa,
        size: u64,
        prot: Prot,
        done: Handled,
    },
    Young {
        ipa: Ipa,
    },
}

/// What the host has at `ipa` by the slot's own description.
pub(crate) fn described(slot: &Slot, ipa: Ipa, largest: u64, write: bool) -> Result<HostPage, Error> {
    match slot.source {
        PaSource::Linear(base) => {
            let offset = ipa.offset_from(slot.ipa);
            let pa = base.get() + offset;
            // As large as the addresses are congruent: the host's page must be an aligned window of both.
            let congruent = 1u64
                .checked_shl((base.get() ^ slot.ipa.get()).trailing_zeros())
                .unwrap_or(u64::MAX);
            Ok(HostPage {
                writable: !slot.readonly,
                ..HostPage::new(Pa::new(pa), largest.min(congruent))
            })
        }
        PaSource::Supplied => Err(Error::NoHostPage {
            slot: slot.id,
            ipa,
            write,
        }),
    }
}

impl<M: TableMemory, T: Tlb> Vcpu<'_, M, T> {
    /// Step 3: what to install.
    pub(crate) fn decide(
        &self,
        fault: &Fault,
        entry: &Entry,
        ipa: Ipa,
        access: AccessKind,
        page: HostPage,
    ) -> Result<Result<Plan, Outcome>, Error> {
        let vm = self.vm();
        let geometry = vm.geometry();
        let (write, execute) = (access == AccessKind::Write, access == AccessKind::Execute);
        let device = page.memtype.is_device();
        if execute && !page.memtype.may_execute() {
            return Ok(Err(Outcome::Exit(ExitReason::Fetch)));
        }
        let logging = entry.log.is_some();
        // A page that hardware watches is mapped clean: a write that comes back makes it dirty.
        let watched = page.writable && entry.log.as_ref().is_some_and(|log| log.by_hardware());
        let mut largest = Level::L3;
        if !logging && !device {
            largest = largest_in_slot(geometry, &entry.slot, ipa, vm.largest());
            while !largest.is_last() && geometry.size(largest) > page.size {
                largest = largest.deeper().unwrap_or(Level::L3);
            }
        }
        let writable = page.writable && (write || !logging) && !watched;
        let mut prot = Prot::R;
        prot.set(Prot::W, writable);
        prot.set(
            Prot::X,
            execute || vm.config().execute_eagerly && page.memtype.may_execute(),
        );
        let size = geometry.size(largest);
        let kvm = vm.kvm();
        let map = |options, done| Plan::Map {
            ipa: ipa.align_down(size),
            size,
            pa: page.pa.align_down(size),
            attrs: Attrs {
                memtype: page.memtype,
                dbm: watched,
                ..Attrs::new(prot)
            },
            options: MapOptions {
                largest: Some(largest),
                ..vm.fault_options(options)
            },
            done,
        };
        if fault.kind == FaultKind::Translation {
            // The syndrome of a stage-1 walk's fault names a level of stage 1.
            let level = if fault.s1ptw {
                self.handle.lookup(ipa)?.level
            } else {
                fault.level
            };
            let done = if level > largest {
                Handled::Collapsed { level: largest }
            } else {
                Handled::Mapped { level: largest }
            };
            return Ok(Ok(map(
                MapOptions {
                    over_tables: !largest.is_last(),
                    ..MapOptions::FAULT
                },
                done,
            )));
        }
        let added = match access {
            AccessKind::Read => return Err(Error::UnexpectedFault { ipa, access }),
            AccessKind::Write => Prot::W,
            AccessKind::Execute => Prot::X,
        };
        let leaf = self.handle.lookup(ipa)?;
        if !leaf.pte.is_leaf(leaf.level) {
            return Ok(Err(Outcome::Again(Retry::Peer))); // it was taken away since
        }
        if leaf.level > largest {
            return Ok(Ok(map(
                MapOptions {
                    existing: Existing::Replace,
                    ..MapOptions::default()
                },
                Handled::Collapsed { level: largest },
            )));
        }
        let block = leaf.level < Level::L3;
        Ok(Ok(if logging && block && kvm {
            map(MapOptions::KVM_FAULT, Handled::Split)
        } else if logging && block {
            Plan::Relax {
                ipa,
                size,
                prot: added,
                done: Handled::Split,
            }
        } else {
            Plan::Relax {
                ipa: leaf.base,
                size: geometry.size(leaf.level),
                prot: if kvm { prot } else { added },
                done: Handled::Relaxed,
            }
        }))
    }
}
