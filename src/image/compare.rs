//! Two tables, piece by piece.
//!
//! A piece is a range of which one side says one thing: a leaf, an invalid entry that is not empty, or a line of a text
//! that shows leaves without their outputs. What a side does not tell is not compared.

use super::difference::{Difference, Differs, Side};
use crate::arch::{Attrs, Ipa, Mapping, Prot};

/// A range of which one table says one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First IPA.
    pub ipa: Ipa,
    /// Bytes.
    pub size: u64,
    /// What is there.
    pub side: Side,
}

impl From<Mapping> for Piece {
    fn from(leaf: Mapping) -> Self {
        Self {
            ipa: leaf.ipa,
            size: leaf.size,
            side: Side::Leaf {
                level: leaf.level,
                size: Some(leaf.size),
                pa: Some(leaf.pa),
                prot: leaf.attrs.prot,
                af: leaf.attrs.af,
                attrs: Some(leaf.attrs),
            },
        }
    }
}

impl Piece {
    fn end(&self) -> u64 {
        self.ipa.get().saturating_add(self.size)
    }
}

/// Compares two tables of which the pieces come in order of IPA.
///
/// Gives the longest ranges that one piece of each, or a piece of one and nothing of the other, covers; see
/// [`diff()`](super::diff()) for longer ones. An `Err` of either side is passed on. To compare with a source that has no
/// errors, wrap its leaves in `Ok`.
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
pub fn compare<E, A, B, P, Q>(a: A, b: B) -> Compare<A::IntoIter, B::IntoIter>
where
    A: IntoIterator<Item = Result<P, E>>,
    B: IntoIterator<Item = Result<Q, E>>,
    P: Into<Piece>,
    Q: Into<Piece>,
{
    Compare {
        a: Pieces::new(a.into_iter()),
        b: Pieces::new(b.into_iter()),
        done: 0,
        limit: u64::MAX,
        told: Prot::RWX,
    }
}

/// Iterator over differences; see [`compare`].
#[derive(Clone, Debug)]
pub struct Compare<A, B> {
    a: Pieces<A>,
    b: Pieces<B>,
    /// Everything below is dealt with.
    done: u64,
    /// Nothing from here on is compared.
    limit: u64,
    /// The permissions that both sides tell.
    told: Prot,
}

impl<A, B> Compare<A, B> {
    /// Compares only what is below `limit`, and of the permissions only `told`.
    #[must_use]
    pub fn within(self, limit: u64, told: Prot) -> Self {
        Self { limit, told, ..self }
    }
}

#[derive(Clone, Debug)]
struct Pieces<I> {
    pieces: I,
    now: Option<Piece>,
}

impl<I> Pieces<I> {
    fn new(pieces: I) -> Self {
        Self { pieces, now: None }
    }

    /// The first piece that ends beyond `done`.
    fn advance<E, P: Into<Piece>>(&mut self, done: u64) -> Result<Option<Piece>, E>
    where
        I: Iterator<Item = Result<P, E>>,
    {
        while self.now.is_none_or(|piece| piece.end() <= done) {
            self.now = None;
            match self.pieces.next() {
                None => return Ok(None),
                Some(piece) => self.now = Some(piece?.into()),
            }
        }
        Ok(self.now)
    }
}

impl<E, A, B, P, Q> Iterator for Compare<A, B>
where
    A: Iterator<Item = Result<P, E>>,
    B: Iterator<Item = Result<Q, E>>,
    P: Into<Piece>,
    Q: Into<Piece>,
{
    type Item = Result<Difference, E>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (a, b) = match (self.a.advance(self.done), self.b.advance(self.done)) {
                (Ok(a), Ok(b)) => (a, b),
                (Err(error), _) | (_, Err(error)) => return Some(Err(error)),
            };
            let start = |piece: Option<Piece>| piece.map_or(u64::MAX, |piece| piece.ipa.get().max(self.done));
            let end = |piece: Option<Piece>| piece.map_or(u64::MAX, |piece| piece.end());
            let (from_a, from_b) = (start(a), start(b));
            let from = from_a.min(from_b);
            if from >= self.limit {
                return None;
            }
            let (a, b, to) = match (from_a == from, from_b == from) {
                (true, true) => (a, b, end(a).min(end(b))),
                (true, false) => (a, None, end(a).min(from_b)),
                _ => (None, b, end(b).min(from_a)),
            };
            let to = to.min(self.limit);
            self.done = to;
            let here = |piece: Piece| piece.side.advance(from - piece.ipa.get());
            let (a, b) = (a.map(here), b.map(here));
            let what = differs(a, b, self.told);
            if !what.is_empty() {
                let (ipa, size) = (Ipa::new(from), to - from);
                return Some(Ok(Difference { ipa, size, a, b, what }));
            }
        }
    }
}

fn differs(a: Option<Side>, b: Option<Side>, told: Prot) -> Differs {
    match (a, b) {
        (Some(Side::Leaf { .. }), None | Some(Side::Invalid { .. })) => Differs::ONLY_A,
        (None | Some(Side::Invalid { .. }), Some(Side::Leaf { .. })) => Differs::ONLY_B,
        (Some(Side::Leaf { .. }), Some(Side::Leaf { .. })) => leaves_differ(a, b, told),
        (Some(Side::Invalid { raw: a, .. }), Some(Side::Invalid { raw: b, .. })) if a == b => Differs::empty(),
        (None, None) => Differs::empty(),
        _ => Differs::INVALID,
    }
}

fn leaves_differ(a: Option<Side>, b: Option<Side>, told: Prot) -> Differs {
    let (
        Some(Side::Leaf {
            level,
            size,
            pa,
            prot,
            af,
            attrs,
        }),
        Some(Side::Leaf {
            level: level_b,
            size: size_b,
            pa: pa_b,
            prot: prot_b,
            af: af_b,
            attrs: attrs_b,
        }),
    ) = (a, b)
    else {
        return Differs::empty();
    };
    let mut what = Differs::empty();
    what.set(Differs::OUTPUT, pa.zip(pa_b).is_some_and(|(a, b)| a != b));
    // Where one side does not tell the size, the level has to do.
    what.set(
        Differs::SIZE,
        size.zip(size_b).map_or(level != level_b, |(a, b)| a != b),
    );
    what.set(Differs::PERMISSION, prot & told != prot_b & told);
    what.set(Differs::AF, af != af_b);
    let rest = |attrs: Attrs| Attrs { prot, af, ..attrs };
    what.set(
        Differs::ATTRIBUTES,
        attrs.zip(attrs_b).is_some_and(|(a, b)| rest(a) != rest(b)),
    );
    what
}
