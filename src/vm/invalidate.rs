//! The host takes memory back: the invalidation sequence.
//!
//! A fault looks up the host's page first and installs it later. In between the host may take that page away. The
//! sequence, as in KVM's notifiers (KVM-SEMANTICS 4.4), catches that:
//!
//! 1. *begin*: the range's sequence words say "in progress"; then settle (see `policy`);
//! 2. *unmap* what is mapped in the range;
//! 3. the host does with its page what it likes;
//! 4. *end*: the words count up and are no longer in progress.
//!
//! A fault samples its word before it looks up the host's page; if the word says "in progress" it retries. Inside its
//! section it looks at the word again; if it moved, it installs nothing and retries.
//!
//! **No stale translation survives step 2.** Take a fault that looked its page up before the host changed it, that is
//! before *end* became visible to it. Its sample is then from before *begin*, or says "in progress" and the fault is
//! over. In its section it either sees *begin*, and installs nothing; or, by the argument in `policy`, the change sees
//! the section and waits for it, so that the install is visible to the unmap and removed. Checking after the install
//! instead, and taking the own install back, would end in the same state but leave a moment after step 2 in which the
//! stale translation can be used.
//!
//! The guest's address space is cut into windows of the largest block that a fault may install, 2 MiB at least; window
//! number modulo 64 selects the word. So faults far from the range do not retry. Windows of single pages would do worse: a
//! range of 64 pages would touch every word, and with it every fault of the VM.

use super::Vm;
use super::error::Error;
use super::policy::Near;
use super::sequence::Sequence;
use crate::arch::Ipa;
use crate::memory::TableMemory;
use crate::table::{self, Tlb};

/// What [`Vm::take_back`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes that were mapped and no longer are.
    pub bytes: u64,
    /// Whether whole blocks went although the range covers only part of them: there were no frames left to keep the
    /// rest, and taking memory back must not fail for want of memory. The rest comes back by faults.
    pub widened: bool,
}

/// An invalidation under way: the range is unmapped, and faults on it retry until this is dropped.
///
/// Between the two the host may move, drop or replace what it has behind the range.
#[must_use = "the range can be mapped again as soon as this is dropped"]
#[derive(Debug)]
pub struct Invalidation<'v> {
    sequence: &'v Sequence,
    mask: u64,
    /// What was removed.
    taken: Taken,
}

impl<'v> Invalidation<'v> {
    /// Begins one of [`start`, `end`), not empty; its drop ends it.
    pub(crate) fn begin(sequence: &'v Sequence, start: u64, end: u64) -> Self {
        Self {
            sequence,
            mask: sequence.begin(start, end),
            taken: Taken::default(),
        }
    }

    /// What was unmapped.
    pub const fn taken(&self) -> Taken {
        self.taken
    }

    /// Ends it: from now on faults see what the host has there.
    pub fn end(self) -> Taken {
        self.taken
    }
}

impl Drop for Invalidation<'_> {
    fn drop(&mut self) {
        self.sequence.end(self.mask);
    }
}

impl<M: TableMemory, T: Tlb> Vm<M, T> {
    /// Takes the memory behind [`ipa`, `ipa + size`) away from the guest: when this returns, no vCPU uses or can
    /// install a translation that a fault looked up before.
    ///
    /// `ipa` and `size` are bytes, multiples of the granule. Exactly the range is unmapped; the rest of a block that it
    /// cuts stays mapped (see [`Taken::widened`] for the exception). A fault on the range after this maps whatever the
    /// host has there then. Use [`invalidate`](Self::invalidate) if the host's answer changes.
    ///
    /// Any thread may call it, beside faults and other calls, but not out of a sink. Issues the TLBIs of
    /// [`View::unmap`](crate::table::View::unmap), complete before it returns.
    ///
    /// # Errors
    /// [`Error::Table`] for a range that is misaligned, empty or beyond the IPA space; nothing has changed then.
    ///
    /// ```
    /// use s2pt::arch::{AccessKind, Ipa, Pa};
    /// use s2pt::vm::{VmOptions, Slot};
    ///
    /// let vm = VmOptions::default().build(s2pt::table::Null)?;
    /// vm.create_slot(Slot::linear(0, Ipa::new(0x8000_0000), 64 << 20, Pa::new(0x4000_0000)))?;
    /// let mut vcpu = vm.vcpu();
    /// vcpu.access(Ipa::new(0x8000_1000), AccessKind::Write)?;
    /// assert_eq!(vm.take_back(Ipa::new(0x8000_0000), 0x2000)?.bytes, 0x2000);
    /// assert!(vcpu.translate(Ipa::new(0x8000_1000), AccessKind::Read).is_err());
    /// assert!(vcpu.translate(Ipa::new(0x8000_2000), AccessKind::Read).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take_back(&self, ipa: Ipa, size: u64) -> Result<Taken, Error> {
        Ok(self.invalidate(ipa, size)?.end())
    }

    /// [`take_back`](Self::take_back) in two steps: the range is unmapped when this returns, and faults on it answer
    /// [`Outcome::Again`](super::Outcome::Again) until the result is dropped. Meanwhile the host changes its pages.
    ///
    /// # Errors
    /// As [`take_back`](Self::take_back).
    ///
    /// ```
    /// # use s2pt::arch::{AccessKind, Ipa, Pa};
    /// # use s2pt::vm::{Slot, VmOptions};
    /// # let vm = VmOptions::default().build(s2pt::table::Null)?;
    /// # vm.create_slot(Slot::linear(0, Ipa::new(0x8000_0000), 64 << 20, Pa::new(0x4000_0000)))?;
    /// # let mut vcpu = vm.vcpu();
    /// vcpu.access(Ipa::new(0x8000_1000), AccessKind::Write)?;
    /// let change = vm.invalidate(Ipa::new(0x8000_0000), 0x2000)?;
    /// assert_eq!(change.taken().bytes, 0x2000);
    /// // The host moves its pages here.
    /// change.end();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn invalidate(&self, ipa: Ipa, size: u64) -> Result<Invalidation<'_>, Error> {
        let end = self.check_range(ipa, size)?;
        let mut invalidation = Invalidation::begin(&self.sequence, ipa.get(), end);
        let handle = self.stage2.handle();
        let mut section = Some(
            self.gate
                .change_settled(Near::new(ipa.get(), end, self.sequence.window())),
        );
        for (start, bytes) in self.chunks(ipa.get(), end) {
            let _section = section.take().unwrap_or_else(|| self.gate.change());
            self.note_before_unmap(&handle, &self.slots.current(), Ipa::new(start), bytes)?;
            self.unmap_surely(&handle, Ipa::new(start), bytes, &mut invalidation.taken)?;
        }
        Ok(invalidation)
    }

    /// Unmaps, if need be more than asked for.
    fn unmap_surely(
        &self,
        handle: &table::Handle<'_, M, T>,
        ipa: Ipa,
        size: u64,
        taken: &mut Taken,
    ) -> Result<(), Error> {
        let (mut start, mut bytes) = (ipa, size);
        loop {
            match handle.unmap(start, bytes) {
                Ok(removed) => {
                    taken.bytes += removed;
                    return Ok(());
                }
                // No frame to keep the rest of a block in. A peer may build a block between the look and the next try.
                Err(table::Error::OutOfFrames { .. }) => {
                    (start, bytes) = self.whole_leaves(handle, start, bytes)?;
                    taken.widened = true;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}
