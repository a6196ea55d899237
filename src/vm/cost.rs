//! The costs that can be set for a run, in one place.

use crate::table::{Cost, Stall};

/// What steps cost on the machine that is simulated, beside what they take here. By default nothing.
///
/// Each is paid by whoever does the step, and as often as the step is done: TLBIs, cache operations and frames by the table's
/// sink ([`stall`](Self::stall)), exits by the VM ([`VmConfig::exit_cost`](super::VmConfig::exit_cost)), copies by who copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// A stage-2 TLBI, for the core that issues it.
    pub tlbi: Cost,
    /// Leaving the guest for a fault, and coming back.
    pub exit: Cost,
    /// Copying a page of guest memory.
    pub copy: Cost,
    /// A cache operation, for each 4 KiB of it.
    pub cache: Cost,
    /// Taking a table frame.
    pub allocation: Cost,
}

impl Costs {
    /// The sink that makes a table's maintenance pay.
    pub const fn stall(&self) -> Stall {
        Stall {
            tlbi: self.tlbi,
            cache: self.cache,
            allocation: self.allocation,
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::arch::{AccessKind, Ipa, Pa};
    use crate::machine::{Machine, MachineOptions};
    use crate::memory::Arena;
    use crate::sync::Arc;
    use crate::table::paid::times;
    use crate::table::{Counting, StallKind};
    use crate::vm::workload::{Control, DirtyLog, Load, LogKind, Migrate};
    use crate::vm::{Backing, Policy, Slot, Vm, VmOptions};

    const PAGE: u64 = 4096;
    const BLOCK: u64 = 2 << 20;

    /// Costs that no other test has: all of `base` nanoseconds and a few more.
    fn costs(base: u64) -> Costs {
        let cost = |ns, kind| Cost::new(Duration::from_nanos(ns), kind);
        Costs {
            tlbi: cost(base + 1, StallKind::Sleep),
            exit: cost(base + 2, StallKind::Spin),
            copy: cost(base + 3, StallKind::Spin),
            cache: cost(base + 4, StallKind::Spin),
            allocation: cost(base + 5, StallKind::Sleep),
        }
    }

    /// How often each was paid: TLBI, exit, copy, cache, allocation.
    fn paid(costs: &Costs) -> [u64; 5] {
        [costs.tlbi, costs.exit, costs.copy, costs.cache, costs.allocation].map(times)
    }

    fn vm(costs: &Costs, policy: Policy, backing: Backing, size: u64) -> Vm<Arena, (Counting, Stall)> {
        let vm_options = VmOptions {
            policy,
            backing,
            exit_cost: costs.exit,
            ..VmOptions::default()
        };
        let vm = vm_options.build((Counting::new(), costs.stall())).unwrap();
        vm.create_slot(Slot::linear(0, Ipa::new(BLOCK), size, Pa::new(BLOCK)))
            .unwrap();
        vm
    }

    #[test]
    fn each_step_is_paid_once() {
        let costs = costs(1_100);
        let vm = vm(&costs, Policy::Lockless, Backing::Pages, BLOCK);
        let [_, _, _, _, roots] = paid(&costs);
        assert_eq!(roots, 1, "the root is taken at once, all of its frames");
        let mut vcpu = vm.vcpu();
        let mut write = |page: u64| vcpu.access(Ipa::new(BLOCK + page * PAGE), AccessKind::Write).unwrap();
        for page in 0..10 {
            write(page);
        }
        // Ten faults, ten pages to clean, tables of two levels; nothing was mapped, so nothing to invalidate.
        assert_eq!(paid(&costs), [0, 10, 0, 10, roots + 2]);
        for page in 0..10 {
            write(page); // no fault, no cost
        }
        assert_eq!(paid(&costs), [0, 10, 0, 10, roots + 2]);
        vm.take_back(Ipa::new(BLOCK), 3 * PAGE).unwrap();
        let tlbis = vm.stage2().tlb().0.counts().tlbi();
        assert!(tlbis > 0);
        assert_eq!(paid(&costs), [tlbis, 10, 0, 10, roots + 2]);
    }

    #[test]
    fn a_block_is_cleaned_page_by_page() {
        let costs = costs(1_200);
        let vm = vm(&costs, Policy::Lockless, Backing::Thp, BLOCK);
        let roots = times(costs.allocation);
        vm.vcpu().access(Ipa::new(BLOCK), AccessKind::Write).unwrap();
        assert_eq!(paid(&costs), [0, 1, 0, BLOCK / PAGE, roots + 1]);
    }

    /// Several threads, each policy: what was paid is what was counted.
    #[test]
    fn a_dirty_log_run_pays_for_what_it_counts() {
        for (policy, base) in Policy::ALL.into_iter().zip([2_100, 2_200, 2_300]) {
            let costs = costs(base);
            let vm = vm(&costs, policy, Backing::Thp, 2 * BLOCK);
            let job = DirtyLog {
                load: Load {
                    vcpus: 2,
                    bytes_per_vcpu: BLOCK,
                    ..Load::default()
                },
                ..DirtyLog::default()
            };
            let report = job.run(&vm, 0, &Control::new()).unwrap();
            let counts = vm.stage2().tlb().0.counts();
            let [tlbis, exits, copies, cleaned, frames] = paid(&costs);
            assert_eq!((tlbis, copies), (counts.tlbi(), 0), "{policy:?}");
            assert!(
                tlbis >= 2 * BLOCK / PAGE,
                "{policy:?}: each page's write protection goes at least once"
            );
            assert_eq!(
                (exits, frames),
                (report.counters().total(), counts.allocated),
                "{policy:?}"
            );
            assert!(cleaned >= 2 * BLOCK / PAGE, "{policy:?}: each block once");
        }
    }

    #[test]
    fn a_migration_pays_for_each_page_that_it_copies() {
        for (kind, base) in [(LogKind::Lazy, 3_100), (LogKind::Ring, 3_200)] {
            let costs = costs(base);
            let machine = Machine::new(MachineOptions {
                cpus: 2,
                ram: Some((Pa::new(BLOCK), BLOCK)),
                ..MachineOptions::default()
            })
            .unwrap();
            let port = machine.port();
            let vm_options = VmOptions {
                exit_cost: costs.exit,
                dirty_ring: if kind == LogKind::Ring { 64 } else { 0 },
                ..VmOptions::default()
            };
            let sink = (port.clone(), (Arc::new(Counting::new()), costs.stall()));
            let counting = Arc::clone(&sink.1.0);
            let vm = Arc::new(vm_options.build(sink).unwrap());
            port.attach(&vm);
            machine.load(&port);
            vm.create_slot(Slot::linear(0, Ipa::new(BLOCK), BLOCK, Pa::new(BLOCK)))
                .unwrap();
            let job = Migrate {
                log: kind.options(false, BLOCK),
                copy: costs.copy,
                warm_up: Duration::from_millis(1),
                rounds: 3,
                ..Migrate::default()
            };
            let report = job.run(&vm, 0, &machine, &Control::new()).unwrap();
            assert_eq!(report.lost_bytes, Some(0));
            let [tlbis, exits, copies, _, frames] = paid(&costs);
            assert!(copies >= BLOCK / PAGE);
            assert_eq!(
                (copies, exits),
                (report.pages_sent, report.counters.total()),
                "{kind:?}"
            );
            let counts = counting.counts();
            assert_eq!((tlbis, frames), (counts.tlbi(), counts.allocated), "{kind:?}");
        }
    }

    #[test]
    fn a_cost_of_no_time_is_none() {
        for kind in [StallKind::Sleep, StallKind::Spin] {
            assert_eq!(Cost::new(Duration::ZERO, kind), Cost::None);
        }
        assert!(Costs::default().stall().is_none());
        Cost::new(Duration::from_nanos(4_001), StallKind::Spin).pay_for(0);
        assert_eq!(times(Cost::new(Duration::from_nanos(4_001), StallKind::Spin)), 0);
    }
}
