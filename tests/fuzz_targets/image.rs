//! Tables out of any words, under any registers: every way to read one ends, and all of them say the same.

use std::collections::BTreeMap;

use s2pt::arch::{
    AccessKind, BlockRule, Dialect, El, EntryKind, FaultKind, Format, Geometry, Ipa, Mapping, Pa, Pte, Vtcr,
    VtcrOptions, Vttbr,
};
use s2pt::image::{
    Differs, Dump, Entry, Image, ImageError, ImageOptions, Next, Ptdump, PtdumpStyle, ReadMemory, Side, diff,
};

use super::bytes::Bytes;
use super::leaf::Rules;
use super::shape;

const ACCESSES: [(AccessKind, El); 4] = [
    (AccessKind::Read, El::El1),
    (AccessKind::Write, El::El1),
    (AccessKind::Execute, El::El1),
    (AccessKind::Execute, El::El0),
];
const STYLES: [PtdumpStyle; 3] = [PtdumpStyle::Exact, PtdumpStyle::Kvm6, PtdumpStyle::Kvm7];
/// Larger tables take longer and show nothing else.
const MOST_ROOT_ENTRIES: usize = 2048;
/// Leaves, and differences, that are looked at one by one.
const MOST_LOOKED_AT: usize = 24;

/// A few pages of memory. Words that nobody wrote are zero.
#[derive(Clone, Default)]
pub struct Memory {
    page: u64,
    /// Bit n: the page at n times the page size is there. Page 63 stands for all above it.
    there: u64,
    words: BTreeMap<u64, u64>,
}

impl Memory {
    fn is_there(&self, pa: u64) -> bool {
        self.there >> (pa / self.page).min(63) & 1 != 0
    }
}

impl ReadMemory for Memory {
    fn read_u64(&self, pa: Pa) -> Option<u64> {
        self.is_there(pa.get())
            .then(|| self.words.get(&pa.get()).copied().unwrap_or(0))
    }

    fn read_table(&self, pa: Pa, entries: &mut [u64]) -> bool {
        let end = pa.get() + entries.len() as u64 * 8;
        if !(pa.get()..end)
            .step_by(self.page as usize)
            .all(|page| self.is_there(page))
            || !self.is_there(end - 8)
        {
            return false;
        }
        entries.fill(0);
        for (at, word) in self.words.range(pa.get()..end) {
            entries[((at - pa.get()) / 8) as usize] = *word;
        }
        true
    }
}

pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let Some((vtcr, vttbr, page)) = registers(&mut bytes) else {
        return;
    };
    let options = ImageOptions {
        fwb: [None, Some(false), Some(true)][bytes.below(3) as usize],
        xnx: [None, Some(false), Some(true)][bytes.below(3) as usize],
        dialect: [None, Some(Dialect::Own), Some(Dialect::Kvm6), Some(Dialect::Kvm7)][bytes.below(4) as usize],
        blocks: bytes.of(&[BlockRule::Architecture, BlockRule::Kvm]),
    };
    let memory = memory(&mut bytes, page, vttbr);
    let probes = [bytes.word(), bytes.word() >> 16, bytes.word() >> 28];
    let mut other = memory.clone();
    for _ in 0..bytes.below(4) {
        put(&mut bytes, &mut other, vttbr);
    }
    let Ok(image) = Image::new(memory, vtcr, vttbr, options) else {
        return;
    };
    if image.geometry().entries(image.geometry().start_level()) > MOST_ROOT_ENTRIES {
        return;
    }
    let walk = Walk::of(&image);
    walk.is_in_order(&image);
    walk.is_answered(&image, &probes);
    walk.is_counted(&image);
    walk.is_text(&image);
    walk.is_dumped(&image, options);
    // What is found out from the entries is found out from the first table's for both.
    let same = ImageOptions {
        fwb: Some(image.format().fwb()),
        xnx: Some(image.format().xnx()),
        dialect: Some(image.dialect()),
        ..options
    };
    let other = Image::new(other, vtcr, vttbr, same).expect("the same registers");
    differs(&image, &image, true);
    differs(&image, &other, false);
}

