//! The dirty log: which pages of a slot were written since somebody asked last.
//!
//! One bit a page. Pages whose bit is clear are write-protected, so that the next write faults; the fault makes the
//! page writable and sets the bit.
//!
//! **No write is lost**, although harvesting runs beside the faults. At every moment, for every page of a logged slot:
//! *if the page is writable, then its bit is set, or the fault that made it writable has yet to set it, or a harvest that
//! took the bit has yet to protect it and then to hand the bit out.* Three orders keep that true:
//!
//! * a fault makes the page writable first and sets its bit second, with a read-modify-write even where the bit is set
//!   already (looking first would not be ordered against a harvest: the look could see a bit that is just being taken
//!   while the harvest does not see the page writable);
//! * a harvest takes bits first (swap) and protects second. If the fault's bit came first, the swap sees it, and with it
//!   the writable page (release, acquire), which is then protected. If the swap came first, the bit stays for the next
//!   harvest, however the entry changed meanwhile;
//! * write protection is complete on every CPU (TLBI) before the bits are handed out. So what is copied after a harvest
//!   contains every write that the harvest reports, and a later write faults and shows in the next one.
//!
//! Switching the log on publishes the logged slot, settles (see `policy`), and only then protects: a fault that did not
//! know of the log and may have mapped a writable block has ended by then.
//!
//! Blocks are write-protected whole, also where the bits cover only part of them: splitting is left to the write that
//! needs it. Too much protection costs a fault and loses nothing. Source of the calls' rules: KVM-SEMANTICS 4.5.
//!
//! `switch` is the log's beginning and end, `harvest` the reading of it, `hardware` what hardware noted instead of a fault.

mod bitmap;
mod hardware;
mod harvest;
mod spans;
mod switch;
mod word;

pub(crate) use bitmap::Bitmap;

/// When pages are write-protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DirtyLogMode {
    /// The whole slot when logging starts, and what [`Vm::dirty_log`](super::Vm::dirty_log) reports when it reports it: KVM
    /// without manual protection.
    Auto,
    /// The whole slot when logging starts; later only what [`Vm::clear_dirty_log`](super::Vm::clear_dirty_log) clears.
    Manual,
    /// Nothing when logging starts: every page counts as dirty at first, and
    /// [`Vm::clear_dirty_log`](super::Vm::clear_dirty_log) protects what it clears. This is what VMMs use, since it spreads
    /// the cost.
    #[default]
    ManualInitiallySet,
}

/// Who notices a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DirtyTracking {
    /// Write protection: the first write to a clean page faults.
    #[default]
    WriteProtect,
    /// Hardware (VTCR_EL2.HD, DBM): the first write makes the leaf writable, without a fault. Needs a table made with `hd`.
    /// By the page only where blocks are split; a block is dirty as a whole.
    Hardware,
}

/// How a slot is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirtyLogOptions {
    /// When pages are protected.
    pub mode: DirtyLogMode,
    /// Who notices a write.
    pub tracking: DirtyTracking,
    /// Split blocks ahead of the writes that would, so many bytes at a time (a multiple of a block's size; KVM's eager page
    /// splitting): the whole slot when logging starts or, in mode
    /// [`ManualInitiallySet`](DirtyLogMode::ManualInitiallySet), what a clear protects. As far as there are frames; the rest
    /// is split by the writes. `None`: by the writes.
    pub eager_split: Option<u64>,
}

impl From<DirtyLogMode> for DirtyLogOptions {
    fn from(mode: DirtyLogMode) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }
}
