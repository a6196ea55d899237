//! One leaf with its place: what every reader of tables hands out.

use super::{Attrs, Format, Ipa, Level, Pa, Pte};

/// One leaf: `size` bytes from `ipa` on are mapped to `pa`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First IPA.
    pub ipa: Ipa,
    /// Bytes.
    pub size: u64,
    /// First output address.
    pub pa: Pa,
    /// The level of the leaf.
    pub level: Level,
    /// Its attributes.
    pub attrs: Attrs,
    /// The descriptor itself.
    pub raw: Pte,
}

impl Mapping {
    /// Reads the leaf `raw`, which stands at `level` and translates `size` bytes from `ipa` on.
    #[inline]
    pub const fn new(format: &Format, ipa: Ipa, size: u64, level: Level, raw: Pte) -> Self {
        Self {
            ipa,
            size,
            pa: format.output(raw, level),
            level,
            attrs: format.attrs(raw),
            raw,
        }
    }

    /// First IPA beyond the leaf, as a number: it may be beyond every IPA space.
    #[inline]
    pub const fn end(&self) -> u64 {
        self.ipa.get() + self.size
    }
}
