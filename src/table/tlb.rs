//! Maintenance as data: every store, invalidation, barrier, allocation and free is offered to a sink.
//!
//! The table itself never executes a TLBI. It says which one is due, in order, and a [`Tlb`] does with that what its
//! owner needs: nothing ([`Null`], which costs nothing), the instructions on real hardware, a count, a recording, or a
//! wait that stands for a stalled core. The sink is a type parameter, so that its code is compiled into the operation.

use crate::arch::{CacheOp, Dsb, Level, Pa, Pte, Tlbi};
use crate::sync::Arc;

/// One step that a table operation takes, in the order in which it takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An entry was written; a LOCKED or FROZEN one, which only its holder writes, is about to be.
    Store {
        /// Physical address of the entry.
        entry: Pa,
        /// What it held.
        old: Pte,
        /// What it holds now.
        new: Pte,
        /// Whether the store makes earlier stores visible first.
        release: bool,
    },
    /// Cached translations must go.
    Tlbi(Tlbi),
    /// Wait for what was issued before.
    Dsb(Dsb),
    /// Synchronise the instruction stream with what the barriers completed.
    Isb,
    /// Memory that is about to become visible must be cleaned, or its instructions invalidated.
    Cache(CacheOp),
    /// A frame left the memory to become a table.
    Allocate {
        /// Its address.
        frame: Pa,
    },
    /// A subtree was unlinked; its frames are freed once every walker that could hold them has left.
    Retire {
        /// The table at its top.
        frame: Pa,
        /// The level of that table's entries.
        level: Level,
    },
    /// A frame went back to the memory.
    Free {
        /// Its address.
        frame: Pa,
    },
    /// New valid entries are complete: walkers must see them (DSB ISHST on hardware). One for a batch.
    Publish,
    /// Entries of a table that nobody else can reach yet were filled: the first, and each next one by a step more. Entries
    /// that stay empty are not told of. Only for a sink that asks for [`contents`](Tlb::contents).
    Fill {
        /// Physical address of the first entry.
        entry: Pa,
        /// How many.
        count: u32,
        /// The value of the first.
        first: Pte,
        /// What each next one has more, wrapping.
        step: u64,
    },
    /// A call is over, and with it all that it owed. The table does not tell of it: who drives it may.
    Return,
}

/// Receives every maintenance step of a table. Many threads call at once.
///
/// An implementation on hardware executes [`Event::Tlbi`], [`Event::Dsb`], [`Event::Isb`], [`Event::Cache`] and
/// [`Event::Publish`] before it returns and ignores the rest. It must not call back into an operation that waits for
/// the entry being broken: the entry is LOCKED while its TLBI runs. It must not panic: an entry that is LOCKED then stays so,
/// and handles wait for ever for who left it (an [`Exclusive`](super::Exclusive) view is told so instead).
pub trait Tlb: Send + Sync {
    /// False for a sink that ignores everything: the work of producing events is then compiled out.
    const ACTIVE: bool = true;

    /// Takes one step.
    fn event(&self, event: Event);

    /// Whether it looks at [`Event::Store`] at all. If not, exclusive access changes whole tables in one go and tells of
    /// the TLBIs and barriers alone, as hardware needs it. Asked at any time; by default what `ACTIVE` says.
    fn watches(&self) -> bool {
        Self::ACTIVE
    }

    /// Whether it wants to be told what stands in a table before it is linked ([`Event::Fill`]): the table then reads again
    /// what it has just written. Asked for each such table; by default no.
    fn contents(&self) -> bool {
        false
    }

    /// Whether it looks at anything at all: a sink that was told to do nothing when it was made says no, and is spared the
    /// steps that take work to find out. Asked at any time; by default what `ACTIVE` says.
    #[inline(always)]
    fn listens(&self) -> bool {
        Self::ACTIVE
    }
}

/// The sink that does nothing and costs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Null;

impl Tlb for Null {
    const ACTIVE: bool = false;

    #[inline(always)]
    fn event(&self, _: Event) {}
}

/// What is pointed at hears everything.
macro_rules! through {
    ($($pointer:ty),*) => {$(
        impl<T: Tlb> Tlb for $pointer {
            const ACTIVE: bool = T::ACTIVE;

            fn watches(&self) -> bool {
                (**self).watches()
            }

            fn contents(&self) -> bool {
                (**self).contents()
            }

            #[inline(always)]
            fn listens(&self) -> bool {
                (**self).listens()
            }

            #[inline(always)]
            fn event(&self, event: Event) {
                (**self).event(event);
            }
        }
    )*};
}

through!(&T, Arc<T>);

/// Both sinks see every step, the first one first.
impl<A: Tlb, B: Tlb> Tlb for (A, B) {
    const ACTIVE: bool = A::ACTIVE || B::ACTIVE;

    fn watches(&self) -> bool {
        self.0.watches() || self.1.watches()
    }

    fn contents(&self) -> bool {
        self.0.contents() || self.1.contents()
    }

    #[inline(always)]
    fn listens(&self) -> bool {
        self.0.listens() || self.1.listens()
    }

    #[inline(always)]
    fn event(&self, event: Event) {
        self.0.event(event);
        self.1.event(event);
    }
}
