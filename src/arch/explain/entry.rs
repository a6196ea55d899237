//! A descriptor, field by field.

use alloc::{format, string::String, vec::Vec};

use super::{Field, Rows};
use crate::arch::{Dialect, EntryKind, Format, Geometry, Granule, Level, MemType, Prot, Pte, Shareability};

/// Explains an entry that stands at `level` in a table of this geometry and format, made by a maker of this dialect.
///
/// ```
/// use s2pt::arch::{Dialect, Format, FormatOptions, Geometry, GeometryOptions, Level, Pte, explain_entry};
/// let geometry = Geometry::new(GeometryOptions::default())?;
/// let format = Format::new(&geometry, FormatOptions::default());
/// let rows = explain_entry(Pte::from_raw(0x0040_0000_4020_07fd), Level::L2, &geometry, &format, Dialect::Own);
/// let address = rows.iter().find(|row| row.name == "OA").unwrap();
/// assert_eq!((address.high, address.low, address.meaning.as_str()), (47, 21, "output address 0x40200000"));
/// # Ok::<(), s2pt::arch::GeometryError>(())
/// ```
pub fn explain_entry(entry: Pte, level: Level, geometry: &Geometry, format: &Format, dialect: Dialect) -> Vec<Field> {
    let mut rows = Rows::new(entry.raw());
    match entry.kind_of(level, dialect) {
        EntryKind::Table => table(&mut rows, entry, geometry, format),
        EntryKind::Leaf => leaf(&mut rows, entry, level, geometry, format),
        EntryKind::Reserved if entry.is_valid() => {
            rows.flag("V", 0, "valid", "");
            rows.flag(
                "type",
                1,
                "",
                "reserved at level 3: the hardware takes the entry as invalid",
            );
        }
        kind => {
            invalid(&mut rows, entry, kind, dialect);
            return rows.finish("-", "no meaning in an invalid entry of this kind");
        }
    }
    rows.finish("-", "ignored or reserved, normally 0")
}

fn invalid(rows: &mut Rows, entry: Pte, kind: EntryKind, dialect: Dialect) {
    match (kind, dialect) {
        (EntryKind::Empty, _) => rows.add("empty", 63, 0, "nothing mapped"),
        (EntryKind::Locked, Dialect::Kvm7) => {
            rows.add("type", 63, 60, "locked: between break and make");
            rows.flag("V", 0, "", "invalid");
        }
        (EntryKind::Locked, _) => {
            rows.add("locked", 10, 10, "locked: between break and make");
            rows.flag("V", 0, "", "invalid");
        }
        (EntryKind::Annotated(payload), Dialect::Kvm7) => {
            let text = if rows.bits(63, 60) == 2 {
                "donated by the host"
            } else {
                "poisoned"
            };
            rows.add("type", 63, 60, text);
            rows.add("payload", 59, 1, format!("payload {payload:#x}"));
            rows.flag("V", 0, "", "invalid");
        }
        (EntryKind::Annotated(payload), Dialect::Kvm6) => {
            rows.add("owner", 9, 2, format!("owned by {payload}"));
            rows.flag("V", 0, "", "invalid");
        }
        (EntryKind::Annotated(payload), Dialect::Own) => {
            rows.add("annotation", 61, 11, format!("annotation {payload:#x}, bits 58:8"));
            rows.add("annotation", 9, 2, format!("annotation {payload:#x}, bits 7:0"));
            rows.flag("V", 0, "", "invalid");
        }
        (EntryKind::Frozen, _) => {
            rows.flag("frozen", 63, "the table that holds it is unlinked", "");
            rows.flag(
                "valid bit",
                62,
                "the last value was valid",
                "the last value was invalid",
            );
            rows.add("last value", 61, 1, format!("last value {}", entry.thaw()));
            rows.flag("V", 0, "", "invalid");
        }
        _ => rows.flag("V", 0, "", "invalid, of no kind that this table's maker writes"),
    }
}

