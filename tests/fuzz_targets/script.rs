//! Operations out of bytes, done to the model.

use s2pt::arch::{Attrs, Level, MemType, Prot};
use s2pt::table::{Existing, MapOptions, WalkFlags};

use super::bytes::Bytes;
use super::leaf;
use super::model::{Entry, Model, Stop, Sums, Want, What};
use super::shape::Shape;

#[derive(Clone, Debug)]
pub enum Do {
    Map { pa: u64, attrs: Attrs, options: MapOptions },
    Unmap,
    Annotate { owner: u64 },
    Protect(Prot),
    WriteProtect,
    WriteProtectLeaves { second: (u64, u64) },
    Relax(Prot),
    MarkYoung,
    TestYoung,
    TestAndClearYoung { flush: bool },
    Split(Level),
    Collapse,
    FlushCache,
}

/// One operation on a range.
#[derive(Clone, Debug)]
pub struct Op {
    pub ipa: u64,
    pub size: u64,
    pub what: Do,
    /// The call may take so many frames.
    pub frames: Option<usize>,
    /// The memory refuses the request for the n-th frame from now.
    pub fail: Option<usize>,
    /// Another address to look at afterwards.
    pub look: u64,
}

/// What came of it, in the model and in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Mapped { written: u64, kept: u64 },
    Bytes(u64),
    Changed { leaves: u64, bytes: u64 },
    Young(bool),
    Count(u64),
    Done,
}

/// Why it was refused, in so far as the model can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Alignment,
    ZeroSize,
    Address,
    Owner,
    Flags,
    Frames,
    Stopped(Stop),
}

fn place(bytes: &mut Bytes<'_>, shape: &Shape) -> u64 {
    let (page, block) = (shape.page(), shape.size(2));
    let above = shape.size(1.max(shape.start));
    let anchor = match bytes.below(8) {
        0 | 1 => 0,
        2..=4 => above.min(shape.ipa_limit()) - block,
        5 => shape.ipa_limit() - 2 * block.min(shape.ipa_limit() / 2),
        6 => above,
        _ if bytes.one_in(8) => return bytes.word(),
        _ => shape.ipa_limit() / 2,
    };
    let unit = bytes.of(&[page, block, page, block / 2, block, above, page]);
    let steps = bytes.below(if unit == page { 16 } else { 4 });
    anchor.saturating_add(unit * steps).min(shape.ipa_limit() - page) & !(page - 1)
}

fn extent(bytes: &mut Bytes<'_>, shape: &Shape, ipa: u64) -> u64 {
    let (page, block) = (shape.page(), shape.size(2));
    match bytes.below(16) {
        0..=2 => page,
        3 => 2 * page,
        4 => page * (1 + bytes.below(255)),
        5..=7 => block,
        8 => block / 2,
        9 => block + page,
        10 => 2 * block,
        11 => shape.size(1.max(shape.start)),
        12 => shape.ipa_limit().saturating_sub(ipa).min(4 * block),
        13 => shape.ipa_limit().saturating_sub(ipa),
        14 => 3 * block - page,
        _ if bytes.one_in(4) => bytes.word(),
        _ => bytes.of(&[0, 1, page / 2, u64::MAX, 1 << 63]),
    }
}

fn output(bytes: &mut Bytes<'_>, shape: &Shape, ipa: u64) -> u64 {
    let (page, limit) = (shape.page(), shape.pa_limit());
    match bytes.below(8) {
        // A line, so that blocks can form and merge.
        0..=3 => ipa,
        4 => ipa ^ shape.size(2),
        5 => (ipa ^ page) & (limit - 1),
        6 => limit - shape.size(2).min(limit / 2) + page * bytes.below(4),
        _ if bytes.one_in(8) => bytes.word(),
        _ => page * (bytes.word() % (limit / page)),
    }
}

pub fn prot(bytes: &mut Bytes<'_>) -> Prot {
    let byte = bytes.byte();
    if byte >= 0xf0 {
        Prot::from_bits_retain(bytes.byte())
    } else {
        Prot::from_bits_retain(byte & 0xf)
    }
}

