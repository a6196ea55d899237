//! The MMU with hardware access flag and dirty state beside operations: it asks nobody, and nothing of what it notes is lost.

use super::*;
use s2pt::arch::Format;
use s2pt::sync::{Ordering, explore};

/// Clean pages that hardware may make dirty, or a block of them.
fn clean(largest: Level) -> Arc<Table> {
    let memory = ModelMemory::plenty(Pa::new(FRAMES), 3, 2);
    let config = Config {
        hd: true,
        ..Config::new(Geometry::tiny(2, 1))
    };
    let table = table_of(config, memory, Null);
    let attrs = Attrs {
        dbm: true,
        ..Attrs::new(Prot::R)
    };
    let options = MapOptions {
        largest: Some(largest),
        ..MapOptions::default()
    };
    table
        .handle()
        .map(Ipa::new(0), 2 * PAGE, Pa::new(A), &attrs, options)
        .unwrap();
    table
}

/// A write to page 0 by a CPU: walks without a guard and marks the leaf. True if the write went through.
fn write(table: &Table) -> bool {
    let format = table.format();
    let (mut at, mut level) = (table.root(), Level::L2);
    loop {
        let entry = &table.memory().bus(at)[0];
        let found = Pte::from_raw(entry.load(Ordering::Acquire));
        if found.is_table(level) {
            (at, level) = (format.next_table(found), Level::L3);
            continue;
        }
        if !found.is_leaf(level) || found.raw() & (Format::DBM_BIT | Format::WRITE_BIT) == 0 {
            return false;
        }
        let dirty = found.raw() | Format::AF_BIT | Format::WRITE_BIT;
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        if entry.compare_exchange(found.raw(), dirty, success, failure).is_ok() {
            return true;
        }
    }
}

/// `change` beside a write by hardware. Returns whether the write went through.
fn beside_a_write(table: &Arc<Table>, change: impl FnOnce(&Handle<'_, Memory>)) -> bool {
    let cpu = table.clone();
    let cpu = thread::spawn(move || write(&cpu));
    change(&table.handle());
    let wrote = cpu.join().unwrap();
    settled(table);
    wrote
}

fn dirty(table: &Table, ipa: u64) -> bool {
    prot(table, ipa).is_some_and(|prot| prot.contains(Prot::W))
}

#[test]
fn ageing_loses_no_dirty_state() {
    explore("ageing/write by hardware", || {
        let table = clean(Level::L3);
        let wrote = beside_a_write(&table, |view| {
            view.test_and_clear_young(Ipa::new(0), 2 * PAGE, true).unwrap();
        });
        assert!(wrote && dirty(&table, 0) && !dirty(&table, PAGE));
    });
}

#[test]
fn a_write_protected_page_is_written_by_no_hardware() {
    explore("write_protect/write by hardware", || {
        let table = clean(Level::L3);
        beside_a_write(&table, |view| {
            let changed = view.write_protect(Ipa::new(0), PAGE).unwrap();
            assert_eq!(changed.leaves, 1);
        });
        assert!(!dirty(&table, 0) && !write(&table), "the page is still writable");
    });
}

#[test]
fn a_right_given_loses_no_dirty_state() {
    explore("relax/write by hardware", || {
        let table = clean(Level::L3);
        let wrote = beside_a_write(&table, |view| {
            view.relax(Ipa::new(0), PAGE, Prot::X).unwrap();
        });
        let prot = prot(&table, 0).unwrap();
        assert!(wrote && prot.contains(Prot::W | Prot::X), "{prot:?}");
    });
}

#[test]
fn a_collapse_loses_no_dirty_state() {
    explore("collapse/write by hardware", || {
        let table = clean(Level::L3);
        let wrote = beside_a_write(&table, |view| {
            view.collapse(Ipa::new(0), 2 * PAGE).unwrap();
        });
        assert_eq!(dirty(&table, 0), wrote);
        let one_block = table.handle().lookup(Ipa::new(0)).unwrap().level == Level::L2;
        assert!(one_block || !dirty(&table, PAGE), "dirt spreads within a block only");
    });
}

#[test]
fn a_split_loses_no_dirty_state() {
    explore("split/write by hardware", || {
        let table = clean(Level::L2);
        let wrote = beside_a_write(&table, |view| {
            view.split(Ipa::new(0), 2 * PAGE, Level::L3).unwrap();
        });
        assert_eq!(dirty(&table, 0), wrote);
    });
}
