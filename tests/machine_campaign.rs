//! All operations at once, on a table that eight simulated CPUs walk meanwhile, with the machine as the judge.
//!
//! Each of eight threads is one CPU. It lets its guest access memory everywhere, and it owns some pages and one block's worth
//! of memory, whose translation it alone changes: when such a change has returned, no CPU may hold more than the table gives.
//! Everybody splits, merges and looks at everything. Now and then one thread changes all of it in great strokes while the
//! guests go on; then all stand still and everything is audited.
//!
//! `S2PT_CAMPAIGN_SECONDS` sets how long each round lasts (3), `S2PT_CAMPAIGN_SEED` how it begins.

#[path = "chance/mod.rs"]
mod chance;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chance::Random;
use s2pt::arch::{Attrs, Geometry, GeometryOptions, Ipa, Level, Pa, Prot};
use s2pt::machine::{Access, Cpu, Machine, MachineOptions, Port};
use s2pt::memory::{Arena, ArenaOptions, TableMemory};
use s2pt::sync::Arc;
use s2pt::table::{Config, Error, Event, Existing, FrameCache, Handle, MapOptions, Stage2, Tlb};

const CPUS: usize = 8;
const PAGE: u64 = 0x1000;
const BLOCK: u64 = 0x20_0000;
/// Where blocks of shared tables and of single owners lie; the first holds pages of all owners, side by side.
const BASE: u64 = 0x8000_0000;
const RAM: u64 = 0x40_0000_0000;
/// Pages of the shared tables that are used.
const SHARED: u64 = 64;
const SPAN: u64 = (1 + CPUS as u64) * BLOCK;

/// Gives peers the core where it hurts most: while an entry is LOCKED or FROZEN.
#[derive(Default)]
struct Jitter(AtomicU64);

impl Tlb for Jitter {
    fn event(&self, event: Event) {
        let often = match event {
            Event::Tlbi(_) | Event::Dsb(_) => 3,
            Event::Store { old, new, .. } if old.is_locked() || new.is_locked() => 5,
            Event::Store { .. } | Event::Free { .. } => 61,
            _ => return,
        };
        if self.0.fetch_add(1, Ordering::Relaxed).is_multiple_of(often) {
            std::thread::yield_now();
        }
    }
}

type Sink = (Jitter, Port);
type Table = Stage2<Arena, Sink>;
type View<'t> = Handle<'t, Arena, Sink>;

/// What is tried: a kind of table.
#[derive(Clone, Copy, Debug)]
struct Round {
    tlbi_range: bool,
    fwb: bool,
    dirty: bool,
    frames: usize,
}

struct World {
    machine: Machine,
    port: Port,
    table: Arc<Table>,
    round: Round,
    stop: AtomicBool,
    operations: AtomicU64,
    refused: AtomicU64,
}

