//! From a table to the text.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use super::{HEADING, PtdumpRun, PtdumpStyle, columns};
use crate::arch::{EntryKind, Ipa, Level};
use crate::image::{Entries, Image, ImageError, ReadMemory};

const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];

/// Entries of one level that show the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub first: u64,
    pub end: u64,
    pub level: Level,
    pub bits: u64,
}

impl Run {
    pub(super) fn shown(&self, style: PtdumpStyle) -> PtdumpRun {
        PtdumpRun {
            ipa: Ipa::new(self.first),
            end: self.end,
            level: self.level,
            columns: (self.bits != 0).then(|| columns::meaning(self.bits, style)),
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        (self.level, self.bits) == (other.level, other.bits)
    }

    /// The line, without a newline. The kernel's own sums may wrap: a run may end at 0.
    pub(super) fn line(&self, style: PtdumpStyle) -> String {
        let (first, end, level) = (self.first, self.end, self.level);
        let mut line = String::new();
        // Writing to a String does not fail.
        let _ = write!(
            line,
            "{first:#018x}-{end:#018x}   {} {level}",
            size(end.wrapping_sub(first))
        );
        if self.bits != 0 {
            line.push_str(&columns::text(self.bits, style));
        }
        line
    }
}

/// Bytes in the largest unit that divides them, as wide as its column.
pub(super) fn size(bytes: u64) -> String {
    let (mut size, mut unit) = (bytes >> 10, 0);
    while size % 1024 == 0 && unit + 1 < UNITS.len() {
        size /= 1024;
        unit += 1;
    }
    alloc::format!("{size:9}{}", UNITS[unit])
}

/// The runs of a table; an `Err` for a table that cannot be entered.
pub(super) fn runs<R: ReadMemory>(
    image: &Image<R>,
    style: PtdumpStyle,
) -> impl Iterator<Item = Result<Run, ImageError>> + '_ {
    let run = move |entry: crate::image::Entry| Run {
        first: entry.ipa.get(),
        end: entry.ipa.get() + entry.size,
        level: entry.level,
        bits: columns::bits(&entry, image.format(), style),
    };
    let mut runs = Entries::with_empty(image)
        .filter(|entry| !entry.as_ref().is_ok_and(|entry| entry.kind == EntryKind::Table))
        .map(move |entry| entry.map(run))
        .peekable();
    core::iter::from_fn(move || {
        let mut run = match runs.next()? {
            Ok(run) => run,
            Err(error) => return Some(Err(error)),
        };
        while let Some(Ok(more)) = runs.next_if(|next| next.as_ref().is_ok_and(|next| run.is_like(next))) {
            run.end = more.end;
        }
        Some(Ok(run))
    })
}

impl<R: ReadMemory> Image<R> {
    /// The table in the line format of KVM's `stage2_page_tables` file, with a newline behind each line.
    ///
    /// # Errors
    ///
    /// The first table that could not be entered.
    pub fn ptdump(&self, style: PtdumpStyle) -> Result<String, ImageError> {
        let runs: Vec<Run> = runs(self, style).collect::<Result<_, _>>()?;
        let text = print(&runs, None, style);
        let kernel = style != PtdumpStyle::Exact;
        // The first buffer of the kernel's file is one of its pages, and pages are as large as the table's.
        if kernel && text.len() as u64 >= self.geometry().granule().size() {
            return Ok(print(&runs, runs.last(), style));
        }
        Ok(text)
    }
}

/// The lines; `left` is what a kernel has not printed yet when it walks a second time.
fn print(runs: &[Run], left: Option<&Run>, style: PtdumpStyle) -> String {
    let mut text = String::new();
    let mut line = |run: &Run| {
        text.push_str(&run.line(style));
        text.push('\n');
    };
    let Some((&last, printed)) = runs.split_last() else {
        return String::from(HEADING) + "\n";
    };
    let mut printed = printed.iter();
    match (left, printed.as_slice().first()) {
        // What is left and the first run are one to the kernel.
        (Some(left), Some(first)) if left.is_like(first) => {
            line(&Run {
                first: left.first,
                ..*first
            });
            printed.next();
        }
        (Some(left), _) => line(&Run { end: 0, ..*left }),
        (None, _) => {
            text.push_str(HEADING);
            text.push('\n');
        }
    }
    let mut line = |run: &Run| {
        text.push_str(&run.line(style));
        text.push('\n');
    };
    printed.for_each(&mut line);
    if style == PtdumpStyle::Exact {
        line(&last);
    }
    text
}
