//! How much maintenance there was, by kind.

use crate::arch::{CacheOp, Scope, Tlbi};
use crate::sync::{AtomicU64, Ordering, unique_number};
use crate::table::tlb::{Event, Tlb};

/// How many shards the counters have: threads that count at once mostly do so on different cache lines.
const SHARDS: usize = 16;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Events by kind.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// One thread's counters, on cache lines of their own.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        struct Shard {
            $($name: AtomicU64,)*
        }

        impl Shard {
            fn add_to(&self, counts: &mut Counts) {
                $(counts.$name += self.$name.load(Ordering::Relaxed);)*
            }
        }

        impl Counts {
            /// Each counter with its name, in the order of the fields.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Entries written.
    stores,
    /// Broadcast invalidations by IPA.
    tlbi_ipa,
    /// Broadcast invalidations of a range.
    tlbi_range,
    /// Invalidations on the calling core only, by IPA or range.
    tlbi_local,
    /// Invalidations of the whole VMID.
    tlbi_vmid,
    /// Stage-1 invalidations that complete one of stage 2.
    tlbi_stage1,
    /// DSBs, those that publish new entries included.
    dsb,
    /// ISBs.
    isb,
    /// Cleans of data caches.
    cache_data,
    /// Invalidations of instruction caches.
    cache_instruction,
    /// Frames taken.
    allocated,
    /// Subtrees unlinked.
    retired,
    /// Frames given back.
    freed,
}

impl Counts {
    /// Stage-2 invalidations of every kind.
    pub fn tlbi(&self) -> u64 {
        self.tlbi_ipa + self.tlbi_range + self.tlbi_local + self.tlbi_vmid
    }
}

/// Counts events. The sum is exact once the threads that caused them are done.
#[derive(Debug, Default)]
pub struct Counting {
    shards: [Shard; SHARDS],
}

impl Counting {
    /// All zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for shard in &self.shards {
            shard.add_to(&mut counts);
        }
        counts
    }
}

impl Tlb for Counting {
    fn event(&self, event: Event) {
        let shard = &self.shards[thread_number() % SHARDS];
        let counter = match event {
            Event::Store { .. } => &shard.stores,
            Event::Tlbi(Tlbi::Ipa {
                scope: Scope::Broadcast,
                ..
            }) => &shard.tlbi_ipa,
            Event::Tlbi(Tlbi::Range {
                scope: Scope::Broadcast,
                ..
            }) => &shard.tlbi_range,
            Event::Tlbi(Tlbi::Ipa { .. } | Tlbi::Range { .. }) => &shard.tlbi_local,
            Event::Tlbi(Tlbi::Vmid) => &shard.tlbi_vmid,
            Event::Tlbi(Tlbi::Stage1 { .. }) => &shard.tlbi_stage1,
            Event::Dsb(_) | Event::Publish => &shard.dsb,
            Event::Isb => &shard.isb,
            Event::Cache(CacheOp::DataCleanInvalidate { .. }) => &shard.cache_data,
            Event::Cache(CacheOp::InstructionInvalidate { .. }) => &shard.cache_instruction,
            Event::Allocate { .. } => &shard.allocated,
            Event::Retire { .. } => &shard.retired,
            Event::Free { .. } => &shard.freed,
            Event::Fill { .. } | Event::Return => return,
        };
        // Relaxed: a statistic, ordered with nothing.
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A small number for the calling thread, given out in order of first use.
pub(super) fn thread_number() -> usize {
    std::thread_local! {
        static NUMBER: usize = unique_number() as usize;
    }
    NUMBER.with(|number| *number)
}
