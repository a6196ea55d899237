//! What every view of a table shares: it is given up by the last who holds it.

use super::config::Config;
use super::pressure::Backlog;
use super::reclaim::free_subtree;
use super::tlb::Tlb;
use crate::arch::{Format, Pa, Pte, Vttbr};
use crate::memory::TableMemory;
use crate::sync::{AtomicUsize, Ordering};

/// What every view of a table shares. Frames reached from `root` belong to it.
#[doc(hidden)]
pub struct Core<M: TableMemory, T: Tlb> {
    pub(crate) config: Config,
    pub(crate) format: Format,
    /// Walked with constants, see `descend.rs`.
    pub(crate) plain: bool,
    pub(crate) memory: M,
    pub(crate) tlb: T,
    pub(crate) root: Pa,
    pub(crate) vttbr: Vttbr,
    /// Frames retired and not yet free.
    pub(crate) pending: AtomicUsize,
    /// What has been retired, and how calls dealt with it.
    pub(crate) backlog: Backlog,
    /// Subtrees that exclusive access has freed.
    pub(crate) freed: AtomicUsize,
    /// Operations that have taken rights away in place and whose TLBI may still be under way.
    pub(crate) narrowing: AtomicUsize,
}

impl<M: TableMemory, T: Tlb> Drop for Core<M, T> {
    fn drop(&mut self) {
        // The last owner: no view, no pending retirement (each holds the core). No TLBI is due: whoever destroys a
        // table has taken it off every CPU before.
        let geometry = self.config.geometry;
        let (frames, level) = (geometry.root_frames(), geometry.start_level());
        if let Some(deeper) = level.deeper() {
            for entry in self.memory.root(self.root, frames) {
                let value = Pte::from_raw(entry.load(Ordering::Relaxed));
                if value.is_table(level) {
                    free_subtree(self, self.format.next_table(value), deeper);
                }
            }
        }
        self.memory.free_root(self.root, frames);
    }
}
