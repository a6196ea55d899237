//! The text of KVM's `stage2_page_tables` file (Linux 6.12, debugfs), from any table.
//!
//! One line for each longest run of entries, empty ones too, that have the same level and the same bits as far as the
//! text shows them: valid, type, R, W, XN, AF. As in the kernel, the `X` column stands where execution is *not*
//! allowed, memory types and owners are not shown, and the last run is not printed: it ends where the walk does, and
//! a run is printed when the next one begins.

use alloc::string::String;
use core::fmt::Write as _;

use super::{Entries, Image, ImageError, ReadMemory};
use crate::arch::{EntryKind, Format, Level};

const VALID: u64 = 1;
const PAGE: u64 = 2;
const XN: u64 = 1 << 54;
const SHOWN: u64 = VALID | PAGE | Format::READ_BIT | Format::WRITE_BIT | Format::AF_BIT | XN;

impl<R: ReadMemory> Image<R> {
    /// The table as KVM prints it, line by line, with a newline behind each.
    ///
    /// # Errors
    ///
    /// The first table that could not be entered.
    pub fn ptdump(&self) -> Result<String, ImageError> {
        let mut text = String::from("---[ Guest IPA ]---\n");
        // First IPA, level and shown bits of the run that still grows.
        let mut run: Option<(u64, Level, u64)> = None;
        for entry in Entries::with_empty(self) {
            let entry = entry?;
            if entry.kind == EntryKind::Table {
                continue;
            }
            let (ipa, shown) = (entry.ipa.get(), entry.pte.raw() & SHOWN);
            match run {
                Some((_, level, bits)) if (level, bits) == (entry.level, shown) => {}
                _ => {
                    if let Some((first, level, bits)) = run.replace((ipa, entry.level, shown)) {
                        line(&mut text, first, ipa, level, bits);
                    }
                }
            }
        }
        Ok(text)
    }
}

fn line(text: &mut String, first: u64, end: u64, level: Level, bits: u64) {
    let (mut size, mut unit) = ((end - first) >> 10, 0);
    while size != 0 && size % 1024 == 0 && unit + 1 < UNITS.len() {
        size /= 1024;
        unit += 1;
    }
    let unit = UNITS[unit];
    // Writing to a String does not fail.
    let _ = write!(text, "{first:#018x}-{end:#018x}   {size:9}{unit} {level}");
    if bits != 0 {
        let column = |set: bool, yes: &'static str, no: &'static str| if set { yes } else { no };
        let columns = [
            column(bits & VALID == 0, "F", " "),
            column(bits & Format::READ_BIT != 0, "R", " "),
            column(bits & Format::WRITE_BIT != 0, "W", " "),
            column(bits & XN != 0, "X", " "),
            column(bits & Format::AF_BIT != 0, "AF", "  "),
            column(bits & (VALID | PAGE) == VALID, "BLK", "   "),
        ];
        for column in columns {
            let _ = write!(text, " {column}");
        }
    }
    text.push('\n');
}

const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];
