//! The rows of one thread: each makes a table, brings it into the state that the row starts from, and measures its
//! operation alone.

use std::hint::black_box;
use std::time::Duration;

use crate::clock::measure;
use crate::layout::{BLOCK, BLOCKS_GIB, IPA, PA, Size, blocks_of, output, page, shuffled};
use crate::pool::pool;
use crate::table::{Contestant, Op, Table};

/// One line of the report.
pub struct Row {
    pub op: Op,
    pub id: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    pub operations: fn(Size) -> u64,
}

const fn row(op: Op, id: &'static str, title: &'static str) -> Row {
    let (unit, operations): (_, fn(Size) -> u64) = match op {
        Op::MapBlocks => ("ns/block", |size| BLOCKS_GIB * size.blocks()),
        Op::Split | Op::Collapse => ("ns/block", |size| size.blocks()),
        _ => ("ns/page", |size| size.pages()),
    };
    Row {
        op,
        id,
        title,
        unit,
        operations,
    }
}

pub static ROWS: [Row; 12] = [
    row(Op::MapPages, "map_pages", "map 1 GiB by pages, one call"),
    row(
        Op::MapBlocks,
        "map_blocks",
        "map 1 GiB by blocks of 2 MiB, one call; 64 times",
    ),
    row(Op::Fault, "fault", "map one 4K page by fault, in order"),
    row(
        Op::FaultRandom,
        "fault_random",
        "map one 4K page by fault, in random order",
    ),
    row(Op::Translate, "translate", "translate a random page"),
    row(
        Op::WriteProtect,
        "write_protect",
        "write-protect 1 GiB of pages, one call",
    ),
    row(Op::Relax, "relax", "make one page writable, in order"),
    row(Op::Unmap, "unmap", "unmap 1 GiB of pages, one call"),
    row(Op::UnmapFree, "unmap_free", "the same, until its tables are free"),
    row(Op::UnmapPage, "unmap_page", "unmap one page, in order"),
    row(Op::Split, "split", "split a block of 2 MiB"),
    row(Op::Collapse, "collapse", "collapse a full table of pages"),
];

/// What all runs share.
pub struct Plan {
    pub size: Size,
    /// Page numbers, each once, in random order.
    pub order: Vec<u32>,
}

impl Plan {
    pub fn new(size: Size) -> Self {
        Self {
            size,
            order: shuffled(size.pages(), 0x9e37_79b9_7f4a_7c15),
        }
    }
}

/// One run of a row with one contestant: the time of its measured part.
pub type Run = fn(&Plan) -> Duration;

/// One run of `$contestant`: a fresh table, made ready by `$prepare`, then `$work` on it with the clock running. With
/// `settled`, until the frames of tables that went are back.
///
/// A macro, because a closure cannot be generic over the view that it is given.
macro_rules! timed {
    ($contestant:ident, $plan:ident, $prepare:path, $view:ident => $work:expr) => {
        timed!($contestant, $plan, $prepare, $view => $work, |_: &mut _| {})
    };
    ($contestant:ident, $plan:ident, $prepare:path, $view:ident => $work:expr, settled) => {
        timed!($contestant, $plan, $prepare, $view => $work, $contestant::settle)
    };
    ($contestant:ident, $plan:ident, $prepare:path, $view:ident => $work:expr, $settle:expr) => {{
        pool().tidy();
        let mut table = $contestant::new(pool());
        let mut session = table.session();
        $prepare(&mut $contestant::view(&mut session), $plan);
        measure(|| {
            {
                let mut $view = $contestant::view(&mut session);
                $work;
            }
            $settle(&mut session);
        })
    }};
}

/// How `C` runs a row.
pub fn run_of<C: Contestant>(op: Op) -> Run {
    match op {
        Op::MapPages => |plan| timed!(C, plan, empty, view => view.map_pages(IPA, plan.size.bytes, PA)),
        Op::MapBlocks => |plan| {
            timed!(C, plan, empty, view => for number in 0..BLOCKS_GIB {
                let (ipa, pa) = blocks_of(number);
                view.map_blocks(ipa, plan.size.bytes, pa);
            })
        },
        Op::Fault => |plan| {
            timed!(C, plan, empty, view => for number in 0..plan.size.pages() {
                view.fault(page(number), output(number));
            })
        },
        Op::FaultRandom => |plan| {
            timed!(C, plan, empty, view => for &number in &plan.order {
                view.fault(page(number.into()), output(number.into()));
            })
        },
        Op::Translate => |plan| {
            timed!(C, plan, pages, view => for &number in &plan.order {
                black_box(view.translate(page(number.into())));
            })
        },
        Op::WriteProtect => |plan| timed!(C, plan, pages, view => view.write_protect(IPA, plan.size.bytes)),
        Op::Relax => |plan| {
            timed!(C, plan, protected_pages, view => for number in 0..plan.size.pages() {
                view.relax(page(number));
            })
        },
        Op::Unmap => |plan| timed!(C, plan, pages, view => view.unmap(IPA, plan.size.bytes)),
        Op::UnmapFree => |plan| timed!(C, plan, pages, view => view.unmap_free(IPA, plan.size.bytes), settled),
        Op::UnmapPage => |plan| {
            timed!(C, plan, pages, view => for number in 0..plan.size.pages() {
                view.unmap_page(page(number));
            }, settled)
        },
        Op::Split => |plan| {
            timed!(C, plan, blocks, view => for number in 0..plan.size.blocks() {
                view.split(IPA + number * BLOCK);
            })
        },
        Op::Collapse => |plan| {
            timed!(C, plan, pages, view => for number in 0..plan.size.blocks() {
                view.collapse(IPA + number * BLOCK);
            }, settled)
        },
    }
}

fn empty(_: &mut impl Table, _: &Plan) {}

fn pages(view: &mut impl Table, plan: &Plan) {
    view.map_pages(IPA, plan.size.bytes, PA);
}

fn protected_pages(view: &mut impl Table, plan: &Plan) {
    pages(view, plan);
    view.write_protect(IPA, plan.size.bytes);
}

fn blocks(view: &mut impl Table, plan: &Plan) {
    view.map_blocks(IPA, plan.size.bytes, PA);
}
