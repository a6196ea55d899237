//! Scripts of operations on a live table, against the list of entries in `model.rs`.
//!
//! Every geometry, exact and KVM's semantics, shared and exclusive access, stays, frame caches, quotas and refused frames.
//! After each operation: its answer, every leaf of the blocks at the ends of its range, and what accesses get at its edges.
//! After each stretch of them, eight at most: every leaf, the frames in use, the statistics, and the table as a stranger reads
//! it out of the same memory. (Every leaf after every operation was half of the time, and of an input like any other.)

use std::collections::{BTreeMap, BTreeSet};

use s2pt::arch::{AccessKind, Dialect, El, EntryKind, FaultKind, Geometry, Ipa, Level, Pa, Vtcr, Vttbr};
use s2pt::image::{Image, ImageOptions};
use s2pt::memory::{Arena, ArenaOptions};
use s2pt::sync::Arc;
use s2pt::table::{Access, Config, Counting, Error, FrameCache, Null, Stage2, Stay, Tlb, View};

use super::bytes::Bytes;
use super::leaf::Rules;
use super::model::{Entry, Model, Stop, What};
use super::script::{Do, Op, Outcome, Refusal};
use super::shape::{self, Shape};

type Memory = Arc<Arena>;

const KINDS: [AccessKind; 3] = [AccessKind::Read, AccessKind::Write, AccessKind::Execute];
/// Larger roots take longer and show nothing else.
const MOST_ROOT_ENTRIES: u64 = 2048;
const MOST_OPERATIONS: usize = 32;

pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let Ok(geometry) = Geometry::new(shape::options(&mut bytes)) else {
        return;
    };
    if Shape::of(&geometry).root_entries() > MOST_ROOT_ENTRIES {
        return;
    }
    if bytes.bool() {
        script(bytes, geometry, Null);
    } else {
        script(bytes, geometry, Counting::default());
    }
}

/// A table, what it must hold, and the memory that it is in.
struct Bench<'b> {
    bytes: Bytes<'b>,
    model: Model,
    arena: Memory,
    vtcr: Vtcr,
    vttbr: Vttbr,
    left: usize,
    /// With KVM's semantics: an operation ended part way, or took marks off, so empty tables may stand where the model has holes, and what fits as
    /// a block is mapped in pieces.
    hollow: bool,
    /// Whether each operation is printed: S2PT_FUZZ_TELL is set.
    tells: bool,
    /// The tables below the root that the model has, with exact semantics.
    tables: BTreeSet<(i8, u64)>,
}

fn script<T: Tlb>(mut bytes: Bytes<'_>, geometry: Geometry, tlb: T) {
    let flags = bytes.byte();
    let set = |bit: u8| flags & bit != 0;
    let config = Config {
        fwb: set(1),
        xnx: set(2),
        tlbi_range: !set(4),
        ha: !set(8),
        hd: set(16),
        ..if set(32) {
            Config::kvm(geometry)
        } else {
            Config::new(geometry)
        }
    };
    let shape = Shape::of(&config.geometry);
    // Mostly a few: with many tables there is more to compare, and little else to see.
    let below = bytes.of(if shape.page() == 4096 {
        &[0, 1, 2, 3, 2, 4, 3, 9]
    } else {
        &[0, 1, 2, 3]
    });
    let frames = shape.root_frames() + below;
    let arena = ArenaOptions {
        granule: geometry.granule(),
        // As VTTBR_EL2 must be able to name it.
        base: Pa::new(1 << 30),
        capacity_frames: 64,
        quota: Some(frames as usize),
    };
    let arena = Arc::new(Arena::new(arena).expect("a small arena"));
    let mut table = Stage2::new(config, arena.clone(), tlb).expect("the quota has room for the root");
    let model = Model {
        rules: Rules {
            fwb: config.fwb,
            xnx: config.xnx,
            lpa2: geometry.lpa2(),
            sets_af: config.ha || config.hd,
            sets_dirty: config.hd,
        },
        kvm: set(32),
        room: ((frames + 1) * shape.entries() + shape.root_entries()) as usize,
        shape,
        entries: BTreeMap::new(),
    };
    let (vtcr, vttbr) = (table.vtcr(), table.vttbr());
    let mut bench = Bench {
        bytes,
        model,
        arena,
        vtcr,
        vttbr,
        left: MOST_OPERATIONS,
        tables: BTreeSet::new(),
        hollow: false,
        tells: std::env::var_os("S2PT_FUZZ_TELL").is_some(),
    };
    while bench.left > 0 && !bench.bytes.is_empty() {
        bench.stretch(&mut table);
    }
    bench.end(&table);
}

