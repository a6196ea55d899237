//! What the VM layer rests on beside the table: the meeting of a fault and a take-back, and of a fault and a harvest.
//!
//! The layer itself is not built for loom; its sequence, its markers and the words of its dirty log are, and here they
//! stand around a real table, as in `fault.rs`, `invalidate.rs` and `dirty/harvest.rs`.

#[path = "policy.rs"]
#[allow(dead_code)]
mod policy;
#[path = "sequence.rs"]
#[allow(dead_code)]
mod sequence;
#[path = "dirty/word.rs"]
mod word;

use crate::arch::{AccessKind, Attrs, Geometry, Ipa, Pa, Prot};
use crate::memory::model::ModelMemory;
use crate::sync::{Arc, AtomicU64, Ordering, explore, thread};
use crate::table::{Config, Handle, MapOptions, Null, Stage2};
use policy::{Gate, Near, Policy};
use sequence::Sequence;
use word::Word;

type Memory = Arc<ModelMemory>;

const PAGE: u64 = 0x1000;
const WINDOW: u64 = 2 << 20;
/// Pages of the host, before and after.
const OLD: u64 = 0x4_0000;
const NEW: u64 = 0x8_0000;

/// Two pages in a table of one level: nothing is unlinked.
fn table() -> Stage2<Memory> {
    let memory = Arc::new(ModelMemory::plenty(Pa::new(0x10_0000), 1, 2));
    Stage2::new(Config::new(Geometry::tiny(1, 1)), memory, Null).unwrap()
}

fn output(view: &Handle<'_, Memory>) -> Option<u64> {
    let hit = view.translate(Ipa::new(0), AccessKind::Read).ok()?;
    Some(hit.pa.get())
}

struct Host {
    table: Stage2<Memory>,
    gate: Gate,
    sequence: Sequence,
    /// What is behind the page.
    page: AtomicU64,
}

impl Host {
    /// A fault of a vCPU, as far as it comes.
    fn fault(&self, marker: &policy::Marker) {
        let ipa = Ipa::new(0);
        let sample = self.sequence.sample(ipa);
        if sample.in_progress() {
            return;
        }
        let page = Pa::new(self.page.load(Ordering::Relaxed));
        let view = self.table.handle().without_waiting();
        let _section = self.gate.fault(marker, ipa);
        if !self.sequence.moved(ipa, sample) {
            let _ = view.map(ipa, PAGE, page, &Attrs::new(Prot::RW), MapOptions::FAULT);
        }
    }

    /// What is mapped when it is over.
    fn take_back(&self) -> Option<u64> {
        let begun = self.sequence.begin(0, PAGE);
        let view = self.table.handle();
        {
            let _section = self.gate.change_settled(Near::new(0, PAGE, WINDOW));
            view.unmap(Ipa::new(0), PAGE).unwrap();
        }
        self.page.store(NEW, Ordering::Relaxed);
        self.sequence.end(begun);
        output(&view)
    }
}

fn a_take_back_beside_a_fault(name: &str, mapped: bool) {
    explore(name, move || {
        let host = Arc::new(Host {
            table: table(),
            gate: Gate::new(Policy::Lockless),
            sequence: Sequence::new(WINDOW),
            page: AtomicU64::new(OLD),
        });
        let marker = host.gate.register();
        if mapped {
            host.fault(&marker);
        }
        let vcpu = host.clone();
        let vcpu = thread::spawn(move || vcpu.fault(&marker));
        let then = host.take_back();
        vcpu.join().unwrap();
        let left = output(&host.table.handle());
        // Here, where little is on the stack: loom's threads have small ones, too small for a panic further in.
        assert!(then != Some(OLD), "a stale translation after the take-back");
        assert!(left != Some(OLD), "a stale translation in the end");
    });
}

#[test]
fn no_stale_translation_survives_a_take_back() {
    a_take_back_beside_a_fault("vm: take-back/fault on a hole", false);
}

#[test]
fn no_mapped_page_survives_a_take_back() {
    a_take_back_beside_a_fault("vm: take-back/fault on a page that is there", true);
}

/// A write fault makes the page writable, the guest writes, and the bit comes; beside it the log is harvested.
fn a_harvest_beside_a_write(name: &str, bits: u64) {
    explore(name, move || {
        let (table, word) = (Arc::new(table()), Arc::new(Word::new(bits)));
        let (page, read_only) = (Ipa::new(0), Attrs::new(Prot::R));
        table
            .handle()
            .map(page, PAGE, Pa::new(OLD), &read_only, MapOptions::FAULT)
            .unwrap();
        let vcpu = {
            let (table, word) = (table.clone(), word.clone());
            thread::spawn(move || {
                table.handle().relax(page, PAGE, Prot::W).unwrap();
                word.mark(1);
            })
        };
        let view = table.handle();
        let harvested = word.take(1);
        if harvested != 0 {
            view.write_protect(page, PAGE).unwrap();
        }
        vcpu.join().unwrap();
        let writable = view.translate(page, AccessKind::Write).is_ok();
        assert!(!writable || word.get() == 1, "the next write is lost");
        assert!(harvested == 1 || word.get() == 1, "the write is lost");
    });
}

#[test]
fn a_harvest_loses_no_write_to_a_clean_page() {
    a_harvest_beside_a_write("vm: harvest/write fault on a clean page", 0);
}

/// The bit is there already: of a write before, whose page was protected since.
#[test]
fn a_harvest_loses_no_write_to_a_page_whose_bit_is_set() {
    a_harvest_beside_a_write("vm: harvest/write fault on a page whose bit is set", 1);
}