/// Registers, their page size, and no more than a walk can use.
fn registers(bytes: &mut Bytes<'_>) -> Option<(Vtcr, Vttbr, u64)> {
    let vtcr = if bytes.one_in(8) {
        Vtcr::new(bytes.word())
    } else {
        let geometry = Geometry::of_walk(shape::options(bytes)).ok()?;
        let flags = bytes.byte();
        let options = VtcrOptions {
            vmid16: flags & 1 == 0,
            ha: flags & 2 != 0,
            hd: flags & 4 != 0,
        };
        Vtcr::new(Vtcr::build(&geometry, options).raw() ^ if flags & 0x38 == 0x38 { 1 << bytes.below(64) } else { 0 })
    };
    let page = vtcr.granule().ok()?.size();
    let vttbr = match bytes.below(8) {
        0 => bytes.word(),
        // A root of less than a page may lie inside one.
        1 => page + 64 * bytes.below(32),
        _ => 16 * page,
    };
    Some((vtcr, Vttbr::new(vttbr), page))
}

fn memory(bytes: &mut Bytes<'_>, page: u64, vttbr: Vttbr) -> Memory {
    let there = if bytes.one_in(4) { bytes.word() } else { u64::MAX };
    let mut memory = Memory {
        page,
        there,
        words: BTreeMap::new(),
    };
    for _ in 0..bytes.byte() {
        if bytes.is_empty() {
            break;
        }
        put(bytes, &mut memory, vttbr);
    }
    memory
}

/// A word, or a run of words that go on.
fn put(bytes: &mut Bytes<'_>, memory: &mut Memory, vttbr: Vttbr) {
    let flags = bytes.byte();
    let table = match flags & 7 {
        0..=2 => vttbr.raw() & 0xffff_ffff_fff8,
        _ => memory.page * bytes.below(64),
    };
    let entries = memory.page / 8;
    let index = match flags >> 3 & 3 {
        0 | 1 => bytes.below(4),
        2 => entries - 1 - bytes.below(4),
        _ => u64::from(bytes.byte()) << bytes.below(7),
    };
    let (next, attrs) = (memory.page * bytes.below(64), bytes.word());
    let word = match flags >> 5 {
        0..=2 => next | 3,
        3 => next | 0x0040_0000_0000_07ff,
        4 => 0x0040_0000_0000_07fd | (attrs & 0xfff) << 30,
        5 => attrs | 3,
        6 => attrs,
        _ => attrs & !1,
    };
    // What goes on: pages of one block, or one table after the other.
    let (count, step) = match bytes.byte() {
        0..=0xdf => (1, 0),
        0xe0..=0xef => (entries.min(512), memory.page),
        _ => (bytes.below(64), memory.page),
    };
    for at in 0..count {
        memory
            .words
            .insert(table + (index + at) % (2 * entries) * 8, word.wrapping_add(at * step));
    }
}

/// What a walk over all of it finds.
struct Walk {
    entries: Vec<Entry>,
    leaves: Vec<Mapping>,
    errors: Vec<ImageError>,
}

impl Walk {
    fn of(image: &Image<Memory>) -> Self {
        let (mut entries, mut errors) = (Vec::new(), Vec::new());
        // Each page at most once as a table, and an error for each entry that names one again. A page of a concatenated root
        // stands in it too.
        let times = if image.geometry().root_frames() > 1 { 4 } else { 2 };
        let most = times * (image.memory().words.len() + 1);
        for entry in image.entries() {
            match entry {
                Ok(entry) => entries.push(entry),
                Err(error) => errors.push(error),
            }
            assert!(entries.len() + errors.len() <= most, "a walk of more than {most} steps");
        }
        let leaves = image.leaves().flatten().collect();
        Self {
            entries,
            leaves,
            errors,
        }
    }