fn table(rows: &mut Rows, entry: Pte, geometry: &Geometry, format: &Format) {
    rows.flag("V", 0, "valid", "");
    rows.flag("type", 1, "table", "");
    rows.rare("AF", 10, "access flag of a table (FEAT_HAFT)");
    let text = format!("next table {}", format.next_table(entry));
    address(rows, "table", geometry.granule().shift() as u8, &text, geometry);
}

fn leaf(rows: &mut Rows, entry: Pte, level: Level, geometry: &Geometry, format: &Format) {
    let attrs = format.attrs(entry);
    rows.flag("V", 0, "valid", "");
    let block = match geometry.block_allowed(level) {
        true => String::from("block"),
        false => format!(
            "block, which no {} table has at level {level}: invalid",
            geometry.granule()
        ),
    };
    rows.flag("type", 1, "page", &block);
    let memory = match (attrs.memtype, format.fwb()) {
        (MemType::Other(value), fwb) => other_memattr(value, fwb),
        (memtype, true) => format!("{memtype} (forced write-back table)"),
        (memtype, false) => format!("{memtype}"),
    };
    rows.add("MemAttr", 5, 2, memory);
    rows.add("S2AP", 7, 6, access(attrs.prot));
    if !geometry.lpa2() {
        rows.add("SH", 9, 8, format!("{}", Shareability::decode(rows.bits(9, 8) as u8)));
    }
    rows.flag("AF", 10, "accessed", "not accessed: faults unless the hardware sets it");
    rows.rare(
        "FnXS",
        11,
        "TLBI of the nXS kind need not wait for accesses to this memory",
    );
    let shift = geometry.shift(level) as u8;
    if !level.is_last() {
        rows.rare("nT", 16, "block translation entry must not be used (FEAT_BBM)");
    }
    let text = format!("output address {}", format.output(entry, level));
    address(rows, "OA", shift, &text, geometry);
    rows.flag(
        "DBM",
        51,
        "the hardware may grant write (with VTCR_EL2.HD)",
        "write permission is as S2AP says",
    );
    rows.flag("Contiguous", 52, "part of a contiguous run", "no contiguous hint");
    let execute = match attrs.prot & Prot::X {
        Prot::X => "executable",
        Prot::PX => "executable at EL1 only",
        Prot::UX => "executable at EL0 only",
        _ => "not executable",
    };
    if format.xnx() {
        rows.add("XN", 54, 53, execute);
    } else {
        rows.add("XN", 54, 54, execute);
    }
    let software = if attrs.software == 0 {
        "software bits clear"
    } else {
        "software bits SW3..SW0"
    };
    rows.add("SW", 58, 55, software);
    if rows.bits(62, 59) != 0 {
        rows.add(
            "PBHA",
            62,
            59,
            "page-based hardware attributes, or permission overlay index",
        );
    }
}

/// The rows of an address whose lowest bit is `shift`: one, or two where the top bits lie elsewhere.
fn address(rows: &mut Rows, name: &'static str, shift: u8, text: &str, geometry: &Geometry) {
    let wide64 = geometry.granule() == Granule::K64 && geometry.pa_bits() == 52;
    match (geometry.lpa2(), wide64) {
        (true, _) => {
            rows.add(name, 49, shift, text);
            rows.add(name, 9, 8, "address bits 51:50");
        }
        (_, true) => {
            rows.add(name, 47, shift, text);
            rows.add(name, 15, 12, "address bits 51:48");
        }
        _ => rows.add(name, 47, shift, text),
    }
}

fn access(prot: Prot) -> &'static str {
    match prot & Prot::RW {
        Prot::RW => "read and write",
        Prot::R => "read only",
        Prot::W => "write only",
        _ => "no access",
    }
}

fn other_memattr(value: u8, fwb: bool) -> String {
    let half = |bits| match bits & 3 {
        1 => "non-cacheable",
        2 => "write-through",
        _ => "write-back",
    };
    if fwb || value & 3 == 0 {
        return String::from("reserved");
    }
    format!("outer {}, inner {}", half(value >> 2), half(value))
}
