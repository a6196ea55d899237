//! The rows of the budget table: what is measured, in one place for the clock and for the instruction counter.
//!
//! A row prepares a table, hands the measured part to a [`Meter`] once, and throws the table away. The clock runs it
//! many times and divides; callgrind runs it once and counts. All rows share one arena whose frames have been touched,
//! so that no row pays for page faults of the process, and all use the `Null` sink: a TLBI costs nothing here.

use std::hint::black_box;
use std::sync::Arc;

use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
use s2pt::memory::{Arena, ArenaOptions};
use s2pt::table::{Config, MapOptions, Null, Stage2};

pub const PAGE: u64 = 4 << 10;
pub const BLOCK: u64 = 2 << 20;
pub const GIB: u64 = 1 << 30;
/// Where the guest's memory starts, and where it lies in physical memory: neither at zero.
pub const IPA: Ipa = Ipa::new(0x80_0000_0000 - 4 * GIB);
pub const PA: Pa = Pa::new(0x40_0000_0000);

const PAGES: u64 = GIB / PAGE;
const BLOCKS: u64 = GIB / BLOCK;
/// Tables for four GiB of pages: what the largest row needs, and what it may have retired meanwhile.
const FRAMES: usize = 4096;

pub type Table = Stage2<Arc<Arena>>;

/// Takes the measure of the one part of a row that counts.
pub trait Meter {
    fn measure(&mut self, body: &mut dyn FnMut());
}

/// One line of the table.
pub struct Row {
    pub id: &'static str,
    pub title: &'static str,
    /// How many operations the measured part does; times and counts are given per operation.
    pub operations: u64,
    pub budget_ns: Option<f64>,
    pub budget_instructions: Option<f64>,
    /// Linux 6.12's code in user space, as the design gives it.
    pub kvm_ns: Option<f64>,
    pub kvm_instructions: Option<f64>,
    run: fn(&Bench, &mut dyn Meter),
}

impl Row {
    pub fn run(&self, bench: &Bench, meter: &mut dyn Meter) {
        (self.run)(bench, meter);
    }
}

/// What the rows share.
pub struct Bench {
    arena: Arc<Arena>,
    geometry: Geometry,
    /// Page numbers of one GiB in random order, each once.
    shuffled: Vec<u32>,
}

impl Bench {
    pub fn new() -> Self {
        let options = ArenaOptions {
            capacity_frames: FRAMES,
            ..ArenaOptions::default()
        };
        let arena = Arena::new(options).expect("an arena of 16 MiB");
        arena.prefault(FRAMES);
        let geometry = Geometry::new(GeometryOptions::default()).expect("4K granule, 40-bit IPA");
        Self {
            arena: Arc::new(arena),
            geometry,
            shuffled: shuffled(PAGES as u32),
        }
    }

    pub fn table(&self) -> Table {
        Stage2::new(Config::new(self.geometry), Arc::clone(&self.arena), Null).expect("a root")
    }

    /// A table with one GiB mapped by leaves of `level`.
    fn mapped(&self, level: Level, prot: Prot) -> Table {
        let mut table = self.table();
        let options = MapOptions {
            largest: Some(level),
            ..MapOptions::default()
        };
        table
            .exclusive()
            .map(IPA, GIB, PA, &Attrs::new(prot), options)
            .expect("room for one GiB");
        table
    }
}

fn page(number: u64) -> Ipa {
    Ipa::new(IPA.get() + number * PAGE)
}

fn block(number: u64) -> Ipa {
    Ipa::new(IPA.get() + number * BLOCK)
}

fn target(number: u64) -> Pa {
    Pa::new(PA.get() + number * PAGE)
}

/// Every number below `count` once, in an order that is the same in every run (Fisher-Yates over an LCG).
fn shuffled(count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for last in (1..order.len()).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        order.swap(last, ((state >> 33) as usize) % (last + 1));
    }
    order
}

const fn row(id: &'static str, title: &'static str, operations: u64, run: fn(&Bench, &mut dyn Meter)) -> Row {
    Row {
        id,
        title,
        operations,
        budget_ns: None,
        budget_instructions: None,
        kvm_ns: None,
        kvm_instructions: None,
        run,
    }
}

