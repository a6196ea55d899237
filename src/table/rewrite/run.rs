//! A whole table at once, for who is alone with it: plain loads and stores, in loops that a compiler makes wide.

use super::value::Rewrite;
use crate::arch::{Format, Pte};
use crate::sync::{AtomicU64, Ordering};
use crate::table::tlb::Tlb;

/// What became of the entries of one table.
pub(super) struct Run {
    pub(super) entries: usize,
    pub(super) valid: u64,
    pub(super) changed: u64,
    /// The first and the last that changed; not looked for where nobody asks.
    pub(super) span: Option<(usize, usize)>,
    /// All bits of the leaves together.
    pub(super) flags: u64,
}

/// Rewrites entries that nobody else writes. `None`, and nothing was done: one of them is LOCKED.
#[inline]
pub(super) fn plain_run<T: Tlb, W: Rewrite>(format: &Format, rewrite: &W, entries: &[AtomicU64]) -> Option<Run> {
    // Relaxed throughout: alone.
    let load = |entry: &AtomicU64| Pte::from_raw(entry.load(Ordering::Relaxed));
    let (mut all, mut any) = (u64::MAX, 0);
    for entry in entries {
        let raw = load(entry).raw();
        all &= raw;
        any |= raw;
    }
    let full = Pte::from_raw(all).is_valid();
    if !full && entries.iter().any(|entry| load(entry).is_locked()) {
        return None;
    }
    let new = |pte: Pte| {
        if pte.is_valid() {
            rewrite.rewrite(format, pte)
        } else {
            pte
        }
    };
    let mut run = Run {
        entries: entries.len(),
        valid: entries.len() as u64,
        changed: 0,
        span: None,
        flags: any,
    };
    if T::ACTIVE {
        let changes = |entry: &AtomicU64| new(load(entry)) != load(entry);
        run.span = entries.iter().position(changes).zip(entries.iter().rposition(changes));
    }
    // A full table of leaves alike is the rule, and takes no look at the single entry.
    match rewrite.clears() {
        Some(bits) if full && any & bits == 0 => {}
        Some(bits) if full && all & bits != 0 => {
            for entry in entries {
                entry.store(load(entry).raw() & !bits, Ordering::Relaxed);
            }
            run.changed = run.valid;
        }
        _ => {
            (run.valid, run.flags) = (0, 0);
            for entry in entries {
                let old = load(entry);
                let new = new(old);
                entry.store(new.raw(), Ordering::Relaxed);
                run.changed += u64::from(new != old);
                run.valid += u64::from(old.is_valid());
                run.flags |= old.raw() & (old.raw() & 1).wrapping_neg();
            }
        }
    }
    Some(run)
}
