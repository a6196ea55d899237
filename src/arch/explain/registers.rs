//! VTCR_EL2, VTTBR_EL2, ESR_EL2 and HPFAR_EL2, field by field.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use super::{Field, Rows};
use crate::arch::{Esr, Geometry, Vtcr, Vttbr};

/// Explains a VTCR_EL2 value; reserved encodings are named as such.
///
/// ```
/// use s2pt::arch::{Vtcr, explain_vtcr};
/// let rows = explain_vtcr(Vtcr::new(0x802d_3558));
/// let row = |name| rows.iter().find(|row| row.name == name).unwrap().meaning.as_str();
/// assert_eq!(row("T0SZ"), "IPA space of 40 bits");
/// assert_eq!(row("SL0"), "walks start at level 1");
/// ```
pub fn explain_vtcr(vtcr: Vtcr) -> Vec<Field> {
    let f = vtcr.decode();
    let mut rows = Rows::new(vtcr.raw());
    rows.add("T0SZ", 5, 0, format!("IPA space of {} bits", vtcr.ipa_bits()));
    let start = vtcr
        .start_level()
        .map_or_else(|e| e.to_string(), |level| format!("walks start at level {level}"));
    rows.add("SL0", 7, 6, start.as_str());
    rows.add("IRGN0", 9, 8, format!("walks are inner {}", cacheability(f.irgn0)));
    rows.add("ORGN0", 11, 10, format!("walks are outer {}", cacheability(f.orgn0)));
    let leaves = if f.ds { " (so are all leaves)" } else { "" };
    let walks = crate::arch::Shareability::decode(f.sh0);
    rows.add("SH0", 13, 12, format!("walks are {walks}{leaves}"));
    rows.add(
        "TG0",
        15,
        14,
        vtcr.granule()
            .map_or_else(|e| e.to_string(), |g| format!("{g} granule")),
    );
    let pa = vtcr
        .pa_bits()
        .map_or_else(|e| e.to_string(), |bits| format!("physical addresses of {bits} bits"));
    rows.add("PS", 18, 16, pa);
    rows.flag("VS", 19, "16-bit VMIDs", "8-bit VMIDs");
    rows.flag(
        "HA",
        21,
        "hardware sets the access flag",
        "software sets the access flag",
    );
    rows.flag(
        "HD",
        22,
        "hardware grants write where DBM allows it",
        "software grants write",
    );
    if f.hwu != 0 {
        rows.add("HWU62:59", 28, 25, "descriptor bits 62:59 left to the hardware");
    }
    rows.rare("NSW", 29, "non-secure walks");
    rows.rare("NSA", 30, "non-secure output");
    rows.flag("RES1", 31, "as it must be", "must be 1");
    rows.flag(
        "DS",
        32,
        "LPA2 descriptors",
        "48-bit descriptors (64KiB granule: 52-bit)",
    );
    if f.sl2 {
        rows.add("SL2", 33, 33, start);
    }
    for (at, name, meaning) in [
        (34, "AssuredOnly", "AssuredOnly attribute in descriptors"),
        (35, "TL1", "top-level entries restrict EL1 tables"),
        (36, "S2PIE", "permission indirection"),
        (37, "S2POE", "permission overlays"),
        (38, "D128", "128-bit descriptors"),
        (40, "GCSH", "guarded control stack checks"),
        (41, "TL0", "top-level entries restrict EL0 tables"),
        (44, "HAFT", "hardware sets the access flag of table entries"),
        (45, "HDBSS", "hardware records dirty pages"),
    ] {
        rows.rare(name, at, meaning);
    }
    rows.finish("RES0", "must be 0")
}

/// Explains a VTTBR_EL2 value. The place of the top address bits depends on the table's `geometry`; without one,
/// addresses of 48 bits are taken.
///
/// ```
/// use s2pt::arch::{Vttbr, explain_vttbr};
/// let rows = explain_vttbr(Vttbr::new(0x0001_0000_4000_2001), None);
/// assert_eq!(rows[1].meaning, "root at 0x40002000");
/// ```
pub fn explain_vttbr(vttbr: Vttbr, geometry: Option<&Geometry>) -> Vec<Field> {
    let mut rows = Rows::new(vttbr.raw());
    rows.add("VMID", 63, 48, format!("VMID {}", vttbr.vmid()));
    match geometry {
        Some(geometry) if geometry.pa_bits() == 52 => {
            rows.add("BADDR", 47, 6, format!("root at {}", vttbr.baddr(geometry)));
            rows.add("BADDR", 5, 2, "root address bits 51:48");
        }
        Some(geometry) => rows.add("BADDR", 47, 1, format!("root at {}", vttbr.baddr(geometry))),
        None => rows.add("BADDR", 47, 1, format!("root at {:#x}", rows.bits(47, 1) << 1)),
    }
    rows.flag(
        "CnP",
        0,
        "common not private: all CPUs use the same table",
        "private to this CPU",
    );
    rows.finish("RES0", "must be 0")
}

