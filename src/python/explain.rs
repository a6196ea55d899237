//! Walks, faults and tables in words.

use core::fmt::Write as _;

use super::types;
use crate::arch::{AccessKind, EntryKind, Fault, FaultKind, Format, Geometry, Ipa, Mapping};
use crate::image::Entry;
use crate::table::{Stats, Translation};

/// What a fault says, in words.
pub fn fault(fault: &Fault) -> String {
    let level = fault.level;
    match fault.kind {
        FaultKind::Translation => format!("no translation at level {level}"),
        FaultKind::AccessFlag => format!("access flag clear at level {level}"),
        FaultKind::Permission => {
            let access = match fault.access {
                AccessKind::Read => "read",
                AccessKind::Write => "write",
                AccessKind::Execute => "execute",
            };
            format!("the level {level} leaf does not allow {access}")
        }
        FaultKind::AddressSize => format!("output address too large at level {level}"),
        other => format!("{other:?} at level {level}"),
    }
}

/// The entries on the way to an address, one a line, and what came of it.
pub fn walk(
    format: &Format,
    path: &[Entry],
    ipa: Ipa,
    access: AccessKind,
    verdict: &Result<Translation, Fault>,
) -> String {
    let mut text = String::new();
    for entry in path {
        let meaning = match entry.kind {
            EntryKind::Table => format!("table at {}", format.next_table(entry.pte)),
            EntryKind::Leaf => {
                let leaf = Mapping::new(format, entry.ipa, entry.size, entry.level, entry.pte);
                let what = if entry.level.is_last() { "page" } else { "block" };
                let old = if leaf.attrs.af { "" } else { ", not accessed" };
                let (size, attrs) = (bytes(entry.size), &leaf.attrs);
                format!("{what}, {size} to {}, {}, {}{old}", leaf.pa, attrs.prot, attrs.memtype)
            }
            kind => types::kind(kind).to_owned(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "level {} entry at {}: {:#x} {meaning}",
            entry.level,
            entry.pa,
            entry.pte.raw()
        );
    }
    let access = match access {
        AccessKind::Read => "read of",
        AccessKind::Write => "write to",
        AccessKind::Execute => "fetch from",
    };
    let _ = match verdict {
        Ok(hit) => write!(text, "{access} {ipa}: {} at level {}", hit.pa, hit.level),
        Err(refused) => write!(text, "{access} {ipa}: refused, {}", fault(refused)),
    };
    text
}

/// Bytes in the largest unit that divides them.
fn bytes(size: u64) -> String {
    match size.trailing_zeros() % 64 / 10 {
        0 => format!("{size}B"),
        1 => format!("{}KiB", size >> 10),
        2 => format!("{}MiB", size >> 20),
        3 => format!("{}GiB", size >> 30),
        _ => format!("{}TiB", size >> 40),
    }
}

/// The levels of a table as an HTML table.
pub fn html(shape: &Geometry, census: &Stats) -> String {
    let mut text = format!(
        "<table><caption>Stage-2 table, {}-bit IPA, {} granule</caption>\
         <tr><th>level</th><th>one entry</th><th>tables</th><th>leaves</th><th>mapped</th></tr>",
        shape.ipa_bits(),
        shape.granule()
    );
    let mut level = Some(shape.start_level());
    while let Some(here) = level {
        let (size, leaves) = (shape.size(here), census.leaves[here.slot()]);
        let _ = write!(
            text,
            "<tr><td>{here}</td><td>{}</td><td>{}</td><td>{leaves}</td><td>{}</td></tr>",
            bytes(size),
            census.tables[here.slot()],
            bytes(size * leaves)
        );
        level = here.deeper();
    }
    text + "</table>"
}
