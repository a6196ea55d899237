//! KVM's semantics takes frames on the way, so a refused call may end part way. What it may have done by then is documented:
//! what comes before the missing frame. Page by page: a beginning of the range is as asked for, the rest as before, and what
//! was part of a block that had to make way may be gone.

use s2pt::arch::{Format, Granule, Level, Pte};
use s2pt::table::{Access, Error, Existing, FrameCache, Null, View};

use crate::script::{Call, Script, What};
use crate::support::{Memory, audit, dose, geometry, unlistened};

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Hole,
    Mark(u64),
    /// Its output, the other bits as a page has them, and whether it is part of a block.
    Leaf {
        pa: u64,
        bits: u64,
        block: bool,
    },
}

/// Bytes that operations of the script may reach, from the start of its window.
fn window_bytes<A: Access>(view: &View<'_, Memory, Null, A>) -> u64 {
    7 * view.config().geometry.size(Level::L2)
}

fn pages<A: Access>(view: &View<'_, Memory, Null, A>, start: u64) -> Vec<Page> {
    let (geometry, format) = (view.config().geometry, *view.format());
    let page = geometry.granule().size();
    let mut all = vec![Page::Hole; (window_bytes(view) / page) as usize];
    view.for_each_raw(|entry| {
        if entry.pte.is_table(entry.level) {
            return;
        }
        let first = ((entry.ipa.get() - start) / page) as usize;
        let slots = &mut all[first..][..(geometry.size(entry.level) / page) as usize];
        if !entry.pte.is_valid() {
            return slots.fill(Page::Mark(entry.pte.raw()));
        }
        let bits = format.relevel(entry.pte, entry.level, Level::L3).raw() & !format.output_mask();
        let output = format.output(entry.pte, entry.level).get();
        for (pa, slot) in (output..).step_by(page as usize).zip(slots) {
            *slot = Page::Leaf {
                pa,
                bits,
                block: !entry.level.is_last(),
            };
        }
    })
    .unwrap();
    all
}

/// The page that `call` asks for at `ipa`, if it is one that takes frames.
fn wanted<A: Access>(view: &View<'_, Memory, Null, A>, call: Call, ipa: u64, before: Page) -> Page {
    match call.what {
        What::Map(pa, attrs, _) => {
            let pa = pa.get() + (ipa - call.ipa.get());
            let bits = view.format().attr_bits(Level::L3, &attrs).unwrap();
            Page::Leaf {
                pa,
                bits: bits & !Format::CONTIGUOUS_BIT,
                block: false,
            }
        }
        What::Annotate(owner) => Pte::annotated(owner).map_or(Page::Hole, |mark| Page::Mark(mark.raw())),
        // KVM makes the pieces of a block afresh: young.
        What::Split(_) => match before {
            Page::Leaf { pa, bits, block: true } => Page::Leaf {
                pa,
                bits: bits | Format::AF_BIT,
                block: true,
            },
            other => other,
        },
        other => panic!("{other:?} takes no frames"),
    }
}

/// Whether the call passes over such a page: something is there that it keeps, or a leaf that differs in permissions alone.
fn stays<A: Access>(view: &View<'_, Memory, Null, A>, call: Call, old: Page, wanted: Page) -> bool {
    match (call.what, old, wanted) {
        (What::Map(_, _, options), old, _) if options.existing == Existing::Keep => old != Page::Hole,
        (What::Map(..), Page::Leaf { pa, bits, .. }, Page::Leaf { pa: to, bits: new, .. }) => {
            pa == to && (bits ^ new) & !view.format().perm_mask() == 0
        }
        _ => false,
    }
}

fn is_like(a: Page, b: Page) -> bool {
    let plain = |page| match page {
        Page::Leaf { pa, bits, .. } => Page::Leaf { pa, bits, block: false },
        other => other,
    };
    plain(a) == plain(b)
}

#[derive(Default)]
struct Tally {
    refused: u64,
    unchanged: u64,
    part_way: u64,
}