impl Bench<'_> {
    /// A few operations by one kind of access.
    fn stretch<T: Tlb>(&mut self, table: &mut Stage2<Memory, T>) {
        let (kind, operations) = (self.bytes.below(8), 1 + self.bytes.below(8) as usize);
        let operations = operations.min(self.left);
        self.left -= operations;
        match kind {
            0 | 1 => {
                let views = [table.handle(), table.handle().without_waiting()];
                for _ in 0..operations {
                    let view = &views[self.bytes.below(2) as usize];
                    self.step(view, None, false);
                }
                self.settled(&views[0]);
            }
            2 | 3 => {
                let memory = self.arena.clone();
                let cache = FrameCache::new(table.memory(), self.bytes.below(8) as usize);
                let view = table.handle().with_frame_cache(&cache);
                for _ in 0..operations {
                    self.step(&view, None, true);
                }
                view.drain();
                drop(view);
                drop(cache);
                drop(memory);
                self.settled(&table.handle());
            }
            4 => {
                let view = table.handle();
                let mut stay = view.stay();
                for _ in 0..operations {
                    if self.bytes.one_in(4) {
                        stay.repin();
                    }
                    self.step(&view, Some(&stay), false);
                }
                drop(stay);
                self.settled(&view);
            }
            5 => {
                let view = table.exclusive();
                let mut stay = view.stay();
                for _ in 0..operations {
                    if self.bytes.one_in(4) {
                        stay.repin();
                    }
                    self.step(&view, Some(&stay), false);
                }
                drop(stay);
                self.settled(&view);
            }
            _ => {
                let view = table.exclusive();
                for _ in 0..operations {
                    self.step(&view, None, false);
                }
                self.settled(&view);
            }
        }
    }

    /// One operation, in the table and in the model.
    fn step<T: Tlb, A: Access>(
        &mut self,
        view: &View<'_, Memory, T, A>,
        stay: Option<&Stay<'_, '_, Memory, T, A>>,
        cached: bool,
    ) {
        let op = Op::read(&mut self.bytes, &self.model.shape);
        let waits_for_frames = stay.is_some() && A::SHARED;
        if stay.is_none() {
            view.drain();
        }
        let stats = self.arena.stats();
        assert_eq!(stats.reserved, 0, "no operation is under way");
        let mut available = stats.quota.saturating_sub(stats.in_use);
        if let Some(fail) = op.fail {
            self.arena.fail_allocation(fail);
            available = available.min(fail);
        }
        let got = match op.frames {
            Some(frames) => {
                available = available.min(frames);
                perform(&view.with_frames(frames), None, &op)
            }
            None => perform(view, stay, &op),
        };
        self.arena.fail_allocation(usize::MAX);
        if self.tells {
            eprintln!("{op:x?} -> {got:x?}");
        }
        let before = self.model.clone();
        let expected = self.model.expect(&op, &before);
        // Frames at hand, or retired ones that come back meanwhile, are frames too.
        let available = (!cached && !waits_for_frames).then_some(available);
        if !self.judge(&op, &before, &expected, got, available) {
            self.reread(&op, &before);
        }
        self.same_leaves_near(&op, view);
        self.same_answers(&op, view, stay);
    }

    /// The answer is right. False: KVM's semantics and too few frames, so that what was done has to be looked up.
    fn judge(
        &mut self,
        op: &Op,
        before: &Model,
        expected: &Result<Outcome, Vec<Refusal>>,
        got: Result<Outcome, Refusal>,
        available: Option<usize>,
    ) -> bool {
        let context = || format!("{op:x?}\n got {got:x?}\n not {expected:x?}, available {available:?}");
        let too_much = expected == &Err(vec![Refusal::Stopped(Stop::TooMuch)]);
        if self.model.kvm {
            self.hollow |= got.is_err() || matches!(op.what, Do::Annotate { owner: 0 });
            let split_by_level = matches!((&op.what, expected), (Do::Split(_), Ok(Outcome::Count(tables))) if available.is_none_or(|frames| *tables > frames as u64));
            if got == Err(Refusal::Frames) || too_much || split_by_level {
                assert!(
                    !matches!(op.what, Do::Unmap | Do::Collapse | Do::TestYoung),
                    "{}",
                    context()
                );
                return false;
            }
        } else {
            let now = expected.is_ok().then(|| self.model.tables());
            let needed = now.as_ref().map_or(0, |now| now.difference(&self.tables).count());
            let refused = got == Err(Refusal::Frames);
            if needed > 0 && refused && available.is_none_or(|frames| needed > frames) || refused && too_much {
                self.model = before.clone();
                return true;
            }
            if let (true, Err(Refusal::Stopped(Stop::Conflict(_)))) = (too_much, got) {
                self.model = before.clone();
                return true;
            }
            assert!(
                available.is_none_or(|frames| needed <= frames),
                "{} needs {needed}",
                context()
            );
            self.tables = now.unwrap_or_else(|| core::mem::take(&mut self.tables));
        }
        match (expected, got) {
            (Ok(expected), Ok(got)) => assert_eq!(*expected, got, "{}", context()),
            (Err(reasons), Err(got)) => assert!(reasons.contains(&got), "{}", context()),
            _ => panic!("{}", context()),
        }
        let fills = matches!(op.what, Do::Map { .. } | Do::Annotate { .. });
        !(self.model.kvm && self.hollow && fills && expected.is_ok())
    }

    /// Takes over what the table holds, if each of it is as it was or as it should become, and nothing else was touched.
    fn reread(&mut self, op: &Op, before: &Model) {
        let found: BTreeMap<u64, Entry> = self.by_image().into_iter().collect();
        let from = |model: &Model, base: u64, entry: &Entry| {
            let Some((start, whole)) = model.at(base) else {
                return false;
            };
            match (entry.what, whole.what) {
                (
                    What::Leaf { pa, attrs },
                    What::Leaf {
                        pa: whole_pa,
                        attrs: whole_attrs,
                    },
                ) => {
                    let cut = matches!(op.what, Do::Split(_)) && attrs.af;
                    let af = if cut { true } else { whole_attrs.af };
                    pa == whole_pa + (base - start) && attrs == s2pt::arch::Attrs { af, ..whole_attrs }
                }
                (mark, whole) => mark == whole,
            }
        };
        for (base, entry) in &found {
            let known = from(before, *base, entry) || from(&self.model, *base, entry);
            assert!(known, "{op:x?} left {entry:x?} at {base:#x}");
        }
        let touched: Vec<u64> = before
            .touching(op.ipa, op.ipa + op.size)
            .iter()
            .map(|(base, _)| *base)
            .collect();
        for (base, entry) in before.entries.iter().filter(|(base, _)| !touched.contains(base)) {
            assert_eq!(found.get(base), Some(entry), "{op:x?} touched {base:#x}");
        }
        self.model.entries = found;
    }

    /// What a stranger reads out of the memory.
    fn by_image(&self) -> Vec<(u64, Entry)> {
        let options = ImageOptions {
            fwb: Some(self.model.rules.fwb),
            xnx: Some(self.model.rules.xnx),
            dialect: Some(Dialect::Own),
            blocks: self.model.shape.options.blocks,
        };
        let arena = &self.arena;
        let image = Image::new(|pa| arena.read(pa), self.vtcr, self.vttbr, options).expect("registers of a table");
        let mut entries = Vec::new();
        for entry in image.entries() {
            let entry = entry.expect("a table in one piece");
            let what = match entry.kind {
                EntryKind::Table => continue,
                EntryKind::Leaf => {
                    let leaf = entry.mapping(image.format()).expect("a leaf");
                    What::Leaf {
                        pa: leaf.pa.get(),
                        attrs: leaf.attrs,
                    }
                }
                EntryKind::Annotated(owner) => What::Mark(owner),
                odd => panic!("{odd:?} at {}", entry.ipa),
            };
            entries.push((
                entry.ipa.get(),
                Entry {
                    level: entry.level.get(),
                    what,
                },
            ));
        }
        entries
    }

    /// Every leaf of the blocks in which the operation's range begins and ends and of those beside them; now and then of just
    /// the range.
    fn same_leaves_near<T: Tlb, A: Access>(&self, op: &Op, view: &View<'_, Memory, T, A>) {
        let shape = &self.model.shape;
        let (limit, block) = (shape.ipa_limit(), shape.size(2));
        let whole_pages = (op.ipa | op.size) & (shape.page() - 1) == 0 && op.size != 0;
        let end = op.ipa.checked_add(op.size).filter(|end| *end <= limit);
        let (true, Some(end)) = (whole_pages, end) else { return };
        if op.look.is_multiple_of(8) {
            self.same_leaves((op.ipa, op.size), view, op);
        }
        for edge in [op.ipa, end - 1] {
            let first = (edge & !(block - 1)).saturating_sub(block);
            let last = first.saturating_add(3 * block).min(limit);
            self.same_leaves((first, last - first), view, op);
            if end <= last {
                return;
            }
        }
    }

    /// Every leaf of a range.
    fn same_leaves<T: Tlb, A: Access>(
        &self,
        (ipa, size): (u64, u64),
        view: &View<'_, Memory, T, A>,
        after: &dyn core::fmt::Debug,
    ) {
        let is_leaf = |(_, entry): &(u64, Entry)| matches!(entry.what, What::Leaf { .. });
        let mut expected = self.model.over(ipa, ipa + size).filter(is_leaf);
        for leaf in view.leaves(Ipa::new(ipa), size).expect("a range") {
            let what = What::Leaf {
                pa: leaf.pa.get(),
                attrs: leaf.attrs,
            };
            let found = (
                leaf.ipa.get(),
                Entry {
                    level: leaf.level.get(),
                    what,
                },
            );
            assert_eq!(
                Some(found),
                expected.next(),
                "{ipa:#x} and {size:#x} more after {after:x?}"
            );
            assert_eq!(leaf.size, self.model.shape.size(leaf.level.get()));
        }
        assert_eq!(expected.next(), None, "{ipa:#x} and {size:#x} more after {after:x?}");
    }

    /// What accesses get at the edges of the operation's range, and somewhere else.
    fn same_answers<T: Tlb, A: Access>(
        &self,
        op: &Op,
        view: &View<'_, Memory, T, A>,
        stay: Option<&Stay<'_, '_, Memory, T, A>>,
    ) {
        let end = op.ipa.wrapping_add(op.size);
        for ipa in [
            op.ipa,
            op.ipa.wrapping_add(op.size / 2 + 1),
            end.wrapping_sub(1),
            end,
            op.look,
        ] {
            for access in KINDS {
                let got = view.translate(Ipa::new(ipa), access);
                if let Some(stay) = stay {
                    assert_eq!(stay.translate(Ipa::new(ipa), access), got);
                }
                let got = got
                    .map(|hit| (hit.pa.get(), hit.level, hit.prot, hit.memtype))
                    .map_err(|f| (f.kind, f.level));
                if ipa >= self.model.shape.ipa_limit() {
                    assert_eq!(got, Err((FaultKind::Translation, Level::L0)));
                    continue;
                }
                match self.model.at(ipa) {
                    Some((
                        base,
                        Entry {
                            level,
                            what: What::Leaf { pa, attrs },
                        },
                    )) => {
                        let level = Level::new(level).expect("a level");
                        let expected = match self.model.rules.refuse(&attrs, access, El::El1) {
                            Some(kind) => Err((kind, level)),
                            None => Ok((pa + (ipa - base), level, attrs.prot, attrs.memtype)),
                        };
                        assert_eq!(got, expected, "{ipa:#x} after {op:x?}");
                    }
                    found => {
                        let (kind, level) = got.expect_err("nothing is mapped");
                        assert_eq!(kind, FaultKind::Translation);
                        if !self.model.kvm {
                            assert_eq!(level.get(), self.model.end_of_walk(ipa), "{ipa:#x}: {found:?}");
                        }
                    }
                }
            }
            if ipa < self.model.shape.ipa_limit() {
                self.same_entry(ipa, view, stay);
            }
        }
    }

    /// The entry itself.
    fn same_entry<T: Tlb, A: Access>(
        &self,
        ipa: u64,
        view: &View<'_, Memory, T, A>,
        stay: Option<&Stay<'_, '_, Memory, T, A>>,
    ) {
        let found = view.lookup(Ipa::new(ipa)).expect("inside the space");
        if let Some(stay) = stay {
            assert_eq!(stay.lookup(Ipa::new(ipa)), Ok(found));
        }
        let kind = found.pte.kind(found.level);
        let Some((base, entry)) = self.model.at(ipa) else {
            assert_eq!(kind, EntryKind::Empty, "{ipa:#x}");
            return;
        };
        assert_eq!((found.base.get(), found.level.get()), (base, entry.level), "{ipa:#x}");
        match entry.what {
            What::Mark(owner) => assert_eq!(kind, EntryKind::Annotated(owner)),
            What::Leaf { .. } => assert_eq!(kind, EntryKind::Leaf),
        }
    }

    /// Nobody stays, nothing is under way: frames, counts, and the memory read by a stranger.
    fn settled<T: Tlb, A: Access>(&self, view: &View<'_, Memory, T, A>) {
        view.drain();
        let (stats, memory) = (view.stats(), self.arena.stats());
        let leaf_size = |(_, entry): (&u64, &Entry)| match entry.what {
            What::Leaf { .. } => self.model.shape.size(entry.level),
            What::Mark(_) => 0,
        };
        let marks = self
            .model
            .entries
            .values()
            .filter(|entry| matches!(entry.what, What::Mark(_)))
            .count();
        assert_eq!(
            stats.mapped_bytes,
            self.model.entries.iter().map(leaf_size).sum::<u64>()
        );
        assert_eq!((stats.annotated, stats.locked, stats.frozen), (marks as u64, 0, 0));
        assert_eq!(
            (memory.in_use as u64, memory.reserved),
            (stats.table_frames(), 0),
            "frames lost or used twice"
        );
        if !self.model.kvm {
            let tables = self.model.shape.root_frames() + self.tables.len() as u64;
            assert_eq!(stats.table_frames(), tables);
        }
        let entries: Vec<(u64, Entry)> = self.model.entries.iter().map(|(base, entry)| (*base, *entry)).collect();
        assert_eq!(self.by_image(), entries);
        self.same_leaves((0, self.model.shape.ipa_limit()), view, &"a stretch");
    }

    fn end<T: Tlb>(&self, table: &Stage2<Memory, T>) {
        let view = table.handle();
        self.settled(&view);
        view.unmap(Ipa::new(0), self.model.shape.ipa_limit())
            .expect("whole entries go without a frame");
        view.drain();
        assert_eq!(self.arena.stats().in_use as u64, self.model.shape.root_frames());
    }
}