impl Op {
    pub fn read(bytes: &mut Bytes<'_>, shape: &Shape) -> Self {
        let kind = bytes.byte();
        let ipa = place(bytes, shape);
        let size = extent(bytes, shape, ipa);
        let what = match kind % 19 {
            0..=5 => Do::Map {
                pa: output(bytes, shape, ipa),
                attrs: leaf::attrs(bytes),
                options: map_options(bytes),
            },
            6 | 7 => Do::Unmap,
            8 => Do::Annotate {
                owner: match bytes.below(8) {
                    0..=3 => 1,
                    4 => 0,
                    5 => bytes.below(256),
                    _ => bytes.word() >> bytes.below(8),
                },
            },
            9 => Do::Protect(prot(bytes)),
            10 => Do::WriteProtect,
            11 => {
                let at = place(bytes, shape);
                Do::WriteProtectLeaves {
                    second: (at, extent(bytes, shape, at)),
                }
            }
            12 | 13 => Do::Relax(prot(bytes)),
            14 => Do::MarkYoung,
            15 if bytes.bool() => Do::FlushCache,
            15 => Do::TestYoung,
            16 => Do::TestAndClearYoung { flush: bytes.bool() },
            17 => Do::Split(bytes.of(&[Level::L3, Level::L3, Level::L2, Level::L1, Level::LM1])),
            _ => Do::Collapse,
        };
        let rare = bytes.byte();
        Self {
            ipa,
            size,
            what,
            frames: (rare & 0xf0 == 0xf0).then(|| bytes.below(4) as usize),
            fail: (rare & 0x0f == 0x0f).then(|| bytes.below(4) as usize),
            look: place(bytes, shape).wrapping_add(bytes.below(8)),
        }
    }
}

fn map_options(bytes: &mut Bytes<'_>) -> MapOptions {
    let byte = bytes.byte();
    MapOptions {
        existing: match byte & 7 {
            0..=4 => Existing::Replace,
            5 | 6 => Existing::Keep,
            _ => Existing::Error,
        },
        largest: match byte >> 3 & 7 {
            0..=4 => None,
            5 => Some(Level::L3),
            6 => Some(Level::L2),
            _ => Some(bytes.of(&Level::ALL)),
        },
        over_tables: byte & 0x40 != 0,
        flags: if byte & 0x80 != 0 {
            WalkFlags::from_bits_truncate(bytes.byte())
        } else {
            WalkFlags::empty()
        },
    }
}

/// Everything that is wrong with a span.
fn wrong_span(shape: &Shape, start: u64, size: u64, limit: u64) -> Option<Refusal> {
    let stray = |value: u64| value & (shape.page() - 1) != 0;
    if stray(start) || size != 0 && stray(size) {
        Some(Refusal::Alignment)
    } else if size == 0 {
        Some(Refusal::ZeroSize)
    } else if start.checked_add(size).is_none_or(|end| end > limit) {
        Some(Refusal::Address)
    } else {
        None
    }
}

impl Model {
    /// Everything that may be refused without a look at the table.
    fn wrong_arguments(&self, op: &Op) -> Vec<Refusal> {
        let mut wrong = Vec::new();
        let limit = self.shape.ipa_limit();
        wrong.extend(wrong_span(&self.shape, op.ipa, op.size, limit));
        match &op.what {
            Do::Map { pa, attrs, options } => {
                wrong.extend(wrong_span(&self.shape, *pa, op.size, self.shape.pa_limit()));
                if !self.rules.allow(attrs) {
                    wrong.push(Refusal::Stopped(Stop::Attrs));
                }
                if !self.kvm && !options.flags.is_empty() {
                    wrong.push(Refusal::Flags);
                }
            }
            Do::Annotate { owner } if *owner > if self.kvm { 1 } else { (1 << 59) - 1 } => wrong.push(Refusal::Owner),
            Do::Protect(prot) | Do::Relax(prot) if !self.rules.may_say(*prot) => {
                wrong.push(Refusal::Stopped(Stop::Attrs));
            }
            _ => {}
        }
        wrong
    }

    /// What the operation must answer, frames aside: one of several refusals, or what comes of it. The model is then as the
    /// table must be; `before` is what it was.
    pub fn expect(&mut self, op: &Op, before: &Self) -> Result<Outcome, Vec<Refusal>> {
        let wrong = self.wrong_arguments(op);
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let done = self.perform(op);
        if let Do::WriteProtectLeaves { second: (at, size) } = op.what
            && let Some(wrong) = wrong_span(&self.shape, at, size, self.shape.ipa_limit())
        {
            return Err(vec![wrong]);
        }
        // KVM's operations stop where they are; exact ones have not begun, and what may replace nothing takes back its own.
        let takes_back = matches!(op.what, Do::Map { options, .. } if options.existing == Existing::Error);
        if done.is_err() && (!self.kvm || takes_back) {
            self.entries.clone_from(&before.entries);
        }
        done.map_err(|stop| vec![Refusal::Stopped(stop)])
    }

