use super::*;
use crate::arch::GeometryOptions;

#[test]
fn four_k_leaves_as_kvm_writes_them() {
    let g = Geometry::new(GeometryOptions::default()).unwrap();
    let f = Format::new(&g, FormatOptions::default());
    let pa = Pa::new(0x4000_0000);
    let raw = |level, attrs: &Attrs| f.leaf(level, pa, attrs).unwrap().raw();
    assert_eq!(raw(Level::L3, &Attrs::new(Prot::RW)), 0x0040_0000_4000_07ff);
    assert_eq!(raw(Level::L2, &Attrs::new(Prot::RW)), 0x0040_0000_4000_07fd);
    assert_eq!(raw(Level::L2, &Attrs::new(Prot::RWX)), 0x0000_0000_4000_07fd);
    assert_eq!(raw(Level::L3, &Attrs::new(Prot::R)), 0x0040_0000_4000_077f);
    let device = Attrs {
        memtype: MemType::DeviceNGnRE,
        ..Attrs::new(Prot::RW)
    };
    assert_eq!(raw(Level::L3, &device), 0x0040_0000_4000_07c7);
}