/// The call itself. A stay has its own way to do some of them.
fn perform<T: Tlb, A: Access>(
    view: &View<'_, Memory, T, A>,
    stay: Option<&Stay<'_, '_, Memory, T, A>>,
    op: &Op,
) -> Result<Outcome, Refusal> {
    let (ipa, size) = (Ipa::new(op.ipa), op.size);
    let mapped = |mapped: s2pt::table::Mapped| Outcome::Mapped {
        written: mapped.bytes,
        kept: mapped.kept,
    };
    let changed = |changed: s2pt::table::Changed| Outcome::Changed {
        leaves: changed.leaves,
        bytes: changed.bytes,
    };
    let done = match &op.what {
        Do::Map { pa, attrs, options } => match stay {
            Some(stay) => stay.map(ipa, size, Pa::new(*pa), attrs, *options),
            None => view.map(ipa, size, Pa::new(*pa), attrs, *options),
        }
        .map(mapped),
        Do::Unmap => stay
            .map_or_else(|| view.unmap(ipa, size), |stay| stay.unmap(ipa, size))
            .map(Outcome::Bytes),
        Do::Annotate { owner } => view.annotate(ipa, size, *owner).map(|()| Outcome::Done),
        Do::Protect(prot) => view.protect(ipa, size, *prot).map(changed),
        Do::WriteProtect => view.write_protect(ipa, size).map(changed),
        Do::WriteProtectLeaves { second } => view
            .write_protect_leaves([(ipa, size), (Ipa::new(second.0), second.1)])
            .map(changed),
        Do::Relax(prot) => match stay {
            Some(stay) => stay.relax(ipa, size, *prot),
            None => view.relax(ipa, size, *prot),
        }
        .map(changed),
        Do::MarkYoung => view.mark_young(ipa, size).map(changed),
        Do::TestYoung => view.test_young(ipa, size).map(Outcome::Young),
        Do::TestAndClearYoung { flush } => view.test_and_clear_young(ipa, size, *flush).map(Outcome::Young),
        Do::Split(to) => view.split(ipa, size, *to).map(Outcome::Count),
        Do::Collapse => view.collapse(ipa, size).map(Outcome::Count),
        Do::FlushCache => view.flush_cache(ipa, size).map(Outcome::Bytes),
    };
    done.map_err(|error| match error {
        Error::Alignment { .. } => Refusal::Alignment,
        Error::ZeroSize { .. } => Refusal::ZeroSize,
        Error::Address { .. } => Refusal::Address,
        Error::Owner { .. } => Refusal::Owner,
        Error::Flags { .. } => Refusal::Flags,
        Error::OutOfFrames { .. } => Refusal::Frames,
        Error::Conflict { ipa, .. } => Refusal::Stopped(Stop::Conflict(ipa.get())),
        Error::Again { .. } => Refusal::Stopped(Stop::Again),
        Error::NotMapped { .. } => Refusal::Stopped(Stop::NotMapped),
        Error::Attrs { .. } => Refusal::Stopped(Stop::Attrs),
        other => panic!("{other} from an operation on a range"),
    })
}