/// Explains an ESR_EL2 value; fields of the syndrome only for aborts from the guest (classes 0x20 and 0x24).
///
/// ```
/// use s2pt::arch::{Esr, explain_esr};
/// let rows = explain_esr(Esr::new(0x9200_0046));
/// assert_eq!(rows.last().unwrap().meaning, "translation fault, level 2");
/// ```
pub fn explain_esr(esr: Esr) -> Vec<Field> {
    let mut rows = Rows::new(esr.raw());
    rows.add("EC", 31, 26, class(esr.ec()));
    rows.flag("IL", 25, "32-bit instruction, or none described", "16-bit instruction");
    if !esr.is_guest_abort() {
        rows.add("ISS", 24, 0, "syndrome of this exception class");
        return rows.finish("ISS2", "further syndrome of this exception class");
    }
    if !esr.is_instruction() {
        data_abort(&mut rows, esr);
    }
    if esr.set() != 0 {
        rows.add("SET", 12, 11, "synchronous error type");
    }
    rows.rare("FnV", 10, "FAR_EL2 is not valid");
    rows.rare("EA", 9, "external abort type");
    rows.flag(
        "S1PTW",
        7,
        "the access was a stage-1 walk's own",
        "the guest's own access",
    );
    rows.add("FSC", 5, 0, esr.status().to_string());
    rows.finish("-", "reserved, or a newer feature's")
}

/// Explains an HPFAR_EL2 value.
pub fn explain_hpfar(hpfar: u64) -> Vec<Field> {
    let mut rows = Rows::new(hpfar);
    rows.rare("NS", 63, "non-secure IPA space");
    rows.add("FIPA", 43, 4, format!("IPA page {:#x}", rows.bits(43, 4) << 12));
    rows.finish("RES0", "must be 0")
}

fn data_abort(rows: &mut Rows, esr: Esr) {
    rows.flag(
        "ISV",
        24,
        "the instruction is described below",
        "the instruction is not described",
    );
    if let (Some(bytes), Some(register)) = (esr.access_size(), esr.register()) {
        let plural = if bytes == 1 { "" } else { "s" };
        rows.add("SAS", 23, 22, format!("access of {bytes} byte{plural}"));
        rows.flag("SSE", 21, "sign extended", "not sign extended");
        let wide = esr.sixty_four() == Some(true);
        let name = match (register, wide) {
            (31, _) => String::from("zero register"),
            (n, true) => format!("register x{n}"),
            (n, false) => format!("register w{n}"),
        };
        rows.add("SRT", 20, 16, name);
        rows.flag("SF", 15, "64-bit register", "32-bit register");
        rows.flag("AR", 14, "acquire or release", "no acquire or release");
    }
    rows.rare("VNCR", 13, "taken through VNCR_EL2");
    rows.flag("CM", 8, "cache maintenance or address translation", "load or store");
    rows.flag("WnR", 6, "write", "read");
}

fn class(ec: u8) -> &'static str {
    match ec {
        0x00 => "unknown reason",
        0x01 => "trapped WFI, WFE or similar",
        0x07 => "trapped SVE, SIMD or floating point",
        0x15 => "SVC from AArch64",
        0x16 => "HVC from AArch64",
        0x17 => "SMC from AArch64",
        0x18 => "trapped MSR, MRS or system instruction",
        0x20 => "instruction abort from a lower exception level",
        0x21 => "instruction abort from the same exception level",
        0x22 => "misaligned PC",
        0x24 => "data abort from a lower exception level",
        0x25 => "data abort from the same exception level",
        0x26 => "misaligned SP",
        0x2f => "SError",
        _ => "another exception class",
    }
}

fn cacheability(bits: u8) -> &'static str {
    match bits {
        0 => "non-cacheable",
        1 => "write-back, read and write allocate",
        2 => "write-through, read allocate",
        _ => "write-back, read allocate",
    }
}
