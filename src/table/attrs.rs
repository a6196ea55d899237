//! Changing what a translation permits, in place (R4): permissions, write protection, access flag.

use super::View;
use super::batch::Batch;
use super::build::{Piece, Reserve};
use super::error::Error;
use super::maintenance::Stale;
use super::reclaim::Access;
use super::tlb::Tlb;
use super::walk::{At, Step, Visitor};
use crate::arch::{AttrsError, Format, Ipa, Level, MemType, Prot, Pte};
use crate::memory::TableMemory;
use core::cell::Cell;

/// What an attribute operation found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Leaves of the range whose attributes changed; of a block that had to be cut, the pieces inside the range.
    pub leaves: u64,
    /// Bytes of the range that are mapped, changed or not.
    pub bytes: u64,
}

/// The new value of a leaf.
trait Rewrite {
    fn rewrite(&self, format: &Format, pte: Pte) -> Pte;
}

impl<F: Fn(&Format, Pte) -> Pte> Rewrite for F {
    #[inline(always)]
    fn rewrite(&self, format: &Format, pte: Pte) -> Pte {
        self(format, pte)
    }
}

/// The changed part of a block that is cut.
struct Rewritten<'a, W> {
    format: &'a Format,
    rewrite: &'a W,
}

impl<W: Rewrite> Piece for Rewritten<'_, W> {
    #[inline(always)]
    fn piece(&self, _: Level, _: u64, old: Pte) -> Option<Pte> {
        Some(self.rewrite.rewrite(self.format, old))
    }

    fn fits(&self, _: Level, _: u64) -> bool {
        true
    }
}

/// Which TLBI a change of attributes needs before the operation returns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    /// Rights go: no core may keep them.
    Broadcast,
    /// Rights come: the faulting core must not keep its refusal, whoever granted them.
    Local,
    /// The caller does not need it.
    None,
}

struct Attributes<'m, M: TableMemory, W> {
    rewrite: W,
    reserve: Reserve<'m, M>,
    /// Ageing is about leaves: a block that is covered in part changes as a whole.
    whole_leaves: bool,
    flush: Flush,
    /// A hole ends the walk with `Again`: KVM's fault operations.
    faulting: bool,
    stale: Stale,
    changed: Changed,
    /// Some visited leaf had its access flag set.
    young: bool,
}

impl<M: TableMemory, T: Tlb, A: Access, W: Rewrite> Visitor<M, T, A> for Attributes<'_, M, W> {
    #[inline]
    fn entry<'g>(
        &mut self,
        view: &'g View<'_, M, T, A>,
        _: &'g A::Guard,
        _: &mut Batch<'g>,
        at: At<'g>,
        pte: Pte,
    ) -> Result<Step, Error> {
        if !pte.is_valid() {
            if self.faulting {
                return Err(Error::Again {
                    ipa: at.ipa(),
                    level: at.level(),
                });
            }
            return Ok(Step::Next);
        }
        if pte.is_table(at.level()) {
            return Ok(Step::Descend);
        }
        let format = &view.core.format;
        let new = self.rewrite.rewrite(format, pte);
        if new != pte {
            if at.whole() || self.whole_leaves {
                view.prepare_output(at.level(), pte, new);
                if view.change(at.table, at.index, pte, new).is_err() {
                    return Ok(Step::Retry);
                }
                self.touched(&at);
                self.changed.leaves += 1;
            } else {
                let piece = Rewritten {
                    format,
                    rewrite: &self.rewrite,
                };
                view.prepare_output(at.level(), pte, new);
                if !view.cut(&mut self.reserve, at, pte, &piece)? {
                    return Ok(Step::Retry);
                }
                self.changed.leaves += view.pieces(&at);
            }
        } else if self.flush == Flush::Local || self.flush == Flush::Broadcast && view.narrowed_by_peer(1) {
            // A peer was faster. If a right was asked for, this core's refusal is still cached, and would be met again and
            // again; if one was to go, the peer's TLBI may still be under way.
            self.touched(&at);
        }
        self.young |= format.af(pte);
        self.changed.bytes += at.bytes();
        Ok(Step::Next)
    }

    fn faulting(&self, view: &View<'_, M, T, A>) -> bool {
        self.faulting || !view.kvm()
    }
}

impl<M: TableMemory, W> Attributes<'_, M, W> {
    /// The leaf at `at` is to be invalidated: all of it, or on this core what faulted.
    #[inline]
    fn touched(&mut self, at: &At<'_>) {
        let (base, bytes) = if self.faulting {
            (at.lo, at.bytes())
        } else {
            (at.base, at.size)
        };
        self.stale.add(Ipa::new(base), bytes, Some(at.level()));
    }
}

