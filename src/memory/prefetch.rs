//! Asking the processor for a cache line that will be needed.

use crate::sync::AtomicU64;

/// Asks for the line of an entry. A hint: it reads nothing, waits for nothing, and does nothing where there is no such
/// instruction.
#[inline(always)]
pub(crate) fn prefetch(entry: &AtomicU64) {
    let line: *const u8 = core::ptr::from_ref(entry).cast();
    #[cfg(all(target_arch = "x86_64", target_feature = "sse", not(any(loom, shuttle, miri))))]
    // SAFETY: a prefetch has no effect that a program can see, and no address makes it fault.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(any(loom, shuttle, miri))))]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly));
    }
    let _ = line;
}