/// The table, in the order of the design.
pub const ROWS: &[Row] = &[
    Row {
        budget_ns: Some(15.0),
        budget_instructions: Some(300.0),
        kvm_ns: Some(38.0),
        kvm_instructions: Some(808.0),
        ..row(
            "fault_page",
            "map one 4K page by fault, shared, pinned per fault",
            PAGES,
            fault_page,
        )
    },
    row(
        "fault_page_random",
        "same, pages in random order",
        PAGES,
        fault_page_random,
    ),
    Row {
        budget_ns: Some(9.0),
        ..row("fault_page_batch", "same in a batch (one pin)", PAGES, fault_page_batch)
    },
    Row {
        budget_ns: Some(0.5),
        kvm_ns: Some(12.5),
        kvm_instructions: Some(242.0),
        ..row(
            "map_gib",
            "map 1 GiB as 4K pages in one call, per entry",
            PAGES,
            map_gib,
        )
    },
    Row {
        budget_ns: Some(10.0),
        kvm_ns: Some(19.8),
        kvm_instructions: Some(399.0),
        ..row("lookup", "lookup of a random page, pinned per call", PAGES, lookup)
    },
    Row {
        budget_ns: Some(3.5),
        ..row(
            "lookup_batch",
            "lookup of a random page, in a batch",
            PAGES,
            lookup_batch,
        )
    },
    Row {
        budget_ns: Some(6.0),
        ..row(
            "write_protect_shared",
            "write-protect 1 GiB of 4K, shared, per entry",
            PAGES,
            write_protect_shared,
        )
    },
    Row {
        budget_ns: Some(0.5),
        kvm_ns: Some(3.7),
        kvm_instructions: Some(75.0),
        ..row(
            "write_protect_exclusive",
            "write-protect 1 GiB of 4K, exclusive, per entry",
            PAGES,
            write_protect_exclusive,
        )
    },
    Row {
        budget_ns: Some(14.0),
        kvm_ns: Some(21.0),
        kvm_instructions: Some(451.0),
        ..row("relax_page", "relax one page", PAGES, relax_page)
    },
    Row {
        budget_ns: Some(6.5),
        ..row(
            "unmap_shared",
            "unmap 1 GiB of 4K, shared, per entry",
            PAGES,
            unmap_shared,
        )
    },
    Row {
        budget_ns: Some(0.5),
        kvm_ns: Some(9.1),
        kvm_instructions: Some(100.0),
        ..row(
            "unmap_exclusive",
            "unmap 1 GiB of 4K, exclusive, per entry",
            PAGES,
            unmap_exclusive,
        )
    },
    Row {
        budget_ns: Some(500.0),
        kvm_ns: Some(7800.0),
        kvm_instructions: Some(144_000.0),
        ..row("split_block", "eager split of a 2M block", BLOCKS, split_block)
    },
    Row {
        budget_ns: Some(700.0),
        kvm_ns: Some(106.0 + 511.0 * 39.0),
        ..row("dirty_write", "dirty-log write into a 2M block", BLOCKS, dirty_write)
    },
    Row {
        budget_ns: Some(3500.0),
        kvm_ns: Some(4360.0),
        kvm_instructions: Some(35_700.0),
        ..row("collapse", "collapse a full 2M table, shared", BLOCKS, collapse)
    },
    row(
        "compare_exchange",
        "for reference: an uncontended compare-exchange",
        PAGES,
        compare_exchange,
    ),
    row("epoch_pin", "for reference: an epoch pin", PAGES, epoch_pin),
];

fn fault_page(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.table();
    let (vcpu, attrs) = (table.handle(), Attrs::new(Prot::RW));
    meter.measure(&mut || {
        for number in 0..PAGES {
            black_box(vcpu.map(page(number), PAGE, target(number), &attrs, MapOptions::FAULT)).expect("a free page");
        }
    });
}

fn fault_page_random(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.table();
    let (vcpu, attrs) = (table.handle(), Attrs::new(Prot::RW));
    meter.measure(&mut || {
        for &number in &bench.shuffled {
            let number = u64::from(number);
            black_box(vcpu.map(page(number), PAGE, target(number), &attrs, MapOptions::FAULT)).expect("a free page");
        }
    });
}

fn fault_page_batch(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.table();
    let (vcpu, attrs) = (table.handle(), Attrs::new(Prot::RW));
    meter.measure(&mut || {
        let mut stay = vcpu.stay();
        for number in 0..PAGES {
            if number % REPIN == 0 {
                stay.repin();
            }
            black_box(vcpu.map(page(number), PAGE, target(number), &attrs, MapOptions::FAULT)).expect("a free page");
        }
    });
}

