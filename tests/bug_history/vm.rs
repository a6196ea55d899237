//! Between a fault and the table: the fault handler, the host's changes, long operations.

use s2pt::arch::{AccessKind, Attrs, Ipa, Level, Pa, Prot, Tlbi};
use s2pt::memory::{Arena, TableMemory};
use s2pt::table::{Event, Recording};
use s2pt::vm::{Backing, DirtyLogMode, Handled, HostPage, Outcome, Policy, Retry, Slot, Vm, VmOptions};

use crate::support::*;

const HOST: u64 = 16 * GIB;

fn vm(policy: Policy, size: u64) -> Vm<Arena, Recording> {
    let vm_options = VmOptions {
        policy,
        backing: Backing::Thp,
        ..VmOptions::default()
    };
    let vm = vm_options.build(Recording::new(1 << 16)).unwrap();
    vm.create_slot(Slot::linear(0, Ipa::new(4 * GIB), size, Pa::new(HOST)))
        .unwrap();
    vm
}

/// The fault is on a block, a page is wanted: if the block were only relaxed, or left, the write would fault for ever.
#[test]
pub fn b03_a_write_fault_on_a_block_under_logging_is_settled_by_one_fault() {
    for policy in Policy::ALL {
        for mode in [DirtyLogMode::Auto, DirtyLogMode::Manual] {
            let vm = vm(policy, BLOCK);
            let mut vcpu = vm.vcpu();
            let ipa = |page: u64| Ipa::new(4 * GIB + page * PAGE);
            assert_eq!(vcpu.access(ipa(0), AccessKind::Write).unwrap().level, Level::L2);
            vm.enable_dirty_log(0, mode).unwrap();
            let fault = vcpu.translate(ipa(7), AccessKind::Write).unwrap_err();
            assert_eq!(fault.level, Level::L2);
            assert_eq!(vcpu.handle_fault(&fault), Ok(Outcome::Handled(Handled::Split)));
            assert_eq!(vcpu.translate(ipa(7), AccessKind::Write).unwrap().level, Level::L3);
            assert!(vcpu.translate(ipa(6), AccessKind::Write).is_err(), "and only that page");
            assert!(vcpu.translate(ipa(6), AccessKind::Read).is_ok());
            assert_eq!(vm.dirty_log(0).unwrap()[0], 1 << 7);
        }
    }
}

/// A section that excludes faults concerns one gigabyte at most: each of them ends with an invalidation of what it did.
#[test]
pub fn b05_a_long_change_excludes_faults_for_a_block_at_a_time() {
    for policy in Policy::ALL {
        let vm = vm(policy, 5 * GIB);
        vm.write_protect(Ipa::new(4 * GIB + PAGE), 4 * GIB).unwrap();
        let spans = vm
            .stage2()
            .tlb()
            .take()
            .into_iter()
            .filter_map(|record| match record.event {
                Event::Tlbi(Tlbi::Range { ipa, pages, .. }) => Some((ipa.get(), pages * PAGE)),
                Event::Tlbi(Tlbi::Ipa { ipa, .. }) => Some((ipa.get(), PAGE)),
                _ => None,
            });
        let spans: Vec<_> = spans.collect();
        assert_eq!(spans.len(), 5);
        for (start, size) in &spans {
            assert!(
                *size <= GIB && start / GIB == (start + size - 1) / GIB,
                "{start:#x} {size:#x}"
            );
        }
        assert_eq!(spans.iter().map(|(_, size)| size).sum::<u64>(), 4 * GIB);
    }
}

/// The host's page is asked for outside of every lock. If the host takes it back meanwhile, it must not be mapped.
#[test]
pub fn b06_a_page_that_the_host_took_back_during_the_lookup_is_not_mapped() {
    for policy in Policy::ALL {
        let vm = vm(policy, BLOCK);
        let mut vcpu = vm.vcpu();
        let ipa = Ipa::new(4 * GIB + 3 * PAGE);
        let fault = vcpu.translate(ipa, AccessKind::Write).unwrap_err();
        let outcome = vcpu.handle_fault_with(&fault, |_, ipa, _| {
            let old = HostPage::new(Pa::new(HOST), PAGE);
            vm.take_back(ipa, PAGE).unwrap();
            Ok(old)
        });
        assert_eq!(outcome, Ok(Outcome::Again(Retry::Invalidated)), "{policy:?}");
        assert!(vcpu.translate(ipa, AccessKind::Read).is_err());
        let new = Pa::new(HOST + GIB);
        let outcome = vcpu.handle_fault_with(&fault, |_, _, _| Ok(HostPage::new(new, PAGE)));
        assert_eq!(outcome, Ok(Outcome::Handled(Handled::Mapped { level: Level::L3 })));
        assert_eq!(vcpu.translate(ipa, AccessKind::Write).unwrap().pa, new);
    }
}

/// A long walk leaves the table now and then: frames that it retired early are free before it ends, and so are those of
/// others who wait for it.
#[test]
pub fn b23_a_long_unmap_lets_go_on_the_way() {
    let table = table();
    let view = table.handle();
    let tables = 3 * 512;
    for n in 0..tables {
        let attrs = Attrs::new(Prot::RW);
        view.map(Ipa::new(GIB + n * BLOCK + PAGE), PAGE, Pa::new(0), &attrs, PAGES)
            .unwrap();
    }
    log(&table);
    // Page by page from the second one of each table, so that no table goes whole.
    view.unmap(Ipa::new(GIB + PAGE), tables * BLOCK - 2 * PAGE).unwrap();
    let log = log(&table);
    let last_break = log
        .iter()
        .rposition(|event| matches!(event, Event::Store { new, .. } if new.is_locked()));
    let first_free = log.iter().position(|event| matches!(event, Event::Free { .. }));
    assert!(
        first_free.expect("some are free") < last_break.unwrap(),
        "all waited for the end"
    );
    audit(&table);
    assert_eq!(table.memory().frames_in_use(), root_frames(&table));
}