fn check<A: Access>(
    view: &View<'_, Memory, Null, A>,
    call: Call,
    window: u64,
    (before, after): (&[Page], &[Page]),
    tally: &mut Tally,
) {
    let page = view.config().geometry.granule().size();
    tally.refused += 1;
    if before == after {
        tally.unchanged += 1;
    } else {
        tally.part_way += 1;
    }
    let mut untouched = false;
    for (index, (&old, &new)) in before.iter().zip(after).enumerate() {
        let ipa = window + index as u64 * page;
        let block = matches!(old, Page::Leaf { block: true, .. });
        let inside = (call.ipa.get()..call.end()).contains(&ipa);
        let like_before = is_like(old, new);
        if matches!(call.what, What::Split(_)) {
            // A block is cut whole: its pieces reach out of the range.
            assert!(
                like_before || block && is_like(new, wanted(view, call, ipa, old)),
                "{call:?} {ipa:#x}: {old:x?} became {new:x?}"
            );
            continue;
        }
        let done = inside && is_like(new, wanted(view, call, ipa, old));
        assert!(
            like_before || done || block && new == Page::Hole,
            "{call:?} {ipa:#x}: {old:x?} became {new:x?}"
        );
        // What is done is a beginning.
        untouched |= inside && !done && !stays(view, call, old, wanted(view, call, ipa, old));
        assert!(
            !(untouched && done && !like_before),
            "{call:?} {ipa:#x}: done, and one before it is not"
        );
    }
}

fn run(granule: Granule, ipa_bits: u8, lpa2: bool, cached: bool, calls: u64) -> Tally {
    let geometry = geometry(granule, ipa_bits, lpa2).with_kvm_blocks();
    let table = unlistened(geometry, true);
    let memory = Memory::clone(table.memory());
    let cache = FrameCache::new(table.memory(), 2);
    let plain = table.handle();
    let view = if cached { plain.with_frame_cache(&cache) } else { plain };
    let mut script = Script::new(geometry, true, u64::from(ipa_bits) << 8 | u64::from(cached));
    let window = script.window;
    let mut tally = Tally::default();
    for _ in 0..calls {
        let call = script.next();
        view.drain();
        for k in 0.. {
            let before = pages(&view, window);
            let frames = memory.stats().in_use - cache.held();
            if cached {
                // Injected refusals are met by the frames at hand; a quota is not, once they are used up.
                memory.set_quota(Some(memory.stats().in_use + k));
            } else {
                memory.fail_allocation(k);
            }
            // Every third refusal is one of the caller's budget: KVM's cache is empty.
            let answer = if k % 3 == 2 {
                call.on(&view.with_frames(k / 3))
            } else {
                call.on(&view)
            };
            memory.fail_allocation(usize::MAX);
            memory.set_quota(None);
            let after = pages(&view, window);
            let Err(Error::OutOfFrames { .. }) = answer else { break };
            check(&view, call, window, (&before, &after), &mut tally);
            assert_eq!(memory.stats().reserved, 0, "{call:?}");
            if before == after && table.pending_frames() == 0 {
                // Frames for levels above the missing one may be linked; they serve the next call.
                assert!(memory.stats().in_use - cache.held() >= frames, "{call:?}");
            }
        }
    }
    drop(view);
    drop(cache);
    audit(&table);
    println!(
        "KVM {granule:?} {ipa_bits} cache {cached}: {calls} calls, {} allocations refused: {} changed no page, {} ended part way",
        tally.refused, tally.unchanged, tally.part_way
    );
    tally
}

#[test]
fn kvm_calls_end_where_the_frame_is_missing() {
    let calls = dose("S2PT_PRESSURE_CALLS", 160);
    for cached in [false, true] {
        let tally = run(Granule::K4, 40, false, cached, calls);
        assert!(tally.unchanged > 0 && tally.part_way > 0 && tally.refused > calls / 20);
        run(Granule::K4, 52, true, cached, calls / 2);
        run(Granule::K16, 40, false, cached, calls / 4);
        run(Granule::K64, 42, false, cached, calls / 16);
    }
}
