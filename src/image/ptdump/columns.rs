//! The columns of a line, to text and back.
//!
//! What a run shows is kept as a word in the descriptor's own layout, cut down to the bits that the style looks at. That
//! word is also what decides where a run ends.

use alloc::string::String;

use super::{PtdumpColumns, PtdumpStyle};
use crate::arch::{EntryKind, Format, Level, Prot};
use crate::image::Entry;

const VALID: u64 = 1;
const PAGE: u64 = 2;
const XN_SHIFT: u32 = 53;
const XN0: u64 = 1 << XN_SHIFT;
const XN1: u64 = 1 << 54;
/// Outside of what any kernel looks at: an invalid entry that is not empty, in the exact style.
const OTHER: u64 = 1 << 2;
const KVM6: u64 = VALID | PAGE | Format::READ_BIT | Format::WRITE_BIT | Format::AF_BIT | XN1;
const KVM7: u64 = KVM6 | XN0;
/// A page that may be executed and nothing else, and is not young: Linux 6.12 shows blanks, where of an empty entry it shows
/// nothing.
pub(super) const UNSEEN: u64 = VALID | PAGE;

/// By XN[1:0].
const EXECUTE: [(&str, Prot); 4] = [
    ("px ux ", Prot::X),
    ("PXNux ", Prot::UX),
    ("PXNUXN", Prot::NONE),
    ("px UXN", Prot::PX),
];

/// The bits that this style shows of an entry; 0: no columns.
pub(super) fn bits(entry: &Entry, format: &Format, style: PtdumpStyle) -> u64 {
    let raw = entry.pte.raw();
    match style {
        PtdumpStyle::Kvm6 => raw & KVM6,
        PtdumpStyle::Kvm7 => raw & KVM7,
        PtdumpStyle::Exact => match entry.kind {
            EntryKind::Empty => 0,
            // Without FEAT_XNX bit 53 says nothing.
            EntryKind::Leaf => raw & (KVM7 & !(XN0 | XN1)) | xn(format.prot(entry.pte)) << XN_SHIFT,
            _ => OTHER,
        },
    }
}

fn xn(prot: Prot) -> u64 {
    EXECUTE.iter().position(|(_, x)| *x == prot & Prot::X).unwrap_or(0) as u64
}

/// What bits that are not zero say.
pub(super) fn meaning(bits: u64, style: PtdumpStyle) -> PtdumpColumns {
    if bits & VALID == 0 {
        return PtdumpColumns {
            valid: false,
            prot: Prot::NONE,
            af: false,
        };
    }
    let mut prot = match style {
        PtdumpStyle::Kvm6 if bits & XN1 != 0 => Prot::NONE,
        PtdumpStyle::Kvm6 => Prot::X,
        _ => EXECUTE[(bits >> XN_SHIFT & 3) as usize].1,
    };
    prot.set(Prot::R, bits & Format::READ_BIT != 0);
    prot.set(Prot::W, bits & Format::WRITE_BIT != 0);
    PtdumpColumns {
        valid: true,
        prot,
        af: bits & Format::AF_BIT != 0,
    }
}

/// The columns of bits that are not zero, each with a blank before it.
pub(super) fn text(bits: u64, style: PtdumpStyle) -> String {
    let valid = bits & VALID != 0;
    // Linux 6.12 looks at every other bit of a valid entry only; Linux 7 looks at all.
    let set = |bit: u64| bits & bit != 0 && (valid || style == PtdumpStyle::Kvm7);
    let pick = |set: bool, yes: &'static str, no: &'static str| if set { yes } else { no };
    let execute = match style {
        PtdumpStyle::Kvm6 => pick(valid && bits & XN1 == 0, " ", "X"),
        PtdumpStyle::Exact if !valid => "      ",
        _ => EXECUTE[(bits >> XN_SHIFT & 3) as usize].0,
    };
    let columns = [
        pick(valid, " ", "F"),
        pick(set(Format::READ_BIT), "R", " "),
        pick(set(Format::WRITE_BIT), "W", " "),
        execute,
        pick(set(Format::AF_BIT), "AF", "  "),
        pick(bits & (VALID | PAGE) == VALID, "BLK", "   "),
    ];
    columns.iter().flat_map(|column| [" ", column]).collect()
}

/// The style and the bits whose columns are `found`, blanks at the end aside.
pub(super) fn parse(found: &str, level: Level) -> Option<(PtdumpStyle, u64)> {
    let found = found.trim_end();
    [PtdumpStyle::Kvm6, PtdumpStyle::Kvm7, PtdumpStyle::Exact]
        .into_iter()
        .map(|style| (style, read(found.as_bytes(), level, style)))
        .find(|&(style, bits)| text(bits, style).trim_end() == found)
}

/// The bits if the columns are in this style. Whether they are, writing them again will show.
fn read(found: &[u8], level: Level, style: PtdumpStyle) -> u64 {
    let has = |at: usize, word: &str| found.get(at..at + word.len()) == Some(word.as_bytes());
    let on = |bit: u64, set: bool| if set { bit } else { 0 };
    let (xn, af_at) = match style {
        PtdumpStyle::Kvm6 => (u64::from(has(7, "X")) << 1, 9),
        _ => {
            let shown = EXECUTE.iter().position(|(word, _)| has(7, word.trim_end()));
            (shown.unwrap_or(0) as u64, 14)
        }
    };
    let invalid = match style {
        PtdumpStyle::Exact => OTHER,
        // It shows, so some bit is set: this one has no column.
        _ => PAGE,
    };
    let state = if has(1, "F") {
        invalid
    } else {
        VALID | on(PAGE, level.is_last())
    };
    let (read, write) = (on(Format::READ_BIT, has(3, "R")), on(Format::WRITE_BIT, has(5, "W")));
    state | read | write | on(Format::AF_BIT, has(af_at, "AF")) | xn << XN_SHIFT
}
