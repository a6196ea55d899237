//! Two tables, or two texts of tables, or one of each: where they differ, in as few ranges as possible.

use core::iter::Peekable;

use super::compare::{Piece, compare};
use super::difference::{Difference, Differs, Side};
use super::walk::Entry;
use super::{Image, ImageError, ReadMemory};
use crate::arch::{EntryKind, Prot};

/// Something that says what is mapped where.
pub trait Comparable {
    /// What it has, by IPA.
    fn pieces(&self) -> impl Iterator<Item = Result<Piece, ImageError>>;

    /// Where what it tells ends.
    fn known_end(&self) -> u64 {
        u64::MAX
    }

    /// The permissions that it tells.
    fn told(&self) -> Prot {
        Prot::RWX
    }

    /// Whether invalid entries that are not empty are among its pieces.
    fn tells_invalid(&self) -> bool {
        true
    }
}

impl<R: ReadMemory> Comparable for Image<R> {
    fn pieces(&self) -> impl Iterator<Item = Result<Piece, ImageError>> {
        let piece = |entry: Entry| match entry.kind {
            EntryKind::Table | EntryKind::Empty => None,
            EntryKind::Leaf => entry.mapping(self.format()).map(Piece::from),
            _ => Some(Piece {
                ipa: entry.ipa,
                size: entry.size,
                side: Side::Invalid {
                    level: entry.level,
                    raw: entry.pte,
                },
            }),
        };
        self.entries().filter_map(move |entry| entry.map(piece).transpose())
    }
}

/// The ranges in which two tables differ, by IPA.
///
/// Neighbouring ranges with the same difference are one, as long as each side has like leaves there, and outputs that go
/// on where an output address is a part of the difference. Only what both sides tell is compared: with a
/// [`Ptdump`](super::Ptdump), neither outputs nor memory types nor invalid entries, and nothing behind the end of
/// the text.
///
/// ```
/// use s2pt::image::{Ptdump, diff};
/// let head = "---[ Guest IPA ]---\n0x0000000000000000-0x0000000000001000           4K 3   ";
/// let (a, b) = (Ptdump::parse(head.to_owned() + "R W X AF    ")?, Ptdump::parse(head.to_owned() + "R   X AF    ")?);
/// let found: Vec<_> = diff(&a, &b).collect::<Result<_, _>>()?;
/// assert_eq!(found[0].to_string(), "0x0 +0x1000: permission rw- / r--");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn diff<'a, A: Comparable, B: Comparable>(
    a: &'a A,
    b: &'a B,
) -> impl Iterator<Item = Result<Difference, ImageError>> + use<'a, A, B> {
    let both = a.tells_invalid() && b.tells_invalid();
    let wanted = move |piece: &Result<Piece, ImageError>| {
        let invalid = matches!(
            piece,
            Ok(Piece {
                side: Side::Invalid { .. },
                ..
            })
        );
        both || !invalid
    };
    let (pieces_a, pieces_b) = (a.pieces().filter(wanted), b.pieces().filter(wanted));
    let differences = compare(pieces_a, pieces_b).within(a.known_end().min(b.known_end()), a.told() & b.told());
    Merged(differences.peekable())
}

/// Joins differences that go on.
struct Merged<I: Iterator>(Peekable<I>);

impl<E, I: Iterator<Item = Result<Difference, E>>> Iterator for Merged<I> {
    type Item = Result<Difference, E>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut run = match self.0.next()? {
            Ok(run) => run,
            Err(error) => return Some(Err(error)),
        };
        while let Some(Ok(next)) = self.0.peek() {
            let Some(joined) = join(&run, next) else { break };
            run = joined;
            self.0.next();
        }
        Some(Ok(run))
    }
}

fn join(run: &Difference, next: &Difference) -> Option<Difference> {
    if run.ipa.get() + run.size != next.ipa.get() || run.what != next.what {
        return None;
    }
    // Where both sides have the same outputs, or none of them matter, they may lie anywhere.
    let scattered = !run.what.intersects(Differs::OUTPUT | Differs::ONLY_A | Differs::ONLY_B);
    Some(Difference {
        size: run.size + next.size,
        a: join_sides(run.a, next.a, run.size, scattered)?,
        b: join_sides(run.b, next.b, run.size, scattered)?,
        ..*run
    })
}

/// What the side has in both ranges; `None`: two things.
#[expect(clippy::option_option, reason = "a side may be nothing")]
fn join_sides(run: Option<Side>, next: Option<Side>, size: u64, scattered: bool) -> Option<Option<Side>> {
    let (Some(run), Some(next)) = (run, next) else {
        return (run == next).then_some(run);
    };
    if run.advance(size) == next {
        return Some(Some(run));
    }
    let anywhere = |side| match side {
        Side::Leaf {
            level,
            size,
            prot,
            af,
            attrs,
            ..
        } => Side::Leaf {
            level,
            size,
            pa: None,
            prot,
            af,
            attrs,
        },
        invalid => invalid,
    };
    (scattered && anywhere(run) == anywhere(next)).then_some(Some(anywhere(run)))
}
