//! What the machine holds against the software, and how it finds out.

use alloc::string::String;
use alloc::vec::Vec;

use super::space::Space;
use super::walker::{Found, Next, Regime, Walk};
use crate::arch::{Format, Ipa, Pa, Prot, Pte};
use crate::sync::{AtomicU64, Mutex, Ordering, PoisonError};

/// How a rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ViolationKind {
    /// A CPU came to hold two translations of one address that differ in more than permissions: break-before-make was not
    /// kept. (Arm ARM, "Using break-before-make when updating translation table entries".)
    Conflict,
    /// An entry got its new value while a CPU still held, or an access in flight still used, what was read through it before.
    MadeTooEarly,
    /// A CPU holds a translation that the table no longer gives, after the call that took it away has returned.
    Stale,
    /// A table frame was freed while a CPU could still walk through it, or a walk read one that was free.
    FreedFrame,
    /// Hardware set an access flag, and it is gone though nobody cleared it.
    LostAccessFlag,
    /// Hardware recorded a write in a leaf, and the record is gone though nobody took it.
    LostDirty,
    /// An access did not get through, however often its fault was handled.
    Stuck,
}

impl ViolationKind {
    /// Its name in small letters, with hyphens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::MadeTooEarly => "made-too-early",
            Self::Stale => "stale",
            Self::FreedFrame => "freed-frame",
            Self::LostAccessFlag => "lost-access-flag",
            Self::LostDirty => "lost-dirty",
            Self::Stuck => "stuck",
        }
    }
}

/// One broken rule, with its witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Place in the machine's order of everything.
    pub sequence: u64,
    /// Which rule.
    pub kind: ViolationKind,
    /// The CPU on which it shows, where there is one.
    pub cpu: Option<usize>,
    /// Where in the guest's memory, where that is known.
    pub ipa: Option<Ipa>,
    /// What was seen.
    pub what: String,
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} [{}]", self.kind.name(), self.sequence)?;
        if let Some(cpu) = self.cpu {
            write!(f, " cpu {cpu}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// How many violations are kept; the others are counted.
const KEPT: usize = 256;

/// The list of them.
#[derive(Debug, Default)]
pub(super) struct Docket {
    kept: Mutex<Vec<Violation>>,
    all: AtomicU64,
}

impl Docket {
    pub fn add(&self, violation: Violation) {
        // Relaxed: a number.
        self.all.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(violation);
        }
    }

    pub fn all(&self) -> u64 {
        self.all.load(Ordering::Relaxed)
    }

    pub fn kept(&self) -> Vec<Violation> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the table says about one address now, read without leaving a trace.
pub(super) enum Truth {
    /// This leaf.
    Leaf(Found),
    /// Nothing: no CPU may hold a translation.
    Nothing,
    /// A change is under way: there is nothing to compare with.
    Unsettled,
}

pub(super) fn truth(walk: &dyn Walk, regime: &Regime, ipa: Ipa) -> Truth {
    let mut at = regime.start();
    loop {
        let Some((entry, pte)) = regime.read(walk, &at, ipa) else {
            return Truth::Unsettled;
        };
        if pte.is_locked() || pte.is_frozen() {
            return Truth::Unsettled;
        }
        match regime.step(&at, entry, pte, ipa) {
            Ok(Next::Table(below)) => at = below,
            Ok(Next::Leaf(found)) => return Truth::Leaf(found),
            Err(_) => return Truth::Nothing,
        }
    }
}

/// The output address of `ipa` by a leaf that covers it.
fn output(format: &Format, found: &Found, ipa: Ipa) -> Pa {
    let offset = ipa.offset_from(found.base);
    Pa::new(format.output(found.leaf, found.level).get() + offset)
}

/// What is wrong with a CPU's holding `held` for [`first`, `end`), if something is.
pub(super) fn stale(walk: &dyn Walk, regime: &Regime, held: &Found, first: u64, end: u64) -> Option<(Ipa, String)> {
    let format = &regime.format;
    let (first, end) = (first.max(held.base.get()), end.min(held.base.get() + held.size));
    let mut at = Ipa::new(first);
    while at.get() < end {
        let step = match truth(walk, regime, at) {
            Truth::Unsettled => regime.geometry.granule().size(),
            Truth::Nothing => {
                return Some((
                    at,
                    alloc::format!("the table maps nothing at {at}, the CPU holds {held}"),
                ));
            }
            Truth::Leaf(now) => {
                let kept = rights(format, held.leaf);
                let given = rights(format, now.leaf);
                if output(format, held, at) != output(format, &now, at)
                    || format.memtype(held.leaf) != format.memtype(now.leaf)
                    || !given.contains(kept)
                {
                    return Some((at, alloc::format!("the table says {now}, the CPU holds {held}")));
                }
                now.base.get() + now.size - at.get()
            }
        };
        at = Ipa::new(at.get() + step);
    }
    None
}

/// What a leaf lets be done, hardware's right to make it writable counted in.
fn rights(format: &Format, leaf: Pte) -> Prot {
    let mut prot = format.prot(leaf);
    prot.set(Prot::W, prot.contains(Prot::W) || leaf.raw() & Format::DBM_BIT != 0);
    prot
}

/// What of hardware's notes about one page is gone from the table.
pub(super) fn lost(space: &Space, walk: &dyn Walk, regime: &Regime, ipa: Ipa) -> Option<(ViolationKind, String)> {
    let note = space.note(ipa)?;
    let Truth::Leaf(now) = truth(walk, regime, ipa) else {
        return None; // it was unmapped: whoever did that was told
    };
    if output(&regime.format, &now, ipa) != note.output {
        return None;
    }
    if note.dirty && !regime.format.prot(now.leaf).contains(Prot::W) {
        return Some((
            ViolationKind::LostDirty,
            alloc::format!("{ipa} was written, its leaf is clean: {now}"),
        ));
    }
    if note.young && !regime.format.af(now.leaf) {
        return Some((
            ViolationKind::LostAccessFlag,
            alloc::format!("{ipa} was accessed, its leaf is old: {now}"),
        ));
    }
    None
}
