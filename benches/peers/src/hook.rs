//! The TLB: an address that somebody looks at. Nobody pays for an invalidation, and nobody can leave it out.

use std::hint::black_box;

use s2pt::arch::Tlbi;
use s2pt::table::{Event, Tlb};

/// One invalidation, by address.
#[inline(always)]
pub fn invalidate(address: u64) {
    black_box(address);
}

/// The sink of s2pt's tables: as the peers do, it looks at the address of each TLBI, and at nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hook;

impl Tlb for Hook {
    #[inline(always)]
    fn event(&self, event: Event) {
        if let Event::Tlbi(tlbi) = event {
            match tlbi {
                Tlbi::Ipa { ipa, .. } | Tlbi::Range { ipa, .. } => invalidate(ipa.get()),
                Tlbi::Vmid | Tlbi::Stage1 { .. } => invalidate(0),
            }
        }
    }

    /// As hardware: TLBIs and barriers are all that it wants to hear of.
    fn watches(&self) -> bool {
        false
    }
}
