//! Seeded faults: wrong lines that a test switches on, one at a time, to see whether an MMU of others notices.
//!
//! `seeded!(Name, wrong, right)` is `right`, and nothing else is compiled. Only a build with `--cfg s2pt_faults` has both
//! sides, and takes the wrong one where the environment variable `S2PT_FAULT` names it; the variable is read once.
//! `tests/mmu_faults.py` runs every one of them against the oracles. No layer: every module may have a line that can be
//! wrong.

#[cfg(not(s2pt_faults))]
macro_rules! seeded {
    ($name:ident, $wrong:expr, $right:expr) => {
        $right
    };
}

#[cfg(s2pt_faults)]
macro_rules! seeded {
    ($name:ident, $wrong:expr, $right:expr) => {
        if $crate::faults::armed($crate::faults::Seeded::$name) {
            $wrong
        } else {
            $right
        }
    };
}

#[cfg(s2pt_faults)]
pub(crate) use catalogue::{NAMES, Seeded, armed};

#[cfg(s2pt_faults)]
mod catalogue {
    use crate::sync::OnceLock;

    /// Declares the faults, each with what is wrong.
    macro_rules! faults {
        ($($name:ident: $what:literal,)*) => {
            /// A fault that can be switched on.
            #[derive(Clone, Copy, PartialEq, Eq)]
            pub enum Seeded {
                $($name,)*
            }

            /// Names, with what is wrong, in order of the enumeration.
            pub const NAMES: &[(&str, &str)] = &[$((stringify!($name), $what),)*];
            const ALL: &[Seeded] = &[$(Seeded::$name,)*];
        };
    }

    faults! {
        // The descriptor format, both ways.
        AddressTop: "the highest address bit of a descriptor is lost",
        AddressLow: "the lowest address bit of a page is lost",
        BlockStray: "address bits below a block's size count",
        Lpa2HighAt: "LPA2: address bits 51:50 are looked for one bit higher",
        Lpa2HighTo: "LPA2: descriptor bits 9:8 become address bits 50:49",
        Wide64Mask: "64K: only three of the four high address bits count",
        XnxIgnored: "XN[0] is ignored though the CPU has FEAT_XNX",
        FwbIgnored: "MemAttr is read and written as without forced write-back",
        // The encoder.
        EncodeAccess: "read and write permission change places in new leaves",
        EncodeExecute: "new leaves grant EL1 what was meant for EL0, and the reverse",
        EncodeMemAttr: "MemAttr of new leaves is one bit too high",
        EncodeAf: "the access flag of new leaves is one bit too high",
        EncodePage: "new pages have the type of a block",
        // Registers.
        BuildT0sz: "VTCR_EL2 is built with an IPA space of half the size",
        BuildSl0: "VTCR_EL2 is built with SL0 of the next level up",
        BuildTg0: "VTCR_EL2 is built with the codes of 16K and 64K exchanged",
        BuildDs: "VTCR_EL2 is built without DS",
        BuildHa: "VTCR_EL2 is built without HA",
        ReadSl0: "VTCR_EL2 of the 4K granule: levels 1 and 2 change places",
        ReadT0sz: "VTCR_EL2 is read as an IPA space of half the size",
        ReadPs: "VTCR_EL2.PS is read as the next larger size",
        ReadSl2: "VTCR_EL2.SL2 counts without DS",
        Concatenation: "roots of 16 tables are refused",
        RootIndex: "the highest IPA bits do not count in a root of several tables",
        BlockAt1: "1 GiB blocks are taken for reserved",
        BlockAt0: "LPA2: 512 GiB blocks are taken for reserved",
        // The answer to an access.
        NoAddressSize: "addresses beyond the output size are let through",
        AddressSizeLevel: "an address size fault names the next level down",
        AfIgnored: "a clear access flag is no fault",
        AfLast: "permissions are checked before the access flag",
        DbmIgnored: "DBM grants no write",
        HdAlone: "HD works without HA",
        ElIgnored: "a fetch from EL0 needs the right of EL1",
        WriteByRead: "a write needs the right to read",
        AfNotSet: "the hardware is said to leave the access flag clear",
        DirtyOnRead: "a read is said to make a leaf dirty",
        BeyondLevel: "beyond the IPA space the fault is at the start level",
        LastBlock: "an entry at level 3 with the type of a block is taken for a page",
        AbsentLevel: "a table in no memory is a fault of the level above",
        LiveOffset: "the live table's translate forgets the offset within a block",
        LiveLimit: "the live table's translate knows no end of the IPA space",
        // Syndromes.
        SyndromeOffset: "the IPA of a syndrome loses its low twelve bits",
        SyndromePage: "HPFAR_EL2 is shifted by one bit less",
        SyndromeWrite: "WnR is ignored",
        SyndromeFetch: "an instruction abort is read as a data read",
        SyndromeBelow0: "the status code of a translation fault at level -1 is unknown",
        SyndromeKinds: "status codes of access flag and permission change places",
    }

    /// Whether this is the fault that the environment names.
    ///
    /// # Panics
    /// If it names one that does not exist.
    pub fn armed(fault: Seeded) -> bool {
        static CHOSEN: OnceLock<Option<Seeded>> = OnceLock::new();
        let chosen = CHOSEN.get_or_init(|| {
            let name = std::env::var("S2PT_FAULT").ok().filter(|name| !name.is_empty())?;
            let index = NAMES.iter().position(|(known, _)| *known == name);
            Some(ALL[index.unwrap_or_else(|| panic!("S2PT_FAULT={name} is no seeded fault"))])
        });
        *chosen == Some(fault)
    }
}
