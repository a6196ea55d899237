//! Two tables, leaf by leaf.

use core::fmt;

use crate::arch::{Ipa, Mapping};

bitflags::bitflags! {
    /// In what two tables differ at one place.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Differs: u8 {
        /// Mapped in the first table only.
        const ONLY_A = 1;
        /// Mapped in the second table only.
        const ONLY_B = 2;
        /// Other output address.
        const OUTPUT = 4;
        /// Leaves of other sizes.
        const SIZE = 8;
        /// Other permissions.
        const PERMISSION = 16;
        /// Other access flag.
        const AF = 32;
        /// Other memory type, shareability, DBM, contiguous hint or software bits.
        const ATTRIBUTES = 64;
    }
}

/// A place where two tables differ: the longest range from `ipa` on that one leaf of each, or a leaf of one and a hole
/// of the other, covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// First IPA of the range.
    pub ipa: Ipa,
    /// Bytes in the range.
    pub size: u64,
    /// The leaf of the first table; it may begin before the range and end behind it.
    pub a: Option<Mapping>,
    /// The leaf of the second table.
    pub b: Option<Mapping>,
    /// In what they differ.
    pub what: Differs,
}

impl fmt::Display for Difference {
    /// For example `0x80200000 +0x1000: permission rw- / r--`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} +{:#x}:", self.ipa, self.size)?;
        let output = |leaf: &Mapping| leaf.pa.get().wrapping_add(self.ipa.get().wrapping_sub(leaf.ipa.get()));
        let (a, b) = match (&self.a, &self.b) {
            (Some(a), Some(b)) => (a, b),
            (Some(only), None) | (None, Some(only)) => {
                let which = if self.a.is_some() { "first" } else { "second" };
                let (pa, prot) = (output(only), only.attrs.prot);
                return write!(f, " only in the {which}: output {pa:#x}, {prot}, level {}", only.level);
            }
            (None, None) => return Ok(()),
        };
        if self.what.contains(Differs::OUTPUT) {
            write!(f, " output {:#x} / {:#x}", output(a), output(b))?;
        }
        if self.what.contains(Differs::SIZE) {
            write!(f, " leaf size {:#x} / {:#x}", a.size, b.size)?;
        }
        if self.what.contains(Differs::PERMISSION) {
            write!(f, " permission {} / {}", a.attrs.prot, b.attrs.prot)?;
        }
        if self.what.contains(Differs::AF) {
            write!(f, " AF {} / {}", u8::from(a.attrs.af), u8::from(b.attrs.af))?;
        }
        if self.what.contains(Differs::ATTRIBUTES) {
            write!(f, " attributes {} / {}", a.raw, b.raw)?;
        }
        Ok(())
    }
}

/// Compares two tables of which the leaves come in order of IPA.
///
/// An `Err` of either side is passed on. To compare with a source that has no errors, wrap its leaves in `Ok`.
///
/// ```
/// use s2pt::arch::{Attrs, Format, FormatOptions, Geometry, GeometryOptions, Ipa, Level, Mapping, Pa, Prot};
/// use s2pt::image::{Differs, ImageError, compare};
/// let format = Format::new(&Geometry::new(GeometryOptions::default())?, FormatOptions::default());
/// let page = |ipa, prot| -> Result<Mapping, ImageError> {
///     let raw = format.leaf(Level::L3, Pa::new(0x5000), &Attrs::new(prot)).unwrap();
///     Ok(Mapping::new(&format, Ipa::new(ipa), 4096, Level::L3, raw))
/// };
/// let a = [page(0x1000, Prot::RW), page(0x2000, Prot::RW)];
/// let b = [page(0x1000, Prot::R)];
/// let what: Vec<_> = compare(a, b).map(|d| d.unwrap().what).collect();
/// assert_eq!(what, [Differs::PERMISSION, Differs::ONLY_A]);
/// # Ok::<(), s2pt::arch::GeometryError>(())
/// ```
pub fn compare<E, A, B>(a: A, b: B) -> Compare<A::IntoIter, B::IntoIter>
where
    A: IntoIterator<Item = Result<Mapping, E>>,
    B: IntoIterator<Item = Result<Mapping, E>>,
{
    Compare {
        a: Side::new(a.into_iter()),
        b: Side::new(b.into_iter()),
        done: 0,
    }
}

/// Iterator over differences; see [`compare`].
#[derive(Clone, Debug)]
pub struct Compare<A, B> {
    a: Side<A>,
    b: Side<B>,
    /// Everything below is dealt with.
    done: u64,
}

#[derive(Clone, Debug)]
struct Side<I> {
    leaves: I,
    now: Option<Mapping>,
}

impl<E, I: Iterator<Item = Result<Mapping, E>>> Side<I> {
    fn new(leaves: I) -> Self {
        Self { leaves, now: None }
    }

    /// The first leaf that ends beyond `done`.
    fn advance(&mut self, done: u64) -> Result<Option<Mapping>, E> {
        while self.now.is_none_or(|leaf| leaf.end() <= done) {
            self.now = None;
            match self.leaves.next() {
                None => return Ok(None),
                Some(leaf) => self.now = Some(leaf?),
            }
        }
        Ok(self.now)
    }
}

impl<E, A, B> Iterator for Compare<A, B>
where
    A: Iterator<Item = Result<Mapping, E>>,
    B: Iterator<Item = Result<Mapping, E>>,
{
    type Item = Result<Difference, E>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (a, b) = match (self.a.advance(self.done), self.b.advance(self.done)) {
                (Ok(a), Ok(b)) => (a, b),
                (Err(error), _) | (_, Err(error)) => return Some(Err(error)),
            };
            let start = |leaf: Option<Mapping>| leaf.map_or(u64::MAX, |leaf| leaf.ipa.get().max(self.done));
            let end = |leaf: Option<Mapping>| leaf.map_or(u64::MAX, |leaf| leaf.end());
            let (from_a, from_b) = (start(a), start(b));
            let from = from_a.min(from_b);
            if from == u64::MAX {
                return None;
            }
            let (a, b, to) = match (from_a == from, from_b == from) {
                (true, true) => (a, b, end(a).min(end(b))),
                (true, false) => (a, None, end(a).min(from_b)),
                _ => (None, b, end(b).min(from_a)),
            };
            self.done = to;
            let what = differs(a, b, from);
            if !what.is_empty() {
                return Some(Ok(Difference {
                    ipa: Ipa::new(from),
                    size: to - from,
                    a,
                    b,
                    what,
                }));
            }
        }
    }
}

fn differs(a: Option<Mapping>, b: Option<Mapping>, at: u64) -> Differs {
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (Some(_), None) => return Differs::ONLY_A,
        (None, Some(_)) => return Differs::ONLY_B,
        (None, None) => return Differs::empty(),
    };
    let output = |leaf: &Mapping| leaf.pa.get().wrapping_add(at - leaf.ipa.get());
    let mut what = Differs::empty();
    what.set(Differs::OUTPUT, output(&a) != output(&b));
    what.set(Differs::SIZE, a.size != b.size);
    what.set(Differs::PERMISSION, a.attrs.prot != b.attrs.prot);
    what.set(Differs::AF, a.attrs.af != b.attrs.af);
    let rest = |leaf: &Mapping| crate::arch::Attrs {
        prot: b.attrs.prot,
        af: b.attrs.af,
        ..leaf.attrs
    };
    what.set(Differs::ATTRIBUTES, rest(&a) != b.attrs);
    what
}
