//! The same with KVM's semantics, whose blocks go whole.

use crate::chance::Random;
use crate::soft_tlb::SoftTlb;
use crate::support::{Ground, LINE, geometry, rounds};
use s2pt::arch::{Attrs, Granule, Ipa, Level, Pa, Prot};
use s2pt::memory::{Arena, ArenaOptions, TableMemory};
use s2pt::table::{Config, Error, MapOptions, Stage2};

/// KVM's semantics under the same judge: blocks go whole, so nobody owns a page; what must hold is that no CPU keeps what the
/// table no longer says, that every leaf maps its own memory, and that every frame is accounted for.
fn as_kvm(one_tlbi: bool, seed: u64) {
    let geometry = geometry(Granule::K4, 36);
    let sink = SoftTlb::new(geometry.granule().size());
    let arena = Arena::new(ArenaOptions {
        capacity_frames: 4096,
        ..ArenaOptions::default()
    })
    .unwrap();
    let config = Config {
        fwb: one_tlbi,
        tlbi_range: one_tlbi,
        ..Config::kvm(geometry)
    };
    let table = Stage2::new(config, arena, sink).unwrap();
    let ground = Ground::new(&geometry);
    let pages = ground.size / ground.page;
    let range = |random: &mut Random| {
        let most = random.pick(&[1, 3, 512, 1500]);
        let (first, count) = (random.below(pages), 1 + random.below(most));
        let (first, count) = if random.below(3) == 0 {
            (first / 512 * 512, count.next_multiple_of(512))
        } else {
            (first, count)
        };
        let first = first.min(pages - count.min(pages));
        (
            Ipa::new(ground.start + first * ground.page),
            count.min(pages - first) * ground.page,
        )
    };
    rounds(
        &table,
        12,
        |me| Random(seed << 8 | me as u64),
        |view, random| {
            for _ in 0..60 {
                let (ipa, size) = range(random);
                let pa = Pa::new(ipa.get() + LINE);
                let fault = random.below(2) == 0;
                let vcpu = if fault {
                    view.without_waiting()
                } else {
                    view.with_frames(usize::MAX)
                };
                let done = match random.below(12) {
                    0..=4 => {
                        let prot = random.pick(&[Prot::R, Prot::RW, Prot::RWX]);
                        let software = random.below(2) as u8;
                        let attrs = Attrs {
                            software,
                            ..Attrs::new(prot)
                        };
                        let options = if fault {
                            MapOptions::KVM_FAULT
                        } else {
                            MapOptions::default()
                        };
                        vcpu.map(ipa, size, pa, &attrs, options).map(drop)
                    }
                    5..=7 => vcpu.unmap(ipa, size).map(drop),
                    8 => vcpu.relax(ipa, ground.page, Prot::RW).map(drop),
                    9 => vcpu.split(ipa, size, Level::L3).map(drop),
                    10 => vcpu.write_protect(ipa, size).and_then(|_| vcpu.flush_tlb(ipa, size)),
                    _ => vcpu.annotate(ipa, ground.page, random.below(2)),
                };
                assert!(
                    matches!(done, Ok(()) | Err(Error::Again { .. } | Error::Conflict { .. })),
                    "{done:?}"
                );
                table.tlb().access(view, ipa.get());
            }
        },
        |view, _| {
            for leaf in view.leaves(Ipa::new(0), geometry.ipa_limit()).unwrap() {
                assert_eq!(leaf.pa.get(), leaf.ipa.get() + LINE);
            }
        },
    );
    let rest = table.handle();
    rest.unmap(Ipa::new(0), geometry.ipa_limit()).unwrap();
    rest.drain();
    assert_eq!(rest.stats().table_frames(), u64::from(geometry.root_frames()));
    assert_eq!(table.memory().frames_in_use() as u64, rest.stats().table_frames());
}

#[test]
fn kvm_semantics_leaf_by_leaf() {
    as_kvm(false, 1);
}

#[test]
fn kvm_semantics_with_one_tlbi() {
    as_kvm(true, 2);
}