    fn is_in_order(&self, image: &Image<Memory>) {
        let limit = image.geometry().ipa_limit();
        let (mut last, mut levels) = (0, [0; 5]);
        for entry in &self.entries {
            assert!(entry.ipa.get() >= last && entry.ipa.is_aligned(entry.size), "{entry:?}");
            assert!(entry.ipa.get() + entry.size <= limit && entry.size == image.geometry().size(entry.level));
            assert_eq!(image.memory().read_u64(entry.pa), Some(entry.pte.raw()));
            // Of one level no two entries are for the same place.
            let level = &mut levels[entry.level.slot()];
            assert!(entry.ipa.get() >= *level, "{entry:?}");
            *level = entry.ipa.get() + entry.size;
            last = entry.ipa.get();
        }
        let of_leaves = self.entries.iter().filter_map(|entry| entry.mapping(image.format()));
        assert_eq!(of_leaves.collect::<Vec<_>>(), self.leaves);
        let odd = self.entries.iter().filter(|entry| entry.is_odd()).count();
        assert_eq!(image.invalid().filter(Result::is_ok).count(), odd);
        let mut end = 0;
        for leaf in &self.leaves {
            assert!(leaf.ipa.get() >= end, "{leaf:?}");
            end = leaf.end();
        }
        let mut covered = Vec::new();
        for run in image.runs().flatten() {
            let size = image.geometry().size(run.level);
            assert!(run.size % size == 0);
            covered.extend((0..run.size / size).map(|n| (run.ipa.get() + n * size, run.pa.get() + n * size)));
        }
        let expected: Vec<_> = self.leaves.iter().map(|leaf| (leaf.ipa.get(), leaf.pa.get())).collect();
        assert_eq!(covered, expected);
    }

    /// What accesses get: all ways to ask agree with each other and with the leaves.
    fn is_answered(&self, image: &Image<Memory>, probes: &[u64]) {
        let step = (self.leaves.len() / MOST_LOOKED_AT).max(1);
        for leaf in self.leaves.iter().step_by(step) {
            for ipa in [leaf.ipa.get(), leaf.end() - 1] {
                self.is_leaf_answered(image, leaf, ipa);
            }
        }
        for probe in probes {
            for ipa in [*probe, *probe & (image.geometry().ipa_limit() - 1)] {
                match self
                    .leaves
                    .iter()
                    .find(|leaf| (leaf.ipa.get()..leaf.end()).contains(&ipa))
                {
                    Some(leaf) => self.is_leaf_answered(image, leaf, ipa),
                    None => {
                        let found = answer(image, ipa, AccessKind::Read, El::El1);
                        // A table that is met again is not walked, but hardware goes through it.
                        assert!(found.is_err() || !self.errors.is_empty(), "{ipa:#x}: {found:?}");
                    }
                }
            }
        }
    }

    fn is_leaf_answered(&self, image: &Image<Memory>, leaf: &Mapping, ipa: u64) {
        let fields = image.vtcr().raw();
        let (ha, hd) = (fields >> 21 & 1 != 0, fields >> 22 & 1 != 0);
        let format = image.format();
        let rules = Rules {
            fwb: format.fwb(),
            xnx: format.xnx(),
            lpa2: image.geometry().lpa2(),
            sets_af: ha,
            sets_dirty: ha && hd,
        };
        for (access, el) in ACCESSES {
            match answer(image, ipa, access, el) {
                Err(FaultKind::AddressSize) => {
                    let beyond = |pa: Pa| pa.get() >= image.geometry().pa_limit();
                    let path = image.path(Ipa::new(ipa)).expect("a path to a leaf");
                    let tables = path.iter().filter(|entry| entry.kind == EntryKind::Table);
                    assert!(beyond(leaf.pa) || tables.map(|entry| format.next_table(entry.pte)).any(beyond));
                }
                Err(kind) => assert_eq!(rules.refuse(&leaf.attrs, access, el), Some(kind), "{leaf:?}"),
                Ok(pa) => {
                    assert_eq!(rules.refuse(&leaf.attrs, access, el), None, "{leaf:?}");
                    assert_eq!(pa, leaf.pa.get() + (ipa - leaf.ipa.get()));
                    let after = image.access(Ipa::new(ipa), access, el).after.raw();
                    let dirty = access == AccessKind::Write && rules.sets_dirty && leaf.attrs.dbm;
                    let set = u64::from(ha) << 10 | u64::from(dirty) << 7;
                    assert_eq!(after, leaf.raw.raw() | set);
                }
            }
        }
    }

