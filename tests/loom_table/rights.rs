//! Rights that come and go in place (R4), and the promise that what was taken is used by no CPU any more.

use super::*;
use s2pt::arch::{Scope, Tlbi};
use s2pt::sync::explore;
use s2pt::sync::{AtomicBool, Ordering};
use s2pt::table::Event;

#[test]
fn rights_added_and_taken_in_place_are_never_lost() {
    explore("relax/ageing of one page", || {
        let table = table(2, 4);
        assert!(map(&table.handle(), 0, PAGE, A, Prot::R, Existing::Keep));
        let other = spawn(&table, |view| view.relax(Ipa::new(0), PAGE, Prot::W).unwrap().leaves);
        assert!(table.handle().test_and_clear_young(Ipa::new(0), PAGE, true).unwrap());
        assert_eq!(other.join().unwrap(), 1);
        let hit = table.handle().translate(Ipa::new(0), AccessKind::Write).unwrap();
        assert!(!table.format().af(hit.leaf) && hit.prot == Prot::RW);
        settled(&table);
    });
}

#[test]
fn a_protect_meets_a_write_fault() {
    explore("protect/write fault", || {
        let table = table(2, 2);
        map_pages(&table, 0, 1, A, Prot::RX);
        let other = spawn(&table, |view| view.relax(Ipa::new(0), PAGE, Prot::W).unwrap().bytes);
        assert_eq!(table.handle().protect(Ipa::new(0), PAGE, Prot::R).unwrap().bytes, PAGE);
        assert_eq!(other.join().unwrap(), PAGE);
        // The last one has its way, and execution is gone in any case.
        assert!(
            matches!(prot(&table, 0), Some(Prot::R | Prot::RW)),
            "{:?}",
            prot(&table, 0)
        );
        settled(&table);
    });
}

#[test]
fn a_protect_meets_a_fault_that_maps_beside_it() {
    explore("protect/fault of the next page", || {
        let table = table(2, 2);
        map_pages(&table, 0, 1, A, Prot::RW);
        let other = spawn(&table, |view| map(view, PAGE, PAGE, B, Prot::RW, Existing::Keep));
        let changed = table.handle().protect(Ipa::new(0), 2 * PAGE, Prot::R).unwrap();
        assert!(other.join().unwrap());
        // A page that was mapped behind the walk keeps what it was mapped with.
        let late = changed.bytes == PAGE;
        let expected = if late { Prot::RW } else { Prot::R };
        assert_eq!((prot(&table, 0), prot(&table, PAGE)), (Some(Prot::R), Some(expected)));
        settled(&table);
    });
}

#[test]
fn two_ageings_of_one_page_find_it_young_once() {
    explore("ageing/ageing of one page", || {
        let table = table(2, 2);
        map_pages(&table, 0, 1, A, Prot::RW);
        let young = |view: &Handle<'_, Memory>| view.test_and_clear_young(Ipa::new(0), PAGE, false).unwrap();
        let other = spawn(&table, move |view| young(view));
        let mine = young(&table.handle());
        assert!(mine != other.join().unwrap(), "one access is told to one of them");
        settled(&table);
    });
}

/// A CPU that has the page in its TLB, as it was before the operations.
#[derive(Default)]
struct Cpu {
    holds: AtomicBool,
}

impl Tlb for Cpu {
    fn event(&self, event: Event) {
        let scope = match event {
            Event::Tlbi(Tlbi::Ipa { scope, .. } | Tlbi::Range { scope, .. }) => scope,
            Event::Tlbi(Tlbi::Vmid) => Scope::Broadcast,
            _ => return,
        };
        if scope == Scope::Broadcast {
            // Relaxed: whoever is promised that it is gone must be ordered behind this by the table.
            self.holds.store(false, Ordering::Relaxed);
        }
    }
}

/// The page, mapped writable, in the TLB of the CPU.
fn held() -> Arc<Table<Cpu>> {
    let memory = ModelMemory::plenty(Pa::new(FRAMES), 2, 2);
    let table = table_of(Config::new(Geometry::tiny(2, 1)), memory, Cpu::default());
    let view = table.handle();
    assert!(map(&view, 0, PAGE, A, Prot::RW, Existing::Keep));
    assert!(map(&view, PAGE, PAGE, A + PAGE, Prot::RW, Existing::Keep));
    drop(view);
    table.tlb().holds.store(true, Ordering::Relaxed);
    table
}

fn assert_forgotten(table: &Table<Cpu>) {
    let holds = table.tlb().holds.load(Ordering::Relaxed);
    assert!(!holds, "a CPU still uses what was taken away");
}

type OfCpu<'t> = Handle<'t, Memory, Cpu>;

/// Each of the two, when it returns, knows that no CPU uses what it took away.
fn each_returns_when_it_is_forgotten(name: &str, mine: fn(&OfCpu<'_>), theirs: fn(&OfCpu<'_>)) {
    explore(name, move || {
        let table = held();
        let peer = table.clone();
        let other = thread::spawn(move || {
            theirs(&peer.handle());
            assert_forgotten(&peer);
        });
        let view = table.handle();
        mine(&view);
        assert_forgotten(&table);
        other.join().unwrap();
        drop(view);
        settled(&table);
    });
}

fn write_protect(view: &OfCpu<'_>) {
    view.write_protect(Ipa::new(0), PAGE).unwrap();
}

fn unmap(view: &OfCpu<'_>) {
    view.unmap(Ipa::new(0), PAGE).unwrap();
}

#[test]
fn two_write_protects_return_when_no_cpu_can_write() {
    let name = "write_protect/write_protect, a CPU that holds the page";
    each_returns_when_it_is_forgotten(name, write_protect, write_protect);
}

#[test]
fn a_protect_and_a_narrowing_map_return_when_no_cpu_can_write() {
    each_returns_when_it_is_forgotten(
        "protect/map with fewer rights, a CPU that holds the page",
        |view| {
            map(view, 0, PAGE, A, Prot::R, Existing::Replace);
        },
        |view| {
            view.protect(Ipa::new(0), PAGE, Prot::R).unwrap();
        },
    );
}

#[test]
fn a_harvest_and_a_write_protect_return_when_no_cpu_can_write() {
    each_returns_when_it_is_forgotten(
        "write_protect_leaves/write_protect, a CPU that holds the page",
        write_protect,
        |view| {
            view.write_protect_leaves([(Ipa::new(0), PAGE)]).unwrap();
        },
    );
}

#[test]
fn two_unmaps_return_when_no_cpu_has_the_page() {
    each_returns_when_it_is_forgotten("unmap/unmap, a CPU that holds the page", unmap, unmap);
}

#[test]
fn an_unmap_and_a_replacement_return_when_no_cpu_has_the_page() {
    each_returns_when_it_is_forgotten(
        "unmap/replace, a CPU that holds the page",
        |view| {
            map(view, 0, PAGE, B, Prot::RW, Existing::Replace);
        },
        unmap,
    );
}

#[test]
fn who_sees_the_new_page_knows_that_the_old_one_is_gone() {
    explore("replace/walker, a CPU that holds the page", || {
        let table = held();
        let peer = table.clone();
        let other = thread::spawn(move || {
            if output(&peer.handle(), 0) == Some(B) {
                assert_forgotten(&peer);
            }
        });
        assert!(map(&table.handle(), 0, PAGE, B, Prot::RW, Existing::Replace));
        assert_forgotten(&table);
        other.join().unwrap();
        settled(&table);
    });
}
