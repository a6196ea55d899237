//! What can be wrong with a text.

use alloc::string::String;

/// Why a text is none of `stage2_page_tables`. Lines are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PtdumpError {
    /// There is no line that says anything.
    #[error("line 1: the text is empty")]
    Empty,
    /// It does not begin as such a text.
    #[error("line 1: {found:?} is neither \"---[ Guest IPA ]---\" nor a run")]
    Heading {
        /// The line, or its beginning.
        found: String,
    },
    /// A line that the kernel does not write.
    #[error("line {line}: {found:?} is no run of entries: {why}")]
    Line {
        /// Its number.
        line: usize,
        /// The line, or its beginning.
        found: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The size is not that of the range.
    #[error("line {line}: the size is {found:?}, the range has {size:#x} bytes")]
    Size {
        /// Its number.
        line: usize,
        /// The size that it says.
        found: String,
        /// Bytes of its range, modulo 2^64.
        size: u64,
    },
    /// The run does not begin where the one before ended.
    #[error("line {line}: the run begins at {ipa:#x}, the one before ends at {end:#x}")]
    Gap {
        /// Its number.
        line: usize,
        /// Where it begins.
        ipa: u64,
        /// Where the one before ends.
        end: u64,
    },
    /// The columns are those of another kernel than in the lines before.
    #[error("line {line}: the columns {found:?} are not those of line {first}")]
    Columns {
        /// Its number.
        line: usize,
        /// Its columns.
        found: String,
        /// The line that fixed the style.
        first: usize,
    },
    /// The text breaks off.
    #[error("line {line}: the text is cut off: {why}")]
    Cut {
        /// The last line.
        line: usize,
        /// How that can be seen.
        why: &'static str,
    },
}

impl PtdumpError {
    /// The line that it speaks of, from 1.
    pub fn line(&self) -> usize {
        match self {
            Self::Empty | Self::Heading { .. } => 1,
            Self::Line { line, .. }
            | Self::Size { line, .. }
            | Self::Gap { line, .. }
            | Self::Columns { line, .. }
            | Self::Cut { line, .. } => *line,
        }
    }
}