    fn is_counted(&self, image: &Image<Memory>) {
        let stats = image.stats();
        assert_eq!(stats.is_ok(), self.errors.is_empty());
        let Ok(stats) = stats else { return };
        assert_eq!(stats.leaf_count(), self.leaves.len() as u64);
        assert_eq!(
            stats.mapped_bytes(),
            self.leaves.iter().map(|leaf| leaf.size).sum::<u64>()
        );
        let tables = self
            .entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Table)
            .count();
        assert_eq!(stats.tables.iter().sum::<u64>(), 1 + tables as u64);
        let odd = stats.annotated + stats.locked + stats.frozen + stats.reserved;
        assert_eq!(odd, self.entries.iter().filter(|entry| entry.is_odd()).count() as u64);
    }

    /// Each text can be read again, and differs from the table in nothing that it tells.
    fn is_text(&self, image: &Image<Memory>) {
        for style in STYLES {
            let (text, runs) = (image.ptdump(style), image.ptdump_runs(style));
            assert_eq!(
                (text.is_ok(), runs.is_ok()),
                (self.errors.is_empty(), self.errors.is_empty())
            );
            let (Ok(text), Ok(runs)) = (text, runs) else { continue };
            let read = match Ptdump::parse(&text) {
                Ok(read) => read,
                Err(error) => {
                    // Kernels print an entry at level 3 that has no meaning as a block; the reader takes it for damage.
                    let odd = |entry: &Entry| {
                        entry.level.is_last() && entry.kind == EntryKind::Reserved && entry.pte.is_valid()
                    };
                    let told = style != PtdumpStyle::Exact && self.entries.iter().any(odd);
                    assert!(
                        told && text
                            .lines()
                            .nth(error.line() - 1)
                            .is_some_and(|line| line.ends_with("BLK")),
                        "{error}\n{text}"
                    );
                    continue;
                }
            };
            let end = |of: &s2pt::image::PtdumpRun| (of.ipa, of.level, of.columns);
            let same = read.runs().iter().zip(&runs).all(|(read, run)| end(read) == end(run));
            assert!(same && read.runs().len() <= runs.len(), "{style:?}\n{text}");
            let missing = runs.len() - read.runs().len();
            assert!(
                missing <= usize::from(style != PtdumpStyle::Exact),
                "{style:?} lacks {missing} runs\n{text}"
            );
            if style == PtdumpStyle::Exact {
                assert_eq!(read.runs(), runs);
                let differences: Vec<_> = diff(image, &read).collect::<Result<_, _>>().expect("whole tables");
                assert!(differences.is_empty(), "{differences:?}\n{text}");
            }
        }
    }

    /// The file of it is the same table.
    fn is_dumped(&self, image: &Image<Memory>, options: ImageOptions) {
        let root_pages = u64::from(image.geometry().root_frames());
        if (root_pages + self.entries.len() as u64) * image.memory().page > 8 << 20 {
            return;
        }
        match image.to_dump() {
            Err(ImageError::Missing { .. } | ImageError::Revisited { .. }) => {
                // A file holds whole pages; the walk may be content with a part of the root's.
                let part = image.geometry().entries(image.geometry().start_level()) as u64 * 8 < image.memory().page;
                assert!(!self.errors.is_empty() || part || self.shares_a_root_page(image));
            }
            Err(other) => panic!("{other}"),
            Ok(file) => {
                assert!(self.errors.is_empty());
                let dump = Dump::parse(file.as_slice()).unwrap_or_else(|error| panic!("{error}"));
                let again = dump.into_image(options).expect("the same registers");
                assert!(
                    image
                        .leaves()
                        .map(Result::unwrap)
                        .eq(again.leaves().map(Result::unwrap))
                );
                assert_eq!(image.compare(&again).count(), 0);
            }
        }
    }

    /// Pages of a concatenated root are one table to the walk, and several pages to a file.
    fn shares_a_root_page(&self, image: &Image<Memory>) -> bool {
        let root = image.root().align_down(image.memory().page).get();
        let end = root + image.geometry().root_size();
        let tables = self.entries.iter().filter(|entry| entry.kind == EntryKind::Table);
        tables
            .map(|entry| image.format().next_table(entry.pte).get())
            .any(|pa| root < pa && pa < end)
    }
}

