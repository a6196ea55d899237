//! What the registers do not say, read off the entries. The rules stand at [`ImageOptions`].

use super::{Image, ImageOptions, ReadMemory};
use crate::arch::{Dialect, EntryKind, Format, FormatOptions};

const XN0: u64 = 1 << 53;

/// Fills the options that are `None`. Tables that cannot be entered are passed over.
pub(super) fn fill_in<R: ReadMemory>(image: &Image<R>, options: &ImageOptions) -> (FormatOptions, Dialect) {
    if let (Some(fwb), Some(xnx), Some(dialect)) = (options.fwb, options.xnx, options.dialect) {
        return (FormatOptions { fwb, xnx }, dialect);
    }
    // Bit n: some leaf has MemAttr n.
    let mut memattrs = 0u16;
    let mut of_leaves = 0;
    let mut of_invalid = 0;
    for entry in image.entries().flatten() {
        let raw = entry.pte.raw();
        if entry.kind == EntryKind::Leaf {
            memattrs |= 1 << ((raw & Format::MEMATTR_MASK) >> Format::MEMATTR_MASK.trailing_zeros());
            of_leaves |= raw;
        } else if !entry.pte.is_valid() {
            of_invalid |= raw;
        }
    }
    let format = FormatOptions {
        fwb: options.fwb.unwrap_or(memattrs & 0x00c0 != 0 && memattrs & 0xff00 == 0),
        xnx: options.xnx.unwrap_or(of_leaves & XN0 != 0),
    };
    let dialect = options.dialect.unwrap_or(match of_invalid >> 60 {
        8.. => Dialect::Own,
        1..=3 => Dialect::Kvm7,
        _ => Dialect::Kvm6,
    });
    (format, dialect)
}
