//! From the text back to runs.
//!
//! A line is taken apart and written again; what does not come out the same (blanks at its end aside) is refused. So
//! there is one grammar, that of the writer.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::write::{Run, size};
use super::{HEADING, Ptdump, PtdumpError, PtdumpStyle, columns};
use crate::arch::Level;

/// Addresses in a text are multiples of the smallest page.
const PAGE: u64 = 4096;
/// Of what cannot be read, so many characters go into the message.
const SHOWN: usize = 100;

impl Ptdump {
    /// Reads the text of any style: the columns of a line tell the kernel.
    ///
    /// Every line must be as it is written, the runs without a gap, and all lines of one kernel. Blanks at the end of a
    /// line may be missing, and the last newline, but then not the blanks of that line. (With them goes the one difference
    /// that Linux 6.12 makes between an empty entry and a page that may only be executed.) That a text was cut off between two
    /// lines can be seen only if it begins with the end of a walk before: then it must end where that begins.
    ///
    /// # Errors
    ///
    /// [`PtdumpError`] with the number of the line.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, PtdumpError> {
        let text = text.as_ref();
        let whole = text.strip_suffix(b"\n");
        let mut lines = whole
            .unwrap_or(text)
            .split(|&byte| byte == b'\n')
            .enumerate()
            .peekable();
        let mut reader = Reader::default();
        while let Some((index, bytes)) = lines.next() {
            let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
            let number = index + 1;
            let line = core::str::from_utf8(bytes).map_err(|_| PtdumpError::Line {
                line: number,
                found: shown(&String::from_utf8_lossy(bytes)),
                why: "it is no text",
            })?;
            if number == 1 && line.trim_end() == HEADING {
                continue;
            }
            if number == 1 && !line.starts_with("0x") {
                return Err(match text.trim_ascii().is_empty() {
                    true => PtdumpError::Empty,
                    false => PtdumpError::Heading { found: shown(line) },
                });
            }
            reader.line(number, line)?;
            if lines.peek().is_none() && whole.is_none() && !reader.is_full(line) {
                let why = "the last line has neither all its columns nor a newline";
                return Err(PtdumpError::Cut { line: number, why });
            }
        }
        reader.finish()
    }
}

#[derive(Default)]
struct Reader {
    runs: Vec<Run>,
    /// The style, and the line that fixed it.
    style: Option<(PtdumpStyle, usize)>,
    /// Where the run at the end of the walk before begins.
    wrapped: Option<Run>,
    lines: usize,
    /// The last line as it is written.
    full: String,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) -> Result<(), PtdumpError> {
        let wrong = |why| PtdumpError::Line {
            line: number,
            found: shown(line),
            why,
        };
        let fields = fields(line).ok_or_else(|| wrong("expected 0xSTART-0xEND   SIZE LEVEL COLUMNS"))?;
        let (first, end) = (fields.first, fields.end);
        let level = fields
            .level
            .parse()
            .ok()
            .and_then(Level::new)
            .ok_or_else(|| wrong("no level from -1 to 3"))?;
        if (first | end) % PAGE != 0 {
            return Err(wrong("an address is no multiple of 0x1000"));
        }
        let (style, bits) = match fields.columns.trim_end() {
            "" if level.is_last() && fields.columns == columns::text(columns::UNSEEN, PtdumpStyle::Kvm6) => {
                (Some(PtdumpStyle::Kvm6), columns::UNSEEN)
            }
            "" => (None, 0),
            some => {
                let (style, bits) =
                    columns::parse(some, level).ok_or_else(|| wrong("no such columns at this level"))?;
                (Some(style), bits)
            }
        };
        let run = Run {
            first,
            end,
            level,
            bits,
        };
        if fields.size.trim_start() != size(end.wrapping_sub(first)).trim_start() {
            return Err(PtdumpError::Size {
                line: number,
                found: fields.size.trim_start().to_string(),
                size: end.wrapping_sub(first),
            });
        }
        self.full = run.line(style.unwrap_or_default());
        if self.full.trim_end() != line.trim_end() {
            return Err(wrong("it is not written as the kernel writes it"));
        }
        self.fix_style(number, style, fields.columns)?;
        self.add(number, run)
            .map_err(|why| why.unwrap_or_else(|| wrong("it ends before it begins")))
    }

    /// Whether a line without a newline is there to its end.
    fn is_full(&self, line: &str) -> bool {
        line == self.full
    }

    fn fix_style(&mut self, line: usize, style: Option<PtdumpStyle>, found: &str) -> Result<(), PtdumpError> {
        use PtdumpStyle::{Exact, Kvm7};
        let Some(style) = style else { return Ok(()) };
        match self.style {
            // The exact style has the columns of Linux 7.
            Some((Exact | Kvm7, _)) if matches!(style, Exact | Kvm7) => {}
            Some((fixed, first)) if fixed != style => {
                let found = shown(found.trim_end());
                return Err(PtdumpError::Columns { line, found, first });
            }
            Some(_) => {}
            None => self.style = Some((style, line)),
        }
        Ok(())
    }

    fn add(&mut self, line: usize, run: Run) -> Result<(), Option<PtdumpError>> {
        self.lines = line;
        let end = self.runs.last().map_or(0, |last| last.end);
        if line == 1 && run.end < run.first {
            // The end of the walk before, which may go on into the first run of this one.
            self.wrapped = Some(run);
            if run.end != 0 {
                self.runs.push(Run { first: 0, ..run });
            }
            return Ok(());
        }
        if run.first != end {
            let ipa = run.first;
            return Err(Some(PtdumpError::Gap { line, ipa, end }));
        }
        if run.end <= run.first {
            return Err(None);
        }
        self.runs.push(run);
        Ok(())
    }

    fn finish(mut self) -> Result<Ptdump, PtdumpError> {
        if let Some(last) = self.wrapped {
            let end = self.runs.last().map_or(0, |run| run.end);
            if end != last.first {
                let why = "its first line says that the last run begins elsewhere";
                return Err(PtdumpError::Cut { line: self.lines, why });
            }
            // The space ends at a power of two, so it ends there at the earliest.
            let Some(top) = (last.first + 1).checked_next_power_of_two() else {
                let why = "the last run begins beyond every IPA space";
                return Err(PtdumpError::Cut { line: self.lines, why });
            };
            self.runs.push(Run { end: top, ..last });
        }
        let style = self.style.map_or(PtdumpStyle::Exact, |(style, _)| style);
        let runs = self.runs.iter().map(|run| run.shown(style)).collect();
        Ok(Ptdump { runs, style })
    }
}

struct Fields<'a> {
    first: u64,
    end: u64,
    size: &'a str,
    level: &'a str,
    columns: &'a str,
}

/// Takes a line apart; what its blanks are is looked at later.
fn fields(line: &str) -> Option<Fields<'_>> {
    let address = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let (first, rest) = line.split_once('-')?;
    let (end, rest) = rest.split_once(' ')?;
    let rest = rest.trim_start();
    let (size, rest) = rest.split_once(' ')?;
    let (level, _) = rest.split_once(' ').unwrap_or((rest, ""));
    Some(Fields {
        first: address(first)?,
        end: address(end)?,
        size,
        level,
        columns: &rest[level.len()..],
    })
}

fn shown(line: &str) -> String {
    match line.char_indices().nth(SHOWN) {
        Some((cut, _)) => alloc::format!("{}...", &line[..cut]),
        None => line.to_string(),
    }
}
