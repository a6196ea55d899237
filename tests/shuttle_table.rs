//! Random schedules of random operations on a whole small table.
//!
//! Four threads work on eight pages: each owns two of them, for which it keeps its own record, while the others split,
//! collapse, age and look around everywhere. Whatever the schedule, each owner finds its pages as it left them. Shuttle
//! makes every atomic sequentially consistent: it finds errors of the protocol, not of the orderings (loom does).
//!
//! Run: `RUSTFLAGS="--cfg shuttle" cargo test --release --test shuttle_table`. A failure prints a schedule to replay.
//! `S2PT_SHUTTLE_SCHEDULES` sets how many schedules are tried.
#![cfg(shuttle)]

use s2pt::arch::{AccessKind, Attrs, Geometry, Ipa, Level, Pa, Prot};
use s2pt::memory::{TableMemory, model::ModelMemory};
use s2pt::sync::Arc;
use s2pt::table::{Config, Error, Existing, Handle, MapOptions, Null, Stage2};
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

const PAGE: u64 = 0x1000;
const PAGES: u64 = 8;
const OWNERS: u64 = 4;
const STEPS: usize = 6;

type Memory = Arc<ModelMemory>;

/// What an owner knows of one of its pages.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
struct Page {
    pa: Option<u64>,
    prot: Prot,
}

fn pick(below: u64) -> u64 {
    thread_rng().gen_range(0..below)
}

/// One operation by the owner of `ipa` on that page alone.
fn own(view: &Handle<'_, Memory>, ipa: u64, page: &mut Page) {
    let at = Ipa::new(ipa);
    // Outputs continue one line, so that neighbours can merge; a second line tells a replacement from what it replaced.
    let pa = 0x10_0000 + ipa + 0x10_0000 * pick(2);
    let prot = [Prot::R, Prot::RW][pick(2) as usize];
    match pick(5) {
        0 | 1 => {
            let existing = [Existing::Replace, Existing::Keep][pick(2) as usize];
            let options = MapOptions {
                existing,
                ..MapOptions::default()
            };
            match view.map(at, PAGE, Pa::new(pa), &Attrs::new(prot), options) {
                Ok(_) => *page = Page { pa: Some(pa), prot },
                Err(Error::Again { .. }) => assert!(page.pa.is_some() && existing == Existing::Keep),
                Err(error) => panic!("{error}"),
            }
        }
        2 => {
            let removed = view.unmap(at, PAGE).unwrap();
            assert_eq!(removed, if page.pa.is_some() { PAGE } else { 0 });
            *page = Page::default();
        }
        3 => {
            assert_eq!(view.write_protect(at, PAGE).unwrap().bytes > 0, page.pa.is_some());
            page.prot -= Prot::W;
        }
        _ => match view.relax(at, PAGE, Prot::W) {
            Ok(_) => page.prot |= Prot::W,
            Err(error) => assert!(matches!(error, Error::NotMapped { .. }) && page.pa.is_none(), "{error}"),
        },
    }
}

/// One operation that changes no translation, anywhere.
fn meddle(view: &Handle<'_, Memory>) {
    let span = PAGE << pick(4);
    let ipa = Ipa::new(pick(PAGES * PAGE / span) * span);
    match pick(5) {
        0 => drop(view.split(ipa, span, Level::L3).unwrap()),
        1 => drop(view.collapse(ipa, span).unwrap()),
        2 => drop(view.test_and_clear_young(ipa, span, true).unwrap()),
        3 => drop(view.leaves(ipa, span).unwrap().count()),
        _ => drop(view.translate(ipa, AccessKind::Read)),
    }
}

fn check(view: &Handle<'_, Memory>, ipa: u64, page: Page) {
    let found = view.translate(Ipa::new(ipa), AccessKind::Read).ok();
    let found = found.map(|hit| (hit.pa.get(), hit.prot));
    assert_eq!(found, page.pa.map(|pa| (pa, page.prot)), "page {ipa:#x}");
}

fn scenario() {
    let memory = Arc::new(ModelMemory::new(Pa::new(0x100_0000), 48, 2));
    let table = Arc::new(Stage2::new(Config::new(Geometry::tiny(3, 1)), memory, Null).unwrap());
    let owners: Vec<_> = (0..OWNERS)
        .map(|owner| {
            let table = table.clone();
            thread::spawn(move || {
                let view = table.handle();
                // Neighbouring pages have different owners, so every table is shared.
                let mut pages = [
                    (owner * PAGE, Page::default()),
                    ((owner + OWNERS) * PAGE, Page::default()),
                ];
                for _ in 0..STEPS {
                    let (ipa, page) = &mut pages[pick(2) as usize];
                    own(&view, *ipa, page);
                    meddle(&view);
                }
                pages
            })
        })
        .collect();
    let pages: Vec<_> = owners.into_iter().flat_map(|owner| owner.join().unwrap()).collect();
    let view = table.handle();
    for (ipa, page) in pages {
        check(&view, ipa, page);
    }
    view.drain();
    let stats = view.stats();
    assert_eq!((stats.locked, stats.frozen), (0, 0));
    assert_eq!(table.memory().frames_in_use() as u64, stats.table_frames());
}

fn schedules() -> usize {
    std::env::var("S2PT_SHUTTLE_SCHEDULES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(5_000)
}

#[test]
fn owners_find_their_pages_in_random_schedules() {
    shuttle::check_random(scenario, schedules());
}

#[test]
fn owners_find_their_pages_in_adversarial_schedules() {
    // Few, well-placed preemptions find what uniformly random ones rarely do.
    shuttle::check_pct(scenario, schedules(), 3);
}