    fn perform(&mut self, op: &Op) -> Result<Outcome, Stop> {
        let (lo, hi) = (op.ipa, op.ipa + op.size);
        let changed = |sums: Sums| Outcome::Changed {
            leaves: sums.leaves,
            bytes: sums.bytes,
        };
        let found = |sums: Sums| {
            if sums.bytes == 0 {
                Err(Stop::NotMapped)
            } else {
                Ok(changed(sums))
            }
        };
        match &op.what {
            &Do::Map { pa, attrs, options } => {
                let want = Want {
                    lo,
                    hi,
                    what: What::Leaf {
                        pa,
                        attrs: Self::kept(attrs),
                    },
                    existing: options.existing,
                    largest: options.largest.map_or(-1, Level::get),
                    over_tables: options.over_tables,
                    flags: options.flags,
                };
                let mut sums = Sums::default();
                self.fill(&want, &mut sums)?;
                Ok(Outcome::Mapped {
                    written: sums.written,
                    kept: sums.kept,
                })
            }
            Do::Annotate { owner: 0 } if !self.kvm => self.unmap(lo, hi).map(|_| Outcome::Done),
            &Do::Annotate { owner } => {
                let want = Want {
                    lo,
                    hi,
                    what: What::Mark(owner),
                    existing: Existing::Replace,
                    largest: if self.kvm { 3 } else { -1 },
                    over_tables: false,
                    flags: WalkFlags::empty(),
                };
                self.fill(&want, &mut Sums::default())?;
                Ok(Outcome::Done)
            }
            Do::Unmap => self.unmap(lo, hi).map(Outcome::Bytes),
            &Do::Protect(prot) => {
                self.may_get(lo, hi, prot)?;
                let dbm = |attrs: Attrs| attrs.dbm && prot.contains(Prot::W);
                let sums = self.rewrite((lo, hi), false, false, |attrs| Attrs {
                    prot,
                    dbm: dbm(attrs),
                    ..attrs
                })?;
                found(sums)
            }
            &Do::Relax(prot) => {
                self.may_get(lo, hi, prot)?;
                let more = |attrs: Attrs| Attrs {
                    prot: attrs.prot | prot,
                    ..attrs
                };
                found(self.rewrite((lo, hi), false, self.kvm, more)?)
            }
            Do::WriteProtect => Ok(changed(self.rewrite((lo, hi), false, false, Self::without_write)?)),
            Do::WriteProtectLeaves { second } => self.write_protect_leaves([(lo, op.size), *second]).map(changed),
            Do::MarkYoung => found(self.rewrite((lo, hi), true, self.kvm, |attrs| Attrs { af: true, ..attrs })?),
            Do::TestYoung => Ok(Outcome::Young(self.any_young(lo, hi))),
            Do::TestAndClearYoung { .. } => {
                let young = self.any_young(lo, hi);
                self.rewrite((lo, hi), true, false, |attrs| Attrs { af: false, ..attrs })?;
                Ok(Outcome::Young(young))
            }
            Do::Split(to) => self.split(lo, hi, to.get()).map(Outcome::Count),
            Do::Collapse => Ok(Outcome::Count(self.collapse(lo, hi))),
            Do::FlushCache => Ok(Outcome::Bytes(self.cleaned(lo, hi))),
        }
    }

    /// The first span is right; what is wrong with the second ends the call after it.
    fn write_protect_leaves(&mut self, spans: [(u64, u64); 2]) -> Result<Sums, Stop> {
        let mut all = Sums::default();
        for (at, size) in spans {
            if wrong_span(&self.shape, at, size, self.shape.ipa_limit()).is_some() {
                break;
            }
            let sums = self.rewrite((at, at + size), true, false, Self::without_write)?;
            all.leaves += sums.leaves;
            all.bytes += sums.bytes;
        }
        Ok(all)
    }

    fn may_get(&self, lo: u64, hi: u64, prot: Prot) -> Result<(), Stop> {
        let execute = prot.bits() & 3 != 0;
        if execute && self.any_forbids_execute(lo, hi) {
            Err(Stop::Attrs)
        } else {
            Ok(())
        }
    }

    fn cleaned(&self, lo: u64, hi: u64) -> u64 {
        if self.rules.fwb {
            return 0;
        }
        let touching = self.touching(lo, hi).into_iter();
        let normal = touching
            .filter(|(_, entry)| matches!(entry.what, What::Leaf { attrs, .. } if attrs.memtype == MemType::Normal));
        let bytes = |(base, entry): (u64, Entry)| {
            let size = self.shape.size(entry.level);
            if self.kvm {
                size
            } else {
                hi.min(base + size) - lo.max(base)
            }
        };
        normal.map(bytes).sum()
    }
}