/// The answer to one access, asked in every way.
fn answer(image: &Image<Memory>, ipa: u64, access: AccessKind, el: El) -> Result<u64, FaultKind> {
    let at = Ipa::new(ipa);
    let (answer, told) = (image.access(at, access, el), image.explain(at, access, el));
    assert_eq!(answer.result, image.translate(at, access, el));
    assert_eq!(answer.result, told.outcome);
    assert_eq!(told.steps.last().map(|step| step.entry), answer.end);
    assert!(told.steps.len() <= 5);
    assert_eq!(told.to_string().lines().count(), told.steps.len() + 1);
    for (step, next) in told.steps.iter().zip(told.steps.iter().skip(1)) {
        let Next::Table(table) = step.next else {
            panic!("{told}")
        };
        assert_eq!(next.entry.pa.get(), table.get() + next.index as u64 * 8);
        assert_eq!(step.fault, None);
    }
    if let Ok(path) = image.path(at) {
        // The MMU may stop before the end: at an address beyond its output size.
        assert!(path.iter().zip(&told.steps).all(|(entry, step)| *entry == step.entry));
        assert!(told.steps.len() <= path.len());
    }
    let after = answer.end.map_or(Pte::EMPTY, |end| end.pte);
    match answer.result {
        Ok(hit) => {
            let leaf = told.leaf().expect("a leaf");
            assert_eq!(
                (hit.leaf, hit.level, hit.prot, hit.memtype),
                (leaf.raw, leaf.level, leaf.attrs.prot, leaf.attrs.memtype)
            );
            Ok(hit.pa.get())
        }
        Err(fault) => {
            assert_eq!((fault.ipa, fault.access, answer.after), (at, access, after));
            Err(fault.kind)
        }
    }
}

/// Differences are in order, each byte in one at most, and real; the other way round they are the same.
fn differs(a: &Image<Memory>, b: &Image<Memory>, alike: bool) {
    let (Ok(there), Ok(back)) = (
        diff(a, b).collect::<Result<Vec<_>, _>>(),
        diff(b, a).collect::<Result<Vec<_>, _>>(),
    ) else {
        return;
    };
    assert!(!alike || there.is_empty(), "{there:?}");
    assert_eq!(there.len(), back.len());
    let mut end = 0;
    for (one, two) in there.iter().zip(&back) {
        assert!(one.ipa.get() >= end && one.size > 0, "{one}");
        end = one.ipa.get() + one.size;
        assert_eq!((one.ipa, one.size, one.a, one.b), (two.ipa, two.size, two.b, two.a));
        let turned = one
            .what
            .symmetric_difference(match one.what & (Differs::ONLY_A | Differs::ONLY_B) {
                none if none.is_empty() => Differs::empty(),
                _ => Differs::ONLY_A | Differs::ONLY_B,
            });
        assert_eq!(turned, two.what);
        assert!(!one.to_string().is_empty());
    }
    for one in there.iter().take(MOST_LOOKED_AT) {
        for ipa in [one.ipa.get(), one.ipa.get() + one.size - 1] {
            for (image, side) in [(a, one.a), (b, one.b)] {
                is_side(image, ipa, one.ipa.get(), side);
            }
        }
    }
}

/// The table has there what a difference says.
fn is_side(image: &Image<Memory>, ipa: u64, first: u64, side: Option<Side>) {
    let Some(end) = image.path(Ipa::new(ipa)).ok().and_then(|path| path.last().copied()) else {
        return;
    };
    let format: &Format = image.format();
    match (side, end.mapping(format)) {
        (
            Some(Side::Leaf {
                level, pa, prot, af, ..
            }),
            Some(leaf),
        ) => {
            assert_eq!((level, prot, af), (leaf.level, leaf.attrs.prot, leaf.attrs.af));
            let here = leaf.pa.get().wrapping_add(ipa - leaf.ipa.get());
            assert!(
                pa.is_none_or(|pa| pa.get().wrapping_add(ipa - first) == here),
                "{ipa:#x}: {side:?}, {leaf:?}"
            );
        }
        (Some(Side::Invalid { level, raw }), None) => assert_eq!((level, raw), (end.level, end.pte)),
        (None, None) => {}
        (side, leaf) => panic!("{ipa:#x}: {side:?} of {leaf:?}"),
    }
}