impl<M: TableMemory, T: Tlb, A: Access> View<'_, M, T, A> {
    /// Gives every leaf of the range exactly the permissions `prot`. Holes are skipped.
    ///
    /// `ipa` and `size` (bytes) are multiples of the page size. A block that the range covers in part is cut, if its
    /// permissions change. Maintenance: one broadcast TLBI over what changed, complete when this returns.
    ///
    /// # Errors
    /// [`Error::NotMapped`] if nothing at all is mapped in the range; [`Error::Attrs`] if `prot` lets device or
    /// non-cacheable memory be executed, or the format cannot express it; [`Error::OutOfFrames`] if a block cannot be
    /// cut; errors of the range. Nothing was changed then.
    pub fn protect(&self, ipa: Ipa, size: u64, prot: Prot) -> Result<Changed, Error> {
        let end = self.check_range(ipa, size)?;
        let bits = self.permission_bits(ipa, prot)?;
        self.refuse_executable_devices(ipa.get(), end, prot)?;
        let mask = self.core.format.perm_mask();
        let dirty_managed = if prot.contains(Prot::W) { 0 } else { Format::DBM_BIT };
        let device = Cell::new(None);
        let rewrite = |format: &Format, pte: Pte| {
            if prot.intersects(Prot::X) && !format.memtype(pte).may_execute() {
                device.set(Some(format.memtype(pte)));
                return pte;
            }
            Pte::from_raw(pte.raw() & !(mask | dirty_managed) | bits)
        };
        let changed = self.rewrite(ipa.get(), end, rewrite, Flush::Broadcast, false)?.changed;
        self.no_device(ipa, prot, device.get())?;
        self.mapped(ipa, changed)
    }

    /// Takes the right to write from every leaf of the range, and hardware's to grant it (DBM). Holes are skipped.
    ///
    /// `ipa` and `size` (bytes) are multiples of the page size. A writable block that the range covers in part is cut.
    /// Maintenance: one broadcast TLBI over what changed, complete when this returns: no CPU writes through an old
    /// translation after that.
    ///
    /// With KVM's semantics blocks change whole, and **no TLBI is issued**: the caller owes a
    /// [`flush_tlb`](Self::flush_tlb) when all is protected.
    ///
    /// # Errors
    /// [`Error::OutOfFrames`] if a block cannot be cut; errors of the range. Nothing was changed then.
    pub fn write_protect(&self, ipa: Ipa, size: u64) -> Result<Changed, Error> {
        let end = self.check_range(ipa, size)?;
        let rewrite = |_: &Format, pte: Pte| Pte::from_raw(pte.raw() & !(Format::WRITE_BIT | Format::DBM_BIT));
        let flush = if self.kvm() { Flush::None } else { Flush::Broadcast };
        Ok(self.rewrite(ipa.get(), end, rewrite, flush, false)?.changed)
    }

    /// Takes the right to write from every leaf that the spans touch, whole leaves: a block that a span covers in part is
    /// not cut. With one TLBI for all. This is the harvest of a dirty log.
    ///
    /// Each span is an address and a size in bytes, both multiples of the page size. Maintenance: one broadcast TLBI from
    /// the first to the last byte, complete when this returns, also if no leaf was writable: a peer may have protected
    /// them a moment ago and not have finished his own.
    ///
    /// # Errors
    /// Errors of a range; the spans before it are protected then. Never out of frames.
    pub fn write_protect_leaves(&self, spans: impl IntoIterator<Item = (Ipa, u64)>) -> Result<Changed, Error> {
        let rewrite = |_: &Format, pte: Pte| Pte::from_raw(pte.raw() & !(Format::WRITE_BIT | Format::DBM_BIT));
        let (mut all, mut touched) = (Changed::default(), Stale::NONE);
        let mut protect = |(ipa, size): (Ipa, u64)| {
            let end = self.check_range(ipa, size)?;
            touched.add(ipa, size, None);
            let Changed { leaves, bytes } = self.rewrite(ipa.get(), end, rewrite, Flush::None, true)?.changed;
            all.leaves += leaves;
            all.bytes += bytes;
            Ok(())
        };
        self.narrowing();
        let done = spans.into_iter().try_for_each(&mut protect);
        self.invalidate(touched);
        self.narrowed();
        done.map(|()| all)
    }

    /// Adds the permissions `prot` to every leaf of the range; takes none away. Holes are skipped.
    ///
    /// `ipa` and `size` (bytes) are multiples of the page size. A block that the range covers in part is cut, if it lacks
    /// any of them: this is how a write fault under dirty logging turns a block into pages, in one break.
    /// Maintenance: a TLBI on the calling core, also where nothing was left to add (another core that still holds the narrower entry faults once more); a
    /// broadcast one where a block was cut.
    ///
    /// With KVM's semantics blocks change whole, and the first hole or LOCKED entry ends the call with [`Error::Again`]
    /// after a TLBI on this core.
    ///
    /// # Errors
    /// As [`protect`](Self::protect).
    pub fn relax(&self, ipa: Ipa, size: u64, prot: Prot) -> Result<Changed, Error> {
        let end = match self.check_range(ipa, size) {
            Ok(end) => end,
            // KVM looks at the permissions before the range.
            Err(_) if self.kvm() && self.permission_bits(ipa, prot).is_err() => 0,
            Err(refused) => return Err(refused),
        };
        self.permission_bits(ipa, prot)?;
        self.refuse_executable_devices(ipa.get(), end, prot)?;
        let mask = self.core.format.perm_mask();
        let device = Cell::new(None);
        let rewrite = |format: &Format, pte: Pte| {
            if prot.intersects(Prot::X) && !format.memtype(pte).may_execute() {
                device.set(Some(format.memtype(pte)));
                return pte;
            }
            let bits = format.prot_bits(format.prot(pte) | prot);
            Pte::from_raw(pte.raw() & !mask | bits)
        };
        let changed = self
            .rewrite_fault(ipa.get(), end, rewrite, Flush::Local, false)?
            .changed;
        self.no_device(ipa, prot, device.get())?;
        self.mapped(ipa, changed)
    }

    /// Sets the access flag of every leaf that the range touches, whole leaves. No TLBI is due: an entry without the
    /// flag is never cached.
    ///
    /// # Errors
    /// [`Error::NotMapped`] if nothing at all is mapped in the range; errors of the range. With KVM's semantics
    /// [`Error::Again`] at the first hole or LOCKED entry.
    pub fn mark_young(&self, ipa: Ipa, size: u64) -> Result<Changed, Error> {
        let end = self.check_range(ipa, size)?;
        let rewrite = |_: &Format, pte: Pte| Pte::from_raw(pte.raw() | Format::AF_BIT);
        let changed = self.rewrite_fault(ipa.get(), end, rewrite, Flush::None, true)?.changed;
        self.mapped(ipa, changed)
    }

    /// Whether any leaf that the range touches has its access flag set. Changes nothing.
    ///
    /// # Errors
    /// Errors of the range.
    pub fn test_young(&self, ipa: Ipa, size: u64) -> Result<bool, Error> {
        let end = self.check_range(ipa, size)?;
        Ok(self
            .rewrite(ipa.get(), end, |_: &Format, pte: Pte| pte, Flush::None, true)?
            .young)
    }

    /// Clears the access flag of every leaf that the range touches, whole leaves, and says whether any had it.
    ///
    /// With `flush`, one broadcast TLBI over what changed, complete when this returns: the next access sets the flag (or
    /// faults). Without it a CPU may go on using a cached translation for a while and leave the flag clear, which
    /// makes the answer of the next test less exact, never wrong about memory.
    ///
    /// # Errors
    /// Errors of the range.
    pub fn test_and_clear_young(&self, ipa: Ipa, size: u64, flush: bool) -> Result<bool, Error> {
        let end = self.check_range(ipa, size)?;
        let flush = if flush { Flush::Broadcast } else { Flush::None };
        let rewrite = |_: &Format, pte: Pte| Pte::from_raw(pte.raw() & !Format::AF_BIT);
        Ok(self.rewrite(ipa.get(), end, rewrite, flush, true)?.young)
    }

    /// A rewrite on behalf of a fault. With KVM's semantics it waits for nobody and stops at the first entry that is no
    /// leaf, and this core forgets what made it fault.
    #[inline]
    fn rewrite_fault<W: Rewrite>(
        &self,
        start: u64,
        end: u64,
        rewrite: W,
        flush: Flush,
        whole_leaves: bool,
    ) -> Result<Outcome, Error> {
        if flush == Flush::Local
            && end - start == self.core.config.geometry.size(Level::L3)
            && let Some(changed) = self.rewrite_page(Ipa::new(start), &rewrite)
        {
            return Ok(Outcome { changed, young: false });
        }
        if !self.kvm() {
            return self.rewrite_as(start, end, rewrite, flush, whole_leaves, false);
        }
        let done = self.impatient().rewrite_as(start, end, rewrite, flush, true, true);
        if let (Flush::Local, Err(Error::Again { ipa, .. })) = (flush, &done) {
            self.invalidate_refusal(*ipa);
        }
        done
    }

    /// Walks the range with one rewrite and issues the TLBI that it needs. With KVM's semantics leaves change whole.
    #[inline]
    fn rewrite<W: Rewrite>(
        &self,
        start: u64,
        end: u64,
        rewrite: W,
        flush: Flush,
        whole_leaves: bool,
    ) -> Result<Outcome, Error> {
        self.rewrite_as(start, end, rewrite, flush, whole_leaves || self.kvm(), false)
    }

    #[inline]
    fn rewrite_as<W: Rewrite>(
        &self,
        start: u64,
        end: u64,
        rewrite: W,
        flush: Flush,
        whole_leaves: bool,
        faulting: bool,
    ) -> Result<Outcome, Error> {
        let mut reserve = Reserve::new(&self.core.memory, self.frames);
        if !whole_leaves {
            let format = &self.core.format;
            let piece = Rewritten {
                format,
                rewrite: &rewrite,
            };
            let changes = |pte: Pte| pte.is_valid() && rewrite.rewrite(format, pte) != pte;
            self.reserve_for_edges(&mut reserve, start, end, &piece, changes)?;
        }
        let mut visitor = Attributes {
            rewrite,
            reserve,
            whole_leaves,
            flush,
            faulting,
            stale: Stale::NONE,
            changed: Changed::default(),
            young: false,
        };
        if flush == Flush::Broadcast {
            self.narrowing();
        }
        let walked = self.walk(start, end, &mut visitor);
        match flush {
            Flush::Broadcast => {
                self.invalidate(visitor.stale);
                self.narrowed();
            }
            Flush::Local => self.invalidate_local(visitor.stale),
            Flush::None => {}
        }
        walked?;
        Ok(Outcome {
            changed: visitor.changed,
            young: visitor.young,
        })
    }

    /// The fault path's common case: a page gets a right. `None`: it is not that simple, the visitor deals with it.
    #[inline]
    fn rewrite_page<W: Rewrite>(&self, ipa: Ipa, rewrite: &W) -> Option<Changed> {
        let guard = self.access.pin();
        let (table, index, pte) = self.descend(&guard, ipa);
        if !table.level.is_last() || !pte.is_valid() {
            return None;
        }
        let size = self.core.config.geometry.size(table.level);
        let new = rewrite.rewrite(&self.core.format, pte);
        if new != pte {
            self.prepare_output(table.level, pte, new);
            self.change(table, index, pte, new).ok()?;
        }
        // Also where a peer was faster: this core's refusal is still cached.
        let mut stale = Stale::NONE;
        stale.add(ipa, size, Some(table.level));
        self.invalidate_local(stale);
        Some(Changed {
            leaves: u64::from(new != pte),
            bytes: size,
        })
    }

    /// The descriptor bits of `prot`, if this format has them.
    fn permission_bits(&self, ipa: Ipa, prot: Prot) -> Result<u64, Error> {
        let format = &self.core.format;
        // Normal memory may have any permission that the format can express; what is there is looked at apart.
        format
            .check_prot(prot, MemType::Normal)
            .map_err(|reason| Error::Attrs { ipa, reason })?;
        Ok(format.prot_bits(prot))
    }

    /// Device and non-cacheable memory must not become executable, as when it is mapped.
    fn refuse_executable_devices(&self, start: u64, end: u64, prot: Prot) -> Result<(), Error> {
        if !prot.intersects(Prot::X) {
            return Ok(());
        }
        let mut refused = None;
        let impatient = self.kvm().then(|| self.impatient());
        impatient.as_ref().unwrap_or(self).for_each_leaf(start, end, |leaf| {
            let memtype = leaf.attrs.memtype;
            if refused.is_none() && !memtype.may_execute() {
                refused = Some((leaf.ipa, AttrsError::Execute { prot, memtype }));
            }
        })?;
        match refused {
            Some((ipa, reason)) => Err(Error::Attrs { ipa, reason }),
            None => Ok(()),
        }
    }

    /// A peer mapped device memory between the check and the walk: it was left alone, and the caller hears of it.
    fn no_device(&self, ipa: Ipa, prot: Prot, device: Option<MemType>) -> Result<(), Error> {
        match device {
            Some(memtype) => Err(Error::Attrs {
                ipa,
                reason: AttrsError::Execute { prot, memtype },
            }),
            None => Ok(()),
        }
    }

    /// An operation that gives something wants to find something.
    #[inline]
    fn mapped(&self, ipa: Ipa, changed: Changed) -> Result<Changed, Error> {
        if changed.bytes == 0 {
            let level = self.lookup(ipa)?.level;
            return Err(Error::NotMapped { ipa, level });
        }
        Ok(changed)
    }
}

struct Outcome {
    changed: Changed,
    young: bool,
}
