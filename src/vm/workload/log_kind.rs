//! Ways to log writes, by one name each: what a user chooses among.

use crate::vm::{DirtyLogMode, DirtyLogOptions, DirtyTracking};

/// A way to log writes, for those who want to try all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogKind {
    /// A bitmap, write protection, blocks split by the writes.
    Lazy,
    /// A bitmap, write protection, blocks split ahead.
    Eager,
    /// A bitmap, hardware's notes.
    Hardware,
    /// A ring for each vCPU, write protection, blocks split by the writes.
    Ring,
}

impl LogKind {
    /// All, with their names.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Lazy, "lazy"),
        (Self::Eager, "eager"),
        (Self::Hardware, "hardware"),
        (Self::Ring, "ring"),
    ];

    /// The options of a log of this kind, with `chunk` bytes split ahead at a time.
    pub const fn options(self, manual: bool, chunk: u64) -> DirtyLogOptions {
        DirtyLogOptions {
            mode: match (self, manual) {
                (Self::Ring, _) | (_, false) => DirtyLogMode::Auto,
                (_, true) => DirtyLogMode::ManualInitiallySet,
            },
            tracking: match self {
                Self::Hardware => DirtyTracking::Hardware,
                _ => DirtyTracking::WriteProtect,
            },
            eager_split: match self {
                Self::Eager => Some(chunk),
                _ => None,
            },
        }
    }
}
