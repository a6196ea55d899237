//! What a CPU with these registers would answer to an access: the hardware's walk over an image.

use super::walk::{Descent, Entry};
use super::{Image, ReadMemory};
use crate::arch::{AccessKind, El, EntryKind, Fault, FaultKind, HardwareUpdate, Ipa, Level, Pte, Translation};

/// The answer to an access, and the entry that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the access gets, or the fault that it takes.
    pub result: Result<Translation, Fault>,
    /// The last entry that the walk read; `None` outside the IPA space and where the root is not there.
    pub end: Option<Entry>,
    /// What hardware leaves in that entry (VTCR_EL2.HA and HD). After a permission fault it may have set the access flag
    /// beside this.
    pub after: Pte,
}

impl<R: ReadMemory> Image<R> {
    /// What an access to `ipa` (any byte address) gets from a CPU with these registers, and which fault it takes else.
    ///
    /// The hardware's walk (Arm ARM, `AArch64.S2Translate`): a table or leaf beyond the output address size is an address
    /// size fault at its level, a block at a level that has none a translation fault; HA and HD are those of VTCR_EL2.
    /// Only `el` of a fetch matters, and only with FEAT_XNX. Reads a word a level, writes nothing. Blocks are taken where
    /// [`ImageOptions::blocks`](super::ImageOptions) says.
    ///
    /// # Errors
    ///
    /// The [`Fault`]. Outside the IPA space it is a translation fault at level 0; a table that is not there is an external
    /// abort at its level.
    ///
    /// ```
    /// # use s2pt::arch::{AccessKind, El, FaultKind, Geometry, GeometryOptions, Ipa, Level, Pa, Vtcr, VtcrOptions, Vttbr};
    /// # use s2pt::image::{Image, ImageOptions};
    /// # let geometry = Geometry::new(GeometryOptions { ipa_bits: 36, ..Default::default() })?;
    /// # let vtcr = Vtcr::build(&geometry, VtcrOptions::default());
    /// # let vttbr = Vttbr::build(1, Pa::new(0x8000), false, &geometry)?;
    /// let memory = |pa: Pa| match pa.get() {
    ///     0x8008 => Some(0x0040_0000_4000_077d), // level 1: 1 GiB, read-only
    ///     0x8000..0x9000 => Some(0),
    ///     _ => None,
    /// };
    /// let image = Image::new(memory, vtcr, vttbr, ImageOptions::default())?;
    /// let hit = image.translate(Ipa::new(0x4000_1234), AccessKind::Read, El::El1).unwrap();
    /// assert_eq!(hit.pa, Pa::new(0x4000_1234));
    /// let fault = image.translate(Ipa::new(0x4000_1234), AccessKind::Write, El::El1).unwrap_err();
    /// assert_eq!((fault.kind, fault.level), (FaultKind::Permission, Level::L1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn translate(&self, ipa: Ipa, access: AccessKind, el: El) -> Result<Translation, Fault> {
        self.access(ipa, access, el).result
    }

    /// As [`translate`](Self::translate), with the entry at which the walk ended and what hardware writes into it.
    pub fn access(&self, ipa: Ipa, access: AccessKind, el: El) -> Answer {
        self.follow(ipa, access, el, |_| {})
    }

    /// As [`access`](Self::access); `read` is shown each entry that the walk reads, from the root down.
    pub(super) fn follow(&self, ipa: Ipa, access: AccessKind, el: El, mut read: impl FnMut(Entry)) -> Answer {
        let fault = |kind, level| Fault {
            ipa,
            access,
            kind,
            level,
            s1ptw: false,
        };
        let mut answer = Answer {
            result: Err(fault(
                FaultKind::Translation,
                seeded!(BeyondLevel, self.geometry.start_level(), Level::L0),
            )),
            end: None,
            after: Pte::EMPTY,
        };
        if ipa.get() >= self.geometry.ipa_limit() {
            return answer;
        }
        let mut level = self.geometry.start_level();
        for step in Descent::new(self, ipa) {
            let Ok(entry) = step else {
                answer.result = Err(fault(
                    FaultKind::ExternalAbort,
                    seeded!(AbsentLevel, level.shallower().unwrap_or(level), level),
                ));
                return answer;
            };
            read(entry);
            answer.end = Some(entry);
            answer.after = entry.pte;
            let outcome = self.step(&entry, ipa, access, el);
            answer.result = match outcome {
                Ok(None) => {
                    // A table has a level below it.
                    level = entry.level.deeper().unwrap_or(Level::L3);
                    continue;
                }
                Ok(Some(hit)) => Ok(hit),
                Err(kind) => Err(fault(
                    kind,
                    seeded!(AddressSizeLevel, one_too_deep(kind, entry.level), entry.level),
                )),
            };
            if answer.result.is_ok() {
                answer.after = self.format.after_access(entry.pte, access, self.hardware());
            }
            return answer;
        }
        answer
    }

    /// What hardware updates with this VTCR_EL2.
    fn hardware(&self) -> HardwareUpdate {
        let fields = self.vtcr.decode();
        HardwareUpdate::of_register(fields.ha, fields.hd)
    }

    /// One entry: `None` to go on below it.
    fn step(&self, entry: &Entry, ipa: Ipa, access: AccessKind, el: El) -> Result<Option<Translation>, FaultKind> {
        let output = match entry.kind {
            EntryKind::Table => self.format.next_table(entry.pte),
            EntryKind::Leaf => self.format.output(entry.pte, entry.level),
            _ => return Err(FaultKind::Translation),
        };
        if seeded!(NoAddressSize, false, output.get() >= self.geometry.pa_limit()) {
            return Err(FaultKind::AddressSize);
        }
        if entry.kind == EntryKind::Table {
            return Ok(None);
        }
        self.format.check_access(entry.pte, access, el, self.hardware())?;
        let offset = ipa.offset_from(entry.ipa);
        Ok(Some(self.format.translation(entry.pte, entry.level, offset)))
    }
}

/// The level of an address size fault, wrong.
#[cfg(s2pt_faults)]
fn one_too_deep(kind: FaultKind, level: Level) -> Level {
    match kind {
        FaultKind::AddressSize => level.deeper().unwrap_or(Level::L2),
        _ => level,
    }
}