/// How many operations a batch does before it lets retired frames go.
const REPIN: u64 = 512;

fn map_gib(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.table();
    let (vcpu, attrs) = (table.handle(), Attrs::new(Prot::RW));
    let options = MapOptions {
        largest: Some(Level::L3),
        ..MapOptions::default()
    };
    meter.measure(&mut || {
        black_box(vcpu.map(IPA, GIB, PA, &attrs, options)).expect("an empty table");
    });
}

fn lookup(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        for &number in &bench.shuffled {
            black_box(vcpu.lookup(page(u64::from(number)))).expect("a mapped page");
        }
    });
}

fn lookup_batch(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        let mut stay = vcpu.stay();
        for chunk in bench.shuffled.chunks(REPIN as usize) {
            stay.repin();
            for &number in chunk {
                black_box(vcpu.lookup(page(u64::from(number)))).expect("a mapped page");
            }
        }
    });
}

fn write_protect_shared(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        assert_eq!(vcpu.write_protect(IPA, GIB).expect("a mapped range").leaves, PAGES);
    });
}

fn write_protect_exclusive(bench: &Bench, meter: &mut dyn Meter) {
    let mut table = bench.mapped(Level::L3, Prot::RW);
    meter.measure(&mut || {
        assert_eq!(
            table
                .exclusive()
                .write_protect(IPA, GIB)
                .expect("a mapped range")
                .leaves,
            PAGES
        );
    });
}

fn relax_page(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::R);
    let vcpu = table.handle();
    meter.measure(&mut || {
        for number in 0..PAGES {
            black_box(vcpu.relax(page(number), PAGE, Prot::W)).expect("a mapped page");
        }
    });
}

/// The frames' way back to the arena is part of the work.
fn unmap_shared(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        assert_eq!(vcpu.unmap(IPA, GIB).expect("a mapped range"), GIB);
        vcpu.drain();
    });
}

fn unmap_exclusive(bench: &Bench, meter: &mut dyn Meter) {
    let mut table = bench.mapped(Level::L3, Prot::RW);
    meter.measure(&mut || {
        assert_eq!(table.exclusive().unmap(IPA, GIB).expect("a mapped range"), GIB);
    });
}

fn split_block(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L2, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        for number in 0..BLOCKS {
            assert_eq!(vcpu.split(block(number), BLOCK, Level::L3).expect("a block"), 1);
        }
    });
}

/// One page in the middle of each write-protected block becomes writable; the other 511 stay mapped as they were.
fn dirty_write(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L2, Prot::R);
    let vcpu = table.handle();
    meter.measure(&mut || {
        for number in 0..BLOCKS {
            let written = Ipa::new(block(number).get() + 0x123 * PAGE);
            assert_eq!(vcpu.relax(written, PAGE, Prot::W).expect("a block").leaves, 1);
        }
    });
    assert_eq!(
        vcpu.leaves(IPA, GIB)
            .expect("a range")
            .map(|leaf| leaf.size)
            .sum::<u64>(),
        GIB,
        "a translation was lost"
    );
}

fn collapse(bench: &Bench, meter: &mut dyn Meter) {
    let table = bench.mapped(Level::L3, Prot::RW);
    let vcpu = table.handle();
    meter.measure(&mut || {
        for number in 0..BLOCKS {
            assert_eq!(vcpu.collapse(block(number), BLOCK).expect("a full table"), 1);
        }
        vcpu.drain();
    });
}

fn compare_exchange(_: &Bench, meter: &mut dyn Meter) {
    use s2pt::sync::{AtomicU64, Ordering};
    let entries: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
    meter.measure(&mut || {
        for number in 0..PAGES {
            let (entry, old) = (&entries[(number % 512) as usize], number / 512);
            let done = entry.compare_exchange(old, old + 1, Ordering::Release, Ordering::Relaxed);
            assert!(black_box(done).is_ok());
        }
    });
}

fn epoch_pin(_: &Bench, meter: &mut dyn Meter) {
    let collector = crossbeam_epoch::Collector::new();
    let local = collector.register();
    meter.measure(&mut || {
        for _ in 0..PAGES {
            black_box(&local.pin());
        }
    });
}
