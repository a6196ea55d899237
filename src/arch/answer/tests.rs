use super::*;
use crate::arch::Attrs;
use crate::arch::{FormatOptions, Geometry, GeometryOptions};

fn format(xnx: bool) -> Format {
    let geometry = Geometry::new(GeometryOptions::default()).unwrap();
    Format::new(&geometry, FormatOptions { fwb: false, xnx })
}

fn page(format: &Format, attrs: Attrs) -> Pte {
    format.leaf(Level::L3, Pa::new(0x4000), &attrs).unwrap()
}

#[test]
fn each_access_needs_its_own_right() {
    let format = format(true);
    let none = HardwareUpdate::new(false, false);
    for bits in 0..16 {
        let prot = Prot::from_bits_truncate(bits);
        let leaf = page(&format, Attrs::new(prot));
        for (access, el, needed) in [
            (AccessKind::Read, El::El1, Prot::R),
            (AccessKind::Read, El::El0, Prot::R),
            (AccessKind::Write, El::El1, Prot::W),
            (AccessKind::Write, El::El0, Prot::W),
            (AccessKind::Execute, El::El1, Prot::PX),
            (AccessKind::Execute, El::El0, Prot::UX),
        ] {
            let wanted = if prot.contains(needed) {
                Ok(())
            } else {
                Err(FaultKind::Permission)
            };
            assert_eq!(
                format.check_access(leaf, access, el, none),
                wanted,
                "{prot} {access:?} {el:?}"
            );
        }
    }
}

#[test]
fn the_access_flag_comes_before_permissions() {
    let format = format(false);
    let old = page(
        &format,
        Attrs {
            af: false,
            ..Attrs::new(Prot::NONE)
        },
    );
    let check = |hardware| format.check_access(old, AccessKind::Read, El::El1, hardware);
    assert_eq!(check(HardwareUpdate::new(false, false)), Err(FaultKind::AccessFlag));
    assert_eq!(check(HardwareUpdate::new(true, false)), Err(FaultKind::Permission));
}

#[test]
fn dirty_state_is_for_writes_to_leaves_that_allow_it() {
    let format = format(false);
    let clean = Attrs {
        af: false,
        dbm: true,
        ..Attrs::new(Prot::R)
    };
    let (dbm, plain) = (page(&format, clean), page(&format, Attrs { dbm: false, ..clean }));
    let both = HardwareUpdate::new(false, true); // implies the access flag
    let write = |leaf, hardware| format.check_access(leaf, AccessKind::Write, El::El0, hardware);
    assert_eq!(write(dbm, both), Ok(()));
    assert_eq!(write(plain, both), Err(FaultKind::Permission));
    assert_eq!(write(dbm, HardwareUpdate::new(true, false)), Err(FaultKind::Permission));
    assert_eq!(
        write(dbm, HardwareUpdate::of_register(false, true)),
        Err(FaultKind::AccessFlag)
    );
    let after = |access| format.attrs(format.after_access(dbm, access, both));
    assert_eq!(after(AccessKind::Read), Attrs { af: true, ..clean });
    assert_eq!(
        after(AccessKind::Write),
        Attrs {
            af: true,
            prot: Prot::RW,
            ..clean
        }
    );
    assert_eq!(
        format.after_access(dbm, AccessKind::Write, HardwareUpdate::new(false, false)),
        dbm
    );
}
