//! Values taken apart for a reader: an entry or a register as rows of name, bits, value and meaning.
//!
//! Rows run from the highest bit to the lowest and never overlap. Every set bit is in some row: bits that the format
//! gives no meaning appear as rows of their own where they are not zero, so rows always add up to the value.

mod entry;
mod registers;

use alloc::{string::String, vec::Vec};
use core::fmt;

pub use entry::explain_entry;
pub use registers::{explain_esr, explain_hpfar, explain_vtcr, explain_vttbr};

/// One field of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// Name as the architecture writes it.
    pub name: &'static str,
    /// Highest bit.
    pub high: u8,
    /// Lowest bit.
    pub low: u8,
    /// The bits, shifted down.
    pub value: u64,
    /// What they say.
    pub meaning: String,
}

impl fmt::Display for Field {
    /// `bits  name = value  meaning`, aligned in columns.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            high,
            low,
            value,
            meaning,
        } = self;
        if high == low {
            write!(f, "{high:>5}  {name:<12} {value:#x}  {meaning}")
        } else {
            write!(f, "{high:>2}:{low:<2}  {name:<12} {value:#x}  {meaning}")
        }
    }
}

/// Collects rows and keeps account of the bits that they cover.
struct Rows {
    raw: u64,
    covered: u64,
    fields: Vec<Field>,
}

impl Rows {
    fn new(raw: u64) -> Self {
        Self {
            raw,
            covered: 0,
            fields: Vec::new(),
        }
    }

    /// Bits `high..=low`, shifted down.
    fn bits(&self, high: u8, low: u8) -> u64 {
        (self.raw & mask(high, low)) >> low
    }

    fn add(&mut self, name: &'static str, high: u8, low: u8, meaning: impl Into<String>) {
        debug_assert!(self.covered & mask(high, low) == 0, "{name} overlaps another field");
        self.covered |= mask(high, low);
        self.fields.push(Field {
            name,
            high,
            low,
            value: self.bits(high, low),
            meaning: meaning.into(),
        });
    }

    /// One bit with a meaning for either state.
    fn flag(&mut self, name: &'static str, at: u8, set: &str, clear: &str) {
        let meaning = if self.bits(at, at) != 0 { set } else { clear };
        self.add(name, at, at, meaning);
    }

    /// One bit that is worth a row only where it is set.
    fn rare(&mut self, name: &'static str, at: u8, set: &str) {
        if self.bits(at, at) != 0 {
            self.add(name, at, at, set);
        }
    }

    /// Adds a row for each run of uncovered bits that holds a set bit, and sorts.
    fn finish(mut self, name: &'static str, meaning: &str) -> Vec<Field> {
        let mut low = 0;
        while low < 64 {
            if self.covered >> low & 1 != 0 {
                low += 1;
                continue;
            }
            let run = (self.covered >> low).trailing_zeros().min(64 - u32::from(low)) as u8;
            let high = low + run - 1;
            if self.bits(high, low) != 0 {
                self.add(name, high, low, meaning);
            }
            low = high + 1;
        }
        self.fields.sort_by_key(|field| core::cmp::Reverse(field.high));
        self.fields
    }
}

/// Bits `high..=low`.
const fn mask(high: u8, low: u8) -> u64 {
    u64::MAX >> (63 - (high - low)) << low
}

#[cfg(test)]
mod tests;
