//! What can be wrong with somebody else's table.

use crate::arch::{Ipa, Level, Pa, Vtcr, VtcrError, Vttbr, VttbrError};

/// Why a dump or a table cannot be read. Every value is shown in hex.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file does not begin as a dump.
    #[error("not a stage-2 dump: it begins with bytes {found:02x?}, not \"S2DUMP01\"")]
    Magic {
        /// The first bytes, up to eight.
        found: alloc::vec::Vec<u8>,
    },
    /// The file ends within its header.
    #[error("truncated dump: {have:#x} bytes, the header alone has {need:#x}")]
    Header {
        /// Size of the file.
        have: u64,
        /// Size of a header.
        need: u64,
    },
    /// The page size is none of the three.
    #[error("dump page size {found:#x} is none of 0x1000, 0x4000, 0x10000")]
    PageSize {
        /// What the header says.
        found: u64,
    },
    /// The page size is not the granule in VTCR_EL2.
    #[error("dump page size {page_size:#x}, but VTCR_EL2 {vtcr} says a granule of {granule:#x}")]
    Granule {
        /// What the header says.
        page_size: u64,
        /// The register.
        vtcr: Vtcr,
        /// The granule in it, bytes.
        granule: u64,
    },
    /// The file is shorter than its pages.
    #[error("truncated dump: {pages:#x} pages of {page_size:#x} bytes need {need:#x} bytes, there are {have:#x}")]
    Truncated {
        /// Number of pages in the header.
        pages: u64,
        /// Size of a page.
        page_size: u64,
        /// Bytes that a whole file would have (beyond `u64`: its maximum).
        need: u64,
        /// Bytes that it has.
        have: u64,
    },
    /// The file is longer than its pages.
    #[error("dump has {have:#x} bytes, its {pages:#x} pages end at {need:#x}")]
    Trailing {
        /// Number of pages in the header.
        pages: u64,
        /// Where they end.
        need: u64,
        /// Bytes in the file.
        have: u64,
    },
    /// A page address is not a multiple of the page size.
    #[error("address {pa} of dump page {index:#x} is not a multiple of {page_size:#x}")]
    PageAddress {
        /// Which page, counting from 0.
        index: u64,
        /// Its address.
        pa: Pa,
        /// Size of a page.
        page_size: u64,
    },
    /// Pages do not ascend, or one is there twice.
    #[error("address {pa} of dump page {index:#x} is not above {previous}, that of the page before")]
    PageOrder {
        /// Which page, counting from 0.
        index: u64,
        /// Its address.
        pa: Pa,
        /// Address of the page before.
        previous: Pa,
    },
    /// The header contradicts itself.
    #[error("dump root {header}, but VTTBR_EL2 {vttbr} says {root}")]
    Root {
        /// Root address in the header.
        header: Pa,
        /// The register.
        vttbr: Vttbr,
        /// Root address in the register.
        root: Pa,
    },
    /// VTCR_EL2 breaks a rule.
    #[error("VTCR_EL2 {vtcr}: {rule}")]
    Vtcr {
        /// The register.
        vtcr: Vtcr,
        /// The rule.
        #[source]
        rule: VtcrError,
    },
    /// VTTBR_EL2 breaks a rule.
    #[error("VTTBR_EL2 {vttbr}: {rule}")]
    Vttbr {
        /// The register.
        vttbr: Vttbr,
        /// The rule.
        #[source]
        rule: VttbrError,
    },
    /// A table page cannot be read: not in the dump, or no memory there.
    #[error("level {level} table at {table}, for IPA {ipa} on, is not there")]
    Missing {
        /// Address of the table.
        table: Pa,
        /// First IPA that it translates.
        ipa: Ipa,
        /// Its level.
        level: Level,
    },
    /// A table page is reached a second time: a cycle, or two entries that share a table.
    #[error("level {level} table at {table}, for IPA {ipa} on, is in the tree already: a cycle or a shared table")]
    Revisited {
        /// Address of the table.
        table: Pa,
        /// First IPA that it would translate the second time.
        ipa: Ipa,
        /// The level that it would have the second time.
        level: Level,
    },
    /// An IPA that the table does not translate.
    #[error("IPA {ipa} is outside the table's space, which ends at {limit:#x}")]
    Ipa {
        /// Asked for.
        ipa: Ipa,
        /// First IPA beyond the space.
        limit: u64,
    },
    /// The file cannot be read or written.
    #[cfg(feature = "std")]
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
}
