//! The same questions to a table with KVM's semantics: the same bodies where the answer is the same, others where KVM's
//! habits differ.

use s2pt::arch::{Attrs, GeometryOptions, Ipa, Level, MemType, Pa, Prot, Scope, Tlbi};
use s2pt::table::{Error, MapOptions, WalkFlags};

use crate::inject::{at, fired, is_stage2_tlbi};
use crate::support::*;
use crate::{attributes, frames, peers, races, refusals, tlbi, vm};

macro_rules! as_exact {
    ($($file:ident::$name:ident,)*) => {
        /// Bodies that stand in the other files.
        mod as_exact {
            use super::*;
            $(#[test]
            fn $name() {
                under_kvm($file::$name);
            })*
        }
    };
}

as_exact! {
    frames::b01_remapping_leaks_no_frame,
    tlbi::b02_a_block_in_place_of_a_table_leaves_none_of_its_pages_cached,
    races::b07_write_protection_does_not_stop_at_an_entry_that_a_peer_holds,
    races::b09_after_a_lost_race_every_page_has_its_own_output,
    frames::b10_a_walk_does_not_enter_the_table_it_has_just_freed,
    frames::b11_an_unlinked_subtree_is_freed_down_to_its_top,
    attributes::b12_ageing_looks_at_every_page_of_an_odd_range,
    tlbi::b13_who_finds_the_right_granted_already_drops_its_own_refusal,
    tlbi::b16_no_level_hint_where_a_table_goes,
    frames::b22_taken_apart_in_pieces_each_table_is_freed_once,
    vm::b23_a_long_unmap_lets_go_on_the_way,
    attributes::b25_a_block_that_is_executable_already_is_not_invalidated_again,
    refusals::b27_an_output_beyond_the_limit_is_refused,
    refusals::b28_a_range_that_wraps_or_leaves_the_space_is_refused,
    refusals::b31_a_block_does_not_drop_the_marks_below_it,
    attributes::b32_relaxing_makes_no_device_executable,
    races::b33_frames_in_use_are_frames_reached_after_every_lost_race,
    races::b35_every_store_of_a_valid_entry_releases_what_it_points_to,
    peers::p04_an_address_above_the_space_is_no_alias_of_a_low_one,
    peers::p09_levels_are_numbered_from_the_root,
    peers::p10_no_address_and_no_size_is_rounded,
    peers::p12_a_stalled_invalidation_holds_up_its_own_range_only,
}

/// KVM passes over the entry that a peer holds; the rest of the range is done.
#[test]
fn b07_kvm_write_protection_passes_over_a_locked_entry() {
    under_kvm(|| {
        let table = table();
        map(&table.handle(), BASE, 8 * PAGE, Prot::RW, PAGES).unwrap();
        let peer = std::sync::Arc::clone(&table);
        at(is_stage2_tlbi, move || {
            let peer = peer.handle().without_waiting();
            let changed = peer.write_protect(Ipa::new(BASE), 8 * PAGE).unwrap();
            assert_eq!(changed.leaves, 7);
            for page in 0..8 {
                assert!(!writable(&peer, BASE + page * PAGE), "page {page}");
            }
        });
        table.handle().unmap(Ipa::new(BASE + 3 * PAGE), PAGE).unwrap();
        assert!(fired());
    });
}

/// A fault for a right on a hole: look again, and what this CPU has cached of it goes, at whatever level.
#[test]
fn b08_b20_kvm_relaxing_a_hole_is_again_and_hints_no_level() {
    under_kvm(|| {
        for below in [false, true] {
            let table = table();
            let view = table.handle();
            if below {
                map(&view, BASE + PAGE, PAGE, Prot::RW, PAGES).unwrap();
            }
            log(&table);
            assert!(matches!(
                view.relax(Ipa::new(BASE), PAGE, Prot::W),
                Err(Error::Again { .. })
            ));
            let (ipa, level, scope) = (Ipa::new(BASE), None, Scope::Local);
            assert_eq!(stage2_tlbis(&log(&table)), [Tlbi::Ipa { ipa, level, scope }]);
        }
    });
}

/// KVM unmaps the whole block: what it invalidates is what the block cached, wherever in it the request began.
#[test]
fn b18_kvm_an_invalidation_reaches_the_whole_broken_block() {
    under_kvm(|| {
        for range in [true, false] {
            let table = table_with(GeometryOptions::default(), |config| config.tlbi_range = range);
            let view = table.handle();
            map(&view, BASE, BLOCK, Prot::RW, REPLACE).unwrap();
            log(&table);
            assert_eq!(view.unmap(Ipa::new(BASE + 77 * PAGE), PAGE), Ok(BLOCK));
            let tlbis = stage2_tlbis(&log(&table));
            assert!(tlbis.iter().any(|&tlbi| drops(tlbi, BASE, Level::L2)), "{tlbis:?}");
            // A block over a table, at a fault in its middle: the request is aligned down before.
            map(&view, BASE + 77 * PAGE, PAGE, Prot::RW, PAGES).unwrap();
            log(&table);
            let options = MapOptions {
                flags: WalkFlags::FAULT,
                ..REPLACE
            };
            map(&view, BASE, BLOCK, Prot::RW, options).unwrap();
            let tlbis = stage2_tlbis(&log(&table));
            for ipa in [BASE, BASE + 77 * PAGE, BASE + BLOCK - PAGE] {
                let found = |&tlbi: &Tlbi| hint(tlbi).is_none() && drops(tlbi, ipa, Level::L3);
                assert!(tlbis.iter().any(found), "{ipa:#x}: {tlbis:?}");
            }
        }
    });
}

#[test]
fn b29_kvm_a_block_that_is_split_keeps_its_memory_type() {
    under_kvm(|| {
        for memtype in [MemType::DeviceNGnRE, MemType::NormalNc, MemType::Normal] {
            let table = table();
            let view = table.handle();
            let attrs = Attrs {
                memtype,
                software: 5,
                ..Attrs::new(Prot::RW)
            };
            view.map(Ipa::new(BASE), BLOCK, Pa::new(BASE), &attrs, REPLACE).unwrap();
            view.split(Ipa::new(BASE), BLOCK, Level::L3).unwrap();
            let leaves: Vec<_> = view.leaves(Ipa::new(BASE), BLOCK).unwrap().collect();
            assert_eq!(leaves.len(), 512);
            for leaf in leaves {
                assert_eq!((leaf.attrs.memtype, leaf.attrs.software), (memtype, 5), "{leaf:?}");
                assert_eq!(leaf.pa.get(), leaf.ipa.get());
            }
        }
    });
}