impl World {
    fn new(round: Round) -> Self {
        let machine = Machine::new(MachineOptions {
            cpus: CPUS,
            ram: Some((Pa::new(RAM), 4 * SPAN)),
            ..MachineOptions::default()
        });
        let machine = machine.unwrap();
        let port = machine.port();
        let config = Config {
            tlbi_range: round.tlbi_range,
            fwb: round.fwb,
            hd: round.dirty,
            ..Config::new(Geometry::new(GeometryOptions::default()).unwrap())
        };
        let arena = Arena::new(ArenaOptions {
            quota: Some(round.frames),
            ..ArenaOptions::default()
        });
        let table = Stage2::new(config, arena.unwrap(), (Jitter::default(), port.clone()));
        let table = Arc::new(table.unwrap());
        port.attach(&table);
        machine.load(&port);
        Self {
            machine,
            port,
            table,
            round,
            stop: AtomicBool::new(false),
            operations: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Rights of one kind of leaf; with dirty state in hardware's hands a clean one.
    fn attrs(&self, random: &mut Random) -> Attrs {
        let prot = [Prot::R, Prot::RW, Prot::RW, Prot::RX][random.below(4) as usize];
        Attrs {
            dbm: self.round.dirty && random.below(2) == 0,
            af: !self.round.dirty || random.below(3) > 0,
            ..Attrs::new(prot)
        }
    }

    fn outcome<R>(&self, result: Result<R, Error>) {
        self.operations.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(_) => {}
            Err(Error::OutOfFrames { .. } | Error::Again { .. } | Error::Conflict { .. } | Error::NotMapped { .. }) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// One change of a range by its only owner, and a look at what the CPUs hold of it.
    fn own(&self, view: &View<'_>, random: &mut Random, ipa: u64, size: u64) {
        let at = Ipa::new(ipa);
        let line = RAM + (ipa - BASE) + SPAN * random.below(2);
        let existing = [Existing::Keep, Existing::Replace, Existing::Error][random.below(3) as usize];
        let options = MapOptions {
            existing,
            ..MapOptions::default()
        };
        match random.below(10) {
            0..=3 => self.outcome(view.map(at, size, Pa::new(line), &self.attrs(random), options)),
            4 | 5 => self.outcome(view.unmap(at, size)),
            6 => self.outcome(view.write_protect(at, size)),
            7 => self.outcome(view.relax(at, PAGE, Prot::W)),
            8 => self.outcome(view.protect(at, size, [Prot::R, Prot::RW, Prot::NONE][random.below(3) as usize])),
            _ => self.outcome(view.test_and_clear_young(at, size, true)),
        }
        self.machine.forget(&self.port, at, size);
        self.machine.check(&self.port, at, size);
    }

    /// What changes no translation, anywhere.
    fn meddle(&self, view: &View<'_>, random: &mut Random) {
        let block = Ipa::new(BASE + random.below(SPAN / BLOCK) * BLOCK);
        match random.below(8) {
            0 | 1 => self.outcome(view.split(block, BLOCK, Level::L3)),
            2 | 3 => self.outcome(view.collapse(block, BLOCK)),
            4 => self.outcome(view.leaves(block, BLOCK).map(|leaves| leaves.count())),
            5 => self.outcome(view.flush_cache(block, BLOCK)),
            6 => {
                let stay = view.stay();
                for page in 0..4 {
                    let _ = stay.lookup(Ipa::new(block.get() + page * PAGE));
                }
            }
            _ => view.drain(),
        }
    }

    /// The guest of one CPU.
    fn guest(&self, cpu: &Cpu, random: &mut Random) {
        for _ in 0..16 {
            let page = if random.below(2) == 0 {
                random.below(SHARED)
            } else {
                random.below(SPAN / PAGE)
            };
            let ipa = Ipa::new(BASE + page * PAGE + 8 * cpu.number() as u64);
            let access = match random.below(8) {
                0..=3 => Access::read(ipa, 8),
                4..=6 => Access::write(ipa, 8, random.next()),
                _ => Access::fetch(ipa),
            };
            match random.below(4) {
                0 => drop(cpu.begin(access)),
                1 => cpu.speculate(ipa),
                _ => drop(cpu.access(access)),
            }
        }
    }

    /// Everything, by one thread, while the others' guests go on.
    fn great_strokes(&self, view: &View<'_>, random: &mut Random) {
        let (at, line) = (Ipa::new(BASE), Pa::new(RAM + 2 * SPAN));
        for _ in 0..3 {
            let options = MapOptions {
                existing: [Existing::Keep, Existing::Replace][random.below(2) as usize],
                largest: [None, Some(Level::L3)][random.below(2) as usize],
                ..MapOptions::default()
            };
            match random.below(6) {
                0 | 1 => self.outcome(view.map(at, SPAN, line, &self.attrs(random), options)),
                2 => self.outcome(view.unmap(at, SPAN)),
                3 => self.outcome(view.write_protect(at, SPAN)),
                4 => self.outcome(view.protect(at, SPAN, Prot::RW)),
                _ => self.outcome(view.test_and_clear_young(at, SPAN, true)),
            }
            self.machine.forget(&self.port, at, SPAN);
            self.machine.check(&self.port, at, SPAN);
        }
    }
}

fn seconds() -> u64 {
    let wanted = std::env::var("S2PT_CAMPAIGN_SECONDS").ok();
    wanted.map_or(3, |wanted| {
        wanted.parse().expect("S2PT_CAMPAIGN_SECONDS is a number of seconds")
    })
}

fn seed() -> u64 {
    let wanted = std::env::var("S2PT_CAMPAIGN_SEED").ok();
    wanted.map_or(1, |wanted| wanted.parse().expect("S2PT_CAMPAIGN_SEED is a number"))
}

fn campaign(round: Round) {
    let world = World::new(round);
    let barrier = Barrier::new(CPUS);
    let busy = AtomicBool::new(false);
    let end = Instant::now() + Duration::from_secs(seconds());
    std::thread::scope(|scope| {
        for number in 0..CPUS {
            let (world, barrier, busy) = (&world, &barrier, &busy);
            scope.spawn(move || {
                let mut random = Random(seed() << 8 | number as u64);
                let cpu = world.machine.cpu(number);
                let _bound = cpu.bind();
                let cache = FrameCache::new(world.table.memory(), 2);
                let mut view = world.table.handle();
                if number.is_multiple_of(2) {
                    view = view.with_frame_cache(&cache);
                }
                let block = BASE + (1 + number as u64) * BLOCK;
                loop {
                    for _ in 0..60 {
                        world.guest(&cpu, &mut random);
                        let page = random.below(SHARED / CPUS as u64) * CPUS as u64 + number as u64;
                        world.own(&view, &mut random, BASE + page * PAGE, PAGE);
                        if random.below(4) == 0 {
                            let pages = 1 + random.below(32);
                            let inside = block + random.below(512 - pages) * PAGE;
                            let (ipa, size) = [(block, BLOCK), (inside, pages * PAGE)][random.below(2) as usize];
                            world.own(&view, &mut random, ipa, size);
                        }
                        world.meddle(&view, &mut random);
                    }
                    // All stand; then one changes everything, and the others are but guests.
                    if barrier.wait().is_leader() {
                        busy.store(true, Ordering::SeqCst);
                    }
                    barrier.wait();
                    if number == 0 {
                        world.great_strokes(&view, &mut random);
                        busy.store(false, Ordering::SeqCst);
                    }
                    // On few cores the guests must leave it some time.
                    for _ in 0..8 {
                        if busy.load(Ordering::SeqCst) {
                            world.guest(&cpu, &mut random);
                        }
                    }
                    barrier.wait();
                    if number == 0 {
                        world.machine.audit();
                        let over = Instant::now() > end || world.machine.violated() > 0;
                        world.stop.store(over, Ordering::SeqCst);
                    }
                    barrier.wait();
                    if world.stop.load(Ordering::SeqCst) {
                        break;
                    }
                }
            });
        }
    });
    let view = world.table.handle();
    view.unmap(Ipa::new(0), 1 << 40).unwrap();
    view.drain();
    world.machine.forget(&world.port, Ipa::new(0), u64::MAX);
    world.machine.audit();
    let (counts, maintenance) = (world.machine.counts(), world.machine.maintenance());
    println!(
        "{round:?}: {} operations ({} refused); {} accesses ({} hits), {} faults, {} fills, {} updates by hardware; \
         {} TLBIs of stage 2, {} DSBs, {} stores, {} tables allocated, {} frames freed; {} violations",
        world.operations.into_inner(),
        world.refused.into_inner(),
        counts.accesses,
        counts.hits,
        counts.faults,
        counts.fills,
        counts.updates,
        maintenance.tlbi(),
        maintenance.dsb,
        maintenance.stores,
        maintenance.allocated,
        maintenance.freed,
        world.machine.violated(),
    );
    for violation in world.machine.violations().iter().take(5) {
        println!("{violation}");
    }
    assert_eq!(world.machine.violated(), 0);
    let stats = view.stats();
    assert_eq!((stats.locked, stats.frozen, stats.mapped_bytes), (0, 0, 0));
    assert_eq!(world.table.memory().frames_in_use() as u64, stats.table_frames());
    assert!(counts.hits > 0 && counts.faults > 0 && maintenance.freed > 0);
}

#[test]
fn nothing_is_found_with_range_tlbis() {
    campaign(Round {
        tlbi_range: true,
        fwb: false,
        dirty: false,
        frames: 64,
    });
}

#[test]
fn nothing_is_found_with_single_tlbis_and_little_memory() {
    campaign(Round {
        tlbi_range: false,
        fwb: true,
        dirty: false,
        frames: 24,
    });
}

#[test]
fn nothing_is_found_where_hardware_notes_accesses_and_writes() {
    campaign(Round {
        tlbi_range: true,
        fwb: false,
        dirty: true,
        frames: 64,
    });
}
